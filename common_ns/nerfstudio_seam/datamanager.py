"""The data set and the datamanager that all families train with.

They differ from nerfstudio's in five ways: input is checked and errors name the file; pixels are drawn uniformly over
images of any sizes, of panoramas by solid angle and of fisheyes within their circle, from a store that keeps them as
8-bit; the random numbers of a training step follow from the step alone, so that a resumed run sees the batches an
uninterrupted run would have seen; a batch has the same number of rays, and the same rays, on any number of devices; and
it carries the footprint of its pixels.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.cameras.rays import RayBundle
from nerfstudio.data.datamanagers.base_datamanager import VanillaDataManager, VanillaDataManagerConfig
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs
from nerfstudio.data.datasets.base_dataset import InputDataset
from nerfstudio.data.pixel_samplers import PixelSampler, PixelSamplerConfig
from nerfstudio.data.utils.dataloaders import FixedIndicesEvalDataloader, RandIndicesEvalDataloader
from nerfstudio.model_components.ray_generators import RayGenerator
from nerfstudio.utils.rich_utils import CONSOLE
from PIL import Image
from torch import Tensor

from common_ns.data import checks, images
from common_ns.data.coarse_pixels import averaged, check_scales, squares_around
from common_ns.data.drawing import WHOLE_VIEWS, crop_radius, inside_crop, pixel_footprint, row_weights, widest_pixel
from common_ns.data.formats import suggestion
from common_ns.data.gate import check_outputs
from common_ns.data.masks import check_mask_sizes, empty_masks_warning, valid_pixels
from common_ns.data.notes import note
from common_ns.data.pixel_file import PixelFile, pixels_folder
from common_ns.data.pixels import PixelRuns, PixelStore
from common_ns.data.scene_bounds import ray_bounds
from common_ns.errors import InputError
from common_ns.nerfstudio_seam import distributed
from common_ns.nerfstudio_seam.dataparsers import name_of, own_readers
from common_ns.nerfstudio_seam.renames import SuiteConfig
from common_ns.nerfstudio_seam.versions import all_images, in_training


class FieldDataset(InputDataset):
    """nerfstudio's image data set with checked input and images of any kind that `common_ns.data.images` decodes.

    Args:
        dataparser_outputs: where the images are and how their cameras stand.
        scale_factor: factor on the resolution.
        check_files: look at every image's header first; off when no image will be read.
    """

    def __init__(
        self, dataparser_outputs: DataparserOutputs, scale_factor: float = 1.0, check_files: bool = True
    ) -> None:
        _mend_cameras(dataparser_outputs.cameras)
        super().__init__(dataparser_outputs, scale_factor)
        files = dataparser_outputs.image_filenames
        cameras = dataparser_outputs.cameras
        if check_files:
            sizes = torch.cat([cameras.width, cameras.height], dim=-1).reshape(-1, 2).tolist()
            has_alpha = images.check_images(files, [(width, height) for width, height in sizes])
            check_mask_sizes(dataparser_outputs.mask_filenames or [], [(width, height) for width, height in sizes])
        else:
            has_alpha = images.images_have_alpha(files)
        radius = self.metadata.get("fisheye_crop_radius")
        self.crop_radius = None if radius is None else crop_radius(radius, scale_factor)
        """Radius in pixels of the images in use of the circle that a fisheye's picture is in; None: there is none."""
        # Models choose their background by it, so it is the same where images are not checked (rendering).
        self.metadata["images_have_alpha"] = has_alpha

    def get_numpy_image(self, image_idx: int) -> np.ndarray:
        """The image [height, width, 3 or 4] in 8 bits."""
        cameras = self._dataparser_outputs.cameras
        size = (int(cameras.width[image_idx]), int(cameras.height[image_idx]))
        file, alpha = self._dataparser_outputs.image_filenames[image_idx], self.metadata["images_have_alpha"]
        image = images.decode_image(file, size, alpha)
        if self.scale_factor != 1.0:
            height, width = image.shape[:2]
            size = (int(width * self.scale_factor), int(height * self.scale_factor))
            image = np.asarray(Image.fromarray(image).resize(size, resample=Image.Resampling.BILINEAR))
        return image

    def get_metadata(self, data: dict) -> dict:
        """Adds the scale (1, 2, 4, 8) of an image of a multi-scale data set, for evaluation by scale."""
        scales = self.metadata.get("image_scale")
        return {} if scales is None else {"image_scale": int(scales[data["image_idx"]])}

    def pixel_arrays(self, image_idx: int) -> dict[str, np.ndarray]:
        """What a training batch draws from: the image as stored, and the mask where there is one."""
        arrays = {"image": self.get_numpy_image(image_idx)}
        if self._dataparser_outputs.mask_filenames is not None:
            arrays["mask"] = self._mask(image_idx, arrays["image"].shape[:2]).numpy()
        seen = self.seen_pixels(image_idx)
        if seen is not None:
            arrays["mask"] = arrays["mask"] & seen if "mask" in arrays else seen
        return arrays

    def pixels_follow_from(self) -> tuple[list[Any], list[Path]]:
        """What `pixel_arrays` of all images follow from: settings, each with a `repr` that tells it, and files. A data
        set that has more arrays adds to both."""
        cameras, outputs = self.cameras, self._dataparser_outputs
        shape = torch.cat([cameras.height, cameras.width, cameras.camera_type], dim=-1).tolist()
        masked = outputs.mask_filenames is not None
        settings = [type(self).__name__, self.scale_factor, self.metadata["images_have_alpha"], shape, masked]
        if self.crop_radius is not None:
            settings += [self.crop_radius, torch.cat([cameras.cx, cameras.cy], dim=-1).tolist()]
        return settings, [Path(file) for file in [*outputs.image_filenames, *(outputs.mask_filenames or [])]]

    def masks_of(self, images: Sequence[int]) -> list[Path]:
        """Files of the masks of valid pixels of images; none if there are no such masks."""
        files = self._dataparser_outputs.mask_filenames
        return [] if files is None else [Path(files[index]) for index in images]

    def seen_pixels(self, image_idx: int) -> Bool[np.ndarray, "height width 1"] | None:
        """The pixels within a fisheye's `fisheye_crop_radius`; None: there is none."""
        return None if self.crop_radius is None else inside_crop(self.cameras, image_idx, self.crop_radius)

    def _mask(self, image_idx: int, shape: tuple[int, ...]) -> Bool[Tensor, "height width 1"]:
        """Which pixels of an image, whose height and width in use are these, count."""
        assert self._dataparser_outputs.mask_filenames is not None
        file = Path(self._dataparser_outputs.mask_filenames[image_idx])
        cameras = self._dataparser_outputs.cameras
        size = (int(cameras.width[image_idx]), int(cameras.height[image_idx]))
        return torch.from_numpy(valid_pixels(file, size, (shape[1], shape[0])))

    def get_data(self, image_idx: int, image_type: Literal["uint8", "float32"] = "float32") -> dict:
        """An image with its mask, where there is one, and its metadata, for evaluation and the viewer."""
        image = self.get_image_float32(image_idx) if image_type == "float32" else self.get_image_uint8(image_idx)
        data = {"image_idx": image_idx, "image": image}
        if self._dataparser_outputs.mask_filenames is not None:
            data["mask"] = self._mask(image_idx, tuple(image.shape[:2]))
        seen = self.seen_pixels(image_idx)
        if seen is not None:
            data["mask"] = data.get("mask", True) & torch.from_numpy(seen)
        if self.mask_color:
            data["image"] = torch.where(data["mask"], image, torch.tensor(self.mask_color, dtype=image.dtype))
        return {**data, **self.get_metadata(data)}

    def finish_batch(self, batch: dict[str, Any], rays: RayBundle) -> dict[str, Any]:
        """What a training batch holds of what `pixel_arrays` stored. A data set with more maps than the image stores
        them as compactly as it likes, and converts the drawn pixels here.

        Args:
            batch: "image" as colors, "indices", and the drawn pixels of any further arrays as they were stored.
            rays: the pixels' rays.
        """
        return batch


