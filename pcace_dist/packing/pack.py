"""Packs images into Parquet shards that stream well: what `pcace pack` does, and how it continues after a kill.

`begin` opens the source and finds out which tasks are left. `_pack.json` in the destination records what is packed
there and how it is divided into tasks; `_pack/` has a record for each finished task. A task writes one or a few shards
(shards.py). The tasks run in this process (`run_here`) or on Ray (executors/ray_packing.py); `finish` gets their
results. The same pack, started again, does what is not done yet; a destination with anything else is refused. Knows
nothing of models or Ray.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from pcace_dist.datasets.paths import READERS, Skipped, by_reason
from pcace_dist.errors import DatasetError, OutputError
from pcace_dist.packing.class_names import class_table, read_class_names
from pcace_dist.packing.open_source import open_source
from pcace_dist.packing.shards import (
    RECORDS,
    SHARD_BYTES,
    VERIFY,
    Layout,
    PackTask,
    ShardLimits,
    Written,
    layout_of,
    plan_tasks,
    read_record,
    record_url,
    write_task,
)
from pcace_dist.packing.source import Reading, Request, Source, SourceSlice
from pcace_dist.packing.sources.folder import lost_class
from pcace_dist.storage.files import Storage, StoredFile, first_line, normalised, split

RECORD = "_pack.json"
BAD_FILES = "_bad_files.json"

Progress = Callable[[int, int | None], object]
"""Called with (images done, total or None)."""


@dataclass(frozen=True)
class PackReport:
    """The result of a pack: shard names in order, rows, bytes of the shards, the files left out, and remarks."""

    kind: str
    dest: str
    shards: tuple[str, ...]
    rows: int
    bytes: int
    bad: tuple[Skipped, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Packing:
    """A pack under way: its plan, and the tasks that were finished before. `origin`: the source's path."""

    origin: str
    source: Source
    dest: str
    layout: Layout
    identity: str
    tasks: tuple[PackTask, ...]
    done: Mapping[str, Written]
    storage: Storage
    allow_empty_classes: bool = False
    complete: bool = False

    @property
    def todo(self) -> tuple[PackTask, ...]:
        """Tasks without a valid record, in order."""
        return tuple(task for task in self.tasks if task.name not in self.done)

    @property
    def seen(self) -> int:
        """Images that the finished tasks have processed."""
        return sum(written.seen for written in self.done.values())

    @property
    def class_table(self) -> list[str]:
        """A line for each class folder: its label, name and images."""
        return class_table(self.source.labels, self.source.images)

    def slice(self, task: PackTask) -> SourceSlice:
        return self.source.slice(task.start, task.stop)


def pack(
    source: str,
    dest: str,
    *,
    kind: str | None = None,
    image_column: str = "image",
    classes: str | None = None,
    reading: Reading | None = None,
    shard_bytes: int | None = None,
    shard_rows: int | None = None,
    row_group_rows: int | None = None,
    verify: bool | str = False,
    storage: Storage | None = None,
    on_progress: Progress | None = None,
) -> PackReport:
    """Write `source` (image folder, CSV, idx files, WebDataset tars, Parquet) as part-00000.parquet ... into `dest`.

    A shard ends at `shard_bytes` of images (256 MB) or `shard_rows`; a row group at `row_group_rows`, else at 1,000
    rows or 16 MiB. `classes`: the path of a list of class names, by index; `reading`: how to read an ambiguous source.
    Files that are no image by their first bytes are left out; `verify` also leaves out images without a readable
    header or, with "decode", images that cannot be decoded. Works in this process; to run the tasks elsewhere, use
    `begin` and `finish`. Raises DatasetError or OutputError, one line.
    """
    packing = begin(
        source,
        dest,
        kind=kind,
        image_column=image_column,
        classes=classes,
        reading=reading,
        limits=limits_of(shard_bytes, shard_rows, row_group_rows),
        verify=verify,
        storage=storage,
    )
    return run_here(packing, on_progress)


def run_here(packing: Packing, on_progress: Progress | None = None) -> PackReport:
    """Run the remaining tasks, one after another, in this process."""
    seen = packing.seen
    results: list[Written] = []

    def count() -> None:
        nonlocal seen
        seen += 1
        if on_progress is not None:
            on_progress(seen, packing.source.total)

    try:
        for task in packing.todo:
            items = packing.slice(task)
            results.append(write_task(task, items, packing.layout, packing.dest, packing.storage, count))
    except OSError as error:
        raise OutputError(first_line(error)) from None
    return finish(packing, results)


