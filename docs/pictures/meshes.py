"""A picture of meshes as they are, in clay and in their own colours: rays are cast at their triangles.

python docs/pictures/meshes.py docs/pictures/surfaces-scene.png mesh.ply --azimuths 30 150 --elevation 25
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import open3d
import trimesh
import tyro
from PIL import Image

LIGHT = np.array([0.3, 0.5, 1.0]) / np.linalg.norm([0.3, 0.5, 1.0])
"""Towards the light: right, up, and back to the camera."""


@dataclass
class Picture:
    """Render meshes in rows, views in columns: clay above, colours below."""

    output: tyro.conf.Positional[Path]
    """PNG file to write."""
    meshes: tyro.conf.Positional[tuple[Path, ...]]
    """Meshes with vertex colours."""
    azimuths: tuple[float, ...] = (30.0, 150.0)
    """Where the cameras stand around the z axis, in degrees."""
    elevation: float = 25.0
    """How far they stand above the horizon, in degrees."""
    up: tuple[float, float, float] = (0.0, 0.0, 1.0)
    """Which direction is up."""
    size: int = 320
    """Width and height of a view in pixels."""

    def main(self) -> None:
        """Render and write."""
        rows = []
        for file in self.meshes:
            mesh = trimesh.load(file, process=False)
            views = [self.view(mesh, azimuth) for azimuth in self.azimuths]
            rows += [np.concatenate([view[kind] for view in views], axis=1) for kind in (0, 1)]
        picture = np.concatenate(rows, axis=0)
        Image.fromarray((255.0 * picture.clip(0.0, 1.0)).astype(np.uint8)).save(self.output, optimize=True)

    def view(self, mesh: trimesh.Trimesh, azimuth: float) -> tuple[np.ndarray, np.ndarray]:
        """Clay and colours, seen without perspective."""
        up = np.array(self.up) / np.linalg.norm(self.up)
        side = np.cross(up, np.eye(3)[np.abs(up).argmin()])
        side /= np.linalg.norm(side)
        turn, rise = np.radians(azimuth), np.radians(self.elevation)
        back = np.cos(rise) * (np.cos(turn) * side + np.sin(turn) * np.cross(up, side)) + np.sin(rise) * up
        right = np.cross(up, back)
        right /= np.linalg.norm(right)
        axes = np.stack([right, np.cross(back, right), back])
        center = mesh.bounds.mean(axis=0)
        radius = 1.03 * np.linalg.norm(mesh.vertices - center, axis=1).max()
        over = 3 * self.size  # three by three rays for a pixel
        grid = (np.arange(over) + 0.5) / over * 2.0 - 1.0
        x, y = np.meshgrid(grid, -grid)
        origins = center + radius * (x[..., None] * axes[0] + y[..., None] * axes[1] + 2.0 * axes[2])
        rays = np.concatenate([origins, np.broadcast_to(-axes[2], origins.shape)], axis=-1).astype(np.float32)
        scene = open3d.t.geometry.RaycastingScene()
        scene.add_triangles(
            open3d.core.Tensor(np.asarray(mesh.vertices, np.float32)), open3d.core.Tensor(mesh.faces.astype(np.uint32))
        )
        hits = scene.cast_rays(open3d.core.Tensor(rays))
        face, seen = hits["primitive_ids"].numpy(), np.isfinite(hits["t_hit"].numpy())
        uv = hits["primitive_uvs"].numpy()[seen]
        shares = np.stack([1.0 - uv.sum(-1), uv[:, 0], uv[:, 1]], axis=-1)
        corners = mesh.faces[face[seen]]
        normals = np.einsum("ni,nij->nj", shares, mesh.vertex_normals[corners])
        normals /= np.linalg.norm(normals, axis=-1, keepdims=True).clip(1e-9)
        shade = 0.35 + 0.65 * (normals @ (LIGHT @ axes)).clip(0.0)
        colors = np.einsum("ni,nij->nj", shares, np.asarray(mesh.visual.vertex_colors)[corners, :3] / 255.0)
        pictures = np.ones((2, over, over, 3))
        pictures[0][seen], pictures[1][seen] = shade[:, None] * np.array([0.86, 0.85, 0.82]), colors
        clay, colored = pictures.reshape(2, self.size, 3, self.size, 3, 3).mean(axis=(2, 4))
        return clay, colored


if __name__ == "__main__":
    tyro.cli(Picture).main()
