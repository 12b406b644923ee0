"""mip-NeRF 360's contract with the host, its choices by data, its losses, controls and appearance codes."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
import yaml
from nerfstudio.cameras.camera_optimizers import CameraOptimizerConfig
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.cameras.rays import RayBundle
from nerfstudio.data.scene_box import SceneBox
from nerfstudio.engine.callbacks import TrainingCallbackAttributes, TrainingCallbackLocation
from nerfstudio.field_components.field_heads import FieldHeadNames
from nerfstudio.model_components.losses import distortion_loss, interlevel_loss
from torch import Tensor

from common_ns.checks import InputError
from common_ns.metrics import image_metrics
from common_ns.scene_bounds import RayBounds
from common_ns.schedulers import LogLinearSchedulerConfig
from method_configs.mipnerf import mip_nerf_360, mip_nerf_360_minus, mip_nerf_360_small
from mipnerf_ns.appearance import fit_code
from mipnerf_ns.model360 import MipNerf360Model, MipNerf360ModelConfig
from mipnerf_ns.proposal import Round
from mipnerf_ns.proposal_model import CAPTURE_NEAR_FAR
from mipnerf_ns.stepfun import schlick_bias

OBJECT = RayBounds(2.0, 6.0, bounded=True, extent=2.0, reason="test")
CAPTURE = RayBounds(0.1, 8.0, bounded=False, extent=9.0, reason="test")
NUM_IMAGES = 3
NOISE = 6
"""Random numbers of a ray: a shift for each of three rounds, and a background colour."""


def build(bounds: RayBounds | None = CAPTURE, alpha: bool = False, **options) -> MipNerf360Model:
    torch.manual_seed(0)
    small = {"num_layers": 2, "hidden_dim": 16, "bottleneck_dim": 8, "color_hidden_dim": 8, "num_frequencies": 4}
    small |= {"proposal_num_layers": 1, "proposal_hidden_dim": 8, "precision": "float32"}
    small |= {"num_proposal_samples": (12, 10), "num_nerf_samples": 8}
    metadata = {"images_have_alpha": alpha} | ({} if bounds is None else {"ray_bounds": bounds})
    box = SceneBox(aabb=torch.tensor([[-1.5] * 3, [1.5] * 3]))
    config = MipNerf360ModelConfig(**{**small, **options})
    return config.setup(scene_box=box, num_train_data=NUM_IMAGES, metadata=metadata)


def rays(count: int = 20, area: float = 1e-4, **fields) -> RayBundle:
    generator = torch.Generator().manual_seed(1)
    directions = torch.nn.functional.normalize(torch.randn(count, 3, generator=generator), dim=-1)
    return RayBundle(
        origins=-0.5 * directions + 0.1 * torch.randn(count, 3, generator=generator),
        directions=directions,
        pixel_area=torch.full((count, 1), area),
        camera_indices=torch.arange(count)[:, None] % NUM_IMAGES,
        **fields,
    )


def training_rays(count: int = 20, seed: int = 0) -> RayBundle:
    """Rays that bring their random numbers, as the pipeline sends them."""
    noise = torch.rand(count, NOISE, generator=torch.Generator().manual_seed(seed))
    return rays(count, metadata={"noise": noise})


def rounds_of(model: MipNerf360Model, bundle: RayBundle) -> list[Round]:
    """The rounds behind the model's last outputs."""
    found: list[Round] = []
    keep = model._regularizers
    model._regularizers = lambda rounds: (found.extend(rounds), keep(rounds))[1]  # type: ignore[method-assign]
    try:
        model(bundle)
    finally:
        del model._regularizers
    return found


def test_outputs_have_the_hosts_names_shapes_and_ranges():
    outputs = build().eval()(rays())
    channels = {"rgb": 3, "normals": 3, "accumulation": 1, "depth": 1, "depth_median": 1, "depth_mean": 1}
    for index in (1, 2):
        channels |= {f"{name}_proposal_{index}": 1 for name in ("depth", "accumulation", "missed")}
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
        (CAPTURE, {"contraction_radius": 0.0}, "radius of 0 holds nothing"),
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
    own = {name: p for name, p in model.named_parameters() if name != "device_indicator_param"}  # the host's
    assert {id(p) for p in grouped} == {id(p) for p in own.values()}
    assert len(grouped) == len({id(p) for p in grouped})


