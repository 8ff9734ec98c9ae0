"""Products of hat weights, summed over the rows of each fold: the integers that a Gram adds up.

Pure tensors: no I/O, no Ray. Guarantee: every sum is exact. Where the CPU has the instructions (AMX, VNNI) and folds
are long, bytes are multiplied into int32; elsewhere floats are multiplied, in chunks short enough for their 2^24. Both
methods must pass a self-test on the device before use, and both give the same integers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from pcace_dist.errors import StatisticsError
from pcace_dist.statistics import basis

Index: TypeAlias = "tuple[slice | int, ...]"

STEP_ROWS = 4096  # rows that are multiplied at a time
FLOAT_ROWS = 1024  # rows of one fold that are multiplied at a time as floats
BYTES_FROM = 128  # with at least so many rows in a fold, on average, bytes are faster than floats
_TILE = {"cpu": 1 << 19}  # hats of one tile of channels: small enough for the CPU's cache
_TILE_DEVICE = 1 << 27  # on other devices: large products, 512 MiB of floats


def chunk_limit(knots: int, bits: int = 24) -> int:
    """Rows whose products add up exactly in a float with `bits` bits: (2^bits - 1) // S^2."""
    return int((2**bits - 1) // basis.unit_scale(knots) ** 2)


@lru_cache(maxsize=64)
def packed_index(components: int, knots: int) -> tuple[Tensor, Tensor]:
    """Row and column in the (pK x pK) matrix of every packed x-x entry.

    First, for each component, the diagonal and the first off-diagonal (a code touches two neighbouring hats); then the
    full K x K block of every pair of components.
    """
    rows: list[int] = []
    columns: list[int] = []
    for block in range(0, components * knots, knots):
        rows += list(range(block, block + knots)) + list(range(block, block + knots - 1))
        columns += list(range(block, block + knots)) + list(range(block + 1, block + knots))
    for first in range(components):
        for second in range(first + 1, components):
            rows += [first * knots + k for k in range(knots) for _ in range(knots)]
            columns += [second * knots + k for _ in range(knots) for k in range(knots)]
    return torch.tensor(rows), torch.tensor(columns)


@lru_cache(maxsize=64)
def unpack_index(components: int, knots: int) -> Tensor:
    """Packed position of every entry of the (pK x pK) matrix, int64; for entries that are always 0, the number of
    packed entries."""
    rows, columns = packed_index(components, knots)
    size = components * knots
    index = torch.full((size, size), len(rows), dtype=torch.int64)
    index[rows, columns] = torch.arange(len(rows))
    index[columns, rows] = torch.arange(len(rows))
    return index


def packed_size(components: int, knots: int) -> int:
    """Distinct x-x entries of one channel and fold: 895 for p=5, K=9."""
    return components * (2 * knots - 1) + components * (components - 1) // 2 * knots**2


def hats(codes: Tensor, knots: int) -> Tensor:
    """Integer hat weights of codes (..., n): uint8 (..., knots, n).

    Computed in bytes, which is fast: first how far a code reaches into each interval, then the differences.
    """
    scale = basis.unit_scale(knots)
    out = torch.empty((*codes.shape[:-1], knots, codes.shape[-1]), dtype=torch.uint8, device=codes.device)
    out[..., 0, :] = scale
    for knot in range(knots - 1):
        torch.clamp(codes, knot * scale, (knot + 1) * scale, out=out[..., knot + 1, :]).sub_(knot * scale)
    for knot in range(knots - 1):
        out[..., knot, :].sub_(out[..., knot + 1, :])
    return out


# -- self-tests


@lru_cache(maxsize=16)
def _product_dtype(device: str, _precision: str) -> torch.dtype:
    """float32 if this device multiplies our integers exactly in it, else float64, else an error."""
    worst = torch.full((2, 48, chunk_limit(9)), 31.0)
    worst[1] = torch.randint(0, 32, worst.shape[1:], generator=torch.Generator().manual_seed(0)).float()
    expected = worst[:, :8].double() @ worst.double().transpose(1, 2)
    for dtype in (torch.float32, torch.float64):
        weights = worst.to(device=device, dtype=dtype)
        by_batch = torch.bmm(weights, weights.transpose(1, 2))[:, :8].double().cpu()
        flat = torch.stack([matrix @ matrix.T for matrix in weights])[:, :8].double().cpu()
        if torch.equal(by_batch, expected) and torch.equal(flat, expected):
            return dtype
    raise StatisticsError(f"device {device}: integer products are not exact in float32 nor float64")


def exactness_self_test(device: torch.device | str) -> torch.dtype:
    """The float type in which this device's products of our integers are exact, found by trying the worst case.

    float32 where nothing is rounded (no TF32 or bfloat16 inside), else float64; StatisticsError if neither is exact.
    """
    return _product_dtype(str(torch.device(device)), torch.get_float32_matmul_precision())


@lru_cache(maxsize=1)
def byte_products() -> bool:
    """Whether this CPU has instructions for products of bytes, and they are exact in the worst case."""
    able = torch.cpu.get_capabilities()
    if not (able.get("amx_int8") or able.get("avx512_vnni")):
        return False
    worst = torch.full((48, STEP_ROWS), 127, dtype=torch.int8)
    worst[1] = torch.randint(0, 128, (STEP_ROWS,), generator=torch.Generator().manual_seed(0)).to(torch.int8)
    for part in (worst, worst[:, 7:1000], worst[:, 3:4]):
        exact = part.double() @ part.double().T
        if not torch.equal(torch._int_mm(part, part[:9].T).double(), exact[:, :9]):
            return False
        if not torch.equal(torch._int_mm(part, part.T).double(), exact):
            return False
    return True


# -- the products


@dataclass(frozen=True, eq=False)
class Addend:
    """An addend to one of a Gram's sums, from some rows of some folds: the sum's name, the place in it, and integers
    whose last axis but one is the folds."""

    name: str
    where: Index
    folds: Tensor
    values: Tensor


def products(
    codes: Tensor, target_codes: Tensor, folds: Tensor, counts: list[int], knots: int, *, shared: bool = True
) -> Iterator[Addend]:
    """The sums of x-x (packed), x-y and, with `shared`, y-y products of rows, fold by fold.

    codes: uint8 (n, C, p); target_codes: uint8 (n, T); folds: int64 (n,) with counts[f] rows in fold f.
    """
    used_folds = sum(count > 0 for count in counts)
    by_bytes = codes.device.type == "cpu" and len(codes) >= BYTES_FROM * used_folds and byte_products()
    product_class = _Bytes if by_bytes else _Floats
    for step in _steps(folds, counts, STEP_ROWS if by_bytes else min(chunk_limit(knots), FLOAT_ROWS)):
        yield from product_class(step, codes, target_codes, knots).addends(shared=shared)


@dataclass(frozen=True, eq=False)
class _Step:
    """Rows that are multiplied together, fold after fold: counts[i] rows of folds[i]."""

    folds: Tensor
    counts: list[int]
    rows: list[Tensor]


def _steps(folds: Tensor, counts: list[int], longest: int) -> Iterator[_Step]:
    """Steps over all rows, with at most `longest` rows of a fold in each; short folds share a step."""
    order = torch.argsort(folds)
    starts = [0, *accumulate(counts)]
    fold_parts = [
        (fold, order[starts[fold] + first : starts[fold] + min(count, first + longest)])
        for fold, count in enumerate(counts)
        for first in range(0, count, longest)
    ]
    waiting: list[tuple[int, Tensor]] = []
    width = 0
    for fold, rows in [*fold_parts, (-1, order[:0])]:
        width = max(width, len(rows))
        if waiting and (fold < 0 or width * (len(waiting) + 1) > STEP_ROWS):
            index = torch.tensor([number for number, _ in waiting], device=folds.device)
            yield _Step(index, [len(part) for _, part in waiting], [part for _, part in waiting])
            waiting, width = [], len(rows)
        waiting.append((fold, rows))


class _Products:
    """The products of one step. Channels are processed in tiles, so that the working set stays in the CPU's cache."""

    def __init__(self, step: _Step, codes: Tensor, target_codes: Tensor, knots: int) -> None:
        self._step = step
        self._knots = knots
        self._channels, self._components = codes.shape[1:]
        self._targets = target_codes.shape[1]
        rows = self._rows()
        self._x = codes.flatten(1).index_select(0, rows).T.contiguous()  # (C p, n)
        self._y = self._hats(target_codes.index_select(0, rows).T)

    def addends(self, *, shared: bool = True) -> Iterator[Addend]:
        everything, knots, size = slice(None), self._knots, self._components * self._knots
        folds, count = self._step.folds, len(self._step.counts)
        if shared:
            yield Addend("yy", (), folds, self._y_y())
        rows, columns = (index.to(folds.device) for index in packed_index(self._components, knots))
        packed = rows * size + columns
        for tile in self._tiles():
            x = self._hats(self._x[tile.start * self._components : tile.stop * self._components])
            channels = tile.stop - tile.start
            yield Addend("xx", (tile,), folds, _pick(self._x_x(x, channels).flatten(2), packed))
            xy = self._x_y(x).reshape(count, channels, size, self._targets, knots)
            yield Addend("xy", (everything, tile), folds, xy.permute(3, 1, 0, 2, 4).flatten(3))

    def _tiles(self) -> Iterator[slice]:
        weights = _TILE.get(self._x.device.type, _TILE_DEVICE)
        step = max(1, weights // (self._x.shape[1] * self._components * self._knots))
        return (slice(first, min(first + step, self._channels)) for first in range(0, self._channels, step))

    def _rows(self) -> Tensor:
        """Index (n,) of the rows in the order of this layout."""
        raise NotImplementedError

    def _hats(self, codes: Tensor) -> Tensor:
        """Weights of codes (m, n)."""
        raise NotImplementedError

    def _y_y(self) -> Tensor:
        """Sums (T, f, K K)."""
        raise NotImplementedError

    def _x_x(self, x: Tensor, channels: int) -> Tensor:
        """Sums (c, f, p K, p K)."""
        raise NotImplementedError

    def _x_y(self, x: Tensor) -> Tensor:
        """Sums (f, c p K, T K)."""
        raise NotImplementedError


class _Floats(_Products):
    """Weights as floats (f, m K, w), padded with zeros to the longest fold: one batched product for all folds."""

    def _rows(self) -> Tensor:
        rows = torch.nn.utils.rnn.pad_sequence(self._step.rows, batch_first=True)
        counts = torch.tensor(self._step.counts, device=rows.device).unsqueeze(1)
        self._real = (torch.arange(rows.shape[1], device=rows.device) < counts).to(torch.uint8)  # (f, w)
        return rows.flatten()

    def _hats(self, codes: Tensor) -> Tensor:
        weights = hats(codes, self._knots).reshape(-1, *self._real.shape).mul_(self._real)
        dtype = exactness_self_test(codes.device)
        by_channel: Tensor = weights.transpose(0, 1).to(dtype, memory_format=torch.contiguous_format)
        return by_channel

    def _y_y(self) -> Tensor:
        y = self._y.reshape(-1, self._knots, self._y.shape[2])
        return torch.bmm(y, y.mT).reshape(-1, self._targets, self._knots**2).transpose(0, 1)

    def _x_x(self, x: Tensor, channels: int) -> Tensor:
        by_channel = x.reshape(len(x) * channels, -1, x.shape[2])
        return torch.bmm(by_channel, by_channel.mT).reshape(len(x), channels, by_channel.shape[1], -1).transpose(0, 1)

    def _x_y(self, x: Tensor) -> Tensor:
        return torch.bmm(x, self._y.mT)


class _Bytes(_Products):
    """Weights as bytes (m K, n), fold after fold: one product for each channel and fold."""

    def _rows(self) -> Tensor:
        ends = list(accumulate(self._step.counts))
        self._parts = [slice(start, stop) for start, stop in zip([0, *ends], ends, strict=False)]
        return torch.cat(self._step.rows)

    def _hats(self, codes: Tensor) -> Tensor:
        return hats(codes, self._knots).flatten(0, 1).view(torch.int8)

    def _y_y(self) -> Tensor:
        return self._by_matrix(self._y, self._targets).flatten(2)

    def _x_x(self, x: Tensor, channels: int) -> Tensor:
        return self._by_matrix(x, channels)

    def _x_y(self, x: Tensor) -> Tensor:
        return torch.stack([torch._int_mm(x[:, part], self._y[:, part].T) for part in self._parts])

    def _by_matrix(self, weights: Tensor, matrices: int) -> Tensor:
        """Sums (m, f, k, k) of the products of each of m matrices (k, n) with itself."""
        stacked = weights.reshape(matrices, -1, weights.shape[1])
        out = torch.empty((matrices, len(self._parts), stacked.shape[1], stacked.shape[1]), dtype=torch.int32)
        for matrix, sums in zip(stacked, out, strict=True):
            for part, fold_sums in zip(self._parts, sums, strict=True):
                rows = matrix[:, part]
                torch._int_mm(rows, rows.T, out=fold_sums)
        return out


def _pick(sums: Tensor, places: Tensor) -> Tensor:
    """Some entries of the last axis; on a CPU with numpy's take, which is faster than torch's."""
    if sums.device.type != "cpu":
        return sums.index_select(sums.dim() - 1, places)
    return torch.from_numpy(np.take(sums.numpy(), places.numpy(), axis=sums.dim() - 1, mode="clip"))
