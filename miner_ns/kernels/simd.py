"""A vector of float32 as a value that numba knows: explicit SIMD without a C compiler.

Compilers vectorize simple loops, but they do not keep a block of sums in registers across a loop. With a vector as a
value one writes that down: `total = total + weight * load(row, i)`. LLVM splits a vector that is longer than the
registers, so the same code runs on every CPU; only the best length differs.

The functions `exp`, `sin`, `cos` and `log1p_unit` are polynomials of float32 accuracy. They are written once, in
ordinary arithmetic, and take vectors and single numbers alike: numba's own call a library for each number.

Compile functions that use this module with OPTIONS. `fastmath=True` would let the compiler cancel the additions that
round to integers; numba's default error model would branch at every division.
"""

from __future__ import annotations

import operator
import platform
from typing import Any

import llvmlite.binding as llvm
import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils, config
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import intrinsic, lower_builtin, models, register_model
from numba.np.arrayobj import populate_array

OPTIONS: dict[str, Any] = dict(
    fastmath={"contract", "nsz", "arcp"}, error_model="numpy", nogil=True, boundscheck=False, forceinline=True
)
"""For `numba.njit`. "contract" makes fused multiply-adds of products and sums; "arcp" divides by multiplying.

Everything is inlined into the function that Python calls. Only that one is stored on disk, and in the process that
compiled it calls may reach other versions of the called functions than were stored: results would differ in their last
bits between that process and later ones, and a resumed run from an uninterrupted one.
"""

IS_X86 = platform.machine().lower() in ("x86_64", "amd64")


def _cpu_features() -> set[str]:
    """What numba compiles for: this CPU, unless its environment variables say otherwise."""
    settings: Any = config
    if settings.CPU_FEATURES is not None:
        return {feature[1:] for feature in settings.CPU_FEATURES.split(",") if feature.startswith("+")}
    if settings.CPU_NAME is not None:
        return set()
    return {feature for feature, present in llvm.get_host_cpu_features().items() if present}


def _register_shape() -> tuple[int, int]:
    """Floats in a vector register, and how many registers a block of sums may occupy."""
    features = _cpu_features() if IS_X86 else set()
    if "avx512f" in features:
        return 16, 16
    return (8, 8) if {"avx2", "fma"} <= features else (4, 8)


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


def _constant(kind: ir.Type, value: float) -> ir.Constant:
    """A number, or a vector of equal ones."""
    if isinstance(kind, ir.VectorType):
        return ir.Constant(kind, [value] * kind.count)
    return ir.Constant(kind, value)


def _integers(kind: ir.Type) -> ir.Type:
    """The type of integers as wide as these floats."""
    return ir.VectorType(_I32, kind.count) if isinstance(kind, ir.VectorType) else _I32


def _splat(builder: ir.IRBuilder, number: ir.Value, kind: ir.VectorType) -> ir.Value:
    """A vector of equal numbers."""
    empty = ir.Constant(kind, ir.Undefined)
    first = builder.insert_element(empty, number, ir.Constant(_I32, 0))
    return builder.shuffle_vector(first, empty, _constant(ir.VectorType(_I32, kind.count), 0))


# Arithmetic: + − · / of vectors with vectors and with numbers.


