"""A vector of float32 as a value that numba knows, for the one thing that LLVM does not vectorize well by itself.

Loops over elements it vectorizes as well as one can by hand, exp included. But it does not keep a block of sums in
registers across a loop, and products of matrices then take half as long again. With a vector as a value one writes that
down: `total += weight * load(matrix, k, p)`. LLVM splits a vector that is longer than the registers, so the same code
runs on every CPU; only the best length differs.
"""

from __future__ import annotations

import operator
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.registry import cpu_target
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import intrinsic, lower_builtin, models, register_model

OPTIONS: dict[str, Any] = dict(
    fastmath={"contract", "nsz", "arcp"},
    error_model="numpy",
    nogil=True,
    boundscheck=False,
    forceinline=True,
    _nrt=False,
)
"""For `numba.njit`. "contract" makes fused multiply-adds of products and sums; "arcp" divides by multiplying.

`fastmath=True` would let the compiler cancel the additions that round to integers (see `numba_layers`), and numba's
default error model would branch at every division.

Everything is inlined into the function that Python calls. Only that one is stored on disk, and in the process that
compiled it calls may reach other versions of the called functions than were stored: results would differ in their last
bits between that process and later ones, and a resumed run from an uninterrupted one.

Without "nrt" arrays do not count their users. The counts are atomic: threads that take rows of one array would wait
for each other. Python keeps the arrays, and compiled code makes none of its own.
"""


def _register_shape() -> tuple[int, int]:
    """Floats in a vector register of the CPU that numba compiles for, and registers that a block of sums may use."""
    context: Any = cpu_target.target_context
    features = set(context.codegen().magic_tuple()[2].split(","))
    if "+avx512f" in features:
        return 16, 16
    return (8, 8) if {"+avx2", "+fma"} <= features else (4, 8)


LANES, _SUM_REGISTERS = _register_shape()
"""Floats in a vector of one register."""

ROWS = 4
"""Rows of a matrix that are worked on together, so that what is loaded once is used four times. Matrices are padded
to multiples of it."""

WIDE_LANES = LANES * _SUM_REGISTERS // ROWS
"""Floats in a vector of several registers: ROWS of them fill the registers with sums."""

_F32, _I32 = ir.FloatType(), ir.IntType(32)

# What becomes of a function that generates code is called with other arguments: for the type checker, with any.
_intrinsic: Any = intrinsic


class VectorType(types.Type):
    """numba's type of a vector of float32. For variables and tuples: numba's lists do not align what they hold."""

    def __init__(self, lanes: int) -> None:
        self.lanes = lanes
        super().__init__(name=f"Vector{lanes}xFloat32")


@register_model(VectorType)  # pyright: ignore[reportOptionalCall]
class _VectorModel(models.PrimitiveModel):
    """A vector is an LLVM vector."""

    def __init__(self, manager: Any, fe_type: VectorType) -> None:
        super().__init__(manager, fe_type, ir.VectorType(_F32, fe_type.lanes))


def _shuffle(builder: ir.IRBuilder, x: Any, y: Any, lanes: list[int]) -> Any:
    """The vector of some lanes of two vectors, those of the second being counted on from those of the first."""
    return builder.shuffle_vector(x, y, ir.Constant(ir.VectorType(_I32, len(lanes)), lanes))


def _splat(builder: ir.IRBuilder, number: ir.Value, lanes: int) -> Any:
    """A vector of equal numbers."""
    empty = ir.Constant(ir.VectorType(_F32, lanes), ir.Undefined)
    first = builder.insert_element(empty, number, ir.Constant(_I32, 0))
    return _shuffle(builder, first, empty, [0] * lanes)


