"""`ns-zoom-path`: a zoom from a whole image to a place on it, as a camera path that ns-render can render.

A MINER image has one camera, between which and itself there is nothing to interpolate. This path needs the image's size
alone: neither its samples nor a run's weights are read.
"""

from __future__ import annotations

import inspect
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
from jaxtyping import Float
from numpy.typing import ArrayLike, NDArray

from common_ns.cameras.paths import camera_path_json, even, write_camera_path
from common_ns.data.checks import require_path
from common_ns.data.files import is_there, require_writable
from common_ns.errors import InputError
from common_ns.nerfstudio_seam.last_words import report_input_errors
from common_ns.nerfstudio_seam.runs import read_run_config

FIELD_OF_VIEW = 2.0 * math.atan(0.5)
"""Vertical, in radians: the picture is as high as the camera is far away."""


def zoom_poses(
    half_size: tuple[float, float], target: ArrayLike, zoom_factor: float, frames: int, aspect: float
) -> Float[NDArray, "n 3 4"]:
    """Poses that zoom from a whole image to a place on it, from one frame to the next by the same factor.

    The middle of the picture is linear in the width of what is seen, so that one point of the image stays at its place
    in the picture and all others flow straight away from it.

    Args:
        half_size: half of the image's width and height in the world; it lies in the plane z = 0, centered.
        target: place (x, y) in the middle of the last frame.
        zoom_factor: how many times smaller the last frame is on the image than the first.
        frames: number of poses, at least 2.
        aspect: width of the picture over its height.
    """
    scale = zoom_factor ** np.linspace(0.0, 1.0, frames)
    way = (1.0 - 1.0 / scale) / (1.0 - 1.0 / zoom_factor)
    half_height = max(half_size[1], half_size[0] / aspect) / scale
    poses = np.tile(np.eye(4)[:3], (frames, 1, 1))
    poses[:, :2, 3] = way[:, None] * np.asarray(target)
    poses[:, 2, 3] = half_height / math.tan(0.5 * FIELD_OF_VIEW)
    return poses


@dataclass
class ZoomPath:
    """Write a zoom from a whole MINER image to a place on it as a camera path for ns-render.

    Every frame is closer than the one before by the same factor.
    """

    load_config: Path | None = None
    """Config of the run (config.yml)."""
    data: Path | None = None
    """Image file: in place of a run, or if it is elsewhere than during training."""
    target: tuple[float, float] | None = None
    """Row and column of the pixel to zoom to, counted from 0 at the top left. Default: the middle of the image."""
    zoom_factor: float = 16.0
    """How many times closer the last frame is than the first, which shows the whole image."""
    seconds: float = 10.0
    """Duration of the video."""
    fps: float = 30.0
    """Frames per second of the video."""
    resolution: tuple[int, int] | None = None
    """Width and height of the video in pixels, rounded to even numbers. Default: in proportion to the image, the longer
    side 1024 or, if that is less, as long as the image's."""
    output_path: Path | None = None
    """Where to write the camera path. Default: camera_paths/zoom.json beside the config, or NAME_zoom.json."""

    def check(self) -> None:
        """Raises InputError about options that cannot work, before the image is looked at."""
        if self.load_config is None and self.data is None:
            raise InputError("neither a run nor an image is given", "Give --load-config RUN/config.yml or --data IMAGE")
        if not 1.0 < self.zoom_factor < math.inf:
            raise InputError(f"--zoom-factor is {self.zoom_factor}", "Give a number above 1")
        for name, value in (("seconds", self.seconds), ("fps", self.fps)):
            if not 0 < value < math.inf:
                raise InputError(f"--{name} is {value}", "Give a number above 0")
        if self.resolution is not None and min(self.resolution) < 1:
            raise InputError(f"--resolution is {self.resolution}", "Give a width and a height above 0")

    def main(self) -> Path:
        """Write the camera path, print what it is and how to render it, and return where it is."""
        from miner_ns.image_io import read_header

        self.check()
        image = self.image_file()
        output_path = require_writable(self.output_path or self.default_output(image))
        rows, columns, _ = read_header(image).shape
        row, column = ((rows - 1) / 2, (columns - 1) / 2) if self.target is None else self.target
        if not (0 <= row <= rows - 1 and 0 <= column <= columns - 1):
            problem = f"row {row:g} and column {column:g} are not on the image of {rows} rows and {columns} columns"
            raise InputError(problem, "Give --target ROW COLUMN of a pixel", image)

        longest = max(rows, columns)
        shrunk = min(1.0, 1024 / longest)
        width, height = (even(n) for n in self.resolution or (columns * shrunk, rows * shrunk))
        frames = max(2, round(self.seconds * self.fps))
        # As the data parser places an image: its longer side from −1 to 1, x to the right, y up.
        half_size = columns / longest, rows / longest
        target = 2.0 * (column + 0.5) / longest - half_size[0], half_size[1] - 2.0 * (row + 0.5) / longest
        poses = zoom_poses(half_size, target, self.zoom_factor, frames, width / height)

        samples = max(rows, columns * height / width) / self.zoom_factor
        print(
            f"Zoom in {frames} frames, {frames / self.fps:.3g} s at {self.fps:g} frames per second\n"
            f"  first      the whole image, {columns} x {rows} px\n"
            f"  last       {samples * width / height:.4g} x {samples:.4g} px around row {row:g}, column {column:g}, "
            f"{height / samples:.3g} pixels of the video for each"
        )
        content = camera_path_json(
            poses, math.degrees(FIELD_OF_VIEW), width, height, seconds=frames / self.fps, cycle=False
        )
        write_camera_path(output_path, content, self.load_config or "RUN/config.yml")
        return output_path

    def image_file(self) -> Path:
        """The image to zoom into, of the run or as given."""
        from miner_ns.dataparser import MinerImageDataParserConfig

        if self.load_config is None:
            assert self.data is not None
            return require_path(self.data, "image")
        datamanager = read_run_config(self.load_config).pipeline.datamanager
        parser = getattr(datamanager, "dataparser", None)
        if not isinstance(parser, MinerImageDataParserConfig):
            raise InputError("the run is not of an image", "Give the config of a miner-image run", self.load_config)
        # The datamanager's own data path goes first, as it does in training.
        file = Path(self.data or getattr(datamanager, "data", None) or parser.data)
        if not is_there(file, "image"):
            remedy = "Run from the folder that ns-train ran in, or say with --data where the image is now"
            raise InputError(f"the run's image {str(file)!r} does not exist", remedy, self.load_config)
        return file

    def default_output(self, image: Path) -> Path:
        """Beside the run's config, or in the working directory."""
        if self.load_config is None:
            return Path(f"{image.stem}_zoom.json")
        return self.load_config.parent / "camera_paths" / "zoom.json"


def entrypoint() -> None:
    """Entry point of the console command."""
    report_input_errors()
    tyro.cli(ZoomPath, prog="ns-zoom-path", description=inspect.getdoc(ZoomPath)).main()


if __name__ == "__main__":
    entrypoint()