def _define_operator(symbol: Any, build: Any) -> None:
    """Teach numba what an operator does with vectors: an instruction of LLVM, numbers being repeated first."""

    @infer_global(symbol)  # pyright: ignore[reportOptionalCall]
    class _Typing(AbstractTemplate):  # pyright: ignore[reportUnusedClass]
        key = symbol

        def generic(self, args: Any, kws: Any) -> Any:
            vectors = [x for x in args if isinstance(x, VectorType)]
            if len(args) != 2 or not vectors or any(x is not vectors[0] and x != vectors[0] for x in vectors):
                return None
            return signature(vectors[0], *(x if isinstance(x, VectorType) else types.float32 for x in args))

    def lower(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        kind = context.get_value_type(sig.return_type)
        both = [x if isinstance(t, VectorType) else _splat(builder, x, kind) for x, t in zip(args, sig.args)]
        return build(builder, *both)

    for pair in ((VectorType, VectorType), (VectorType, types.Float), (types.Float, VectorType)):
        lower_builtin(symbol, *pair)(lower)


for _symbols, _build in (
    ((operator.add, operator.iadd), ir.IRBuilder.fadd),
    ((operator.sub, operator.isub), ir.IRBuilder.fsub),
    ((operator.mul, operator.imul), ir.IRBuilder.fmul),
    ((operator.truediv, operator.itruediv), ir.IRBuilder.fdiv),
):
    for _symbol in _symbols:
        _define_operator(_symbol, _build)


# Memory. An index is what it is for arrays, an integer or a tuple of them, but is never counted from the end.


def _pointer(context: Any, builder: ir.IRBuilder, array_type: Any, array: Any, index_type: Any, index: Any) -> ir.Value:
    """Address of an element."""
    index = cgutils.unpack_tuple(builder, index) if isinstance(index_type, types.BaseTuple) else [index]
    array = context.make_array(array_type)(context, builder, array)
    return cgutils.get_item_pointer(context, builder, array_type, array, index, wraparound=False)


def _index_type(index: Any) -> Any:
    """The type that an index is converted to."""
    return types.UniTuple(types.intp, len(index)) if isinstance(index, types.BaseTuple) else types.intp


def _make_load(lanes: int) -> Any:
    """A function that loads vectors."""
    vector = VectorType(lanes)

    @_intrinsic
    def load(typing_context: Any, array: Any, index: Any) -> Any:
        """The elements of a row of an array of float32 that start at an index."""

        def generate(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
            address = _pointer(context, builder, sig.args[0], args[0], sig.args[1], args[1])
            kind = ir.VectorType(_F32, lanes)
            loaded = builder.load(builder.bitcast(address, kind.as_pointer()), typ=kind)
            loaded.align = 4  # type: ignore[attr-defined]
            return loaded

        return vector(array, _index_type(index)), generate

    return load


load = _make_load(LANES)
load_wide = _make_load(WIDE_LANES)


@_intrinsic
def store(typing_context: Any, array: Any, index: Any, vector: Any) -> Any:
    """Write a vector into a row of an array of float32, from an index on."""

    def generate(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        address = _pointer(context, builder, sig.args[0], args[0], sig.args[1], args[1])
        builder.store(args[2], builder.bitcast(address, args[2].type.as_pointer()), align=4)
        return context.get_dummy_value()

    return types.void(array, _index_type(index), vector), generate


def _make_fill(lanes: int) -> Any:
    """A function that makes vectors of a number."""
    vector = VectorType(lanes)

    @_intrinsic
    def fill(typing_context: Any, number: Any) -> Any:
        """A vector of equal numbers."""

        def generate(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
            return _splat(builder, args[0], ir.VectorType(_F32, lanes))

        return vector(types.float32), generate

    return fill


fill = _make_fill(LANES)
fill_wide = _make_fill(WIDE_LANES)


@_intrinsic
def prefetch(typing_context: Any, array: Any, index: Any) -> Any:
    """Ask for a cache line that will be needed soon."""

    def generate(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        address = _pointer(context, builder, sig.args[0], args[0], sig.args[1], args[1])
        byte_pointer = ir.IntType(8).as_pointer()
        function = ir.FunctionType(ir.VoidType(), [byte_pointer, _I32, _I32, _I32])
        declared = cgutils.get_or_insert_function(builder.module, function, "llvm.prefetch.p0")
        read, keep, data = (ir.Constant(_I32, value) for value in (0, 2, 1))
        builder.call(declared, [builder.bitcast(address, byte_pointer), read, keep, data])
        return context.get_dummy_value()

    return types.void(array, _index_type(index)), generate


@_intrinsic
def unowned(typing_context: Any, arrays: Any) -> Any:
    """The arrays of a named tuple, without the count of their users, which numba changes with every row taken of them.

    The counts are atomic: threads that take rows of one array wait for each other. The caller must keep the arrays.
    """

    def generate(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        members = cgutils.unpack_tuple(builder, args[0])
        for i, kind in enumerate(sig.args[0].types):
            if isinstance(kind, types.Array):
                array = context.make_array(kind)(context, builder, members[i])
                array.meminfo = cgutils.get_null_value(array.meminfo.type)
                members[i] = array._getvalue()
        return context.make_tuple(builder, sig.return_type, members)

    return arrays(arrays), generate


@_intrinsic
def matrix(typing_context: Any, flat: Any, start: Any, rows: Any, columns: Any) -> Any:
    """A part of a contiguous array as an unowned matrix. Slicing and reshaping would take as long as using it."""
    kind = types.Array(flat.dtype, 2, "C")

    def generate(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        flat_array = context.make_array(sig.args[0])(context, builder, args[0])
        item = context.get_constant(types.intp, 4)
        view = context.make_array(kind)(context, builder)
        populate_array(
            view,
            data=builder.gep(flat_array.data, [args[1]]),
            shape=args[2:],
            strides=[builder.mul(args[3], item), item],
            itemsize=item,
            meminfo=None,
        )
        return view._getvalue()

    return kind(flat, types.intp, types.intp, types.intp), generate


# Sums over lanes.


@_intrinsic
def sum_lanes(typing_context: Any, vector: Any) -> Any:
    """The sum of a vector's elements."""

    def generate(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        kind = args[0].type
        function = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(_F32, [_F32, kind]), f"llvm.vector.reduce.fadd.v{kind.count}f32"
        )
        return builder.call(function, [_constant(_F32, 0.0), args[0]], fastmath=("reassoc",))

    return types.float32(vector), generate


def _reduce_together(builder: ir.IRBuilder, vectors: list[Any]) -> list[Any]:
    """Sums over the lanes of vectors, in vectors: in each round two become one, half of its lanes for each.

    The first two rounds stay within quarters of four lanes, where moving lanes is cheapest.
    """
    quarters, span = range(0, LANES, 4), range(0, 2 * LANES, 8)
    rounds = [
        [lane for q in quarters for lane in (q, LANES + q, q + 1, LANES + q + 1)],
        [lane for q in quarters for lane in (q, q + 1, LANES + q, LANES + q + 1)],
    ] + [[lane for q in span for lane in range(q, q + 4)]] * (LANES.bit_length() - 3)
    for number, lanes in enumerate(rounds):
        offset = 2 if number < 2 else 4  # from the lanes that are added to the others
        low, high = (ir.Constant(ir.VectorType(_I32, LANES), [lane + d for lane in lanes]) for d in (0, offset))
        vectors = [
            builder.fadd(builder.shuffle_vector(x, y, low), builder.shuffle_vector(x, y, high))
            for x, y in zip(vectors[::2], vectors[1::2])
        ]
    return vectors


@_intrinsic
def store_sums(typing_context: Any, array: Any, row: Any, column: Any, vectors: Any) -> Any:
    """Write the sums of sixteen vectors of LANES elements as a square of 4 × 4 elements of a matrix."""

    def generate(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        reduced = _reduce_together(builder, cgutils.unpack_tuple(builder, args[3]))
        four = ir.VectorType(_F32, 4)
        index_types = types.UniTuple(types.intp, 2)
        for i in range(4):
            whole, start = reduced[4 * i // LANES], 4 * i % LANES
            lanes = ir.Constant(ir.VectorType(_I32, 4), list(range(start, start + 4)))
            sums = builder.shuffle_vector(whole, whole, lanes)
            index = cgutils.pack_array(builder, [builder.add(args[1], args[1].type(i)), args[2]])
            address = _pointer(context, builder, sig.args[0], args[0], index_types, index)
            builder.store(sums, builder.bitcast(address, four.as_pointer()), align=4)
        return context.get_dummy_value()

    expected = types.UniTuple(VectorType(LANES), 16)
    return types.void(array, types.intp, types.intp, expected), generate


# Functions of each element, of vectors and of single numbers alike.


def _elementwise(name: str) -> Any:
    """An LLVM intrinsic with one float argument."""

    @_intrinsic
    def function(typing_context: Any, x: Any) -> Any:
        def generate(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
            kind = args[0].type
            suffix = f"v{kind.count}f32" if isinstance(kind, ir.VectorType) else "f32"
            declared = ir.FunctionType(kind, [kind])
            return builder.call(cgutils.get_or_insert_function(builder.module, declared, f"llvm.{name}.{suffix}"), args)

        return x(x), generate

    return function


sqrt = _elementwise("sqrt")
absolute = _elementwise("fabs")


def _limited(comparison: str) -> Any:
    """The larger or the smaller of each element and a number; NaN stays."""

    @_intrinsic
    def function(typing_context: Any, x: Any, bound: Any) -> Any:
        def generate(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
            value, limit = args
            if isinstance(sig.args[0], VectorType):
                limit = _splat(builder, limit, value.type)
            return builder.select(builder.fcmp_ordered(comparison, value, limit), limit, value)

        return x(x, types.float32), generate

    return function


at_least = _limited("<")
at_most = _limited(">")


def _on_bits(combine: Any) -> Any:
    """A function of the bit patterns of a value and of a `shifted` integer (see `_SHIFT`)."""

    @_intrinsic
    def function(typing_context: Any, x: Any, shifted: Any) -> Any:
        def generate(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
            integers = _integers(args[0].type)
            bits, n = (builder.bitcast(arg, integers) for arg in args)
            result: Any = builder.bitcast(combine(builder, bits, n, integers), args[0].type)
            return result

        return x(x, x), generate

    return function


# x · 2^n: n is added to the exponent, which starts at bit 23.
_times_power_of_two = _on_bits(lambda b, bits, n, kind: b.add(bits, b.shl(n, _constant(kind, 23))))
# x · (−1)^n: the lowest bit of n, moved to the sign.
_negate_if_odd = _on_bits(lambda b, bits, n, kind: b.xor(bits, b.shl(n, _constant(kind, 31))))

_SHIFT = np.float32(1.5 * 2**23)
"""Added to a float32 below 2^22, it leaves no bits for a fraction: the sum is rounded, and holds the nearest integer in
its lowest bits."""

# Coefficients that make the largest relative error smallest: of 2^f for f in ±½; of sin r = r + r³ p(r²) for r in ±π/2;
# of 2 artanh s = s p(s²) for s from 0 to ⅓.
_EXP2 = tuple(np.float32(c) for c in (1.0000000717, 0.693146967, 0.240221197, 0.055507133, 0.0096755415, 0.0013276472))
_SIN = tuple(np.float32(c) for c in (-0.16666659550, 0.00833306625, -0.00019809603, 2.6057805e-6))
_ARTANH = tuple(np.float32(c) for c in (2.0, 0.6666631473, 0.4002490871, 0.2796062115, 0.2817826300))

_LOG2_E, _ONE_OVER_PI = np.float32(1.4426950408889634), np.float32(0.3183098861837907)
_PI, _PI_REST = np.float32(3.1415927410125732), np.float32(-8.742278e-08)  # their sum has twice the digits
_HALF_PI = np.float32(1.5707963267948966)
_TWO, _EXP_LIMIT = np.float32(2.0), np.float32(80.0)


@njit(**OPTIONS)
def exp(x):
    """e^x, for x limited to ±80: relative error below 2e-7 (1 + |x|)."""
    x = at_most(at_least(x, -_EXP_LIMIT), _EXP_LIMIT)
    shifted = x * _LOG2_E + _SHIFT
    f = x * _LOG2_E - (shifted - _SHIFT)  # in ±½, where the polynomial is 2^f
    power = ((((_EXP2[5] * f + _EXP2[4]) * f + _EXP2[3]) * f + _EXP2[2]) * f + _EXP2[1]) * f + _EXP2[0]
    return _times_power_of_two(power, shifted)


@njit(**OPTIONS)
def sin(x):
    """Sine of x in radians: absolute error below 2e-7 (1 + |x|), on CPUs with fused multiply-add below 2e-7."""
    shifted = x * _ONE_OVER_PI + _SHIFT
    n = shifted - _SHIFT
    r = x - n * _PI - n * _PI_REST  # in ±π/2
    q = r * r
    polynomial = ((_SIN[3] * q + _SIN[2]) * q + _SIN[1]) * q + _SIN[0]
    return _negate_if_odd(polynomial * q * r + r, shifted)


@njit(**OPTIONS)
def cos(x):
    """Cosine of x in radians."""
    return sin(x + _HALF_PI)


@njit(**OPTIONS)
def log1p_unit(x):
    """log(1 + x) for x from 0 to 1, from the series of the inverse hyperbolic tangent."""
    s = x / (x + _TWO)
    q = s * s
    return ((((_ARTANH[4] * q + _ARTANH[3]) * q + _ARTANH[2]) * q + _ARTANH[1]) * q + _ARTANH[0]) * s


# Denormal numbers: what is left of a Gaussian's tail after some products. They take a hundred times as long.


def _control_register(builder: ir.IRBuilder, name: str, cell: ir.Value) -> None:
    """Store the control register of x86's vector unit to memory ("stmxcsr"), or load it ("ldmxcsr")."""
    byte_pointer = ir.IntType(8).as_pointer()
    function = ir.FunctionType(ir.VoidType(), [byte_pointer])
    declared = cgutils.get_or_insert_function(builder.module, function, f"llvm.x86.sse.{name}")
    builder.call(declared, [builder.bitcast(cell, byte_pointer)])


@_intrinsic
def flush_denormals(typing_context: Any) -> Any:
    """Make the calling thread treat denormal numbers as 0.

    Returns: what `restore_denormals` needs to undo it. Nothing happens on other CPUs than x86.
    """

    def generate(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        if not IS_X86:
            return ir.Constant(_I32, 0)
        cell = cgutils.alloca_once(builder, _I32)
        _control_register(builder, "stmxcsr", cell)
        before = builder.load(cell, typ=_I32)
        flush_results, flush_operands = 0x8000, 0x0040
        builder.store(builder.or_(before, ir.Constant(_I32, flush_results | flush_operands)), cell)
        _control_register(builder, "ldmxcsr", cell)
        return before

    return types.int32(), generate


@_intrinsic
def restore_denormals(typing_context: Any, before: Any) -> Any:
    """Undo `flush_denormals`."""

    def generate(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        if IS_X86:
            cell = cgutils.alloca_once(builder, _I32)
            builder.store(args[0], cell)
            _control_register(builder, "ldmxcsr", cell)
        return context.get_dummy_value()

    return types.void(types.int32), generate
