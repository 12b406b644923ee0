"""The suite's datamanager with depth in its batches, and with a look at the depth before training."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from nerfstudio.utils.rich_utils import CONSOLE

from common_ns.nerfstudio_seam import distributed
from common_ns.nerfstudio_seam.datamanager import CheckedInput, FieldDataManager, FieldDataManagerConfig
from depthnerf_ns.dataset import DepthDataset


@dataclass
class DepthCheckOption:
    """What datamanagers with depth ask besides."""

    depth_check: Literal["refuse", "warn", "off"] = "refuse"
    """Before training, compare the depth of the views with each other, as ns-depth-check does. refuse: do not train
    with depth whose unit or kind is evidently wrong; warn: say so and train; off: do not look."""


@dataclass
class DepthDataManagerConfig(DepthCheckOption, FieldDataManagerConfig):
    """The suite's datamanager for data with depth."""

    _target: type = field(default_factory=lambda: DepthDataManager)
    """target class to instantiate"""


class DepthDataManager(FieldDataManager):
    """Batches and evaluation images have `depth_image`, and `depth_sigma` and `normal_image` where the data set has
    them; see `DepthDataset`."""

    config: DepthDataManagerConfig
    dataset_class = DepthDataset

    def setup_train(self) -> None:
        """Check the depth, once, before the first batch of a training."""
        if self.test_mode == "val":
            check_depth_of(self)  # in all processes: they have to end together
        super().setup_train()


def check_depth_of(datamanager: CheckedInput) -> None:
    """Look at the depth of a training, and say what it is, as `depth_check` of the datamanager's config wants it.

    Raises: InputError if it is evidently wrong, and that is to be refused.
    """
    from depthnerf_ns.checks.depth_check import check_dataset, check_depth
    from depthnerf_ns.dataparser import RgbdDataParserConfig, contract_in_words

    config, outputs = datamanager.config, datamanager.train_dataparser_outputs
    if config.depth_check == "off":
        return
    stated = isinstance(config.dataparser, RgbdDataParserConfig)
    report = check_dataset(config.dataparser) if stated else check_depth(outputs)
    if config.depth_check == "refuse":
        report.raise_if_wrong()
    if distributed.rank() == 0:
        if stated:
            CONSOLE.print(contract_in_words(outputs.metadata))
        CONSOLE.print(report.summary())
