"""A picture of meshes as they are, in clay and in their own colors: rays are cast at their triangles.

python docs/pictures/meshes.py docs/pictures/surfaces-scene.png mesh.ply --azimuths 30 150 --elevation 25
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
from PIL import Image

from common_ns.mesh_pictures import MeshPictures, as_bytes


@dataclass
class Picture:
    """Render meshes in rows, views in columns: clay above, colors below."""

    output: tyro.conf.Positional[Path]
    """PNG file to write."""
    meshes: tyro.conf.Positional[tuple[Path, ...]]
    """Meshes with vertex colors."""
    azimuths: tuple[float, ...] = (30.0, 150.0)
    """Where the cameras stand around the z axis, in degrees."""
    elevation: float = 25.0
    """How far they stand above the horizon, in degrees."""
    up: tuple[float, float, float] = (0.0, 0.0, 1.0)
    """Which direction is up."""
    size: int = 320
    """Width and height of a view in pixels."""

    def main(self) -> None:
        """Render and write."""
        rows = []
        for file in self.meshes:
            mesh = MeshPictures(file, self.up, self.size)
            views = [mesh.view(azimuth, self.elevation) for azimuth in self.azimuths]
            rows += [np.concatenate([view[kind] for view in views], axis=1) for kind in (0, 1)]
        picture = np.concatenate(rows, axis=0)
        Image.fromarray(as_bytes(picture)).save(self.output, optimize=True)


if __name__ == "__main__":
    tyro.cli(Picture).main()
