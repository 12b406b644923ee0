"""What rays of a radiance field or a surface have met, as the proxy of its model.

Two kinds of rays are there. The viewer's last picture at rest has been rendered anyway, and is what the camera moves
away from: it is put on triangles at the depths that were rendered, torn where depth jumps. Rays of
the training cameras show what that picture does not; they are rendered a portion at a time, and the oldest make place
for new ones. These are drawn as discs that face the camera on slow pages, as blending Gaussians costs a software
renderer about ten times as much for each, and as Gaussians on fast ones.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.cameras.rays import RayBundle
from numpy.typing import NDArray
from torch import Tensor

from common_ns.splat_baking.shapes import NEIGHBORS, spacings
from common_ns.viewer_preview.budget import next_size
from common_ns.viewer_preview.proxies import PointProxy, Proxy, balls
from common_ns.viewer_preview.seen import Seen, SeenPicture
from common_ns.viewer_preview.source import Rung, Source

CAPACITY = 40000
"""Points of the training cameras' rays that are kept."""
PORTION_SECONDS = 0.25
"""Time of a portion of rays: training stands still for it."""
SHELL = 20.0
"""Distance of the far shell as a multiple of the capture's size: the page draws nothing beyond 1000 of its units."""
COVER, COVER_ALONE = 0.7, 1.2
"""Radius of discs, as a multiple of the mean distance to the three nearest: around a picture, which larger ones would
reach into, and where they are everything that is seen."""
HIDDEN, RIM = 0.5, 0.05
"""Factor of the radii of discs within the picture's frame, which lie behind what it shows and would reach out from
there; and how far around the frame that goes, over the picture's width."""
DEVIATION = 0.5
"""Standard deviation of a Gaussian over the radius that a disc would have there."""
OPACITY = 0.9
"""Of Gaussians."""
BLURRED = 8
"""Pixels along the sides of the last picture as it is behind everything, for holes."""
WIDEST = 0.03
"""Largest radius, as a fraction of the distance of the camera that has seen the point."""


