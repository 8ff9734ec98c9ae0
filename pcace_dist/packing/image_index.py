"""A list of images that stay where they are, as one Parquet file: what a run reads of a folder of images or of a CSV.

A row names a file with its size and version (datasets/values/image_files.py), its class and, of a CSV, the other
columns. The list is named by its content. A run writes it once and reads it from then on, so that what the folder gets
later makes no difference. No image is read here.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pcace_dist.datasets.paths import Skipped, in_order, key_below, utf8_name
from pcace_dist.datasets.values.class_label import METADATA
from pcace_dist.datasets.values.image_files import IMAGE, IMAGE_FILE, file_url, root_of
from pcace_dist.errors import DatasetError
from pcace_dist.packing.class_names import ClassNames
from pcace_dist.packing.open_source import open_source
from pcace_dist.packing.source import Request, Source
from pcace_dist.packing.sources.csv import CsvSlice
from pcace_dist.packing.sources.folder import FolderSlice
from pcace_dist.progress.terminal import is_not_utf8
from pcace_dist.storage.files import Storage, StoredFile, first_line, split

PATH = "path"  # the column with a file's path alone
GROUP_BYTES = 32 << 20  # of images in a row group, about: they are read together
GROUP_ROWS = 1000


@dataclass(frozen=True)
class ImageIndex:
    """The list: the bytes of its Parquet file, and the file's name. id: a column that names each row, if there is one.
    What is left out, and remarks."""

    data: bytes
    name: str
    id: str | None
    left_out: tuple[Skipped, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Listed:
    """A row per file: its path, the file (None: there is none), and the other columns."""

    paths: Sequence[str]
    files: Sequence[StoredFile | None]
    columns: pa.Table


def index_images(path: str, storage: Storage, image: str = IMAGE, classes: ClassNames | None = None) -> ImageIndex:
    """List the images of a folder, of a glob, or of a CSV with paths in the column `image`. Paths are below `root_of`.

    classes: numbers the folders of classes. Raises DatasetError, one line.
    """
    try:
        source = open_source(Request(path, storage, image, classes))
        listed = _of_csv(source, storage, image) if source.kind == "csv" else _of_folder(source, root_of(path))
    except OSError as error:
        raise DatasetError(f"dataset.path: {first_line(error)}") from None
    except DatasetError as error:
        reason = str(error).replace("--image-column", "dataset.image")
        packs = f" (an option of `pcace pack {path} DEST`)" if "--" in reason else ""
        raise DatasetError(f"dataset.path: {reason}{packs}") from None
    faults = {row: fault for row, fault in enumerate(map(_fault, listed.paths, listed.files)) if fault is not None}
    left_out = tuple(Skipped(listed.paths[row] or f"row {row}", fault) for row, fault in faults.items())
    good = [row for row in range(len(listed.paths)) if row not in faults]
    if not good:
        raise DatasetError(f"dataset.path: {path} names no image that can be read; the first: {left_out[0]}")
    table = _table(listed, source.classes).take(pa.array(good))
    names = PATH if PATH in table.column_names else image
    unique = len(table[names].unique()) == len(table)
    return ImageIndex(
        data=_parquet(table),
        name=f"{_digest(table)}.parquet",
        id=names if unique else None,
        left_out=(*source.left_out, *left_out),
        notes=source.notes,
    )


def _digest(table: pa.Table) -> str:
    """By what the table holds, not by how a version of pyarrow writes it to Parquet."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table.combine_chunks())
    return hashlib.blake2b(sink.getvalue(), digest_size=16).hexdigest()


def _of_folder(source: Source, root: str) -> _Listed:
    items = source.slice(0, len(source.sizes))
    assert isinstance(items, FolderSlice)
    files = [StoredFile(url, *stamp[1:]) for (_, url, _), stamp in zip(items.files, source.identity, strict=True)]
    paths = [utf8_name(key_below(file.url, root)) for file in files]
    labels = {"label": pa.array([label for _, _, label in items.files], pa.int64())} if items.labelled else {}
    return _Listed(paths, files, pa.table({PATH: paths} | labels))


def _of_csv(source: Source, storage: Storage, image: str) -> _Listed:
    items = source.slice(0, len(source.sizes))
    assert isinstance(items, CsvSlice)
    paths = [path or "" for path in items.table[image].to_pylist()]

    def look(path: str) -> StoredFile | None:
        return None if not path or "\0" in path else storage.stat(file_url(path, items.folder))

    names = [PATH if name == IMAGE else name for name in items.table.column_names]
    return _Listed(paths, list(in_order(look, paths, storage)), items.table.rename_columns(names))


def _fault(path: str, file: StoredFile | None) -> str | None:
    """Why a row is left out."""
    if file is None:
        return "no such file" if path else "names no image"
    if is_not_utf8(file.url):
        return "its name is not UTF-8; `pcace pack` takes it"
    scheme, place = split(file.url)
    return "may not be read" if scheme == "file" and not os.access(place, os.R_OK) else None


def _table(listed: _Listed, classes: ClassNames | None) -> pa.Table:
    """The columns: the file first, then the others, and those of the classes, by label."""
    rows = zip(listed.paths, listed.files, strict=True)
    images = [file and {"path": path, "size": file.size, "version": file.version} for path, file in rows]
    table = listed.columns.add_column(0, pa.field(IMAGE, IMAGE_FILE), pa.array(images, IMAGE_FILE))
    if classes is None:
        return table
    labels = table["label"].to_pylist()
    for name, values in classes.columns().items():
        named = [None if label is None else values[label] for label in labels]
        table = table.append_column(pa.field(name, pa.string()), pa.array(named, pa.string()))
    feature = {"label": {"_type": "ClassLabel", "names": list(classes.names)}}
    return table.replace_schema_metadata({METADATA: json.dumps({"info": {"features": feature}})})


def _parquet(table: pa.Table) -> bytes:
    """A Parquet file whose row groups hold some megabytes of images each."""
    buffer = io.BytesIO()
    sizes = pc.struct_field(table[IMAGE], "size").to_pylist()
    with pq.ParquetWriter(buffer, table.schema, compression="ZSTD", write_page_checksum=True) as writer:
        for start, stop in _groups(sizes):
            writer.write_table(table.slice(start, stop - start), row_group_size=stop - start)
    return buffer.getvalue()


def _groups(sizes: Sequence[int]) -> Iterator[tuple[int, int]]:
    """First row, and the row after the last, of each row group."""
    start, held = 0, 0
    for row, size in enumerate(sizes):
        if row > start and (held + size > GROUP_BYTES or row - start == GROUP_ROWS):
            yield start, row
            start, held = row, 0
        held += size
    yield start, len(sizes)
