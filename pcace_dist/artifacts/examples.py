"""Example rows: the exemplars of every channel and a random sample of all rows, in two Parquet files.

    attempts/<id>/exemplars.safetensors   the rows with the largest mean activation of every channel
    attempts/<id>/sample.arrow            the sampled rows with their codes
    exemplars.parquet, sample.parquet     the same of the whole run (docs/outputs.md)

They are by-products of the codes that a worker has in hand anyway. The report reads these rows' images again. No score
depends on them. Knows the store, not Ray.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch import Tensor

from pcace_dist.artifacts.attempt import read_attempt_file
from pcace_dist.artifacts.columns import CHANNEL, GROUP, LAYER, PLACE, Column, Table
from pcace_dist.artifacts.encoding import ipc_bytes, parquet_bytes
from pcace_dist.datasets.rows import RowRef
from pcace_dist.ledger.ledger import Receipt
from pcace_dist.statistics.exemplars import RowRefs, RowSample, SampledRows, TopRows
from pcace_dist.statistics.group_accumulator import RowCodes
from pcace_dist.statistics.plan import LayerCodes, Plan
from pcace_dist.storage.store import Sink, Store

EXEMPLARS = "exemplars.safetensors"
SAMPLE = "sample.arrow"

EXEMPLARS_TABLE = Table(
    "exemplars.parquet",
    "For every channel the 16 rows with the largest mean activation, over all groups. A row per layer, channel and "
    "place, sorted so. With `shown: none` in the job, file, row_group and row are null.",
    (
        LAYER,
        CHANNEL,
        Column("place", "int32", "0 is the largest"),
        *PLACE,
        Column("mean_activation", "float64", "mean of the map, rounded to the plan's grid"),
    ),
)
SAMPLE_TABLE = Table(
    "sample.parquet",
    "A uniform sample of the rows that counted (512 to 4,096), sorted by key. With `shown: none` in the job, file, "
    "row_group and row are null.",
    (
        *PLACE,
        Column("key", "int64", "hash of file and row; the smallest are the sample"),
        Column("group", GROUP, "the value of `group_by`; null without one"),
        Column("label", "int64", "class index; null without `dataset.label`"),
        Column("fold", "uint8", "fold of the jackknife, from 0"),
        Column("targets", "list of float64", "a value per target, in the order of the job, on the plan's grid"),
        Column("target_codes", "list of uint8", "position of each target on its knots, as counted"),
        Column("target_fixed", "list of int16", "each target on the plan's grid, as counted"),
        Column("codes/<layer>", "list of uint8", "positions on the knots, channels x components (method.md, 2)"),
        Column("means/<layer>", "list of int16", "mean of each channel's map on the plan's grid"),
    ),
)


class ExampleRows:
    """The example rows of one worker, of one merge task or of the whole run."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self.top = TopRows.of(plan)
        self.sample = RowSample.of(plan)

    def update(
        self,
        codes: Mapping[str, LayerCodes],
        shared: RowCodes,
        refs: Sequence[RowRef],
        groups: Sequence[object],
        labels: Sequence[int | None],
    ) -> None:
        """Add the good rows of a finished unit: codes on the CPU, and one entry per row of everything else."""
        rows = RowRefs.of([ref.file for ref in refs], [ref.row_group for ref in refs], [ref.row for ref in refs])
        self.top.update({name: layer_codes.means for name, layer_codes in codes.items()}, rows)
        self.sample.update(SampledRows(rows, codes, shared, tuple(groups), tuple(labels)))

    def merge(self, others: Iterable[ExampleRows]) -> ExampleRows:
        """Add the example rows of others, which stay as they are."""
        for other in others:
            self.top.merge([other.top])
            self.sample.merge([other.sample])
        return self

    @property
    def nbytes(self) -> int:
        return self.top.nbytes + self.sample.nbytes

    def files(self) -> dict[str, bytes]:
        """The files of an attempt by name; none while no row was added."""
        rows = self.sample.rows()
        if rows is None:
            return {}
        return {EXEMPLARS: self.top.to_bytes(), SAMPLE: sample_bytes(rows, self._plan)}

    @classmethod
    def from_files(cls, plan: Plan, files: Mapping[str, bytes]) -> ExampleRows:
        """The example rows that `files` wrote."""
        examples = cls(plan)
        if EXEMPLARS in files:
            examples.top = TopRows.from_bytes(files[EXEMPLARS])
            examples.sample.update(sample_from(files[SAMPLE], plan))
        return examples


def merge_examples(store: Store, plan: Plan, receipts: Iterable[Receipt]) -> dict[str, bytes]:
    """Merge the example rows of some accepted attempts; a task of the reduce. Raises CorruptAttempt."""
    total = ExampleRows(plan)
    for receipt in receipts:
        names = [name for name in (EXEMPLARS, SAMPLE) if name in receipt.files]
        files = {name: read_attempt_file(store, receipt.attempt, name, receipt.files[name]) for name in names}
        total.merge([ExampleRows.from_files(plan, files)])
    return total.files()


# -- tables