def _define_operator(symbol: Any, build: Any) -> None:
    """Teach numba what an operator does with vectors: an instruction of LLVM, numbers being repeated first."""

    @infer_global(symbol)  # pyright: ignore[reportOptionalCall]
    class _Typing(AbstractTemplate):  # pyright: ignore[reportUnusedClass]
        key = symbol

        def generic(self, args: Any, kws: Any) -> Any:
            vectors = {x for x in args if isinstance(x, VectorType)}
            if len(args) != 2 or len(vectors) != 1:
                return None
            return signature(*vectors, *(x if x in vectors else types.float32 for x in args))

    def lower(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        lanes = sig.return_type.lanes
        both = [x if t == sig.return_type else _splat(builder, x, lanes) for x, t in zip(args, sig.args)]
        return build(builder, *both)

    for pair in ((VectorType, VectorType), (VectorType, types.Float), (types.Float, VectorType)):
        lower_builtin(symbol, *pair)(lower)


for _symbol in (operator.add, operator.iadd):
    _define_operator(_symbol, ir.IRBuilder.fadd)
_define_operator(operator.mul, ir.IRBuilder.fmul)


# Memory. Rows and columns are never counted from the end, and nothing checks them.


def _pointer(context: Any, builder: ir.IRBuilder, array_type: Any, array: Any, index: list[Any], lanes: int) -> Any:
    """Address of a vector whose first element has this index."""
    array = context.make_array(array_type)(context, builder, array)
    address = cgutils.get_item_pointer(context, builder, array_type, array, index, wraparound=False)
    return builder.bitcast(address, ir.VectorType(_F32, lanes).as_pointer())


def _of_length(lanes: int) -> tuple[Any, Any]:
    """Functions that make vectors of a length: that load one, and that fill one."""
    vector = VectorType(lanes)

    @_intrinsic
    def load(typing_context: Any, matrix: Any, row: Any, column: Any) -> Any:
        """The elements of a row of a matrix of float32, from a column on."""

        def generate(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
            return builder.load(_pointer(context, builder, matrix, args[0], args[1:], lanes), align=4)

        return vector(matrix, types.intp, types.intp), generate

    @_intrinsic
    def fill(typing_context: Any, number: Any) -> Any:
        """A vector of equal numbers."""
        return vector(types.float32), lambda context, builder, sig, args: _splat(builder, args[0], lanes)

    return load, fill


load, fill = _of_length(LANES)
load_wide, fill_wide = _of_length(WIDE_LANES)


@_intrinsic
def store(typing_context: Any, matrix: Any, row: Any, column: Any, vector: Any) -> Any:
    """Write a vector into a row of a matrix of float32, from a column on."""

    def generate(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        builder.store(args[3], _pointer(context, builder, matrix, args[0], args[1:3], vector.lanes), align=4)
        return context.get_dummy_value()

    return types.void(matrix, types.intp, types.intp, vector), generate


# Sums over lanes.


@_intrinsic
def sum_lanes(typing_context: Any, vector: Any) -> Any:
    """The sum of a vector's elements."""

    def generate(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        function = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(_F32, [_F32, args[0].type]), f"llvm.vector.reduce.fadd.v{vector.lanes}f32"
        )
        return builder.call(function, [ir.Constant(_F32, 0.0), args[0]], fastmath=("reassoc",))

    return types.float32(vector), generate


@_intrinsic
def store_sums(typing_context: Any, array: Any, start: Any, stride: Any, vectors: Any) -> Any:
    """Write the sums of the lanes of sixteen vectors of LANES elements: four from `start` on, four a stride later, …

    In each round two vectors become one, half of its lanes for each, until a vector holds the sums of LANES vectors.
    That takes a third of the instructions of sixteen separate sums. The first two rounds stay within quarters of four
    lanes, where moving lanes is cheapest.
    """

    def generate(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        sums = cgutils.unpack_tuple(builder, args[3])
        by_quarters = [first + i for q in range(0, LANES, 4) for first in (q, LANES + q) for i in range(4)]
        for apart in (2, 1, 4, 4)[: LANES.bit_length() - 1]:
            low = [lane for lane in (by_quarters if apart < 4 else range(2 * LANES)) if not lane & apart]
            high = [lane + apart for lane in low]
            sums = [
                builder.fadd(_shuffle(builder, x, y, low), _shuffle(builder, x, y, high))
                for x, y in zip(sums[::2], sums[1::2])
            ]
        index = args[1]
        for i in range(0, 16, 4):
            whole, first = sums[i // LANES], i % LANES
            four = _shuffle(builder, whole, whole, list(range(first, first + 4)))
            builder.store(four, _pointer(context, builder, array, args[0], [index], 4), align=4)
            index = builder.add(index, args[2])
        return context.get_dummy_value()

    return types.void(array, types.intp, types.intp, types.UniTuple(VectorType(LANES), 16)), generate
