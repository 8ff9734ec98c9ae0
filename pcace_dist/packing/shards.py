"""The plan of shards, and the writing of one task's shards: pure functions of the source and the limits.

`plan_tasks` divides the source's items into tasks by size alone. `write_task` runs one task, in this process and on a
cluster alike: it reads the items, writes each shard as a whole under its final name, and then the task's record. The
same task gives the same bytes wherever and however often it runs. Knows nothing of its caller or of Ray.
"""

from __future__ import annotations

import contextlib
import fcntl
import io
import json
import os
import re
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import pyarrow as pa
import pyarrow.parquet as pq

from pcace_dist.datasets.formats import ARRAY_BEGIN, HEAD, UNMISTAKABLE, format_of
from pcace_dist.datasets.paths import Skipped
from pcace_dist.errors import RowError
from pcace_dist.packing.class_names import ClassNames
from pcace_dist.packing.source import Row, Source, SourceSlice
from pcace_dist.storage.files import Storage, split

SHARD_BYTES = 256 * 10**6
ROW_GROUP_BYTES = 16 * 2**20
ROW_GROUP_ROWS = 1000
RECORDS = "_pack"  # folder of the tasks' records; hidden from data set listings
SCRATCH = ".pack-"
_SCRATCH_NAME = re.compile(rf"{re.escape(SCRATCH)}(?P<host>.+)-(?P<pid>\d+)-[a-z0-9_]+")
DAY = 86400.0
VERIFY = ("headers", "decode")


@dataclass(frozen=True)
class ShardLimits:
    """Where shards and row groups end."""

    shard_bytes: int = SHARD_BYTES
    shard_rows: int | None = None
    row_group_rows: int | None = None

    def ends_row_group(self, rows: int, size: int) -> bool:
        return rows >= (self.row_group_rows or ROW_GROUP_ROWS) or (
            self.row_group_rows is None and size >= ROW_GROUP_BYTES
        )

    def ends_shard(self, rows: int, size: int) -> bool:
        return size >= self.shard_bytes or (self.shard_rows is not None and rows >= self.shard_rows)


@dataclass(frozen=True)
class PackTask:
    """Items `start` to `stop` of the source. They become one shard or, with `divide_bytes` or `divide_rows`, as many as
    these limits need (for tars, whose content is unknown before they are read)."""

    name: str
    start: int
    stop: int
    divide_bytes: int | None = None
    divide_rows: int | None = None

    @property
    def divided(self) -> bool:
        return self.divide_bytes is not None or self.divide_rows is not None

    def shard(self, number: int) -> str:
        return f"{self.name}-{number:02d}.parquet" if self.divided else f"{self.name}.parquet"


@dataclass(frozen=True)
class Shard:
    """A finished shard."""

    name: str
    rows: int
    bytes: int


@dataclass(frozen=True)
class Written:
    """The result of a task: its shards, the files left out, and the number of rows and faults it has processed."""

    task: str
    shards: tuple[Shard, ...]
    bad: tuple[Skipped, ...]
    seen: int


@dataclass(frozen=True)
class Layout:
    """The properties that all shards of a pack share."""

    schema: pa.Schema
    classes: ClassNames | None
    limits: ShardLimits
    verify: str | None


def layout_of(source: Source, limits: ShardLimits, verify: str | None) -> Layout:
    """The layout of a source's shards; the schema includes Hugging Face's description of the columns."""
    schema = source.schema.with_metadata({b"huggingface": json.dumps({"info": {"features": _features(source)}})})
    return Layout(schema, source.classes, limits, verify)


def plan_tasks(sizes: Sequence[int], counted: bool, limits: ShardLimits) -> tuple[PackTask, ...]:
    """Divides items into tasks, in order; a function of these arguments alone.

    Where items are images (`counted`), a task is one shard. Where they are tars, small tars share a shard, and a tar
    that is much larger than a shard is divided evenly.
    """
    spans: list[tuple[int, int]] = []
    start = size = 0
    for item, bytes_of_it in enumerate(sizes):
        if not counted and size and bytes_of_it >= 1.5 * limits.shard_bytes:
            spans.append((start, item))
            start, size = item, 0
        size += bytes_of_it
        full = limits.ends_shard(item + 1 - start, size) if counted else size >= limits.shard_bytes
        if full:
            spans.append((start, item + 1))
            start, size = item + 1, 0
    if start < len(sizes):
        spans.append((start, len(sizes)))
    return tuple(
        PackTask(f"part-{number:05d}", first, last, *_division(sum(sizes[first:last]), counted, limits))
        for number, (first, last) in enumerate(spans)
    )