class RaySource(Source):
    """Points of a model's rays.

    Args:
        model: gives rgb, depth and accumulation for rays, and has ray bounds.
        only_colors: a context in which the model renders what colors and depth need, and nothing else.
    """

    rungs = (
        Rung("points", 4000, 6000),
        Rung("points", 8000, 12000),
        Rung("points", 12000, 30000),
        Rung("points", 20000, 100000),
        Rung("splats", 20000, 100000),
        Rung("splats", 100000, 200000),
    )
    first_rung = 1

    def __init__(self, model: Any, only_colors: Callable[[], AbstractContextManager] = nullcontext) -> None:
        self._model, self._only_colors = model, only_colors
        self._pipeline: Any = None
        self._parts: list[Seen] = []
        self._view: SeenPicture | None = None
        self._generator = torch.Generator().manual_seed(0)
        self._size = 1024
        self._pixels, self._drawn, self._kept = 0.0, 0, 0
        self._empty_color, self._empty_count = np.zeros(3), 0

    def attach(self, pipeline: Any) -> None:
        self._pipeline = pipeline

    @property
    def _open(self) -> bool:
        """Whether what is far away is shown too."""
        bounds = getattr(self._model, "ray_bounds", None)
        return not (bounds.bounded if bounds is not None else True)

    def work(self) -> bool:
        """Render a portion of rays of the training cameras."""
        start = time.perf_counter()
        cameras = self._pipeline.datamanager.train_dataset.cameras
        rays = self._drawn_rays(cameras)
        outputs = self._rendered(rays)
        self._pixels = float((cameras.width.double() * cameras.height.double()).sum())
        seen, shows, _ = self._met(rays, outputs)
        self._drawn, self._kept = self._drawn + len(shows), self._kept + len(seen)
        self._parts.append(seen)
        self._learn_background(outputs, shows)
        while sum(len(part) for part in self._parts[1:]) >= CAPACITY:
            self._parts.pop(0)
        self._size = next_size(len(shows), time.perf_counter() - start, PORTION_SECONDS, 256, 16384)
        self.version += 1
        return sum(len(part) for part in self._parts) < CAPACITY and self._drawn < 4 * CAPACITY

    def _drawn_rays(self, cameras: Cameras) -> RayBundle:
        """Rays of drawn pixels."""
        index = torch.randint(len(cameras), (self._size, 1), generator=self._generator)
        size = torch.cat([cameras.height, cameras.width], dim=-1).cpu()[index[:, 0]]
        place = torch.rand(self._size, 2, generator=self._generator) * size
        return cameras.generate_rays(index.to(cameras.device), place.to(cameras.device)).to(self._model.device)

    @torch.no_grad()
    def _rendered(self, rays: RayBundle) -> dict[str, Tensor]:
        model = self._model
        was_training = model.training
        model.eval()
        try:
            with self._only_colors():
                return model(rays)
        finally:
            model.train(was_training)

    def saw(self, camera: Cameras, outputs: dict[str, Tensor]) -> None:
        if not {"rgb", "depth", "accumulation"} <= outputs.keys():
            return
        height, width = outputs["rgb"].shape[:2]
        rays = camera.to("cpu").generate_rays(camera_indices=0)
        flat = {
            name: value.reshape(height * width, -1)
            for name, value in outputs.items()
            if name in ("rgb", "depth", "depth_median", "accumulation")
        }
        seen, shows, distance = self._met(rays.flatten(), flat)
        self._learn_background(flat, shows)
        pose = camera.camera_to_worlds.reshape(-1, 3, 4)[0].double().cpu().numpy()
        along = -rays.directions.reshape(-1, 3).double().cpu().numpy() @ pose[:, 2]
        depth = np.where(shows, distance * along, np.inf)
        focal = (float(camera.fx.reshape(-1)[0]), float(camera.fy.reshape(-1)[0]))
        shape = (height, width)
        self._view = SeenPicture(seen, shows.reshape(shape), depth.reshape(shape), pose, focal)
        blurred = self._view.blurred(BLURRED)
        if blurred is not None:
            self.background = blurred
        self.version += 1

    def _met(self, rays: RayBundle, outputs: dict[str, Tensor]) -> tuple[Seen, Bool[NDArray, "n"], Float[NDArray, "n"]]:
        """Points of rays, which rays have one, and the distance of all."""
        values = {name: outputs[name].float().cpu() for name in ("rgb", "depth", "accumulation")}
        origins, directions = rays.origins.float().cpu(), rays.directions.float().cpu()
        length = directions.norm(dim=-1)
        depth = outputs.get("depth_median", outputs["depth"]).float().cpu()[:, 0] * length
        opaque = values["accumulation"][:, 0] > 0.5
        finite = torch.isfinite(values["rgb"]).all(dim=-1) & ~torch.isnan(depth)
        shell = SHELL * self._extent
        depth = torch.where(opaque, depth, torch.inf).clamp_max(shell)
        shows = (opaque | self._open) & finite
        points = origins + directions / length[:, None] * depth[:, None]
        side = rays.pixel_area.float().cpu()[:, 0].sqrt()
        seen = Seen(
            points[shows].numpy().astype(np.float64),
            values["rgb"][shows].clamp(0.0, 1.0).numpy().astype(np.float64),
            (side * depth)[shows].numpy().astype(np.float64),
            depth[shows].numpy().astype(np.float64),
        )
        return seen, shows.numpy(), depth.numpy().astype(np.float64)

    @property
    def _extent(self) -> float:
        """The capture's size: the largest distance of a camera from their mean, in scene units."""
        poses = (getattr(self._model, "metadata", None) or {}).get("camera_to_worlds")
        if poses is None or len(poses) < 2:
            return 1.0
        positions = poses[:, :3, 3].double().cpu()
        return max(float((positions - positions.mean(dim=0)).norm(dim=-1).max()), 1e-3)

    def _learn_background(self, outputs: dict[str, Tensor], shows: Bool[NDArray, "n"]) -> None:
        """What rays that meet nothing show; where all meet something, the mean of everything."""
        colors = outputs["rgb"].float().cpu().numpy()
        empty = outputs["accumulation"].float().cpu().numpy()[:, 0] < 0.1
        empty = empty & ~shows if not self._open else np.ones_like(shows)
        if empty.any():
            total = self._empty_color * self._empty_count + colors[empty].sum(axis=0)
            self._empty_count += int(empty.sum())
            self._empty_color = total / self._empty_count
            self.background = self._empty_color[None, None]

    def proxy(self, rung: Rung) -> tuple[Proxy, ...]:
        view = self._view
        mesh = view.mesh(rung.corners) if view is not None else None
        rest = self._rest(view if mesh is not None else None, rung)
        return tuple(layer for layer in (mesh, rest) if layer is not None)

    def _rest(self, view: SeenPicture | None, rung: Rung) -> Proxy | None:
        """What a picture does not show; None: nothing.

        Args:
            view: the picture; None: there is none.
            rung: how much is to be drawn.
        """
        parts = list(self._parts)
        rest, radii = _unseen(parts, view, rung.count, self._pixels * self._kept / max(self._drawn, 1))
        if rest is None:
            return None
        if rung.kind == "points":
            return PointProxy(rest.points, rest.colors, radii)
        return balls(rest.points, DEVIATION * radii, rest.colors, OPACITY)


def _unseen(
    parts: list[Seen], view: SeenPicture | None, count: int, pixels: float
) -> tuple[Seen | None, Float[NDArray, "n"]]:
    """At most so many points of what a picture does not show, and the radii of discs that cover what they are of.

    Args:
        parts: of training cameras' rays, the newest last.
        view: the picture; None: there is none.
        count: of points.
        pixels: of all photographs that show something.
    """
    if not parts:
        return None, np.zeros(0)
    rest = parts[-1]
    for part in parts[-2::-1]:
        rest = rest.joined(part)
    if view is not None:
        rest = rest[~view.knows(rest.points)]
    before, rest = max(len(rest), 1), rest[:count]
    if len(rest) <= NEIGHBORS:
        return None, np.zeros(0)
    cover = COVER_ALONE if view is None else COVER
    # Points that hang before the surfaces are far from others, and would veil these.
    each = pixels / sum(len(part) for part in parts) * before / len(rest)
    most = np.minimum(2.0 * cover * max(each, 1.0) ** 0.5 * rest.footprints, WIDEST * rest.distances)
    radii = np.minimum(cover * spacings(rest.points), most)
    if view is not None:
        radii = less_where_hidden(radii, rest.points, view)
    return rest, np.maximum(np.maximum(radii, 0.5 * rest.footprints), 1e-6)


def less_where_hidden(
    radii: Float[NDArray, "n"], points: Float[NDArray, "n 3"], view: SeenPicture
) -> Float[NDArray, "n"]:
    """Smaller radii of discs that are within the picture's frame, or at its rim."""
    return np.where(view.frames(points, RIM * view.depth.shape[1]), HIDDEN * radii, radii)
