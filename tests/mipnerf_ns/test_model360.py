"""mip-NeRF 360's contract with nerfstudio and the exporters, and its choices by data."""

from __future__ import annotations

import pytest
import torch
import yaml
from nerfstudio.cameras.camera_optimizers import CameraOptimizerConfig
from nerfstudio.cameras.rays import RayBundle

from common_ns.data.scene_bounds import RayBounds
from common_ns.errors import InputError
from method_configs.mipnerf import mip_nerf_360, mip_nerf_360_minus, mip_nerf_360_small
from mipnerf_ns.base_model import CAPTURE_NEAR_FAR
from mipnerf_ns.model360 import MipNerf360ModelConfig
from tests.mipnerf_ns.tiny360 import CAPTURE, OBJECT, build, rays, rounds_of


def test_outputs_have_nerfstudios_names_shapes_and_ranges():
    outputs = build().eval()(rays())
    channels = {"rgb": 3, "normals": 3, "accumulation": 1, "depth": 1, "depth_median": 1, "expected_depth": 1}
    for index in (1, 2):
        channels |= {f"{name}_proposal_{index}": 1 for name in ("depth", "accumulation", "interlevel")}
    channels["distortion"] = 1
    assert {name: value.shape for name, value in outputs.items()} == {n: (20, c) for n, c in channels.items()}
    near, far = CAPTURE_NEAR_FAR
    for name, value in outputs.items():
        assert torch.isfinite(value).all(), name
        if name in ("rgb", "normals") or name.startswith("accumulation"):
            assert value.min() >= 0 and value.max() <= 1 + 1e-6, name
        elif name.startswith("depth"):
            assert value.min() >= near * 0.999 and value.max() <= far * 1.001, name
        else:
            assert value.min() >= 0, name


def test_near_plane_holds_in_evaluation_too():
    for model in (build().eval(), build().train()):
        assert model.collider(rays()).nears.min() == CAPTURE_NEAR_FAR[0]
        first = rounds_of(model, rays())[0].samples.frustums.starts
        assert first.min() == pytest.approx(CAPTURE_NEAR_FAR[0], rel=1e-4)


@pytest.mark.parametrize("near", [0.05, 0.004])
def test_near_planes_closer_than_the_usual_one_are_sampled_from(near):
    """Given by the user, or seen by SfM points."""
    seen = RayBounds(near, 8.0, bounded=False, extent=9.0, reason="test", from_points=True)
    for model in (build(near_plane=near), build(seen)):
        first = rounds_of(model.eval(), rays())[0].samples.frustums.starts
        assert first.min() == pytest.approx(near, rel=1e-3)


def test_chunks_give_the_same_image():
    whole = build().eval()
    expected = whole(rays())
    assert whole.eval_rays_per_chunk == 2048
    # The number of rays, or the number of samples: 30 a ray.
    for options in ({"eval_num_rays_per_chunk": 7}, {"max_points_per_chunk": 7 * 30 + 29}):
        chunked = build(**options).eval()
        assert chunked.eval_rays_per_chunk == 7
        for name, value in chunked(rays()).items():
            assert torch.allclose(value, expected[name], rtol=1e-4, atol=1e-5), name


@pytest.mark.parametrize("chunk", [100, 4])
def test_images_of_rays_render_as_lists_do(chunk):
    model = build(eval_num_rays_per_chunk=chunk).eval()
    flat = model(rays(6))
    for name, value in model(rays(6).reshape((2, 3))).items():
        assert value.shape == (2, 3, flat[name].shape[-1]), name
        assert torch.allclose(value.reshape(6, -1), flat[name], rtol=1e-4, atol=1e-5), name


def test_memory_bound_is_divided_by_the_samples_of_all_rounds():
    model = build(max_points_per_chunk=1000)
    assert model.points_per_ray == 30 and model.train_rays_per_chunk == 33 and model.eval_rays_per_chunk == 33
    assert build(max_points_per_chunk=10).train_rays_per_chunk == 1
    assert build(max_points_per_chunk=None).train_rays_per_chunk is None
    assert build(max_points_per_chunk=None, eval_num_rays_per_chunk=5).eval_rays_per_chunk == 5
    # The paper's rays: 64 + 64 + 32 samples.
    assert 2**19 // (64 + 64 + 32) == 3276
    paper = MipNerf360ModelConfig()
    assert paper.max_points_per_chunk == 2**19
    assert sum(paper.num_proposal_samples) + paper.num_nerf_samples == 160


def test_training_outputs_leave_normals_out():
    assert "normals" not in build().train()(rays())
    assert "normals" not in build(compute_normals=False).eval()(rays())


