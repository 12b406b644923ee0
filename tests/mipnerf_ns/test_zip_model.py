"""Zip-NeRF: what its model adds to the proposals of mip-NeRF 360."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.data.scene_box import SceneBox
from torch import Tensor

from common_ns.data.scene_bounds import RayBounds
from common_ns.errors import InputError
from common_ns.hash_grid import HashGridOptions
from common_ns.hash_grid.decay import level_mean_squares
from common_ns.rays.cones import pixel_radius
from common_ns.rays.power_ladder import power_ladder
from common_ns.rays.random_numbers import KEY
from mipnerf_ns import multisampling
from mipnerf_ns.base_model import PROPOSAL_LOSSES
from mipnerf_ns.blurred_steps import blurred_interlevel_loss
from mipnerf_ns.networks import ColorHead
from mipnerf_ns.zip_model import DISTORTION_LADDER, WIDE, ZipNerfModel, ZipNerfModelConfig
from tests.mipnerf_ns.test_model360 import assert_no_rays_have_the_outputs_of_some
from tests.mipnerf_ns.tiny360 import CAPTURE, NUM_IMAGES, OBJECT, rays, rounds_of


def build(bounds: RayBounds = CAPTURE, **options) -> ZipNerfModel:
    torch.manual_seed(0)
    small = HashGridOptions(num_levels=3, features_per_level=1, log2_table_size=8, max_resolution=64)
    sizes = {"grid": replace(small, features_per_level=2), "proposal_grids": (small, small)}
    sizes |= {"num_proposal_samples": (12, 10), "num_nerf_samples": 8, "hidden_dim": 16, "proposal_hidden_dim": 8}
    sizes |= {"bottleneck_dim": 8, "color_hidden_dim": 8, "num_color_layers": 1}
    config = ZipNerfModelConfig(**{**sizes, **options})
    box = SceneBox(aabb=torch.tensor([[-1.5] * 3, [1.5] * 3]))
    model = config.setup(scene_box=box, num_train_data=NUM_IMAGES, metadata={"ray_bounds": bounds})
    with torch.no_grad():
        for table in model.tables:
            table.normal_()  # as if trained: features at the start are all but 0
    return model


def training_rays(model: ZipNerfModel, count: int = 20, seed: int = 0):
    """Rays that bring their random numbers, as the pipeline sends them."""
    noise = torch.rand(count, model.randomness.width, generator=torch.Generator().manual_seed(seed))
    return rays(count, metadata={KEY: noise})


def losses_of(model: ZipNerfModel, bundle) -> dict[str, Tensor]:
    return model.get_loss_dict(model(bundle), {"image": torch.full((len(bundle), 3), 0.3)})


def gradient(model: ZipNerfModel, *bundles) -> Tensor:
    model.zero_grad()
    total = sum(len(bundle) for bundle in bundles)
    for bundle in bundles:
        (sum(losses_of(model, bundle).values()) * len(bundle) / total).backward()
    return torch.cat([parameter.grad.flatten() for parameter in model.parameters() if parameter.grad is not None])


@pytest.mark.parametrize("points", [(1, None), (3, None), (6, None), (3, 1), (1, 3)])
def test_a_step_does_not_depend_on_how_its_rays_are_divided(points):
    model = build(num_multisamples=points[0], num_proposal_multisamples=points[1]).train()
    bundle = training_rays(model)
    whole = gradient(model, bundle)
    assert whole.norm() > 0
    torch.testing.assert_close(gradient(model, bundle[:7], bundle[7:]), whole, rtol=1e-3, atol=1e-6)


def test_points_are_turned_by_the_rays_numbers_in_training_only():
    model = build().train()
    jitter = len(model.sampler.counts)
    same_jitter = training_rays(model)
    turned = training_rays(model)
    turned.metadata[KEY] = turned.metadata[KEY].clone()
    turned.metadata[KEY][:, jitter : jitter + 2 * model.points_per_ray] = 0.9
    wide = {"area": 1e-2}
    first, second = (model(rays(20, metadata=bundle.metadata, **wide))["rgb"] for bundle in (same_jitter, turned))
    assert (first - second).abs().max() > 1e-4
    model.eval()
    torch.testing.assert_close(model(rays())["rgb"], model(rays())["rgb"], rtol=0, atol=0)


def test_one_point_draws_no_turns():
    six = build(num_multisamples=6)
    assert build(num_multisamples=1).randomness.width + 2 * 30 == six.randomness.width
    last = six.sampler.counts[-1]
    assert build(num_proposal_multisamples=1).randomness.width + 2 * (30 - last) == six.randomness.width


def test_each_field_reads_its_number_of_points():
    model = build(num_multisamples=3, num_proposal_multisamples=1)
    assert [field.num_multisamples for field in model.round_fields] == [1, 1, 3]


def test_proposals_follow_the_blurred_weights_of_the_last_round():
    model = build(blur_radii=(0.03, 0.003)).train()
    *proposals, last = rounds_of(model, training_rays(model))
    found = model._regularizers([*proposals, last])
    for index, (proposal, radius) in enumerate(zip(proposals, (0.03, 0.003))):
        expected = blurred_interlevel_loss(
            last.bins, last.weights[..., 0], proposal.bins, proposal.weights[..., 0], radius
        )
        torch.testing.assert_close(found.interlevel[:, index], expected)


def test_interlevel_gradients_reach_the_proposals_only():
    model = build().train()
    model(training_rays(model))[PROPOSAL_LOSSES].interlevel.sum().backward()
    assert all(proposal.grid.table.grad.abs().max() > 0 for proposal in model.proposal)
    assert all(parameter.grad is None or not parameter.grad.any() for parameter in model.field.parameters())


def test_distortion_is_measured_on_the_curve_of_distances():
    """Against the definition, pair by pair."""
    model = build().train()
    last = rounds_of(model, training_rays(model))[-1]
    edges = power_ladder(last.distances, *DISTORTION_LADDER)
    middle, weights = 0.5 * (edges[:, 1:] + edges[:, :-1]), last.weights[..., 0]
    apart = (middle[:, :, None] - middle[:, None]).abs()
    expected = (weights[:, :, None] * weights[:, None] * apart).sum((1, 2))
    expected = expected + (weights.square() * edges.diff(dim=-1)).sum(-1) / 3
    found = model._regularizers([last])
    torch.testing.assert_close(found.distortion[:, 0], expected, rtol=1e-3, atol=1e-4)


def test_tables_decay_by_their_levels_means():
    model = build(table_decay_mult=0.25).train()
    expected = sum(
        level_mean_squares(each.grid.table, each.grid.shape).sum() for each in (*model.proposal, model.field)
    )
    losses = losses_of(model, training_rays(model))
    torch.testing.assert_close(losses["table_decay"], 0.25 * expected)
    assert "table_decay" not in losses_of(build(table_decay_mult=0.0).train(), training_rays(model))


def test_networks_are_told_how_far_levels_are_faded():
    """One more feature a level, and through it the width of a cone changes what a faded level cannot."""
    plain, told = build(tell_fading=False), build(tell_fading=True)
    assert told.field.trunk[0].in_features == plain.field.trunk[0].in_features + 3

    def features(model: ZipNerfModel, extent: float) -> Tensor:
        return model.field.encode(*model.field.in_grid(torch.zeros(1, 1, 3), torch.full((1, 1), extent)))

    assert features(plain, 1e4).abs().max() < 1e-4 < features(plain, 0.0).abs().max()
    assert features(told, 1e-6)[..., -3:].min() > 0.5  # about the root mean square of the features, of variance 1
    assert features(told, 100.0)[..., -3:].max() < -0.5


def test_thin_cones_short_intervals_need_one_point_only():
    one, six = build(num_multisamples=1).eval(), build(num_multisamples=6).eval()
    samples = rounds_of(one, rays(area=1e-14))[0].samples
    frustums = samples.frustums
    frustums.ends = frustums.starts + 1e-4
    expected = one.field.get_density(samples)[0]
    torch.testing.assert_close(six.field.get_density(samples)[0], expected, rtol=0.05, atol=1e-3)


def test_each_parameter_is_trained_once_and_tables_apart():
    model = build(appearance_dim=4)
    groups = model.get_param_groups()
    grouped = [id(parameter) for group in groups.values() for parameter in group]
    assert sorted(grouped) == sorted(id(p) for p in model.parameters() if p is not model.device_indicator_param)
    assert [table.shape[1] for table in groups["grids"]] == [1, 1, 2]
    networks = [id(parameter) for network in model.networks() for parameter in network]
    assert sorted(networks) == sorted(grouped) and len(model.networks()) == 4


@pytest.mark.parametrize(("bounds", "spacing", "near"), [(CAPTURE, "power", 0.0), (OBJECT, "uniform", 2.0)])
def test_captures_are_sampled_on_the_power_ladder_from_the_camera(bounds, spacing, near):
    model = build(bounds).eval()
    assert model.sampler.spacing == spacing and model.ray_bounds.near == near
    outputs = model(rays())
    assert all(torch.isfinite(value).all() for value in outputs.values())


def test_an_objects_grid_covers_all_samples_of_its_rays():
    model = build(OBJECT)
    assert not model.field.contracted
    assert model.field.position_scale * OBJECT.extent == 1.0  # the grid's cube reaches from −1 to 1


@pytest.mark.parametrize(
    ("options", "named"),
    [({"num_proposal_samples": (8,)}, "num-proposal-samples"), ({"blur_radii": (0.1,)}, "blur-radii")],
)
def test_rounds_without_a_grid_or_a_blur_are_refused(options, named):
    with pytest.raises(InputError, match=named):
        build(**options)


def test_samples_are_drawn_from_proposals_as_they_are():
    """Where a proposal has no weight, the next round has no sample."""
    model = build(num_proposal_samples=(8, 8)).eval()
    bundle = rays(1)
    first, second, _ = rounds_of(model, bundle)
    edges = first.bins[0]
    density = torch.full((8,), -30.0)
    density[5] = 30.0
    model.proposal[0].get_density = lambda samples: (density.exp().expand(1, 8)[..., None], None)
    _, second, _ = rounds_of(model, bundle)
    assert second.bins[0, 1:-1].min() >= edges[5] and second.bins[0, 1:-1].max() <= edges[6] + 1e-6


def test_without_blur_proposals_enclose_the_weights_as_in_mip_nerf_360():
    blurred, plain = build().train(), build(blur_radii=()).train()
    bundle = training_rays(blurred)
    first, second = (model(bundle)[PROPOSAL_LOSSES].interlevel for model in (blurred, plain))
    assert first.shape == second.shape == (20, 2) and not torch.allclose(first, second)


def test_codes_start_with_the_length_asked_for():
    for options, std in (({}, ZipNerfModelConfig().appearance_std), ({"appearance_std": 0.3}, 0.3)):
        codes = build(appearance_dim=64, **options).field.appearance
        assert codes is not None and float(codes.weight.std()) == pytest.approx(std or 0.125, rel=0.2)


def test_the_color_heads_output_sees_its_input_again():
    """As one layer on both, with and without a direction for each sample."""
    torch.manual_seed(0)
    head = ColorHead(5, 4, 3, 1, 6, rgb_padding=0.0, skip=True)
    hidden, condition = torch.randn(7, 2, 5), torch.randn(7, 1, 3)
    with torch.no_grad():
        passed = torch.cat([head.bottleneck(hidden), condition.expand(7, 2, 3)], dim=-1)
        inner = torch.relu(passed @ head.input.weight.T + head.input.bias)
        weight = torch.cat([head.output.weight, head.skip.weight], dim=-1)
        raw = torch.cat([inner, passed], dim=-1) @ weight.T + head.output.bias + head.skip.bias
        torch.testing.assert_close(head(hidden, condition), torch.sigmoid(raw))
    assert build().field.color_head.skip is not None and build(color_skip=False).field.color_head.skip is None


def test_wide_pixels_are_read_at_more_points_each_by_its_own_width():
    """Whatever else is in the chunk, and in no training step."""
    few, many = build(num_multisamples=1, num_wide_multisamples=6), build(num_multisamples=6)
    many.load_state_dict(few.state_dict())
    few.eval(), many.eval()
    bundle = rays(20)
    bundle.pixel_area[::2] *= 100.0
    before = few(bundle)["rgb"]
    few.metadata["widest_pixel"] = float(pixel_radius(bundle.pixel_area[1]).squeeze())
    found, expected = few(bundle), many(bundle)
    torch.testing.assert_close(found["rgb"][::2], expected["rgb"][::2])
    torch.testing.assert_close(found["rgb"][1::2], before[1::2])
    assert (expected["rgb"] - before)[::2].abs().max() > 1e-4
    torch.testing.assert_close(few(bundle[::2])["rgb"], found["rgb"][::2])
    torch.testing.assert_close(few(bundle[1::2])["depth"], found["depth"][1::2])
    image = few(bundle.reshape((4, 5)))
    for name, value in image.items():
        torch.testing.assert_close(value.reshape(20, -1), found[name])
    numbers = training_rays(few.train()).metadata
    few_rays = rays(20, metadata=numbers)
    with_width = few(few_rays)["rgb"]
    del few.metadata["widest_pixel"]
    torch.testing.assert_close(few(few_rays)["rgb"], with_width, rtol=0, atol=0)


def test_a_picture_has_no_seam_between_wide_and_narrow_pixels():
    """Pixels of a perspective camera narrow towards the corners, across the bound in this one."""
    few, many = build(num_multisamples=1, num_wide_multisamples=6), build(num_multisamples=6)
    many.load_state_dict(few.state_dict())
    few.eval(), many.eval()
    camera = Cameras(torch.eye(4)[None, :3], 8.0, 8.0, 6.0, 6.0, width=12, height=12)
    widths = pixel_radius(camera.generate_rays(camera_indices=0).pixel_area)
    assert widths.max() > 1.5 * widths.min()
    few.metadata["widest_pixel"] = float(widths.median()) / WIDE
    torch.testing.assert_close(few.get_outputs_for_camera(camera)["rgb"], many.get_outputs_for_camera(camera)["rgb"])


def test_rounds_with_more_points_than_wide_pixels_want_keep_them():
    model = build(num_multisamples=1, num_proposal_multisamples=6, num_wide_multisamples=3).eval()
    bundle = rays(4)
    model.metadata["widest_pixel"] = 1e-9
    fields = model.viewed_fields(bundle)
    assert fields[:2] == model.round_fields[:2] and fields[2] is not model.round_fields[2]


@pytest.mark.parametrize("points", [1, 6])
def test_no_rays_are_no_pixels(points):
    model = build(num_multisamples=points)
    assert_no_rays_have_the_outputs_of_some(model, rays(), rays(0))
    model.metadata["widest_pixel"] = 1e-3
    assert_no_rays_have_the_outputs_of_some(model, rays(), rays(0))


@pytest.mark.parametrize("place", ["origins", "directions"])
@pytest.mark.parametrize("points", [1, 3, 6])
@pytest.mark.parametrize("computed", ["as usual", "in torch", "with gradients by the rays"])
@pytest.mark.parametrize("bounds", [CAPTURE, OBJECT])
def test_a_ray_without_a_place_has_no_loss_and_no_color(bounds, computed, points, place, monkeypatch):
    """Though grids read a position that is NaN at 0: training skips the step and names the pixel."""
    grid = HashGridOptions(num_levels=2, log2_table_size=8, max_resolution=32)
    options = {}
    if computed == "in torch":
        monkeypatch.setattr(multisampling, "ray_kernels", lambda *_: None)
        grid = replace(grid, implementation="torch")
        options = {"grid": grid, "proposal_grids": (grid, grid)}
    model = build(bounds, num_multisamples=points, fade_levels=False, **options).train()
    bundle = training_rays(model)
    value = getattr(bundle, place)
    value[3, 1] = torch.nan
    value.requires_grad_(computed == "with gradients by the rays")
    colors = model(bundle)["rgb"]
    assert colors.isnan().any(-1).nonzero().flatten().tolist() == [3]
    losses = losses_of(model, bundle)
    assert all(losses[name].isnan() for name in ("rgb_loss", "interlevel_loss", "distortion_loss"))


def test_the_check_for_rays_without_a_place_changes_no_other():
    model = build().train()
    samples = rounds_of(model, training_rays(model))[-1].samples
    field = model.field
    density, hidden = field.get_density(samples)
    assert torch.equal(density, field.density_of(hidden)) and density.isfinite().all()


def test_objects_decay_a_hundred_times_as_fast_as_captures():
    """As the authors' settings for Blender's scenes, unless something else is asked for."""
    assert (build().table_decay, build(OBJECT).table_decay) == (5e-4, 5e-2)
    assert build(OBJECT, table_decay_mult=0.0).table_decay == 0.0
