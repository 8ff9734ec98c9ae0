"""GroupAccumulator: the rows that one attempt has of one group, as codes or as Grams, whichever is smaller.

Pure tensors: no I/O, no Ray. Guarantee: codes plus Grams always describe exactly the rows appended, so that
`total(layer)` is the same bits however the rows were split into appends and whenever they were folded.

Rule: rows are held as codes while rows * (C (p+2) + 3T + 1) bytes are fewer than the packed Grams of all
layers would take (and 2 C E + 2E more with E targets that have effects). Beyond, they are folded into Grams (and
sums of effects); later rows wait as codes until there are enough of
them for long products.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pcace_dist.errors import StatisticsError
from pcace_dist.statistics.code_buffer import CodeBuffer
from pcace_dist.statistics.effects.sums import EffectSums, sums_bytes
from pcace_dist.statistics.gram import Gram
from pcace_dist.statistics.plan import LayerCodes, Plan

WAITING_SHARE = 0.25  # of the Grams' bytes: how much waits as codes once there are Grams


@dataclass(frozen=True, eq=False)
class RowCodes:
    """What rows have in common for all layers: folds uint8 (n,), target codes uint8 (n, T), values int16 (n, T), and
    the values int16 (n, E) of targets with effects, MISSING where a row has none; None where the plan has none."""

    folds: Tensor
    target_codes: Tensor
    target_fixed: Tensor
    effect_fixed: Tensor | None = None

    @property
    def rows(self) -> int:
        return int(self.folds.shape[0])

    def take(self, rows: Tensor | slice) -> RowCodes:
        """Some of the rows."""
        if isinstance(rows, slice) or rows.dtype == torch.bool:
            return self.each(lambda part: part[rows])
        return self.each(lambda part: part.index_select(0, rows.to(part.device)))  # faster than an index

    def each(self, change: Callable[[Tensor], Tensor]) -> RowCodes:
        """The same with all its tensors changed."""
        effects = None if self.effect_fixed is None else change(self.effect_fixed)
        return RowCodes(change(self.folds), change(self.target_codes), change(self.target_fixed), effects)

    def without_effects(self) -> RowCodes:
        return RowCodes(self.folds, self.target_codes, self.target_fixed)

    def select_targets(self, targets: slice) -> RowCodes:
        """The same rows with some of the targets."""
        return replace(self, target_codes=self.target_codes[:, targets], target_fixed=self.target_fixed[:, targets])

    @staticmethod
    def cat(parts: list[RowCodes]) -> RowCodes:
        if len(parts) == 1:
            return parts[0]
        effects = [part.effect_fixed for part in parts if part.effect_fixed is not None]
        return RowCodes(
            torch.cat([part.folds for part in parts]),
            torch.cat([part.target_codes for part in parts]),
            torch.cat([part.target_fixed for part in parts]),
            torch.cat(effects) if effects else None,
        )


def row_bytes(plan: Plan) -> int:
    """Bytes of one row of all layers held as codes: sum of C (p+2), plus 3 T + 1; and 2 E for each channel and one."""
    channels, effects = sum(layer.channels for layer in plan.layers), plan.effect_targets
    return channels * (plan.components + 2 + 2 * effects) + 3 * len(plan.targets) + 2 * effects + 1


def gram_bytes(plan: Plan) -> int:
    """Bytes of the packed int32 Grams of all layers, and of the sums of effects."""
    return sum(
        Gram.packed_bytes(layer.channels, plan.components, len(plan.targets), plan.knots, plan.folds)
        + sums_bytes(layer.channels, plan.effect_targets, plan.folds)
        for layer in plan.layers
    )


class GroupAccumulator:
    """The rows of one group, for all layers of a plan. See the module's docstring for the rule and the guarantee."""

    def __init__(self, plan: Plan, *, device: torch.device | str = "cpu") -> None:
        self._plan = plan
        self._device = torch.device(device)
        self._rows: list[RowCodes] = []
        self._codes = CodeBuffer(plan, device=self._device)
        self._layers = {layer.name for layer in plan.layers}
        self._grams: dict[str, Gram] = {}
        self._effects: dict[str, EffectSums] = {}
        self._waiting = 0
        self._row_bytes = row_bytes(plan)
        self._gram_bytes = gram_bytes(plan)
        self.images = 0

    def append(
        self,
        layer_codes: Mapping[str, LayerCodes],
        target_codes: Tensor,
        target_fixed: Tensor,
        folds: Tensor | npt.NDArray[np.integer[Any]],
        effect_fixed: Tensor | None = None,
    ) -> GroupAccumulator:
        """Adds n rows: codes of every layer of the plan, targets uint8 and int16 (n, T), folds (n,), and int16 (n, E)
        where the plan has effects."""
        if set(layer_codes) != self._layers:
            odd = ", ".join(sorted(set(layer_codes) ^ self._layers))
            raise StatisticsError(f"rows of a group: missing or unexpected layers: {odd}")
        device = self._device
        fold_of_row = torch.as_tensor(folds).to(device=device, dtype=torch.uint8)
        rows = RowCodes(fold_of_row, target_codes, target_fixed, effect_fixed).each(lambda part: part.to(device))
        if any(codes.rows != rows.rows for codes in layer_codes.values()) or rows.rows != len(target_codes):
            raise StatisticsError("rows of a group: layers, targets and folds differ in their number of rows")
        self._rows.append(rows)
        self._codes.append({name: codes.to(device) for name, codes in layer_codes.items()})
        self._waiting += rows.rows
        self.images += rows.rows
        share = WAITING_SHARE if self._grams else 1.0
        if self._waiting * self._row_bytes >= share * self._gram_bytes:
            self._fold()
        return self

    @property
    def nbytes(self) -> int:
        """Bytes held now."""
        sums = sum(gram.nbytes for gram in self._grams.values()) + sum(own.nbytes for own in self._effects.values())
        return self._waiting * self._row_bytes + sums

    @property
    def rows(self) -> RowCodes:
        """What the rows still held as codes share."""
        targets, effects = len(self._plan.targets), self._plan.effect_targets
        empty = RowCodes(
            torch.empty(0, dtype=torch.uint8, device=self._device),
            torch.empty((0, targets), dtype=torch.uint8, device=self._device),
            torch.empty((0, targets), dtype=torch.int16, device=self._device),
            torch.empty((0, effects), dtype=torch.int16, device=self._device) if effects else None,
        )
        self._rows = [RowCodes.cat(self._rows)] if self._rows else []
        return self._rows[0] if self._rows else empty

    def codes(self, layer: str, channels: slice = slice(None)) -> LayerCodes | None:
        """A layer's codes (or those of some channels) of the rows still held as codes; None if there are none."""
        return self._codes.codes(layer, channels)

    def gram(self, layer: str) -> Gram | None:
        """A layer's Gram of the rows folded so far; None while all are codes."""
        return self._grams.get(layer)

    def effects(self, layer: str) -> EffectSums | None:
        """A layer's sums of effects of the same rows; None while all are codes, and where the plan has no effects."""
        return self._effects.get(layer)

    def cpu(self) -> GroupAccumulator:
        """The same rows on the CPU: itself where they are there already."""
        if self._device.type == "cpu":
            return self
        copy = GroupAccumulator(self._plan)
        rows = self.rows
        copy._rows = [rows.each(lambda part: part.cpu())]
        for part in self._codes.parts():
            copy._codes.append({name: codes.cpu() for name, codes in part.items()})
        copy._grams = {name: gram.to("cpu") for name, gram in self._grams.items()}
        copy._effects = {name: sums.to("cpu") for name, sums in self._effects.items()}
        copy._waiting, copy.images = self._waiting, self.images
        return copy

    def total(self, layer: str) -> Gram:
        """The Gram of all rows of a layer, a copy."""
        gram = self._grams[layer].copy() if layer in self._grams else self._empty(layer)
        codes = self.codes(layer)
        return gram if codes is None else add_codes(gram, codes, self.rows)

    def _empty(self, layer: str) -> Gram:
        plan = self._plan
        channels = plan.layer(layer).channels
        return Gram(channels, plan.components, len(plan.targets), plan.knots, plan.folds, device=self._device)

    def _effects_of(self, layer: str) -> EffectSums:
        plan = self._plan
        if layer not in self._effects:
            sizes = (plan.layer(layer).channels, plan.effect_targets, plan.folds)
            self._effects[layer] = EffectSums(*sizes, device=self._device)
        return self._effects[layer]

    def _fold(self) -> None:
        """Adds the waiting codes to the Grams, block by block, about CHUNK_ROWS rows at a time. Each block is given up
        as soon as it is added, so that codes and sums are never both in memory for more than a block."""
        shared = self.rows
        for name, channels, place, codes in self._codes.take_out():
            if name not in self._grams:
                self._grams[name] = self._empty(name)
            add_codes(self._grams[name], codes, shared.take(place), channels)
            if self._plan.effect_targets:
                add_effects(self._effects_of(name), codes, shared.take(place), channels)
            del codes
        self._rows = []
        self._waiting = 0


def add_codes(gram: Gram, codes: LayerCodes, rows: RowCodes, channels: slice | None = None) -> Gram:
    """Adds rows held as codes to a Gram of their layer (or of the same block of its channels); with `channels`, those
    of some of the Gram's channels (Gram.update)."""
    return gram.update(codes.codes, codes.means, rows.target_codes, rows.target_fixed, rows.folds, channels=channels)


def add_effects(sums: EffectSums, codes: LayerCodes, rows: RowCodes, channels: slice | None = None) -> EffectSums:
    """Adds rows held as codes to the sums of effects, as `add_codes` does to a Gram."""
    if codes.effects is None or rows.effect_fixed is None:
        raise StatisticsError("codes without effects under a plan with them")
    return sums.update(codes.effects, rows.effect_fixed, rows.folds, channels=channels)
