"""The unbounded sample scene from cameras that all look one way, in nerfstudio's layout."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from common_ns.sample_scene.cameras import Camera, look_at
from common_ns.sample_scene.scene import Scene
from common_ns.sample_scene.writers import Extras, NerfstudioWriter, Shot

SPREAD = 0.6
"""Half side, in scene units, of the square that the cameras stand in, 3.2 before the objects."""


def forward_cameras(side: int, resolution: int) -> dict[str, list[Camera]]:
    """A grid of side² training cameras, a validation camera and four test cameras between them, all with one viewing
    direction."""
    middle = look_at(np.array([3.0, 0.0, 1.1]), (0.0, 0.0, 0.2))
    focal = 0.5 * resolution / float(np.tan(0.4))

    def camera(x: float, y: float) -> Camera:
        pose = middle.copy()
        pose[:3, 3] += SPREAD * (x * pose[:3, 0] + y * pose[:3, 1])
        return Camera(pose, resolution, resolution, focal)

    steps = np.linspace(-1.0, 1.0, side)
    return {
        "train": [camera(x, y) for x in steps for y in steps],
        "val": [camera(0.1, 0.1)],
        "test": [camera(x, y) for x in (-0.4, 0.4) for y in (-0.3, 0.3)],
    }


def write_forward_scene(folder: Path, side: int = 4, resolution: int = 32, supersample: int = 2) -> Path:
    """Render the cameras' pictures; returns the data set's folder."""
    cameras = forward_cameras(side, resolution)
    views = [(split, index, camera) for split, some in cameras.items() for index, camera in enumerate(some)]
    shots = [Shot(split, index, number, camera) for number, (split, index, camera) in enumerate(views)]
    scene = Scene(0, unbounded=True)
    writer = NerfstudioWriter(folder, shots, mono=False, masks=False, normals=False)
    for shot in shots:
        view = scene.render(shot.camera, supersample)  # type: ignore[arg-type]
        writer.add(shot, view, Extras(view.depth, None))
    writer.finish()
    return folder
