"""One level of a folder, local or s3://: what lies directly in it, without looking into what is below."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pcace_dist.storage.files import NoBucket, Storage, StoredFile, split


@dataclass(frozen=True)
class Folder:
    """Names of the folders in a folder, its files by name, and the names of symbolic links, which are not followed."""

    folders: tuple[str, ...]
    files: Mapping[str, StoredFile]
    links: frozenset[str] = frozenset()


def look_into(storage: Storage, url: str) -> Folder:
    """What lies directly in the folder `url`; empty where there is none. On S3 one request for each 1,000 names.

    Hidden names, such as those of files that are being written, are left out.
    Raises NoBucket and other OSErrors that name the URL, StoreUnavailable.
    """
    scheme, path = split(url)

    def look() -> Folder:
        return _look_s3(storage.s3_client(url), url, path) if scheme == "s3" else _look_local(path)

    try:
        return storage.patiently(url, look)
    except NoBucket:
        raise
    except FileNotFoundError:
        return Folder((), {})


def _look_local(path: str) -> Folder:
    folders, links = [], set()
    files: dict[str, StoredFile] = {}
    with os.scandir(path) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_symlink():
                links.add(entry.name)
            elif entry.is_dir():
                folders.append(entry.name)
            elif entry.is_file():
                with contextlib.suppress(FileNotFoundError):  # it is gone since
                    info = entry.stat()
                    files[entry.name] = StoredFile(entry.path, info.st_size, str(info.st_mtime_ns))
    return Folder(tuple(sorted(folders)), files, frozenset(links))


def _look_s3(client: Any, url: str, path: str) -> Folder:
    bucket, _, prefix = path.partition("/")
    prefix = prefix.rstrip("/") + "/" if prefix.strip("/") else ""
    folders: list[str] = []
    files: dict[str, StoredFile] = {}
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix, Delimiter="/")
    for page in pages:
        folders += [entry["Prefix"].removeprefix(prefix)[:-1] for entry in page.get("CommonPrefixes", [])]
        for entry in page.get("Contents", []):
            name = entry["Key"].removeprefix(prefix)
            if name and not name.startswith("."):  # an empty one is the folder object of an S3 console
                files[name] = StoredFile(f"{url.rstrip('/')}/{name}", entry["Size"], entry["ETag"].strip('"'))
    return Folder(tuple(name for name in folders if name and not name.startswith(".")), files)
