"""What can be packed: image folders, CSV files, MNIST's idx files, WebDataset tars (Parquet: parquet_source.py).

Each function makes a `Source` from a listing, and a portion class that reads a range of its items. Knows nothing of
shards. A source for another format is one more of both, and one more line in `open_source`.
"""

from __future__ import annotations

import difflib
import gzip
import io
import itertools
import json
import os
import statistics
import tarfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
from PIL import Image

from pcace_dist.datasets.class_names import ClassNames, find_class_names, is_synset, of_folders
from pcace_dist.datasets.idx import read_idx
from pcace_dist.datasets.listing import GLOB, find_files
from pcace_dist.datasets.listing import SUFFIXES as PARQUET_SUFFIXES
from pcace_dist.datasets.parquet_source import parquet_source
from pcace_dist.datasets.pieces import (
    IMAGE_SUFFIXES,
    IMAGE_TYPE,
    Fault,
    Row,
    Source,
    identity_of,
    in_order,
    is_hidden,
    key_below,
    parent_of,
    read_image,
)
from pcace_dist.datasets.storage import Storage, StoredFile, first_line, split
from pcace_dist.errors import DatasetError, JobError

KINDS = ("folder", "csv", "mnist", "webdataset", "parquet")
TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz")
IMAGES = "-images-idx3-ubyte"
LABELS = "-labels-idx1-ubyte"
SPLITS = {"train", "val", "valid", "validation", "test", "dev"}
PEEKED = 256  # samples of a tar that are looked at to find its columns
SIZED = 64  # images of a CSV file whose sizes are looked up, to know how many make a shard
IMAGE_BYTES = 100_000  # where no size can be looked up


def open_source(
    source: str,
    storage: Storage,
    *,
    kind: str | None = None,
    image_column: str = "image",
    classes: ClassNames | None = None,
) -> Source:
    """The source at a path, URL or glob; its kind is found from what is there. Raises DatasetError, one line."""
    if kind is not None and kind not in KINDS:
        raise DatasetError(f"kind {kind!r} is not one of {', '.join(KINDS)}")
    try:
        file = storage.stat(source)
        root, files = (source, [file]) if file is not None else _listed(source, storage)
        if not files:
            raise DatasetError(f"{source}: no such file, or an empty folder")
        kind = kind or _detect(source, file, files)
        if kind == "folder":
            return folder_source(files, root, storage, classes)
        if kind == "csv":
            opened = csv_source(files, source, storage, image_column)
        elif kind == "mnist":
            opened = idx_source(files, source, storage)
        elif kind == "webdataset":
            opened = webdataset_source(files, root, storage, classes)
        else:
            opened = parquet_source(files, root, storage, image_column)
        return opened if classes is None or opened.classes is not None else _named(opened, classes, source)
    except OSError as error:
        raise DatasetError(first_line(error)) from None


def _listed(source: str, storage: Storage) -> tuple[str, list[StoredFile]]:
    """The folder that keys are relative to, and the files of a folder or a glob (`hf/data/train-*.parquet`)."""
    if not GLOB.search(source) or (split(source)[0] == "file" and os.path.isdir(split(source)[1])):
        return source, [f for f in storage.list(source) if not is_hidden(key_below(f.url, source))]
    try:
        files = list(find_files((source,), storage).values())
    except DatasetError as error:
        raise DatasetError(str(error).removeprefix("dataset.path: ")) from None
    begin = os.path.commonprefix([f.url for f in files])  # noqa: RUF071 - of URLs too; parent_of cuts at a slash
    return parent_of(begin), files


def _named(opened: Source, classes: ClassNames, source: str) -> Source:
    """The source with its class columns, by the index in `label`."""
    if "label" not in opened.schema.names or not pa.types.is_integer(opened.schema.field("label").type):
        raise DatasetError(f"{source}: --classes needs a column 'label' with class indices; there is none")
    for name in classes.columns():
        if name in opened.schema.names:
            raise DatasetError(f"{source}: has a column {name!r} already; leave --classes out, or rename it")
    return replace(opened, schema=pa.schema([*opened.schema, *classes.fields()]), classes=classes)


# -- image folders


