"""`ns-turntable`: a mesh on a turntable, as a film or a picture, without a graphics card.

ns-turntable mesh.ply --output-path mesh.mp4
ns-turntable mesh.ply --output-path mesh.png --frames 4
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro

from common_ns.data.checks import require_path
from common_ns.data.files import require_writable, written_whole
from common_ns.errors import InputError
from common_ns.nerfstudio_seam.last_words import report_input_errors

SUFFIXES = (".mp4", ".png", ".jpg")


@dataclass
class Turntable:
    """Draw a mesh from all around: as clay, which shows its shape, and in its own colors.

    Rays are cast at its triangles; neither a display nor a GPU is needed.
    """

    mesh: tyro.conf.Positional[Path]
    """Mesh to draw: ply, obj, glb, stl or off."""
    output_path: Path = Path("turntable.mp4")
    """Film (.mp4), or picture (.png, .jpg) of all frames: clay above, colors below."""
    frames: int = 48
    """Views, evenly around the mesh."""
    fps: int = 12
    """Frames of the film per second."""
    elevation: float = 25.0
    """How far the camera stands above the horizon, in degrees."""
    up: tuple[float, float, float] = (0.0, 0.0, 1.0)
    """Which direction is up."""
    size: int = 320
    """Height of a view in pixels, an even number; clay and colors are as wide each."""

    def check(self) -> None:
        """Raises InputError about options that cannot work."""
        require_path(self.mesh, "mesh")
        if self.output_path.suffix.lower() not in SUFFIXES:
            problem = f"--output-path ends in {self.output_path.suffix!r}"
            raise InputError(problem, f"Choose {', '.join(SUFFIXES)}", self.output_path)
        require_writable(self.output_path)
        for name, low, high in (("frames", 1, 1000), ("fps", 1, 120), ("size", 16, 2048)):
            if not low <= getattr(self, name) <= high:
                raise InputError(f"--{name} is {getattr(self, name)}", f"Choose a number from {low} to {high}")
        if self.size % 2:
            raise InputError(f"--size is {self.size}", "Choose an even number: films have no odd sizes")
        if not np.linalg.norm(self.up) > 0:
            raise InputError("--up has no length", "Give a direction, such as 0 0 1")

    def main(self) -> None:
        """Draw and write."""
        self.check()
        from common_ns.meshing.pictures import MeshPictures

        mesh = MeshPictures(self.mesh, self.up, self.size, oversampling=2)
        with written_whole(self.output_path) as partial:
            if self.output_path.suffix.lower() == ".mp4":
                mesh.turntable(partial, self.frames, self.fps, self.elevation)
            else:
                mesh.sheet(partial, self.frames, self.elevation)
        print(f"Wrote {self.output_path}: {self.frames} views of {len(mesh.faces):,} faces")


def entrypoint() -> None:
    """Entry point of the console command."""
    report_input_errors()
    tyro.cli(Turntable, prog="ns-turntable", description=inspect.getdoc(Turntable)).main()


if __name__ == "__main__":
    entrypoint()
