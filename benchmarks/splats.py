"""Pictures of Gaussians: time of a picture and of its derivatives, beside plain torch and beside the floor.

    python -m benchmarks.splats raster                # sizes, on one CPU thread
    python -m benchmarks.splats raster --threads 2
    python -m benchmarks.splats table                 # writes the table again

Scenes are a cloud of ellipsoids of random forms, orientations and opacities before one camera, such that nearly all of
the background is hidden, as in a capture: of all implementations the same. Forward is `rasterize` with color, depth and
normals; backward is from a gradient of all three to all of the Gaussians and the pose. Rounds take turns with the
measurements of rates, and the shortest time of each counts: on a busy machine the others say more about the neighbors.
With one thread it is the thread's own time.

The floor is made of counts and of rates that the machine reaches in the same run:

    bytes       each Gaussian's numbers, read forward and backward, and their derivatives, written as a whole; what is
                blended of each Gaussian that is seen, written and read once each way; it again and its number for each
                entry of a tile's list, up to where the tile is done, once each way; at the rate of a large copy
    operations  FORWARD_OPERATIONS and BACKWARD_OPERATIONS of each pair of a Gaussian and a pixel that is blended, and
                of no other pair that is looked at, at the rate of a large matrix product in float32

Each section is written to benchmarks/results/splats.json, the tables to splats.md.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
import tyro
from numba import njit
from torch import Tensor

from benchmarks.hash_grid import copy_speed, take_turns
from benchmarks.report import save_section, write_sections
from common_ns.splats import Rendering, rasterize
from common_ns.splats.numba_kernels import ACROSS, DOWN, LEAST_ALPHA, LEAST_T, MOMENTS, MOST_ALPHA, ROW, SPLAT

FORWARD_OPERATIONS = 46
"""Of a pair: the form 8, the power of two 14, opacity 4, weight and transmittance 4, eight sums 16."""
BACKWARD_OPERATIONS = 84
"""The same without sums 30; the pixel's derivatives by the Gaussian's numbers 15 and their sums 14; what is behind 2,
the derivative by opacity 7, six moments 16."""


@dataclass(frozen=True)
class Size:
    """A scene and its picture."""

    gaussians: int
    width: int
    height: int
    degree: int
    extent: float
    """Median standard deviation along an axis, in pixels at the middle of the scene."""


SIZES = {
    "200,000, degree 3": Size(200_000, 480, 270, 3, 1.2),
    "180,000, degree 0": Size(180_000, 240, 240, 0, 1.0),
    "5,000, degree 3": Size(5_000, 160, 90, 3, 2.5),
}
"""The second is the size of the trial that this grew from, whose Gaussians were round and of one color: it took about
160 ms for a photograph, with its optimizer, on one core of another machine. The third is for plain torch, too."""


def scene_of(size: Size) -> dict[str, Any]:
    """Arguments of `rasterize`, with derivatives asked for."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    focal, distance = 0.83 * size.width, 4.0
    extent = torch.tensor([0.5 * size.width, 0.5 * size.height, 0.25 * size.width]) * distance / focal
    viewmat = torch.eye(4)
    viewmat[2, 3] = distance
    return {
        "means": (normal(size.gaussians, 3) * 0.55 * extent).requires_grad_(),
        "quats": normal(size.gaussians, 4).requires_grad_(),
        "scales": (torch.exp(0.6 * normal(size.gaussians, 3)) * size.extent * distance / focal).requires_grad_(),
        "opacities": torch.sigmoid(1.5 * normal(size.gaussians)).requires_grad_(),
        "coefficients": (0.2 * normal(size.gaussians, (size.degree + 1) ** 2, 3)).requires_grad_(),
        "viewmat": viewmat.requires_grad_(),
        "K": torch.tensor([[focal, 0, 0.5 * size.width], [0, focal, 0.5 * size.height], [0, 0, 1]]),
        "width": size.width,
        "height": size.height,
    }


@njit
def _count(rows, entries, starts, ends, height):
    """Pairs of a row and a pixel: computed, with an alpha that is not too small, blended."""
    down, computed, seen, blended = (height + DOWN - 1) // DOWN, 0, 0, 0
    for tile in range(len(ends)):
        left, top = tile // down * ACROSS, tile % down * DOWN
        t = np.ones((DOWN, ACROSS))
        for place in range(starts[tile], ends[tile]):
            row = rows[entries[place] >> 36]
            for y in range((entries[place] >> 6) & 63, entries[place] & 63):
                for x in range(ACROSS):
                    computed += 1
                    dx, dy = row[0] - left - x - 0.5, row[1] - top - y - 0.5
                    form = (row[2] * dx + row[3] * dy) * dx + row[4] * dy * dy
                    alpha = min(row[5] * 2.0**-form, MOST_ALPHA)
                    if alpha >= LEAST_ALPHA:
                        seen += 1
                        if t[y, x] > 0:
                            blended += 1
                            t[y, x] *= 1 - alpha
                            if t[y, x] <= LEAST_T:
                                t[y, x] = 0
    return computed, seen, blended


