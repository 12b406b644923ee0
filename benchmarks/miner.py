"""MINER: quality, time, parameters and memory on images and volumes.

    python -m benchmarks.miner astronaut                    # 512² (scikit-image), three recipes
    python -m benchmarks.miner random                       # 256² random pixels, 16² blocks
    python -m benchmarks.miner choices                      # the same, with one option changed at a time
    python -m benchmarks.miner linear --data IMAGE          # 512² … 4096²: time against pixels
    python -m benchmarks.miner occupancy --data MESH        # 128³ and 256³, and the mesh that comes out again
    python -m benchmarks.miner voxelize --data MESH         # 512³

Times are of training with compiled kernels: a first run of each kind compiles them and is not counted; what the
compiling costs is given beside. Each section is written to benchmarks/results/miner.json, the tables to miner.md.
"""

from __future__ import annotations

import json
import math
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import tyro
from numpy.typing import NDArray

from benchmarks.report import RESULTS, save_section, table, write_sections
from common_ns.errors import InputError
from common_ns.meshing.extraction import extract_mesh
from common_ns.meshing.mesh_io import Mesh
from common_ns.metrics import psnr_of_mse
from common_ns.nerfstudio_seam.last_words import report_input_errors
from miner_ns.fitting import Fitting, intersection_over_union, mean_squared_error
from miner_ns.image_io import read_image
from miner_ns.options import FitOptions
from miner_ns.signal import Signal
from miner_ns.surface import occupancy_field
from miner_ns.volume_io import read_mesh
from miner_ns.voxelize import VoxelizeOptions, bounding_grid, voxelize

ASTRONAUT_ORIGINAL = {"psnr": 36.76, "train seconds": 43.0, "parameters": 263_000}
"""MINER_pl on the same kind of machine, whole process (4 levels, 32² blocks, 3 × 20, epochs 50/50/50/200)."""

RECIPES = {
    "default": FitOptions(),
    "as many parameters as the original": FitOptions(hidden_dim=19, epochs=(50, 50, 50, 250)),
    "fine": FitOptions(hidden_dim=28, num_frequencies=6, epochs=(50, 50, 50, 800), threshold=1e-5),
}
PAPER = FitOptions(num_levels=6, num_layers=4, hidden_dim=9, num_frequencies=0, pyramid="laplacian", epochs=(200,))
CHOICES = {
    "default": FitOptions(),
    "laplacian pyramid": FitOptions(pyramid="laplacian"),
    "4 frequencies": FitOptions(num_frequencies=4),
    "6 frequencies": FitOptions(num_frequencies=6),
    "no encoding": FitOptions(num_frequencies=0),
    "threshold 5e-5": FitOptions(threshold=5e-5),
    "warm start": FitOptions(warm_start=True),
    "25 fine epochs": FitOptions(epochs=(50, 50, 50, 25)),
    "25 fine epochs, warm start": FitOptions(epochs=(50, 50, 50, 25), warm_start=True),
    "gradients not weighted": FitOptions(weight_by_loss=False),
    "beta2 0.999": FitOptions(beta2=0.999),
    "Gabor filters": FitOptions(architecture="gabor", num_frequencies=0),
    "paper's settings": PAPER,
}
OCCUPANCY = FitOptions(block_size=16, hidden_dim=16, num_layers=2, threshold=3e-4, loss="bce")

MESH_COLUMNS = ["mesh seconds", "faces", "parts", "watertight", "chamfer", "chamfer 1/2", "chamfer 1/4"]
COLUMNS = {
    "occupancy": ["signal", "iou", "train seconds", "parameters", *MESH_COLUMNS],
    "voxelize": ["mesh", "votes", "seconds", "share inside", "undecided"],
}
"""Columns of the tables of some sections."""


def fit(signal: Signal, options: FitOptions, device: str) -> tuple[Fitting, float, dict[str, Any]]:
    """Fit a signal; returns the fit, the seconds of training, and what each level took."""
    fitting = Fitting(signal, options, device)
    _ = fitting.pyramid
    levels: dict[str, Any] = {}
    start = last = time.perf_counter()
    level = fitting.level
    while fitting.advance() is not None:
        if fitting.level != level:
            if device != "cpu":
                torch.cuda.synchronize()
            now = time.perf_counter()
            trained = fitting.hierarchy.levels.get(level)
            levels[str(level)] = {
                "seconds": round(now - last, 2),
                "blocks": 0 if trained is None else len(trained.index),
            }
            level, last = fitting.level, now
    return fitting, time.perf_counter() - start, levels