# Losses.


@pytest.mark.parametrize("alpha", [False, True])
def test_losses_are_the_papers(alpha):
    model = build(alpha=alpha, background_color="random", interlevel_loss_mult=0.7, distortion_loss_mult=0.3).train()
    bundle, target = training_rays(), torch.rand(20, 4 if alpha else 3)
    rounds, outputs = rounds_of(model, bundle), model(bundle)
    losses = model.get_loss_dict(outputs, {"image": target})
    assert set(losses) == {"rgb_loss", "interlevel_loss", "distortion_loss"}

    background = bundle.metadata["noise"][:, -3:]
    predicted = outputs["rgb"] + background * (1.0 - outputs["accumulation"])
    truth = target[:, :3] * target[:, 3:] + background * (1.0 - target[:, 3:]) if alpha else target
    assert torch.allclose(losses["rgb_loss"], ((predicted - truth) ** 2 + 0.001**2).sqrt().mean())
    weights, samples = [r.weights for r in rounds], [r.samples for r in rounds]
    assert torch.allclose(losses["interlevel_loss"], 0.7 * interlevel_loss(weights, samples))
    assert torch.allclose(losses["distortion_loss"], 0.3 * distortion_loss(weights, samples))


def test_losses_are_means_over_rays():
    """The pipeline adds them up over chunks."""
    model = build().train()
    bundle, batch = training_rays(), {"image": torch.rand(20, 3)}
    whole = model.get_loss_dict(model(bundle), batch)
    parts = [slice(0, 5), slice(5, 20)]
    divided = [model.get_loss_dict(model(bundle[part]), {"image": batch["image"][part]}) for part in parts]
    for name, value in whole.items():
        assert torch.allclose(0.25 * divided[0][name] + 0.75 * divided[1][name], value, rtol=1e-4), name


def test_evaluation_reports_the_colour_loss_only():
    model = build().eval()
    assert set(model.get_loss_dict(model(rays()), {"image": torch.rand(20, 3)})) == {"rgb_loss"}
    silent = build(interlevel_loss_mult=0.0, distortion_loss_mult=0.0).train()
    assert set(silent.get_loss_dict(silent(rays()), {"image": torch.rand(20, 3)})) == {"rgb_loss"}


def test_proposals_learn_from_the_interlevel_loss_only_and_the_nerf_from_the_others():
    model = build().train()
    losses = model.get_loss_dict(model(training_rays()), {"image": torch.rand(20, 3)})
    proposal, nerf = list(model.proposal.parameters()), list(model.field.parameters())
    for name, loss in losses.items():
        reached = torch.autograd.grad(loss, proposal + nerf, allow_unused=True, retain_graph=True)
        learns = [g is not None and bool(g.abs().sum() > 0) for g in reached]
        assert any(learns[: len(proposal)]) is (name == "interlevel_loss"), name
        assert any(learns[len(proposal) :]) is (name != "interlevel_loss"), name


def test_footprints_weight_the_colour_loss():
    model = build().train()
    bundle, target, footprint = training_rays(), torch.rand(20, 3), torch.tensor([0.25, 1.75]).repeat(10)[:, None]
    outputs = model(bundle)
    losses = model.get_loss_dict(outputs, {"image": target, "footprint": footprint})
    prediction, _ = model.blended(outputs, {"image": target})
    error = ((prediction - target) ** 2 + 1e-6).sqrt().mean(-1, keepdim=True)
    assert torch.allclose(losses["rgb_loss"], (footprint * error).mean())
    plain = build(loss_by_footprint=False).train()
    found = plain.get_loss_dict(outputs, {"image": target, "footprint": footprint})["rgb_loss"]
    assert torch.allclose(found, error.mean())


@pytest.mark.parametrize("background", ["white", "black", "random"])
@pytest.mark.parametrize("bounds", [OBJECT, CAPTURE])
def test_an_empty_ray_predicts_the_background_of_its_target(bounds, background):
    """Where image and model are both empty there is nothing to learn."""
    model = build(bounds, alpha=True, background_color=background, density_bias=-200.0).train()
    outputs = model(training_rays())
    assert outputs["accumulation"].max() < 1e-6
    prediction, target = model.blended(outputs, {"image": torch.zeros(20, 4)})
    assert torch.allclose(prediction, target, atol=1e-5)


