"""Kept codes: the codes of each row in every channel, as Parquet, so that later questions need no model.

    attempts/<id>/codes.parquet    a row per image, a row group per unit
    codes/index.json               which of these files count, and what is in them

Columns of a codes file, all readable by plain pyarrow:

    file, row_group, row, id       where the image lies
    fold_key                       uint64; the fold is fold_key modulo the number of folds
    column:NAME                    every plain column of the data set, in its own type
    target:NAME                    double, the target's value
    codes:LAYER[0:64]              fixed-size binary, channels x components codes (uint8, channel by channel)
    means:LAYER[0:64]              fixed-size binary, int16 (little endian) of each channel on the plan's grid
    effect:NAME                    double, the value whose effects are computed; null where a row has no axis
    effects:LAYER[0:64]            fixed-size binary, int16, l of each channel for each target with effects

Reading a block of channels reads its two columns only; pages carry checksums. Knows files and the statistic, no Ray.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from pcace_dist.artifacts.attempt import CODES_FILE, ChannelBlock, attempt_key, blocks_of
from pcace_dist.artifacts.bad_rows import BAD_ROWS
from pcace_dist.artifacts.checked import REPAIR, Damaged, Digest
from pcace_dist.artifacts.plan_store import read_plan
from pcace_dist.datasets.groups import group_of
from pcace_dist.datasets.rows import BadRow, RowRef
from pcace_dist.datasets.stored_parquet import StoredParquet, WrongBytes
from pcace_dist.datasets.units import Unit
from pcace_dist.datasets.values.labels import UNLABELLED, Labelling
from pcace_dist.errors import DatasetError, OutputError
from pcace_dist.ledger.ledger import Ledger, Receipt, RunState
from pcace_dist.statistics.plan import LayerCodes, Plan
from pcace_dist.storage.files import Changed, Storage, first_line
from pcace_dist.storage.store import Sink, open_store

INDEX = "codes/index.json"
INDEX_VERSION = 1
BATCH_ROWS = 65536  # read at a time

_PLACE = pa.schema(
    [
        ("file", pa.string()),
        ("row_group", pa.int32()),
        ("row", pa.int64()),
        ("id", pa.string()),
        ("fold_key", pa.uint64()),
    ]
)


@dataclass(frozen=True, eq=False)
class KeptRows:
    """n rows beside their codes: places, uint64 fold keys, kept columns, float64 target values (n, T), and those (n, E)
    of targets with effects, NaN where a row has none; None where the plan has no effects."""

    refs: Sequence[RowRef]
    fold_keys: np.ndarray[Any, np.dtype[np.uint64]]
    columns: Sequence[Mapping[str, Any]]
    targets: np.ndarray[Any, np.dtype[np.float64]]
    effects: np.ndarray[Any, np.dtype[np.float64]] | None = None

    @staticmethod
    def cat(parts: Sequence[KeptRows]) -> KeptRows:
        effects = [part.effects for part in parts if part.effects is not None]
        return KeptRows(
            [ref for part in parts for ref in part.refs],
            np.concatenate([part.fold_keys for part in parts]),
            [row for part in parts for row in part.columns],
            np.concatenate([part.targets for part in parts]),
            np.concatenate(effects) if effects else None,
        )


def codes_column(block: ChannelBlock) -> str:
    return f"codes:{block.layer}[{block.start}:{block.stop}]"


def means_column(block: ChannelBlock) -> str:
    return f"means:{block.layer}[{block.start}:{block.stop}]"


def effects_column(block: ChannelBlock) -> str:
    return f"effects:{block.layer}[{block.start}:{block.stop}]"


def block_columns(block: ChannelBlock, plan: Plan) -> list[str]:
    """The columns of a block's codes."""
    names = [codes_column(block), means_column(block)]
    return [*names, effects_column(block)] if plan.effect_targets else names


def effect_columns(plan: Plan) -> list[str]:
    """Columns of the values whose effects are computed."""
    return [] if plan.effects is None else [f"effect:{target.name}" for target in plan.effects.targets]


