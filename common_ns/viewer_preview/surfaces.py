"""The surface of a distance or an occupancy as the proxy of its model: a coarse mesh where the last picture shows
nothing."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
from jaxtyping import Float
from nerfstudio.cameras.cameras import Cameras
from numpy.typing import NDArray
from torch import Tensor

from common_ns.errors import InputError
from common_ns.meshing.extraction import extract_mesh
from common_ns.meshing.iso_field import IsoField
from common_ns.viewer_preview.budget import next_size
from common_ns.viewer_preview.proxies import MeshProxy, Proxy
from common_ns.viewer_preview.rays import RaySource
from common_ns.viewer_preview.seen import SeenPicture
from common_ns.viewer_preview.source import Rung

MESH_SECONDS = 1.0
"""Time of a mesh: training stands still for it."""
RIM = 4
"""Pixels within which the mesh goes under the last picture, whose triangles are torn at the rim of the surface."""
COARSEST, FINEST = 32, 160
"""Voxels along the longest side of the box."""

Shade = Callable[[Float[NDArray, "n 3"], Float[NDArray, "n 3"]], Float[NDArray, "n 3"]]
"""Colors of a surface, by its outward unit normals and the unit directions in which it is seen."""


class SurfaceSource(RaySource):
    """The last picture, and around it the mesh of a surface.

    Args:
        model: gives rgb, depth and accumulation for the viewer's pictures.
        iso_field: gives the field when it is asked for.
        shade: gives colors where the field has none.
        suits: whether controls are set to what the surface shows.
        with_picture: whether the last picture is shown where there is one: not if the mesh is as good.
        only_colors: as for `RaySource`.
    """

    rungs = (Rung("mesh", FINEST, 6000), Rung("mesh", FINEST, 12000), Rung("mesh", FINEST, 100000))
    first_rung = 1
    refreshed_every = 30.0

    def __init__(
        self,
        model: Any,
        iso_field: Callable[[], IsoField],
        shade: Shade | None = None,
        suits: Callable[[], bool] = lambda: True,
        with_picture: bool = True,
        only_colors: Callable[[], AbstractContextManager] = nullcontext,
    ) -> None:
        super().__init__(model, only_colors)
        self._iso_field, self._shade, self._suits = iso_field, shade, suits
        self._with_picture = with_picture
        self._eye: Float[NDArray, "3"] | None = None
        self._cubes = 48**3
        self._mesh: MeshProxy | None = None
        self._normals: Float[NDArray, "v 3"] | None = None

    def suits(self) -> bool:
        return self._suits()

    def saw(self, camera: Cameras, outputs: dict[str, Tensor]) -> None:
        self._eye = camera.camera_to_worlds.reshape(-1, 3, 4)[0, :, 3].double().cpu().numpy()
        if self._with_picture:
            super().saw(camera, outputs)
        elif self._shade is not None and self.version:
            self.version += 1  # shades go with the eye

    def work(self) -> bool:
        """Extract the mesh, as finely as time allows."""
        start = time.perf_counter()
        resolution = round(self._cubes ** (1.0 / 3.0))
        try:
            mesh = extract_mesh(self._iso_field(), resolution=resolution, refine=2)
        except InputError:  # there is no surface yet
            return False
        colors = mesh.colors if mesh.colors is not None else np.full_like(mesh.vertices, 0.5)
        self._mesh, self._normals = MeshProxy(mesh.vertices, mesh.faces, np.clip(colors, 0.0, 1.0)), mesh.normals
        took = time.perf_counter() - start
        self._cubes = next_size(self._cubes, took, MESH_SECONDS, COARSEST**3, FINEST**3)
        self.version += 1
        return False

    def _rest(self, view: SeenPicture | None, rung: Rung) -> Proxy | None:
        mesh, normals = self._mesh, self._normals
        if mesh is None:
            return None
        vertices, faces, colors = mesh.vertices, mesh.faces, mesh.colors
        if self._shade is not None and normals is not None:
            eye = self._eye if self._eye is not None else vertices.mean(axis=0) + np.ptp(vertices, axis=0).max()
            towards = vertices - eye
            colors = self._shade(normals, towards / np.maximum(np.linalg.norm(towards, axis=1, keepdims=True), 1e-9))
        if view is not None:
            faces = faces[~view.knows(vertices, RIM)[faces].all(axis=1)]
        return MeshProxy(vertices, faces, colors) if len(faces) else None