def test_last_sample_background_is_not_blended_again():
    model = build(background_color="last_sample").train()
    outputs, target = model(training_rays()), torch.rand(20, 3)
    prediction, truth = model.blended(outputs, {"image": target})
    assert torch.equal(prediction, outputs["rgb"]) and torch.equal(truth, target)


# Random numbers.


def test_noise_of_the_rays_decides_a_training_step():
    model = build().train()
    assert model.noise_per_ray == NOISE
    torch.manual_seed(1)
    first = model(training_rays())
    torch.manual_seed(2)
    again = model(training_rays())
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert torch.equal(first["background"], training_rays().metadata["noise"][:, -3:])
    other = model(training_rays(seed=1))
    assert not torch.equal(first["rgb"], other["rgb"])
    shares = [model(training_rays()[part]) for part in (slice(0, 8), slice(8, 20))]
    for name, value in first.items():
        assert torch.allclose(torch.cat([share[name] for share in shares]), value, rtol=1e-4, atol=1e-5), name


def test_rays_without_noise_get_some():
    model = build().train()
    torch.manual_seed(1)
    first, second = model(rays()), model(rays())
    assert not torch.equal(first["rgb"], second["rgb"]) and not torch.equal(first["background"], second["background"])
    assert first["background"].min() >= 0 and first["background"].max() < 1


def test_evaluation_is_deterministic_and_black_behind_a_random_background():
    model = build().eval()
    state = torch.get_rng_state()
    assert torch.equal(model(rays())["rgb"], model(rays())["rgb"])
    assert torch.equal(torch.get_rng_state(), state)
    empty = build(density_bias=-200.0).eval()
    assert torch.equal(empty(rays())["rgb"], torch.zeros(20, 3))
    assert "background" not in empty(rays())


# Progress of the training.


def attributes(max_steps: int | None, iterations: int = 400) -> TrainingCallbackAttributes:
    scheduler = None if max_steps is None else LogLinearSchedulerConfig(max_steps=max_steps)
    optimizers = {"fields": {"optimizer": None, "scheduler": scheduler}}
    config = SimpleNamespace(optimizers=optimizers, max_num_iterations=iterations)
    return TrainingCallbackAttributes(None, None, None, SimpleNamespace(config=config))  # type: ignore[arg-type]


def fraction_at(model: MipNerf360Model, step: int, given: TrainingCallbackAttributes) -> float:
    for callback in model.get_training_callbacks(given):
        callback.run_callback_at_location(step, TrainingCallbackLocation.BEFORE_TRAIN_ITERATION)
    return model.train_fraction


def test_annealing_follows_the_schedule():
    assert fraction_at(build(), 50, attributes(200)) == 0.25
    assert fraction_at(build(), 500, attributes(200)) == 1.0  # a run continued beyond its schedule
    assert fraction_at(build(), 100, attributes(None)) == 0.25  # without one, the length of the run
    assert fraction_at(build(anneal_steps=1000), 100, attributes(200)) == 0.1
    assert fraction_at(build(anneal_steps=0), 0, attributes(200)) == 1.0
    without_trainer = TrainingCallbackAttributes(None, None, None, None)
    assert fraction_at(build(anneal_steps=10), 5, without_trainer) == 0.5
    assert fraction_at(build(), 5, without_trainer) == 1.0


@pytest.mark.parametrize(
    ("slope", "training", "annealed"), [(10.0, True, True), (0.0, True, False), (10.0, False, False)]
)
def test_samples_are_annealed_while_training_only(slope, training, annealed):
    model = build(anneal_slope=slope).train(training)
    model.train_fraction = 0.02
    bundle = training_rays() if training else rays()
    jitter = bundle.metadata["noise"][:, :3] if training else None
    rounds = rounds_of(model, bundle)
    fields = [model.proposal, model.proposal, model.field]
    anneal = schlick_bias(0.02, slope) if annealed else 1.0
    expected = model.sampler(model.collider(bundle), fields, anneal, jitter)
    assert all(torch.equal(a.bins, b.bins) for a, b in zip(rounds, expected))
    other = model.sampler(model.collider(bundle), fields, 1.0 if annealed else 0.3, jitter)
    assert not torch.equal(rounds[-1].bins, other[-1].bins)


# Camera refinement.


