"""Training mip-NeRF 360: losses, random numbers of rays, annealing and refined cameras."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from nerfstudio.cameras.camera_optimizers import CameraOptimizerConfig
from nerfstudio.engine.callbacks import TrainingCallbackAttributes, TrainingCallbackLocation
from nerfstudio.model_components.losses import distortion_loss, interlevel_loss

from common_ns.nerfstudio_seam.schedulers import LogLinearSchedulerConfig
from common_ns.rays.random_numbers import KEY
from common_ns.rays.stepfun import schlick_bias
from mipnerf_ns.model360 import MipNerf360Model
from mipnerf_ns.proposal_sampler import Round
from tests.mipnerf_ns.tiny360 import CAPTURE, NOISE, NUM_IMAGES, OBJECT, build, rays, rounds_of, training_rays

# Losses.


@pytest.mark.parametrize("alpha", [False, True])
def test_losses_are_the_papers(alpha):
    model = build(alpha=alpha, background_color="random", interlevel_loss_mult=0.7, distortion_loss_mult=0.3).train()
    bundle, target = training_rays(), torch.rand(20, 4 if alpha else 3)
    rounds, outputs = rounds_of(model, bundle), model(bundle)
    losses = model.get_loss_dict(outputs, {"image": target})
    assert set(losses) == {"rgb_loss", "interlevel_loss", "distortion_loss"}

    background = bundle.metadata[KEY][:, -3:]
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


def test_evaluation_reports_the_color_loss_only():
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


def test_footprints_weight_the_color_loss():
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


def tensors_of(outputs: dict) -> dict[str, torch.Tensor]:
    """A training's outputs, those in named tuples by the names of these."""
    inside = {k: v for value in outputs.values() if isinstance(value, tuple) for k, v in value._asdict().items()}
    return {name: value for name, value in outputs.items() if not isinstance(value, tuple)} | inside


def test_noise_of_the_rays_decides_a_training_step():
    model = build().train()
    assert model.randomness.width == NOISE
    torch.manual_seed(1)
    first = model(training_rays())
    torch.manual_seed(2)
    again = model(training_rays())
    first, again = tensors_of(first), tensors_of(again)
    assert all(torch.equal(first[name], again[name]) for name in first) and "interlevel" in first
    assert torch.equal(first["background"], training_rays().metadata[KEY][:, -3:])
    other = model(training_rays(seed=1))
    assert not torch.equal(first["rgb"], other["rgb"])
    shares = [tensors_of(model(training_rays()[part])) for part in (slice(0, 8), slice(8, 20))]
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
    jitter = bundle.metadata[KEY][:, :3] if training else None
    rounds = rounds_of(model, bundle)
    fields = [model.proposal, model.proposal, model.field]
    centered = torch.full((len(bundle), 3), 0.5)

    def expected(anneal: float) -> list[Round]:
        model.sampler.train().set_anneal(anneal)
        return model.sampler.rounds(model.collider(bundle), fields, centered if jitter is None else jitter)

    same, other = expected(schlick_bias(0.02, slope) if annealed else 1.0), expected(1.0 if annealed else 0.3)
    assert all(torch.equal(a.bins, b.bins) for a, b in zip(rounds, same))
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


# All of it.


def test_a_few_steps_learn_a_color_and_make_proposals_enclose_it():
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
