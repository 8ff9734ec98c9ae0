"""Pack images into Parquet shards that stream well: `pcace pack`.

A shard is written beside its final name and moved there whole, so that a reader never sees half of one.
`_pack.json` in the destination says what was packed: the same pack again is a no-op when it is complete and
starts over when it is not; anything else in the destination is refused. Knows nothing of models or Ray.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import pyarrow as pa
import pyarrow.parquet as pq

from pcace_dist.datasets.sources import Fault, Row, Source, open_source
from pcace_dist.datasets.storage import Storage, first_line, split
from pcace_dist.errors import DatasetError, OutputError, RowError

RECORD = "_pack.json"
SCRATCH = ".pack-"
SHARD_BYTES = 256 * 10**6
ROW_GROUP_BYTES = 16 * 2**20
ROW_GROUP_ROWS = 1000

Progress = Callable[[int, int | None], object]
"""Called with (images done, images in all or None)."""


@dataclass(frozen=True)
class PackReport:
    """What a pack wrote: shard names in order, rows, bytes of the shards, and what was left out."""

    kind: str
    dest: str
    shards: tuple[str, ...]
    rows: int
    bytes: int
    bad: tuple[Fault, ...]


def pack(
    source: str,
    dest: str,
    *,
    kind: str | None = None,
    image_column: str = "image",
    shard_bytes: int | None = None,
    shard_rows: int | None = None,
    row_group_rows: int | None = None,
    verify: bool = False,
    storage: Storage | None = None,
    on_progress: Progress | None = None,
) -> PackReport:
    """Write `source` (image folder, CSV, idx files, WebDataset tars) as part-00000.parquet ... into `dest`.

    A shard ends at `shard_bytes` of images (256 MB) or `shard_rows`; a row group at `row_group_rows`, else at
    1,000 rows or 16 MiB. `verify` leaves out images without a readable header. Raises DatasetError or
    OutputError, one line.
    """
    for name, value in (
        ("shard_bytes", shard_bytes),
        ("shard_rows", shard_rows),
        ("row_group_rows", row_group_rows),
    ):
        if value is not None and value < 1:
            raise OutputError(f"{name} {value}: must be at least 1")
    storage = storage or Storage()
    opened = open_source(source, storage, kind=kind, image_column=image_column)
    settings = [
        shard_bytes,
        shard_rows,
        row_group_rows,
        verify,
        image_column if opened.kind == "csv" else None,
    ]
    identity = _digest([opened.kind, settings, opened.schema.to_string(), opened.identity])
    try:
        report = _finished(dest, identity, storage)
        if report is None:
            _record(dest, {"identity": identity, "complete": False}, storage)
            limits = _Limits(shard_bytes or SHARD_BYTES, shard_rows, row_group_rows)
            report = _pack(opened, dest, limits, verify, storage, on_progress)
            _record(dest, _as_json(report, identity), storage)
    except OSError as error:
        raise OutputError(f"{first_line(error)}") from None
    return report


@dataclass(frozen=True)
class _Limits:
    shard_bytes: int
    shard_rows: int | None
    row_group_rows: int | None

    def ends_row_group(self, rows: int, size: int) -> bool:
        return rows >= (self.row_group_rows or ROW_GROUP_ROWS) or (
            self.row_group_rows is None and size >= ROW_GROUP_BYTES
        )

    def ends_shard(self, rows: int, size: int) -> bool:
        return size >= self.shard_bytes or (self.shard_rows is not None and rows >= self.shard_rows)


def _pack(
    source: Source, dest: str, limits: _Limits, verify: bool, storage: Storage, on_progress: Progress | None
) -> PackReport:
    bad: list[Fault] = []
    done = 0
    with _Shards(source, dest, limits, storage) as shards:
        for row in source.rows():
            fault = row if isinstance(row, Fault) else _check(row, verify)
            if fault is not None:
                bad.append(fault)
            elif not isinstance(row, Fault):
                shards.add(row)
            done += 1
            if on_progress is not None:
                on_progress(done, source.total)
        shards.finish()
    if not shards.rows:
        raise DatasetError(f"nothing could be packed; the first of {len(bad)} faults: {bad[0] if bad else 'no rows'}")
    return PackReport(source.kind, dest, tuple(shards.names), shards.rows, shards.bytes, tuple(bad))


def _check(row: Row, verify: bool) -> Fault | None:
    data, path = row["image"]["bytes"], row["image"]["path"]
    if not data:
        return Fault(path, "image is empty")
    if verify:
        from pcace_dist.datasets.images import image_size  # with torch: only for who asks for it

        try:
            image_size(data)
        except RowError as error:
            return Fault(path, error.reason)
    return None


class _Shards:
    """Rows into row groups into shards; each shard is published whole."""

    def __init__(self, source: Source, dest: str, limits: _Limits, storage: Storage) -> None:
        self.names: list[str] = []
        self.rows = self.bytes = 0
        self._schema = source.schema.with_metadata(_features(source))
        self._dest, self._limits, self._storage = dest.rstrip("/"), limits, storage
        self._scratch: str | None = None
        self._held: list[Row] = []
        self._held_bytes = self._shard_rows = self._shard_bytes = 0
        self._writer: pq.ParquetWriter | None = None
        self._temporary = ""

    def __enter__(self) -> _Shards:
        # a hidden folder beside local shards, so that the move is a rename; the system's own for remote ones
        local = split(self._dest)[0] == "file"
        folder = split(self._dest)[1] if local else None
        for left in Path(folder).glob(f"{SCRATCH}*") if folder else ():  # by a pack that was killed
            shutil.rmtree(left, ignore_errors=True)
        self._scratch = tempfile.mkdtemp(prefix=SCRATCH, dir=folder)
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._writer is not None:
            self._writer.close()
        if self._scratch is not None:
            shutil.rmtree(self._scratch, ignore_errors=True)

    def add(self, row: Row) -> None:
        self._held.append(row)
        size = len(row["image"]["bytes"])
        self._held_bytes += size
        self._shard_bytes += size
        self._shard_rows += 1
        full = self._limits.ends_shard(self._shard_rows, self._shard_bytes)
        if full or self._limits.ends_row_group(len(self._held), self._held_bytes):
            self._write_row_group()
        if full:
            self._publish()

    def finish(self) -> None:
        self._write_row_group()
        self._publish()

    def _write_row_group(self) -> None:
        if not self._held:
            return
        if self._writer is None:
            self._temporary = os.path.join(self._scratch or "", f"part-{len(self.names):05d}.parquet")
            self._writer = _writer(self._temporary, self._schema)
        table = pa.Table.from_pylist(self._held, schema=self._schema)
        self._writer.write_table(table, row_group_size=len(self._held))
        self.rows += len(self._held)
        self._held, self._held_bytes = [], 0

    def _publish(self) -> None:
        if self._writer is None:
            return
        self._writer.close()
        self._writer = None
        name = os.path.basename(self._temporary)
        self.bytes += os.path.getsize(self._temporary)
        self._storage.put_file(self._temporary, f"{self._dest}/{name}")
        self.names.append(name)
        self._shard_rows = self._shard_bytes = 0


def _writer(path: str, schema: pa.Schema) -> pq.ParquetWriter:
    """Images are compressed already, and their statistics would put whole images into the footer."""
    images = ("image.bytes", "image.path")
    others = [name for name in schema.names if name != "image"]
    return pq.ParquetWriter(
        path,
        schema,
        compression={images[0]: "NONE", images[1]: "ZSTD", **dict.fromkeys(others, "ZSTD")},
        use_dictionary=others,
        write_statistics=others,
        write_page_checksum=True,
    )


def _features(source: Source) -> dict[bytes, bytes]:
    """Metadata by which Hugging Face's `datasets` knows the images and the class names."""
    features: dict[str, object] = {"image": {"_type": "Image"}}
    for field in source.schema:
        if field.name == "label" and source.classes:
            features["label"] = {"_type": "ClassLabel", "names": list(source.classes)}
        elif field.name != "image":
            features[field.name] = {"_type": "Value", "dtype": str(field.type).replace("double", "float64")}
    return {b"huggingface": json.dumps({"info": {"features": features}}).encode()}


