"""Reads what MINER is fitted to, an image or a volume, and places it in the world of a viewer.

An image lies in the plane z = 0, centered at the origin, x to the right and y up, its longer side from −1 to 1. A
volume is centered at the origin with its longest side from −1 to 1 and keeps the axes of its mesh. nerfstudio needs
cameras: one in front of an image, which it just fills, and some all around a volume.

A volume's data coordinates, which `ns-mesh --world-coordinates` gives back, are those of its mesh, also in a file that
ns-voxelize wrote. Those of other arrays are their voxels: voxel (i, j, k) covers [i, i + 1) × [j, j + 1) × [k, k + 1),
so that its center is at i + ½, j + ½, k + ½.

Samples are not read here but when `metadata["signal"].load()` is first called.

| metadata | is |
|---|---|
| signal | a `SignalLoader` |
| grid_to_world | [3, axes + 1], affine: from grid coordinates (sample i covers [i, i + 1)) to the world |
| world_to_data | volumes, [3, 4], affine: from the world to the coordinates of the mesh (of an array: its voxels) |
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from nerfstudio.cameras.cameras import Cameras, CameraType
from nerfstudio.data.dataparsers.base_dataparser import DataParser, DataParserConfig, DataparserOutputs
from nerfstudio.data.scene_box import SceneBox
from torch import Tensor

from common_ns.data.checks import require_path
from common_ns.errors import InputError
from common_ns.nerfstudio_seam.renames import SuiteConfig
from miner_ns.image_io import read_header, read_image
from miner_ns.signal import SignalLoader
from miner_ns.volume_io import MESH_SUFFIXES, VOLUME_SUFFIXES, kept_as, read_grid, read_mesh, read_volume, voxelize_file
from miner_ns.voxelize import Grid, VoxelizeOptions, bounding_grid

IMAGE_DISTANCE = 2.0
"""From the camera to the image, in units of half of its longer side."""
IMAGE_THICKNESS = 0.01
"""Half of the thickness of an image's scene box, in world units."""
VOLUME_VIEWS = 24
VOLUME_FIELD_OF_VIEW = 40.0
"""Of the cameras around a volume, in degrees."""


@dataclass
class MinerImageDataParserConfig(SuiteConfig, DataParserConfig):
    """An image of any size: PNG, JPEG, TIFF (also 16-bit and float), WebP, HEIC, EXR or NumPy; gray, RGB or RGBA."""

    _target: type = field(default_factory=lambda: MinerImageDataParser)
    """target class to instantiate"""
    data: Path = Path("image.png")
    """Image file."""
    on_disk: bool = False
    """Decode a compressed TIFF into a temporary file instead of into memory. Uncompressed TIFF and .npy stay on disk in
    any case."""
    max_view_size: int = 1024
    """Most pixels along a side of the camera's picture. A smaller image is seen pixel by pixel."""


@dataclass
class MinerOccupancyDataParserConfig(VoxelizeOptions, DataParserConfig):
    """Occupancy of a mesh (.obj, .off, .ply, .stl, .glb), or a volume (.npz, .npy)."""

    _target: type = field(default_factory=lambda: MinerOccupancyDataParser)
    """target class to instantiate"""
    data: Path = Path("mesh.ply")
    """Mesh or volume file. The options of meshes are without effect on volumes."""
    threshold: float | None = None
    """Voxels of a volume with a greater value are inside. Default: the middle of its values."""
    use_cache: bool = True
    """Keep the occupancy of a mesh in a file, found again by the mesh's content and the options."""
    cache_dir: Path | None = None
    """Folder of those files. Default: "voxels" beside the mesh, or in the user's cache if that cannot be written."""
    view_size: int = 256
    """Pixels along each side of the pictures of the cameras around the volume."""


@dataclass
class MinerImageDataParser(DataParser):
    """Gives one camera in front of an image, the same for every split."""

    config: MinerImageDataParserConfig

    def __init__(self, config: MinerImageDataParserConfig) -> None:
        super().__init__(config)
        self._loader: SignalLoader | None = None

    def _generate_dataparser_outputs(self, split: str = "train", **kwargs: Any) -> DataparserOutputs:
        path = Path(self.config.data)
        if path.is_file() and path.suffix.lower() in MESH_SUFFIXES:
            raise InputError("is a mesh", "Name an image, or use miner-occupancy", path)
        header = read_header(path)
        height, width, channels = header.shape
        if self._loader is None:  # all splits share what is read
            self._loader = SignalLoader(
                (height, width),
                channels,
                partial(read_image, path, self.config.on_disk),
                dtype=header.dtype,
                nbytes=header.memory(self.config.on_disk),
                source=path,
                remedy=header.remedy if header.memory(self.config.on_disk) > 0 else "Fit a smaller image",
            )
        longest = max(height, width)
        step = 2.0 / longest
        grid_to_world = torch.tensor(
            [[0.0, step, -0.5 * step * width], [-step, 0.0, 0.5 * step * height], [0.0, 0.0, 0.0]], dtype=torch.float64
        )
        pose = torch.tensor([[1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, IMAGE_DISTANCE]])
        scale = min(1.0, self.config.max_view_size / longest)
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        half = torch.tensor([0.5 * step * width, 0.5 * step * height, IMAGE_THICKNESS])
        return DataparserOutputs(
            image_filenames=[path],
            cameras=_cameras(pose[None], size, focal=0.5 * IMAGE_DISTANCE * scale * longest),
            scene_box=SceneBox(aabb=torch.stack([-half, half])),
            metadata={"signal": self._loader, "grid_to_world": grid_to_world},
        )


