"""`ns-splat`: a trained run as Gaussian splats, in a file that public splat viewers open."""

from __future__ import annotations

import inspect
import math
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import tyro
from jaxtyping import Float
from torch import Tensor

from common_ns.cameras.pinhole import pinhole_cameras, require_pinhole
from common_ns.data.checks import explained
from common_ns.data.files import require_writable
from common_ns.errors import InputError
from common_ns.nerfstudio_seam.last_words import report_input_errors
from common_ns.nerfstudio_seam.runs import load_run
from common_ns.scripts.mesh import model_to_world
from common_ns.splat_baking.bake import bake, is_surface
from common_ns.splat_baking.field_psnr import PIXELS, field_psnr
from common_ns.splat_baking.files import check_splat_path, save_gaussians
from common_ns.splat_baking.gaussians import Gaussians
from common_ns.splat_baking.photographs import (
    Photograph,
    photographs_of,
    refined_poses,
)
from common_ns.splat_baking.refine import RefineOptions, refine, splat_psnr
from common_ns.splat_baking.trained import drawn_classically, has_gaussians, pixel_sides, trained_gaussians
from common_ns.splats.harmonics import degree_of

MOST_GAUSSIANS = 20_000_000
"""Above which files have gigabytes."""
NUM_GAUSSIANS, SH_DEGREE = 100_000, 2
"""Of what is baked, where nothing else is asked for."""


def load_pipeline(load_config: Path) -> Any:
    """The pipeline of a run with its training and held-out photographs, in evaluation mode.

    Raises: InputError if the config, the data or the checkpoint is missing or cannot be read.
    """
    with explained(load_config):
        return load_run(load_config, test_mode="test")


