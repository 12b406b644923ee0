"""Images with the mask of an object: what a training batch and an evaluation image know of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from nerfstudio.cameras.rays import RayBundle
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs

from common_ns.data.masks import check_mask_sizes, read_mask
from common_ns.nerfstudio_seam.datamanager import FieldDataset
from hashnffb_sdf_ns.object_sphere.mask_checks import alpha_shows_object


class MaskedDataset(FieldDataset):
    """Adds `mask` [..., 1] to images and batches: the share of the pixel that the object covers, in [0, 1].

    It comes from the files that the dataparser names as `object_mask_filenames` in its metadata, or else from the alpha
    of the images. Without either there is no `mask`. Pixels outside are drawn like those inside: unlike nerfstudio's
    masks, these say what is there, not which pixels are valid. `metadata["has_masks"]` tells models.

    Args:
        dataparser_outputs: where the images are and how their cameras stand.
        scale_factor: factor on the resolution.
        check_files: look at every file's header first; off when none will be read.
    """

    def __init__(
        self, dataparser_outputs: DataparserOutputs, scale_factor: float = 1.0, check_files: bool = True
    ) -> None:
        super().__init__(dataparser_outputs, scale_factor, check_files)
        files = self.metadata.get("object_mask_filenames")
        self.mask_files = None if files is None else [Path(file) for file in files]
        self.alpha_is_mask = self.mask_files is None and alpha_shows_object(dataparser_outputs.image_filenames)
        """Whether the alpha of the images is the mask."""
        self.metadata["has_masks"] = self.mask_files is not None or self.alpha_is_mask
        if self.mask_files is not None and check_files:
            cameras = dataparser_outputs.cameras
            sizes = torch.cat([cameras.width, cameras.height], dim=-1).reshape(-1, 2).tolist()
            check_mask_sizes(self.mask_files, [(width, height) for width, height in sizes])

    def object_mask(self, image_idx: int, image: np.ndarray | None = None) -> UInt8[np.ndarray, "h w 1"] | None:
        """The mask of an image in 8 bits; None if there is none.

        Args:
            image_idx: which image.
            image: its pixels, if they are at hand.
        """
        if self.mask_files is not None:
            width, height = int(self.cameras.width[image_idx]), int(self.cameras.height[image_idx])
            return read_mask(self.mask_files[image_idx], (width, height))[..., None]
        if not self.alpha_is_mask:
            return None
        image = self.get_numpy_image(image_idx) if image is None else image
        return image[..., 3:4]

    def pixel_arrays(self, image_idx: int) -> dict[str, np.ndarray]:
        arrays = super().pixel_arrays(image_idx)
        mask = self.object_mask(image_idx, arrays["image"])
        # The store draws only inside of what is called "mask" there.
        return arrays if mask is None else {**arrays, "object_mask": mask}

    def pixels_follow_from(self) -> tuple[list[Any], list[Path]]:
        settings, files = super().pixels_follow_from()
        return [*settings, self.alpha_is_mask, self.mask_files is not None], files + (self.mask_files or [])

    def finish_batch(self, batch: dict[str, Any], rays: RayBundle) -> dict[str, Any]:
        """The batch with its mask as a share, on the rays' device."""
        batch = dict(super().finish_batch(batch, rays))
        mask = batch.pop("object_mask", None)
        if mask is not None:
            batch["mask"] = mask.to(rays.directions.device).float() / 255.0
            rays.metadata["object_mask"] = batch["mask"]  # for models that treat rays of the object apart
        return batch

    def get_metadata(self, data: dict) -> dict:
        """Adds the mask to an evaluation image, [height, width, 1], and the reference pose of a camera that has one. A
        mask of valid pixels that the image has besides is then called `valid_pixels`."""
        mask = self.object_mask(int(data["image_idx"]))
        found = {} if mask is None else {"mask": torch.from_numpy(mask.copy()).float() / 255.0}
        if mask is not None and "mask" in data:
            found["valid_pixels"] = data["mask"]
        reference = self.metadata.get("reference_camera_to_worlds")
        if reference is not None:
            found["reference_camera_to_world"] = torch.as_tensor(reference[int(data["image_idx"])])
        return {**super().get_metadata(data), **found}
