"""From batches of images to codes: forward, project, encode, and set aside the rows that have no finite value.

Knows the model's forward pass, the plan and the targets; no files, no store, no Ray.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pcace_dist.artifacts.codes.columns import KeptRows
from pcace_dist.config.targets import TargetSpec
from pcace_dist.datasets.loader import Batch
from pcace_dist.datasets.rows import BadRow, RowRef
from pcace_dist.errors import RowError
from pcace_dist.models.device import retry_on_oom, to_device, to_host
from pcace_dist.models.tap import Receive
from pcace_dist.models.targets import target_values
from pcace_dist.statistics.code_buffer import CodeBuffer
from pcace_dist.statistics.group_accumulator import RowCodes
from pcace_dist.statistics.plan import LayerCodes, LayerPlan, Plan
from pcace_dist.statistics.samples import SampleRows, row_key
from pcace_dist.worker.effects.rows import EffectRows, encode_values
from pcace_dist.worker.stage_seconds import StageSeconds

ForwardPass = Callable[[Tensor, Receive], Tensor]
"""Images uint8 (n, C, H, W) and a receiver of maps; gives the outputs (n, O). `Forward`, or what stands in for it."""


@dataclass(frozen=True, eq=False)
class ForwardedBatch:
    """A batch that has been forwarded.

    projected: components (n, C, p) and means (n, C) by layer, on the device. effects: l (n, C, E) by layer, on the
    device; axes: each row's, (n, E), None without effects. wait: waits for the device and gives, on
    the host, the outputs (n, O) and the mask (n,) of the rows that are finite in every layer.
    """

    batch: Batch
    projected: Mapping[str, tuple[Tensor, Tensor]]
    wait: Callable[[], tuple[Tensor, ...]]
    effects: Mapping[str, Tensor] = field(default_factory=dict)
    axes: Tensor | None = None


@dataclass(frozen=True, eq=False)
class EncodedBatch:
    """The n usable rows of a batch as codes, and the rows that were set aside.

    codes: by layer, on the device. rows, refs, groups, labels (None: no label): of the n rows. kept: what is stored
    beside their codes, None where no codes are kept. samples: their components, for the estimator ace alone.
    """

    codes: Mapping[str, LayerCodes]
    rows: RowCodes
    refs: Sequence[RowRef]
    groups: Sequence[Any]
    labels: Sequence[int | None]
    kept: KeptRows | None = None
    samples: SampleRows | None = None
    bad: Sequence[BadRow] = ()


@dataclass(eq=False)
class UnitRows:
    """The usable rows of a unit, in the order of its batches, and the rows that were set aside."""

    codes: CodeBuffer
    rows: list[RowCodes] = field(default_factory=list)
    refs: list[RowRef] = field(default_factory=list)
    groups: list[Any] = field(default_factory=list)
    labels: list[int | None] = field(default_factory=list)
    kept: list[KeptRows] = field(default_factory=list)
    samples: list[SampleRows] = field(default_factory=list)
    bad: list[BadRow] = field(default_factory=list)

    def append(self, batch: EncodedBatch) -> UnitRows:
        self.codes.append(batch.codes)
        self.rows.append(batch.rows)
        self.refs.extend(batch.refs)
        self.groups.extend(batch.groups)
        self.labels.extend(batch.labels)
        self.bad.extend(batch.bad)
        if batch.kept is not None:
            self.kept.append(batch.kept)
        if batch.samples is not None:
            self.samples.append(batch.samples)
        return self

    def __len__(self) -> int:
        return len(self.refs)


class BatchEncoder:
    """Forwards and encodes batches under one plan, on one device."""

    def __init__(
        self,
        plan: Plan,
        layers: Mapping[str, LayerPlan],
        targets: Sequence[TargetSpec],
        *,
        device: torch.device,
        batch_size: int,
        keep_samples: bool = False,
        effects: EffectRows | None = None,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        """`layers`: the plan's, on the device. effects: of the plan, where it has some. `check` is called before every
        batch; what it raises ends the unit."""
        self._plan = plan
        self._layers = layers
        self._targets = targets
        self._device = device
        self._overlaps = device.type == "cuda"  # it computes while the host encodes
        self._batch_size = batch_size
        self._keep_samples = keep_samples
        self._effects = effects
        self._check = check

    def no_rows(self) -> UnitRows:
        """What a unit begins with."""
        return UnitRows(CodeBuffer(self._plan, whole_layers=True, device=self._device))

    def encode(self, passes: Iterable[tuple[Batch, ForwardPass]], seconds: StageSeconds) -> Iterator[EncodedBatch]:
        """Encoded batches, in order. A GPU works on the next batch while this one is encoded.

        Raises JobError where memory does not suffice for one batch, and what `check` or a pass raises.
        """
        waiting: _Waiting | None = None
        for batch, forward in passes:
            self._check()
            forwarded = retry_on_oom(
                partial(self._forward, batch, forward, seconds),
                self._device,
                self._batch_size,
                before=(lambda: None) if waiting is None else waiting.encoded,
            )
            if waiting is not None:
                yield waiting.encoded()
            waiting = _Waiting(partial(self._encode, forwarded, seconds))
            del forwarded  # `waiting` alone holds its tensors
            if not self._overlaps:  # its tensors are in the processor's caches now
                yield waiting.encoded()
                waiting = None
        if waiting is not None:
            yield waiting.encoded()

    def _forward(self, batch: Batch, forward: ForwardPass, seconds: StageSeconds) -> ForwardedBatch:
        """Forward one batch: components of all layers stay on the device, outputs start on their way back."""
        projected: dict[str, tuple[Tensor, Tensor]] = {}
        effects: dict[str, Tensor] = {}
        axes = None if self._effects is None else self._effects.axes_of(batch)
        projector = None if self._effects is None or axes is None else self._effects.projector(axes)

        def receive(name: str, maps: Tensor, _: tuple[int, ...]) -> None:
            with seconds.stage("tap"):
                if name not in self._layers:
                    if projector is not None:
                        projector(name, maps, effects)
                    return
                projected[name] = self._layers[name].project(maps)  # no more: between layers every call is slow

        with seconds.stage("forward"):
            outputs = forward(batch.images, receive)
        with seconds.stage("tap"):
            count = len(batch)
            rows = {name: (components[:count], means[:count]) for name, (components, means) in projected.items()}
            zeros = torch.zeros(count, device=self._device)
            for components, means in rows.values():
                zeros.add_(_zero_if_finite(components)).add_(_zero_if_finite(means))
        return ForwardedBatch(batch, rows, to_host(outputs, zeros == 0), effects, axes)

    def _encode(self, forwarded: ForwardedBatch, seconds: StageSeconds) -> EncodedBatch:
        with seconds.stage("forward"):
            outputs, finite = forwarded.wait()
        with seconds.stage("statistics"):
            batch = forwarded.batch
            values, reasons = target_values(self._targets, outputs, batch.labels, batch.columns)
            usable, bad = _sort_out(batch, finite.numpy(), values, reasons)
            effect_values = None
            if self._effects is not None and forwarded.axes is not None:
                effect_values = self._effects.values(outputs, batch, forwarded.axes)[usable]
            return self._encode_rows(forwarded, values[usable], effect_values, usable, bad)

    def _encode_rows(
        self,
        forwarded: ForwardedBatch,
        values: np.ndarray,
        effect_values: np.ndarray | None,
        usable: np.ndarray,
        bad: Sequence[BadRow],
    ) -> EncodedBatch:
        """`usable`: the mask of the rows to encode; their targets float64 (n, T) and those with effects (n, E)."""
        batch, projected, effects = forwarded.batch, forwarded.projected, forwarded.effects
        index = np.flatnonzero(usable)
        if len(index) < len(batch):  # else no copy: it would wait for a GPU that is at the next batch already
            on_device = to_device(torch.from_numpy(index), self._device)
            projected = {name: (parts[0][on_device], parts[1][on_device]) for name, parts in projected.items()}
            effects = {name: part[on_device] for name, part in effects.items()}
        rows = index.tolist()
        refs = [batch.refs[i] for i in rows]
        fold_keys = batch.fold_keys[usable]
        kept_rows, samples = None, None
        if batch.kept is not None:
            kept_rows = KeptRows(refs, fold_keys, [batch.kept[i] for i in rows], values, effect_values)
        if self._keep_samples:
            keys = torch.tensor([row_key(f"{ref.file}#{ref.row}") for ref in refs], dtype=torch.int64)
            on_host = {name: components.cpu() for name, (components, _) in projected.items()}
            samples = SampleRows(keys, torch.from_numpy(values), on_host)
        return EncodedBatch(
            codes={name: self._codes_of(name, parts, effects) for name, parts in projected.items()},
            rows=row_codes(self._plan, values, fold_keys, effect_values),
            refs=refs,
            groups=[None if batch.groups is None else batch.groups[i] for i in rows],
            labels=_labels(batch, usable),
            kept=kept_rows,
            samples=samples,
            bad=bad,
        )

    def _codes_of(self, layer: str, parts: tuple[Tensor, Tensor], effects: Mapping[str, Tensor]) -> LayerCodes:
        codes = self._layers[layer].encode(*parts)
        return codes if self._effects is None else replace(codes, effects=self._effects.encode(layer, effects[layer]))


class _Waiting:
    """A forwarded batch that is encoded when it is first asked for. Its tensors are released then."""

    def __init__(self, encode: Callable[[], EncodedBatch]) -> None:
        self._encode: Callable[[], EncodedBatch] | None = encode
        self._encoded: EncodedBatch | None = None

    def encoded(self) -> EncodedBatch:
        if self._encoded is None:
            assert self._encode is not None
            self._encoded, self._encode = self._encode(), None
        return self._encoded


def row_codes(
    plan: Plan, targets: np.ndarray, fold_keys: np.ndarray, effect_targets: np.ndarray | None = None
) -> RowCodes:
    """Rows from their target values float64 (n, T), their fold keys uint64 (n,), and, where the plan has effects, the
    values float64 (n, E) of targets that have some, NaN where a row has none."""
    target_codes, target_fixed = plan.encode_targets(targets)
    folds = torch.from_numpy((fold_keys % np.uint64(plan.folds)).astype(np.uint8))
    known = plan.effects is not None and effect_targets is not None and plan.effect_targets
    fixed = encode_values(plan.effects, effect_targets) if known else None  # type: ignore[arg-type]
    return RowCodes(folds, target_codes, target_fixed, fixed)


def _zero_if_finite(values: Tensor) -> Tensor:
    """0 (n,) for each row of values (n, ...) that are all finite, NaN for the others: two operations, where to ask
    which values are finite takes six."""
    return values.mul(0).flatten(1).sum(1)


def _sort_out(
    batch: Batch, finite: np.ndarray, values: np.ndarray, reasons: Mapping[int, str]
) -> tuple[np.ndarray, list[BadRow]]:
    """The mask (n,) of the usable rows, and every other row with its reason.

    finite: the mask of the rows whose activations are finite; values: targets (n, T); reasons: of rows without one.
    """
    usable = np.asarray(finite & np.isfinite(values).all(1))
    bad = []
    for i in np.flatnonzero(~usable).tolist():
        stage, reason = (
            ("target", reasons.get(i, "the target is NaN or infinite"))
            if finite[i]
            else ("model", "an activation is NaN or infinite")
        )
        bad.append(BadRow.of(batch.refs[i], RowError(stage, reason)))
    return usable, bad


def _labels(batch: Batch, usable: np.ndarray) -> list[int | None]:
    """The class index of each usable row; None where there is none."""
    if batch.labels is None:
        return [None] * int(usable.sum())
    return [None if label < 0 else label for label in batch.labels[usable].tolist()]