@dataclass
class SplatCommand:
    """Write a trained run as Gaussian splats, and how well they show the held-out photographs.

    Gaussians are baked from what rays of the training cameras see, or are those of a run that trained Gaussians; on
    request they are refined on the photographs. Works on runs of radiance, surface and splatting methods, on the CPU as
    well as on a GPU.
    """

    load_config: Path
    """The run's config.yml."""
    output_path: Path = Path("scene.ply")
    """File to write: a .ply in the layout of 3D Gaussian Splatting, or a slightly coarser .spz, a seventh as large."""
    num_gaussians: int | None = None
    """Gaussians to bake. Refining moves them and removes some; it adds none. Default: 100,000; of a run that trained
    Gaussians all, and no other number."""
    refine: float = 0.0
    """Seconds of processor time to fit the Gaussians to the training photographs. 0: leave them as they were baked."""
    sh_degree: int | None = None
    """Degree of the harmonics by which colors depend on the view, 0 to 3: 14, 23, 38 or 59 numbers a Gaussian. Default:
    2; of a run that trained Gaussians its own, which a lower one cuts."""
    exposure: bool = False
    """While refining, give each photograph an affine change of its colors, for captures with changing exposure."""
    antialiased: bool = True
    """Refine for viewers that draw small Gaussians fainter (Mip-Splatting's 2D filter; "antialiased" in gsplat); else
    for those that draw them at full opacity, as the first ones did, and so a run that was trained with rasterize-mode
    classic. An .spz says which."""
    ssim: bool = False
    """Refine by absolute error and SSIM instead of the squared error: slower, and for more texture in less light."""
    world_coordinates: bool = False
    """Write the Gaussians in the coordinates of the data set: undo the dataparser's scale, rotation and shift."""
    held_out: bool = True
    """Print the PSNR of held-out photographs: of the field at some of their pixels, of what was baked or trained, of
    what was refined."""
    seed: int = 0
    """Of drawn pixels, and of the photographs' order. The same seed bakes the same Gaussians."""
    psnr: dict[str, float] = field(init=False, default_factory=dict)

    def check(self) -> None:
        """Raises InputError about options that cannot work, before the run is loaded, which takes a while."""
        require_writable(check_splat_path(self.output_path))
        if self.num_gaussians is not None and not 2 <= self.num_gaussians <= MOST_GAUSSIANS:
            problem = f"--num-gaussians is {self.num_gaussians}"
            raise InputError(problem, f"Give 2 to {MOST_GAUSSIANS:,}; 100000 is usual")
        if not 0 <= self.refine < math.inf:
            raise InputError(f"--refine is {self.refine}", "Give a number of seconds, 0 or more")
        if self.sh_degree is not None and not 0 <= self.sh_degree <= 3:
            raise InputError(f"--sh-degree is {self.sh_degree}", "Give 0, 1, 2 or 3")

    def main(self) -> Path:
        """Bake, refine and write, print what came of it, and return where it is."""
        self.check()
        pipeline = load_pipeline(self.load_config)
        model, datamanager = pipeline.model, pipeline.datamanager
        surface, antialiased = self.is_surface(model), self.antialiased and not drawn_classically(model)
        if self.refine:
            require_pinhole(datamanager.train_dataset.cameras, "Leave out --refine")
        background = background_of(model)
        object_only = surface and getattr(model, "background", None) is None
        held_out = self.held_out_photographs(datamanager.eval_dataset, background, object_only)
        if held_out and not has_gaussians(model):
            self.note_psnr("field", field_psnr(model, datamanager.eval_dataset.cameras, held_out))

        started, footprint = time.process_time(), None
        if has_gaussians(model):
            gaussians, source = trained_gaussians(model, self.sh_degree), "trained"
        else:
            numbers = (self.num_gaussians or NUM_GAUSSIANS, SH_DEGREE if self.sh_degree is None else self.sh_degree)
            gaussians, samples = bake(pipeline, *numbers, self.seed, progress("Baking"))
            footprint, source = samples.footprint, "baked"
        seconds = {} if source == "trained" else {"baking": time.process_time() - started}
        gaussians = gaussians.to(model.device)
        if held_out:
            self.note_psnr(source, splat_psnr(gaussians, held_out, background, antialiased))
        removed: dict[str, int] = {}
        if self.refine:
            poses = refined_poses(model, datamanager.train_dataset.cameras.camera_to_worlds.cpu())
            photographs = list(photographs_of(datamanager.train_dataset, background, object_only, poses))
            options = RefineOptions(self.refine, self.exposure, self.ssim, antialiased)
            started = time.process_time()
            show = progress("Refining")
            footprint = pixel_sides(gaussians, photographs) if footprint is None else footprint
            found = refine(gaussians, footprint, photographs, background, options, self.seed, show)
            seconds["refining"] = time.process_time() - started
            gaussians, removed = found.gaussians, found.removed
            print(f"Refined by {found.steps:,} steps on {len(photographs)} photographs")
            if not len(gaussians):
                raise InputError("no Gaussian is left", "Refine for less time, or train the run longer")
            if held_out:
                self.note_psnr("refined", splat_psnr(gaussians, held_out, background, antialiased))
        if self.world_coordinates:
            gaussians = in_world(gaussians, pipeline, self.load_config)
        save_gaussians(gaussians, self.output_path, antialiased)
        self.report(gaussians, removed, seconds, len(held_out), background)
        return self.output_path

    def is_surface(self, model: Any) -> bool:
        """Whether the run is of a surface.

        Raises: InputError if it has nothing to make Gaussians of, or has them already and another number is asked for.
        """
        if has_gaussians(model):
            if self.num_gaussians is not None:
                problem = f"--num-gaussians is {self.num_gaussians}, and the run has Gaussians, {len(model.means):,}"
                raise InputError(problem, "Leave it out", self.load_config)
            return False
        try:
            return is_surface(model)
        except InputError as error:
            raise InputError(error.problem, error.remedy, self.load_config) from error

    def held_out_photographs(self, dataset: Any, background: Float[Tensor, "3"], object_only: bool) -> list[Photograph]:
        """The photographs to compare with; none where they cannot be drawn."""
        if not self.held_out or dataset is None or not len(dataset) or not pinhole_cameras(dataset.cameras):
            return []
        found = photographs_of(dataset, background, object_only)
        return [photograph for photograph in found if bool(photograph.valid.any())]

    def note_psnr(self, name: str, value: float) -> None:
        """Keep a figure, and print it: the next one may take a while."""
        self.psnr[name] = value
        at = f" (at {PIXELS:,} of their pixels)" if name == "field" else ""
        print(f"Held-out PSNR, {name}: {value:.2f} dB{at}", flush=True)

    def report(
        self,
        gaussians: Gaussians,
        removed: dict[str, int],
        seconds: dict[str, float],
        num_held_out: int,
        background: Float[Tensor, "3"],
    ) -> None:
        """Print what has been written."""
        gone = ", ".join(f"{number:,} {reason}" for reason, number in removed.items() if number)
        taken = ", ".join(f"{value:.1f} {name}" for name, value in seconds.items())
        lines = [
            f"gaussians    {len(gaussians):,} with colors of degree {degree_of(gaussians.coefficients.shape[1])}"
            + (f"; removed: {gone}" if gone else ""),
            f"file         {self.output_path.stat().st_size / 1e6:.1f} MB",
            *([f"CPU seconds  {taken}"] if taken else []),
        ]
        if self.psnr:
            figures = ", ".join(f"{name} {value:.2f}" for name, value in self.psnr.items())
            lines.append(f"PSNR         {figures} dB over {num_held_out} held-out photographs")
        channels = "#" + "".join(f"{round(255 * value):02x}" for value in background.clamp(0, 1).tolist())
        color = {"#000000": "black", "#ffffff": "white"}.get(channels, channels)
        lines.append(f"background   {color}; the file has none, so choose it in the viewer")
        print("\n".join(["Splats", *(f"  {line}" for line in lines), f"Written to {self.output_path}"]))


def background_of(model: Any) -> Float[Tensor, "3"]:
    """The color behind all that a model shows: its own where it is one color, else black."""
    name = getattr(getattr(model, "renderer_rgb", model), "background_color", None)
    if isinstance(name, Tensor):
        return name.detach().float().cpu()
    return torch.ones(3) if name == "white" else torch.zeros(3)


def in_world(gaussians: Gaussians, pipeline: Any, load_config: Path) -> Gaussians:
    """Gaussians in the coordinates of the data set.

    Raises: InputError if these are a mirror image of the model's.
    """
    try:
        return gaussians.transformed(model_to_world(pipeline, load_config))
    except ValueError as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"the data set's coordinates: {error}", "Leave out --world-coordinates", load_config
        ) from error


def progress(name: str) -> Any:
    """Prints each tenth that is done."""
    said = -1

    def show(fraction: float) -> None:
        nonlocal said
        tenth = int(10 * fraction)
        if tenth > said:
            said = tenth
            print(f"{name}: {10 * tenth} %", flush=True)

    return show


def entrypoint() -> None:
    """Entry point of the console command."""
    report_input_errors()
    tyro.cli(SplatCommand, prog="ns-splat", description=inspect.getdoc(SplatCommand)).main()


if __name__ == "__main__":
    entrypoint()