def _finished(dest: str, identity: str, storage: Storage) -> PackReport | None:
    """The report of the same pack if it is complete, None if it is to be done. Raises OutputError for anything else."""
    scheme, path = split(dest)
    if scheme == "file":
        if os.path.exists(path) and not os.path.isdir(path):
            raise OutputError(f"{dest}: is a file; name a folder for the shards")
        os.makedirs(path, exist_ok=True)
    files = [file.url.rpartition("/")[2] for file in storage.list(dest)]
    if not files:
        return None
    if RECORD not in files:
        raise OutputError(f"{dest}: is not empty (holds {files[0]}); name an empty folder")
    try:
        record = json.loads(storage.read_bytes(f"{dest.rstrip('/')}/{RECORD}"))
        if record["identity"] != identity:
            raise OutputError(f"{dest}: holds another pack; name an empty folder")
        return _from_json(record, dest) if record["complete"] else None
    except (ValueError, KeyError, TypeError):
        raise OutputError(f"{dest}: {RECORD} is not readable; name an empty folder") from None


def _record(dest: str, content: dict[str, object], storage: Storage) -> None:
    storage.put_bytes(json.dumps(content, indent=1).encode(), f"{dest.rstrip('/')}/{RECORD}")


def _as_json(report: PackReport, identity: str) -> dict[str, object]:
    return {
        "identity": identity,
        "complete": True,
        "kind": report.kind,
        "shards": list(report.shards),
        "rows": report.rows,
        "bytes": report.bytes,
        "bad": [[fault.name, fault.reason] for fault in report.bad],
    }


def _from_json(record: dict[str, object], dest: str) -> PackReport:
    bad = tuple(Fault(*fault) for fault in record["bad"])  # type: ignore[attr-defined]
    shards: tuple[str, ...] = tuple(record["shards"])  # type: ignore[arg-type]
    return PackReport(str(record["kind"]), dest, shards, int(str(record["rows"])), int(str(record["bytes"])), bad)


def _digest(content: object) -> str:
    return hashlib.blake2b(json.dumps(content).encode(), digest_size=16).hexdigest()