def row_of(
    name: str,
    signal: Signal,
    options: FitOptions,
    device: str,
    also: Callable[[Fitting], dict[str, Any]] | None = None,
) -> dict[str, Any]:
    """Fit and measure; `also` gives further figures of a fit."""
    fitting, seconds, levels = fit(signal, options, device)
    mse = torch.tensor(mean_squared_error(fitting.hierarchy, fitting.pyramid), dtype=torch.float64)
    row: dict[str, Any] = {
        "signal": name,
        "psnr": float(psnr_of_mse(mse.clamp_min(1e-12))),
        "train seconds": seconds,
        "parameters": fitting.hierarchy.num_parameters,
        "peak MiB": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10),
        "levels": levels,
    }
    if len(signal.spatial_shape) == 3:
        row["iou"] = intersection_over_union(fitting)
    row |= {} if also is None else also(fitting)
    print({key: value for key, value in row.items() if key != "levels"}, flush=True)
    return row


def chamfer_distance(a: Mesh, b: Mesh, count: int = 200_000) -> float:
    """Mean distance from points spread evenly over one surface to the other surface, of both directions.

    The nearest point is sought on the triangles themselves: between two sets of points a distance would remain even if
    both lay on the same surface.

    Args:
        a, b: the surfaces, in the same unit.
        count: points on each of them.
    Returns: in that unit.
    """
    import open3d
    import trimesh

    def mean(start: Mesh, end: Mesh) -> float:
        points = np.asarray(trimesh.sample.sample_surface(start.to_trimesh(), count, seed=0)[0])
        scene = open3d.t.geometry.RaycastingScene()
        scene.add_triangles(
            open3d.core.Tensor(end.vertices.astype(np.float32)), open3d.core.Tensor(end.faces.astype(np.uint32))
        )
        return float(scene.compute_distance(open3d.core.Tensor(points.astype(np.float32))).numpy().mean())

    return 0.5 * (mean(a, b) + mean(b, a))