class StorePixelSampler(PixelSampler):
    """Draws from a `PixelStore`. Stands where nerfstudio's exporters set `num_rays_per_batch`.

    Args:
        fill: makes the store, when it is first drawn from: evaluation alone needs no training pixels.
        alpha_color: color that images with alpha are composited on; None: they keep their alpha.
        num_rays_per_batch: pixels of a batch.
        from_one_image: take all pixels of a batch from one image.
    """

    def __init__(
        self,
        fill: Callable[[], PixelStore],
        alpha_color: Tensor | None,
        num_rays_per_batch: int,
        from_one_image: bool = False,
    ) -> None:
        super().__init__(PixelSamplerConfig(), num_rays_per_batch=num_rays_per_batch)
        self._fill = fill
        self.alpha_color = alpha_color
        self.from_one_image = from_one_image
        self.object_share = 0.0
        """Share of a batch's pixels that is drawn from those which are not transparent; the others are from all."""

    @cached_property
    def store(self) -> PixelStore:
        """The pixels."""
        return self._fill()

    def sample(self, image_batch: Any = None) -> dict[str, Tensor]:
        """Draw a batch: "image" in [0, 1] (composited on the data set's color where it has one), and "indices"."""
        return self.sample_part(self.num_rays_per_batch, slice(None))

    def sample_part(self, num_rays: int, part: slice) -> dict[str, Tensor]:
        """Draw a batch of `num_rays`, and return a part of it: the random numbers are those of the whole."""
        if self._object is None:
            return self.finish(*self.store.sample(num_rays, part, self.from_one_image))
        number = round(self.object_share * num_rays)
        drawn = [self._object.draw(number), self.store.draw(num_rays - number)]
        return self.finish(*self.store.at(torch.cat(drawn)[part]))

    @cached_property
    def _object(self) -> PixelRuns | None:
        """Pixels that are not transparent; None: they are drawn as all others are."""
        if self.object_share == 0.0:
            return None
        image = self.store.arrays["image"]
        visible = self.store.runs_of(image[:, 3] > 0) if image.shape[-1] == 4 else None
        if visible is None or not len(visible):
            seen = "no image has an alpha channel" if image.shape[-1] != 4 else "all pixels are transparent"
            note(f"object-share {self.object_share:g} changes nothing: {seen}.")
            return None
        return visible

    def finish(self, batch: dict[str, Tensor], indices: Tensor) -> dict[str, Tensor]:
        """A batch of pixels as they are stored, with colors in [0, 1] and "indices"."""
        return {**batch, "image": self.colors(batch["image"]), "indices": indices}

    def colors(self, image: Tensor) -> Float[Tensor, "n channels"]:
        """Stored colors in [0, 1], composited on the data set's color where it has one."""
        if image.dtype == torch.uint8:
            image = image.float() / 255.0
        if self.alpha_color is not None and image.shape[-1] == 4:
            alpha = image[:, 3:]
            image = image[:, :3] * alpha + self.alpha_color.to(image) * (1.0 - alpha)
        return image