@dataclass
class MinerOccupancyDataParser(DataParser):
    """Gives cameras all around a volume, the same for every split."""

    config: MinerOccupancyDataParserConfig

    def __init__(self, config: MinerOccupancyDataParserConfig) -> None:
        super().__init__(config)
        self._opened: tuple[Grid, SignalLoader] | None = None

    def _generate_dataparser_outputs(self, split: str = "train", **kwargs: Any) -> DataparserOutputs:
        path = Path(self.config.data)
        if self._opened is None:  # all splits share what is read
            self._opened = self._open(path)
        grid, loader = self._opened
        sides = torch.tensor(grid.shape, dtype=torch.float64)
        step = 2.0 / max(grid.shape)  # of a voxel, in world units
        half = 0.5 * step * sides
        center = torch.tensor(grid.origin, dtype=torch.float64) + 0.5 * grid.voxel_size * sides
        scale = step / grid.voxel_size
        eye = torch.eye(3, dtype=torch.float64)

        field_of_view = np.radians(VOLUME_FIELD_OF_VIEW)
        poses = _poses_around(float(half.norm()) / np.sin(0.5 * field_of_view), VOLUME_VIEWS)
        size = self.config.view_size
        return DataparserOutputs(
            # Names of pictures that are rendered from the volume: nerfstudio names its renders after them.
            image_filenames=[path.parent / f"{path.stem}_view" / f"{i:03d}.png" for i in range(len(poses))],
            cameras=_cameras(poses, (size, size), focal=0.5 * size / float(np.tan(0.5 * field_of_view))),
            scene_box=SceneBox(aabb=torch.stack([-half, half]).float()),
            # A point x of the mesh is at scale · (x − center).
            dataparser_transform=torch.cat([eye, -center[:, None]], dim=1).float(),
            dataparser_scale=scale,
            metadata={
                "signal": loader,
                "grid_to_world": torch.cat([step * eye, -half[:, None]], dim=1),
                "world_to_data": torch.cat([eye / scale, center[:, None]], dim=1),
            },
        )

    def _open(self, path: Path) -> tuple[Grid, SignalLoader]:
        """Where the voxels are, and what gives them when they are needed."""
        require_path(path, "mesh or volume")
        config = self.config
        config.check()
        suffix = path.suffix.lower()
        if suffix in VOLUME_SUFFIXES:
            grid = read_grid(path)
            dtype, nbytes = kept_as(path, config.fractions)
            return grid, SignalLoader(
                grid.shape,
                1,
                lambda: read_volume(path, config.threshold, config.fractions).signal,
                dtype=dtype,
                nbytes=nbytes,
                source=path,
                remedy="Use fewer voxels",
            )
        if suffix not in MESH_SUFFIXES:
            known = ", ".join((*MESH_SUFFIXES, *VOLUME_SUFFIXES))
            problem = f"the suffix {path.suffix!r} is neither of a mesh nor of a volume"
            raise InputError(problem, f"Use {known}, or miner-image for an image", path)
        mesh, n = read_mesh(path), config.resolution
        return bounding_grid(mesh[0], config, path), SignalLoader(
            (n, n, n),
            1,
            lambda: voxelize_file(mesh, path, config, config.use_cache, config.cache_dir, progress=True).signal,
            dtype=np.uint8 if config.fractions else bool,
            nbytes=n**3 if config.fractions else n * n * -(-n // 8),
            source=path,
            remedy="Lower --resolution",
        )


def _cameras(poses: Float[Tensor, "n 3 4"], size: tuple[int, int], focal: float) -> Cameras:
    """Perspective cameras that look through their middle.

    Args:
        poses: camera to world, OpenGL axes (looking along −z, y up).
        size: width and height in pixels.
        focal: focal length in pixels.
    """
    width, height = size
    return Cameras(
        camera_to_worlds=poses.float(),
        fx=focal,
        fy=focal,
        cx=0.5 * width,
        cy=0.5 * height,
        width=width,
        height=height,
        camera_type=CameraType.PERSPECTIVE,
        metadata={},  # ns-export cameras refuses cameras without metadata
    )


def _poses_around(distance: float, count: int) -> Float[Tensor, "n 3 4"]:
    """Poses of cameras that look at the origin, spread evenly over a sphere (golden spiral), y up in their pictures."""
    height = 1.0 - 2.0 * (np.arange(count) + 0.5) / count
    angle = np.pi * (3.0 - np.sqrt(5.0)) * np.arange(count)
    ring = np.sqrt(1.0 - height**2)
    back = np.stack([ring * np.sin(angle), height, ring * np.cos(angle)], axis=-1)
    right = np.cross([0.0, 1.0, 0.0], back)
    right /= np.linalg.norm(right, axis=-1, keepdims=True)
    up = np.cross(back, right)
    return torch.from_numpy(np.stack([right, up, back, distance * back], axis=-1)).float()