def _division(size: int, counted: bool, limits: ShardLimits) -> tuple[int | None, int | None]:
    if counted:
        return None, None
    shards = round(size / limits.shard_bytes)
    return (-(-size // shards) if shards > 1 else None), limits.shard_rows


def write_task(
    task: PackTask,
    items: SourceSlice,
    layout: Layout,
    dest: str,
    storage: Storage,
    on_row: Callable[[], object] = lambda: None,
) -> Written:
    """Write a task's shards into `dest`, then its record. Raises OSError or a UserError; a repeated call is safe."""
    bad: list[Skipped] = []
    seen = 0
    with _Shards(task, layout, dest, storage) as shards:
        for row in items.rows(storage):
            fault = row if isinstance(row, Skipped) else check(row, layout.verify)
            if fault is not None:
                bad.append(fault)
            elif not isinstance(row, Skipped):
                shards.add(row)
            seen += 1
            on_row()
        shards.finish()
    written = Written(task.name, tuple(shards.written), tuple(bad), seen)
    storage.put_bytes(json.dumps(_as_json(written)).encode(), record_url(dest, task.name))
    return written


def check(row: Row, verify: str | None) -> Skipped | None:
    """What is wrong with an image, or None: it is empty, or no image by its first bytes; with `headers`, its header
    cannot be read; with `decode`, it cannot be decoded."""
    if not row.data:
        return Skipped(row.path, "image is empty")
    is_array = row.data.startswith(ARRAY_BEGIN)  # for model.input.mode tensor
    if is_array or (verify is None and format_of(row.data[:HEAD]) in UNMISTAKABLE):
        return None
    from pcace_dist.datasets.images import ImageSpec, decode, image_size  # with torch: only where it is needed

    try:
        image_size(row.data)
        if verify == "decode":
            decode(row.data, ImageSpec())
    except RowError as error:
        return Skipped(row.path, error.reason)
    return None


def record_url(dest: str, task: str) -> str:
    return f"{dest.rstrip('/')}/{RECORDS}/{task}.json"


def read_record(data: bytes) -> Written | None:
    """The result in a task's record; None where the record is incomplete."""
    try:
        record = json.loads(data)
        shards = tuple(Shard(str(name), int(rows), int(size)) for name, rows, size in record["shards"])
        bad = tuple(Skipped(*fault) for fault in record["bad"])
        return Written(str(record["task"]), shards, bad, int(record["seen"]))
    except (ValueError, KeyError, TypeError):
        return None


def _as_json(written: Written) -> dict[str, object]:
    return {
        "task": written.task,
        "shards": [[shard.name, shard.rows, shard.bytes] for shard in written.shards],
        "bad": [[fault.name, fault.reason] for fault in written.bad],
        "seen": written.seen,
    }


class _Shards:
    """Collects rows into row groups and shards; each shard is published as a whole."""

    def __init__(self, task: PackTask, layout: Layout, dest: str, storage: Storage) -> None:
        self.written: list[Shard] = []
        self._task, self._layout = task, layout
        self._dest, self._storage = dest.rstrip("/"), storage
        self._scratch = ""
        self._held: list[Row] = []
        self._held_bytes = self._rows = self._bytes = 0
        self._writer: pq.ParquetWriter | None = None
        self._temporary = ""

    def __enter__(self) -> _Shards:
        # for local shards a hidden folder beside them, so that moving is renaming; else the system's temporary folder
        local = split(self._dest)[0] == "file"
        folder = split(self._dest)[1] if local else tempfile.gettempdir()
        remove_left_scratch(folder)
        self._scratch = tempfile.mkdtemp(prefix=f"{SCRATCH}{socket.gethostname()}-{os.getpid()}-", dir=folder)
        self._lock = os.open(self._scratch, os.O_RDONLY)
        _locks(self._lock)  # marks it as in use, also for processes of other containers
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._writer is not None:
            with contextlib.suppress(OSError):  # its file is removed with the folder
                self._writer.close()
        shutil.rmtree(self._scratch, ignore_errors=True)
        os.close(self._lock)

    def add(self, row: Row) -> None:
        self._held.append(row)
        self._held_bytes += len(row.data)
        self._bytes += len(row.data)
        self._rows += 1
        full = self._task.divided and self._full()
        if full or self._layout.limits.ends_row_group(len(self._held), self._held_bytes):
            self._write_row_group()
        if full:
            self._publish()

    def finish(self) -> None:
        self._write_row_group()
        self._publish()

    def _full(self) -> bool:
        by_bytes, by_rows = self._task.divide_bytes, self._task.divide_rows
        return (by_bytes is not None and self._bytes >= by_bytes) or (by_rows is not None and self._rows >= by_rows)

    def _write_row_group(self) -> None:
        if not self._held:
            return
        if self._writer is None:
            self._temporary = os.path.join(self._scratch, self._task.shard(len(self.written)))
            self._writer = _writer(self._temporary, self._layout.schema)
        self._writer.write_table(_table(self._held, self._layout), row_group_size=len(self._held))
        self._held, self._held_bytes = [], 0

    def _publish(self) -> None:
        if self._writer is None:
            return
        self._writer.close()
        self._writer = None
        size = _flushed(self._temporary)
        name = os.path.basename(self._temporary)
        self._storage.put_file(self._temporary, f"{self._dest}/{name}")
        self.written.append(Shard(name, self._rows, size))
        self._rows = self._bytes = 0


def remove_left_scratch(folder: str) -> None:
    """Remove the scratch folders of killed packs. Scratch that a living process uses stays, whether it runs here, on
    another host, or in another container with the same host name. So does a folder that no pack has made: the name of a
    pack's scratch consists of host, process and letters, and it holds only Parquet files."""
    for folder_left in Path(folder).glob(f"{SCRATCH}*"):
        match = _SCRATCH_NAME.fullmatch(folder_left.name)
        with contextlib.suppress(OSError):
            if match is None or folder_left.is_symlink() or not all(map(_is_shard, folder_left.iterdir())):
                continue
            is_old = time.time() - folder_left.stat().st_mtime > DAY
            is_dead = match["host"] == socket.gethostname() and not _lives(int(match["pid"]))
            if (is_dead or is_old) and not _in_use(folder_left):
                shutil.rmtree(folder_left, ignore_errors=True)


def _is_shard(path: Path) -> bool:
    return path.suffix == ".parquet" and path.is_file() and not path.is_symlink()


def _in_use(folder: Path) -> bool:
    """Whether a process of this machine holds the folder's lock; it may belong to another container."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        return not _locks(handle)
    finally:
        os.close(handle)


def _locks(handle: int) -> bool:
    """Lock an open folder; False where another process holds the lock. True also on file systems without locks for
    folders (NFS): there only the process's number decides."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _flushed(path: str) -> int:
    """Sync a file to disk, and return its size: the record must not be there without the shard's bytes."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())
        return os.fstat(file.fileno()).st_size


def _table(rows: list[Row], layout: Layout) -> pa.Table:
    """The rows as a table; the class columns are filled in by label."""
    classes = layout.classes
    filled = set(classes.columns()) if classes else set()
    schema = pa.schema([field for field in layout.schema if field.name not in filled])
    table = pa.Table.from_batches(list(_batches(rows, schema)), schema).combine_chunks()
    for name, values in classes.columns().items() if classes else ():
        table = table.append_column(pa.field(name, pa.string()), _by_label(table["label"], values))
    return table.select(layout.schema.names).replace_schema_metadata(layout.schema.metadata)


def _batches(rows: list[Row], schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    plain = []
    for row in rows:
        if isinstance(row.cells, dict):
            plain.append({**row.cells, "image": {"bytes": row.data, "path": row.path}})
        else:
            yield row.cells
    if plain:
        yield pa.RecordBatch.from_pylist(plain, schema=schema)


def _by_label(labels: pa.ChunkedArray, values: tuple[str, ...]) -> pa.Array:
    """The value for each label; null where the label is null or no index of the list."""
    return pa.array(
        [values[label] if label is not None and 0 <= label < len(values) else None for label in labels.to_pylist()],
        pa.string(),
    )


def _writer(path: str, schema: pa.Schema) -> pq.ParquetWriter:
    """A writer for a shard: without compression of images (they are compressed already), and without statistics of
    bytes (they would put whole images into the footer)."""
    leaves = _leaves(schema)
    other_leaves = [leaf for leaf in leaves if leaf not in ("image.bytes", "image.path")]
    return pq.ParquetWriter(
        path,
        schema,
        compression={leaf: "NONE" if leaf == "image.bytes" else "ZSTD" for leaf in leaves},
        use_dictionary=other_leaves,
        write_statistics=[leaf for leaf in other_leaves if not leaves[leaf]],
        write_page_checksum=True,
    )


def _leaves(schema: pa.Schema) -> dict[str, bool]:
    """Parquet's names of the leaf columns, and whether their values are raw bytes."""
    buffer = io.BytesIO()
    pq.write_table(schema.empty_table(), buffer)
    columns = pq.read_metadata(io.BytesIO(buffer.getvalue())).schema
    descriptions = [columns.column(index) for index in range(len(columns))]
    return {c.path: c.physical_type == "BYTE_ARRAY" and c.logical_type.type == "NONE" for c in descriptions}


def _features(source: Source) -> dict[str, object]:
    """The description by which Hugging Face's `datasets` finds the images and the class names."""
    features: dict[str, object] = {"image": {"_type": "Image"}} | source.features
    for field in source.schema:
        if field.name == "label" and source.classes:
            features["label"] = {"_type": "ClassLabel", "names": list(source.classes.names)}
        elif field.name not in features and not pa.types.is_nested(field.type):
            features[field.name] = {"_type": "Value", "dtype": str(field.type).replace("double", "float64")}
    return features