@pytest.mark.parametrize(
    ("bounds", "alpha", "spacing", "contracted", "background"),
    [
        (OBJECT, True, "uniform", False, "white"),
        (OBJECT, False, "uniform", False, "white"),
        (CAPTURE, False, "disparity", True, "random"),
        (CAPTURE, True, "disparity", True, "white"),
    ],
)
def test_sampling_contraction_and_background_follow_the_data(bounds, alpha, spacing, contracted, background):
    model = build(bounds, alpha)
    assert model.sampler.spacing == spacing
    assert model.field.contracted is model.proposal.contracted is contracted
    assert model.renderer_rgb.background_color == background
    near_far = CAPTURE_NEAR_FAR if contracted else (2.0, 6.0)
    assert (model.ray_bounds.near, model.ray_bounds.far) == near_far


def test_choices_of_the_user_replace_those():
    model = build(OBJECT, contraction="on", sampling="piecewise", background_color="black", contraction_radius=4.0)
    assert model.field.contracted and model.sampler.spacing == "piecewise"
    assert model.renderer_rgb.background_color == "black"
    assert model.field.position_scale == model.proposal.position_scale == 0.25
    assert (model.ray_bounds.near, model.ray_bounds.far) == (2.0, 6.0)
    model = build(near_plane=0.5, far_plane=50.0)
    assert (model.ray_bounds.near, model.ray_bounds.far) == (0.5, 50.0)
    model = build(None, near_plane=0.5, far_plane=3.0)
    assert (model.ray_bounds.near, model.ray_bounds.far) == (0.5, 3.0)


def test_without_contraction_all_samples_lie_in_the_encodings_period():
    """The far plane of contracted captures is far beyond it."""
    for options in ({}, {"far_plane": 100.0}):
        model = build(CAPTURE, contraction="off", **options)
        farthest = rounds_of(model.eval(), rays())[0].samples.frustums.ends.max()
        assert float(farthest - 0.8) * model.field.position_scale <= torch.pi


def test_points_nearer_than_the_usual_near_plane_bring_it_closer():
    seen = RayBounds(0.1, 8.0, bounded=False, extent=9.0, reason="test", from_points=True)
    assert build(seen).ray_bounds.near == 0.1
    assert build(CAPTURE).ray_bounds.near == CAPTURE_NEAR_FAR[0]  # assumed, not seen


@pytest.mark.parametrize(
    ("bounds", "options", "message"),
    [
        (OBJECT, {"near_plane": 7.0}, "near 7 and far 6 do not enclose"),
        (CAPTURE, {"near_plane": 0.0}, "near 0 has no disparity"),
        (CAPTURE, {"contraction_radius": 0.0}, "contraction-radius is 0"),
        (None, {}, "near and far are not known"),
    ],
)
def test_impossible_settings(bounds, options, message):
    with pytest.raises(InputError, match=message):
        build(bounds, **options)


def test_alpha_without_a_background_to_blend_with():
    with pytest.raises(InputError, match="images have an alpha channel"):
        build(CAPTURE, alpha=True, background_color="last_sample")


def test_one_network_serves_both_proposals_and_all_parameters_are_trained():
    model = build(appearance_dim=2, camera_optimizer=CameraOptimizerConfig(mode="SO3xR3"))
    groups = model.get_param_groups()
    assert set(groups) == {"fields", "camera_opt"} and set(build().get_param_groups()) == {"fields"}
    grouped = [p for group in groups.values() for p in group]
    own = {name: p for name, p in model.named_parameters() if name != "device_indicator_param"}  # nerfstudio's
    assert {id(p) for p in grouped} == {id(p) for p in own.values()}
    assert len(grouped) == len({id(p) for p in grouped})


def test_networks_whose_gradients_are_bounded_make_up_the_group():
    for dim in (0, 2):
        model = build(appearance_dim=dim)
        proposal, color, codes = model.networks()
        assert {id(p) for p in proposal} == {id(p) for p in model.proposal.parameters()}
        assert [tuple(p.shape) for p in codes] == ([] if dim == 0 else [(3, 2)])
        joined = [id(p) for network in (proposal, color, codes) for p in network]
        assert sorted(joined) == sorted(id(p) for p in model.get_param_groups()["fields"])
    assert mip_nerf_360.config.optimizers["fields"]["optimizer"].max_norm_per_network == 1e-3
    assert mip_nerf_360.config.optimizers["fields"]["optimizer"].max_norm is None


def test_probe_of_the_exporters_gives_finite_outputs():
    """One ray with float camera indices, unnormalized direction, no planes and pixel area 1, with gradients on."""
    bundle = RayBundle(
        origins=torch.zeros(1, 3),
        directions=torch.ones(1, 3),
        pixel_area=torch.ones(1, 1),
        camera_indices=torch.zeros(1, 1),
        metadata={"directions_norm": torch.full((1, 1), 3**0.5)},
    )
    for options in ({}, {"appearance_dim": 4}, {"encoding": "plain"}, {"bounds": OBJECT}):
        outputs = build(**options).eval()(bundle)
        assert all(torch.isfinite(value).all() for value in outputs.values())


