"""Derivatives of an implementation that computes by itself: how autograd gets them.

The features y are linear in the table θ, and so are J, their derivatives by the position x, and J u, that along a
direction u. An implementation computes y, J and J u, and the derivatives of a loss by θ and by x: of g · y + G · J, and
of g · J u. First derivatives are those of g · y. Second derivatives follow: for cotangents h of ∂(g · y)/∂θ and u of
∂(g · y)/∂x,

    h · ∂(g · y)/∂θ + u · ∂(g · y)/∂x = g · y(h, x) + g · J(θ, x) u

is what is to be differentiated by θ, x and g: in part what was computed before with another table, in part g · J u.

Each derivative is a node of its own in autograd's graph (`_Gate`), and computed only if it is on the way to what is
asked for. A function with several inputs computes those of all that require one: `autograd.grad(y, x)` would compute
the gradient of the table too, and throw it away.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from common_ns.hash_grid.levels import GridShape
from common_ns.hash_grid.weighting import weight_features, weights_of_levels


class Backend(Protocol):
    """An implementation. Tensors are float32 on one device; x may be outside of the cube, and not finite.

    Derivatives by x are those within a cell; at most one of `jacobian` and `direction` is given.
    """

    def refusal(self, shape: GridShape, device: torch.device, dtype: torch.dtype) -> str | None:
        """Why it cannot compute this grid here, or None if it can."""
        ...

    def interpolate(
        self,
        shape: GridShape,
        table: Float[Tensor, "T F"],
        x: Float[Tensor, "n 3"],
        active_levels: float,
        direction: Float[Tensor, "n 3"] | None = None,
    ) -> Float[Tensor, "n L*F"]:
        """y; with a direction u, J u."""
        ...

    def interpolate_with_jacobian(
        self, shape: GridShape, table: Float[Tensor, "T F"], x: Float[Tensor, "n 3"], active_levels: float
    ) -> tuple[Float[Tensor, "n L*F"], Float[Tensor, "3 n L*F"]]:
        """y and J."""
        ...

    def table_gradient(
        self,
        shape: GridShape,
        x: Float[Tensor, "n 3"],
        active_levels: float,
        values: Float[Tensor, "n L*F"],
        jacobian: Float[Tensor, "3 n L*F"] | None = None,
        direction: Float[Tensor, "n 3"] | None = None,
    ) -> Float[Tensor, "T F"]:
        """With values g: of g · y by the table; with a Jacobian G, of g · y + G · J; with a direction u, of g · J u."""
        ...

    def position_gradient(
        self,
        shape: GridShape,
        table: Float[Tensor, "T F"],
        x: Float[Tensor, "n 3"],
        active_levels: float,
        values: Float[Tensor, "n L*F"],
        jacobian: Float[Tensor, "3 n L*F"] | None = None,
        direction: Float[Tensor, "n 3"] | None = None,
    ) -> Float[Tensor, "n 3"]:
        """The same by the positions."""
        ...

    def gaussian_features(
        self,
        shape: GridShape,
        table: Float[Tensor, "T F"],
        x: Float[Tensor, "n k 3"],
        std: Float[Tensor, "n k"] | None,
        active_levels: float,
        with_weights: bool,
    ) -> tuple[Float[Tensor, "n L*F"], Float[Tensor, "n L"] | None]:
        """Means over k of weighted y, and of the weights of all levels (see `weighting`) if they are wanted."""
        ...

    def gaussian_table_gradient(
        self,
        shape: GridShape,
        x: Float[Tensor, "n k 3"],
        std: Float[Tensor, "n k"] | None,
        active_levels: float,
        values: Float[Tensor, "n L*F"],
    ) -> Float[Tensor, "T F"]:
        """With values g and the means m: of g · m by the table."""
        ...

    def gaussian_position_gradient(
        self,
        shape: GridShape,
        table: Float[Tensor, "T F"],
        x: Float[Tensor, "n k 3"],
        std: Float[Tensor, "n k"] | None,
        active_levels: float,
        values: Float[Tensor, "n L*F"],
    ) -> Float[Tensor, "n k 3"]:
        """The same by the points."""
        ...


class Grid(NamedTuple):
    """What a function computes with, beside its tensors."""

    backend: Backend
    shape: GridShape
    active_levels: float


class _Rule(NamedTuple):
    """How values depend on a tensor."""

    tensor: Tensor
    derivative: Callable[..., Tensor]
    """From the values' cotangents (None: 0) and `others` to the tensor's."""
    others: tuple[Tensor | None, ...]


class _Gate(torch.autograd.Function):
    """Stands for values as far as they depend on one tensor: without memory, but with their shapes."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, rule: _Rule, shapes: tuple[torch.Size, ...]) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*rule.others)
        ctx.derivative = rule.derivative
        return tuple(
            torch.empty_strided(shape, [0] * len(shape), dtype=tensor.dtype, device=tensor.device) for shape in shapes
        )

    @staticmethod
    def backward(ctx: Any, *cotangents: Any) -> Any:
        if all(cotangent is None for cotangent in cotangents):
            return None, None, None
        return ctx.derivative(*cotangents, *ctx.saved_tensors), None, None


class _LastGate(_Gate):
    """A gate whose derivative has none itself; autograd says so if it is asked for."""

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *cotangents: Any) -> Any:
        return _Gate.backward(ctx, *cotangents)


