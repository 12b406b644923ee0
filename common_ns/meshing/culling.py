"""Which parts of a mesh the photographs have seen.

A field is a surface everywhere: also beneath an object, where no camera looked and nothing trained it. What no camera
sees, and what lies outside of the object's masks, can be cut away; the mesh is then open there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import NDArray

from common_ns.cameras.projection import project, projection_matrices
from common_ns.meshing.mesh_io import Mesh

if TYPE_CHECKING:
    from nerfstudio.cameras.cameras import Cameras

OFFSET = 0.5
"""Start of a line of sight above the surface, in mean edge lengths: the triangles around its vertex do not hide it."""


@dataclass(frozen=True)
class Views:
    """Pinhole cameras. Lens distortion is not known here: near an image's border, what is seen is only about right."""

    poses: Float[NDArray, "n 3 4"]
    """Camera to world, OpenGL axes: the camera looks along −z, y is up."""
    focal: Float[NDArray, "n 2"]
    """Focal lengths in pixels."""
    center: Float[NDArray, "n 2"]
    """Principal points in pixels; the first pixel's center is at 0.5."""
    size: Float[NDArray, "n 2"]
    """Widths and heights in pixels."""

    @classmethod
    def of(cls, cameras: Cameras) -> Views:
        """nerfstudio's cameras."""

        def pairs(*columns: object) -> NDArray:
            return np.stack([np.asarray(column, dtype=np.float64).reshape(-1) for column in columns], axis=-1)

        return cls(
            poses=cameras.camera_to_worlds.reshape(-1, 3, 4).double().cpu().numpy(),
            focal=pairs(cameras.fx.cpu(), cameras.fy.cpu()),
            center=pairs(cameras.cx.cpu(), cameras.cy.cpu()),
            size=pairs(cameras.width.cpu(), cameras.height.cpu()),
        )

    def __len__(self) -> int:
        """Number of cameras."""
        return len(self.poses)

    @cached_property
    def projections(self) -> Float[NDArray, "n 3 4"]:
        """From the world to pixels."""
        intrinsics = np.zeros((len(self), 3, 3))
        intrinsics[:, 0, 0], intrinsics[:, 1, 1] = self.focal.T
        intrinsics[:, :2, 2], intrinsics[:, 2, 2] = self.center, 1.0
        return projection_matrices(intrinsics, self.poses)

    def project(self, index: int, points: Float[NDArray, "n 3"]) -> tuple[Float[NDArray, "n 2"], Bool[NDArray, " n"]]:
        """Pixel coordinates of points in an image, and which of them lie in front of the camera and within it."""
        return project(self.projections[index], points, self.size[index])


def seen_vertices(mesh: Mesh, views: Views, progress: Callable[[int, int], None] | None = None) -> Bool[NDArray, " v"]:
    """Which vertices are within an image and not hidden by the mesh itself, for at least one camera.

    Args:
        mesh: the mesh.
        views: the cameras, in the mesh's coordinates.
        progress: told how many cameras are done, of how many.
    """
    import open3d

    scene = open3d.t.geometry.RaycastingScene()
    scene.add_triangles(
        open3d.core.Tensor(np.ascontiguousarray(mesh.vertices, dtype=np.float32)),
        open3d.core.Tensor(np.ascontiguousarray(mesh.faces, dtype=np.uint32)),
    )
    corners = mesh.vertices[mesh.faces]
    edges = np.linalg.norm(corners - np.roll(corners, 1, axis=1), axis=-1)
    normals = mesh.to_trimesh().vertex_normals
    starts = mesh.vertices + OFFSET * edges.mean() * normals
    seen = np.zeros(len(mesh.vertices), dtype=bool)
    for index in range(len(views)):
        missing = np.flatnonzero(~seen)
        _, inside = views.project(index, mesh.vertices[missing])
        towards = views.poses[index, :, 3] - starts[missing]
        # A surface is seen from outside only.
        facing = np.einsum("ni,ni->n", towards, normals[missing]) > 0.0
        some = missing[inside & facing]
        rays = np.concatenate([starts[some], views.poses[index, :, 3] - starts[some]], axis=1).astype(np.float32)
        if len(some):
            hidden = scene.test_occlusions(open3d.core.Tensor(rays), tnear=0.0, tfar=1.0).numpy()
            seen[some[~hidden]] = True
        if progress is not None:
            progress(index + 1, len(views))
    return seen


def within_masks(
    points: Float[NDArray, "n 3"],
    views: Views,
    mask_of: Callable[[int], Bool[NDArray, "h w"] | None],
    margin: int = 0,
) -> Bool[NDArray, " n"]:
    """Which points lie within the object's mask in every image that they are in: those of the visual hull.

    Args:
        points: in the cameras' coordinates.
        views: the cameras.
        mask_of: the mask of an image; None for images without.
        margin: how many pixels beyond the mask are still within it.
    """
    from scipy.ndimage import binary_dilation

    kept = np.ones(len(points), dtype=bool)
    for index in range(len(views)):
        mask = mask_of(index)
        if mask is None:
            continue
        if margin > 0:
            mask = binary_dilation(mask, np.ones((3, 3), dtype=bool), iterations=margin)
        some = np.flatnonzero(kept)
        pixels, inside = views.project(index, points[some])
        column, row = pixels[inside].astype(int).T
        kept[some[inside]] = mask[row, column]
    return kept


def keep_vertices(mesh: Mesh, kept: Bool[NDArray, " v"], how_many: int = 1) -> Mesh:
    """The mesh of those triangles that have at least so many corners among the vertices to keep."""
    faces = mesh.faces[kept[mesh.faces].sum(axis=1) >= how_many]
    used = np.zeros(len(mesh.vertices), dtype=bool)
    used[faces] = True
    renumber = np.cumsum(used) - 1
    parts = {"normals": mesh.normals, "colors": mesh.colors}
    rest = {name: None if part is None else part[used] for name, part in parts.items()}
    return Mesh(mesh.vertices[used], renumber[faces], **rest)
