"""The suite's datamanager for surfaces: every data set is placed in the unit sphere, batches have masks, and draw more
of the object than its fraction of the images.

Pixels beside the object say where nothing is, and a few of them say it. Both kinds are drawn uniformly over all images.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs
from nerfstudio.data.dataparsers.blender_dataparser import BlenderDataParserConfig
from nerfstudio.utils.rich_utils import CONSOLE
from torch import Tensor

from common_ns.data.pixels import PixelRuns
from common_ns.errors import InputError
from common_ns.nerfstudio_seam import distributed
from common_ns.nerfstudio_seam.datamanager import (
    FieldDataManager,
    FieldDataManagerConfig,
    FieldDataset,
    StorePixelSampler,
)
from hashnffb_sdf_ns.dataset import MaskedDataset
from hashnffb_sdf_ns.idr_data.cameras import Similarity
from hashnffb_sdf_ns.object_sphere.mask_checks import OPTION, Meaning
from hashnffb_sdf_ns.object_sphere.normalization import diagnose
from hashnffb_sdf_ns.object_sphere.placement import extent_of_outputs, mask_meaning, renormalized

MASK_NAME = "object_mask"
"""Name of the masks in the pixel store, in 8 bits."""


class MaskBalancedSampler(StorePixelSampler):
    """Draws a given fraction of each batch from within the masks; the first rays of a batch are those.

    Args:
        fraction: of a batch, from 0 to 1.
        sampler: where the pixels are.
    """

    def __init__(self, sampler: StorePixelSampler, fraction: float) -> None:
        super().__init__(lambda: sampler.store, sampler.alpha_color, sampler.num_rays_per_batch, sampler.from_one_image)
        self.fraction = fraction

    @cached_property
    def runs(self) -> tuple[PixelRuns, PixelRuns] | None:
        """Pixels inside and outside of the masks; None if one of them is empty, or there are no masks."""
        if MASK_NAME not in self.store.arrays:
            return None
        inside = self.store.arrays[MASK_NAME][:, 0] > 127
        found = self.store.runs_of(inside), self.store.runs_of(~inside)
        return found if all(len(runs) > 0 for runs in found) else None

    def sample_part(self, num_rays: int, part: slice) -> dict[str, Tensor]:
        if self.runs is None:
            return super().sample_part(num_rays, part)
        groups = self.runs
        if self.from_one_image:
            start, stop = self.store.draw_image()
            groups = [runs.within(start, stop) for runs in groups]
            if not all(len(runs) > 0 for runs in groups):
                groups = [max(groups, key=len)] * 2  # the image is all inside or all outside
        counts = (round(self.fraction * num_rays), num_rays - round(self.fraction * num_rays))
        flat = torch.cat([runs.draw(count) for runs, count in zip(groups, counts)])[part]
        return self.finish(*self.store.at(flat))


@dataclass
class SdfDataManagerConfig(FieldDataManagerConfig):
    """The suite's datamanager for surfaces in the unit sphere."""

    _target: type = field(default_factory=lambda: SdfDataManager)
    """target class to instantiate"""
    scale_check: Literal["fix", "refuse", "warn", "off"] = "fix"
    """Find where the object is, from masks, SfM points or the cameras. If it is not in the unit sphere, or fills little
    of it, fix: move and scale the scene; refuse: end with an error; warn: say so. off: do not look."""
    unit_sphere: tuple[float, float, float, float] | None = None
    """Center (x, y, z) and radius of what becomes the unit sphere, in the coordinates of the dataparser; None: as
    scale_check has it. What `fix` finds is kept here in the run's config.yml, so that later commands see the scene as
    training did, whatever has become of masks and points."""
    mask_check: Literal["refuse", "warn"] = "refuse"
    """What to do about masks that are empty, inverted or contradict each other."""
    masks_are: Literal["auto", "valid", "object"] = "auto"
    """What the masks of nerfstudio's own dataparsers mean. valid: the pixels to train on, as nerfstudio has it; object:
    where the object is; auto: decide from the masks, and say so. Those of an object agree on a visual hull. What is
    decided is kept here in the run's config.yml. Masks of idr-data, and alpha, always mean the object."""
    mask_ray_fraction: float | None = 0.6
    """Fraction of the training rays that are drawn within the object's masks, where there are masks; None: pixels are
    drawn uniformly."""


