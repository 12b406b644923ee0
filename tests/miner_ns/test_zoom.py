"""An image looked at from far, from near and at a slant: what a pixel shows is what it covers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from nerfstudio.cameras.cameras import Cameras, CameraType
from nerfstudio.data.scene_box import SceneBox

from common_ns.metrics import psnr
from miner_ns.fitting import Fitting
from miner_ns.hierarchy import Hierarchy
from miner_ns.model import MinerModelConfig
from miner_ns.options import FitOptions
from miner_ns.pyramid import Pyramid
from miner_ns.rendering import MAX_PARTS, VolumeSamples, _free_space, _march, hit_plane
from miner_ns.signal import Signal

SIDE = 128
DISTANCE = 2.0
"""Of the camera that the image, from −1 to 1, just fills."""


def pattern() -> np.ndarray:
    """Soft colors under fine stripes, slanted by 40°, which only the finest level resolves."""
    y, x = (np.mgrid[:SIDE, :SIDE] + 0.5) / SIDE
    stripes = 0.25 * np.cos(2.0 * np.pi * SIDE / 4.0 * (0.77 * x + 0.64 * y))
    soft = [0.5 + 0.2 * np.cos(4.0 * x + k) * np.cos(3.0 * y - 2.0 * k) for k in range(3)]
    return (np.stack(soft, axis=-1) + stripes[..., None]).astype(np.float32)


def to_world(side: int) -> torch.Tensor:
    step = 2.0 / side
    return torch.tensor([[0.0, step, -1.0], [-step, 0.0, 1.0], [0.0, 0.0, 0.0]], dtype=torch.float64)


@pytest.fixture(scope="module")
def model():
    options = FitOptions(
        num_levels=4, block_size=16, hidden_dim=16, num_frequencies=4, epochs=(50,), threshold=1e-5,
        batch_points=64, implementation="auto",
    )  # fmt: skip
    signal = Signal(pattern(), 2, (0.0, 1.0))
    fitting = Fitting(signal, options)
    while fitting.advance() is not None:
        pass
    box = SceneBox(aabb=torch.tensor([[-1.0, -1.0, -0.01], [1.0, 1.0, 0.01]]))
    model = MinerModelConfig(fit=options).setup(
        scene_box=box, num_train_data=1, metadata={"signal": signal, "grid_to_world": to_world(SIDE)}
    )
    model.set_extra_state(fitting.state())
    return model.eval()


def camera(zoom: float, size: int, target=(0.0, 0.0), tilt: float = 0.0) -> Cameras:
    """A camera that sees 1 / zoom of the image's width, tilted by an angle in radians about the image's x."""
    cos, sin = math.cos(tilt), math.sin(tilt)
    rotation = torch.tensor([[1.0, 0.0, 0.0], [0.0, cos, -sin], [0.0, sin, cos]])
    position = torch.tensor([*target, 0.0]) + rotation[:, 2] * DISTANCE / zoom
    focal = 0.5 * size * DISTANCE
    return Cameras(
        torch.cat([rotation, position[:, None]], dim=1)[None], focal, focal, size / 2, size / 2, size, size,
        camera_type=CameraType.PERSPECTIVE,
    )  # fmt: skip


def render(model, *args, **kwargs) -> dict[str, torch.Tensor]:
    with torch.no_grad():
        return model.get_outputs_for_camera(camera(*args, **kwargs))


def covered(values: torch.Tensor, zoom: float, size: int, target=(0.0, 0.0), tilt: float = 0.0, rays: int = 24):
    """What each pixel covers of samples drawn as squares, by many rays a pixel; white beside the image."""
    fine = camera(zoom, size, target, tilt)
    fine.rescale_output_resolution(float(rays))
    bundle = fine.generate_rays(camera_indices=0, keep_shape=True).flatten()
    distance = -bundle.origins[:, 2] / bundle.directions[:, 2]
    place = (bundle.origins + distance[:, None] * bundle.directions)[:, :2].double()
    cell = torch.stack([1.0 - place[:, 1], place[:, 0] + 1.0], dim=-1) * len(values) / 2.0
    inside = (distance > 0) & (cell >= 0).all(-1) & (cell < len(values)).all(-1)
    colors = torch.ones(len(cell), 3)
    index = cell[inside].long()
    colors[inside] = values[index[:, 0], index[:, 1]]
    return colors.reshape(size, rays, size, rays, 3).mean(dim=(1, 3))


@pytest.mark.parametrize(("size", "zoom"), [(16, 1.0), (20, 0.9), (32, 0.5), (32, 0.125)])
def test_far_away_pixels_show_the_mean_of_what_they_cover(model, size, zoom):
    """The image covers from 16² to 4² pixels; the last are wider than the coarsest level's samples."""
    expected = covered(torch.from_numpy(pattern()), zoom, size)
    seen = render(model, zoom, size)["rgb"]
    model.detail_level.default_value = "0"
    try:
        pointwise = render(model, zoom, size)["rgb"]
    finally:
        model.detail_level.default_value = "auto"
    assert psnr(seen, expected) > 27
    assert psnr(seen, expected) > psnr(pointwise, expected) + 9


