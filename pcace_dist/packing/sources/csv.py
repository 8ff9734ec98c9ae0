"""CSV files: a column of image paths or URLs, and the other columns with their types."""

from __future__ import annotations

import difflib
import posixpath
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pcace_dist.datasets.paths import Skipped, identity_of, in_order, parent_of
from pcace_dist.datasets.walk import Walked
from pcace_dist.errors import DatasetError, JobError
from pcace_dist.packing.csv_table import read_table
from pcace_dist.packing.source import IMAGE_TYPE, Request, Row, Source, is_one_file, read_image
from pcace_dist.storage.files import Storage, split

SIZED = 64  # so many images of a CSV are looked up, to estimate how many make a shard
IMAGE_BYTES = 100_000  # the size of an image where none can be looked up


def open_csv(walked: Walked, request: Request) -> Source:
    """The rows of a CSV file: a column of image paths (relative to the CSV's folder, or URLs), and the others."""
    source, storage, image_column, reading = request.path, request.storage, request.image_column, request.reading
    files = [found.file for found in walked.files]
    if not is_one_file(files, source):
        raise DatasetError(f"{source}: is a folder; name the CSV file")
    table, notes = read_table(storage.read_bytes(source), source, reading.encoding, reading.types, image_column)
    names = table.column_names
    if image_column not in names:
        nearest = difflib.get_close_matches(image_column, names, n=1, cutoff=0.5)
        known = f"it has {', '.join(map(repr, names))}; say which by --image-column"
        hint = f"did you mean {nearest[0]!r}?" if nearest else known
        raise DatasetError(f"{source}: no column {image_column!r} with the image paths; {hint}")
    if image_column != "image" and "image" in names:
        raise DatasetError(f"{source}: the column 'image' is in the way of the packed images; rename it")
    folder = parent_of(source)
    if not reading.allow_outside:
        _check_inside(table[image_column], folder, source)
    other_fields = [table.schema.field(name) for name in names if name != image_column]
    size = _usual_size(table[image_column], folder, storage)
    return Source(
        "csv",
        pa.schema([pa.field("image", IMAGE_TYPE), *other_fields]),
        identity_of(files, source),
        [size] * table.num_rows,
        lambda start, stop: CsvSlice(table.take(pa.array(range(start, stop))), image_column, source, folder, start),
        notes=tuple(notes),
    )


def _check_inside(paths: pa.ChunkedArray, folder: str, source: str) -> None:
    """Raise DatasetError where a row names a file outside the CSV's own folder: a CSV of unknown origin must not put
    private files into a data set."""
    outside = {path for path in pc.unique(paths).to_pylist() if path and not _lies_in(_image_url(path, folder), folder)}
    if not outside:
        return
    rows = [row for row, path in enumerate(paths.to_pylist()) if path in outside]
    raise DatasetError(
        f"{source}: {len(rows):,} of {len(paths):,} rows name files outside {folder}, the first is row {rows[0]}: "
        f"{paths[rows[0]].as_py()}; --allow-outside packs them"
    )


def _lies_in(url: str, folder: str) -> bool:
    scheme, path = split(url)
    base_scheme, base = split(folder)
    return scheme == base_scheme and posixpath.normpath(path).startswith(base.rstrip("/") + "/")


@dataclass(frozen=True)
class CsvSlice:
    """Some rows of a CSV file; `first`: the number of the first one."""

    table: pa.Table
    image_column: str
    source: str
    folder: str
    first: int

    def rows(self, storage: Storage) -> Iterator[Row | Skipped]:
        def row(numbered: tuple[int, dict[str, Any]]) -> Row | Skipped:
            number, values = numbered
            path = values.pop(self.image_column)
            if not path or "\0" in path:
                return Skipped(f"{self.source} row {number}", "names no image")
            return read_image(storage, _image_url(path, self.folder), path, values)

        return in_order(row, enumerate(self._values(), self.first), storage)

    def _values(self) -> Iterator[dict[str, Any]]:
        for batch in self.table.to_batches(max_chunksize=1024):
            yield from batch.to_pylist()


def _image_url(path: str, folder: str) -> str:
    return path if "://" in path or path.startswith("/") else f"{folder}/{path}"


def _usual_size(paths: pa.ChunkedArray, folder: str, storage: Storage) -> int:
    """Mean size of some of the images, evenly spread: to list all of them may be impossible or take hours."""
    step = max(1, len(paths) // SIZED)
    names = [path for path in paths[::step].to_pylist() if path and "\0" not in path]

    def size(name: str) -> int:
        try:
            stored = storage.stat(_image_url(name, folder))
        except (OSError, JobError):
            return 0
        return stored.size if stored else 0

    sizes = [stored for stored in in_order(size, names, storage) if stored]
    return max(1, int(statistics.fmean(sizes))) if sizes else IMAGE_BYTES
