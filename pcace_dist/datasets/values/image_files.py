"""Images that stay where they are: a column that names files, each with its size and version as they were listed.

A file that is gone, or is another by now, ends the run.
"""

from __future__ import annotations

import os
from functools import partial

import pyarrow as pa

from pcace_dist.datasets.formats import kind_of_name
from pcace_dist.datasets.globs import pattern_of
from pcace_dist.datasets.paths import in_order, parent_of
from pcace_dist.errors import DatasetError
from pcace_dist.storage.files import Changed, Storage, StoredFile, first_line, split

IMAGE = "image"  # the column of a list of images that names their files
IMAGE_FILE = pa.struct([("path", pa.string()), ("size", pa.int64()), ("version", pa.string())])
"""A file: its path below a root, or its URL; its bytes; and what changes with its content (StoredFile.version)."""


def is_image_file(kind: pa.DataType) -> bool:
    """Whether a column of this type names files."""
    return bool(kind == IMAGE_FILE)


def root_of(path: str) -> str:
    """The folder that paths of images are below: a folder itself, a glob's before its first pattern, a CSV's own."""
    if kind_of_name(path) == "csv":
        return parent_of(path)
    pattern = pattern_of(path, lambda part: split(part)[0] == "file" and os.path.exists(split(part)[1]))
    return path.rstrip("/") if pattern is None else pattern[0]


def file_url(path: str, root: str) -> str:
    """Where a file lies that is named below a root."""
    return path if "://" in path or path.startswith("/") else f"{root.rstrip('/')}/{path}"


def read_image_files(column: pa.ChunkedArray, root: str, storage: Storage) -> pa.ChunkedArray:
    """The content of the files, binary (n,), null where a row names none.

    Raises DatasetError where a file is gone, may not be read or has changed since it was listed; StoreUnavailable.
    """
    contents = in_order(partial(_content, root=root, storage=storage), column.to_pylist(), storage)
    return pa.chunked_array([pa.array(contents, pa.binary())])


def _content(image: dict[str, str | int] | None, root: str, storage: Storage) -> bytes | None:
    if image is None:
        return None
    path, size = str(image["path"]), int(image["size"])
    try:
        return storage.fetch(StoredFile(file_url(path, root), size, str(image["version"])), 0, size)
    except FileNotFoundError:
        raise DatasetError(
            f"dataset.path: {path} is gone since the run began; put it back, or use a new output"
        ) from None
    except Changed:
        raise DatasetError(
            f"dataset.path: {path} has changed since the run began; restore it, or use a new output"
        ) from None
    except OSError as error:
        raise DatasetError(f"dataset.path: {first_line(error)}") from None
