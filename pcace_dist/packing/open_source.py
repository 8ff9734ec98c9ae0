"""Finds out what a path holds, and opens the `Source` that packs it.

To add a kind of source: a module in sources/ (a function that turns a listing into a `Source`, and a class that reads a
range of its items), a line in OPENERS, and a rule in `_detect`. `--kind` (cli/pack.py) offers the names in OPENERS;
datasets/formats.py knows files by their suffixes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from pcace_dist.datasets.walk import Walked, walk
from pcace_dist.errors import DatasetError
from pcace_dist.packing.source import Reading, Request, Source, is_one_file, with_class_columns
from pcace_dist.packing.sources.csv import open_csv
from pcace_dist.packing.sources.folder import open_folder
from pcace_dist.packing.sources.idx import IMAGES, LABELS, idx_stem, open_idx
from pcace_dist.packing.sources.parquet import open_parquet
from pcace_dist.packing.sources.webdataset import open_webdataset
from pcace_dist.storage.files import first_line

OPENERS: dict[str, Callable[[Walked, Request], Source]] = {
    "folder": open_folder,
    "csv": open_csv,
    "mnist": open_idx,
    "webdataset": open_webdataset,
    "parquet": open_parquet,
}


def open_source(request: Request, *, kind: str | None = None) -> Source:
    """The source at a path, URL or glob; its kind is detected unless `kind` says it. Raises DatasetError, one line."""
    if kind is not None and kind not in OPENERS:
        raise DatasetError(f"kind {kind!r} is not one of {', '.join(OPENERS)}")
    try:
        walked = walk(request.path, request.storage)
        kind = kind or _detect(request.path, walked)
        _check_options(request.reading, kind, request.path)
        source = OPENERS[kind](walked, request)
    except OSError as error:
        raise DatasetError(first_line(error)) from None
    if request.classes is None or source.classes is not None or kind == "folder":
        return source
    return with_class_columns(source, request.classes, request.path)


def _check_options(reading: Reading, kind: str, source: str) -> None:
    """Raise DatasetError for an option that has no effect on this kind of source."""
    for name, value, default, kind_meant in (
        ("--image-key", reading.image_key, None, "webdataset"),
        ("--encoding", reading.encoding, "utf-8", "csv"),
        ("--type", bool(reading.types), False, "csv"),
        ("--allow-outside", reading.allow_outside, False, "csv"),
        ("--labels", reading.labels, None, "folder"),
    ):
        if value != default and kind != kind_meant:
            raise DatasetError(f"{name} is for {kind_meant}; {source} is packed as {kind}")


def _detect(source: str, walked: Walked) -> str:
    kinds = Counter(found.kind for found in walked.files)
    if any(idx_stem(found.file.url).endswith((IMAGES, LABELS)) for found in walked.files):
        return "mnist"
    if kinds["tar"] and kinds["image"]:
        raise DatasetError(
            f"{source}: holds {kinds['image']:,} images and {kinds['tar']:,} tar files; say which to pack with --kind "
            "folder or --kind webdataset"
        )
    if kinds["tar"]:
        return "webdataset"
    if kinds["parquet"] and not kinds["image"]:
        return "parquet"
    if not is_one_file([found.file for found in walked.files], source):
        return "folder"
    if kinds["csv"]:
        return "csv"
    raise DatasetError(f"{source}: not a folder, CSV, idx, tar or Parquet file; say which kind it is")
