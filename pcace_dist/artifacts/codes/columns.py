"""Columns of a codes file: their names, their schema, and the integers in them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from pcace_dist.artifacts.attempt import ChannelBlock, blocks_of
from pcace_dist.datasets.rows import RowRef
from pcace_dist.statistics.plan import LayerCodes, Plan

VERSION = 1

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
    made_by = {"format_version": VERSION, "plan": plan.digest, "components": plan.components, "knots": plan.knots}
    return pa.schema(fields, metadata={"pcace": json.dumps(made_by)})


# -- integers as fixed-size binary


def codes_of_block(table: pa.Table, block: ChannelBlock, plan: Plan) -> LayerCodes:
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


def effect_values(table: pa.Table, plan: Plan) -> np.ndarray[Any, np.dtype[np.float64]] | None:
    """Values (n, E) of the targets with effects, NaN for null; None where the plan has none."""
    names = effect_columns(plan)
    columns = [np.asarray(table[name].to_numpy(zero_copy_only=False), np.float64) for name in names]
    return np.stack(columns, 1) if columns else None


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


def _one_chunk(column: pa.ChunkedArray) -> pa.Array:
    return column.chunk(0) if column.num_chunks == 1 else pa.concat_arrays(column.chunks)