def counts_of(found: Rendering, size: Size) -> dict[str, int]:
    """Of numba's picture: what was read and computed for it."""
    node: Any = found.color.grad_fn
    lists, ends = node.lists, node.ends
    computed, seen, blended = _count(lists.rows, lists.entries, lists.starts, ends, size.height)
    return {
        "Gaussians seen": len(lists.rows),
        "entries": int((ends - lists.starts[:-1]).sum()),
        "pairs computed": computed,
        "pairs seen": seen,
        "pairs blended": blended,
    }


def floor_of(size: Size, counts: dict[str, int], copied: float, computed: float) -> tuple[float, float]:
    """Milliseconds, forward and backward.

    Args:
        copied: megabytes a millisecond, read and written together.
        computed: millions of operations a millisecond.
    """
    numbers = 4 * size.gaussians * (11 + 3 * (size.degree + 1) ** 2) / 1e6
    splats = 4 * counts["Gaussians seen"] * (2 + SPLAT + ROW) / 1e6
    lists = counts["entries"] * (4 * ROW + 8) / 1e6
    moments = 4 * counts["Gaussians seen"] * (MOMENTS + 2 + SPLAT) / 1e6
    forward = (numbers + 2 * splats + lists) / copied
    backward = (2 * numbers + splats + lists + 2 * moments) / copied
    pairs = counts["pairs blended"] / 1e6
    return forward + pairs * FORWARD_OPERATIONS / computed, backward + pairs * BACKWARD_OPERATIONS / computed


def product_speed(clock: Callable[[], float], rounds: int) -> float:
    """Millions of operations a millisecond of a matrix product in float32."""
    a = torch.ones(1024, 1024)
    return 2 * 1024**3 / 1e6 / take_turns({"product": lambda: a @ a}, clock, rounds)["product"]


@dataclass
class Benchmark:
    """Measure pictures of Gaussians."""

    section: tyro.conf.Positional[Literal["raster", "table"]]
    """What to measure; table only writes the table again."""
    rounds: int = 7
    """Repetitions of which the shortest counts."""
    threads: int = 1
    """CPU threads."""
    load: str = "not stated"
    """What else the machine was doing, for the record."""

    def main(self) -> None:
        torch.set_num_threads(self.threads)
        self.clock = time.thread_time if self.threads == 1 else time.perf_counter
        if self.section == "raster":
            self.raster()
        write_sections("splats", "Pictures of Gaussians", "Times in milliseconds.")

    def raster(self) -> None:
        """Forward and backward, by size."""
        copied, computed = copy_speed(self.clock, self.rounds), product_speed(self.clock, self.rounds)
        rows = []
        for name, size in SIZES.items():
            scene = scene_of(size)
            row: dict[str, Any] = {"Gaussians": name, "picture": f"{size.width}×{size.height}"}
            forward, backward = self._times(scene, "numba", self.rounds)
            counts = counts_of(rasterize(**scene, implementation="numba"), size)
            floor = floor_of(size, counts, copied, computed)
            row |= {"forward": forward, "backward": backward, "both": forward + backward}
            row |= {"floor, forward": floor[0], "floor, backward": floor[1]}
            row |= {"both / floor": (forward + backward) / sum(floor), **counts}
            if size.gaussians <= 5000:
                row |= {"torch, both": sum(self._times(scene, "torch", 2))}
            rows.append(row)
            print(row, flush=True)
        settings = {
            "rounds": self.rounds,
            "copies, GB/s": round(copied, 1),
            "products, GFLOP/s": round(computed, 1),
            "other load": self.load,
        }
        save_section("splats", f"raster, CPU, threads {self.threads}", {"settings": settings, "rows": rows})

    def _times(self, scene: dict[str, Any], implementation: Any, rounds: int) -> tuple[float, float]:
        """Milliseconds of a picture, and of its derivatives."""
        generator, forward, backward = torch.Generator().manual_seed(1), [], []
        leaves = [value for value in scene.values() if isinstance(value, Tensor) and value.requires_grad]
        for _ in range(rounds + 1):
            start = self.clock()
            found = rasterize(**scene, implementation=implementation)
            forward.append(1000 * (self.clock() - start))
            outputs = [found.color, found.depth, found.normals]
            slopes = [torch.randn(picture.shape, generator=generator) for picture in outputs if picture is not None]
            start = self.clock()
            torch.autograd.grad(outputs, leaves, slopes)  # type: ignore[arg-type]
            backward.append(1000 * (self.clock() - start))
        return min(forward[1:]), min(backward[1:])


if __name__ == "__main__":
    tyro.cli(Benchmark).main()
