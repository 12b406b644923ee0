"""The whole model against numbers that the authors' code (JAX) gave for a tiny configuration.

data/authors360.npz holds rays, parameters and what came out of them: normalized interval bounds and weights of three
rounds, colors and mean distances, without jitter, at the end of training (`1`), at a quarter of it (`0.25`), and there
with a near plane that comes in over half of the training (`near_0.25`). Near 0.2, far 10⁶, last interval opaque.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from nerfstudio.cameras.rays import RayBundle

from common_ns.rays.cones import PIXEL_TO_RADIUS
from common_ns.rays.random_numbers import KEY
from method_configs.mipnerf import mip_nerf_360
from mipnerf_ns.model360 import MipNerf360Model
from tests.mipnerf_ns.tiny360 import CAPTURE, NOISE, build, rounds_of

AUTHORS = {
    name: torch.from_numpy(value) for name, value in np.load(Path(__file__).parent / "data/authors360.npz").items()
}
SIZES = {
    "num_proposal_samples": (12, 12),
    "num_nerf_samples": 8,
    "num_frequencies": 5,
    "proposal_num_layers": 2,
    "proposal_hidden_dim": 8,
    "num_layers": 6,
    "hidden_dim": 16,
    "bottleneck_dim": 8,
    "color_hidden_dim": 8,
    "precision": "float32",
}


def model_of_the_authors(**options) -> MipNerf360Model:
    """A small `mip-nerf-360` with the authors' parameters."""
    paper = replace(mip_nerf_360.config.pipeline.model, **SIZES, **options)
    model = build(CAPTURE, **{name: value for name, value in vars(paper).items() if not name.startswith("_")})
    color = model.field.color_head
    layers = {"PropMLP_0": [*model.proposal.trunk.layers, model.proposal.density_head]}
    layers["NerfMLP_0"] = [*model.field.trunk.layers, model.field.density_head]
    layers["NerfMLP_0"] += [color.bottleneck, color.input, color.output]
    with torch.no_grad():
        for network, parts in layers.items():
            for index, layer in enumerate(parts):
                layer.weight.copy_(AUTHORS[f"weights/{network}/Dense_{index}/kernel"].T)
                layer.bias.copy_(AUTHORS[f"weights/{network}/Dense_{index}/bias"])
    for field in (model.proposal, model.field):
        # The same directions, in another order and up to their sign.
        alike = (AUTHORS["basis"] @ field.basis).abs()
        assert torch.allclose(alike.max(0).values, torch.ones(21), atol=1e-5) and len(alike.argmax(0).unique()) == 21
        field.basis = AUTHORS["basis"].T.contiguous()
    return model


def rays_of_the_authors() -> RayBundle:
    count = len(AUTHORS["origins"])
    return RayBundle(
        origins=AUTHORS["origins"],
        directions=AUTHORS["directions"],
        pixel_area=(AUTHORS["radius"] / PIXEL_TO_RADIUS) ** 2,
        camera_indices=torch.zeros(count, 1, dtype=torch.long),
        metadata={KEY: torch.full((count, NOISE), 0.5)},
    )


@pytest.mark.parametrize(
    ("case", "fraction", "options"),
    [("1", 1.0, {}), ("0.25", 0.25, {}), ("near_0.25", 0.25, {"near_anneal_rate": 0.5})],
)
def test_samples_weights_and_colors_are_the_authors(case, fraction, options):
    model = model_of_the_authors(**options).train()
    model.train_fraction = fraction
    rounds = rounds_of(model, rays_of_the_authors())
    for index, round_ in enumerate(rounds):
        assert (round_.bins - AUTHORS[f"{case}/sdist{index}"]).abs().max() < 2e-5, index
        assert (round_.weights[..., 0] - AUTHORS[f"{case}/weights{index}"]).abs().max() < 2e-5, index
    outputs = model(rays_of_the_authors())
    assert (outputs["rgb"] - AUTHORS[f"{case}/rgb"]).abs().max() < 2e-5
    assert torch.allclose(outputs["expected_depth"][:, 0], AUTHORS[f"{case}/distance_mean"], rtol=1e-3)
    assert torch.allclose(outputs["accumulation"], torch.ones(16, 1), atol=1e-5)
    # Not for want of anything to see.
    assert AUTHORS[f"{case}/rgb"].std(0).min() > 1e-3 and AUTHORS[f"{case}/weights2"].std(0).max() > 0.01


@pytest.mark.parametrize(
    "options", [{"dilation_drops_ends": False}, {"opaque_last_interval": "off"}, {"capture_far_plane": 1000.0}]
)
def test_each_of_the_authors_choices_is_needed_for_that(options):
    model = model_of_the_authors(**options).train()
    rounds = rounds_of(model, rays_of_the_authors())
    differences = [(round_.weights[..., 0] - AUTHORS[f"1/weights{i}"]).abs().max() for i, round_ in enumerate(rounds)]
    differences += [(round_.bins - AUTHORS[f"1/sdist{i}"]).abs().max() for i, round_ in enumerate(rounds)]
    assert max(differences) > 1e-4


def test_evaluation_is_the_end_of_training():
    """Without annealing, whatever the step."""
    model = model_of_the_authors(near_anneal_rate=0.5).eval()
    model.train_fraction = 0.1
    assert (model(rays_of_the_authors())["rgb"] - AUTHORS["1/rgb"]).abs().max() < 2e-5