def limits_of(shard_bytes: int | None, shard_rows: int | None, row_group_rows: int | None) -> ShardLimits:
    """The limits that a user gives, checked. Raises OutputError."""
    for name, value in (("shard_bytes", shard_bytes), ("shard_rows", shard_rows), ("row_group_rows", row_group_rows)):
        if value is not None and value < 1:
            raise OutputError(f"{name} {value}: must be at least 1")
    return ShardLimits(shard_bytes or SHARD_BYTES, shard_rows, row_group_rows)


def begin(
    source: str,
    dest: str,
    *,
    kind: str | None = None,
    image_column: str = "image",
    classes: str | None = None,
    reading: Reading | None = None,
    limits: ShardLimits | None = None,
    verify: bool | str = False,
    storage: Storage | None = None,
) -> Packing:
    """Open the source, and begin in `dest` or continue there. Raises DatasetError or OutputError, one line."""
    storage = storage or Storage()
    source, dest = (normalised(url) if "://" in url else url for url in (source, dest))
    limits = limits or ShardLimits()
    checked = "headers" if verify is True else verify or None
    if checked is not None and checked not in VERIFY:
        raise OutputError(f"verify {checked!r}: is not one of {', '.join(VERIFY)}")
    names = read_class_names(classes, storage) if classes is not None else None
    reading = reading or Reading()
    opened = open_source(Request(source, storage, image_column, names, reading), kind=kind)
    if opened.kind in ("folder", "parquet", "webdataset") and _inside(dest, source):
        raise OutputError(f"{dest}: lies inside {source}; name another folder for the shards")
    layout = layout_of(opened, limits, checked)
    identity = _identity(opened, layout, image_column, reading)
    try:
        tasks, done, complete = _found(dest, identity, storage) or (None, {}, False)
        if tasks is None:
            tasks = plan_tasks(opened.sizes, opened.counted, limits)
            _record(dest, {"identity": identity, "complete": False, "tasks": [_as_list(t) for t in tasks]}, storage)
    except OSError as error:
        raise OutputError(first_line(error)) from None
    storage.patience.begin()
    storage.patience.refusals_are_answers = True  # a single image may be unreadable for everybody (source.read_image)
    return Packing(source, opened, dest, layout, identity, tasks, done, storage, reading.allow_empty_classes, complete)


def finish(packing: Packing, results: Iterable[Written]) -> PackReport:
    """After all tasks: write the list of files left out, and record that the pack is complete. Raises OutputError or,
    where no image could be packed, DatasetError."""
    by_task = {**packing.done, **{result.task: result for result in results}}
    ordered = [by_task[task.name] for task in packing.tasks]
    shards = [shard for result in ordered for shard in result.shards]
    faults = [fault for result in ordered for fault in result.bad]
    bad = (*packing.source.left_out, *faults)
    if not shards:
        raise DatasetError(f"nothing could be packed; the first of {len(bad)} faults: {bad[0] if bad else 'no rows'}")
    if not packing.allow_empty_classes:
        _check_classes(packing, faults)
    report = PackReport(
        packing.source.kind,
        packing.dest,
        tuple(shard.name for shard in shards),
        sum(shard.rows for shard in shards),
        sum(shard.bytes for shard in shards),
        bad,
        packing.source.notes,
    )
    try:
        if packing.todo or not packing.complete:
            listed = [{"file": fault.name, "reason": fault.reason} for fault in bad]
            packing.storage.put_bytes(json.dumps(listed, indent=1).encode(), f"{packing.dest.rstrip('/')}/{BAD_FILES}")
            _record(packing.dest, _complete(report, packing), packing.storage)
    except OSError as error:
        raise OutputError(first_line(error)) from None
    return report


def _check_classes(packing: Packing, faults: Iterable[Skipped]) -> None:
    """Raise DatasetError for a class all of whose files turned out to be no images. The shards stay; the pack is not
    complete."""
    by_class: dict[str, list[Skipped]] = {}
    for fault in faults:
        by_class.setdefault(fault.name.partition("/")[0], []).append(fault)
    for folder, images in packing.source.images.items():
        lost = by_class.get(folder, [])
        if len(lost) == images:
            raise lost_class(packing.origin, folder, packing.source.labels[folder], lost)