def codes_schema(plan: Plan, kept_columns: pa.Schema) -> pa.Schema:
    """Columns of a codes file for this plan and these kept columns."""
    fields = list(_PLACE)
    fields += [pa.field(f"column:{field.name}", field.type) for field in kept_columns]
    fields += [pa.field(f"target:{target.name}", pa.float64()) for target in plan.targets]
    fields += [pa.field(name, pa.float64()) for name in effect_columns(plan)]
    for block in blocks_of(plan):
        channels = block.stop - block.start
        fields.append(pa.field(codes_column(block), pa.binary(channels * plan.components)))
        fields.append(pa.field(means_column(block), pa.binary(channels * 2)))
        if plan.effect_targets:
            fields.append(pa.field(effects_column(block), pa.binary(channels * 2 * plan.effect_targets)))
    made_by = {"format_version": INDEX_VERSION, "plan": plan.digest, "components": plan.components, "knots": plan.knots}
    return pa.schema(fields, metadata={"pcace": json.dumps(made_by)})


class CodesWriter:
    """The codes file of the attempt in hand, written in memory, a row group per unit."""

    def __init__(self, plan: Plan, kept_columns: pa.Schema) -> None:
        self._plan = plan
        self._kept_columns = kept_columns
        self._schema = codes_schema(plan, kept_columns)
        self._blocks = blocks_of(plan)
        self._sink = io.BytesIO()
        self._writer: pq.ParquetWriter | None = None

    @property
    def nbytes(self) -> int:
        """Bytes written so far."""
        return self._sink.tell()

    def add(self, rows: KeptRows, codes: Mapping[str, LayerCodes]) -> None:
        """The rows of one unit with the codes of every layer."""
        if self._writer is None:
            self._writer = pq.ParquetWriter(
                self._sink,
                self._schema,
                compression="zstd",
                use_dictionary=["file"],
                write_statistics=["file", "row_group"],
                write_page_checksum=True,
            )
        arrays: list[pa.Array] = [
            pa.array([ref.file for ref in rows.refs], pa.string()),
            pa.array([ref.row_group for ref in rows.refs], pa.int32()),
            pa.array([ref.row for ref in rows.refs], pa.int64()),
            pa.array([ref.id for ref in rows.refs], pa.string()),
            pa.array(rows.fold_keys, pa.uint64()),
        ]
        arrays += [pa.array([row.get(field.name) for row in rows.columns], field.type) for field in self._kept_columns]
        arrays += [pa.array(rows.targets[:, index], pa.float64()) for index in range(len(self._plan.targets))]
        if self._plan.effect_targets:
            assert rows.effects is not None
            arrays += [pa.array(column, pa.float64(), mask=np.isnan(column)) for column in rows.effects.T]
        for block in self._blocks:
            block_codes = codes[block.layer].block(block.channels)
            arrays += [binary_rows(part) for part in block_codes.tensors()]
        self._writer.write_table(pa.Table.from_arrays(arrays, schema=self._schema), row_group_size=len(rows.refs))

    def finish(self) -> bytes | None:
        """The file; None when no row was added. The writer is used up."""
        if self._writer is None:
            return None
        self._writer.close()
        return self._sink.getvalue()


# -- the index


@dataclass(frozen=True)
class CodesPart:
    """One codes file: its key below the run's output, rows and bytes."""

    file: str
    rows: int
    size: int