@dataclass
class FieldDataManagerConfig(SuiteConfig, VanillaDataManagerConfig):
    """Checked input, flat 8-bit pixel store, and random numbers that follow from the step. On several devices,
    train_num_rays_per_batch counts the rays of all of them together."""

    _target: type = field(default_factory=lambda: FieldDataManager)
    """target class to instantiate"""
    skip_missing_images: bool = False
    """Leave out frames whose image file does not exist, after naming them, instead of ending with an error."""
    single_image_batches: bool = False
    """Take the rays of a training batch from one image, which is drawn for each batch, instead of from all mixed."""
    train_scales: tuple[int, ...] = (1,)
    """Multi-scale training: sides of the squares of pixels that rays of a training batch stand for, in turn. A square
    is anywhere in an image, its color is the mean, and its ray is as wide. 1 2 4 8: a quarter of the rays sees the
    photographs at full size, a quarter each at a half, a quarter and an eighth; a number that is there twice gets twice
    as many."""
    object_share: float = 0.0
    """Share of a training batch's rays that is drawn from pixels which are not transparent, where images have alpha;
    the others are drawn from all pixels. Most of an object's photographs is empty, and empty pixels teach little."""
    pixels_on_disk: bool = False
    """Keep decoded pixels in a memory-mapped file instead of in memory, for captures larger than the memory. The file
    stays, and later runs on the same images begin with it."""
    pixels_folder: Path | None = None
    """Folder of these files, on a disk with room for 3 bytes a pixel; None: a hidden folder in that of the data, or the
    user's cache where that cannot be written."""


@contextlib.contextmanager
def reading(config: Any) -> Iterator[None]:
    """Within it, a datamanager's config is set up: photographs of any kind are opened, and errors name the data.

    Raises: InputError if the data is not there or cannot be read.
    """
    data = Path(config.data if config.data is not None else config.dataparser.data)
    checks.require_path(data)

    def if_missing() -> str | None:
        return suggestion(data, name_of(config.dataparser))

    with checks.explained(data, if_missing), images.parsers_open_any_photo(data), own_readers(config.dataparser):
        yield


