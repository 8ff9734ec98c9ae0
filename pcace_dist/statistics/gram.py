"""Gram: the statistic behind all scores. Integer sums over rows, for each channel, target and fold.

Pure tensors: no I/O, no Ray. Guarantee: the state is a function of the multiset of rows alone. Any order, any
partition into updates, any grouping of merges gives the same bits, because every addend is an integer, every product is
exact (chunks are short enough for float32's 2^24, and a self-test on the device proves it), and sums are widened from
int32 to int64 before they could overflow.

With z = [hats of y | hats of x_1 | ... | hats of x_p] (basis.py), the state holds the distinct entries of
the sums of z z^T: x-x packed (the diagonal blocks are tridiagonal and symmetric), x-y, y-y; and the
fixed-point sums behind the mean activation and Pearson's correlation.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pcace_dist.errors import StatisticsError
from pcace_dist.statistics import basis, pages, tensorfile
from pcace_dist.statistics.effects.grid import GRID
from pcace_dist.statistics.loops.row_products import add_products, are_worth_it
from pcace_dist.statistics.products import Index, packed_size, products

FORMAT_VERSION: Final = 1
MAX_ROWS: Final = (2**63 - 1) // GRID**2  # beyond this the fixed-point squares could leave int64
_ROWS_AT_A_TIME = 1 << 14  # at most so many rows are added at a time to the sums that are no products,
_CODES_AT_A_TIME = 1 << 20  # and at most so many codes, which are converted to floats
_CHANNEL_AXIS = {"xx": 0, "xy": 1, "mean_sum": 0, "mean_square": 0, "mean_target": 1, "clamped": 0}
_PRODUCTS = ("xx", "xy")  # int32 while every fold stays under `narrow_limit` rows


def narrow_limit(knots: int) -> int:
    """Rows of a fold up to which its sums fit in int32: (2^31 - 1) // S^2."""
    return int((2**31 - 1) // basis.unit_scale(knots) ** 2)


def _ends(codes: Tensor, top: int) -> Tensor:
    """Number of rows (...,) whose code (n, ...) is 0 or `top`; exact for n * 255 < 2^24.

    Computed from sums of clamped bytes, which is several times faster than comparisons.
    """
    every = torch.ones(len(codes), device=codes.device)
    above = every @ codes.clamp(max=1).flatten(1).float()
    below = every @ codes.clamp(min=top - 1).flatten(1).float()
    return (below - above - len(codes) * (top - 2)).reshape(codes.shape[1:])


def _place(name: str, channels: slice) -> Index:
    """The index of some channels in a tensor of the state; everything, where channels share the tensor."""
    return (slice(None),) * _CHANNEL_AXIS[name] + (channels,) if name in _CHANNEL_AXIS else ()


class Gram:
    """Exact integer sums over rows for C channels of one layer and T targets, by fold. See the module.

    rows int64 (F,) · xx (C, F, XX) and xy (T, C, F, p*K*K), int32 or int64 · yy int64 (T, F, K*K) ·
    mean_sum, mean_square int64 (C,) · mean_target int64 (T, C) · target_sum, target_square int64 (T,) ·
    clamped int64 (C, p): codes at the first or last knot.
    """

    def __init__(
        self,
        channels: int,
        components: int,
        targets: int,
        knots: int,
        folds: int,
        *,
        device: torch.device | str = "cpu",
    ) -> None:
        basis.unit_scale(knots)
        self.channels = channels
        self.components = components
        self.targets = targets
        self.knots = knots
        self.folds = folds
        self._state = {
            name: pages.zeros(shape, torch.int32 if name in _PRODUCTS else torch.int64, device)
            for name, shape in self._shapes().items()
        }

    # State
    # ------------------------------------------------------------------------------------------------

    @property
    def sizes(self) -> dict[str, int]:
        """The constructor's arguments."""
        return {
            "channels": self.channels,
            "components": self.components,
            "targets": self.targets,
            "knots": self.knots,
            "folds": self.folds,
        }

    @property
    def device(self) -> torch.device:
        return self._state["rows"].device

    @property
    def images(self) -> int:
        """Rows in all."""
        return int(self._state["rows"].sum())

    @property
    def nbytes(self) -> int:
        return sum(tensor.numel() * tensor.element_size() for tensor in self._state.values())

    def __getattr__(self, name: str) -> Tensor:
        state = self.__dict__.get("_state", {})
        if name in state:
            tensor: Tensor = state[name]
            return tensor
        raise AttributeError(name)

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        channels, components, targets = self.channels, self.components, self.targets
        return {
            "rows": (self.folds,),
            "xx": (channels, self.folds, packed_size(components, self.knots)),
            "xy": (targets, channels, self.folds, components * self.knots**2),
            "yy": (targets, self.folds, self.knots**2),
            "mean_sum": (channels,),
            "mean_square": (channels,),
            "mean_target": (targets, channels),
            "target_sum": (targets,),
            "target_square": (targets,),
            "clamped": (channels, components),
        }

    @staticmethod
    def packed_bytes(
        channels: int, components: int, targets: int, knots: int, folds: int, dtype: torch.dtype = torch.int32
    ) -> int:
        """Size in bytes of such a Gram with x-x and x-y sums of `dtype`."""
        product_sums = channels * folds * (packed_size(components, knots) + targets * components * knots**2)
        other_sums = folds + targets * folds * knots**2 + channels * (2 + targets + components) + 2 * targets
        return product_sums * dtype.itemsize + other_sums * 8

    # Operations
    # ----------------------------------------------------------------------------------------

    def update(
        self,
        codes: Tensor,
        means: Tensor,
        target_codes: Tensor,
        target_fixed: Tensor,
        folds: Tensor | npt.NDArray[np.integer[Any]],
        *,
        channels: slice | None = None,
    ) -> Gram:
        """Adds rows.

        codes: uint8 (n, C, p); means: int16 (n, C); target_codes: uint8 (n, T); target_fixed: int16 (n, T);
        folds: integers (n,) in [0, F).
        With `channels` [start, stop), codes and means are those of some channels. The same rows must then be added for
        all other channels too. The block that begins at 0 must be the first: with it, the sums that all channels share
        are updated.
        """
        block = slice(0, self.channels) if channels is None else channels
        fold_of_row = torch.as_tensor(folds).to(device=codes.device, dtype=torch.int64)
        self._check_rows(codes, means, target_codes, target_fixed, fold_of_row, block.stop - block.start)
        counts = torch.bincount(fold_of_row, minlength=self.folds)
        if block.start == 0:
            self._make_room(counts.to(self.device))
        if self.device.type == "cpu" and are_worth_it(codes, self.targets):
            xx, xy = (self._state[name][_place(name, block)] for name in _PRODUCTS)
            yy = self._state["yy"] if block.start == 0 else None
            add_products(codes, target_codes, fold_of_row, self.knots, xx, xy, yy)
        else:
            self._multiply(codes, target_codes, fold_of_row, counts.tolist(), block)
        step = max(1, min(_ROWS_AT_A_TIME, _CODES_AT_A_TIME // max(1, codes[0:1].numel())))
        for first in range(0, len(codes), step):
            rows = slice(first, first + step)
            for name, values in self._moments(codes[rows], means[rows], target_fixed[rows]):
                if block.start == 0 or name in _CHANNEL_AXIS:
                    self._add(name, (), values, channels=block)
        if block.start == 0:
            self._add("rows", (), counts)
        return self

    def merge(self, others: Iterable[Gram]) -> Gram:
        """Adds the rows of others, which stay as they are."""
        for other in others:
            if self.sizes != other.sizes:
                raise StatisticsError(f"Grams of different sizes: {self.sizes} and {other.sizes}")
            self._make_room(other._state["rows"].to(self.device))
            for name in self._state:
                self._add(name, (), other._state[name])
        return self

    def select(self, channels: slice) -> Gram:
        """A copy of some of the channels."""
        count = len(range(*channels.indices(self.channels)))
        selected = Gram(**{**self.sizes, "channels": count}, device="meta")  # no sums that the copies would replace
        for name, tensor in self._state.items():
            selected._state[name] = tensor[_place(name, channels)].clone()
        return selected

    def select_targets(self, targets: slice) -> Gram:
        """A copy with some of the targets."""
        axis = ("xy", "yy", "mean_target", "target_sum", "target_square")
        count = len(range(*targets.indices(self.targets)))
        selected = Gram(**{**self.sizes, "targets": count}, device="meta")
        for name, tensor in self._state.items():
            selected._state[name] = (tensor[targets] if name in axis else tensor).clone()
        return selected

    def copy(self) -> Gram:
        return self.select(slice(None))

    def clear(self) -> Gram:
        """Without rows again, in the same memory: new pages of a few megabytes cost as much as adding a small group."""
        for tensor in self._state.values():
            tensor.zero_()
        self._set_width(self._state["rows"])
        return self

    def without(self, folds: Iterable[int]) -> Gram:
        """A copy without the rows of some folds.

        Sums that are not kept by fold (for Pearson's correlation and mean activations) are 0 altogether.
        """
        result, out = self.copy(), list(folds)
        for total in (result.mean_sum, result.mean_square, result.mean_target, result.target_sum, result.target_square):
            total.zero_()
        result.rows[out] = 0
        result.xx[:, out] = 0
        result.xy[:, :, out] = 0
        result.yy[:, out] = 0
        return result

    def to(self, device: torch.device | str) -> Gram:
        """A copy on `device`."""
        moved = self.copy()
        moved._state = {name: tensor.to(device) for name, tensor in moved._state.items()}
        return moved

    # Serialisation
    # --------------------------------------------------------------------------------------------

    def _take(self, state: Mapping[str, Tensor]) -> None:
        """Makes these tensors the state. StatisticsError for missing or unexpected names, shapes or dtypes."""
        shapes = self._shapes()
        if set(state) != set(shapes):
            differing = ", ".join(sorted(set(state) ^ set(shapes)))
            raise StatisticsError(f"Gram state: missing or unexpected: {differing}")
        for name, tensor in state.items():
            allowed = (torch.int32, torch.int64) if name in _PRODUCTS else (torch.int64,)
            if tuple(tensor.shape) != shapes[name] or tensor.dtype not in allowed:
                raise StatisticsError(
                    f"Gram state {name}: {tensor.dtype} {tuple(tensor.shape)} does not fit {shapes[name]}"
                )
        self._state = {name: state[name] for name in shapes}
        self._set_width(self._state["rows"])

    def to_bytes(self) -> bytes:
        """The Gram as a safetensors file; the same bytes for the same state."""
        tensors = {name: tensor.cpu().contiguous() for name, tensor in self._state.items()}
        header = json.dumps({"format_version": FORMAT_VERSION, **self.sizes}, sort_keys=True)
        return tensorfile.pack("Gram", header, tensors)

    @classmethod
    def from_bytes(cls, data: bytes) -> Gram:
        """The Gram that `to_bytes` wrote; StatisticsError if it is not one."""
        sizes, tensors = tensorfile.unpack("Gram", data)
        if sizes.pop("format_version") != FORMAT_VERSION:
            raise StatisticsError(f"Gram: format is not {FORMAT_VERSION}; use the version that wrote it")
        result = cls(**sizes, device="meta")  # no sums of its own that the read ones would replace
        result._take(tensors)
        return result

    # Arithmetic
    # -----------------------------------------------------------------------------------

    def _multiply(self, codes: Tensor, target_codes: Tensor, folds: Tensor, counts: list[int], channels: slice) -> None:
        """Adds the products of rows as products of matrices."""
        for addend in products(codes, target_codes, folds, counts, self.knots, shared=channels.start == 0):
            self._add(addend.name, addend.where, addend.values, folds=addend.folds, channels=channels)

    def _add(
        self,
        name: str,
        where: Index,
        values: Tensor,
        *,
        folds: Tensor | None = None,
        channels: slice = slice(None),
    ) -> None:
        """The only place where sums change, besides loops/row_products.py. channels, where: the entries to add to;
        folds: only these folds (on the last axis but one)."""
        target = self._state[name][_place(name, channels)][where]
        addend = values.to(device=target.device, dtype=target.dtype)
        if folds is None:
            target.add_(addend)
        else:
            target.index_add_(-2, folds.to(target.device), addend)

    def _make_room(self, more: Tensor) -> None:
        """Widens to int64 before `more` rows (F,) could overflow int32. StatisticsError where int64 would overflow."""
        rows = self._state["rows"] + more
        if int(rows.sum()) > MAX_ROWS:
            raise StatisticsError(f"more than {MAX_ROWS} rows in one Gram; rank fewer rows")
        self._set_width(rows)

    def _set_width(self, rows: Tensor) -> None:
        """Set the dtype of the sums: a function of the rows, so that equal content has equal bits."""
        wide = self.folds > 0 and int(rows.max()) > narrow_limit(self.knots)
        for name in _PRODUCTS:
            self._state[name] = pages.converted(self._state[name], torch.int64 if wide else torch.int32)

    def _moments(self, codes: Tensor, means: Tensor, target_fixed: Tensor) -> Iterator[tuple[str, Tensor]]:
        """The addends of rows to the sums without folds: name in the state, integers."""
        yield "clamped", _ends(codes, basis.top_code(self.knots))
        m, t = means.double(), target_fixed.double()  # products are exact: below 2^28 each, 2^53 in all
        yield "mean_sum", m.sum(dim=0)
        yield "mean_square", m.square().sum(dim=0)
        yield "mean_target", t.T @ m
        yield "target_sum", target_fixed.sum(dim=0, dtype=torch.int64)
        yield "target_square", t.square().sum(dim=0)

    def _check_rows(
        self, codes: Tensor, means: Tensor, target_codes: Tensor, target_fixed: Tensor, folds: Tensor, channels: int
    ) -> None:
        n = int(codes.shape[0])
        expected = {
            "codes": (codes, torch.uint8, (n, channels, self.components)),
            "means": (means, torch.int16, (n, channels)),
            "target_codes": (target_codes, torch.uint8, (n, self.targets)),
            "target_fixed": (target_fixed, torch.int16, (n, self.targets)),
            "folds": (folds, torch.int64, (n,)),
        }
        for name, (tensor, dtype, shape) in expected.items():
            if tuple(tensor.shape) != shape or tensor.dtype != dtype:
                raise StatisticsError(f"{name}: {tensor.dtype} {tuple(tensor.shape)} where {dtype} {shape} is due")
        if n == 0:
            return
        if int(folds.min()) < 0 or int(folds.max()) >= self.folds:
            raise StatisticsError(f"folds: values outside [0, {self.folds})")
        for part in (codes, target_codes):
            if part.numel() and int(part.max()) > basis.top_code(self.knots):
                raise StatisticsError(f"codes: values above {basis.top_code(self.knots)}, the last knot's code")
