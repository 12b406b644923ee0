"""Pictures and films of meshes as they are, in clay and in their own colors: rays are cast at their triangles."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8
from numpy.typing import NDArray
from PIL import Image

from common_ns.errors import InputError
from common_ns.meshing.reading import load_geometry, require_finite

LIGHT = np.array([0.3, 0.5, 1.0]) / np.linalg.norm([0.3, 0.5, 1.0])
"""Towards the light: right, up, and back to the camera."""
CLAY = np.array([0.86, 0.85, 0.82])


@dataclass
class MeshPictures:
    """Draws a mesh without perspective, from cameras around it.

    Args:
        file: a mesh, with vertex colors or without.
        up: which direction is up.
        size: width and height of a picture in pixels.
        oversampling: rays along each side of a pixel.
    """

    file: Path
    up: tuple[float, float, float] = (0.0, 0.0, 1.0)
    size: int = 320
    oversampling: int = 3

    def __post_init__(self) -> None:
        import open3d

        self._o3d = open3d
        mesh, vertices, _ = load_geometry(self.file, remedy="Give a ply, obj, glb, stl or off")
        require_finite(vertices, self.file)
        if not len(getattr(mesh, "faces", ())):
            raise InputError("has no faces", "Give a mesh; ns-mesh makes one of a run", self.file)
        self.faces = np.asarray(mesh.faces)
        self.vertices = np.asarray(mesh.vertices, np.float32)
        self.normals = np.asarray(mesh.vertex_normals)
        colors = getattr(mesh.visual, "vertex_colors", None)
        self.colors = None if mesh.visual.kind != "vertex" else np.asarray(colors)[:, :3] / 255.0
        self.center = mesh.bounds.mean(axis=0)
        self.radius = 1.03 * float(np.linalg.norm(self.vertices - self.center, axis=1).max())
        self._scene = open3d.t.geometry.RaycastingScene()
        self._scene.add_triangles(open3d.core.Tensor(self.vertices), open3d.core.Tensor(self.faces.astype(np.uint32)))

    def view(
        self, azimuth: float, elevation: float = 25.0
    ) -> tuple[Float[NDArray, "size size 3"], Float[NDArray, "size size 3"]]:
        """Clay, and colors (clay again where the mesh has none), in [0, 1] over white.

        Args:
            azimuth: where the camera stands around the up axis, in degrees.
            elevation: how far it stands above the horizon, in degrees.
        """
        up = np.array(self.up) / np.linalg.norm(self.up)
        side = np.cross(up, np.eye(3)[np.abs(up).argmin()])
        side /= np.linalg.norm(side)
        turn, rise = np.radians(azimuth), np.radians(elevation)
        back = np.cos(rise) * (np.cos(turn) * side + np.sin(turn) * np.cross(up, side)) + np.sin(rise) * up
        right = np.cross(up, back)
        right /= np.linalg.norm(right)
        axes = np.stack([right, np.cross(back, right), back])
        over = self.oversampling * self.size
        grid = (np.arange(over) + 0.5) / over * 2.0 - 1.0
        x, y = np.meshgrid(grid, -grid)
        origins = self.center + self.radius * (x[..., None] * axes[0] + y[..., None] * axes[1] + 2.0 * axes[2])
        rays = np.concatenate([origins, np.broadcast_to(-axes[2], origins.shape)], axis=-1).astype(np.float32)
        hits = self._scene.cast_rays(self._o3d.core.Tensor(rays))
        seen = np.isfinite(hits["t_hit"].numpy())
        corners = self.faces[hits["primitive_ids"].numpy()[seen]]
        uv = hits["primitive_uvs"].numpy()[seen]
        shares = np.stack([1.0 - uv.sum(-1), uv[:, 0], uv[:, 1]], axis=-1)
        normals = np.einsum("ni,nij->nj", shares, self.normals[corners])
        normals /= np.linalg.norm(normals, axis=-1, keepdims=True).clip(1e-9)
        clay = (0.35 + 0.65 * (normals @ (LIGHT @ axes)).clip(0.0))[:, None] * CLAY
        colors = clay if self.colors is None else np.einsum("ni,nij->nj", shares, self.colors[corners])
        pictures = np.ones((2, over, over, 3))
        pictures[0][seen], pictures[1][seen] = clay, colors
        small = pictures.reshape(2, self.size, self.oversampling, self.size, self.oversampling, 3).mean(axis=(2, 4))
        return small[0], small[1]

    def pair(self, azimuth: float, elevation: float = 25.0) -> UInt8[NDArray, "size width 3"]:
        """Clay and colors beside each other; clay alone where the mesh has no colors."""
        clay, colors = self.view(azimuth, elevation)
        both = clay if self.colors is None else np.concatenate([clay, colors], axis=1)
        return as_bytes(both)

    def turntable(self, file: Path, frames: int = 48, fps: int = 12, elevation: float = 25.0) -> None:
        """Write a film (mp4) that goes once around the mesh."""
        write_film(file, [self.pair(360.0 * index / frames, elevation) for index in range(frames)], fps)

    def sheet(self, file: Path, frames: int = 4, elevation: float = 25.0) -> None:
        """Write a picture of all views beside each other: clay above, colors (if there are any) below."""
        views = [self.view(360.0 * index / frames, elevation) for index in range(frames)]
        rows = [np.concatenate([view[kind] for view in views], axis=1) for kind in (0, 1)]
        picture = np.concatenate(rows[: 1 if self.colors is None else 2], axis=0)
        Image.fromarray(as_bytes(picture)).save(file)


def as_bytes(picture: Float[NDArray, "h w 3"]) -> UInt8[NDArray, "h w 3"]:
    """A picture in [0, 1], as `MeshPictures.view` gives it, as files hold it."""
    return (255.0 * picture.clip(0.0, 1.0)).astype(np.uint8)


def write_film(file: Path, frames: list[UInt8[NDArray, "h w 3"]], fps: int) -> None:
    """Write frames of equal and even size as mp4 that browsers play."""
    import imageio_ffmpeg

    height, width = frames[0].shape[:2]
    options = ["-preset", "slow", "-movflags", "+faststart"]
    writer = imageio_ffmpeg.write_frames(str(file), (width, height), fps=fps, quality=6, output_params=options)
    writer.send(None)
    for frame in frames:
        writer.send(np.ascontiguousarray(frame))
    writer.close()
