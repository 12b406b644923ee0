"""The picture at the top of the README, from a demo: a panel for each family.

make demo && python docs/pictures/families.py outputs/demo
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
from PIL import Image, ImageDraw, ImageFont

from common_ns.meshing.pictures import MeshPictures, as_bytes
from common_ns.pages import panels, pixels
from demo.chapters import first_frame

LABEL = 26
"""Height of a label in pixels."""
GAP = 10
"""White pixels between panels."""


@dataclass
class Families:
    """Compose the picture."""

    demo: tyro.conf.Positional[Path] = Path("outputs/demo")
    """Folder of a demo that has run."""
    output_path: Path = Path("docs/pictures/families.jpg")
    """File to write."""
    size: int = 250
    """Side of a panel in pixels."""

    def main(self) -> None:
        """Compose and write."""
        shown = [
            ("mesh from pictures: hash-neus-small", self.mesh(0)),
            ("the same in its colors", self.mesh(1)),
            ("another light: ns-swap-appearance", self.swapped()),
            ("8 views: depth-hash-small, no depth", self.evaluated("few-views/without-depth", 2, 1)),
            ("the same 8 views with depth", self.evaluated("few-views/with-depth", 2, 1)),
            ("without bounds: mip-nerf-360-small", self.evaluated("outdoors/landscape", 2, 1)),
            ("an image as networks: miner-image", self.blocks()),
            ("a shape as networks: miner-occupancy", self.volume()),
            ("a scene at four scales: mip-nerf-small", self.scales()),
        ]
        cells = [self.cell(picture, label) for label, picture in shown]
        rows = [np.concatenate(cells[at : at + 3], axis=1) for at in range(0, len(cells), 3)]
        picture = Image.fromarray(np.concatenate(rows, axis=0))
        picture.save(self.output_path, quality=88, optimize=True)
        print(f"Wrote {self.output_path}, {self.output_path.stat().st_size / 1000:.0f} kB")

    def mesh(self, kind: int) -> np.ndarray:
        """The mesh of the surface chapter: 0 as clay, 1 in its colors."""
        view = MeshPictures(self.demo / "surfaces" / "mesh.ply", size=self.size).view(30.0)[kind]
        return as_bytes(view)

    def swapped(self) -> np.ndarray:
        """The first frame of the film with another run's colors."""
        return np.split(first_frame(self.demo / "surfaces" / "swapped.mp4"), 2, axis=1)[0]

    def evaluated(self, run: str, count: int, which: int) -> np.ndarray:
        """A panel of the first evaluated picture of a run."""
        return panels(self.demo / run / "evaluation" / "eval_img_0000.png", count)[which]

    def blocks(self) -> np.ndarray:
        """The photograph with the outlines of its finest blocks."""
        return pixels(self.demo / "photograph" / "astronaut" / "evaluation" / "eval_blocks_0.png")

    def volume(self) -> np.ndarray:
        """The mesh that came out of the networks."""
        view = MeshPictures(self.demo / "volume" / "mesh.ply", size=self.size).view(30.0)[0]
        return as_bytes(view)

    def scales(self) -> np.ndarray:
        """Renderings at four sizes, each enlarged to a quarter of the panel."""
        by_width = {}
        for file in sorted((self.demo / "scales" / "multiscale" / "evaluation").glob("eval_img_*.png")):
            rendering = panels(file, 3)[2]
            by_width.setdefault(rendering.shape[1], rendering)
        side = self.size // 2
        small = [
            np.asarray(Image.fromarray(by_width[width]).resize((side, side), Image.Resampling.NEAREST))
            for width in sorted(by_width, reverse=True)
        ]
        return np.concatenate([np.concatenate(small[:2], axis=1), np.concatenate(small[2:4], axis=1)], axis=0)

    def cell(self, picture: np.ndarray, label: str) -> np.ndarray:
        """A panel with its label below."""
        whole = Image.new("RGB", (self.size + GAP, self.size + LABEL + GAP), "white")
        whole.paste(Image.fromarray(picture).resize((self.size, self.size), Image.Resampling.LANCZOS), (GAP // 2, 0))
        place = (whole.width // 2, self.size + LABEL // 2 + 2)
        ImageDraw.Draw(whole).text(place, label, "#333333", ImageFont.load_default(14), anchor="mm")
        return np.asarray(whole)


if __name__ == "__main__":
    tyro.cli(Families).main()