@pytest.mark.parametrize("sampling", ["uniform", "disparity", "piecewise"])
def test_texture_baking_with_its_own_planes_and_placeholder_areas(sampling):
    bundle = rays(area=1.0, nears=torch.zeros(20, 1), fars=torch.full((20, 1), 0.02))
    model = build(sampling=sampling).eval()
    outputs = model(bundle)
    assert all(torch.isfinite(value).all() for value in outputs.values())
    assert outputs["depth"].max() <= 0.02
    assert rounds_of(model, bundle)[0].samples.frustums.starts.max(1).values.min() > 0
    assert rounds_of(model, bundle)[0].samples.frustums.starts.min() < 1e-5  # not the model's near plane


@pytest.mark.parametrize(("background", "behind"), [("white", 1.0), ("black", 0.0), ("random", 0.0)])
def test_rgba_is_straight_alpha_without_the_background(background, behind):
    model = build(background_color=background)
    true, alpha = torch.rand(6, 5, 3), torch.rand(6, 5, 1) * 0.9 + 0.1
    outputs = {"rgb": true * alpha + behind * (1 - alpha), "accumulation": alpha}
    assert torch.allclose(model.get_rgba_image(outputs), torch.cat([true, alpha], dim=-1), atol=1e-5)


def test_iso_field_is_the_density():
    model = build(contraction_radius=2.0)
    field = model.iso_field(level=3.0, voxel_size=0.1)
    points = 3 * torch.rand(5, 3)
    assert torch.allclose(field.value(points), model.field.density_of_isotropic(points, 0.1**2 / 12)[:, 0])
    assert torch.allclose(model.iso_field().value(points), model.field.density_fn(points)[:, 0])
    assert field.level == 3.0 and field.inside_above
    assert torch.equal(field.aabb, model.scene_box.aabb)
    normals = torch.nn.functional.normalize(torch.randn(5, 3), dim=-1)
    color = field.color(points, normals)
    assert color.shape == (5, 3) and color.min() >= 0 and color.max() <= 1
    # Seen head-on.
    hidden = model.field.features_of_isotropic(points, 0.1**2 / 12)
    assert torch.allclose(color, model.field.color(hidden, -normals).clamp(0, 1), atol=1e-6)


@pytest.mark.parametrize("method", [mip_nerf_360, mip_nerf_360_minus, mip_nerf_360_small])
def test_config_survives_yaml(method):
    loaded = yaml.load(yaml.dump(method.config), Loader=yaml.Loader)
    assert loaded.pipeline.model == method.config.pipeline.model
    assert loaded.method_name == method.config.method_name


def test_minus_differs_in_the_encoding_only():
    paper, minus = mip_nerf_360.config.pipeline.model, mip_nerf_360_minus.config.pipeline.model
    differing = [name for name, value in vars(paper).items() if value != getattr(minus, name)]
    assert differing == ["encoding"] and minus.encoding == "plain"


# What the authors' code does, as options.


def test_the_papers_methods_have_the_authors_choices_and_others_do_not():
    paper, minus, small = (m.config.pipeline.model for m in (mip_nerf_360, mip_nerf_360_minus, mip_nerf_360_small))
    for config in (paper, minus):
        assert config.dilation_drops_ends and config.opaque_last_interval == "auto"
        assert config.capture_far_plane == 1e6 and config.near_anneal_rate is None
        assert config.appearance_eval == "zero" and config.appearance_std is None
    # Nor do runs of earlier versions, whose config.yml has none of these options.
    for config in (small, MipNerf360ModelConfig()):
        assert not config.dilation_drops_ends and config.opaque_last_interval == "off"
        assert config.capture_far_plane == 1000.0 and config.near_anneal_rate is None
        assert config.appearance_eval == "mean" and config.appearance_std == 0.01


@pytest.mark.parametrize(
    ("bounds", "alpha", "options", "opaque", "background"),
    [
        (CAPTURE, False, {}, True, "last_sample"),
        (CAPTURE, True, {}, False, "white"),
        (OBJECT, False, {}, False, "white"),
        (CAPTURE, False, {"background_color": "white"}, False, "white"),
        (CAPTURE, False, {"opaque_last_interval": "off"}, False, "random"),
        (OBJECT, True, {"opaque_last_interval": "on"}, True, "white"),
    ],
)
def test_the_last_interval_is_opaque_where_nothing_can_be_behind_it(bounds, alpha, options, opaque, background):
    model = build(bounds, alpha, **{"opaque_last_interval": "auto", "density_bias": -200.0, **options}).eval()
    assert model.ends_opaque is opaque and model.renderer_rgb.background_color == background
    outputs = model(rays())
    for name in ("accumulation", "accumulation_proposal_1", "accumulation_proposal_2"):
        assert torch.allclose(outputs[name], torch.full((20, 1), float(opaque)), atol=1e-5)


