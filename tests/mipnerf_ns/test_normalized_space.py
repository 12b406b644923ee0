"""Normalized device coordinates in models: which cameras they suit, and what fields and rays make of them."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from nerfstudio.cameras.cameras import Cameras, CameraType
from nerfstudio.cameras.rays import RayBundle
from nerfstudio.data.scene_box import SceneBox
from torch import Tensor

from common_ns.data.scene_bounds import RayBounds
from common_ns.errors import InputError
from common_ns.hash_grid import HashGridOptions
from common_ns.rays.random_numbers import KEY
from depthnerf_ns.mipnerf_model import DepthMipNerfModelConfig
from mipnerf_ns.base_model import ProposalModel, ProposalModelConfig
from mipnerf_ns.model360 import MipNerf360ModelConfig
from mipnerf_ns.normalized_space import MAX_REACH, NEAR_MARGIN, NormalizedSpace, normalized_space
from mipnerf_ns.zip_model import ZipNerfModelConfig
from tests.mipnerf_ns.tiny360 import CAPTURE, OBJECT, rounds_of

GRID = HashGridOptions(num_levels=3, features_per_level=1, log2_table_size=8, max_resolution=32)
ROUNDS = {"num_proposal_samples": (12, 10), "num_nerf_samples": 8, "bottleneck_dim": 8, "color_hidden_dim": 8}
MIP = MipNerf360ModelConfig(
    **ROUNDS, num_layers=2, hidden_dim=16, num_frequencies=4, proposal_num_layers=1, proposal_hidden_dim=8
)
ZIP = ZipNerfModelConfig(**ROUNDS, grid=replace(GRID, features_per_level=2), proposal_grids=(GRID, GRID), hidden_dim=16)
MODELS = [MIP, replace(MIP, encoding="plain"), ZIP, replace(ZIP, num_multisamples=1)]
NAMES = ["mip-nerf-360", "minus", "zip-nerf", "one point"]


def cameras(
    tilt: float = 0.0, kind: CameraType = CameraType.PERSPECTIVE, focals: tuple[float, ...] = (30.0,)
) -> Cameras:
    """Nine cameras on a square of side 0.8 at (1, 2, 3) that look along −z but for `tilt` degrees, outward."""
    places = [(x, y) for x in (-0.4, 0.0, 0.4) for y in (-0.4, 0.0, 0.4)]
    poses = []
    for x, y in places:
        angle = math.radians(tilt) * (x > 0) - math.radians(tilt) * (x < 0)
        c, s = math.cos(angle), math.sin(angle)
        poses.append([[c, 0.0, -s, 1.0 + x], [0.0, 1.0, 0.0, 2.0 + y], [s, 0.0, c, 3.0]])
    focal = torch.tensor(focals).repeat(9)[:9]
    kinds = torch.full((9,), kind.value)
    return Cameras(torch.tensor(poses), focal, focal, 20.0, 15.0, 40, 30, camera_type=kinds)


def build(
    config: ProposalModelConfig, seen: Cameras | None = None, bounds: RayBounds = CAPTURE, **options
) -> ProposalModel:
    torch.manual_seed(0)
    metadata = {"ray_bounds": bounds, "cameras": cameras() if seen is None else seen}
    box = SceneBox(aabb=torch.tensor([[-1.5] * 3, [1.5] * 3]))
    config = replace(config, **{"forward_facing": True, "near_plane": 1.2, **options})
    model = config.setup(scene_box=box, num_train_data=9, metadata=metadata)
    for name, parameter in model.named_parameters():
        if name.endswith("table"):
            torch.nn.init.normal_(parameter)  # as if trained: features at the start are all but 0
    return model


def image_rays(seen: Cameras | None = None) -> RayBundle:
    """Rays of all pixels' eighth row and column, of all cameras."""
    seen = cameras() if seen is None else seen
    index = torch.arange(len(seen)).repeat_interleave(20)[:, None]
    y, x = torch.meshgrid(torch.linspace(0.0, 30.0, 4), torch.linspace(0.0, 40.0, 5), indexing="ij")
    coords = torch.stack([y, x], dim=-1).reshape(-1, 2).repeat(len(seen), 1)
    return seen.generate_rays(camera_indices=index, coords=coords)


def sfm_points(nearest: float = 2.0) -> Tensor:
    """Points before the cameras from `nearest` on, behind them, and far to the side."""
    generator = torch.Generator().manual_seed(0)
    depth = nearest + 5.0 * torch.rand(2000, 1, generator=generator)
    across = 0.5 * (torch.rand(2000, 2, generator=generator) - 0.5)
    ahead = torch.cat([across * depth, -depth], dim=-1)
    behind, aside = ahead * torch.tensor([1.0, 1.0, -0.1]), ahead * torch.tensor([100.0, 1.0, 0.1])
    return torch.cat([ahead, behind[:500], aside[:500]]) + torch.tensor([1.0, 2.0, 3.0])


