"""`ns-orbit-path`: a spherical orbit around the scene of a run, as a camera path that ns-render can render.

It needs the run's config and its data set, not its weights, and so it serves every method that has cameras.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import tyro
from jaxtyping import Float
from numpy.typing import NDArray

from common_ns.cameras.geometry import (
    azimuth_coverage,
    in_words,
    orbit_center,
    orbit_poses,
    positions,
    spherical_coordinates,
    up_axis,
)
from common_ns.cameras.paths import camera_path_json, even, write_camera_path
from common_ns.data.files import is_there, require_writable
from common_ns.errors import InputError
from common_ns.nerfstudio_seam.last_words import report_input_errors
from common_ns.nerfstudio_seam.runs import read_run_config

if TYPE_CHECKING:
    from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs

LARGEST_DEFAULT_ELEVATION = math.radians(80.0)
"""Straight from above there is no level horizon, so a default elevation stays below this angle."""


@dataclass(frozen=True)
class Orbit:
    """A circle of cameras around the scene, in the coordinates of the trained model."""

    center: Float[NDArray, " 3"]
    """The point that every camera looks at."""
    center_source: str
    """Where the center comes from, in words."""
    up: Float[NDArray, " 3"]
    """Axis of the orbit, a unit vector."""
    radius: float
    """Distance of the cameras to the center, in scene units."""
    elevation: float
    """Angle of the cameras above the horizontal plane, in radians."""
    start_azimuth: float
    """Azimuth of the first camera in radians: the middle of the train cameras."""
    coverage: float
    """Angle in radians of the arc around the center on which the train cameras stand."""


def fit_orbit(c2w: Float[NDArray, "n 3 4"], box: Float[NDArray, "2 3"]) -> Orbit:
    """The orbit that stays closest to where the pictures were taken.

    It is always a full circle: where the train cameras cover only an arc of it, the rest shows the scene from sides
    that nobody photographed.

    Args:
        c2w: poses of the train cameras.
        box: lower and upper corner of the scene box.
    Returns: an orbit at the median distance and the median elevation of the train cameras.
    """
    center, source = orbit_center(c2w, box)
    up = up_axis(c2w)
    distance, elevation, azimuth = spherical_coordinates(positions(c2w), center, up)
    return Orbit(
        center=center,
        center_source=source,
        up=up,
        radius=float(np.median(distance)),
        elevation=float(np.clip(np.median(elevation), -LARGEST_DEFAULT_ELEVATION, LARGEST_DEFAULT_ELEVATION)),
        start_azimuth=float(np.angle(np.exp(1j * azimuth).mean())),
        coverage=azimuth_coverage(azimuth),
    )


def load_train_outputs(load_config: Path, data: Path | None = None) -> DataparserOutputs:
    """What the data parser of a run gives for training, with cameras at the resolution it trained on.

    Args:
        load_config: the run's config.yml.
        data: where the data set is now, if not where it was during training.
    """
    config = read_run_config(load_config)
    datamanager = config.pipeline.datamanager
    dataparser_config = getattr(datamanager, "dataparser", None)
    if dataparser_config is None:
        remedy = "Choose a run that trained on posed images; only those can be orbited"
        raise InputError(f"method {config.method_name!r} has no data parser, hence no cameras", remedy, load_config)
    # The datamanager's own data path goes first, as it does in training.
    dataparser_config.data = Path(data or getattr(datamanager, "data", None) or dataparser_config.data)
    if not is_there(dataparser_config.data, "data set"):
        remedy = "Run from the folder that ns-train ran in, or say with --data where the data set is now"
        raise InputError(f"the run's data set {str(dataparser_config.data)!r} does not exist", remedy, load_config)
    from common_ns.nerfstudio_seam.dataparsers import checked_outputs, set_up

    outputs = checked_outputs(set_up(dataparser_config), "train")
    outputs.cameras.rescale_output_resolution(getattr(datamanager, "camera_res_scale_factor", 1.0))
    return outputs


def default_view(outputs: DataparserOutputs) -> tuple[int, int, float | None]:
    """Width and height in pixels of the largest train image, and the median vertical field of view in degrees.

    The field of view is None for cameras that are not perspective.
    """
    from nerfstudio.cameras.cameras import CameraType

    cameras = outputs.cameras
    largest = int((cameras.width * cameras.height).flatten().argmax())
    width, height = int(cameras.width.flatten()[largest]), int(cameras.height.flatten()[largest])
    if not bool((cameras.camera_type == CameraType.PERSPECTIVE.value).all()):
        return width, height, None
    fov = 2.0 * np.arctan(0.5 * cameras.height.flatten().numpy() / cameras.fy.flatten().numpy())
    return width, height, math.degrees(float(np.median(fov)))


@dataclass
class OrbitPath:
    """Write a spherical orbit around the scene of a run as a camera path for ns-render."""

    load_config: Path
    """The run's config.yml."""
    output_path: Path | None = None
    """Where to write the camera path. Default: camera_paths/orbit.json beside the config."""
    data: Path | None = None
    """Where the data set is, if it has moved since training."""
    frames: int = 120
    """Number of poses on the orbit."""
    fps: float = 30.0
    """Frames per second of the video."""
    seconds: float | None = None
    """Duration of one turn in seconds; if given, it decides the frame rate in place of --fps."""
    elevation_degrees: float | None = None
    """Angle of the cameras above the horizontal plane. Default: the median of the train cameras."""
    elevation_swing_degrees: float = 0.0
    """Amplitude by which the elevation rises and sinks once per turn."""
    radius: float | None = None
    """Distance to the center in scene units. Default: the median of the train cameras."""
    radius_scale: float = 1.0
    """Factor on the radius: below 1 closer to the scene, above 1 further away."""
    fov: float | None = None
    """Vertical field of view in degrees. Default: the median of the train cameras."""
    width: int | None = None
    """Image width in pixels, rounded to an even number. Default: the train images', or in proportion to --height."""
    height: int | None = None
    """Image height in pixels, rounded to an even number. Default: the train images', or in proportion to --width."""

    def check(self) -> None:
        """Raises InputError about options that cannot work, before the data set is read."""
        for name in ("frames", "fps", "seconds", "radius", "radius_scale", "width", "height"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise InputError(f"--{name.replace('_', '-')} is {value}", "Give a number above 0")
        if self.fov is not None and not 0 < self.fov < 180:
            raise InputError(f"--fov is {self.fov}", "Give a vertical field of view between 0 and 180 degrees")

    def main(self) -> Path:
        """Write the camera path, print what it is and how to render it, and return where it is."""
        self.check()
        output_path = self.output_path or self.load_config.parent / "camera_paths" / "orbit.json"
        require_writable(output_path)
        outputs = load_train_outputs(self.load_config, self.data)
        orbit = fit_orbit(
            outputs.cameras.camera_to_worlds.numpy().astype(np.float64),
            outputs.scene_box.aabb.numpy().astype(np.float64),
        )
        poses, radius, elevation = self.poses_on(orbit)

        train_width, train_height, fov = default_view(outputs)
        if self.fov is not None:
            fov = self.fov
        elif fov is None:
            fov = 60.0
            print("The train cameras are not perspective cameras: using a field of view of 60°; --fov changes it.")
        width, height = self.image_size(train_width, train_height)
        seconds = self.seconds if self.seconds is not None else self.frames / self.fps

        print(
            f"Orbit of {self.frames} poses, {seconds:.3g} s at {self.frames / seconds:.3g} frames per second\n"
            f"  center     {in_words(orbit.center)} ({orbit.center_source})\n"
            f"  up         {in_words(orbit.up)}\n"
            f"  radius     {radius:.4g} scene units\n"
            f"  elevation  {math.degrees(elevation):.1f}°"
            + (f" ± {self.elevation_swing_degrees:g}°" if self.elevation_swing_degrees else "")
            + f"\n  images     {width} x {height} px, vertical field of view {fov:.2f}°"
        )
        if orbit.coverage < math.radians(300.0):
            print(
                f"  note       the train cameras cover {math.degrees(orbit.coverage):.0f}° of the circle; "
                "the rest shows sides that no train image shows"
            )
        write_camera_path(output_path, camera_path_json(poses, fov, width, height, seconds), self.load_config)
        return output_path

    def poses_on(self, orbit: Orbit) -> tuple[Float[NDArray, "frames 3 4"], float, float]:
        """The poses on an orbit with this command's options applied, with their radius and elevation (radians)."""
        elevation = orbit.elevation if self.elevation_degrees is None else math.radians(self.elevation_degrees)
        swing = math.radians(self.elevation_swing_degrees)
        if abs(elevation) + abs(swing) > math.radians(89.0):
            raise InputError(
                f"an elevation of {math.degrees(elevation):.1f}° with a swing of {self.elevation_swing_degrees:g}° "
                "reaches the pole, where no direction is up",
                "Keep --elevation-degrees plus --elevation-swing-degrees within ±89",
            )
        radius = self.radius_scale * (orbit.radius if self.radius is None else self.radius)
        if radius < 1e-6:
            remedy = "Give the distance of the orbit's cameras with --radius"
            raise InputError("the train cameras all stand at the orbit's center", remedy, self.load_config)
        poses = orbit_poses(orbit.center, radius, elevation, self.frames, orbit.up, orbit.start_azimuth, swing)
        return poses, radius, elevation

    def image_size(self, train_width: int, train_height: int) -> tuple[int, int]:
        """Even width and height in pixels; a side that is not given keeps the train images' aspect ratio."""
        width, height = self.width, self.height
        if width is None:
            width = train_width if height is None else train_width * height / train_height
        if height is None:
            height = train_height if self.width is None else train_height * self.width / train_width
        return even(width), even(height)


def entrypoint() -> None:
    """Entry point of the console command."""
    report_input_errors()
    tyro.cli(OrbitPath, description=OrbitPath.__doc__).main()


if __name__ == "__main__":
    entrypoint()
