"""Images with depth: what a training batch and an evaluation image know of it.

Depth is handed out as ray distance in scene units, whatever the files hold: the model compares it with `depth` outputs
as they are. Pixels are kept as stored (2 bytes for 16-bit files) in the pixel store that also has the colors, and are
drawn with them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.cameras.rays import RayBundle
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs
from torch import Tensor

from common_ns.data.depth.contract import (
    as_float,
    as_tensor,
    check_depth_files,
    contract_of,
    forward_directions,
    image_ray_per_z,
    load_depth,
    load_sigma,
    nearest,
    ray_per_z,
    stored_type,
)
from common_ns.data.depth.normals import NormalContract, load_normals, scene_normals
from common_ns.errors import InputError
from common_ns.nerfstudio_seam.datamanager import FieldDataset
from depthnerf_ns.depth_cloud import DepthCloud

STORED = {"depth_image": "stored_depth", "depth_sigma": "stored_sigma", "normal_image": "stored_normal"}
"""Name in a batch → name in the pixel store."""
RAY_NAMES = {"depth_image": "depth", "depth_sigma": "depth_sigma", "normal_image": "normal"}
"""Name in a batch → name in the metadata of rays."""


class DepthDataset(FieldDataset):
    """Adds to images and batches, from the files that the dataparser names in its metadata:

    - `depth_image` [..., 1]: ray distance in scene units, 0 where there is no depth;
    - `depth_sigma` [..., 1]: its standard deviation in scene units, along the ray, where the data set has it;
    - `normal_image` [..., 3]: unit normals in the scene's axes, 0 where there is none, where the data set has them.

    Args:
        dataparser_outputs: with `depth_filenames` and `depth_contract` (or nerfstudio's `depth_unit_scale_factor`) in
            the metadata, and optionally `depth_sigma_filenames`, `normal_filenames` and `normal_contract`.
        scale_factor: factor on the resolution.
        check_files: look at every file's header first; off when none will be read.
    """

    exclude_batch_keys_from_device = [*FieldDataset.exclude_batch_keys_from_device, *STORED]

    def __init__(
        self, dataparser_outputs: DataparserOutputs, scale_factor: float = 1.0, check_files: bool = True
    ) -> None:
        super().__init__(dataparser_outputs, scale_factor, check_files)
        metadata = self.metadata
        if metadata.get("depth_filenames") is None:
            problem = "the data set has no depth"
            remedy = "Name depth maps as depth_file_path in transforms.json, and read it with rgbd-data"
            raise InputError(problem, remedy)
        self.depth_files = [Path(file) for file in metadata["depth_filenames"]]
        self.sigma_files = metadata.get("depth_sigma_filenames")
        self.normal_files = metadata.get("normal_filenames")
        self.contract = contract_of(metadata)
        self.normal_contract: NormalContract = metadata.get("normal_contract") or NormalContract()
        cameras = dataparser_outputs.cameras
        sizes = torch.cat([cameras.width, cameras.height], dim=-1).reshape(-1, 2).tolist()
        self._sizes: list[tuple[int, int]] = [(width, height) for width, height in sizes]
        metadata["scene_units_per_meter"] = float(dataparser_outputs.dataparser_scale)
        metadata["depth_cloud"] = DepthCloud(dataparser_outputs)
        self._scene_per_step = self.contract.unit * metadata["scene_units_per_meter"]
        # The store has one type for all images.
        self._types: dict[str, np.dtype] = {}
        self._camera_axes = self.cameras.camera_to_worlds[:, :3, :3]
        self._forward = forward_directions(self.cameras)
        if check_files:
            check_depth_files(self.depth_files, self._sizes, self.contract)
            self._types["depth"] = stored_type(self.depth_files[0]) if self.depth_files else np.dtype(np.uint16)

    def depth_arrays(self, image_idx: int) -> dict[str, np.ndarray]:
        """The maps of an image as they are stored, [height, width, channels], by their names in the pixel store; 16-bit
        numbers as int16 (see `depth_data.as_tensor`).

        Raises: InputError if a file breaks its contract.
        """
        size, target = self._sizes[image_idx], self._target_size(image_idx)
        file = self.depth_files[image_idx]
        depth = load_depth(file, self.contract, size)
        maps = {"stored_depth": self._of_one_type("depth", depth, file)[..., None]}
        if self.sigma_files is not None:
            file = Path(self.sigma_files[image_idx])
            sigma = load_sigma(file, depth, self.contract, size)
            maps["stored_sigma"] = self._of_one_type("uncertainty", sigma, file)[..., None]
        if self.normal_files is not None:
            file = Path(self.normal_files[image_idx])
            normals = load_normals(file, self.normal_contract, size)
            maps["stored_normal"] = self._of_one_type("normals", normals, file)
        maps = {name: nearest(values, target) for name, values in maps.items()}
        return {name: v.view(np.int16) if v.dtype == np.uint16 else v for name, v in maps.items()}

    def _target_size(self, image_idx: int) -> tuple[int, int]:
        """(width, height) of the image after scaling, as `get_numpy_image` rounds it."""
        width, height = (int(length * self.scale_factor) for length in self._sizes[image_idx])
        return width, height

    def _of_one_type(self, what: str, values: np.ndarray, file: Path) -> np.ndarray:
        """The values, if their type is that of the data set's first such file."""
        expected = self._types.setdefault(what, values.dtype)
        if values.dtype != expected:
            problem = f"the {what} is stored as {values.dtype}, in other files of the data set as {expected}"
            raise InputError(problem, "Store all files in the same type", file)
        return values

    def pixel_arrays(self, image_idx: int) -> dict[str, np.ndarray]:
        return {**super().pixel_arrays(image_idx), **self.depth_arrays(image_idx)}

    def pixels_follow_from(self) -> tuple[list[Any], list[Path]]:
        settings, files = super().pixels_follow_from()
        maps = [self.depth_files, self.sigma_files, self.normal_files]
        settings += [self.contract, self.normal_contract, [each is not None for each in maps]]
        return settings, files + [Path(file) for each in maps if each is not None for file in each]

    def finish_batch(self, batch: dict[str, Any], rays: RayBundle) -> dict[str, Any]:
        """The batch with its maps in scene units, on the rays' device; the rays carry them as metadata too."""
        batch = dict(batch)
        stored = {name: batch.pop(key) for name, key in STORED.items() if key in batch}
        device = rays.directions.device
        if self._forward.device != device:
            self._forward, self._camera_axes = self._forward.to(device), self._camera_axes.to(device)
        camera = batch["indices"][:, 0].to(device)
        factor = torch.full((), self._scene_per_step, device=device)
        if self.contract.kind == "z":
            factor = factor * ray_per_z(rays.directions, self._forward[camera])
        maps = self._in_scene({name: value.to(device) for name, value in stored.items()}, factor, camera)
        rays.metadata.update({RAY_NAMES[name]: value for name, value in maps.items()})
        return {**batch, **maps}

    def get_metadata(self, data: dict) -> dict:
        """Adds depth, and σ and normals where there are any, to an evaluation image, [height, width, channels]."""
        return {**super().get_metadata(data), **self.maps(int(data["image_idx"]), self.cameras)}

    def maps(self, image_idx: int, cameras: Cameras) -> dict[str, Float[Tensor, "h w c"]]:
        """The maps of an image in scene units, by their names in a batch.

        Args:
            image_idx: which.
            cameras: those that took the images, with their distortion.
        """
        arrays = self.depth_arrays(image_idx)
        stored = {name: as_tensor(arrays[key]) for name, key in STORED.items() if key in arrays}
        factor = torch.full((), self._scene_per_step)
        if self.contract.kind == "z":
            factor = factor * image_ray_per_z(cameras, image_idx)
        return self._in_scene(stored, factor, torch.tensor(image_idx))

    def _in_scene(
        self, stored: dict[str, Tensor], factor: Float[Tensor, "*#n 1"] | Float[Tensor, ""], camera: Int[Tensor, "*#n"]
    ) -> dict[str, Tensor]:
        """Stored numbers in scene units and axes.

        Args:
            stored: pixels [..., channels] by their names in a batch.
            factor: ray distance in scene units per stored step.
            camera: index of each pixel's camera.
        """
        result = {}
        for name, value in stored.items():
            if name == "normal_image":
                axes = self._camera_axes.to(value.device)[camera.to(value.device)]
                result[name] = scene_normals(value, self.normal_contract, axes)
            else:
                result[name] = as_float(value) * factor
        return result