def folder_source(files: list[StoredFile], source: str, storage: Storage, classes: ClassNames | None = None) -> Source:
    """Images of a folder: class = folder below it, label = the class's place among the sorted ones.

    With a list of classes (given, or ImageNet's own found beside or above folders named by WordNet ids) the label is
    the place in that list: a part of ImageNet keeps the indices that networks know.
    """
    images = [f for f in files if f.url.lower().endswith(IMAGE_SUFFIXES)]
    if not images:
        raise DatasetError(f"{source}: holds no image ({', '.join(IMAGE_SUFFIXES)})")
    keys = [key_below(f.url, source) for f in images]
    folders = sorted({key.partition("/")[0] for key in keys if "/" in key})
    notes: list[str] = []
    if folders:
        classes = classes or _found_classes(folders, source, storage, notes) or of_folders(folders)
        if classes.origin is None:
            notes += _doubts(folders, source)
    elif classes is not None:
        raise DatasetError(f"{source}: --classes needs a folder for each class; the images lie in none")
    labels = _labels(folders, classes, source) if classes else {}
    fields = [pa.field("image", IMAGE_TYPE)]
    fields += [pa.field("label", pa.int64()), *classes.fields()] if classes else []
    entries = tuple(
        (key, file.url, labels.get(key.partition("/")[0] if "/" in key else None))
        for key, file in zip(keys, images, strict=True)
    )
    return Source(
        "folder",
        pa.schema(fields),
        identity_of(images, source),
        [f.size for f in images],
        lambda start, stop: FolderPortion(entries[start:stop], bool(folders)),
        classes=classes,
        notes=tuple(notes),
    )


@dataclass(frozen=True)
class FolderPortion:
    """Image files: key, URL, class index (None: beside the class folders)."""

    files: tuple[tuple[str, str, int | None], ...]
    labelled: bool

    def rows(self, storage: Storage) -> Iterator[Row | Fault]:
        def row(file: tuple[str, str, int | None]) -> Row | Fault:
            key, url, label = file
            if self.labelled and label is None:
                return Fault(key, "lies beside the class folders, not in one")
            return read_image(storage, url, key, {"label": label} if self.labelled else {})

        return in_order(row, self.files, storage)


def _found_classes(folders: list[str], source: str, storage: Storage, notes: list[str]) -> ClassNames | None:
    if not all(map(is_synset, folders)):
        return None
    parents = [parent_of(source)]
    for _ in range(3):
        if parents[-1].count("/") <= (3 if "://" in parents[-1] else 1):
            break
        parents.append(parent_of(parents[-1]))
    found = find_class_names(source, storage, parents)
    if found is not None:
        notes.append(f"class names and indices are those of {found.origin}")
    return found


def _doubts(folders: list[str], source: str) -> list[str]:
    """What may be meant otherwise."""
    if all(map(is_synset, folders)) and len(folders) != 1000:
        return [
            f"labels number the {len(folders)} folders; for ImageNet's own 1,000 indices name its list of classes "
            "with --classes LOC_synset_mapping.txt"
        ]
    if set(folders) <= SPLITS:
        return [f"the classes are {', '.join(folders)}; for one of these alone name {source.rstrip('/')}/{folders[0]}"]
    return []


def _labels(folders: list[str], classes: ClassNames, source: str) -> dict[str | None, int]:
    """Class index of each folder."""
    places: dict[str, int] = {}
    for index, key in enumerate(classes.keys):
        places.setdefault(key, index)
    for folder in folders:
        if folder not in places:
            raise DatasetError(
                f"{source}: the folder {folder!r} is no class of {classes.origin}; name the list that has it with "
                "--classes"
            )
        if classes.keys.count(folder) > 1:
            raise DatasetError(f"--classes {classes.origin}: {folder!r} stands there more than once")
    return {folder: places[folder] for folder in folders}


# -- CSV