def test_far_plane_of_captures_is_the_authors_unless_samples_are_uniform():
    for options, far in (({}, 1e6), ({"sampling": "piecewise"}, 1e6), ({"sampling": "uniform"}, 1000.0)):
        assert build(CAPTURE, capture_far_plane=1e6, **options).ray_bounds.far == far
    assert build(CAPTURE, capture_far_plane=1e6, far_plane=50.0).ray_bounds.far == 50.0
    assert build(OBJECT, capture_far_plane=1e6).ray_bounds.far == 6.0


def test_depth_stays_readable_with_a_far_plane_at_a_million():
    """A trace of weight at the far plane does not carry the mean depth away, nor the sky the colors of a picture."""
    model = build(CAPTURE, capture_far_plane=1e6, opaque_last_interval="auto", density_bias=8.0).eval()
    outputs = model(rays())
    assert all(torch.isfinite(value).all() for value in outputs.values())
    assert (outputs["expected_depth"] < 2.0 * outputs["depth_median"]).all()
    depth = torch.linspace(1.0, 3.0, 64).reshape(8, 8, 1)
    sky = depth.clone()
    sky[:4] = 5e5
    picture = model.depth_picture(sky, torch.ones(8, 8, 1))
    assert len(picture[4:].reshape(-1, 3).unique(dim=0)) > 8 and len(picture[:4].reshape(-1, 3).unique(dim=0)) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"near_anneal_rate": 0.0}, "near-anneal-rate is 0"),
        ({"near_anneal_init": 1.0}, "near-anneal-init is 1"),
    ],
)
def test_impossible_annealing_of_the_near_plane(options, message):
    with pytest.raises(InputError, match=message):
        build(**options)


def test_the_near_plane_comes_in_while_training():
    model = build(near_anneal_rate=0.1, near_anneal_init=0.8).train()
    starts = []
    for fraction in (0.0, 0.01, 0.05, 0.1, 0.5):
        model.train_fraction = fraction
        first = rounds_of(model, rays())[0].bins
        starts.append(model.sampler.start)
        assert float(first.min()) >= starts[-1] and float(first.max()) <= 1.0
    assert starts == pytest.approx([0.8, 0.8, 0.5, 0.0, 0.0])
    model.train_fraction = 0.0
    assert float(rounds_of(model.eval(), rays())[0].bins.min()) < 0.05


def test_test_images_have_the_zero_code_if_asked_for():
    model = build(appearance_dim=4, appearance_eval="zero", appearance_std=None).eval()
    codes = model.field.appearance
    torch.nn.init.normal_(codes.weight, mean=3.0)
    zero = model(rays())["rgb"]
    codes.rendered_code = torch.zeros(4)
    assert torch.equal(model(rays())["rgb"], zero)
    codes.rendered_code = codes.weight.mean(0)
    assert not torch.allclose(model(rays())["rgb"], zero, atol=1e-3)


def test_codes_start_with_the_length_asked_for():
    for options, std in (({}, 0.01), ({"appearance_std": 0.2}, 0.2), ({"appearance_std": None}, 0.125)):
        codes = build(appearance_dim=64, **options).field.appearance.weight
        assert float(codes.std()) == pytest.approx(std, rel=0.2)


def test_codes_of_any_length_are_the_same_draw():
    """What is drawn after them does not depend on the length, nor do the codes but for it."""
    drawn, states = [], []
    for std in (0.01, 0.2, None):
        model = build(appearance_dim=64, appearance_std=std)
        drawn.append(model.field.appearance.weight / (0.125 if std is None else std))
        states.append(torch.get_rng_state())
    for codes, state in zip(drawn[1:], states[1:]):
        assert torch.allclose(codes, drawn[0], atol=1e-5) and torch.equal(state, states[0])


def assert_no_rays_have_the_outputs_of_some(model, some, none):
    for training in (False, True):
        model.train(training)
        expected, found = (model(bundle) for bundle in (some, none))
        assert found.keys() == expected.keys()
        for name, value in found.items():
            if isinstance(value, torch.Tensor):
                assert value.shape == (0, *expected[name].shape[1:]) and value.dtype == expected[name].dtype, name


@pytest.mark.parametrize("opaque", ["on", "off"])
def test_no_rays_are_no_pixels(opaque):
    assert_no_rays_have_the_outputs_of_some(build(opaque_last_interval=opaque), rays(), rays(0))
