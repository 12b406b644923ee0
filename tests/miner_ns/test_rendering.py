"""What rays see: planes hit exactly, level of detail by pixel footprint, surfaces of volumes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from miner_ns.fitting import Fitting
from miner_ns.options import FitOptions
from miner_ns.rendering import VolumeMarcher, hit_plane
from miner_ns.signal import Signal

STEP = 2.0 / 64
TO_WORLD = torch.tensor([[0.0, STEP, -1.0], [-STEP, 0.0, 0.5], [0.0, 0.0, 0.0]])  # a 32 × 64 image


def test_rays_hit_the_sample_that_they_aim_at():
    samples = torch.tensor([[0.5, 0.5], [31.5, 63.5], [10.25, 40.0]])
    targets = torch.cat([samples, torch.ones(3, 1)], dim=-1) @ TO_WORLD.T
    origin = torch.tensor([0.3, -0.2, 2.0])
    directions = torch.nn.functional.normalize(targets - origin, dim=-1)
    hits = hit_plane(origin.expand(3, 3), directions, torch.full((3, 1), 1e-6), TO_WORLD, (32, 64))
    assert torch.allclose(hits.points, samples, atol=1e-4) and hits.inside.all()
    assert torch.allclose(hits.distance, (targets - origin).norm(dim=-1), atol=1e-5)


def test_rays_beside_behind_and_along_the_plane_miss():
    origins = torch.tensor([[0.0, 0.9, 2.0], [0.0, 0.0, -2.0], [0.0, 0.0, 1.0]])
    directions = torch.tensor([[0.0, 0.0, -1.0], [0.0, 0.0, -1.0], [1.0, 0.0, 0.0]])
    hits = hit_plane(origins, directions, torch.full((3, 1), 1e-6), TO_WORLD, (32, 64))
    assert not hits.inside.any() and (hits.distance == 0).all() and torch.isfinite(hits.level).all()


@pytest.mark.parametrize("distance", [0.5, 1.0, 2.0, 8.0])
def test_level_is_that_whose_samples_are_as_wide_as_the_pixel(distance):
    """Twice as far is one level coarser; nearer than one sample per pixel there is nothing finer."""
    pixel = STEP  # a pixel at distance 1 is as wide as a sample
    hits = hit_plane(
        torch.tensor([[0.0, 0.0, distance]]), torch.tensor([[0.0, 0.0, -1.0]]), torch.tensor([[pixel**2]]),
        TO_WORLD, (32, 64),
    )  # fmt: skip
    assert float(hits.level) == pytest.approx(max(0.0, math.log2(distance)), abs=1e-5)


@pytest.fixture(scope="module")
def ball() -> Fitting:
    axis = (torch.arange(24) + 0.5) / 12 - 1
    x, y, z = torch.meshgrid(axis, axis, axis, indexing="ij")
    inside = (x**2 + y**2 + z**2 < 0.6**2).numpy()
    options = FitOptions(
        num_levels=2, block_size=8, hidden_dim=12, num_layers=2, num_frequencies=3, epochs=(60, 60), loss="bce",
        threshold=1e-3, implementation="torch",
    )  # fmt: skip
    fitting = Fitting(Signal.from_occupancy(inside), options)
    while fitting.advance() is not None:
        pass
    return fitting


def test_rays_find_a_ball(ball):
    to_world = torch.cat([torch.eye(3) / 12, -torch.ones(3, 1)], dim=1)
    marcher = VolumeMarcher(ball.hierarchy, to_world)
    generator = torch.Generator().manual_seed(0)
    outward = torch.nn.functional.normalize(torch.randn(40, 3, generator=generator), dim=-1)
    hits = marcher(3.0 * outward, -outward, 0.0)
    assert hits.inside.all()
    assert (hits.distance - 2.4).abs().max() < 1.5 / 12  # of a voxel's width, 1/12
    assert ((hits.normals * outward).sum(-1) > 0.85).float().mean() > 0.9
    beside = marcher(3.0 * outward, torch.linalg.cross(outward, outward.roll(1, -1)), 0.0)
    assert not beside.inside.any()


def test_volume_is_known_at_any_place(ball):
    points = torch.from_numpy(np.random.default_rng(0).uniform(0, 24, (2000, 3)))
    truth = (points / 12 - 1).norm(dim=-1) < 0.6
    found = ball.hierarchy.query(points)[:, 0] > 0.5
    clear = ((points / 12 - 1).norm(dim=-1) - 0.6).abs() > 1 / 12
    assert (truth == found)[clear].float().mean() > 0.99
