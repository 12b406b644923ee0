"""Cameras that are refined with the surface: how far perturbed poses find back, and what it does to the pictures.

    python -m benchmarks.sdf_cameras run --data DTU_SCAN

All cameras of a capture with masks are turned about themselves and shifted, each by the same amount in a random
direction, and are written as rough cameras beside the true ones: what `idr-data --cameras linear-init` is for. Errors
are what ns-eval reports: means over cameras, after the similarity that images leave open. Refinement is as the small
methods have it when it is turned on. Results are written to
benchmarks/results/sdf_cameras.json, the table to sdf_cameras.md. With one CPU thread, seconds are its own time.
"""

from __future__ import annotations

import copy
import json
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import tyro
from jaxtyping import Float
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from benchmarks.mipnerf import Run
from benchmarks.report import RESULTS, save_section, write_sections
from common_ns.cameras.projection import projection_matrices
from hashnffb_sdf_ns.camera_refinement import camera_metrics
from hashnffb_sdf_ns.idr_data.cameras import INITIAL_FILE, CameraFile, decompose, read_camera_file
from hashnffb_sdf_ns.idr_data.downscaled import image_sizes
from hashnffb_sdf_ns.idr_data.layout import find_camera_file, find_files, pair_views

TO_INDICES = np.array([[1.0, 0.0, -0.5], [0.0, 1.0, -0.5], [0.0, 0.0, 1.0]])
"""From pixels, the first one's center at 0.5, to those of the file format, where it is at 0."""

Cameras = Literal["refined", "rough", "true"]
KINDS = ("refined", "rough", "true")
"""Order of the rows."""


def perturbed(
    poses: Float[NDArray, "n 3 4"], center: Float[NDArray, "3"], degrees: float, share: float, seed: int
) -> Float[NDArray, "n 3 4"]:
    """Poses, each turned about itself and shifted by a share of its distance from a point, in random directions."""
    generator = np.random.default_rng(seed)
    turn, shift = generator.normal(size=(2, len(poses), 3))
    turn *= np.radians(degrees) / np.linalg.norm(turn, axis=1, keepdims=True)
    distance = np.linalg.norm(poses[:, :, 3] - center, axis=1, keepdims=True)
    shift *= share * distance / np.linalg.norm(shift, axis=1, keepdims=True)
    rotation = Rotation.from_rotvec(turn).as_matrix() @ poses[:, :, :3]
    return np.concatenate([rotation, (poses[:, :, 3] + shift)[:, :, None]], axis=2)


def write_rough_cameras(data: Path, folder: Path, degrees: float, share: float, seed: int) -> None:
    """A folder with links to a capture's files and rough cameras beside them."""
    for entry in data.iterdir():
        if not entry.name.startswith("downscaled"):
            (folder / entry.name).symlink_to(entry.resolve())
    files = find_files(folder)
    cameras: CameraFile = read_camera_file(find_camera_file(folder))
    placed = cameras.similarity()
    assert placed is not None, "the capture needs scale_mat"
    numbers = pair_views(files.images, list(cameras.world), cameras.path)
    sizes = [(int(width), int(height)) for width, height in image_sizes(files.images)]
    parts = [
        decompose(matrix, size, f"world_mat_{number}")
        for matrix, size, number in zip(cameras.projections(numbers, sizes), sizes, numbers)
    ]
    intrinsics, poses = (np.stack(values) for values in zip(*parts))
    rough = TO_INDICES @ projection_matrices(intrinsics, perturbed(poses, placed.center, degrees, share, seed))
    arrays = {}
    for number, matrix in zip(numbers, rough):
        arrays[f"world_mat_{number}"] = np.concatenate([matrix, [[0.0, 0.0, 0.0, 1.0]]])
        arrays[f"scale_mat_{number}"] = placed.matrix
    np.savez(folder / INITIAL_FILE, **arrays)


