"""What an encoding of positions is."""

from __future__ import annotations

import abc

from jaxtyping import Float
from torch import Tensor, nn


class Encoding(nn.Module, abc.ABC):
    """Features of positions, for a small network to read.

    Positions are in the field's units, in about [−1, 1]³; those outside are legal. Features are twice differentiable
    with respect to positions and parameters, once more than a loss on colors needs, for losses on normals.

    Where features begin with a grid, z = grid(x), its derivatives J = dz/dx come with it in one pass (`stage`), and the
    rest (`finish`) is small. The gradient of a network f on top is then

        z, J = encoding.stage(x)
        y = f(encoding.finish(x, z))
        by_x, by_z = autograd.grad(y.sum(), (x, z), create_graph=True)
        gradient = by_x + Jᵀ by_z

    which takes less than autograd's way through the grid and back.
    """

    output_dim: int
    """Features of a position."""
    num_levels: int
    """Levels or frequencies that `set_progress` turns on one after the other."""

    @abc.abstractmethod
    def finish(self, x: Float[Tensor, "n 3"], z: Float[Tensor, "n g"] | None) -> Float[Tensor, "n f"]:
        """Features as a function of positions and of the first result of `stage`."""

    def stage(self, x: Float[Tensor, "n 3"]) -> tuple[Float[Tensor, "n g"], Float[Tensor, "n g 3"]] | None:
        """The grid's features, and their derivatives by x; None if there is no grid.

        Both are differentiable once with respect to the table and to x.
        """
        del x
        return None

    def forward(self, x: Float[Tensor, "n 3"]) -> Float[Tensor, "n f"]:
        """Features, twice differentiable by autograd alone."""
        return self.finish(x, None)

    @abc.abstractmethod
    def set_progress(self, share: float) -> None:
        """Use the coarsest levels only: coarse-to-fine training.

        Features of the others are 0, and get no gradient. Features change continuously with the share. It is not part
        of the state: a schedule of the absolute step sets it.

        Args:
            share: 0: the first level; 1: all.
        """

    def tables(self) -> list[nn.Parameter]:
        """Parameters that are tables of grids, and want a higher learning rate than networks."""
        return []


def active_levels(share: float, num_levels: int) -> float:
    """Levels that are on, at least one; 2.25 is two, and a quarter of the third."""
    return 1.0 + min(max(share, 0.0), 1.0) * (num_levels - 1)