class SdfDataManager(FieldDataManager):
    """Batches and evaluation images have `mask` where the data has object masks; see `MaskedDataset`."""

    config: SdfDataManagerConfig
    dataset_class = MaskedDataset
    _placed: Similarity | None = None
    """Map from the unit sphere to the dataparser's coordinates; None before it is decided."""
    _masks_are: Meaning | None = None
    """What masks mean; None before it is decided."""

    def _present(self, outputs: DataparserOutputs) -> DataparserOutputs:
        """The outputs in the unit sphere, which the first of them, those of the training views, decide."""
        outputs = super()._present(outputs)
        if outputs.mask_filenames is not None and self._meaning(outputs) == "object":
            masks = {"object_mask_filenames": list(outputs.mask_filenames)}
            outputs = replace(outputs, mask_filenames=None, metadata={**outputs.metadata, **masks})
        if self._placed is None:
            self._placed = self._choose_sphere(outputs)
        return renormalized(outputs, self._placed, isinstance(self.config.dataparser, BlenderDataParserConfig))

    def _meaning(self, outputs: DataparserOutputs) -> Meaning:
        """What masks mean, decided by those of the training views; in a training, says what was found."""
        if self.config.masks_are != "auto":
            return self.config.masks_are
        if self._masks_are is None:
            trains = self.test_mode == "val"
            try:
                self._masks_are, reason = mask_meaning(outputs)
            except InputError as error:
                if trains and self.config.mask_check == "refuse":
                    raise
                self._masks_are, reason = "object", str(error)
            if trains:
                self.config.masks_are, self.has_completed_config = self._masks_are, True
            if trains and distributed.rank() == 0:
                meaning = {"object": "where the object is", "valid": "the pixels to train on"}[self._masks_are]
                line = f"Masks: taken as {meaning} ({OPTION} {self._masks_are}): {reason.rstrip('.')}."
                CONSOLE.print(line, markup=False, highlight=False, soft_wrap=True)
        return self._masks_are

    def setup_train(self) -> None:
        fraction = self.config.mask_ray_fraction
        if fraction is not None and not 0.0 <= fraction <= 1.0:
            raise InputError(f"mask-ray-fraction is {fraction:g}", "Choose a fraction from 0 to 1; 0.6 is usual")
        if not self.uses_pixel_store and self.train_dataset.metadata["has_masks"]:
            problem = "nerfstudio's patch sampling and partial caching draw pixels inside of masks only"
            raise InputError(problem, "Drop these options of the datamanager, or train without masks")
        super().setup_train()

    def _store_sampler(self, dataset: FieldDataset, num_rays: int) -> StorePixelSampler:
        sampler = super()._store_sampler(dataset, num_rays)
        fraction = self.config.mask_ray_fraction
        if fraction is None or dataset is not self.train_dataset or not dataset.metadata.get("has_masks", False):
            return sampler
        if self.config.object_share > 0.0:
            problem = "object-share and mask-ray-fraction both say where rays go"
            raise InputError(problem, "Drop --pipeline.datamanager.object-share")
        return MaskBalancedSampler(sampler, fraction)

    def _choose_sphere(self, outputs: DataparserOutputs) -> Similarity:
        """What becomes the unit sphere; in a training, says what was found."""
        unit, config = Similarity(np.zeros(3), 1.0), self.config
        if config.unit_sphere is not None:
            *center, radius = config.unit_sphere
            if not (np.isfinite(config.unit_sphere).all() and radius > 0):
                problem = f"--pipeline.datamanager.unit-sphere is {' '.join(f'{x:g}' for x in config.unit_sphere)}"
                raise InputError(problem, "Give x, y, z of its center and a radius above 0")
            return Similarity(np.array(center), radius)
        if config.scale_check == "off":
            return unit
        says = self.test_mode == "val" and distributed.rank() == 0
        extent = extent_of_outputs(outputs, refuse=config.mask_check == "refuse" and self.test_mode == "val")
        if extent is None:
            if says:
                problem = "neither masks nor SfM points nor the cameras' axes tell where the object is"
                CONSOLE.print(f"[yellow]Scene: {problem}; the unit sphere stays where the dataparser puts it.")
            return unit
        poses = outputs.cameras.camera_to_worlds.double().numpy()
        diagnosis = diagnose(extent, poses)
        if says:
            CONSOLE.print(diagnosis.summary())
        problem = diagnosis.problem()
        if problem is None:
            return unit
        if config.scale_check == "refuse":
            remedy = "Set --pipeline.datamanager.scale-check fix, or correct scale_mat with ns-idr-cameras"
            raise InputError(problem, remedy, config.data)
        if config.scale_check == "warn":
            if says:
                CONSOLE.print(f"[yellow]Badly scaled: {problem}.")
            return unit
        if says:
            CONSOLE.print(f"[yellow]Badly scaled: {problem}. The sphere that holds it becomes the unit sphere.")
            CONSOLE.print(diagnose(extent, poses, extent.sphere).summary())
        if self.test_mode == "val":
            x, y, z = (float(coordinate) for coordinate in extent.sphere.center)
            config.unit_sphere = (x, y, z, float(extent.sphere.radius))
            self.has_completed_config = True
        return extent.sphere