@dataclass(frozen=True)
class CodesIndex:
    """What a run has kept: the plan's digest, the files, and the names and types of the kept columns."""

    plan: str
    fingerprint: str
    weights: str
    fold_by: str | None
    parts: tuple[CodesPart, ...]

    @property
    def rows(self) -> int:
        return sum(part.rows for part in self.parts)

    @property
    def nbytes(self) -> int:
        return sum(part.size for part in self.parts)

    def to_bytes(self) -> bytes:
        value = {
            "format_version": INDEX_VERSION,
            "plan": f"plan/{self.plan}.safetensors",
            "fingerprint": self.fingerprint,
            "weights": self.weights,
            "fold_by": self.fold_by,
            "rows": self.rows,
            "parts": [{"file": part.file, "rows": part.rows, "size": part.size} for part in self.parts],
        }
        return (json.dumps(value, indent=1) + "\n").encode()

    @classmethod
    def from_bytes(cls, data: bytes, *, url: str) -> CodesIndex:
        """Raises OutputError when this is no index of a version that is known here."""
        try:
            value = json.loads(data)
            version = value["format_version"]
            digest = str(value["plan"]).removeprefix("plan/").removesuffix(".safetensors")
            parts = tuple(CodesPart(str(p["file"]), int(p["rows"]), int(p["size"])) for p in value["parts"])
            index = cls(digest, str(value["fingerprint"]), str(value["weights"]), value["fold_by"], parts)
        except (ValueError, KeyError, TypeError) as error:
            raise OutputError(f"{url}/{INDEX}: is no index of kept codes") from error
        if version != INDEX_VERSION:
            raise OutputError(f"{url}/{INDEX}: is of format {version}; use the version that wrote it")
        return index


def index_of(
    plan: Plan, receipts: Iterable[Receipt], *, fingerprint: str, weights: str, fold_by: str | None
) -> CodesIndex:
    """The index of accepted attempts, in the ledger's order."""
    return CodesIndex(plan.digest, fingerprint, weights, fold_by, parts_of(receipts))


def parts_of(receipts: Iterable[Receipt]) -> tuple[CodesPart, ...]:
    """The codes files of accepted attempts, in the ledger's order."""
    parts = []
    for receipt in receipts:
        ref = receipt.files.get(CODES_FILE)
        if ref is not None:
            rows = sum(count.rows for count in receipt.units.values())
            parts.append(CodesPart(attempt_key(receipt.attempt, CODES_FILE), rows, ref.size))
    return tuple(parts)


def publish_index(store: Sink, index: CodesIndex) -> None:
    store.put(INDEX, index.to_bytes())


# -- reading


@dataclass(frozen=True)
class StoredCodes:
    """The kept codes of a finished run. `url` is the run's output, local or s3://."""

    url: str
    storage: Storage
    index: CodesIndex
    plan: Plan
    schema: pa.Schema

    @property
    def columns(self) -> dict[str, pa.DataType]:
        """Kept columns of the data set by name."""
        return {f.name.removeprefix("column:"): f.type for f in self.schema if f.name.startswith("column:")}

    @property
    def targets(self) -> list[str]:
        return [f.name.removeprefix("target:") for f in self.schema if f.name.startswith("target:")]

    def read_rows(self, columns: Sequence[str]) -> pa.Table:
        """Some columns of all rows, part by part."""
        tables = []
        for part in self.index.parts:
            with self._readable(part):
                file = self._open(part)
                tables.append(file.read(range(file.metadata.num_row_groups), columns))
        return pa.concat_tables(tables) if tables else self.schema.empty_table().select(columns)

    def read_block(self, block: ChannelBlock) -> Iterator[LayerCodes]:
        """The codes of one block of channels, a part of the rows after the other, in the order of `read_rows`."""
        names = block_columns(block, self.plan)
        for part in self.index.parts:
            file = self._open(part)
            for groups in _of_rows(file, BATCH_ROWS):
                with self._readable(part):
                    table = file.read(groups, names).combine_chunks()
                yield _block_codes(table, block, self.plan)

    def _open(self, part: CodesPart) -> StoredParquet:
        url = f"{self.url}/{part.file}"
        with self._readable(part):
            stored = self.storage.stat(url)
            if stored is None:
                raise FileNotFoundError(f"{url}: no such file")
            if stored.size != part.size:
                raise DatasetError(f"{url}: has {stored.size} bytes, its index says {part.size}")
            file = StoredParquet(stored, self.storage)
            if file.metadata.num_rows != part.rows:
                raise DatasetError(f"{url}: has {file.metadata.num_rows} rows, its index says {part.rows}")
            return file

    @contextmanager
    def _readable(self, part: CodesPart) -> Iterator[None]:
        """An error while a part is read names the part's file."""
        try:
            yield
        except (OSError, WrongBytes, Changed) as error:
            url = f"{self.url}/{part.file}"
            raise DatasetError(f"{url}: the kept codes cannot be read ({first_line(error)})") from error