@pytest.mark.parametrize("mode", ["SO3xR3", "SE3"])
@pytest.mark.parametrize("count", [20, 1])
def test_gradients_reach_the_cameras_in_training(mode, count):
    model = build(camera_optimizer=CameraOptimizerConfig(mode=mode)).train()
    torch.nn.init.constant_(model.camera_optimizer.pose_adjustment, 0.01)
    bundle = training_rays(count)
    origins, directions = bundle.origins.clone(), bundle.directions.clone()
    losses = model.get_loss_dict(model(bundle), {"image": torch.rand(count, 3)})
    (gradient,) = torch.autograd.grad(losses["rgb_loss"], model.camera_optimizer.pose_adjustment)
    assert torch.isfinite(gradient).all()
    assert gradient.abs().sum(-1).gt(0).sum() == min(count, NUM_IMAGES)
    assert "camera_opt_regularizer" in losses
    # The caller's rays are as they were; the pipeline may use them again.
    assert torch.equal(bundle.origins, origins) and torch.equal(bundle.directions, directions)


def test_refined_cameras_move_rays_in_training_only():
    model = build(camera_optimizer=CameraOptimizerConfig(mode="SO3xR3"))
    before, still = model.train()(training_rays())["rgb"], model.eval()(rays())["rgb"]
    with torch.no_grad():
        model.camera_optimizer.pose_adjustment[1] = torch.tensor([0.3, -0.2, 0.1, 0.2, 0.0, -0.1])
    after = model.train()(training_rays())["rgb"]
    moved = rays().camera_indices[:, 0] == 1
    assert torch.allclose(after[~moved], before[~moved], atol=1e-6)
    assert ((after - before).abs().amax(-1) > 1e-5)[moved].all()
    assert torch.equal(model.eval()(rays())["rgb"], still)
    metrics = model.train().get_metrics_dict(model(training_rays()), {"image": torch.rand(20, 3)})
    assert float(metrics["camera_opt_translation_max"]) == pytest.approx(0.14**0.5)
    assert "distortion" in metrics and "psnr" in metrics


# The exporters and the viewer.


def test_probe_of_the_exporters_gives_finite_outputs():
    """One ray with float camera indices, unnormalised direction, no planes and pixel area 1, with gradients on."""
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
    assert torch.allclose(field.value(points), model.field.density_of_balls(points, 0.1**2 / 12)[:, 0])
    assert torch.allclose(model.iso_field().value(points), model.field.density_fn(points)[:, 0])
    assert field.level == 3.0 and field.inside_above
    assert torch.equal(field.aabb, model.scene_box.aabb)
    normals = torch.nn.functional.normalize(torch.randn(5, 3), dim=-1)
    colour = field.color(points, normals)
    assert colour.shape == (5, 3) and colour.min() >= 0 and colour.max() <= 1
    # Seen head-on.
    hidden = model.field.features_of_balls(points, 0.1**2 / 12)
    assert torch.allclose(colour, model.field.color(hidden, -normals).clamp(0, 1), atol=1e-6)


def test_moving_the_near_plane_in_the_viewer_cuts_away_what_is_closer():
    model = build()
    trained, shown = model.train()(training_rays())["rgb"], model.eval()(rays())["rgb"]
    assert model.shown_near.value == CAPTURE_NEAR_FAR[0]
    model.shown_near.default_value = 1.5
    bundle = rays()
    moved = model.eval()
    assert rounds_of(moved, bundle)[0].samples.frustums.starts.min() == pytest.approx(1.5, rel=1e-4)
    assert model(rays())["depth"].min() >= 1.5 * 0.999 and not torch.equal(model(rays())["rgb"], shown)
    assert bundle.nears.max() == pytest.approx(CAPTURE_NEAR_FAR[0])  # the caller's rays are as they were
    assert torch.equal(model.train()(training_rays())["rgb"], trained)
    # Beyond the far plane nothing is left, but the render must not fail.
    model.shown_near.default_value = 1e6
    assert all(torch.isfinite(value).all() for value in model.eval()(rays()).values())


@pytest.mark.parametrize("bounds", [OBJECT, CAPTURE, RayBounds(0.001, 0.5, False, 1.0, "test", from_points=True)])
def test_slider_of_the_near_plane_holds_the_models(bounds):
    slider = build(bounds).shown_near
    assert slider.min == 0.0 and slider.min <= slider.default_value < slider.max