@dataclass
class Benchmark:
    """Perturb cameras, train, and measure."""

    section: tyro.conf.Positional[Literal["run", "table"]]
    """run: train and measure; table: write the table anew from the JSON."""
    data: Path = Path("data")
    """A capture in IDR's layout, with masks and scale_mat."""
    methods: tuple[str, ...] = ("idr", "neus")
    """Renderers."""
    seconds: float = 600.0
    """Most training time of each row."""
    steps: tuple[int, ...] = (4000,)
    """Length of each renderer's runs and schedules; one for all, or one each."""
    degrees: float = 2.0
    """Turn of each camera."""
    share: float = 0.02
    """Shift of each camera, as a share of its distance."""
    cameras: tuple[Cameras, ...] = ("refined", "rough", "true")
    """refined: perturbed, and refined with the surface; rough: perturbed; true: those of the capture."""
    encoding: str = "hash"
    """Of the field."""
    rays: int = 512
    """Of a batch."""
    downscale: int = 4
    """Images of 1 / downscale of the width."""
    seed: int = 0
    """Of the perturbation and the training."""
    threads: int = 1
    """CPU threads."""

    def main(self) -> None:
        """Run, save and tabulate."""
        torch.set_num_threads(self.threads)
        torch.set_flush_denormal(True)
        if self.section == "run":
            with tempfile.TemporaryDirectory() as name:
                folder = Path(name)
                write_rough_cameras(self.data, folder, self.degrees, self.share, self.seed)
                lengths = self.steps * len(self.methods) if len(self.steps) == 1 else self.steps
                for method, steps in zip(self.methods, lengths, strict=True):
                    for cameras in self.cameras:
                        self.save(self.train(method, folder, steps, cameras))
        write_sections("sdf_cameras", "Refined cameras")

    def save(self, row: dict[str, Any]) -> None:
        """Put a row into the results, in place of an older one of its kind."""
        settings = {
            "data": self.data.name,
            "turn, degrees": self.degrees,
            "shift, share of the distance": self.share,
            "encoding": self.encoding,
            "rays": self.rays,
            "downscale": self.downscale,
            "threads": self.threads,
        }
        title = f"{self.data.name} at 1/{self.downscale}, {self.encoding}, {self.degrees:g}° and {100 * self.share:g} %"
        file = RESULTS / "sdf_cameras.json"
        results = json.loads(file.read_text()) if file.exists() else {}
        rows = results.get(title, {}).get("rows", [])
        kind = ("renderer", "cameras")
        rows = [other for other in rows if any(other[key] != row[key] for key in kind)] + [row]
        rows.sort(key=lambda each: (each["renderer"], KINDS.index(each["cameras"])))
        save_section("sdf_cameras", title, {"settings": settings, "rows": rows})

    def train(self, method: str, folder: Path, steps: int, cameras: Cameras) -> dict[str, Any]:
        """One row."""
        import method_configs.hashnffb_sdf as configs

        config: Any = copy.deepcopy(getattr(configs, f"hash_{method}_small").config)
        pipeline = config.pipeline
        parser = pipeline.datamanager.dataparser
        pipeline.datamanager.data = parser.data = folder
        parser.cameras = "stated" if cameras == "true" else "linear-init"
        parser.downscale_factor = self.downscale
        pipeline.datamanager.train_num_rays_per_batch = self.rays
        pipeline.model.sdf_field.encoding = self.encoding
        pipeline.model.camera_optimizer.mode = "SO3xR3" if cameras == "refined" else "off"
        if method == "idr":
            pipeline.model.mask_alpha_milestones = tuple(steps * k // 8 for k in range(1, 6))
        torch.manual_seed(self.seed)
        clock = time.thread_time if self.threads == 1 else time.perf_counter
        run = Run(pipeline.setup(device="cpu", test_mode="val"), steps, config.optimizers, clock)
        model, datamanager = run.pipeline.model, run.pipeline.datamanager
        metadata = datamanager.train_dataset.metadata
        before = camera_metrics(model.camera_optimizer, metadata)
        spent = 0.0
        while spent < self.seconds and run.step < steps:
            spent += run.advance(min(250, steps - run.step), self.seconds - spent)
            print(method, run.step, round(spent), camera_metrics(model.camera_optimizer, metadata), flush=True)
        metrics = run.pipeline.get_average_image_metrics(datamanager.fixed_indices_eval_dataloader, "eval")
        row: dict[str, Any] = {"renderer": method, "cameras": cameras, "steps": run.step, "seconds": spent}
        after = camera_metrics(model.camera_optimizer, metadata)
        for name, unit in (("rotation_error_deg", "turn off, degrees"), ("translation_error_relative", "shift off, %")):
            factor = 100.0 if unit.endswith("%") else 1.0
            for when, errors in (("at first", before), ("at last", after)):
                if errors:
                    row[f"{unit} {when}"] = factor * errors[f"camera_{name}"]
        row |= {"test PSNR on the object": metrics["masked_psnr"], "mask IoU": metrics["mask_iou"]}
        return row


if __name__ == "__main__":
    tyro.cli(Benchmark).main()