class CheckedInput:
    """What datamanagers of this suite do with a dataparser's outputs before they read an image, and tell models."""

    config: Any
    dataparser: Any
    test_mode: str
    train_dataparser_outputs: DataparserOutputs
    train_dataset: FieldDataset
    dataset_class: type[FieldDataset] = FieldDataset
    """Reads the images, and whatever else a batch needs of a pixel."""

    def _check(self, outputs: DataparserOutputs, split: str) -> None:
        """Look at what the dataparser returned, and say what is unusual about it where a training begins. A fisheye's
        radius moves from the cameras to the metadata."""
        if "signal" in outputs.metadata:
            name = name_of(self.config.dataparser)
            problem = f"{name} describes one image or volume, and this method trains on photographs with poses"
            raise InputError(problem, "Use miner-image or miner-occupancy", self.config.dataparser.data)
        crop = (outputs.cameras.metadata or {}).get("fisheye_crop_radius")
        if crop is not None and "fisheye_crop_radius" not in outputs.metadata:
            # It is stated for images of full size, whichever the dataparser takes.
            smaller = getattr(self.dataparser, "downscale_factor", None) or 1
            outputs.metadata["fisheye_crop_radius"] = crop_radius(crop, 1.0 / smaller, self.config.dataparser.data)
        warnings = check_outputs(outputs, Path(self.config.dataparser.data), split)
        for warning in warnings if self.test_mode == "val" and distributed.rank() == 0 else ():
            note(warning)

    def _describe_scene(self) -> None:
        """Put what models ask of the scene into the metadata that they get."""
        metadata, cameras = self.train_dataset.metadata, self.train_dataset.cameras
        metadata.setdefault("ray_bounds", ray_bounds(self.train_dataparser_outputs, self.config.dataparser))
        metadata["cameras"], metadata["camera_to_worlds"] = cameras, cameras.camera_to_worlds

    def _dataset(self, outputs: DataparserOutputs) -> FieldDataset:
        scale = self.config.camera_res_scale_factor
        return self.dataset_class(outputs, scale_factor=scale, check_files=self.test_mode != "inference")

    def _present(self, outputs: DataparserOutputs) -> DataparserOutputs:
        """The outputs without frames whose image is missing, if the user asked for that."""
        if not self.config.skip_missing_images:
            return outputs
        keep = [index for index, file in enumerate(outputs.image_filenames) if Path(file).exists()]
        missing = sorted(set(range(len(outputs.image_filenames))) - set(keep))
        if not missing:
            return outputs
        names = ", ".join(str(outputs.image_filenames[index]) for index in missing)
        note(f"Left out {len(missing)} frames whose image is missing: {names}")
        return select_frames(outputs, keep)


