"""A model's own Gaussians as its proxy, those that count most."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from nerfstudio.cameras.cameras import Cameras
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation
from torch import Tensor

from common_ns.viewer_preview.proxies import PointProxy, Proxy, SplatProxy
from common_ns.viewer_preview.rays import RaySource, less_where_hidden
from common_ns.viewer_preview.seen import SeenPicture
from common_ns.viewer_preview.source import Rung
from common_ns.viewer_preview.thinning import contributions, growth, largest

OPAQUE = 0.5
"""Opacity above which a Gaussian may stand as a disc."""
DEVIATIONS = 1.5
"""Radius of its disc, over its standard deviation."""


class GaussianSource(RaySource):
    """Gaussians: on slow pages the last picture, and around it some of them as discs; all of them on fast ones.

    Args:
        model: one of splatfacto's kind.
        depth_along_axis: whether its depth is along the axis of the camera; else it is along the ray, as elsewhere.
    """

    rungs = (*RaySource.rungs[:4], Rung("splats", 50000), Rung("splats", 200000))

    def __init__(self, model: Any, depth_along_axis: bool = True) -> None:
        super().__init__(model)
        self._depth_along_axis = depth_along_axis
        self._means, self._scales, self._quats = np.zeros((0, 3)), np.zeros((0, 3)), np.zeros((0, 4))
        self._opacities, self._colors = np.zeros(0), np.zeros((0, 3))

    @torch.no_grad()
    def work(self) -> bool:
        """Copy the Gaussians."""
        model = self._model

        def taken(value: Tensor) -> Float[NDArray, "..."]:
            return value.detach().cpu().numpy().astype(np.float64)

        scales, opacities = model.smoothed
        self._means, self._quats = taken(model.means), taken(model.quats)
        self._scales, self._opacities = taken(scales), taken(opacities)
        self._colors = taken(model.colors.clamp(0.0, 1.0))
        if self.background.shape[:2] == (1, 1):  # no picture that fills its frame is behind everything
            self.background = taken(model.background_color)[None, None]
        self.version += 1
        return False

    def saw(self, camera: Cameras, outputs: dict[str, Tensor]) -> None:
        if not self._depth_along_axis:
            super().saw(camera, outputs)
            return
        rays = camera.to("cpu").generate_rays(camera_indices=0)
        axis = -camera.camera_to_worlds.reshape(-1, 3, 4)[0, :, 2].cpu()
        along = (rays.directions @ axis)[..., None].to(outputs["depth"])
        super().saw(camera, {**outputs, "depth": outputs["depth"] / along})

    def proxy(self, rung: Rung) -> tuple[Proxy, ...]:
        if rung.kind == "points":
            return super().proxy(rung)
        weights = contributions(self._scales, self._opacities)
        kept = largest(weights, rung.count)
        if not len(kept):
            return ()
        rotations = Rotation.from_quat(self._quats[kept][:, [1, 2, 3, 0]]).as_matrix()
        axes = rotations * (growth(weights, kept) * self._scales[kept])[:, None, :]
        covariances = axes @ axes.transpose(0, 2, 1)
        return (SplatProxy(self._means[kept], covariances, self._colors[kept], self._opacities[kept]),)

    def _rest(self, view: SeenPicture | None, rung: Rung) -> Proxy | None:
        candidates = self._opacities > OPAQUE
        if view is not None:
            candidates &= ~view.knows(self._means)
        places = np.nonzero(candidates)[0]
        weights = contributions(self._scales[places], self._opacities[places])
        kept = largest(weights, rung.count)
        if not len(kept):
            return None
        radii = growth(weights, kept) * np.sort(self._scales[places[kept]], axis=1)[:, 1:].prod(axis=1) ** 0.5
        chosen = places[kept]
        if view is not None:
            radii = less_where_hidden(radii, self._means[chosen], view)
        return PointProxy(self._means[chosen], self._colors[chosen], np.maximum(DEVIATIONS * radii, 1e-6))

    def _learn_background(self, outputs: dict[str, Tensor], shows: NDArray) -> None:
        """Nothing: the model knows its own."""
