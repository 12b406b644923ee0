"""A fitted image in the viewer, zoomed out and in: seconds for a picture, and how right one is that is zoomed out.

A pixel of a picture that is zoomed out covers many samples of the image, and ought to show their mean. Its error is
beside that of the fit itself, whose samples are averaged exactly, and that of the finest level read at the pixels'
centers, which aliases.
"""

from __future__ import annotations

import copy
import math
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from nerfstudio.cameras.cameras import Cameras
from PIL import Image
from torch import Tensor

from benchmarks.photograph import PHOTO_SIDE, photograph
from common_ns.metrics import psnr
from miner_ns.model import MinerModel

FULL = 512
"""Pixels along a side of a picture: the "Max res" that the viewer of an image begins with."""
ZOOMS = (0.25, 0.5, 1.0, 3.0, 10.0, 30.0, 100.0)
"""Magnifications, relative to the picture that shows the whole image."""
REPEATS = 3
"""Pictures of each magnification, of places beside each other."""


def zoom_rows(data: Path | None, threads: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Fit an image and look at it; returns settings and rows of the table.

    Args:
        data: an 8-bit image; None: the photograph of the previews.
        threads: CPU threads.
    """
    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as folder:
        file = data
        if file is None:
            file = Path(folder) / "photo.png"
            Image.fromarray(photograph(PHOTO_SIDE)).save(file)
        start = time.perf_counter()
        model = fitted(file)
        seconds = time.perf_counter() - start
        Image.MAX_IMAGE_PIXELS = None
        truth = torch.from_numpy(np.asarray(Image.open(file).convert("RGB")).copy()).float() / 255.0
    height, width = truth.shape[:2]
    name = "astronaut, mirrored" if data is None else data.name
    settings = {"image": f"{name} ({width}×{height})", "seconds to fit": round(seconds), "threads": threads}
    finest = model.fit.hierarchy.reconstruct(0).cpu().clamp(0.0, 1.0)
    finest = finest[..., :3] if finest.shape[-1] >= 3 else finest[..., :1].expand(-1, -1, 3)
    samples = math.ceil(max(height, width) / FULL)
    rows = []
    for zoom in ZOOMS:
        row = {"zoom": f"× {zoom:g}", "image samples per pixel": samples / zoom} | times(model, samples / zoom)
        if zoom <= 1.0:
            row |= errors(model, truth, finest, round(samples / zoom))
        rows.append(row)
        print(row, flush=True)
    return settings, rows


def fitted(file: Path) -> MinerModel:
    """`miner-image` on a file, with its default options."""
    from nerfstudio.configs.method_configs import all_methods

    config: Any = copy.deepcopy(all_methods["miner-image"].pipeline)
    config.datamanager.data = file
    pipeline = config.setup(device="cuda" if torch.cuda.is_available() else "cpu", test_mode="val")
    while pipeline.model.train_portion() is not None:
        pass
    return pipeline.model.eval()


def camera(model: MinerModel, samples: float, size: tuple[int, int], corner: tuple[float, float]) -> Cameras:
    """A camera straight before the image.

    Args:
        model: of the image.
        samples: of the image along a pixel's side.
        size: rows and columns of the picture.
        corner: place on the image, in its samples, that the picture's upper left corner shows.
    """
    step = float(model.grid_to_world[:, 0].norm())
    height, width = size
    focal = 0.65 * FULL  # of a picture 75° high
    middle = (corner[0] + 0.5 * samples * height, corner[1] + 0.5 * samples * width)
    place = model.grid_to_world.double() @ torch.tensor([*middle, 1.0], dtype=torch.float64)
    place[2] += focal * samples * step
    pose = torch.cat([torch.eye(3), place.float()[:, None]], dim=1)
    return Cameras(pose[None], focal, focal, 0.5 * width, 0.5 * height, width, height).to(model.device)


def times(model: MinerModel, samples: float) -> dict[str, Any]:
    """Seconds for a picture: the first one of its magnification, and one of a place beside it."""
    rows, columns = model.signal.spatial_shape
    seconds = []
    for number in range(1 + REPEATS):
        shift = samples * FULL * (0.5 - 0.1 * number)
        # What is looked at lies off the middle, where no border of blocks is.
        view = camera(model, samples, (FULL, FULL), (0.43 * rows - shift, 0.57 * columns - shift))
        start = time.perf_counter()
        model.get_outputs_for_camera(view)
        seconds.append(time.perf_counter() - start)
    return {"first picture, s": seconds[0], "next pictures, s": statistics.median(seconds[1:])}


def errors(
    model: MinerModel, truth: Float[Tensor, "h w 3"], finest: Float[Tensor, "h w 3"], samples: int
) -> dict[str, Any]:
    """PSNR of a picture of the whole image against means over what its pixels cover."""
    rows, columns = (side // samples for side in truth.shape[:2])

    def means(image: Float[Tensor, "h w 3"]) -> Float[Tensor, "rows columns 3"]:
        cut = image[: rows * samples, : columns * samples]
        return cut.unflatten(0, (rows, samples)).unflatten(2, (columns, samples)).mean(dim=(1, 3))

    shown = model.get_outputs_for_camera(camera(model, samples, (rows, columns), (0.0, 0.0)))["rgb"].cpu()
    exact, middle = means(truth), samples // 2
    read = finest[middle::samples, middle::samples][:rows, :columns]
    return {
        "PSNR, shown": psnr(shown, exact),
        "PSNR, fit averaged exactly": psnr(means(finest), exact),
        "PSNR, without level of detail": psnr(read, exact),
    }
