"""Which pixels a batch draws where images have object masks: more of the object than its share of the images.

Pixels beside the object say where nothing is, and a few of them say it. Both kinds are drawn uniformly over all images.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from common_ns.checks import InputError
from common_ns.datamanager import FieldDataset, StorePixelSampler
from hashnffb_sdf_ns.datamanager import SdfDataManager, SdfDataManagerConfig

MASK_NAME = "object_mask"
"""Name of the masks in the pixel store, in 8 bits."""


class MaskRuns:
    """The true values of a flat mask, as runs: masks are blobs, and lists of pixels would take 8 bytes for each.

    Args:
        mask: which positions belong to it.
    """

    def __init__(self, mask: Bool[Tensor, " n"]) -> None:
        edges = torch.diff(mask.to(torch.int8), prepend=mask.new_zeros(1, dtype=torch.int8))
        starts, falls = (edges == 1).nonzero()[:, 0], (edges == -1).nonzero()[:, 0]
        if bool(mask[-1:].any()):
            falls = torch.cat([falls, falls.new_tensor([len(mask)])])
        self.ends = torch.cumsum(falls - starts, dim=0)
        """Number of true values up to the end of each run."""
        self.shifts = falls - self.ends
        """What leads from a true value's number to its position."""

    def __len__(self) -> int:
        """Number of true values."""
        return int(self.ends[-1]) if len(self.ends) else 0

    def positions(self, numbers: Int[Tensor, " k"]) -> Int[Tensor, " k"]:
        """Positions of true values, given by their number."""
        return numbers + self.shifts[torch.searchsorted(self.ends, numbers, right=True)]


class MaskBalancedSampler(StorePixelSampler):
    """Draws a given share of each batch from within the masks; the first rays of a batch are those.

    Args:
        share: of a batch, from 0 to 1.
        sampler: where the pixels are.
    """

    def __init__(self, sampler: StorePixelSampler, share: float) -> None:
        super().__init__(lambda: sampler.store, sampler.alpha_color, sampler.num_rays_per_batch)
        self.share = share

    @cached_property
    def runs(self) -> tuple[MaskRuns, MaskRuns] | None:
        """Pixels inside and outside of the masks; None if one of them is empty, or there are no masks."""
        if MASK_NAME not in self.store.arrays:
            return None
        inside = self.store.arrays[MASK_NAME][:, 0] > 127
        found = MaskRuns(inside), MaskRuns(~inside)
        return found if all(len(runs) > 0 for runs in found) else None

    def sample_part(self, num_rays: int, part: slice) -> dict[str, Tensor]:
        if self.runs is None:
            return super().sample_part(num_rays, part)
        counts = (round(self.share * num_rays), num_rays - round(self.share * num_rays))
        device = self.store.device
        flat = torch.cat(
            [runs.positions(torch.randint(len(runs), (n,), device=device)) for runs, n in zip(self.runs, counts)]
        )[part]
        batch = {name: array.index_select(0, flat) for name, array in self.store.arrays.items()}
        return self.finish(batch, self.store.locate(flat))


@dataclass
class BalancedDataManagerConfig(SdfDataManagerConfig):
    """The suite's datamanager for surfaces, which draws more pixels of the object than of what is beside it."""

    _target: type = field(default_factory=lambda: BalancedDataManager)
    """target class to instantiate"""
    mask_ray_share: float | None = 0.6
    """Share of the training rays that are drawn within the object's masks, where there are masks; None: pixels are
    drawn uniformly."""


class BalancedDataManager(SdfDataManager):
    """Draws by `mask_ray_share`."""

    config: BalancedDataManagerConfig

    def setup_train(self) -> None:
        share = self.config.mask_ray_share
        if share is not None and not 0.0 <= share <= 1.0:
            raise InputError(f"mask-ray-share is {share:g}", "Choose a share from 0 to 1; 0.6 is usual")
        super().setup_train()

    def _store_sampler(self, dataset: FieldDataset, num_rays: int) -> StorePixelSampler:
        sampler = super()._store_sampler(dataset, num_rays)
        share = self.config.mask_ray_share
        if share is None or dataset is not self.train_dataset or not dataset.metadata.get("has_masks", False):
            return sampler
        return MaskBalancedSampler(sampler, share)
