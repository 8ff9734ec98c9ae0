"""The files of one attempt: what a worker has accumulated since its last flush, written before the receipt is given.

    attempts/<id>/rows.arrow            a row per group: fold, target code, fixed-point target of the rows kept as codes
    attempts/<id>/block-00012.arrow     a row per group: codes, means and Gram of at most 64 channels of one layer, and
                                        l and the sums of effects where the plan has effects
    attempts/<id>/samples.arrow         estimator ace: a row per group with every row's key and target values
    attempts/<id>/samples-00012.arrow   estimator ace: a row per group with the components of one block's channels
    attempts/<id>/codes.parquet         statistics.keep_codes: every row's codes (codes.py)
    attempts/<id>/bad_rows.parquet      rows that were set aside, if any

and the example rows (examples.py).

Arrow IPC files with plain binary columns; a reduce task reads only its own block. Nothing is pickled. Knows the store
and the statistic, not Ray.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from pcace_dist.artifacts.bad_rows import BAD_ROWS, bad_rows_table, stages_of
from pcace_dist.artifacts.encoding import ipc_bytes, parquet_bytes
from pcace_dist.datasets.rows import BadRow
from pcace_dist.ledger.ledger import FileRef, Receipt
from pcace_dist.statistics.code_buffer import BLOCK_CHANNELS
from pcace_dist.statistics.effects.sums import EffectSums
from pcace_dist.statistics.gram import Gram
from pcace_dist.statistics.group_accumulator import GroupAccumulator, RowCodes
from pcace_dist.statistics.plan import LayerCodes, Plan
from pcace_dist.statistics.samples import SampleRows
from pcace_dist.storage.store import Store

CODES_FILE = "codes.parquet"
_INHERITED = re.compile(r"g(\d+)-")
ATTEMPT = r"(?:g\d{5}-)?e(?P<epoch>\d{5})-[a-z]+\d*-f\d{5}"  # how attempts and their files are named, as patterns
ATTEMPT_FILE = r"[a-z_]+(?:-\d{5})?\.(?:arrow|parquet|safetensors)"


_BLOCK_SCHEMA = pa.schema(
    [
        ("group_index", pa.int32()),
        ("codes", pa.large_binary()),
        ("means", pa.large_binary()),
        ("gram", pa.large_binary()),
    ]
)
_EFFECTS = pa.schema([("effects", pa.large_binary()), ("effect_sums", pa.large_binary())])  # of plans with effects


@dataclass(frozen=True)
class ChannelBlock:
    """At most 64 neighbouring channels of one layer: the unit of a reduce task."""

    index: int
    layer: str
    start: int
    stop: int

    @property
    def channels(self) -> slice:
        return slice(self.start, self.stop)

    @property
    def file(self) -> str:
        return f"block-{self.index:05d}.arrow"

    @property
    def sample_file(self) -> str:
        return f"samples-{self.index:05d}.arrow"


@dataclass(frozen=True)
class BlockPart:
    """What one attempt holds for one group and one block: code rows, sums (a Gram, and those of effects), or both."""

    group: Any
    codes: LayerCodes | None
    rows: RowCodes
    gram: Gram | None
    effects: EffectSums | None = None


def blocks_of(plan: Plan) -> list[ChannelBlock]:
    """All blocks of a plan in layer order, then channel order."""
    spans = [
        (layer.name, start, min(start + BLOCK_CHANNELS, layer.channels))
        for layer in plan.layers
        for start in range(0, layer.channels, BLOCK_CHANNELS)
    ]
    return [ChannelBlock(index, *span) for index, span in enumerate(spans)]


def attempt_key(attempt: str, file: str) -> str:
    return f"attempts/{attempt}/{file}"


def write_attempt(
    store: Store,
    attempt: str,
    plan: Plan,
    accumulators: Mapping[Any, GroupAccumulator],
    bad: Sequence[BadRow],
    samples: Mapping[Any, SampleRows],
    codes: bytes | None = None,
    examples: Mapping[str, bytes] | None = None,
) -> dict[str, FileRef]:
    """Write all files of an attempt and return their sizes and digests, for the receipt.

    codes: a codes file; examples: the files of examples.py.
    """
    files: dict[str, FileRef] = {}

    def put(name: str, data: bytes) -> None:
        store.put(attempt_key(attempt, name), data)
        files[name] = FileRef(size=len(data), sha256=hashlib.sha256(data).hexdigest())

    groups = list(accumulators)
    if groups:
        put("rows.arrow", _rows_file(plan, groups, accumulators))
        for block in blocks_of(plan):
            put(block.file, _block_file(plan, block, groups, accumulators))
    if samples:
        put("samples.arrow", _samples_file(list(samples), samples))
        for block in blocks_of(plan):
            parts = [_bytes(rows.components[block.layer][:, block.channels]) for rows in samples.values()]
            put(block.sample_file, ipc_bytes(pa.table({"components": pa.array(parts, pa.large_binary())})))
    if codes is not None:
        put(CODES_FILE, codes)
    for name, data in (examples or {}).items():
        put(name, data)
    if bad:
        put(BAD_ROWS, parquet_bytes(bad_rows_table(bad)))
    return files


def read_attempt_file(store: Store, attempt: str, name: str, ref: FileRef) -> bytes:
    """A file of an accepted attempt. Raises CorruptAttempt when it is missing or not the bytes of the receipt."""
    for _ in range(2):  # bytes that were garbled on the way are right the second time
        data = store.get(attempt_key(attempt, name))
        if data is None:
            raise CorruptAttempt(attempt, f"{name} is missing")
        if len(data) == ref.size and hashlib.sha256(data).hexdigest() == ref.sha256:
            return data
    raise CorruptAttempt(attempt, f"{name} is not what its receipt says")


def attempts_with_bad(store: Store, receipts: Iterable[Receipt], stage: str) -> list[str]:
    """Attempts that set rows aside at this stage (column of bad_rows.parquet), or whose list of them is damaged."""
    attempts = []
    for receipt in receipts:
        ref = receipt.files.get(BAD_ROWS)
        try:
            if ref is None or stage not in stages_of(read_attempt_file(store, receipt.attempt, BAD_ROWS, ref)):
                continue
        except CorruptAttempt:
            pass
        attempts.append(receipt.attempt)
    return attempts


class CorruptAttempt(Exception):
    """An accepted attempt can no longer be read: it must be retracted and redone (docs/protocol.md, item 9)."""

    def __init__(self, attempt: str, reason: str) -> None:
        super().__init__(attempt, reason)
        self.attempt = attempt
        self.reason = reason


def read_rows(data: bytes) -> tuple[list[Any], list[RowCodes]]:
    """Groups of an attempt, and for each the part of its rows that is held as codes."""
    table = pa.ipc.open_file(pa.BufferReader(data)).read_all()
    targets, effects = (int(table.schema.metadata.get(name, 0)) for name in (b"targets", b"effects"))
    return table["group"].to_pylist(), [_row_codes(record, targets, effects) for record in table.to_pylist()]


def _row_codes(record: Mapping[str, Any], targets: int, effects: int) -> RowCodes:
    return RowCodes(
        folds=_tensor(record["folds"], np.uint8, (-1,)),
        target_codes=_tensor(record["target_codes"], np.uint8, (-1, targets)),
        target_fixed=_tensor(record["target_fixed"], np.int16, (-1, targets)),
        effect_fixed=_tensor(record["effect_fixed"], np.int16, (-1, effects)) if effects else None,
    )


def read_block(
    block: ChannelBlock, components: int, data: bytes, groups: Sequence[Any], rows: Sequence[RowCodes]
) -> Iterator[BlockPart]:
    """The parts of one block file, a part per group."""
    for record in pa.ipc.open_file(pa.BufferReader(data)).read_all().to_pylist():
        index, sums = record["group_index"], record.get("effect_sums")
        codes = None if record["codes"] is None else _layer_codes(record, block, components, rows[index])
        gram = None if record["gram"] is None else Gram.from_bytes(record["gram"])
        effects = None if sums is None else EffectSums.from_bytes(sums)
        yield BlockPart(groups[index], codes, rows[index], gram, effects)


def _layer_codes(record: Mapping[str, Any], block: ChannelBlock, components: int, rows: RowCodes) -> LayerCodes:
    channels = block.stop - block.start
    fixed = rows.effect_fixed
    return LayerCodes(
        codes=_tensor(record["codes"], np.uint8, (-1, channels, components)),
        means=_tensor(record["means"], np.int16, (-1, channels)),
        effects=None if fixed is None else _tensor(record["effects"], np.int16, (-1, channels, fixed.shape[1])),
    )


def read_samples(block: ChannelBlock, plan: Plan, rows: bytes, components: bytes) -> Iterator[tuple[Any, SampleRows]]:
    """Groups of an attempt with the sample rows of one block."""
    shared = pa.ipc.open_file(pa.BufferReader(rows)).read_all().to_pylist()
    of_block = pa.ipc.open_file(pa.BufferReader(components)).read_all()["components"].to_pylist()
    shape = (-1, block.stop - block.start, plan.components)
    for record, data in zip(shared, of_block, strict=True):
        keys = _tensor(record["keys"], np.int64, (-1,))
        targets = _tensor(record["targets"], np.float64, (-1, len(plan.targets)))
        yield record["group"], SampleRows(keys, targets, {block.layer: _tensor(data, np.float32, shape)})


def _rows_file(plan: Plan, groups: list[Any], accumulators: Mapping[Any, GroupAccumulator]) -> bytes:
    parts = [accumulators[group].rows for group in groups]
    columns = {
        "group": pa.array(groups),
        "folds": pa.array([_bytes(rows.folds) for rows in parts], pa.large_binary()),
        "target_codes": pa.array([_bytes(rows.target_codes) for rows in parts], pa.large_binary()),
        "target_fixed": pa.array([_bytes(rows.target_fixed) for rows in parts], pa.large_binary()),
    }
    facts = {"targets": str(len(plan.targets))}
    if plan.effect_targets:
        facts["effects"] = str(plan.effect_targets)
        columns["effect_fixed"] = pa.array([_bytes_or_none(rows.effect_fixed) for rows in parts], pa.large_binary())
    return ipc_bytes(pa.table(columns).replace_schema_metadata(facts))


def _samples_file(groups: list[Any], samples: Mapping[Any, SampleRows]) -> bytes:
    return ipc_bytes(
        pa.table(
            {
                "group": pa.array(groups),
                "keys": pa.array([_bytes(samples[group].keys) for group in groups], pa.large_binary()),
                "targets": pa.array([_bytes(samples[group].targets) for group in groups], pa.large_binary()),
            }
        )
    )


def _block_file(
    plan: Plan, block: ChannelBlock, groups: list[Any], accumulators: Mapping[Any, GroupAccumulator]
) -> bytes:
    schema = pa.schema([*_BLOCK_SCHEMA, *_EFFECTS]) if plan.effect_targets else _BLOCK_SCHEMA
    records = [{"group_index": index} | _held(accumulators[group], block) for index, group in enumerate(groups)]
    return ipc_bytes(pa.table({name: [record[name] for record in records] for name in schema.names}, schema=schema))


def _held(accumulator: GroupAccumulator, block: ChannelBlock) -> dict[str, Any]:
    """What one group holds of a block, by column."""
    codes = accumulator.codes(block.layer, block.channels)
    gram, effects = accumulator.gram(block.layer), accumulator.effects(block.layer)
    return {
        "codes": None if codes is None else _bytes(codes.codes),
        "means": None if codes is None else _bytes(codes.means),
        "effects": None if codes is None else _bytes_or_none(codes.effects),
        "gram": None if gram is None else gram.select(block.channels).to_bytes(),
        "effect_sums": None if effects is None else effects.select(block.channels).to_bytes(),
    }


def _bytes_or_none(tensor: torch.Tensor | None) -> bytes | None:
    return None if tensor is None else _bytes(tensor)


def _bytes(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().cpu().numpy().tobytes()


def _tensor(data: bytes, dtype: type, shape: tuple[int, ...]) -> torch.Tensor:
    return torch.from_numpy(np.frombuffer(data, dtype).reshape(shape).copy())


def is_inherited(attempt: str) -> bool:
    """Whether an attempt of a run was taken over from the run that it extends."""
    return _INHERITED.match(attempt) is not None