def open_codes(url: str, storage: Storage) -> StoredCodes | None:
    """The kept codes of the run at `url`; None when there are none."""
    index_url = f"{url.rstrip('/')}/{INDEX}"
    try:
        data = storage.read_bytes(index_url)
    except OSError:
        return None
    index = CodesIndex.from_bytes(data, url=url)
    store = open_store(url, storage)
    _check_index(index, data, Ledger(store).load(), index_url)
    plan = read_plan(store, index.plan)
    if not index.parts:
        raise DatasetError(f"{url}: its kept codes hold no rows")
    stored = StoredCodes(url.rstrip("/"), storage, index, plan, pa.schema([]))
    return replace(stored, schema=stored._open(index.parts[0]).schema)


def _check_index(index: CodesIndex, data: bytes, state: RunState, url: str) -> None:
    """Raises Damaged unless the index is what the finished run published and its ledger accounts for."""
    if state.done is None or state.manifest is None:
        return
    digest = state.done.get("files", {}).get(INDEX)
    parts = parts_of(state.accepted_receipts())
    if (digest is not None and not Digest.from_json(digest).fits(data)) or (index.parts, index.plan) != (
        parts,
        state.manifest["plan"],
    ):
        raise Damaged(f"{url}: is not what the run wrote; {REPAIR}")


# -- one unit, for a run that extends another


@dataclass(frozen=True, eq=False)
class KeptUnit:
    """The rows of one unit as an earlier run kept them, and the rows that it set aside."""

    rows: KeptRows
    codes: Mapping[str, LayerCodes]
    bad: Sequence[BadRow]
    bad_rows: int

    def groups(self, column: str | None) -> list[Any]:
        """Each row's value of group_by; NaN counts as null."""
        if column is None:
            return [None] * len(self.rows.refs)
        values = [row[column] for row in self.rows.columns]
        return [group_of(value) for value in values]

    def labels(self, column: str | None, labelling: Labelling) -> list[int | None]:
        """Each row's class index, None where there is none."""
        if column is None:
            return [None] * len(self.rows.refs)
        values = pa.chunked_array([pa.array([row[column] for row in self.rows.columns])])
        indices, _ = labelling.indices(values)
        return [None if index == UNLABELLED else index for index in indices.tolist()]


def read_unit(url: str, storage: Storage, unit: Unit, plan: Plan) -> KeptUnit:
    """A unit's rows from a codes file of the run that is extended. Raises DatasetError if they cannot be read."""
    rows_of = {(row_group.key, row_group.row_group): row_group.rows for row_group in unit.row_groups}
    try:
        stored = storage.stat(url)
        if stored is None:
            raise FileNotFoundError(f"{url}: no such file")
        file = StoredParquet(stored, storage)
        groups = [index for index in range(file.metadata.num_row_groups) if _touches(file, index, rows_of)]
        table = file.read(groups, file.schema.names) if groups else file.schema.empty_table()
        bad_url = url.removesuffix(CODES_FILE) + BAD_ROWS
        with_bad = storage.stat(bad_url) is not None
        listed = pq.read_table(io.BytesIO(storage.read_bytes(bad_url))).to_pylist() if with_bad else []
    except (OSError, WrongBytes, Changed, pa.ArrowException) as error:
        raise DatasetError(f"extend: {url} cannot be read ({type(error).__name__})") from error
    places = zip(table["file"].to_pylist(), table["row_group"].to_pylist(), strict=True)
    table = table.take(pa.array([row for row, place in enumerate(places) if place in rows_of], pa.int64()))
    bad = [BadRow(**row) for row in listed if (row["file"], row["row_group"]) in rows_of]
    bad_rows = sum(1 if bad_row.row is not None else rows_of[bad_row.file, bad_row.row_group] for bad_row in bad)
    return KeptUnit(_kept_rows(table, plan), _kept_codes(table, plan), bad, bad_rows)


