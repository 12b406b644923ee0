"""nerfstudio's `neus-facto` on data in IDR's layout, with masks, as the surface benchmark trains it.

Its own dataset knows no masks. Here images are black beside the object, and its mask loss gets the masks. Its field
asks for tiny-cuda-nn, without which it does not start. Where that is not installed, the field gets nerfstudio's own
hash grid in torch, which differs by linear interpolation in place of smoothstep.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import torch
from nerfstudio.configs.method_configs import all_methods
from nerfstudio.data.datamanagers.base_datamanager import VanillaDataManager, VanillaDataManagerConfig
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs
from nerfstudio.data.datasets.base_dataset import InputDataset
from nerfstudio.field_components.encodings import HashEncoding
from nerfstudio.utils.external import TCNN_EXISTS
from torch import Tensor, nn

from benchmarks.mipnerf import without_lpips
from common_ns.data.masks import read_mask
from common_ns.meshing.iso_field import IsoField
from common_ns.nerfstudio_seam.schedulers import LogLinearSchedulerConfig
from hashnffb_sdf_ns.dataparser import IdrDataParserConfig


class HostMaskedDataset(InputDataset):
    """Images that are black beside the object, and masks under the name that nerfstudio's loss looks for."""

    def __init__(self, dataparser_outputs: DataparserOutputs, scale_factor: float = 1.0) -> None:
        super().__init__(dataparser_outputs, scale_factor)
        self.mask_files = [Path(file) for file in self.metadata["object_mask_filenames"]]

    def _mask(self, index: int) -> np.ndarray:
        width, height = int(self.cameras.width[index]), int(self.cameras.height[index])
        return (read_mask(self.mask_files[index], (width, height)) > 127).astype(np.float32)[..., None]

    def get_image_float32(self, image_idx: int) -> Tensor:
        return super().get_image_float32(image_idx)[..., :3] * torch.from_numpy(self._mask(image_idx))

    def get_metadata(self, data: dict) -> dict:
        return {"fg_mask": torch.from_numpy(self._mask(int(data["image_idx"])))}


class TorchGrid(nn.Module):
    """nerfstudio's hash grid in torch, called as its field calls tiny-cuda-nn's."""

    def __init__(self, n_input_dims: int, encoding_config: dict[str, Any]) -> None:
        super().__init__()
        del n_input_dims
        levels, base = encoding_config["n_levels"], encoding_config["base_resolution"]
        self.grid = HashEncoding(
            num_levels=levels,
            min_res=base,
            max_res=round(base * encoding_config["per_level_scale"] ** (levels - 1)),
            log2_hashmap_size=encoding_config["log2_hashmap_size"],
            features_per_level=encoding_config["n_features_per_level"],
            implementation="torch",
        )
        self.n_output_dims = self.grid.get_out_dim()

    def forward(self, x: Tensor) -> Tensor:
        return self.grid(x)


@contextmanager
def with_a_grid() -> Iterator[None]:
    """Build nerfstudio's field with tiny-cuda-nn where it is installed, else with a grid in torch."""
    if TCNN_EXISTS:
        yield
        return
    with mock.patch("nerfstudio.fields.sdf_field.tcnn", SimpleNamespace(Encoding=TorchGrid)):
        yield


def host_pipeline(data: Path, downscale: int, rays: int, device: str) -> tuple[Any, dict]:
    """neus-facto for an object: its sphere is seen from outside, and nothing is beyond it. All else is its default.

    Args:
        data: a folder in IDR's layout, with masks.
        downscale: of the images.
        rays: of a batch.
        device: to train on.
    Returns: the pipeline, and its optimizers with a schedule that ends when the benchmark does.
    """
    config: Any = copy.deepcopy(all_methods["neus-facto"])
    config.pipeline.datamanager = VanillaDataManagerConfig(
        _target=VanillaDataManager[HostMaskedDataset],
        data=data,
        dataparser=IdrDataParserConfig(data=data, downscale_factor=downscale),
        train_num_rays_per_batch=rays,
        eval_num_rays_per_batch=rays,
    )
    config.pipeline.model.sdf_field.inside_outside = False
    config.pipeline.model.eval_num_rays_per_chunk = 1024
    for group in config.optimizers.values():
        rate = group["optimizer"].lr
        group["scheduler"] = LogLinearSchedulerConfig(lr_final=0.05 * rate, warmup_steps=150, warmup_multiplier=0.02)
    with without_lpips(), with_a_grid():
        return config.pipeline.setup(device=device, test_mode="val"), config.optimizers


def host_iso_field(model: Any) -> IsoField:
    """The distance of nerfstudio's field within the unit sphere."""

    def value(points: Tensor) -> Tensor:
        distance = model.field.forward_geonetwork(points.float())[:, 0]
        return torch.maximum(distance, points.norm(dim=-1) - 0.999)

    box = torch.tensor([[-1.0, -1.0, -1.0], [1.0, 1.0, 1.0]])
    return IsoField(value=value, level=0.0, inside_above=False, aabb=box, color=None, device=model.device)