def csv_source(files: list[StoredFile], source: str, storage: Storage, image_column: str) -> Source:
    """Rows of a CSV file: a column of image paths (from the CSV's folder, or URLs), and the others with their types."""
    if not _is_named(files, source):
        raise DatasetError(f"{source}: is a folder; name the CSV file")
    data = storage.read_bytes(source)
    if data.startswith(b"\x1f\x8b"):
        data = gzip.decompress(data)
    try:
        table = pacsv.read_csv(io.BytesIO(data), convert_options=pacsv.ConvertOptions(strings_can_be_null=True))
    except pa.ArrowException as error:
        raise DatasetError(f"{source}: not a readable CSV file ({first_line(error)})") from None
    names = table.column_names
    if image_column not in names:
        near = difflib.get_close_matches(image_column, names, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(map(repr, names))}"
        raise DatasetError(f"{source}: no column {image_column!r} with the image paths; {hint}")
    if image_column != "image" and "image" in names:
        raise DatasetError(f"{source}: the column 'image' is in the way of the packed images; rename it")
    for name in names:
        if names.count(name) > 1:
            raise DatasetError(f"{source}: more than one column {name!r}")
    folder = parent_of(source)
    others = [table.schema.field(name) for name in names if name != image_column]
    size = _usual_size(table[image_column], folder, storage)
    return Source(
        "csv",
        pa.schema([pa.field("image", IMAGE_TYPE), *others]),
        identity_of(files, source),
        [size] * table.num_rows,
        lambda start, stop: CsvPortion(table.take(pa.array(range(start, stop))), image_column, source, folder, start),
    )


@dataclass(frozen=True)
class CsvPortion:
    """Rows of a CSV file from row `first`."""

    table: pa.Table
    image_column: str
    source: str
    folder: str
    first: int

    def rows(self, storage: Storage) -> Iterator[Row | Fault]:
        def row(numbered: tuple[int, dict[str, Any]]) -> Row | Fault:
            number, values = numbered
            path = values.pop(self.image_column)
            if path is None or str(path) == "":
                return Fault(f"{self.source} row {number}", "names no image")
            return read_image(storage, _image_url(str(path), self.folder), str(path), values)

        return in_order(row, enumerate(self._values(), self.first), storage)

    def _values(self) -> Iterator[dict[str, Any]]:
        for batch in self.table.to_batches(max_chunksize=1024):
            yield from batch.to_pylist()


def _image_url(path: str, folder: str) -> str:
    return path if "://" in path or path.startswith("/") else f"{folder}/{path}"