def test_the_share_of_a_pixel_that_is_covered_has_no_steps(model):
    """A small image that moves by fractions of a pixel covers the same area all the time."""
    areas = [float(render(model, 0.2, 25, (x, 0.3 * x))["accumulation"].sum()) for x in np.linspace(0, 0.4, 9)]
    assert np.allclose(areas, 25.0, rtol=0.04)


@pytest.mark.parametrize("zoom", [16.0, 100.0])
def test_near_by_the_image_is_continuous(model, zoom):
    """Of two lines across borders of blocks, one with twice as many pixels, that has half the steps."""
    hierarchy = model.fit.show()
    jumps = []
    for count in (2**15, 2**16):
        along = torch.linspace(0.3, 0.3 + SIDE / zoom, count, dtype=torch.float64)
        points = torch.stack([0.61 * along + 20, along + 30], dim=-1)
        values = hierarchy.query(points)
        assert torch.isfinite(values).all()
        jumps.append(float(values.diff(dim=0).abs().max()))
    assert jumps[1] < 0.7 * jumps[0]


def test_near_by_pixels_agree_with_the_samples(model):
    """At 16 pixels a sample, those at the centers of samples show them; none goes far beyond its neighbors."""
    # Sample (63, 64) is in the middle of the picture.
    seen = render(model, 16.0, 128, (1.0 / SIDE, 1.0 / SIDE))["rgb"]
    centers = 0.25 * sum(seen[16 + i : 113 : 16, 16 + j : 113 : 16] for i in (-1, 0) for j in (-1, 0))
    values = model.fit.show().reconstruct(0)
    assert torch.allclose(centers, values[60:67, 61:68], atol=0.02)
    around = values[58:69, 59:70]
    assert seen.min() > around.min() - 0.1 and seen.max() < around.max() + 0.1


@pytest.mark.parametrize("degrees", [60.0, 75.0, 85.0])
def test_at_a_slant_pixels_show_the_mean_of_what_they_cover(model, degrees, monkeypatch):
    """Better than by a level of detail alone: the ellipse that a pixel covers is split along its longer axis."""
    view = {"zoom": 2.0, "size": 48, "tilt": math.radians(degrees)}
    expected = covered(model.fit.show().reconstruct(0), **view)
    seen = render(model, **view)["rgb"]

    def whole(*args):
        hits = hit_plane(*args)
        width = hits.points.new_tensor(0.5 * SIDE) * args[2][:, 0].sqrt() * hits.distance
        level = 0.5 * torch.log2((width * hits.along.norm(dim=-1)).clamp_min(1.0))
        return hits._replace(parts=torch.ones_like(hits.parts), level=level)

    monkeypatch.setattr("miner_ns.model.hit_plane", whole)
    assert psnr(seen, expected) > 24
    assert psnr(seen, expected) > psnr(render(model, **view)["rgb"], expected) + 1.0


@pytest.mark.parametrize("degrees", [85.0, 89.0, 89.99, 90.0])
def test_towards_the_horizon_nothing_breaks(model, degrees):
    view = {"zoom": 4.0, "size": 64, "tilt": math.radians(degrees)}
    outputs = render(model, **view)
    assert all(torch.isfinite(value).all() for value in outputs.values())
    assert outputs["rgb"].min() >= 0 and outputs["rgb"].max() <= 1
    if degrees < 89.5:  # else the image is a line
        assert psnr(outputs["rgb"], covered(model.fit.show().reconstruct(0), **view)) > 25


