"""Surfaces: all encodings under NeuS and IDR, and nerfstudio's neus-facto, each for the same time.

    ns-sample-scene --output-dir SCENE --layouts idr
    python -m benchmarks.sdf run --data SCENE/idr --reference SCENE/mesh.ply --seconds 300
    python -m benchmarks.sdf run --data DTU_SCAN --downscale 4 --seconds 300
    python -m benchmarks.sdf run --data DTU_SCAN --downscale 4 --seconds 600 --threads 2 --names hash

Schedules are functions of the time that has been spent: whoever takes fewer steps goes through the whole of them too.
With one thread, time is the process's CPU time, which other work on the machine changes little; with more, it is the
clock's. Pictures are compared on held-out views within the object's masks, meshes with a reference by ns-eval-mesh's
metrics. Results are written to benchmarks/results/sdf.json, the tables to sdf.md.
"""

from __future__ import annotations

import copy
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import tyro
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs

from benchmarks.mipnerf import Run, count_parameters
from benchmarks.report import RESULTS, save_section, write_sections
from benchmarks.sdf_host import host_iso_field, host_pipeline
from common_ns.meshing.culling import Views, keep_vertices, seen_vertices
from common_ns.meshing.extraction import extract_mesh
from common_ns.meshing.mesh_io import Mesh
from hashnffb_sdf_ns.base_model import masked_metrics
from hashnffb_sdf_ns.mesh_evaluation.mesh_metrics import compare
from hashnffb_sdf_ns.mesh_evaluation.surface_points import Geometry, read_geometry

ENCODINGS = ("posenc", "fourier", "hash", "nffb", "stylemod-nffb")


