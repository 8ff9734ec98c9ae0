"""EffectSums: exact integer sums over rows from which effects are computed, per channel, target and fold.

Pure tensors: no I/O, no Ray. As with the Gram, the state is a function of the multiset of rows alone: every addend is
an integer, and so any order, partition or grouping of merges gives the same bits.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Final

import torch
from torch import Tensor

from pcace_dist.errors import StatisticsError
from pcace_dist.statistics import tensorfile
from pcace_dist.statistics.effects.grid import MISSING

FORMAT_VERSION: Final = 1
KIND: Final = "sums of effects"
_VALUES_AT_A_TIME = 1 << 20  # that become floats at the same time
_OF_CHANNELS = ("l", "ll", "ly")


class EffectSums:
    """Sums for C channels of one layer and E targets over F folds; rows without a value of a target do not count.

    rows, y, yy: int64 (E, F), number of rows, sums of the target and of its square
    l, ll, ly: int64 (E, C, F), sums of l, of its square, of its product with the target
    """

    def __init__(self, channels: int, effects: int, folds: int, *, device: torch.device | str = "cpu") -> None:
        self.channels, self.effects, self.folds = channels, effects, folds
        self._state = {
            name: torch.zeros(shape, dtype=torch.int64, device=device)
            for name, shape in _shapes(channels, effects, folds).items()
        }

    @property
    def rows(self) -> Tensor:
        return self._state["rows"]

    @property
    def nbytes(self) -> int:
        return sum(tensor.numel() * tensor.element_size() for tensor in self._state.values())

    def state(self) -> dict[str, Tensor]:
        """All sums by name."""
        return dict(self._state)

    def update(self, values: Tensor, targets: Tensor, folds: Tensor, *, channels: slice | None = None) -> EffectSums:
        """Add rows: l int16 (n, C, E), targets int16 (n, E) with MISSING, folds integers (n,).

        With `channels` [start, stop) l is that of some of the channels. The same rows must then follow for all others;
        with those that begin at 0 goes what all channels share.
        """
        block = slice(0, self.channels) if channels is None else channels
        if tuple(values.shape) != (len(targets), block.stop - block.start, self.effects):
            raise StatisticsError(f"effects: l of shape {tuple(values.shape)} for {len(targets)} rows")
        step = max(1, _VALUES_AT_A_TIME // max(1, values[0:1].numel()))
        for first in range(0, len(targets), step):
            rows = slice(first, first + step)
            self._add(values[rows], targets[rows], folds[rows], block)
        return self

    def _add(self, values: Tensor, targets: Tensor, folds: Tensor, block: slice) -> None:
        """Products are exact in float64: below 2^28 each, and below 2^53 in all."""
        known = targets != MISSING
        y = torch.where(known, targets, torch.zeros_like(targets)).double()
        of_fold = torch.nn.functional.one_hot(folds.long(), self.folds).double().T  # (F, n)
        if block.start == 0:
            for name, addend in (("rows", known.double()), ("y", y), ("yy", y.square())):
                self._state[name] += (of_fold @ addend).T.to(torch.int64)
        for index in range(self.effects):
            own = of_fold * known[:, index]
            held = values[:, :, index].double()
            for name, addend in (("l", held), ("ll", held.square()), ("ly", held * y[:, index : index + 1])):
                self._state[name][index, block] += (own @ addend).T.to(torch.int64)

    def merge(self, others: Iterable[EffectSums]) -> EffectSums:
        """Add the rows of others, which stay as they are."""
        for other in others:
            for name, tensor in self._state.items():
                if tensor.shape != other._state[name].shape:
                    raise StatisticsError("sums of effects of different sizes")
                tensor += other._state[name].to(tensor.device)
        return self

    def select(self, channels: slice) -> EffectSums:
        """A copy of some of the channels."""
        return self._with({n: (t[:, channels] if n in _OF_CHANNELS else t).clone() for n, t in self._state.items()})

    def without(self, folds: Iterable[int]) -> EffectSums:
        """A copy without the rows of some folds."""
        result = self.select(slice(None))
        for tensor in result._state.values():
            tensor[..., list(folds)] = 0
        return result

    def to(self, device: torch.device | str) -> EffectSums:
        """A copy on `device`."""
        return self._with({name: tensor.to(device, copy=True) for name, tensor in self._state.items()})

    def _with(self, state: dict[str, Tensor]) -> EffectSums:
        result = EffectSums(state["l"].shape[1], self.effects, self.folds, device="meta")
        result._state = state
        return result

    def to_bytes(self) -> bytes:
        """As a safetensors file; the same bytes for the same state."""
        sizes = {"channels": self.channels, "effects": self.effects, "folds": self.folds}
        header = json.dumps({"format_version": FORMAT_VERSION, **sizes}, sort_keys=True)
        return tensorfile.pack(KIND, header, {n: t.cpu().contiguous() for n, t in self._state.items()})

    @classmethod
    def from_bytes(cls, data: bytes) -> EffectSums:
        """What `to_bytes` wrote; StatisticsError if it is not that."""
        sizes, tensors = tensorfile.unpack(KIND, data)
        if sizes.pop("format_version") != FORMAT_VERSION:
            raise StatisticsError(f"sums of effects: format is not {FORMAT_VERSION}; use the version that wrote it")
        result = cls(**sizes, device="meta")
        found = {name: tuple(tensor.shape) for name, tensor in tensors.items() if tensor.dtype == torch.int64}
        if found != _shapes(**sizes):
            raise StatisticsError("sums of effects: shapes or types are not those of their header")
        result._state = {name: tensors[name] for name in result._state}
        return result


def _shapes(channels: int, effects: int, folds: int) -> dict[str, tuple[int, ...]]:
    shared, own = (effects, folds), (effects, channels, folds)
    return {"rows": shared, "y": shared, "yy": shared, "l": own, "ll": own, "ly": own}


def sums_bytes(channels: int, effects: int, folds: int) -> int:
    """Bytes of such sums."""
    return 8 * 3 * effects * folds * (channels + 1)