@pytest.mark.parametrize("tilt", [0.0, 1.4, 1.57])
@pytest.mark.parametrize("zoom", [0.02, 1.0, 200.0])
def test_frames_of_blocks_are_as_wide_as_pixels_at_any_distance(model, zoom, tilt):
    if zoom == 1.0:
        model.detail_level.default_value = "1"
    try:
        plain = render(model, zoom, 64, (0.01, 0.01), tilt)["rgb"]
        model.show_blocks.default_value = True
        framed = render(model, zoom, 64, (0.01, 0.01), tilt)["rgb"]
    finally:
        model.show_blocks.default_value, model.detail_level.default_value = False, "auto"
    changed = float(((plain - framed).abs() > 1e-3).any(dim=-1).float().mean())
    if zoom == 1.0 and tilt == 0.0:  # blocks of 16 samples, which are pixels: two pixels of 16, both ways
        assert changed == pytest.approx(1 - (14 / 16) ** 2, abs=0.03)
    if zoom == 200.0 and tilt == 0.0:  # a part of a sample, inside of a block
        assert changed == 0.0


@pytest.mark.parametrize("tilt", [0.0, 0.7, 1.3, 1.5])
def test_a_pixel_at_a_slant_is_split_into_parts_about_as_long_as_wide(tilt):
    bundle = camera(0.3, 16, tilt=tilt).generate_rays(camera_indices=0, keep_shape=True).flatten()
    world = to_world(SIDE).float()
    hits = hit_plane(bundle.origins, bundle.directions, bundle.pixel_area, world, (SIDE, SIDE))
    shown = hits.coverage > 0
    long, width = hits.along[shown].norm(dim=-1) / hits.parts[shown], 2.0 ** hits.level[shown]
    assert shown.any() and hits.parts.max() <= MAX_PARTS
    assert (width < 1.3 * long).all()
    if tilt < 1.4:  # else some are too long
        assert (long < 1.3 * width).all()
    if tilt == 0.0:
        assert (hits.parts == 1).all()


def test_beyond_the_coarsest_level_are_means_of_the_signal():
    """At sizes that are no multiples of anything, too."""
    image = np.random.default_rng(0).random((13, 10, 2)).astype(np.float32)
    pyramid = Pyramid(Signal(image, 2, (0.0, 1.0)), 5, 4)
    hierarchy = Hierarchy((13, 10), 2, num_levels=2, block_size=4, num_frequencies=2)
    hierarchy._grids_of_values[1] = torch.from_numpy(pyramid.read(1, (0, 0), (7, 5)))
    for level in (2, 3, 4):
        shape = pyramid.grids[level].shape
        expected = torch.from_numpy(pyramid.read(level, (0, 0), shape))
        assert torch.allclose(hierarchy._values(level), expected, atol=1e-3)
    assert torch.allclose(hierarchy._values(4)[0, 0], torch.from_numpy(image.mean(axis=(0, 1))), atol=1e-3)


@pytest.mark.parametrize("shape", [(13,), (13, 10), (9, 7, 8)])
def test_weights_of_the_blocks_near_a_point_sum_to_one(shape):
    hierarchy = Hierarchy(shape, 1, num_levels=3, block_size=2, num_frequencies=2)
    points = torch.rand(300, len(shape), generator=torch.Generator().manual_seed(0)) * torch.tensor(shape)
    for level in range(3):
        which, position, weight = hierarchy._blocks_near(points, level)
        assert torch.allclose(torch.zeros(300).index_add_(0, which, weight), torch.ones(300))
        assert (position >= 0).all() and (position < torch.tensor(hierarchy.grids[level].blocks)).all()
        assert len(which) > 300 or hierarchy.grids[level].num_blocks == 1


def test_marching_past_free_space_hits_what_single_steps_hit():
    generator = torch.Generator().manual_seed(1)
    values = (torch.rand(12, 10, 9, generator=generator) > 0.97).float()
    samples = VolumeSamples.__new__(VolumeSamples)
    samples.step, samples.values = 2.0, values
    samples.free = _free_space(values)
    size = 2.0 * torch.tensor(values.shape)
    start = torch.rand(500, 3, generator=generator) * size
    along = torch.nn.functional.normalize(torch.randn(500, 3, generator=generator), dim=-1)
    near, far = torch.zeros(500), torch.full((500,), 40.0)
    edges = torch.where(along > 0, size - start, -start) / along
    far = torch.minimum(far, edges.amin(-1))
    stride = torch.full((500,), 0.35)
    fast = _march(samples, start, along, near, far, stride)
    samples.free = torch.zeros_like(values)  # nowhere known to be free: every step is taken
    slow = _march(samples, start, along, near, far, stride)
    assert (slow >= 0).any() and (slow < 0).any()
    assert torch.allclose(fast, slow, atol=1e-4)