# -- the destination


def _found(dest: str, identity: str, storage: Storage) -> tuple[tuple[PackTask, ...], dict[str, Written], bool] | None:
    """Tasks, finished tasks and completeness of the same pack in the destination; None if there is nothing yet.

    Raises OutputError for anything else.
    """
    scheme, path = split(dest)
    if scheme == "file":
        if os.path.exists(path) and not os.path.isdir(path):
            raise OutputError(f"{dest}: is a file; name a folder for the shards")
        os.makedirs(path, exist_ok=True)
    base = dest.rstrip("/")
    files = {file.url[len(_url(base)) :].lstrip("/"): file for file in storage.list(dest)}
    if not files:
        return None
    if RECORD not in files:
        raise OutputError(f"{dest}: is not empty (holds {next(iter(files))}); name an empty folder")
    try:
        record = json.loads(storage.read_bytes(f"{base}/{RECORD}"))
        if record["identity"] != identity:
            if not record["complete"] and not any(name.endswith(".parquet") for name in files):
                return None  # it was begun without a result: nothing can be lost
            raise OutputError(f"{dest}: holds another pack; name an empty folder")
        tasks, complete = tuple(PackTask(*task) for task in record["tasks"]), bool(record["complete"])
    except (ValueError, KeyError, TypeError):
        raise OutputError(f"{dest}: {RECORD} is not readable; name an empty folder") from None
    return tasks, _done(base, tasks, files, storage), complete


def _done(
    base: str, tasks: tuple[PackTask, ...], files: Mapping[str, StoredFile], storage: Storage
) -> dict[str, Written]:
    """The finished tasks: those with a record, whose shards have the recorded sizes."""
    begun = [task.name for task in tasks if f"{RECORDS}/{task.name}.json" in files]
    with ThreadPoolExecutor(READERS, thread_name_prefix="pcace-pack") as pool:
        records = pool.map(lambda name: read_record(storage.read_bytes(record_url(base, name))), begun)
        records_read = {name: record for name, record in zip(begun, records, strict=True) if record is not None}
    return {
        name: record
        for name, record in records_read.items()
        if all(shard.name in files and files[shard.name].size == shard.bytes for shard in record.shards)
    }


def _record(dest: str, content: dict[str, object], storage: Storage) -> None:
    storage.put_bytes(json.dumps(content, indent=1).encode(), f"{dest.rstrip('/')}/{RECORD}")


def _complete(report: PackReport, packing: Packing) -> dict[str, object]:
    return {
        "identity": packing.identity,
        "complete": True,
        "kind": report.kind,
        "shards": list(report.shards),
        "rows": report.rows,
        "bytes": report.bytes,
        "bad": len(report.bad),
        "left_out": by_reason(report.bad),
        "classes": dict(packing.source.labels),
        "tasks": [_as_list(task) for task in packing.tasks],
    }


def _as_list(task: PackTask) -> list[Any]:
    return [task.name, task.start, task.stop, task.divide_bytes, task.divide_rows]


def _identity(source: Source, layout: Layout, image_column: str, reading: Reading) -> str:
    """Digest of the source's content and of all settings that the shards depend on."""
    limits = layout.limits
    settings = [
        source.kind,
        [limits.shard_bytes, limits.shard_rows, limits.row_group_rows, layout.verify],
        image_column if source.kind in ("csv", "parquet") else None,
        source.schema.to_string(),
        list(source.classes.columns().items()) if source.classes else None,
    ]
    if source.kind == "webdataset" and reading.image_key is not None:
        settings.append(reading.image_key)
    if source.kind == "csv" and reading.encoding != Reading().encoding:
        settings.append(reading.encoding)
    digest = hashlib.blake2b(json.dumps(settings).encode(), digest_size=16)
    for file in source.identity:
        digest.update(json.dumps(file).encode())
    return digest.hexdigest()


def _inside(dest: str, source: str) -> bool:
    return split(dest) == split(source) or _url(dest).startswith(_url(source).rstrip("/") + "/")


def _url(path: str) -> str:
    """The beginning of the URLs that a listing gives for files below `path`."""
    scheme, path_part = split(path)
    return (path_part if scheme == "file" else f"{scheme}://{path_part}").rstrip("/")
