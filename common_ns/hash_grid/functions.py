"""Derivatives of an implementation that computes by itself: how autograd gets them from three functions.

The features y are linear in the table θ. With cotangents g of the features and G of their derivatives J by the
position, an implementation computes

    y, J    and    S = Σ g · y + Σ G · J  differentiated by θ (`table_gradient`) and by x (`position_gradient`).

The second derivatives need no more than that. Let S(θ, x, g, G) be this sum. What `Interpolate.backward` returns is
∂S/∂θ and ∂S/∂x for G = 0; for cotangents h and u of these, it is to be differentiated

    h · ∂S/∂θ + u · ∂S/∂x = S(h, x, g, 0) + S(θ, x, 0, g ⊗ u),

S being linear in the table, and the derivative of y along u being the sum of J over u. So the one is what was computed
before for another table, and the other for the cotangent g ⊗ u of J.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from common_ns.hash_grid.levels import GridShape


class Backend(Protocol):
    """An implementation. Tensors are contiguous float32 on one device; x may be anywhere, and not finite."""

    def refusal(self, shape: GridShape, device: torch.device, dtype: torch.dtype) -> str | None:
        """Why it cannot compute this grid here, or None if it can."""
        ...

    def interpolate(
        self,
        shape: GridShape,
        table: Float[Tensor, "T F"],
        x: Float[Tensor, "n 3"],
        active_levels: float,
        jacobian: bool,
    ) -> tuple[Float[Tensor, "n L*F"], Float[Tensor, "3 n L*F"] | None]:
        """Features, and their derivatives by each coordinate if asked for."""
        ...

    def table_gradient(
        self,
        shape: GridShape,
        x: Float[Tensor, "n 3"],
        values: Float[Tensor, "n L*F"],
        jacobian: Float[Tensor, "3 n L*F"] | None,
        active_levels: float,
    ) -> Float[Tensor, "T F"]:
        """Derivatives of a loss by the table, from those by the features and by the features' derivatives."""
        ...

    def position_gradient(
        self,
        shape: GridShape,
        table: Float[Tensor, "T F"],
        x: Float[Tensor, "n 3"],
        values: Float[Tensor, "n L*F"],
        jacobian: Float[Tensor, "3 n L*F"] | None,
        active_levels: float,
    ) -> Float[Tensor, "n 3"]:
        """The same by the positions; the derivative of a cell's interpolation, borders of cells count for nothing."""
        ...


class Grid(NamedTuple):
    """What a function computes with, beside its tensors."""

    backend: Backend
    shape: GridShape
    active_levels: float


class Interpolate(torch.autograd.Function):
    """Features of positions; twice differentiable."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, x: Tensor, grid: Grid) -> Tensor:
        ctx.save_for_backward(table, x)
        ctx.grid = grid
        return grid.backend.interpolate(grid.shape, table, x, grid.active_levels, False)[0]

    @staticmethod
    def backward(ctx: Any, *cotangents: Any) -> Any:
        table, x = ctx.saved_tensors
        return (*_Gradients.apply(table, x, cotangents[0], ctx.grid, ctx.needs_input_grad[:2]), None)  # pyright: ignore


class _Gradients(torch.autograd.Function):
    """First derivatives of a loss by the table and the positions, from those by the features."""

    @staticmethod
    def forward(
        ctx: Any, table: Tensor, x: Tensor, values: Tensor, grid: Grid, needed: tuple[bool, bool]
    ) -> tuple[Tensor | None, Tensor | None]:
        ctx.set_materialize_grads(False)
        values = values.contiguous()
        ctx.save_for_backward(table, x, values)
        ctx.grid = grid
        backend, shape, active = grid
        return (
            backend.table_gradient(shape, x, values, None, active) if needed[0] else None,
            backend.position_gradient(shape, table, x, values, None, active) if needed[1] else None,
        )

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *cotangents: Any) -> Any:
        table, x, values = ctx.saved_tensors
        backend, shape, active = ctx.grid
        by_table, by_x = cotangents
        need_table, need_x, need_values = ctx.needs_input_grad[:3]
        for_table = for_x = for_values = None
        if by_x is not None:
            outer = by_x.t()[:, :, None] * values
            if need_table:
                for_table = backend.table_gradient(shape, x, torch.zeros_like(values), outer, active)
            if need_x:
                for_x = backend.position_gradient(shape, table, x, torch.zeros_like(values), outer, active)
            if need_values:
                jacobian = backend.interpolate(shape, table, x, active, True)[1]
                assert jacobian is not None
                for_values = (jacobian * by_x.t()[:, :, None]).sum(0)
        if by_table is not None:
            by_table = by_table.contiguous()
            if need_x:
                more = backend.position_gradient(shape, by_table, x, values, None, active)
                for_x = more if for_x is None else for_x + more
            if need_values:
                more = backend.interpolate(shape, by_table, x, active, False)[0]
                for_values = more if for_values is None else for_values + more
        return for_table, for_x, for_values, None, None


class InterpolateWithJacobian(torch.autograd.Function):
    """Features of positions and their derivatives by each coordinate; both once differentiable."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, x: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(table, x)
        ctx.grid = grid
        values, jacobian = grid.backend.interpolate(grid.shape, table, x, grid.active_levels, True)
        assert jacobian is not None
        return values, jacobian

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *cotangents: Any) -> Any:
        table, x = ctx.saved_tensors
        backend, shape, active = ctx.grid
        values, jacobian = cotangents
        for_table = for_x = None
        if values is not None or jacobian is not None:
            values = table.new_zeros(len(x), shape.output_dim) if values is None else values.contiguous()
            jacobian = None if jacobian is None else jacobian.contiguous()
            if ctx.needs_input_grad[0]:
                for_table = backend.table_gradient(shape, x, values, jacobian, active)
            if ctx.needs_input_grad[1]:
                for_x = backend.position_gradient(shape, table, x, values, jacobian, active)
        return for_table, for_x, None