def test_depth_kind_and_level_of_the_viewer_choose_the_depth():
    model = build().eval()
    outputs = model(rays())
    assert torch.equal(outputs["depth"], outputs["depth_median"])
    assert not torch.allclose(outputs["depth_median"], outputs["depth_mean"])
    model.shown_depth.default_value = "mean"
    assert torch.equal(model(rays())["depth"], outputs["depth_mean"])
    last, *proposals = model.shown_level.options
    assert last == model.shown_level.value == "nerf" and len(proposals) == 2
    for kind, render in (("median", model.renderer_depth), ("mean", model.renderer_expected_depth)):
        model.shown_depth.default_value = kind
        for index, name in enumerate(proposals, start=1):
            model.shown_level.default_value = name
            chosen, round_ = model(rays()), rounds_of(model, rays())[index - 1]
            assert torch.equal(chosen["depth"], render(round_.weights, round_.samples))
            assert torch.equal(chosen["depth"], chosen[f"depth_proposal_{index}"])
            # The others stay, for comparison.
            assert torch.equal(chosen["depth_median"], outputs["depth_median"])


def test_weights_are_an_output_when_asked_for():
    model = build(eval_num_rays_per_chunk=7).eval()
    assert "weights" not in model(rays())
    model.shown_weights.default_value = True
    for name, count in zip(model.shown_level.options, (8, 12, 10)):
        model.shown_level.default_value = name
        outputs = model(rays())
        level = "" if name == "nerf" else f"_{name.replace(' ', '_')}"
        assert outputs["weights"].shape == (20, count)
        assert torch.allclose(outputs["weights"].sum(-1, keepdim=True), outputs[f"accumulation{level}"])
    assert "weights" not in model.train()(rays())


@pytest.mark.parametrize("method", [mip_nerf_360, mip_nerf_360_minus, mip_nerf_360_small])
def test_config_survives_yaml(method):
    loaded = yaml.load(yaml.dump(method.config), Loader=yaml.Loader)
    assert loaded.pipeline.model == method.config.pipeline.model
    assert loaded.method_name == method.config.method_name


def test_minus_differs_in_the_encoding_only():
    paper, minus = mip_nerf_360.config.pipeline.model, mip_nerf_360_minus.config.pipeline.model
    differing = [name for name, value in vars(paper).items() if value != getattr(minus, name)]
    assert differing == ["encoding"] and minus.encoding == "plain"


# Test images.


def camera(width: int = 24, height: int = 16) -> Cameras:
    pose = torch.eye(4)[None, :3]
    return Cameras(pose, 20.0, 20.0, width / 2, height / 2, width=width, height=height, metadata={})


def coded_model(**options) -> MipNerf360Model:
    """A model whose colours depend strongly on the appearance code."""
    model = build(**{"appearance_dim": 2, "appearance_eval": "fit-left-half", **options}).eval()
    assert model.field.appearance is not None
    with torch.no_grad():
        model.field.appearance.weight.normal_(std=0.1)
        model.field.color_head.input.weight[:, -2:].normal_()
        model.field.color_head.output.weight.mul_(2.0)
    return model


def rendered_with(model: MipNerf360Model, code: Tensor, **size: int) -> Tensor:
    model.field.appearance.rendered_code = code
    try:
        return model.get_outputs_for_camera(camera(**size))["rgb"]
    finally:
        model.field.appearance.rendered_code = None


def test_evaluation_images_are_target_and_render_side_by_side():
    model = build(camera_optimizer=CameraOptimizerConfig(mode="off")).eval()
    target = torch.rand(16, 24, 3)
    metrics, images = model.evaluate_image(camera(), {"image": target})
    rgb = model.get_outputs_for_camera(camera())["rgb"]
    assert torch.equal(images["img"], torch.cat([target, rgb], dim=1))
    assert metrics == image_metrics(rgb, target) and {"psnr", "ssim"} <= set(metrics)
    assert images["depth"].shape == (16, 3 * 24, 3) and images["accumulation"].shape == (16, 24, 3)
    assert images["distortion"].shape == (16, 24, 3) and images["normals"].shape == (16, 24, 3)
    assert not {"num_rays", "num_rays_per_sec", "fps"} & set(metrics)


