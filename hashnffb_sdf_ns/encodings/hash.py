"""The multi-resolution hash grid as an encoding of positions in [−1, 1]³."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from common_ns.errors import InputError
from common_ns.hash_grid import HashGrid, HashGridOptions
from hashnffb_sdf_ns.encodings.base import Encoding, active_levels

SMALL_GRID = HashGridOptions(num_levels=8, log2_table_size=15, base_resolution=16, max_resolution=192)
"""What trains in minutes on CPUs."""


class GridEncoding(Encoding):
    """An encoding that begins with a hash grid. Positions outside the cube get the features of its surface.

    Args:
        options: of the grid, which covers [−1, 1]³.
        generator: source of the table's initial values; None: torch's own.
    """

    def __init__(self, options: HashGridOptions = SMALL_GRID, generator: torch.Generator | None = None) -> None:
        super().__init__()
        if options.implementation == "tinycudann":
            raise InputError(
                "hash grid implementation 'tinycudann' has no second derivatives, which losses on normals need",
                "Use 'auto', which takes triton on CUDA",
            )
        self.grid = HashGrid(options, generator)
        self.num_levels = options.num_levels

    def stage(self, x: Float[Tensor, "n 3"]) -> tuple[Float[Tensor, "n g"], Float[Tensor, "n g 3"]]:
        z, jacobian = self.grid.with_jacobian(0.5 * x + 0.5)
        return z, 0.5 * jacobian

    def forward(self, x: Float[Tensor, "n 3"]) -> Float[Tensor, "n f"]:
        return self.finish(x, self.grid(0.5 * x + 0.5))

    def set_progress(self, share: float) -> None:
        self.grid.active_levels = active_levels(share, self.num_levels)

    def tables(self) -> list[nn.Parameter]:
        return [self.grid.table]


class HashEncoding(GridEncoding):
    """Features of a hash grid, as they are (arXiv 2201.05989; see `common_ns.hash_grid`)."""

    def __init__(self, options: HashGridOptions = SMALL_GRID, generator: torch.Generator | None = None) -> None:
        super().__init__(options, generator)
        self.output_dim = self.grid.output_dim

    def finish(self, x: Float[Tensor, "n 3"], z: Float[Tensor, "n g"] | None) -> Float[Tensor, "n g"]:
        del x
        assert z is not None
        return z