def _of_rows(file: StoredParquet, rows: int) -> Iterator[list[int]]:
    """Row groups of a codes file, about `rows` rows at a time."""
    groups: list[int] = []
    count = 0
    for index in range(file.metadata.num_row_groups):
        groups.append(index)
        count += file.metadata.row_group(index).num_rows
        if count >= rows:
            yield groups
            groups, count = [], 0
    if groups:
        yield groups


def _one_chunk(column: pa.ChunkedArray) -> pa.Array:
    return column.chunk(0) if column.num_chunks == 1 else pa.concat_arrays(column.chunks)


def _touches(file: StoredParquet, index: int, row_groups: Mapping[tuple[str, int], int]) -> bool:
    """Whether a row group of a codes file holds rows of these row groups of the data set."""
    places = file.read([index], ["file", "row_group"])
    return any(place in row_groups for place in zip(*(column.to_pylist() for column in places.columns), strict=True))


def _kept_rows(table: pa.Table, plan: Plan) -> KeptRows:
    names = [name for name in table.column_names if name.startswith("column:")]
    plain = table.select(names).rename_columns([name.removeprefix("column:") for name in names])
    targets = [table[f"target:{target.name}"].to_numpy() for target in plan.targets]
    places = table.select(["file", "row_group", "row", "id"]).to_pylist()
    return KeptRows(
        [RowRef(**place) for place in places],
        table["fold_key"].to_numpy(),
        plain.to_pylist() if names else [{}] * len(table),
        np.stack(targets, 1) if targets else np.empty((len(table), 0)),
        effect_values(table, plan),
    )


def effect_values(table: pa.Table, plan: Plan) -> np.ndarray[Any, np.dtype[np.float64]] | None:
    """Values (n, E) of the targets with effects, NaN for null; None where the plan has none."""
    names = effect_columns(plan)
    columns = [np.asarray(table[name].to_numpy(zero_copy_only=False), np.float64) for name in names]
    return np.stack(columns, 1) if columns else None


def _kept_codes(table: pa.Table, plan: Plan) -> dict[str, LayerCodes]:
    parts: dict[str, list[LayerCodes]] = {layer.name: [] for layer in plan.layers}
    for block in blocks_of(plan):
        parts[block.layer].append(_block_codes(table, block, plan))
    return {name: LayerCodes.cat(of_layer, dim=1) for name, of_layer in parts.items()}


def _block_codes(table: pa.Table, block: ChannelBlock, plan: Plan) -> LayerCodes:
    """The codes of a block from its columns."""

    def integers(name: str, kind: type, *shape: int) -> torch.Tensor:
        return torch.from_numpy(
            integer_rows(_one_chunk(table[name]), kind).reshape(-1, block.stop - block.start, *shape)
        )

    return LayerCodes(
        integers(codes_column(block), np.uint8, plan.components),
        integers(means_column(block), np.int16),
        integers(effects_column(block), np.int16, plan.effect_targets) if plan.effect_targets else None,
    )


# -- integers as fixed-size binary


def binary_rows(values: torch.Tensor) -> pa.Array:
    """Rows of integers (n, ...) as fixed-size binary (n,)."""
    array = values.contiguous().cpu().numpy()
    width = array.itemsize * int(np.prod(array.shape[1:]))
    return pa.Array.from_buffers(pa.binary(width), len(array), [None, pa.py_buffer(array.tobytes())])


def integer_rows(column: pa.Array, kind: type) -> np.ndarray[Any, Any]:
    """Fixed-size binary (n,) without nulls as integers (n, width), a copy."""
    width = column.type.byte_width
    _, data = column.buffers()
    flat = np.frombuffer(data, np.uint8)[column.offset * width : (column.offset + len(column)) * width]
    return flat.copy().view(kind).reshape(len(column), -1)