class FieldDataManager(CheckedInput, VanillaDataManager[FieldDataset]):
    """Datamanager of all families. With nerfstudio's patch sampling or partial caching set, nerfstudio's path is used:
    several devices then draw each its own rays, as many on each as fit into train_num_rays_per_batch."""

    config: FieldDataManagerConfig
    has_completed_config: bool = False
    """Whether a training has put into the config what it found in the data, for later commands to use."""

    def __init__(self, config: FieldDataManagerConfig, *args, **kwargs) -> None:
        # Taken before anything is drawn: machine.seed + rank, when a run is started by ns-train. Rank 0's counts.
        seed = distributed.gather(torch.initial_seed())[0]
        with reading(config):
            super().__init__(config, *args, **kwargs)
        self.seed = seed
        self._describe_scene()
        cameras = self.train_dataset.cameras
        if not any(kind in WHOLE_VIEWS for kind in cameras.camera_type.flatten().tolist()):
            self.train_dataset.metadata["widest_pixel"] = widest_pixel(cameras) * max(config.train_scales, default=1)

    @property
    def uses_pixel_store(self) -> bool:
        """Whether no option asks for nerfstudio's own batches."""
        config = self.config
        whole = all_images(config.train_num_images_to_sample_from) and all_images(config.eval_num_images_to_sample_from)
        return whole and config.patch_size <= 1 and type(config.pixel_sampler) is PixelSamplerConfig

    def create_train_dataset(self) -> FieldDataset:
        self._check(self.train_dataparser_outputs, "train")
        self.train_dataparser_outputs = self._present(self.train_dataparser_outputs)
        return self._dataset(self.train_dataparser_outputs)

    def create_eval_dataset(self) -> FieldDataset:
        outputs = self.dataparser.get_dataparser_outputs(split=self.test_split)
        self._check(outputs, self.test_split)
        return self._dataset(self._present(outputs))

    def setup_train(self) -> None:
        total, world_size = self.config.train_num_rays_per_batch, distributed.world_size()
        check_scales(self.config.train_scales)
        self._check_object_share()
        if not self.uses_pixel_store:
            if set(self.config.train_scales) != {1}:
                problem = (
                    "train-scales needs single pixels of all images, and patches or a part of the images were asked for"
                )
                remedy = "Give --pipeline.datamanager.train-scales 1, or drop the option that asks for them"
                raise InputError(problem, remedy)
            super().setup_train()
            assert self.train_pixel_sampler is not None
            self.train_pixel_sampler.set_num_rays_per_batch(total // world_size)
            return
        self.train_part = distributed.share(total, distributed.rank(), world_size)
        num_rays = self.train_part.stop - self.train_part.start
        self.train_pixel_sampler = self._store_sampler(self.train_dataset, num_rays)
        self.train_pixel_sampler.object_share = self.config.object_share
        scales = torch.tensor(self.config.train_scales, device=self.device if self.config.images_on_gpu else "cpu")
        self._train_sides = scales.repeat(total // len(scales) + 1)[:total]
        if self.test_mode == "val":  # a run that trains: bad images are found before anything else is set up
            _ = self.train_pixel_sampler.store
        self.train_ray_generator = RayGenerator(self.train_dataset.cameras.to(self.device))
        scales = self.train_dataset.metadata.get("image_scale")
        self.train_footprint = pixel_footprint(self.train_dataset.cameras, scales)

    def setup_eval(self) -> None:
        if not self.uses_pixel_store:
            super().setup_eval()
            return
        # Pixels of evaluation images are only needed if evaluation batches are drawn: filled at the first one.
        self.eval_pixel_sampler = None
        self.eval_ray_generator = RayGenerator(self.eval_dataset.cameras.to(self.device))
        self.fixed_indices_eval_dataloader = FixedIndicesEvalDataloader(
            input_dataset=self.eval_dataset, device=self.device
        )
        self.eval_dataloader = RandIndicesEvalDataloader(input_dataset=self.eval_dataset, device=self.device)

    def _store_sampler(self, dataset: FieldDataset, num_rays: int) -> StorePixelSampler:
        def fill() -> PixelStore:
            cameras = dataset.cameras
            sizes = torch.cat([cameras.height, cameras.width], dim=-1).reshape(-1, 2).tolist()
            kept = self._pixel_file(dataset) if self.config.pixels_on_disk else None
            source = "" if kept is None or not kept.path.exists() else f" from {kept.path}"
            store = PixelStore(
                dataset.pixel_arrays,
                [(height, width) for height, width in sizes],
                device=self.device if self.config.images_on_gpu else "cpu",
                on_disk=kept if kept is not None else False,
                row_weights=[row_weights(cameras, index) for index in range(len(dataset))],
            )
            if len(store) == 0:
                problem = "the masks leave no pixel to train on"
                raise InputError(problem, "Mark valid pixels white", self.config.data)
            empty_masks = dataset.masks_of(store.empty_images)
            if empty_masks:
                warning = empty_masks_warning(empty_masks, len(dataset))
                note(f"Masks: {warning}")
            line = f"Loaded {len(dataset)} images{source}: {len(store):,} pixels, {store.nbytes / 2**20:.0f} MiB."
            CONSOLE.print(line, markup=False, soft_wrap=True)
            return store

        alpha_color = dataset._dataparser_outputs.alpha_color
        return StorePixelSampler(fill, alpha_color, num_rays, self.config.single_image_batches)

    def _check_object_share(self) -> None:
        """Raises: InputError if the share is none, or batches are drawn in a way that leaves no place for it."""
        share, option = self.config.object_share, "--pipeline.datamanager.object-share"
        if not 0.0 <= share <= 1.0:
            raise InputError(f"object-share is {share:g}", f"Give 0 to 1 to {option}")
        if share > 0.0 and (self.config.single_image_batches or not self.uses_pixel_store):
            problem = "object-share needs single pixels of all images, and others were asked for"
            raise InputError(problem, f"Give {option} 0, or drop single-image-batches, patches and partial caching")

    def _pixel_file(self, dataset: FieldDataset) -> PixelFile:
        """Where the pixels of a data set are kept on disk."""
        data = self.config.data if self.config.data is not None else self.config.dataparser.data
        folder = pixels_folder(Path(data), self.config.pixels_folder)
        return PixelFile.of(folder, *dataset.pixels_follow_from())

    def next_train(self, step: int) -> tuple[RayBundle, dict]:
        """This device's rays of the step's batch. In evaluation mode, as the exporters call it with step 0 again and
        again: as many new rays as `train_pixel_sampler.num_rays_per_batch` says."""
        if not self.uses_pixel_store:
            if in_training(self):
                seed_step(self.seed + distributed.rank(), step)
            return super().next_train(step)
        self.train_count += 1
        assert isinstance(self.train_pixel_sampler, StorePixelSampler)
        if in_training(self):
            seed_step(self.seed, step)
            batch = self.train_pixel_sampler.sample_part(self.config.train_num_rays_per_batch, self.train_part)
        else:
            batch = self.train_pixel_sampler.sample({})
        if in_training(self) and max(self.config.train_scales) > 1:
            rays, batch = self._coarser(batch, self._train_sides[self.train_part])
        else:
            rays = self.train_ray_generator(batch["indices"])
        batch["footprint"] = self.train_footprint[batch["indices"][:, 0].cpu()]
        return rays, self.train_dataset.finish_batch(batch, rays)

    def _coarser(self, batch: dict[str, Tensor], side: Int[Tensor, " n"]) -> tuple[RayBundle, dict[str, Tensor]]:
        """The batch of squares around the drawn pixels: "image" is their mean, other arrays are of the middle pixel."""
        assert isinstance(self.train_pixel_sampler, StorePixelSampler)
        sampler, image = self.train_pixel_sampler, batch["indices"][:, :1]
        squares = squares_around(sampler.store, batch["indices"], side)
        row, column = squares.middle_pixel.unbind(dim=-1)
        batch = sampler.finish(*sampler.store.at(sampler.store.position(image[:, 0], row, column)))
        for rays, pixels in squares.larger:
            colors = sampler.colors(sampler.store.arrays["image"].index_select(0, pixels.flatten()))
            batch["image"][rays] = averaged(colors.unflatten(0, pixels.shape))
        cameras = self.train_ray_generator.cameras
        bundle = cameras.generate_rays(image.to(cameras.device), squares.middle.to(cameras.device))
        bundle.pixel_area = bundle.pixel_area * squares.side.to(cameras.device)[:, None] ** 2
        return bundle, batch

    def next_eval(self, step: int) -> tuple[RayBundle, dict]:
        if not self.uses_pixel_store:
            return super().next_eval(step)
        self.eval_count += 1
        if self.eval_pixel_sampler is None:
            self.eval_pixel_sampler = self._store_sampler(self.eval_dataset, self.config.eval_num_rays_per_batch)
        batch = self.eval_pixel_sampler.sample({})
        rays = self.eval_ray_generator(batch["indices"])
        return rays, self.eval_dataset.finish_batch(batch, rays)


def seed_step(seed: int, step: int) -> None:
    """Set torch's and Python's random state to a value that depends on the run's seed and the absolute step only.

    The multiplier spreads neighboring steps over the seed space (Knuth's multiplicative hashing).
    """
    mixed = (seed * 0x9E3779B97F4A7C15 + step * 0xBF58476D1CE4E5B9 + 1) % 2**63
    torch.manual_seed(mixed)
    random.seed(mixed)


def select_frames(outputs: DataparserOutputs, keep: list[int]) -> DataparserOutputs:
    """Dataparser outputs with only the frames `keep`; per-frame lists in the metadata are cut as well."""
    count = len(outputs.image_filenames)
    index = torch.tensor(keep, dtype=torch.long)
    metadata = {
        name: [value[i] for i in keep] if isinstance(value, list) and len(value) == count else value
        for name, value in (outputs.metadata or {}).items()
    }
    return replace(
        outputs,
        image_filenames=[outputs.image_filenames[i] for i in keep],
        cameras=outputs.cameras[index],
        mask_filenames=None if outputs.mask_filenames is None else [outputs.mask_filenames[i] for i in keep],
        metadata=metadata,
    )


def _mend_cameras(cameras: Cameras) -> None:
    """Remove what nerfstudio's own commands stumble over in cameras of nerfstudio's own parsers."""
    if cameras.metadata is None:
        cameras.metadata = {}  # ns-export cameras asserts that it is not None
    for name in ("fx", "fy", "cx", "cy"):  # Blender's focal lengths come as float64, which ns-render spiral refuses
        setattr(cameras, name, getattr(cameras, name).float())