def sample_table(rows: SampledRows, plan: Plan, group_type: pa.DataType | None = None) -> pa.Table:
    """A row per sampled row, a column of codes and one of means per layer (docs/outputs.md)."""
    columns = {
        "file": pa.array([rows.refs.files[i] for i in rows.refs.file], pa.string()),
        "row_group": pa.array(rows.refs.row_group, pa.int32()),
        "row": pa.array(rows.refs.row, pa.int64()),
        "key": pa.array(rows.refs.key, pa.int64()),
        "group": pa.array(rows.groups, group_type),
        "label": pa.array(rows.labels, pa.int64()),
        "fold": pa.array(rows.shared.folds.numpy(), pa.uint8()),
        "targets": _lists(decoded_targets(rows.shared.target_fixed, plan)),
        "target_codes": _lists(rows.shared.target_codes.numpy()),
        "target_fixed": _lists(rows.shared.target_fixed.numpy()),
    }
    for layer in plan.layers:
        layer_codes = rows.codes[layer.name]
        columns[f"codes/{layer.name}"] = _lists(layer_codes.codes.flatten(1).numpy())
        columns[f"means/{layer.name}"] = _lists(layer_codes.means.numpy())
    return pa.table(columns)


def sample_bytes(rows: SampledRows, plan: Plan) -> bytes:
    """`sample_table` as an Arrow IPC file."""
    return ipc_bytes(sample_table(rows, plan))


def sample_from(data: bytes, plan: Plan) -> SampledRows:
    """The rows that `sample_bytes` wrote."""
    table = pa.ipc.open_file(pa.BufferReader(data)).read_all()
    refs = RowRefs.of(*(table[name].to_pylist() for name in ("file", "row_group", "row")))
    codes = {
        layer.name: LayerCodes(
            _tensor(table[f"codes/{layer.name}"]).reshape(len(table), layer.channels, plan.components),
            _tensor(table[f"means/{layer.name}"]),
        )
        for layer in plan.layers
    }
    folds = torch.from_numpy(table["fold"].to_numpy().copy())
    shared = RowCodes(folds, _tensor(table["target_codes"]), _tensor(table["target_fixed"]))
    return SampledRows(refs, codes, shared, tuple(table["group"].to_pylist()), tuple(table["label"].to_pylist()))


def exemplars_table(top: TopRows, plan: Plan) -> pa.Table:
    """A row per layer, channel and place (0 is the largest mean), sorted so (docs/outputs.md)."""
    refs = top.refs
    files = np.array(refs.files, dtype=object)[refs.file] if len(refs) else np.empty(0, dtype=object)
    parts = []
    for layer in plan.layers:
        means, index = top.layer(layer.name)
        order = index.T.reshape(-1).numpy()  # channel by channel
        places, channels = means.shape
        values = layer.mean_centre.double() + layer.mean_unit.double() * means.double()
        parts.append(
            pa.table(
                {
                    "layer": pa.array([layer.name] * len(order), pa.string()),
                    "channel": pa.array(np.repeat(np.arange(channels), places), pa.int32()),
                    "place": pa.array(np.tile(np.arange(places), channels), pa.int32()),
                    "file": pa.array(files[order], pa.string()),
                    "row_group": pa.array(refs.row_group[order], pa.int32()),
                    "row": pa.array(refs.row[order], pa.int64()),
                    "mean_activation": pa.array(values.T.reshape(-1).numpy(), pa.float64()),
                }
            )
        )
    return pa.concat_tables(parts)


def decoded_targets(fixed: Tensor, plan: Plan) -> npt.NDArray[np.float64]:
    """Targets (n, T) as float64, from their fixed-point values: exact to the grid's unit, the same on all machines."""
    centre = np.array([target.centre for target in plan.targets])
    unit = np.array([target.unit for target in plan.targets])
    return np.asarray(centre + unit * fixed.numpy(), np.float64)


def _lists(values: npt.NDArray[np.generic]) -> pa.Array:
    """A matrix as a column of lists of one length."""
    flat = pa.array(np.ascontiguousarray(values).reshape(-1))
    return pa.FixedSizeListArray.from_arrays(flat, values.shape[1])


def _tensor(column: pa.ChunkedArray) -> Tensor:
    """A column of lists of one length as a matrix."""
    lists = column.combine_chunks()
    flat = lists.flatten().to_numpy(zero_copy_only=False)
    return torch.from_numpy(flat.reshape(len(lists), lists.type.list_size).copy())


def publish_examples(
    sink: Sink, plan: Plan, parts: Sequence[Mapping[str, bytes]], group_type: pa.DataType, *, named: bool
) -> None:
    """exemplars.parquet and sample.parquet, from what `merge_examples` gave; nothing where no images were read.

    named: whether they say which images these are; else file, row group and row are null.
    """
    if not parts:
        return
    total = ExampleRows(plan).merge(ExampleRows.from_files(plan, part) for part in parts)
    rows = total.sample.rows()
    tables = {EXEMPLARS_TABLE.file: exemplars_table(total.top, plan)}
    if rows is not None:
        tables[SAMPLE_TABLE.file] = sample_table(rows, plan, group_type)
    for file, table in tables.items():
        sink.put(file, parquet_bytes(table if named else without_places(table)))


def without_places(table: pa.Table) -> pa.Table:
    """A table of rows without what leads to their images: file, row group and row are null."""
    for column in PLACE:
        index = table.column_names.index(column.name)
        table = table.set_column(index, column.name, pa.nulls(len(table), table[column.name].type))
    return table