def _usual_size(paths: pa.ChunkedArray, folder: str, storage: Storage) -> int:
    """Mean size of some of the images, evenly spread: a listing of them all may be impossible or take hours."""
    step = max(1, len(paths) // SIZED)
    names = [str(path) for path in paths[::step].to_pylist() if path not in (None, "")]

    def size(name: str) -> int:
        try:
            found = storage.stat(_image_url(name, folder))
        except (OSError, JobError):
            return 0
        return found.size if found else 0

    sizes = [found for found in in_order(size, names, storage) if found]
    return max(1, int(statistics.fmean(sizes))) if sizes else IMAGE_BYTES


# -- MNIST


def idx_source(files: list[StoredFile], source: str, storage: Storage) -> Source:
    """MNIST idx files, gzipped or plain: images as PNG, labels; a column `split` where there is more than one set."""
    by_name = {_stem(f.url): f for f in files}
    if _is_named(files, source):  # the other file lies beside it
        beside = storage.list(parent_of(source))
        by_name = {_stem(f.url): f for f in beside if _stem(f.url).partition("-")[0] == _stem(source).partition("-")[0]}
    names = sorted(name.removesuffix(IMAGES) for name in by_name if name.endswith(IMAGES))
    if not names:
        raise DatasetError(f"{source}: holds no idx images (like train{IMAGES}.gz)")
    for name in names:
        if name + LABELS not in by_name:
            raise DatasetError(f"{source}: no {name}{LABELS} beside {name}{IMAGES}")
    sets, sizes = [], []
    for name in names:
        found = IdxSet(name, by_name[name + IMAGES].url, by_name[name + LABELS].url)
        images, labels = found.read(storage)
        if len(images) != len(labels):
            raise DatasetError(f"{source}: {len(images)} images but {len(labels)} labels in {name}")
        sets.append(replace(found, count=len(images)))
        sizes += [images[0].size if len(images) else 0] * len(images)
    fields = [pa.field("image", IMAGE_TYPE), pa.field("label", pa.int64())]
    fields += [pa.field("split", pa.string())] if len(sets) > 1 else []
    used = [by_name[name + suffix] for name in names for suffix in (IMAGES, LABELS)]
    return Source(
        "mnist",
        pa.schema(fields),
        identity_of(used, source),
        sizes,
        lambda start, stop: IdxPortion(tuple(sets), start, stop),
    )


@dataclass(frozen=True)
class IdxSet:
    """A file of images, the file of their labels, and how many there are."""

    name: str
    images: str
    labels: str
    count: int = 0

    def read(self, storage: Storage) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        return _read_idx(self.images, 3, "images", storage), _read_idx(self.labels, 1, "labels", storage)


@dataclass(frozen=True)
class IdxPortion:
    """Images `start` to `stop` of the sets one after another."""

    sets: tuple[IdxSet, ...]
    start: int
    stop: int

    def rows(self, storage: Storage) -> Iterator[Row | Fault]:
        before = 0
        for one in self.sets:
            first, last = max(0, self.start - before), min(one.count, self.stop - before)
            before += one.count
            if first >= last:
                continue
            images, labels = one.read(storage)
            extra = {"split": one.name} if len(self.sets) > 1 else {}
            for index in range(first, last):
                buffer = io.BytesIO()
                Image.fromarray(images[index]).save(buffer, "PNG")
                cells = {"label": int(labels[index]), **extra}
                yield Row(f"{one.name}/{index:05d}.png", buffer.getvalue(), cells)


def _read_idx(url: str, axes: int, what: str, storage: Storage) -> np.ndarray[Any, Any]:
    array = read_idx(storage.read_bytes(url), url)
    if array.ndim != axes or array.dtype.itemsize != 1:
        raise DatasetError(f"{url}: not {what} of MNIST's kind")
    return array


# -- WebDataset tars


def webdataset_source(
    files: list[StoredFile], source: str, storage: Storage, classes: ClassNames | None = None
) -> Source:
    """WebDataset tars: members of one name but for their suffixes are a sample.

    The image, `.cls` as `label`, `.txt` as `text`, and the plain values of `.json` as columns. The columns
    are those of the first samples; values that do not fit them are faults. ImageNet's own tars, one for each class
    (`n01440764.tar`), hold images only: their names are the classes.
    """
    tars = [f for f in files if f.url.lower().endswith(TAR_SUFFIXES)]
    if not tars:
        raise DatasetError(f"{source}: holds no tar file ({', '.join(TAR_SUFFIXES)})")
    plain = TarPortion(tuple((f.url, key_below(f.url, source), None) for f in tars))
    peeked = [row for row in itertools.islice(plain.rows(storage), PEEKED) if isinstance(row, Row)]
    if not peeked:
        raise DatasetError(f"{source}: no sample with an image among the first of {tars[0].url}")
    schema = _schema_of([_cells(row) for row in peeked])
    stems = [_tar_stem(f.url) for f in tars]
    labels: dict[str | None, int] = {}
    notes: list[str] = []
    if schema.names == ["image"] and all(map(is_synset, stems)):
        folders = sorted(set(stems))
        classes = classes or _found_classes(folders, source, storage, notes) or of_folders(folders)
        notes += _doubts(folders, source) if classes.origin is None else []
        labels = _labels(folders, classes, source)
        schema = pa.schema([*schema, pa.field("label", pa.int64())])
    portion = TarPortion(
        tuple((f.url, key_below(f.url, source), labels.get(stem)) for f, stem in zip(tars, stems, strict=True)), schema
    )
    opened = Source(
        "webdataset",
        schema,
        identity_of(tars, source),
        [f.size for f in tars],
        lambda start, stop: replace(portion, tars=portion.tars[start:stop]),
        counted=False,
        notes=tuple(notes),
    )
    return _named(opened, classes, source) if labels and classes else opened


@dataclass(frozen=True)
class TarPortion:
    """Tars: URL, key, and the class index of all its samples where that is given. `schema`: what the samples must
    fit; None takes them as they are."""

    tars: tuple[tuple[str, str, int | None], ...]
    schema: pa.Schema | None = None

    def rows(self, storage: Storage) -> Iterator[Row | Fault]:
        for url, key, label in self.tars:
            for row in _tar_rows(url, key, storage):
                if isinstance(row, Fault):
                    yield row
                    continue
                if label is not None:
                    row = Row(row.path, row.data, {**_cells(row), "label": label})
                yield row if self.schema is None else _fit(row, self.schema)


def _tar_rows(url: str, key: str, storage: Storage) -> Iterator[Row | Fault]:
    """Samples of one tar, streamed; nothing is extracted to disk. Raises DatasetError where the storage fails: what
    is left of the tar must not pass for a fault of the tar."""
    try:
        with storage.open(url) as raw, tarfile.open(fileobj=raw, mode="r|*") as tar:
            members = (m for m in tar if m.isfile() and not is_hidden(m.name))
            for name, group in itertools.groupby(members, key=lambda m: _sample_key(m.name)):
                sample = {_sample_suffix(m.name): _content(tar, m) for m in group}
                yield _sample(f"{key}/{name}", sample)
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        yield Fault(key, f"broken tar file ({first_line(error)})")
    except OSError as error:
        raise DatasetError(f"{url}: cannot be read to its end ({first_line(error)}); try again") from None


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    content = tar.extractfile(member)
    return b"" if content is None else content.read()


def _sample(name: str, members: Mapping[str, bytes]) -> Row | Fault:
    image = next((suffix for suffix in members if f".{suffix.rpartition('.')[2]}" in IMAGE_SUFFIXES), None)
    if image is None:
        return Fault(name, "no image in the sample")
    cells: dict[str, Any] = {}
    try:
        if "cls" in members:
            cells["label"] = int(members["cls"])
        if "txt" in members:
            cells["text"] = members["txt"].decode()
        if "json" in members:
            values = json.loads(members["json"])
            plain = {k: v for k, v in values.items() if k != "image" and isinstance(v, str | int | float | bool | None)}
            cells = {**plain, **cells}
    except (ValueError, AttributeError) as error:
        return Fault(name, f"unreadable cls, txt or json ({first_line(error)})")
    return Row(f"{name}.{image}", members[image], cells)


def _cells(row: Row) -> dict[str, Any]:
    assert isinstance(row.cells, dict)
    return row.cells


def _schema_of(samples: list[dict[str, Any]]) -> pa.Schema:
    """Columns of the first samples, in the order of their appearance."""
    fields = [pa.field("image", IMAGE_TYPE)]
    for name in dict.fromkeys(name for cells in samples for name in cells):
        try:
            kind = pa.array([cells.get(name) for cells in samples]).type
        except pa.ArrowException:
            kind = pa.string()
        fields.append(pa.field(name, pa.string() if pa.types.is_null(kind) else kind))
    return pa.schema(fields)


def _fit(row: Row, schema: pa.Schema) -> Row | Fault:
    """The row with exactly the schema's columns."""
    fitted = {}
    for column in schema:
        if column.name == "image":
            continue
        value = _cells(row).get(column.name)
        if pa.types.is_string(column.type) and value is not None:
            value = str(value)
        try:
            pa.scalar(value, column.type)
        except (pa.ArrowException, OverflowError, TypeError, ValueError):
            return Fault(row.path, f"{column.name} {value!r} is not {column.type} as in the first samples")
        fitted[column.name] = value
    return Row(row.path, row.data, fitted)


def _sample_key(name: str) -> str:
    folder, slash, base = name.rpartition("/")
    return folder + slash + base.partition(".")[0]


def _sample_suffix(name: str) -> str:
    return name.rpartition("/")[2].partition(".")[2].lower()


def _tar_stem(url: str) -> str:
    return url.rpartition("/")[2].partition(".")[0]


# -- what a path is


def _is_named(files: list[StoredFile], source: str) -> bool:
    """True if the source is a file, not a folder."""
    return len(files) == 1 and split(files[0].url) == split(source)


def _detect(source: str, file: StoredFile | None, files: list[StoredFile]) -> str:
    names = [f.url.lower() for f in files]
    if any(_stem(name).endswith((IMAGES, LABELS)) for name in names):
        return "mnist"
    if any(name.endswith(TAR_SUFFIXES) for name in names):
        return "webdataset"
    if any(name.endswith(PARQUET_SUFFIXES) for name in names) and not any(n.endswith(IMAGE_SUFFIXES) for n in names):
        return "parquet"
    if file is None:
        return "folder"
    if names[0].endswith((".csv", ".csv.gz")):
        return "csv"
    raise DatasetError(f"{source}: not a folder, CSV, idx, tar or Parquet file; say which kind it is")


def _stem(url: str) -> str:
    return url.rpartition("/")[2].removesuffix(".gz").replace(".idx", "-idx")