def mesh_figures(source: Mesh, fitting: Fitting) -> dict[str, Any]:
    """The mesh of an occupancy as ns-mesh extracts it with as many voxels, and its distance to the source.

    Args:
        source: what was voxelized, in units of voxels.
        fitting: the fitted occupancy.
    Returns: figures; Chamfer distances in voxels of the mesh's own, also at half and a quarter of the resolution.
    """
    figures: dict[str, Any] = {}
    in_voxels = torch.eye(4, dtype=torch.float64)[:3]
    for step in (1, 2, 4):
        start = time.perf_counter()
        field = occupancy_field(fitting.hierarchy, in_voxels, voxel_size=float(step))
        mesh = extract_mesh(field, fitting.signal.spatial_shape[0] // step)
        seconds = time.perf_counter() - start
        distance = chamfer_distance(mesh, source) / step
        if step == 1:
            figures |= {"mesh seconds": seconds, "faces": len(mesh.faces), "parts": mesh.to_trimesh().body_count}
            figures |= {"watertight": mesh.to_trimesh().is_watertight, "chamfer": distance}
        else:
            figures[f"chamfer 1/{step}"] = distance
            figures["watertight"] &= mesh.to_trimesh().is_watertight
    return figures


@dataclass
class Benchmark:
    """Measure MINER."""

    section: tyro.conf.Positional[Literal["astronaut", "choices", "random", "linear", "occupancy", "voxelize", "table"]]
    """What to measure; table only writes the table again."""
    data: Path | None = None
    """Image (linear) or mesh (occupancy, voxelize)."""
    sizes: tuple[int, ...] = (512, 1024, 2048, 4096)
    """Sides of the squares cut out of the image (linear)."""
    resolutions: tuple[int, ...] = (128, 256)
    """Voxels along a side (occupancy)."""
    voxels: int = 512
    """Voxels along a side (voxelize)."""
    threads: int = 2
    """CPU threads."""

    def main(self) -> None:
        torch.set_num_threads(self.threads)
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        if self.section != "table":
            getattr(self, self.section)()
        write_sections("miner", "MINER", tables=tables)

    def _warm(self, signal: Signal, options: FitOptions) -> float:
        """Compile what the options need, on a corner of the signal; returns the seconds."""
        side = options.block_size * 2
        corner = signal.read_stored((0,) * signal.ndim, (side,) * signal.ndim)
        small = Signal.from_occupancy(corner[..., 0]) if signal.dtype.kind == "b" else Signal(corner, signal.ndim)
        start = time.perf_counter()
        fit(small, replace(options, num_levels=2, epochs=(2,)), self.device)
        return time.perf_counter() - start

    def _measure(
        self,
        named: list[tuple[str, Signal, FitOptions]],
        name: str | None = None,
        also: list[Callable[[Fitting], dict[str, Any]]] | None = None,
        **settings: Any,
    ) -> None:
        compiled = [self._warm(signal, options) for _, signal, options in named]
        more = also if also is not None else [None] * len(named)
        rows = [row_of(*one, self.device, figures) for one, figures in zip(named, more)]
        settings = {"threads": self.threads, "first compile seconds": round(max(compiled), 1), **settings}
        save_section("miner", name or self.section, {"settings": settings, "rows": rows})

    def astronaut(self) -> None:
        """512² with three recipes, beside the original's figures."""
        from skimage import data

        signal = Signal(data.astronaut(), 2)
        self._measure([(f"astronaut, {name}", signal, options) for name, options in RECIPES.items()])

    def choices(self) -> None:
        """512² with one option changed at a time."""
        from skimage import data

        signal = Signal(data.astronaut(), 2)
        self._measure([(name, signal, options) for name, options in CHOICES.items()])

    def random(self) -> None:
        """Random pixels: nothing is smooth, every block needs all of its network."""
        pixels = np.random.default_rng(0).integers(0, 256, (256, 256, 3), dtype=np.uint8)
        options = FitOptions(block_size=16, hidden_dim=36, num_levels=1, epochs=(1000,), threshold=1e-5)
        self._measure([("random pixels", Signal(pixels, 2), options)])

    def linear(self) -> None:
        """The middle of an image at growing sizes; the slope of time against pixels, in double logarithms."""
        if self.data is None:
            raise InputError("there is no image", "Give one with --data")
        image = read_image(self.data)
        named = []
        for side in self.sizes:
            if side > min(image.spatial_shape):
                raise InputError(f"the image is smaller than {side}²", "Choose smaller --sizes", self.data)
            first = [(n - side) // 2 for n in image.spatial_shape]
            middle = image.read_stored(first, [f + side for f in first])
            levels = max(4, round(math.log2(side / 64)))
            options = FitOptions(num_levels=levels, threshold=5e-5)
            named.append((f"{self.data.stem} {side}²", Signal(middle, 2), options))
        name = f"linear {self.data.stem}"
        self._measure(named, name, data=self.data.name)
        content = json.loads((RESULTS / "miner.json").read_text())[name]
        content.pop("machine")
        seconds: NDArray = np.log([row["train seconds"] for row in content["rows"]])
        content["settings"]["slope"] = round(float(np.polyfit(2 * np.log(self.sizes), seconds, 1)[0]), 2)
        save_section("miner", name, content)

    def _mesh(self) -> tuple[Mesh, Path]:
        """The mesh in --data, and its file."""
        if self.data is None:
            raise InputError("there is no mesh", "Give one with --data")
        return Mesh(*read_mesh(self.data)), self.data

    def occupancy(self) -> None:
        """A mesh as occupancy, of zeros and ones and of shares; beside IoU, the extracted mesh's distance to it."""
        mesh, file = self._mesh()
        named, figures = [], []
        for resolution in self.resolutions:
            for kind, extra in (("", {}), (", shares", {"subvoxel": 4, "fractions": True})):
                options = VoxelizeOptions(resolution=resolution, **extra)
                grid = bounding_grid(mesh.vertices, options)
                to_voxels = np.concatenate([np.eye(3), -np.array(grid.origin)[:, None]], axis=1) / grid.voxel_size
                signal = voxelize(mesh.vertices, mesh.faces, options).signal
                named.append((f"{file.stem} {resolution}³{kind}", signal, OCCUPANCY))
                figures.append(partial(mesh_figures, mesh.transformed(to_voxels)))
        self._measure(named, also=figures, data=file.name, chamfer="in voxels")

    def voxelize(self) -> None:
        """A mesh becomes an occupancy: seconds and memory, by one column per voxel, and by votes of nine."""
        mesh, file = self._mesh()
        rows = []
        for votes in (1, 9):
            start = time.perf_counter()
            found = voxelize(mesh.vertices, mesh.faces, VoxelizeOptions(resolution=self.voxels, votes=votes))
            seconds = time.perf_counter() - start
            side = range(self.voxels)
            inside = [found.signal.read_stored((x, 0, 0), (x + 1, len(side), len(side))).mean() for x in side]
            rows.append(
                {
                    "mesh": f"{file.stem} {self.voxels}³",
                    "votes": votes,
                    "seconds": seconds,
                    "share inside": float(np.mean(inside)),
                    "undecided": found.undecided,
                    "peak MiB": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10),
                }
            )
            print(rows[-1], flush=True)
        save_section("miner", "voxelize", {"settings": {"threads": self.threads}, "rows": rows})


def tables(section: str, rows: list[dict[str, Any]]) -> list[str]:
    """The rows of a section, beside the published figure where there is one, and the levels of those that have any."""
    columns = [*COLUMNS.get(section, ["signal", "psnr", "train seconds", "parameters"]), "peak MiB"]
    known = [{"signal": "astronaut, MINER_pl (whole process)", **ASTRONAUT_ORIGINAL}] if section == "astronaut" else []
    levels = [
        {"signal": row["signal"], "level": level, **each}
        for row in rows
        for level, each in row.get("levels", {}).items()
    ]
    parts = [table([*known, *rows], columns)]
    return [*parts, table(levels, ["signal", "level", "blocks", "seconds"])] if levels else parts


if __name__ == "__main__":
    report_input_errors()
    tyro.cli(Benchmark).main()