@pytest.mark.parametrize("tilt", [0.0, 20.0])
@pytest.mark.parametrize("focals", [(30.0,), (30.0, 45.0, 60.0)])
def test_all_that_training_cameras_see_is_in_the_cube_and_fills_it(tilt, focals):
    seen = cameras(tilt, focals=focals)
    space = normalized_space(seen, None, 1.2, 0.2).space
    bundle = image_rays(seen)
    mapped = torch.stack([space(bundle.origins + t * bundle.directions) for t in torch.logspace(0.2, 6.0, 30)])
    assert mapped.abs().max() <= 1.0
    assert mapped.abs().amax((0, 1))[:2].min() > 0.9 and mapped[..., 2].max() > 0.999


def test_the_reference_camera_is_in_the_middle_of_the_training_cameras():
    pose = normalized_space(cameras(15.0), None, 1.2, 0.2).space.pose
    torch.testing.assert_close(pose, torch.cat([torch.eye(3), torch.tensor([[1.0], [2.0], [3.0]])], dim=1))


def test_the_near_plane_is_half_as_deep_as_the_nearest_points_in_view():
    choice = normalized_space(cameras(), sfm_points(2.0), None, 0.2)
    assert float(choice.space.factors[2]) == pytest.approx(2.0 * NEAR_MARGIN, rel=0.05)
    assert "known points" in choice.summary
    for points, near, expected in ((sfm_points(), 0.7, 0.7), (None, None, 0.2), (sfm_points()[:3], None, 0.2)):
        assert float(normalized_space(cameras(), points, near, 0.2).space.factors[2]) == pytest.approx(expected)


def test_a_near_plane_at_the_camera_leaves_the_scene_its_resolution():
    view = torch.tensor([60.0 / 40.0, 60.0 / 30.0])
    factors = normalized_space(cameras(), None, 1e-3, 0.2).space.factors
    torch.testing.assert_close(factors[:2], view / MAX_REACH)


@pytest.mark.parametrize(
    ("seen", "bounds", "options", "message"),
    [
        (cameras(70.0), CAPTURE, {}, "do not face one way"),
        (cameras(58.0), CAPTURE, {}, "pixels look up to"),
        (cameras(180.0), CAPTURE, {}, "do not face one way"),
        (cameras(kind=CameraType.EQUIRECTANGULAR), CAPTURE, {}, "some are equirectangular"),
        (cameras(), OBJECT, {"near_plane": None}, "this is an object"),
        (cameras(), CAPTURE, {"contraction": "on"}, "contraction, which is on"),
        (cameras(), CAPTURE, {"sampling": "power"}, "not with sampling power"),
        (cameras(), CAPTURE, {"near_plane": 0.0}, "no near plane at 0"),
    ],
)
def test_what_normalized_device_coordinates_do_not_suit_is_refused_in_one_line(seen, bounds, options, message):
    with pytest.raises(InputError, match=message) as caught:
        build(ZIP, seen, bounds, **options)
    assert "\n" not in str(caught.value)


def test_cameras_before_the_scene_box_are_no_object_if_they_are_said_to_face_one_way():
    assumed = replace(OBJECT, assumed=True)
    assert not build(ZIP, bounds=assumed).ray_bounds.bounded
    assert build(ZIP, bounds=assumed, forward_facing=False).ray_bounds.bounded


def test_other_datamanagers_and_methods_with_depth_are_refused():
    box = SceneBox(aabb=torch.tensor([[-1.5] * 3, [1.5] * 3]))
    for config, message in ((ZIP, "names none"), (DepthMipNerfModelConfig(), "with depth")):
        config = replace(config, forward_facing=True)
        with pytest.raises(InputError, match=message):
            config.setup(scene_box=box, num_train_data=9, metadata={"ray_bounds": CAPTURE})


@pytest.mark.parametrize("config", MODELS, ids=NAMES)
def test_rays_begin_at_the_near_plane_and_are_even_in_the_cube(config):
    model = build(config, anneal_slope=0.0).eval()
    bundle = image_rays()
    first = rounds_of(model, bundle)[0]
    depth = 3.0 - (bundle.origins[:, None] + first.distances[..., None] * bundle.directions[:, None])[..., 2]
    assert (depth[:, 0] - 1.2).abs().max() < 1e-4
    steps = (1.0 / depth).diff(dim=-1)
    assert torch.allclose(steps, steps[:, :1].expand_as(steps), rtol=0.01)
    outputs = model(bundle)
    assert all(torch.isfinite(value).all() for value in outputs.values())
    assert outputs["depth"].min() >= 1.2  # ray distance, in scene units


@pytest.mark.parametrize("config", MODELS, ids=NAMES)
def test_the_viewers_near_plane_is_a_ray_distance(config):
    model = build(config).eval()
    model.shown_near.value = 4.0
    starts = rounds_of(model, image_rays())[0].distances[:, 0]
    assert torch.allclose(starts, torch.full_like(starts, 4.0), rtol=1e-4)


