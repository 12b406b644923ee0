"""`ns-miner-decode`: the whole image of a MINER run as a file, tile by tile."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from jaxtyping import Shaped
from numpy.typing import NDArray

from common_ns.data.files import require_writable
from common_ns.data.notes import note
from common_ns.errors import InputError
from common_ns.nerfstudio_seam.last_words import report_input_errors
from common_ns.scripts.mesh import load_pipeline
from miner_ns.hierarchy import Hierarchy
from miner_ns.image_tags import ImageTags, read_tags
from miner_ns.image_writer import check_image_path, write_image
from miner_ns.pyramid import paste_blocks


@dataclass
class DecodeCommand:
    """Write the image that a MINER run has learned, of any size, in bounded memory.

    Level 0 is the image at its own size; level j at 1/2^j of it. Values are stored as the image stored them. The color
    profile and EXIF of the image are kept (.tif, .png), and its place on the earth (.tif), scaled to the level.
    """

    load_config: Path
    """Config of the run (config.yml)."""
    output_path: Path = Path("image.tiff")
    """File to write: .tif (tiled, deflate), .png or .npy."""
    level: int = 0
    """Level of detail."""

    def main(self) -> Path:
        """Decode, and return where the image is."""
        from miner_ns.model import MinerModel

        require_writable(self.output_path)
        pipeline = load_pipeline(self.load_config)
        model = pipeline.model
        if not isinstance(model, MinerModel) or not model.is_image:
            raise InputError("the run is not of an image", "Give the config of a miner-image run", self.load_config)
        hierarchy = model.fit.show()
        if not 0 <= self.level < len(hierarchy.grids):
            problem = f"there is no level {self.level}"
            raise InputError(problem, f"Choose --level from 0 to {len(hierarchy.grids) - 1}")
        if not hierarchy.levels:
            raise InputError("the run has trained no block yet", "Train it first", self.load_config)
        dtype = model.fit.value_dtype
        check_image_path(self.output_path, dtype)
        shape = (*hierarchy.grids[self.level].shape, hierarchy.channels)

        def read(lower: tuple[int, int], upper: tuple[int, int]) -> Shaped[NDArray, "h w c"]:
            return model.fit.to_stored(decode_box(hierarchy, self.level, lower, upper))

        tags = ImageTags()
        if self.output_path.suffix.lower() != ".npy":
            datamanager: Any = pipeline.datamanager
            source = Path(datamanager.dataparser.config.data)
            try:
                tags = read_tags(source).at_level(self.level)
            except InputError as error:  # the run needs the image no longer
                text = f"Written without color profile, EXIF and place on the earth: {error}"
                note(text)
        write_image(self.output_path, shape, dtype, read, progress=True, tags=tags)
        print(f"Wrote {shape[1]}×{shape[0]} pixels to {self.output_path}")
        return self.output_path


@torch.no_grad()
def decode_box(
    hierarchy: Hierarchy, level: int, lower: tuple[int, ...], upper: tuple[int, ...]
) -> Shaped[NDArray, "... c"]:
    """A box of a level's samples in [0, 1], from the blocks that it touches."""
    grid = hierarchy.grids[level]
    ranges = [
        np.arange(low // grid.block_size, -(-high // grid.block_size)) for low, high in zip(lower, upper, strict=True)
    ]
    places = np.stack(np.meshgrid(*ranges, indexing="ij"), axis=-1).reshape(-1, grid.ndim)
    index = np.asarray(np.ravel_multi_index(tuple(places.T), grid.blocks))
    box = np.empty((*(high - low for low, high in zip(lower, upper)), hierarchy.channels), dtype=np.float32)
    values = hierarchy.evaluate_blocks(level, torch.from_numpy(index)).cpu().numpy()
    paste_blocks(box, grid, index, values, origin=lower)
    return box


def entrypoint() -> None:
    """Entry point of the console command."""
    report_input_errors()
    tyro.cli(DecodeCommand, prog="ns-miner-decode", description=inspect.getdoc(DecodeCommand)).main()


if __name__ == "__main__":
    entrypoint()
