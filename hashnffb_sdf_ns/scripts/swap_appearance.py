"""`ns-swap-appearance`: the surface of one run with the colors of another, along a camera path.

ns-swap-appearance --geometry RUN_A/config.yml --appearance RUN_B/config.yml --camera-path path.json
ns-swap-appearance … --output-format images --output-path frames
"""

from __future__ import annotations

import inspect
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import tyro

from common_ns.data.checks import read_json, require_path
from common_ns.data.files import require_writable
from common_ns.errors import InputError
from common_ns.nerfstudio_seam.last_words import report_input_errors

if TYPE_CHECKING:
    from nerfstudio.cameras.cameras import Cameras
    from nerfstudio.pipelines.base_pipeline import Pipeline


@dataclass
class SwapAppearance:
    """Render the surface of one run with the colors of another, both of this package's methods.

    The scenes' unit spheres are laid onto each other. The surface that is shown, its normals and its outline are those
    of --geometry. The color network of --appearance was trained with features of its own distance network, so that
    with --features appearance each point is looked up at the nearest point of that run's surface: the colors of one
    object are laid onto another. With --features geometry, the color network gets the other run's features: colors
    are then arbitrary, unless one run was trained from the other.
    """

    geometry: Path
    """config.yml of the run that gives the surface."""
    appearance: Path
    """config.yml of the run that gives the colors."""
    camera_path: Path
    """Camera path in the coordinates of the first run, of the viewer or of ns-orbit-path."""
    output_path: Path = Path("swapped.mp4")
    """Video to write; with --output-format images, the folder beside it of the same name without suffix."""
    output_format: Literal["video", "images"] = "video"
    """A video, or a PNG file for each frame."""
    features: Literal["appearance", "geometry"] = "appearance"
    """Which run's features the color network reads; see above. With geometry, both runs need equally many."""
    rendered_output_names: tuple[str, ...] = ("rgb",)
    """Outputs side by side, like those of ns-render: rgb, normals, depth, accumulation."""
    downscale_factor: float = 1.0
    """Render frames of 1 / factor of the path's width and height."""

    def check(self) -> None:
        """Raises InputError about options that cannot work, before runs are loaded, which takes a while."""
        if not 0 < self.downscale_factor < math.inf:
            raise InputError(f"--downscale-factor is {self.downscale_factor}", "Give a number above 0")
        if not self.rendered_output_names:
            raise InputError("--rendered-output-names is empty", "Give rgb")
        if self.output_format == "video" and self.output_path.suffix not in ("", ".mp4"):
            problem = f"--output-path ends in {self.output_path.suffix!r}"
            raise InputError(problem, "Give a .mp4 file, or set --output-format images", self.output_path)
        if self.output_format == "video":
            require_writable(self.output_path if self.output_path.suffix else self.output_path.with_suffix(".mp4"))
        else:
            require_writable(self.output_path.parent / self.output_path.stem, folder=True)

    def main(self) -> Path:
        """Render, print what was done, and return where it is: the video, or the folder of images."""
        self.check()
        cameras, seconds = read_camera_path(self.camera_path)
        from nerfstudio.scripts.render import _render_trajectory_video

        from common_ns.scripts.mesh import load_pipeline

        pipeline = load_pipeline(self.geometry)
        other = pipeline if self.appearance == self.geometry else load_pipeline(self.appearance)
        swap_fields(pipeline, other, self)
        output = self.output_path if self.output_path.suffix else self.output_path.with_suffix(".mp4")
        print(f"Surface of {self.geometry}, colors of {self.appearance}, features of the {self.features} run.")
        _render_trajectory_video(
            pipeline,
            cameras,
            output_filename=output,
            rendered_output_names=list(self.rendered_output_names),
            rendered_resolution_scaling_factor=1.0 / self.downscale_factor,
            seconds=seconds,
            output_format=self.output_format,
            image_format="png",
        )
        return output if self.output_format == "video" else output.parent / output.stem


def read_camera_path(file: Path) -> tuple[Cameras, float]:
    """The cameras of a path and its duration in seconds.

    Raises: InputError if the file is missing or no camera path.
    """
    require_path(file, "camera path")
    content = read_json(file, required=["camera_path", "render_width", "render_height", "seconds"])
    if not content["camera_path"] or not content["seconds"] > 0:
        raise InputError("the camera path has no frames, or lasts 0 seconds", "Write it with ns-orbit-path", file)
    from nerfstudio.cameras.camera_paths import get_path_from_json

    try:
        return get_path_from_json(content), float(content["seconds"])
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        problem = f"a frame of the camera path cannot be read ({type(error).__name__}: {error})"
        raise InputError(problem, "Write it with ns-orbit-path", file) from error


def swap_fields(pipeline: Pipeline, other: Pipeline, options: SwapAppearance) -> None:
    """Give the first pipeline's model the colors of the second one's.

    Raises: InputError if one of them is of another kind of method, or their features do not fit.
    """
    from hashnffb_sdf_ns.base_model import SurfaceModel
    from hashnffb_sdf_ns.sdf_field import SdfField
    from hashnffb_sdf_ns.swapped_field import SwappedField

    fields: list[SdfField] = []
    for each, file in ((pipeline, options.geometry), (other, options.appearance)):
        if not isinstance(each.model, SurfaceModel):
            problem = f"the run is of {type(each.model).__name__}, which has no distance field with colors"
            raise InputError(problem, "Give runs of hash-neus, nffb-neus, hash-idr or nffb-idr", file)
        fields.append(each.model.field)
    pipeline.model.field = SwappedField(fields[0], fields[1], options.features)


def entrypoint() -> None:
    """Entry point of the console command."""
    report_input_errors()
    tyro.cli(SwapAppearance, prog="ns-swap-appearance", description=inspect.getdoc(SwapAppearance)).main()


if __name__ == "__main__":
    entrypoint()