@pytest.mark.parametrize("config", MODELS, ids=NAMES)
def test_the_size_of_a_scene_does_not_matter(config):
    """Twice as large, what a network says of it is half as dense, and rays see the same."""
    seen, larger = cameras(), cameras()
    larger.camera_to_worlds = torch.cat([seen.camera_to_worlds[..., :3], 2.0 * seen.camera_to_worlds[..., 3:]], dim=-1)
    options = {"far_plane": 500.0, "opaque_last_interval": "on"}
    first = build(config, seen, **options).eval()
    second = build(config, larger, near_plane=2.4, **{**options, "far_plane": 1000.0}).eval()
    weights = {name: value for name, value in first.state_dict().items() if "space" not in name}
    second.load_state_dict({**second.state_dict(), **weights})
    ours, theirs = first(image_rays(seen)), second(image_rays(larger))
    torch.testing.assert_close(theirs["rgb"], ours["rgb"], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(theirs["expected_depth"], 2.0 * ours["expected_depth"], rtol=1e-2, atol=0)


@pytest.mark.parametrize("config", MODELS, ids=NAMES)
def test_points_anywhere_can_be_asked(config):
    """As ns-mesh, the exporters and rays that look backward do; gradients too."""
    model = build(config).eval()
    points = torch.cat([torch.tensor([[1.0, 2.0, 3.0], [0.0, 0.0, 1e6], [1e6, 0.0, -1e3]]), 10.0 * torch.randn(50, 3)])
    points.requires_grad_(True)
    field = model.iso_field(voxel_size=0.05)
    density = field.value(points)
    (gradient,) = torch.autograd.grad(density.sum(), points)
    assert torch.isfinite(density).all() and density.min() >= 0 and torch.isfinite(gradient).all()
    assert field.color is not None
    assert torch.isfinite(field.color(points, F.normalize(torch.randn(53, 3), dim=-1))).all()
    backward = image_rays()
    backward.directions = -backward.directions
    assert all(torch.isfinite(value).all() for value in model(backward).values())


@pytest.mark.parametrize("config", MODELS, ids=NAMES)
@pytest.mark.parametrize("place", ["origins", "directions"])
def test_a_ray_without_a_place_has_no_color(config, place):
    bundle = image_rays()
    getattr(bundle, place)[3, 0] = torch.nan
    model = build(config)
    bundle.metadata[KEY] = torch.rand(len(bundle), model.randomness.width)
    assert model.train()(bundle)["rgb"].isnan().any(-1).nonzero().flatten().tolist() == [3]


def test_no_rays_are_no_pixels():
    for config in MODELS:
        model, bundle = build(config).eval(), image_rays()
        expected, found = model(bundle), model(bundle[:0])
        assert {name: value.shape for name, value in found.items()} == {
            name: (0, *value.shape[1:]) for name, value in expected.items()
        }


def test_isotropic_gaussians_take_the_place_of_contracted_ones():
    """The grid is asked at the mapped points, with their extent in units of its side."""
    model = build(ZIP)
    asked = []
    model.field.grid.gaussian_features_and_weights = lambda *given: (asked.append(given), (torch.zeros(5, 6),) * 2)[1]
    points, std = (
        torch.tensor([1.0, 2.0, 3.0]) - torch.tensor([0.0, 0.1, 2.0]) * torch.rand(5, 1, 1) - 1e-3,
        torch.rand(5, 1),
    )
    with pytest.raises(RuntimeError):  # weights of three levels are six here; what was asked is there all the same
        model.field.encode(*model.field.in_grid(points, std))
    assert model.space is not None
    mean, extent = model.space.isotropic(points, std[..., None])
    torch.testing.assert_close(asked[0][0], 0.5 * mean + 0.5)
    torch.testing.assert_close(asked[0][1], 0.5 * extent[..., 0])


@pytest.mark.parametrize("config", MODELS, ids=NAMES)
def test_a_checkpoint_brings_its_cameras(config):
    """Data whose cameras or points have changed since do not move a trained scene."""
    trained, other = build(config).eval(), build(config, cameras(10.0), near_plane=0.8).eval()
    bundle = image_rays()
    expected = trained(bundle)
    assert not torch.allclose(other(bundle)["rgb"], expected["rgb"], atol=1e-4)
    other.load_state_dict(trained.state_dict())
    for name, value in other(bundle).items():
        assert torch.equal(value, expected[name]), name


def test_without_the_option_checkpoints_are_as_they_were():
    model = build(MIP, forward_facing=False)
    assert model.space is None and not [name for name in model.state_dict() if "space" in name or "pose" in name]


def test_the_space_moves_with_its_model():
    space = build(ZIP).field.space
    assert isinstance(space, NormalizedSpace) and {name for name, _ in space.named_buffers()} == {"pose", "factors"}
