"""The inner loop of channels_last.py as vector instructions: sums that stay in registers over a tile of positions.

Numba's own vector code loads and stores every sum at every position. Here the vectors are written out, and the axes
of a position are loaded once for several images. A vector's lanes are channels, so its width changes no bits. Imports
Numba: only channels_last.py imports this module, where the loop is needed.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.core.registry import cpu_target
from numba.extending import intrinsic

from pcace_dist.statistics.loops.packed_axes import LANES

Slots: TypeAlias = tuple[tuple[int, ...], ...]  # zeros; its lengths are what counts: images at once, then p + 1 sums

_HAS_512_BITS = "+avx512f" in cpu_target.target_context.codegen().magic_tuple()[-1]
_SUMS = 24 if _HAS_512_BITS else 6  # vectors that registers hold; narrower ones take two or four registers each
_MOST_IMAGES = 4
_RUN = 4  # blocks of channels that are read one after the other: what they have of a position is a piece of memory
_VECTOR = ir.VectorType(ir.FloatType(), LANES)
_BITS = ir.VectorType(ir.IntType(32), LANES)


def slots_of(components: int) -> Slots:
    """How many images and sums are worked on at once with so many components: as many as registers hold."""
    sums = components + 1
    return ((0,) * sums,) * max(1, min(_MOST_IMAGES, _SUMS // sums))


def add_sums(maps: np.ndarray, axes: np.ndarray, out: np.ndarray, tile: int, slots: Slots) -> None:
    """Adds to out (B, p+1, C), which holds zeros, from maps (B, D, C), float32 or the bits of bfloat16 as uint16, and
    packed axes (packed_axes.py). Of a last block only the channels that are new are added. In the same way what lies
    beyond the last image repeats it and is left out.

    While some images' maps are multiplied, the next ones' come from memory, in the order in which they lie there.
    """
    images, positions, channels = maps.shape
    sums = np.empty((len(slots), len(slots[0]), LANES), np.float32)
    for start in range(0, positions, tile):
        stop = min(positions, start + tile)
        for run in range(0, len(axes), _RUN):
            end = min(len(axes), run + _RUN)
            for image in range(0, images, len(slots)):
                next_image, next_run, next_start = image + len(slots), run, start
                if next_image >= images:
                    next_image, next_run = 0, end
                if next_run == len(axes):
                    next_run, next_start = 0, stop
                for block in range(run, end):
                    new = block * LANES
                    first = min(new, channels - LANES)
                    share = (block - run) * ((stop - start) // _RUN)
                    ahead = (next_image, next_start + share, next_run * LANES)
                    _sum_block(maps, axes, sums, (image, block, first, start, stop), ahead, slots)
                    for i in range(min(len(slots), images - image)):
                        for k in range(len(slots[0])):
                            for c in range(new, first + LANES):
                                out[image + i, k, c] += sums[i, k, c - first]


@intrinsic  # type: ignore[untyped-decorator]
def _sum_block(_: Any, maps: Any, axes: Any, sums: Any, block: Any, ahead: Any, slots: Any) -> Any:
    """Writes sums of LANES channels and as many images as `slots` says, from positions start to stop. block: (first
    image, block of the axes, first channel, start, stop). ahead: first image, position and channel of what is fetched
    meanwhile: _RUN blocks of one position, then of the next."""
    return types.void(maps, axes, sums, block, ahead, slots), _write


def _write(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    maps, axes, sums = (_Array(context, builder, *one) for one in zip(signature.args[:3], arguments, strict=False))
    image, block, channel, start, stop = cgutils.unpack_tuple(builder, arguments[3], 5)
    next_image, row, column = cgutils.unpack_tuple(builder, arguments[4], 3)
    slots, run = signature.args[5], _number(_RUN)
    images, upcoming = (_images_from(builder, first, slots.count, maps.shape[0]) for first in (image, next_image))
    totals = [[_register(builder) for _ in range(slots.dtype.count)] for _ in images]
    with cgutils.for_range_slice(builder, start, stop, _number(1)) as (position, _):
        done = builder.sub(position, start)
        coming = builder.add(row, builder.udiv(done, run))
        lanes = builder.add(column, builder.mul(builder.urem(done, run), _number(LANES)))
        for one in upcoming:
            maps.fetch(one, coming, lanes)
        values = [maps.vector(one, position, channel) for one in images]
        for k in range(slots.dtype.count - 1):
            axis = axes.vector(block, position, _number(k), _number(0))
            for value, mine in zip(values, totals, strict=True):
                builder.store(_fused(builder, value, axis, builder.load(mine[k])), mine[k])
        for value, mine in zip(values, totals, strict=True):
            builder.store(builder.fadd(builder.load(mine[-1]), value), mine[-1])
    for slot, mine in enumerate(totals):
        for k, total in enumerate(mine):
            builder.store(builder.load(total), sums.place(_number(slot), _number(k), _number(0)), align=4)
    return context.get_dummy_value()


def _images_from(builder: Any, first: Any, count: int, images: Any) -> list[Any]:
    """So many images; for those beyond the last one, the last."""
    last = builder.sub(images, _number(1))
    return [_at_most(builder, builder.add(first, _number(slot)), last) for slot in range(count)]


class _Array:
    """A contiguous array, read and written by LANES items of its last axis."""

    def __init__(self, context: Any, builder: Any, kind: Any, value: Any) -> None:
        array = context.make_array(kind)(context, builder, value)
        self._builder, self._start, self._item = builder, array.data, kind.dtype
        self.shape = cgutils.unpack_tuple(builder, array.shape, kind.ndim)

    def place(self, first: Any, *further: Any) -> Any:
        """Where the vector that begins at these indices lies."""
        write, item = self._builder, first
        for size, index in zip(self.shape[1:], further, strict=True):
            item = write.add(write.mul(item, size), index)
        stored = _VECTOR if self._item == types.float32 else ir.VectorType(ir.IntType(16), LANES)
        return write.bitcast(write.gep(self._start, [item]), stored.as_pointer())

    def vector(self, *indices: Any) -> Any:
        """The vector there as float32: bfloat16 is its upper half."""
        write = self._builder
        found = write.load(self.place(*indices), align=self._item.bitwidth // 8)
        if self._item == types.float32:
            return found
        return write.bitcast(write.shl(write.zext(found, _BITS), ir.Constant(_BITS, [16] * LANES)), _VECTOR)

    def fetch(self, *indices: Any) -> None:
        """Begins to read the vector there into the second cache; it may lie beyond the end."""
        number, anything = ir.IntType(32), ir.IntType(8).as_pointer()
        kind = ir.FunctionType(ir.VoidType(), [anything, number, number, number])
        prefetch = cgutils.get_or_insert_function(self._builder.module, kind, "llvm.prefetch.p0")
        place = self._builder.bitcast(self.place(*indices), anything)
        self._builder.call(prefetch, [place, number(0), number(2), number(1)])  # to read, to the second cache, data


def _number(value: int) -> Any:
    return cgutils.intp_t(value)


def _at_most(builder: Any, value: Any, most: Any) -> Any:
    return builder.select(builder.icmp_signed("<", value, most), value, most)


def _register(builder: Any) -> Any:
    """A vector of zeros; LLVM finds a register for it."""
    return cgutils.alloca_once_value(builder, ir.Constant(_VECTOR, None))


def _fused(builder: Any, value: Any, axis: Any, total: Any) -> Any:
    """value x axis + total with one rounding, where the processor can."""
    kind = ir.FunctionType(_VECTOR, [_VECTOR] * 3)
    multiply_add = cgutils.get_or_insert_function(builder.module, kind, f"llvm.fmuladd.v{LANES}f32")
    return builder.call(multiply_add, [value, axis, total])
