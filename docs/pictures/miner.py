"""Pictures of the page on MINER, from runs of its methods.

python docs/pictures/miner.py blocks    --load-config PLUTO/config.yml
python docs/pictures/miner.py zoom      --load-config PLUTO/config.yml --image pluto.jpg --target 2752 1192
python docs/pictures/miner.py occupancy --load-config ARMADILLO/config.yml
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import tyro
from jaxtyping import UInt8
from numpy.typing import NDArray
from PIL import Image

from common_ns.errors import InputError
from common_ns.nerfstudio_seam.last_words import report_input_errors
from miner_ns.scripts.zoom_path import FIELD_OF_VIEW, zoom_poses

if TYPE_CHECKING:
    from miner_ns.model import MinerModel

GAP = 6
"""White pixels between panels."""
LARGEST_FILE = 300_000
"""In bytes."""


@dataclass
class Blocks:
    """The levels of a fitted image, each with the frames of the blocks that have a network at it."""

    load_config: Path
    """Config of a run of an image."""
    output_path: Path = Path("docs/pictures/miner-blocks.png")
    """Where to write the picture."""
    levels: tuple[int, ...] = (5, 4, 3, 2)
    """Which levels, from left to right."""
    side: int = 300
    """Longer side of a panel in pixels."""

    def main(self) -> None:
        """Draw the panels and write the picture."""
        from miner_ns.model import LEVEL_COLORS

        hierarchy = load(self.load_config).fit.show()
        height, width = hierarchy.grids[0].signal_shape
        scale = self.side / max(height, width)
        size = round(height * scale), round(width * scale)
        panels = []
        for level in self.levels:
            values = hierarchy.reconstruct(level).clamp(0.0, 1.0)[..., :3].cpu().numpy()
            # Pixels are means over samples, or samples are squares of pixels.
            image = Image.fromarray(np.rint(255.0 * values).astype(np.uint8).squeeze()).convert("RGB")
            coarse = image.width < size[1]
            panel = np.array(
                image.resize((size[1], size[0]), Image.Resampling.NEAREST if coarse else Image.Resampling.BOX)
            )
            grid = hierarchy.grids[level]
            color = [round(255 * part) for part in LEVEL_COLORS[level % len(LEVEL_COLORS)]]
            for row, column in grid.coordinates(hierarchy.levels[level].index.cpu().numpy()) * grid.block_extent:
                top, left = round(row * scale), round(column * scale)
                bottom = min(round((row + grid.block_extent) * scale), size[0]) - 1
                right = min(round((column + grid.block_extent) * scale), size[1]) - 1
                panel[[top, bottom], left : right + 1] = color
                panel[top : bottom + 1, [left, right]] = color
            panels.append(panel)
            print(f"level {level}: {len(hierarchy.levels[level].index)} of {grid.num_blocks} blocks")
        write([panels], self.output_path)


@dataclass
class Zoom:
    """A zoom into a fitted image, above the same of the image itself, interpolated linearly."""

    load_config: Path
    """Config of a run of an image."""
    image: Path
    """The image."""
    target: tuple[float, float]
    """Row and column of the pixel to zoom to."""
    factors: tuple[float, ...] = (1.0, 4.0, 16.0, 64.0)
    """How many times closer than the whole image, from left to right; the last is the greatest."""
    output_path: Path = Path("docs/pictures/miner-zoom.png")
    """Where to write the picture."""
    side: int = 270
    """Sides of a panel in pixels."""

    def main(self) -> None:
        """Draw the panels and write the picture."""
        from nerfstudio.cameras.cameras import Cameras

        model = load(self.load_config)
        Image.MAX_IMAGE_PIXELS = None
        original = Image.open(self.image)
        rows, columns = original.height, original.width
        longest = max(rows, columns)
        half = columns / longest, rows / longest
        target = 2.0 * (self.target[1] + 0.5) / longest - half[0], half[1] - 2.0 * (self.target[0] + 0.5) / longest
        focal = 0.5 * self.side / math.tan(0.5 * FIELD_OF_VIEW)
        seen, expected = [], []
        for factor in self.factors:
            pose = zoom_poses(half, target, max(self.factors), 2, 1.0)[:1]
            share = (1.0 - 1.0 / factor) / (1.0 - 1.0 / max(self.factors))
            pose[:, :2, 3] = share * np.asarray(target)
            pose[:, 2, 3] /= factor
            camera = Cameras(
                torch.from_numpy(pose).float(), focal, focal, self.side / 2, self.side / 2, self.side, self.side
            )
            with torch.no_grad():
                seen.append(to_bytes(model.get_outputs_for_camera(camera)["rgb"]))
            expected.append(self.interpolated(original, pose[0], longest))
        write([seen, expected], self.output_path)

    def interpolated(self, image: Image.Image, pose: NDArray, longest: int) -> UInt8[NDArray, "s s 3"]:
        """What the camera sees of the image: means over what a pixel covers, or linear interpolation from near by."""
        width = pose[2, 3] * longest * math.tan(0.5 * FIELD_OF_VIEW)
        column = 0.5 * image.width + 0.5 * longest * pose[0, 3]
        row = 0.5 * image.height - 0.5 * longest * pose[1, 3]
        box = (column - 0.5 * width, row - 0.5 * width, column + 0.5 * width, row + 0.5 * width)
        many = 8 if width > self.side else 1
        size = (many * self.side, many * self.side)
        fill = 255 if image.mode == "L" else (255, 255, 255)
        step = width / size[0]
        moved = (step, 0.0, box[0], 0.0, step, box[1])
        panel = image.transform(size, Image.Transform.AFFINE, moved, Image.Resampling.BILINEAR, fillcolor=fill)
        return np.asarray(panel.resize((self.side, self.side), Image.Resampling.BOX).convert("RGB"))


@dataclass
class Occupancy:
    """A fitted shape: shaded, its normals, and the blocks whose networks are seen."""

    load_config: Path
    """Config of a run of an occupancy."""
    output_path: Path = Path("docs/pictures/miner-occupancy.png")
    """Where to write the picture."""
    azimuth: float = 20.0
    """Direction in degrees from which the shape is seen, about its y axis, from its z axis towards x."""
    side: int = 400
    """Sides of a panel in pixels."""

    def main(self) -> None:
        """Draw the panels and write the picture."""
        from nerfstudio.cameras.cameras import Cameras

        from common_ns.cameras.geometry import look_at

        model = load(self.load_config)
        angle = math.radians(self.azimuth)
        eye = np.array([[3.3 * math.sin(angle), 0.5, 3.3 * math.cos(angle)]])
        pose = look_at(eye, np.zeros(3), np.array([0.0, 1.0, 0.0]))
        many = 2  # rays per pixel and axis: a ray hits or misses
        size = many * self.side
        camera = Cameras(torch.from_numpy(pose).float(), 1.55 * size, 1.55 * size, size / 2, size / 2, size, size)
        panels = []
        with torch.no_grad():
            outputs = model.get_outputs_for_camera(camera)
            alpha = outputs["accumulation"]
            panels += [outputs["rgb"], outputs["normals"] * alpha + (1.0 - alpha)]
            model.show_blocks.value = True
            panels.append(model.get_outputs_for_camera(camera)["rgb"])
        small = [panel.unflatten(0, (-1, many)).unflatten(2, (-1, many)).mean(dim=(1, 3)) for panel in panels]
        write([[to_bytes(panel) for panel in small]], self.output_path)


def load(config: Path) -> MinerModel:
    """The model of a run."""
    from nerfstudio.utils.eval_utils import eval_setup

    from miner_ns.model import MinerModel

    model = eval_setup(config, test_mode="inference")[1].model
    if not isinstance(model, MinerModel):
        raise InputError("the run is not of MINER", "Give the config of a MINER run", config)
    return model.eval()


def to_bytes(values: torch.Tensor) -> UInt8[NDArray, "h w 3"]:
    """Colors in 8 bits."""
    return (255.0 * values.clamp(0.0, 1.0) + 0.5).byte().cpu().numpy()


def write(rows: list[list[UInt8[NDArray, "h w 3"]]], file: Path) -> None:
    """Panels side by side, row by row, in as many colors as a small file has place for."""
    height, width = rows[0][0].shape[:2]
    down, right = len(rows), len(rows[0])
    picture = np.full((down * (height + GAP) - GAP, right * (width + GAP) - GAP, 3), 255, np.uint8)
    for i, row in enumerate(rows):
        for j, panel in enumerate(row):
            top, left = i * (height + GAP), j * (width + GAP)
            picture[top : top + height, left : left + width] = panel
    for colors in (256, 128, 64, 48, 32):
        image = Image.fromarray(picture).quantize(colors, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
        image.save(file, optimize=True)
        if file.stat().st_size < LARGEST_FILE:
            break
    print(f"Wrote {file}, {file.stat().st_size // 1024} KiB")


if __name__ == "__main__":
    report_input_errors()
    tyro.extras.subcommand_cli_from_dict({"blocks": Blocks, "zoom": Zoom, "occupancy": Occupancy}).main()