@pytest.mark.parametrize("options", [{}, {"eval_num_rays_per_chunk": 50}, {"background_color": "white"}])
def test_code_fitted_to_the_left_half_explains_the_right_half(options):
    model = coded_model(**options)
    code = torch.tensor([0.7, -0.5])
    target = rendered_with(model, code)
    metrics, _ = model.evaluate_image(camera(), {"image": target})
    assert metrics["psnr"] > 35
    assert model.field.appearance.rendered_code is None
    plain = coded_model(**{**options, "appearance_eval": "mean"})
    assert plain.evaluate_image(camera(), {"image": target})[0]["psnr"] < 20


@pytest.mark.parametrize("width", [24, 16])
def test_metrics_come_from_the_right_half_alone(width):
    """The left half has a colour cast that some code explains; the right half has nothing to do with it."""
    model = coded_model()
    target = rendered_with(model, torch.tensor([0.7, -0.5]), width=width)
    half = width // 2
    target[:, half:] = torch.rand(16, width - half, 3, generator=torch.Generator().manual_seed(0))
    metrics, images = model.evaluate_image(camera(width), {"image": target})
    rgb = images["img"][:, width:]
    assert image_metrics(rgb[:, :half], target[:, :half])["psnr"] > 35  # the fit saw the left half only
    # SSIM's window does not fit into a half of 8 pixels: the whole image's would count what was fitted.
    assert metrics == image_metrics(rgb[:, half:], target[:, half:])
    assert ("ssim" in metrics) is (half >= 11)


def test_code_is_reset_when_rendering_fails(monkeypatch):
    model = coded_model()

    def fail(*args, **kwargs):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(model, "get_outputs_for_camera", fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        model.evaluate_image(camera(), {"image": torch.rand(16, 24, 3)})
    assert model.field.appearance.rendered_code is None
    monkeypatch.setattr("mipnerf_ns.proposal_model.fit_code", fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        model.evaluate_image(camera(), {"image": torch.rand(16, 24, 3)})
    assert model.field.appearance.rendered_code is None


def test_fitting_sees_an_even_selection_of_the_left_half(monkeypatch):
    seen: list[Tensor] = []

    def remember(render, target, start):
        seen.append(target)
        assert torch.allclose(render(start), expected, atol=1e-5)
        return fit_code(render, target, start, steps=1)

    monkeypatch.setattr("mipnerf_ns.proposal_model.fit_code", remember)
    monkeypatch.setattr("mipnerf_ns.proposal_model.FIT_PIXELS", 50)
    model = coded_model(eval_num_rays_per_chunk=13)
    target = torch.rand(16, 24, 4)
    chosen = torch.linspace(0, 16 * 12 - 1, 50).long()
    expected = model.get_outputs_for_camera(camera())["rgb"][:, :12].reshape(-1, 3)[chosen]
    model.evaluate_image(camera(), {"image": target})
    blended = target[..., :3] * target[..., 3:]  # over black, as a random background is outside of training
    assert torch.allclose(seen[0], blended[:, :12].reshape(-1, 3)[chosen])


def test_fitting_leaves_the_model_as_it_was():
    model = coded_model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.evaluate_image(camera(), {"image": torch.rand(16, 24, 3)})
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_training_codes_change_what_is_rendered_in_training():
    model = coded_model().train()
    bundle = training_rays()
    first = model(bundle)[FieldHeadNames.RGB.value]
    bundle.camera_indices = (bundle.camera_indices + 1) % NUM_IMAGES
    assert not torch.allclose(model(bundle)[FieldHeadNames.RGB.value], first, atol=1e-3)


def test_a_few_steps_learn_a_colour_and_make_proposals_enclose_it():
    """The whole of it: losses fall, and the proposals' weights come to cover the last round's."""
    model = build(OBJECT, background_color="black").train()
    optimizer = torch.optim.Adam(model.get_param_groups()["fields"], lr=1e-2)
    target = torch.tensor([0.8, 0.3, 0.1]).expand(20, 3)
    history = []
    for step in range(40):
        model.train_fraction = step / 40
        losses = model.get_loss_dict(model(training_rays(seed=step)), {"image": target})
        optimizer.zero_grad()
        sum(losses.values()).backward()  # type: ignore[union-attr]
        optimizer.step()
        history.append({name: float(value) for name, value in losses.items()})
    assert history[-1]["rgb_loss"] < 0.1 * history[0]["rgb_loss"]
    assert history[-1]["interlevel_loss"] < max(h["interlevel_loss"] for h in history)
