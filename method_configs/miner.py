"""MINER methods: `miner-image`, `miner-image-paper`, `miner-occupancy`."""

from __future__ import annotations

from dataclasses import replace

from nerfstudio.plugins.types import MethodSpecification

from common_ns.nerfstudio_seam.trainer import SafeTrainerConfig
from miner_ns.datamanager import SignalDataManagerConfig
from miner_ns.dataparser import MinerImageDataParserConfig, MinerOccupancyDataParserConfig
from miner_ns.model import MinerModelConfig
from miner_ns.options import FitOptions
from miner_ns.pipeline import MinerPipelineConfig

_image = SafeTrainerConfig(
    method_name="miner-image",
    max_num_iterations=1000000,  # the fit ends by itself
    steps_per_save=1000,
    steps_per_eval_batch=10**9,
    steps_per_eval_image=10**9,
    steps_per_eval_all_images=10**9,
    pipeline=MinerPipelineConfig(
        datamanager=SignalDataManagerConfig(dataparser=MinerImageDataParserConfig()),
        model=MinerModelConfig(),
    ),
    optimizers={},
    vis="viewer",
)

miner_image = MethodSpecification(
    config=_image,
    description="MINER: an image of any size as thousands of tiny networks at several resolutions.",
)

miner_image_paper = MethodSpecification(
    config=replace(
        _image,
        method_name="miner-image-paper",
        pipeline=replace(
            _image.pipeline,
            model=MinerModelConfig(
                fit=FitOptions(
                    num_levels=6, num_layers=4, hidden_dim=9, num_frequencies=0, pyramid="laplacian", epochs=(200,)
                )
            ),
        ),
    ),
    description="MINER with the paper's settings: 6 levels, 4 layers of 9 units, positions only, Laplacian pyramid.",
)

miner_occupancy = MethodSpecification(
    config=replace(
        _image,
        method_name="miner-occupancy",
        pipeline=replace(
            _image.pipeline,
            datamanager=SignalDataManagerConfig(dataparser=MinerOccupancyDataParserConfig()),
            model=MinerModelConfig(
                fit=FitOptions(block_size=16, hidden_dim=16, num_layers=2, threshold=3e-4, loss="bce"),
                eval_num_rays_per_chunk=16384,
            ),
        ),
    ),
    description="MINER: the inside of a mesh, or a volume, as thousands of tiny networks at several resolutions.",
)