class _Join(torch.autograd.Function):
    """Values that depend on what their gates depend on."""

    @staticmethod
    def forward(ctx: Any, values: tuple[Tensor, ...], *gates: Tensor) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        ctx.copies = len(gates) // len(values)
        return values

    @staticmethod
    def backward(ctx: Any, *cotangents: Any) -> Any:
        return None, *cotangents * ctx.copies


def _attach(gate: type[_Gate], values: tuple[Tensor, ...], *rules: _Rule) -> tuple[Tensor, ...]:
    """Make values known to autograd."""
    shapes = tuple(value.shape for value in values)
    needed = [rule for rule in rules if rule.tensor.requires_grad] if torch.is_grad_enabled() else []
    gates = [output for rule in needed for output in gate.apply(rule.tensor, rule, shapes)]  # pyright: ignore
    return _Join.apply(values, *gates) if gates else values  # pyright: ignore[reportReturnType]


def features(table: Float[Tensor, "T F"], x: Float[Tensor, "n 3"], grid: Grid) -> Float[Tensor, "n L*F"]:
    """y, twice differentiable."""
    backend, shape, active = grid
    with torch.no_grad():
        y = backend.interpolate(shape, table, x, active)
    (y,) = _attach(
        _Gate,
        (y,),
        _Rule(table, lambda g, x: _table_gradient(x, g, grid), (x,)),
        _Rule(x, lambda g, table, x: _position_gradient(table, x, g, grid), (table, x)),
    )
    return y


def _table_gradient(x: Tensor, g: Tensor, grid: Grid) -> Tensor:
    """∂(g · y)/∂θ, once differentiable."""
    backend, shape, active = grid
    with torch.no_grad():
        gradient = backend.table_gradient(shape, x, active, g)
    (gradient,) = _attach(
        _LastGate,
        (gradient,),
        _Rule(x, lambda h, x, g: backend.position_gradient(shape, h, x, active, g), (x, g)),
        _Rule(g, lambda h, x: backend.interpolate(shape, h, x, active), (x,)),
    )
    return gradient


def _position_gradient(table: Tensor, x: Tensor, g: Tensor, grid: Grid) -> Tensor:
    """∂(g · y)/∂x, once differentiable."""
    backend, shape, active = grid
    with torch.no_grad():
        gradient = backend.position_gradient(shape, table, x, active, g)
    (gradient,) = _attach(
        _LastGate,
        (gradient,),
        _Rule(table, lambda u, x, g: backend.table_gradient(shape, x, active, g, direction=u), (x, g)),
        _Rule(
            x,
            lambda u, table, x, g: backend.position_gradient(shape, table, x, active, g, direction=u),
            (table, x, g),
        ),
        _Rule(g, lambda u, table, x: backend.interpolate(shape, table, x, active, direction=u), (table, x)),
    )
    return gradient


def features_and_jacobian(
    table: Float[Tensor, "T F"], x: Float[Tensor, "n 3"], grid: Grid
) -> tuple[Float[Tensor, "n L*F"], Float[Tensor, "3 n L*F"]]:
    """y and J, both once differentiable."""
    backend, shape, active = grid
    with torch.no_grad():
        y, jacobian = backend.interpolate_with_jacobian(shape, table, x, active)

    def given(g: Tensor | None, x: Tensor) -> Tensor:
        return x.new_zeros(len(x), shape.output_dim) if g is None else g

    y, jacobian = _attach(
        _LastGate,
        (y, jacobian),
        _Rule(table, lambda g, j, x: backend.table_gradient(shape, x, active, given(g, x), j), (x,)),
        _Rule(x, lambda g, j, t, x: backend.position_gradient(shape, t, x, active, given(g, x), j), (table, x)),
    )
    return y, jacobian


def gaussian_features(
    table: Float[Tensor, "T F"],
    x: Float[Tensor, "n k 3"],
    std: Float[Tensor, "n k"] | None,
    grid: Grid,
    with_weights: bool = False,
) -> tuple[Float[Tensor, "n L*F"], Float[Tensor, "n L"] | None]:
    """Means over k Gaussians of weighted features, twice differentiable, and of the weights, which are constants.

    Derivatives that are to be differentiated themselves are those of `features` at each point.
    """
    backend, shape, active = grid
    with torch.no_grad():
        y, weights = backend.gaussian_features(shape, table, x, std, active, with_weights)

    def by_table(g: Tensor, x: Tensor, std: Tensor | None) -> Tensor:
        if torch.is_grad_enabled():
            return _table_gradient(x.flatten(0, 1), _of_each(g, x, std, shape), grid)
        return backend.gaussian_table_gradient(shape, x, std, active, g)

    def by_x(g: Tensor, table: Tensor, x: Tensor, std: Tensor | None) -> Tensor:
        if torch.is_grad_enabled():
            return _position_gradient(table, x.flatten(0, 1), _of_each(g, x, std, shape), grid).reshape(x.shape)
        return backend.gaussian_position_gradient(shape, table, x, std, active, g)

    (y,) = _attach(_Gate, (y,), _Rule(table, by_table, (x, std)), _Rule(x, by_x, (table, x, std)))
    return y, weights


def _of_each(
    g: Float[Tensor, "n L*F"], x: Float[Tensor, "n k 3"], std: Float[Tensor, "n k"] | None, shape: GridShape
) -> Float[Tensor, "n*k L*F"]:
    """Cotangents of each Gaussian's features, from those of the means."""
    each = (g / x.shape[1])[:, None].expand(-1, x.shape[1], -1)
    return (each if std is None else weight_features(each, weights_of_levels(shape, std))).flatten(0, 1)
