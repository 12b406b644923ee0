"""`ns-depth-rays`: opacity along the rays of pixels, against measured depth and its bounds.

ns-depth-rays --load-config RUN/config.yml --image 3 --pixel 320 240
ns-depth-rays --load-config RUN/config.yml --split train --image 0 --pixel 100 80 200 80 --output-path rays.png
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from common_ns.data.files import require_writable, written_whole
from common_ns.errors import InputError
from common_ns.nerfstudio_seam.last_words import report_input_errors


@dataclass
class DepthRays:
    """Draw how opacity rises along the rays of some pixels, with the measured depth and the band that weight bounds
    leave to it."""

    load_config: Path
    """The run's config.yml."""
    pixel: tuple[int, ...] = ()
    """Column and row of each pixel, one after the other. Default: five pixels across the middle row."""
    image: int = 0
    """Number of the image in its split."""
    split: Literal["train", "test"] = "test"
    """Images that were trained on, or held out."""
    output_path: Path = Path("rays.png")
    """Picture to write."""

    def main(self) -> Path:
        """Draw, and print measured and rendered depth."""
        from common_ns.scripts.mesh import load_pipeline
        from depthnerf_ns.base_model import DepthModel
        from depthnerf_ns.checks.ray_profile import draw_profiles, ray_profile
        from depthnerf_ns.datamanager import DepthDataManager

        require_writable(self.output_path)
        pipeline = load_pipeline(self.load_config)
        model, datamanager = pipeline.model, pipeline.datamanager
        if not isinstance(model, DepthModel) or not isinstance(datamanager, DepthDataManager):
            raise InputError(
                "the run is not of a radiance field that is supervised by depth",
                "Give a run of depth-hash or depth-mip-nerf",
                self.load_config,
            )
        dataset = datamanager.train_dataset if self.split == "train" else datamanager.eval_dataset
        if not 0 <= self.image < len(dataset):
            problem = f"there is no image {self.image} in the {self.split} split"
            raise InputError(problem, f"Choose --image from 0 to {len(dataset) - 1}", self.load_config)
        depth = dataset[self.image].get("depth_image")
        camera = dataset.cameras[self.image : self.image + 1]
        width, height = int(camera.width[0, 0]), int(camera.height[0, 0])
        numbers = self.pixel or tuple(n for i in range(5) for n in ((2 * i + 1) * width // 10, height // 2))
        if len(numbers) % 2:
            raise InputError(f"--pixel has {len(numbers)} numbers", "Give a column and a row for each pixel")
        pixels = list(zip(numbers[::2], numbers[1::2], strict=True))
        for column, row in pixels:
            if not (0 <= column < width and 0 <= row < height):
                problem = f"the pixel {column} {row} is outside of the image, which has {width}×{height}"
                raise InputError(problem, f"Choose columns up to {width - 1} and rows up to {height - 1}")
        profiles = [ray_profile(model, camera, depth, pixel) for pixel in pixels]
        for profile in profiles:
            measured = "no depth" if profile.measured is None else f"measured {profile.measured:.4f}"
            print(f"pixel {profile.pixel[0]} {profile.pixel[1]}: {measured}, rendered {profile.rendered:.4f}")
        figure = draw_profiles(profiles, f"{self.split} image {self.image}: {dataset.image_filenames[self.image].name}")
        try:
            with written_whole(self.output_path) as partial:
                figure.savefig(partial)
        except InputError:
            raise
        except ValueError as error:  # of a suffix that is no picture's
            problem = f"the picture cannot be written ({error})"
            raise InputError(problem, "Choose another --output-path", self.output_path) from error
        print(f"Written to {self.output_path}")
        return self.output_path


def entrypoint() -> None:
    """Entry point of the console command."""
    report_input_errors()
    tyro.cli(DepthRays, prog="ns-depth-rays", description=inspect.getdoc(DepthRays)).main()


if __name__ == "__main__":
    entrypoint()