@dataclass
class Benchmark:
    """Train for a given time, and measure."""

    section: tyro.conf.Positional[Literal["run", "table"]]
    """run: train and measure; table: write the tables anew from the JSON."""
    data: Path = Path("data")
    """A capture in IDR's layout."""
    reference: Path | None = None
    """Mesh of the true surface, in the coordinates of the data; None: there is none to compare with."""
    names: tuple[str, ...] = (*ENCODINGS, "neus-facto")
    """Encodings, rendered by --renderer, and neus-facto for nerfstudio's method."""
    renderer: Literal["neus", "idr"] = "neus"
    """How the encodings' surfaces are rendered."""
    seconds: float = 300.0
    """Training time of each row."""
    downscale: int = 1
    """Images of 1 / downscale of the width."""
    masks: bool = True
    """Train with masks."""
    direction_noise: float = 0.0
    """Random turns of the directions in which training rays see colors (NeuS)."""
    test_views: int = 5
    """Held-out views that are rendered, at most."""
    mesh_resolution: int = 192
    """Voxels along the side of the sphere's box."""
    threads: int = 1
    """CPU threads."""
    seed: int = 42
    """Of the training."""
    keep: Path | None = None
    """Folder for meshes and pictures to look at."""

    def main(self) -> None:
        """Run, save and tabulate."""
        if self.section == "run":
            torch.set_num_threads(self.threads)
            torch.set_flush_denormal(True)
            for name in self.names:
                self.save(self.row(name))
        write_sections("sdf", "Surfaces")

    @property
    def device(self) -> str:
        """Where it is trained."""
        return "cuda" if torch.cuda.is_available() else "cpu"

    def row(self, name: str) -> dict[str, Any]:
        """Train and measure one."""
        torch.manual_seed(self.seed)
        ours = self.our_config("hash" if name == "neus-facto" else name)
        pipeline = ours.pipeline.setup(device=self.device, test_mode="val")
        views = [
            (camera.to(self.device), batch["image"][..., :3].float(), batch["mask"])
            for camera, batch in pipeline.datamanager.fixed_indices_eval_dataloader
        ][: self.test_views]
        placed = pipeline.datamanager.train_dataparser_outputs
        cameras, optimizers = pipeline.datamanager.train_dataset.cameras, ours.optimizers
        if name == "neus-facto":
            rays = ours.pipeline.datamanager.train_num_rays_per_batch
            pipeline, optimizers = host_pipeline(self.data, self.downscale, rays, self.device)
        taken, spent = self.train(pipeline, optimizers, ours.max_num_iterations)
        title = name if name == "neus-facto" else f"{name} × {self.renderer}"
        if self.direction_noise > 0:
            title += f", direction noise {self.direction_noise:g}"
        row: dict[str, Any] = {"method": title}
        row |= {"parameters": count_parameters(pipeline.model.field), "steps": taken, "seconds": round(spent)}
        pipeline.eval()
        with torch.no_grad():
            row |= self.pictures(pipeline.model, views, name)
        iso = host_iso_field(pipeline.model) if name == "neus-facto" else pipeline.model.iso_field()
        mesh = extract_mesh(iso, resolution=self.mesh_resolution)
        if self.keep is not None:
            self.keep.mkdir(parents=True, exist_ok=True)
            mesh.save(self.keep / f"{self.data.name}-{name}-{self.renderer}.ply")
        solid = mesh.to_trimesh()
        if self.reference is not None:
            row |= self.distances(mesh, placed, Views.of(cameras))
        row |= {"watertight": "yes" if solid.is_watertight else "no", "pieces": solid.body_count}
        print(row, flush=True)
        return row

    def distances(self, mesh: Mesh, placed: DataparserOutputs, views: Views) -> dict[str, Any]:
        """Distances to the reference: of all of it, and of what the training cameras see of both surfaces.

        The reference has an underside that no camera sees. Its diameter is that of the sphere about its box's center.
        """
        assert self.reference is not None
        geometry = read_geometry(self.reference)
        linear = placed.dataparser_scale * placed.dataparser_transform.double().numpy()
        reference = Mesh(geometry.vertices, geometry.faces).transformed(linear)
        middle = 0.5 * (reference.vertices.min(axis=0) + reference.vertices.max(axis=0))
        diameter = 2.0 * float(np.linalg.norm(reference.vertices - middle, axis=1).max())
        row: dict[str, Any] = {}
        for kind, pair in (
            ("all", (mesh, reference)),
            ("seen", tuple(keep_vertices(each, seen_vertices(each, views)) for each in (mesh, reference))),
        ):
            first, second = (Geometry(each.vertices, each.faces) for each in pair)
            metrics = compare(first, second, threshold=0.01 * diameter)
            row[f"Chamfer, % of the diameter, {kind}"] = 100.0 * metrics.chamfer / diameter
            row[f"F-score at 1 %, {kind}"] = metrics.f_score
            row[f"normal consistency, {kind}"] = metrics.normal_consistency
        return row

    def our_config(self, encoding: str) -> Any:
        """The small method's config with an encoding."""
        import method_configs.hashnffb_sdf as configs

        config: Any = copy.deepcopy(getattr(configs, f"hash_{self.renderer}_small").config)
        datamanager = config.pipeline.datamanager
        datamanager.data = datamanager.dataparser.data = self.data
        datamanager.dataparser.downscale_factor = self.downscale
        config.pipeline.model.sdf_field.encoding = encoding
        if self.direction_noise > 0:
            config.pipeline.model.direction_noise = self.direction_noise
        if not self.masks:
            config.pipeline.model.mask_loss_mult = 0.0
            datamanager.mask_ray_fraction = None
        return config

    def train(self, pipeline: Any, optimizers: dict, steps: int) -> tuple[int, float]:
        """Train for the time given, with schedules for `steps`; returns the steps taken and the seconds."""
        clock = time.process_time if self.threads == 1 else time.perf_counter
        run = Run(pipeline, steps, optimizers)
        start, taken = clock(), 0
        while (spent := clock() - start) < self.seconds:
            run.step = min(int(steps * spent / self.seconds), steps - 1)
            for scheduler in run.optimizers.schedulers.values():
                scheduler.last_epoch = run.step - 1  # .step() below makes it that of the share of the time
            run.advance(1)
            taken += 1
        return taken, clock() - start

    def pictures(self, model: Any, views: list[tuple[Any, torch.Tensor, torch.Tensor]], name: str) -> dict[str, float]:
        """Means over held-out views; what is beside the object is black in both."""
        found: list[dict[str, float]] = []
        for number, (camera, image, mask) in enumerate(views):
            outputs = model.get_outputs_for_camera(camera)
            image = image / 255.0 if image.max() > 1.0 else image
            target, rgb = image * (mask > 0.5), outputs["rgb"].cpu()
            opacity = outputs.get("foreground", outputs["accumulation"]).cpu()
            found.append(masked_metrics(rgb, target, mask[..., 0] > 0.5, opacity))
            if self.keep is not None:
                from PIL import Image

                self.keep.mkdir(parents=True, exist_ok=True)
                both = (torch.cat([target, rgb], dim=1).clamp(0, 1).numpy() * 255).astype(np.uint8)
                Image.fromarray(both).save(self.keep / f"{self.data.name}-{name}-{self.renderer}-{number}.png")
        titles = {"masked_psnr": "held-out PSNR on the object", "mask_iou": "mask IoU"}
        return {title: float(np.mean([each[key] for each in found])) for key, title in titles.items()}

    def save(self, row: dict[str, Any]) -> None:
        """Put a row into its section, in place of an earlier one of the same method."""
        scene = self.data.name if self.reference is None else f"sample scene ({self.data.name})"
        masks = "with masks" if self.masks else "without masks"
        cores = "one thread" if self.threads == 1 else f"{self.threads} threads"
        section = f"{scene}, {masks}, {self.seconds:g} s of {cores}"
        file = RESULTS / "sdf.json"
        earlier = json.loads(file.read_text()).get(section, {}).get("rows", []) if file.exists() else []
        rows = [each for each in earlier if each["method"] != row["method"]] + [row]
        settings = {"downscale": self.downscale, "seed": self.seed, "mesh resolution": self.mesh_resolution}
        save_section("sdf", section, {"settings": settings, "rows": rows})


if __name__ == "__main__":
    tyro.cli(Benchmark).main()
