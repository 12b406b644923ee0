"""The surface of a fitted occupancy, for ns-mesh and for nerfstudio's marching cubes.

Networks learn an occupancy at the centers of its samples. Between those they are free, most of all between the last
samples of one block and the first of the next: taken there, networks of zeros and ones give dents, and specks off the
surface. So the surface is that of the samples, interpolated linearly between their centers. It has no seams between
blocks or levels, and networks are evaluated once per sample, block by block, however fine the mesh is.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from common_ns.errors import InputError
from common_ns.meshing.iso_field import IsoField
from miner_ns.hierarchy import Hierarchy

MAX_SAMPLES = 2**27
"""About how many samples of a level are kept; 512³ fits."""


def to_grid(world: Float[Tensor, "n 3"], grid_to_world: Float[Tensor, "3 k"]) -> Float[Tensor, "n d"]:
    """From world coordinates to the signal's samples (sample i covers [i, i + 1)).

    Args:
        world: positions.
        grid_to_world: affine, its axes at right angles.
    """
    to_world = grid_to_world.to(world)
    axes = to_world[:, :-1]
    # The pseudo-inverse of axes at right angles is their transpose over squared lengths.
    return (world - to_world[:, -1]) @ axes / (axes * axes).sum(0)


class SampledLevel:
    """Samples of a level of a volume, interpolated linearly between their centers; beyond them the border continues.

    Samples are computed when they are first needed, a layer of blocks at a time, and kept until others need the place.
    Who asks along the first axis, as meshing does, has each computed once, in memory of a few layers.

    Args:
        hierarchy: the fitted volume.
        level: which of its levels.
        max_samples: about how many samples are kept, but at least two layers of blocks.
    """

    def __init__(self, hierarchy: Hierarchy, level: int, max_samples: int = MAX_SAMPLES) -> None:
        self.hierarchy, self.grid = hierarchy, hierarchy.grids[level]
        layers, rows = self.grid.blocks[0], self.grid.block_size
        slots = min(layers, max(2, max_samples // (rows * math.prod(self.grid.shape[1:]))))
        self.values = torch.empty(slots, rows, *self.grid.shape[1:], device=hierarchy.device)
        self.slot = torch.full((layers,), -1, dtype=torch.int64, device=hierarchy.device)
        self.layers = [-1] * slots
        """The layer in each slot."""
        self.order = list(range(slots))
        """The slots, the one not needed for longest first."""

    def __call__(self, points: Float[Tensor, "n 3"]) -> Float[Tensor, " n"]:
        """Values at positions in the signal's samples."""
        if len(points) == 0:
            return points[:, 0]
        last = torch.tensor(self.grid.shape, device=points.device) - 1
        place = points / 2.0**self.grid.level - 0.5  # a sample lies at the center of what it covers
        below = place.floor()
        low = torch.minimum(below.long().clamp_min(0), last)
        high = torch.minimum((below.long() + 1).clamp_min(0), last)
        first, end = (int(x) // self.grid.block_size for x in (low[:, 0].min(), high[:, 0].max()))
        slots = len(self.layers)
        if end - first < slots:
            self._require(range(first, end + 1))
            return self._interpolated(low, high, place - below)
        result = torch.empty_like(place[:, 0])
        layer = low[:, 0] // self.grid.block_size
        for start in range(first, end + 1, slots - 1):  # the upper neighbors may be in the layer after
            mine = torch.nonzero((layer >= start) & (layer < start + slots - 1))[:, 0]
            if len(mine) > 0:
                result[mine] = self(points[mine])
        return result

    def _interpolated(
        self, low: Int[Tensor, "n 3"], high: Int[Tensor, "n 3"], share: Float[Tensor, "n 3"]
    ) -> Float[Tensor, " n"]:
        """Between the samples `low` and those `high`, which are all there."""
        rows, width = self.grid.block_size, self.grid.shape[2]
        area = self.grid.shape[1] * width
        flat = self.values.view(-1)

        def along(start: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
            near, far = (flat.index_select(0, start + z[:, 2]) for z in (low, high))
            return torch.lerp(near, far, share[:, 2])

        planes = []
        for x in (low[:, 0], high[:, 0]):
            start = (self.slot.index_select(0, x // rows) * rows + x % rows) * area
            planes.append(torch.lerp(along(start + low[:, 1] * width), along(start + high[:, 1] * width), share[:, 1]))
        return torch.lerp(planes[0], planes[1], share[:, 0])

    def _require(self, layers: range) -> None:
        """Compute what is not there of some layers, no more than there are slots."""
        for slot in [slot for slot in self.order if self.layers[slot] in layers]:
            self.order.remove(slot)
            self.order.append(slot)
        for layer in layers:
            if layer in self.layers:
                continue
            slot = self.order.pop(0)
            self.order.append(slot)
            if self.layers[slot] >= 0:
                self.slot[self.layers[slot]] = -1
            self.values[slot] = self._computed(layer)
            self.layers[slot], self.slot[layer] = layer, slot

    def _computed(self, layer: int) -> Float[Tensor, "b y z"]:
        """The samples of a layer of blocks."""
        grid, side = self.grid, self.grid.block_size
        count = math.prod(grid.blocks[1:])
        with torch.no_grad():
            blocks = self.hierarchy.evaluate_blocks(grid.level, torch.arange(layer * count, (layer + 1) * count))
        rows = blocks.reshape(*grid.blocks[1:], side, side, side).permute(2, 0, 3, 1, 4)
        samples = rows.reshape(side, grid.blocks[1] * side, grid.blocks[2] * side)
        return samples[:, : grid.shape[1], : grid.shape[2]].clamp(0.0, 1.0)


def occupancy_field(
    hierarchy: Hierarchy,
    grid_to_world: Float[Tensor, "3 4"],
    level: float | None = None,
    voxel_size: float | None = None,
) -> IsoField:
    """A fitted occupancy as `extract_mesh` reads it.

    Args:
        hierarchy: the fitted volume.
        grid_to_world: from its samples to scene units; affine, along the axes, cubic samples.
        level: value at the surface; None: 0.5.
        voxel_size: side of the surface's voxels in scene units, which decides the level of detail; None: the finest.
    Raises: InputError if nothing has been trained yet.
    """
    if not hierarchy.levels:
        raise InputError("no level of the occupancy has been trained yet", "Train longer")
    step = float(grid_to_world[:, 0].norm())
    detail = 0.0 if not voxel_size else math.log2(max(voxel_size / step, 1e-6))
    # A grid as fine as a level's samples, but for rounding, is no reason to blend with another level.
    detail = round(detail) if abs(detail - round(detail)) < 1e-2 else detail
    detail = min(max(detail, float(hierarchy.finest)), len(hierarchy.grids) - 1.0)
    fine, blend = int(detail), detail % 1.0
    sampled = [SampledLevel(hierarchy, j) for j in (fine, *([fine + 1] if blend else []))]

    def value(points: Float[Tensor, "n 3"]) -> Float[Tensor, " n"]:
        places = to_grid(points, grid_to_world)
        values = sampled[0](places)
        return torch.lerp(values, sampled[1](places), blend) if blend else values

    def normal(points: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
        # Over two samples: closer, the steps of an occupancy of zeros and ones would show.
        offsets = step * 2.0**fine * torch.eye(3, device=points.device)
        slope = torch.stack([value(points + offset) - value(points - offset) for offset in offsets], dim=-1)
        return -torch.nn.functional.normalize(slope, dim=-1, eps=1e-9)

    size = grid_to_world.new_tensor(hierarchy.grids[0].signal_shape)
    corners = torch.stack([grid_to_world[:, 3], grid_to_world[:, 3] + grid_to_world[:, :3] @ size])
    return IsoField(
        value=value,
        level=0.5 if level is None else level,
        inside_above=True,
        aabb=torch.stack([corners.amin(0), corners.amax(0)]).float().cpu(),
        normal=normal,
        device=hierarchy.device,
    )


class OccupancyGeometry:
    """A fitted occupancy in the place of the SDF field that `ns-export marching-cubes` asks a model for.

    (0.5 − occupancy) times the side of a sample: zero on the surface, negative inside, in scene units. It is a distance
    near the surface and half a sample's side farther away. It is nowhere more than the sum of the distances along the
    axes, hence the exporter, which leaves out where the surface is too far away, leaves out nothing that counts.

    Args:
        field: gives the occupancy; called when values are asked for.
        step: side of a sample in scene units.
    """

    def __init__(self, field: Callable[[], IsoField], step: float) -> None:
        self.field, self.step = field, step

    def forward_geonetwork(self, positions: Float[Tensor, "n 3"]) -> Float[Tensor, "n 1"]:
        """The distance at positions in scene units; there are no geometry features."""
        field = self.field()
        occupancy = field.value(positions.to(field.device)).to(positions)
        return self.step * (field.level - occupancy)[:, None]
