"""Vectors of LANES doubles as values of compiled loops, for loops in which Numba's own vector code goes to memory for
each of them.

A lane never meets another, and no operation is fused with the next: so neither the width of a processor's vectors nor
what is in other lanes changes a bit. Imports Numba: only loops that are compiled anyway import this module; their cache
does not notice a change here.
"""

from __future__ import annotations

import operator
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.core.typing.templates import ConcreteTemplate, infer_global, signature
from numba.extending import intrinsic, lower_builtin, models, register_model

LANES = 8
_DOUBLES = ir.VectorType(ir.DoubleType(), LANES)


class _VectorType(types.Type):
    def __init__(self) -> None:
        super().__init__(name=f"vector{LANES}")


VECTOR = _VectorType()


class _VectorModel(models.PrimitiveModel):  # type: ignore[misc]
    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, _DOUBLES)


register_model(_VectorType)(_VectorModel)


def _operator(function: Any, instruction: str) -> None:
    """The operator between two vectors, lane by lane."""
    template = {"key": function, "cases": [signature(VECTOR, VECTOR, VECTOR)]}
    infer_global(function)(type(f"_{instruction}", (ConcreteTemplate,), template))
    lower_builtin(function, VECTOR, VECTOR)(
        lambda _context, builder, _signature, values: getattr(builder, instruction)(*values)
    )


for _function, _instruction in (
    (operator.add, "fadd"),
    (operator.sub, "fsub"),
    (operator.mul, "fmul"),
    (operator.truediv, "fdiv"),
):
    _operator(_function, _instruction)


@intrinsic  # type: ignore[untyped-decorator]
def load(_: Any, array: Any, place: Any) -> Any:
    """The vector at a place of a contiguous array (..., LANES): indices of all axes but the last, as a tuple."""
    return VECTOR(array, place), lambda context, builder, kinds, values: builder.load(
        _pointer(context, builder, kinds, values), align=8
    )


@intrinsic  # type: ignore[untyped-decorator]
def store(_: Any, array: Any, place: Any, value: Any) -> Any:
    """Writes a vector to a place of a contiguous array (..., LANES)."""

    def write(context: Any, builder: Any, kinds: Any, values: Any) -> Any:
        builder.store(values[2], _pointer(context, builder, kinds, values), align=8)
        return context.get_dummy_value()

    return types.void(array, place, value), write


@intrinsic  # type: ignore[untyped-decorator]
def every(_: Any, value: Any) -> Any:
    """One double in every lane."""

    def write(_context: Any, builder: Any, _kinds: Any, values: Any) -> Any:
        one = builder.insert_element(ir.Constant(_DOUBLES, ir.Undefined), values[0], ir.IntType(32)(0))
        lanes = ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)
        return builder.shuffle_vector(one, ir.Constant(_DOUBLES, ir.Undefined), lanes)

    return VECTOR(value), write


@intrinsic  # type: ignore[untyped-decorator]
def where_greater(_: Any, one: Any, other: Any, then: Any, otherwise: Any) -> Any:
    """then in lanes where one > other, else otherwise."""

    def write(_context: Any, builder: Any, _kinds: Any, values: Any) -> Any:
        return builder.select(builder.fcmp_ordered(">", values[0], values[1]), values[2], values[3])

    return VECTOR(one, other, then, otherwise), write


@intrinsic  # type: ignore[untyped-decorator]
def any_greater(_: Any, one: Any, other: Any) -> Any:
    """Whether one > other in any lane."""

    def write(_context: Any, builder: Any, _kinds: Any, values: Any) -> Any:
        bits = builder.bitcast(builder.fcmp_ordered(">", values[0], values[1]), ir.IntType(LANES))
        return builder.icmp_unsigned("!=", bits, bits.type(0))

    return types.boolean(one, other), write


def _unary(name: str) -> Any:
    def write(_context: Any, builder: Any, _kinds: Any, values: Any) -> Any:
        kind = ir.FunctionType(_DOUBLES, [_DOUBLES])
        function = cgutils.get_or_insert_function(builder.module, kind, f"llvm.{name}.v{LANES}f64")
        return builder.call(function, values)

    return write


@intrinsic  # type: ignore[untyped-decorator]
def root(_: Any, value: Any) -> Any:
    """The square root of every lane."""
    return VECTOR(value), _unary("sqrt")


@intrinsic  # type: ignore[untyped-decorator]
def absolute(_: Any, value: Any) -> Any:
    """The absolute value of every lane."""
    return VECTOR(value), _unary("fabs")


def _pointer(context: Any, builder: Any, kinds: Any, values: Any) -> Any:
    """Where the vector at a place of an array lies; kinds, values: of the array and of the place."""
    array = context.make_array(kinds.args[0])(context, builder, values[0])
    shape = cgutils.unpack_tuple(builder, array.shape, kinds.args[0].ndim)
    indices = cgutils.unpack_tuple(builder, values[1], kinds.args[1].count)
    item = cgutils.intp_t(0)
    for index, size in zip(indices, shape[:-1], strict=True):
        item = builder.add(builder.mul(item, size), index)
    start = builder.gep(array.data, [builder.mul(item, cgutils.intp_t(LANES))])
    return builder.bitcast(start, _DOUBLES.as_pointer())
