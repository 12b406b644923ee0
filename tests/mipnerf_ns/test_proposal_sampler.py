"""The proposal sampler on densities that are known, its gradients and its random numbers, nerfstudio's losses on what
it gives, and nerfacto with it."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from nerfstudio.cameras.rays import RayBundle, RaySamples
from nerfstudio.data.datamanagers.base_datamanager import VanillaDataManagerConfig
from nerfstudio.data.dataparsers.blender_dataparser import BlenderDataParserConfig
from nerfstudio.engine.callbacks import TrainingCallbackAttributes, TrainingCallbackLocation
from nerfstudio.field_components.field_heads import FieldHeadNames
from nerfstudio.model_components.losses import interlevel_loss, lossfun_distortion, lossfun_outer
from nerfstudio.models.nerfacto import NerfactoModelConfig
from nerfstudio.pipelines.base_pipeline import VanillaPipelineConfig
from PIL import Image
from torch import Tensor

from common_ns.rays.stepfun import max_dilate, sample_intervals
from mipnerf_ns.proposal_sampler import JITTER, SPACED_SAMPLERS, Guide, ProposalSampler, RayField, Round, spacing_maps
from tests.conftest import write_tiny_blender


def rays(count: int = 4, near: float = 0.5, far: float = 20.0) -> RayBundle:
    generator = torch.Generator().manual_seed(0)
    return RayBundle(
        origins=0.1 * torch.randn(count, 3, generator=generator),
        directions=torch.nn.functional.normalize(torch.randn(count, 3, generator=generator), dim=-1),
        pixel_area=torch.full((count, 1), 1e-5),
        nears=torch.full((count, 1), near),
        fars=torch.full((count, 1), far),
    )


def slab(start: float, end: float, density: float) -> Callable[[RaySamples], dict[FieldHeadNames, Tensor]]:
    """Field with a density between two ray distances, averaged over each interval as an integrated encoding does."""

    def field(samples: RaySamples) -> dict[FieldHeadNames, Tensor]:
        low, high = samples.frustums.starts, samples.frustums.ends
        overlap = (high.clamp_max(end) - low.clamp_min(start)).clamp_min(0.0)
        return {FieldHeadNames.DENSITY: density * overlap / (high - low).clamp_min(1e-9)}

    return field


class Blob(torch.nn.Module):
    """Field whose density depends on positions and on a parameter."""

    def __init__(self, density: float) -> None:
        super().__init__()
        self.density = torch.nn.Parameter(torch.tensor(density))

    def forward(self, samples: RaySamples) -> dict[FieldHeadNames, Tensor]:
        return {FieldHeadNames.DENSITY: self.density_fn(samples.frustums.get_positions())}

    def density_fn(self, positions: Tensor, times: Tensor | None = None) -> Tensor:
        return self.density * torch.exp(-(positions - 1.0).norm(dim=-1, keepdim=True))


def rounds_of(
    sampler: ProposalSampler,
    bundle: RayBundle,
    fields: list[RayField],
    anneal: float = 1.0,
    jitter: Tensor | None = None,
    guide: Guide | None = None,
) -> list[Round]:
    """As in training; centered samples if there is no jitter."""
    sampler.train().set_anneal(anneal)
    jitter = torch.full((*bundle.shape, len(sampler.counts)), 0.5) if jitter is None else jitter
    return sampler.rounds(bundle, fields, jitter, guide)


def distances(round_: Round) -> Tensor:
    """Middles of a round's intervals as ray distances [n, s]."""
    frustums = round_.samples.frustums
    return (0.5 * (frustums.starts + frustums.ends))[..., 0]


@pytest.mark.parametrize("spacing", ["uniform", "disparity", "piecewise"])
def test_last_round_gathers_at_a_thin_slab(spacing):
    sampler = ProposalSampler((64, 64, 32), spacing)
    bundle = rays()
    first, second, last = rounds_of(sampler, bundle, [slab(4.0, 4.02, 400.0)] * 3)
    near_slab = [((distances(r) - 4.01).abs() < 0.15).float().mean() for r in (first, second, last)]
    assert near_slab[0] < 0.1 and near_slab[1] > 0.2 and near_slab[2] > 0.9
    weight = (last.weights[..., 0] * ((distances(last) - 4.01).abs() < 0.15)).sum(-1)
    assert (weight > 0.99).all()


def test_a_slab_that_later_rounds_alone_would_miss_stays_in_sight():
    """Dilation keeps samples around a surface, so that one that moves in training is found again."""
    sampler = ProposalSampler((32, 32, 16), "uniform")
    *_, last = rounds_of(sampler, rays(), [slab(4.0, 4.05, 1e3)] * 3)
    spread = last.bins[:, -1] - last.bins[:, 0]
    # At least the bias and the multiplier to both sides.
    assert (spread > 2 * (0.0025 + 0.5 / (32 * 32)) * 0.9).all() and (spread < 0.1).all()


def test_dilation_shrinks_with_the_number_of_intervals_so_far():
    sampler = ProposalSampler((8, 6, 5), "uniform", dilation_multiplier=0.7, dilation_bias=0.01)
    first, second, last = rounds_of(sampler, rays(), [slab(2.0, 9.0, 0.3), slab(2.0, 9.0, 0.3), slab(2.0, 9.0, 0.3)])
    expected = max_dilate(first.bins, first.weights[..., 0], 0.01 + 0.7 / 8)
    assert torch.equal(second.bins, sample_intervals(*expected, 6))
    expected = max_dilate(second.bins, second.weights[..., 0], 0.01 + 0.7 / (8 * 6))
    assert torch.equal(last.bins, sample_intervals(*expected, 5))


def test_each_round_has_its_number_of_samples():
    rounds = rounds_of(ProposalSampler((7, 5, 3), "uniform"), rays(), [slab(2, 3, 1)] * 3)
    assert [r.weights.shape for r in rounds] == [(4, 7, 1), (4, 5, 1), (4, 3, 1)]
    for r, count in zip(rounds, (7, 5, 3)):
        assert r.bins.shape == (4, count + 1) and (r.bins.diff() >= 0).all()
        frustums, deltas = r.samples.frustums, r.samples.deltas
        assert torch.equal(deltas, frustums.ends - frustums.starts) and (deltas >= 0).all()
        assert torch.equal(frustums.ends[:, :-1], frustums.starts[:, 1:])
        assert torch.equal(frustums.pixel_area, torch.full((4, count, 1), 1e-5))  # fields see it, for Gaussians
        to_distance = r.samples.spacing_to_euclidean_fn
        assert torch.allclose(to_distance(r.bins[:, :-1]), frustums.starts[..., 0])


def test_a_single_round_renders_evenly_spaced_samples():
    (only,) = rounds_of(ProposalSampler((8,), "uniform"), rays(near=1.0, far=5.0), [slab(2.0, 3.0, 2.0)])
    assert torch.allclose(only.samples.frustums.starts[0, :, 0], torch.linspace(1, 5, 9)[:-1])
    opacity = 1.0 - torch.exp(torch.tensor(-2.0))
    assert torch.allclose(only.weights.sum(1), opacity.expand(4, 1))


def test_fields_must_match_the_rounds():
    with pytest.raises(ValueError):
        rounds_of(ProposalSampler((7, 5, 3)), rays(), [slab(2, 3, 1)] * 2)


def test_no_gradient_from_samples_to_earlier_rounds_but_from_the_interlevel_loss():
    proposal, field = Blob(1.0), Blob(3.0)
    rounds = rounds_of(ProposalSampler((16, 16, 8), "uniform"), rays(), [proposal, proposal, field])
    last = rounds[-1]
    assert not last.samples.frustums.starts.requires_grad and not last.bins.requires_grad
    gradients = torch.autograd.grad(
        last.weights.square().sum(), [proposal.density, field.density], allow_unused=True, retain_graph=True
    )
    assert gradients[0] is None and gradients[1] is not None and gradients[1] != 0
    loss = interlevel_loss([r.weights for r in rounds], [r.samples for r in rounds])
    gradients = torch.autograd.grad(loss, [proposal.density, field.density], allow_unused=True)
    assert gradients[0] is not None and gradients[0] != 0 and gradients[1] is None


def test_jitter_alone_decides_the_samples():
    """Not the global random state, nor the rays that share the batch: a step is the same however rays are divided."""
    sampler, fields = ProposalSampler((16, 12, 8), "disparity"), [slab(2.0, 3.0, 1.0)] * 3
    bundle, jitter = rays(10), torch.rand(10, 3, generator=torch.Generator().manual_seed(1))
    torch.manual_seed(0)
    together = rounds_of(sampler, bundle, fields, 0.7, jitter)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    halves = [rounds_of(sampler, bundle[part], fields, 0.7, jitter[part]) for part in (slice(0, 3), slice(3, 10))]
    assert torch.equal(torch.get_rng_state(), state)
    for index, whole in enumerate(together):
        parts = [half[index] for half in halves]
        assert torch.equal(whole.bins, torch.cat([part.bins for part in parts]))
        assert torch.equal(whole.weights, torch.cat([part.weights for part in parts]))
    other = rounds_of(sampler, bundle, fields, 0.7, jitter.flip(-1))
    assert all(not torch.equal(a.bins, b.bins) for a, b in zip(together, other))


def test_each_round_has_a_jitter_of_its_own():
    sampler, fields = ProposalSampler((16, 12, 8), "uniform"), [slab(2.0, 9.0, 0.2)] * 3
    base = rounds_of(sampler, rays(), fields, 1.0, torch.full((4, 3), 0.5))
    centered = sampler.eval().rounds(rays(), fields)
    for changed in range(3):
        jitter = torch.full((4, 3), 0.5)
        jitter[:, changed] = 0.1
        rounds = rounds_of(sampler, rays(), fields, 1.0, jitter)
        for index in range(changed + 1):
            assert torch.equal(rounds[index].bins, base[index].bins) == (index < changed)
    assert all(torch.equal(a.bins, b.bins) for a, b in zip(base, centered))


def test_random_numbers_come_with_the_rays_or_are_drawn_in_training():
    sampler, fields = ProposalSampler((16, 12, 8), "uniform"), [slab(2.0, 9.0, 0.2)] * 3
    jitter = torch.rand(4, 3, generator=torch.Generator().manual_seed(2))
    given = rays()
    given.metadata[JITTER] = jitter
    expected = rounds_of(sampler, rays(), fields, 1.0, jitter)
    assert all(torch.equal(a.bins, b.bins) for a, b in zip(sampler.rounds(given, fields), expected))
    drawn = [sampler.rounds(rays(), fields)[0].bins for _ in range(2)]
    assert not torch.equal(*drawn)
    sampler.eval()
    assert torch.equal(sampler.rounds(rays(), fields)[0].bins, rounds_of(sampler, rays(), fields)[0].bins)


def test_nerfstudios_models_get_the_same_samples_of_densities_at_positions():
    proposals = [Blob(1.0), Blob(2.0)]
    sampler = ProposalSampler((16, 12, 8), "piecewise", update_sched=lambda step: 2.0)
    expected = rounds_of(sampler, rays(), [*proposals, Blob(3.0)], 0.7)
    bundle = rays()
    bundle.metadata[JITTER] = torch.full((4, 3), 0.5)

    def call() -> tuple[RaySamples, list[Tensor], list[RaySamples]]:
        return sampler(bundle, density_fns=[blob.density_fn for blob in proposals])

    last, weights, samples = call()
    assert torch.equal(last.spacing_starts, expected[-1].samples.spacing_starts)
    for proposal, weight, sample in zip(expected[:-1], weights, samples, strict=True):
        assert torch.equal(weight, proposal.weights) and torch.equal(sample.deltas, proposal.samples.deltas)
    # By the schedule, two steps without a gradient follow each with one, after the first ten.
    found = []
    for step in range(10, 17):
        found.append(call()[1][0].requires_grad)
        sampler.step_cb(step)
    assert found == [True, False, False, True, False, False, True]


def disc_scene(folder: Path) -> Path:
    """A tiny Blender data set of an orange disc before nothing, as a ball looks."""
    write_tiny_blender(folder)
    y, x = np.mgrid[:16, :16] - 7.5
    picture = np.where(np.hypot(x, y)[..., None] < 5.0, [230, 120, 30, 255], [0, 0, 0, 0]).astype(np.uint8)
    for file in folder.glob("*/*.png"):
        Image.fromarray(picture).save(file)
    return folder


def test_nerfacto_trains_with_it(tmp_path, monkeypatch):
    """In the place of its own sampler, with what its callbacks do to it."""
    # Nerfacto builds LPIPS, which downloads weights.
    monkeypatch.setattr("torchmetrics.image.lpip.LearnedPerceptualImagePatchSimilarity", lambda normalize: None)
    torch.manual_seed(0)
    small = {"num_levels": 4, "log2_hashmap_size": 12, "hidden_dim": 16, "hidden_dim_color": 16, "max_res": 64}
    proposals = [{"hidden_dim": 8, "log2_hashmap_size": 10, "num_levels": 3, "max_res": 32, "use_linear": False}]
    model_config = NerfactoModelConfig(
        implementation="torch",
        proposal_net_args_list=proposals,
        appearance_embed_dim=4,
        background_color="white",
        near_plane=2.0,
        far_plane=6.0,
        **small,
    )
    data = BlenderDataParserConfig(data=disc_scene(tmp_path))
    datamanager = VanillaDataManagerConfig(dataparser=data, train_num_rays_per_batch=256)
    pipeline = VanillaPipelineConfig(datamanager=datamanager, model=model_config).setup(device="cpu")
    model = pipeline.model
    theirs = model.proposal_sampler
    model.proposal_sampler = ProposalSampler((24, 16, 12), "piecewise", update_sched=theirs.update_sched)
    callbacks = model.get_training_callbacks(TrainingCallbackAttributes(None, None, pipeline, None))
    optimizer = torch.optim.Adam([p for group in model.get_param_groups().values() for p in group], lr=1e-2)
    pipeline.train()
    losses = []
    for step in range(20):
        for callback in callbacks:
            callback.run_callback_at_location(step, TrainingCallbackLocation.BEFORE_TRAIN_ITERATION)
        optimizer.zero_grad()
        outputs, loss_dict, _ = pipeline.get_train_loss_dict(step)
        assert [w.shape[1] for w in outputs["weights_list"]] == [24, 16, 12]
        sum(loss_dict.values()).backward()
        if step == 0:
            for network in model.proposal_networks:
                assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())
                assert any(bool(p.grad.any()) for p in network.parameters())
        optimizer.step()
        losses.append(float(loss_dict["rgb_loss"]))
        for callback in callbacks:
            callback.run_callback_at_location(step, TrainingCallbackLocation.AFTER_TRAIN_ITERATION)
    assert all(np.isfinite(losses)) and np.mean(losses[-3:]) < 0.65 * np.mean(losses[:3])
    assert 0.0 < model.proposal_sampler._anneal < 0.5  # from its callback


def test_rounds_work_on_images_of_rays_as_on_lists():
    sampler, fields = ProposalSampler((8, 6, 4), "disparity"), [slab(2.0, 3.0, 1.0)] * 3
    flat, image = rounds_of(sampler, rays(6), fields), rounds_of(sampler, rays(6).reshape((2, 3)), fields)
    for a, b in zip(flat, image):
        assert torch.equal(a.bins, b.bins.reshape(6, -1)) and torch.equal(a.weights, b.weights.reshape(6, -1, 1))


def test_proposals_are_ignored_at_the_start_of_annealing():
    """Whether they are empty, or leave nothing but empty space beside a slab."""
    sampler = ProposalSampler((32, 32, 16), "uniform")
    empty = rounds_of(sampler, rays(), [slab(2.0, 3.0, 0.0)] * 3, anneal=0.0)
    dense = rounds_of(sampler, rays(), [slab(4.0, 4.2, 100.0)] * 3, anneal=0.0)
    for a, b in zip(empty, dense):
        assert torch.equal(a.bins, b.bins)
        assert (a.bins - torch.linspace(0, 1, a.bins.shape[-1])).abs().max() < 0.02


def test_annealing_moves_samples_to_the_density_step_by_step():
    sampler = ProposalSampler((64, 64, 32), "uniform")
    shares = []
    for anneal in (0.0, 0.3, 1.0):
        last = rounds_of(sampler, rays(), [Gaussian()] * 3, anneal)[-1]
        shares.append(float(((distances(last) - 6.0).abs() < 1.5).float().mean()))
    assert shares[0] < 0.2 < shares[1] < shares[2] and shares[2] > 0.8


class Gaussian:
    """Field with a smooth bump of density at distance 6."""

    def __call__(self, samples: RaySamples) -> dict[FieldHeadNames, Tensor]:
        middle = 0.5 * (samples.frustums.starts + samples.frustums.ends)
        return {FieldHeadNames.DENSITY: 1e-3 + torch.exp(-0.5 * ((middle - 6.0) / 0.5) ** 2)}


def test_padding_keeps_looking_at_empty_stretches():
    for padding, found in ((0.0, False), (0.5, True)):
        sampler = ProposalSampler((32, 32, 32), "uniform", resample_padding=padding)
        last = rounds_of(sampler, rays(near=0.0, far=10.0), [slab(4.0, 4.2, 100.0)] * 3)[-1]
        assert bool((distances(last) > 8.0).any()) is found


@pytest.mark.parametrize("spacing", ["uniform", "disparity", "piecewise", "power"])
@pytest.mark.parametrize(("near", "far"), [(0.05, 1000.0), (0.2, 1000.0), (0.3, 0.8), (1.5, 6.0), (0.001, 6.0)])
def test_spacing_runs_from_the_near_plane_to_the_far_plane(spacing, near, far):
    sampler, planes = SPACED_SAMPLERS[spacing](), (torch.tensor([[near]]), torch.tensor([[far]]))
    to_distance, _ = spacing_maps(sampler, *planes)
    s = torch.linspace(0, 1, 101)[None]
    t = to_distance(s)
    assert float(t[0, 0]) == pytest.approx(near, rel=1e-4) and float(t[0, -1]) == pytest.approx(far, rel=1e-3)
    assert (t.diff() > 0).all()
    # In double precision: a distance of 1,000 in single precision says little about its inverse.
    to_distance, to_spacing = spacing_maps(sampler, *(plane.double() for plane in planes))
    assert torch.allclose(to_spacing(to_distance(s.double())), s.double(), atol=1e-9)


@pytest.mark.parametrize("spacing", ["uniform", "disparity", "piecewise", "power"])
@pytest.mark.parametrize("far", [10.0, 1e3, 1e4, 1e6])
def test_the_last_interval_ends_at_the_far_plane_and_none_goes_beyond(spacing, far):
    """In single precision too, in which the curves that level out have no digits left: the power ladder's ended at
    81,919 for a million, and went beyond ten thousand."""
    to_distance, _ = spacing_maps(SPACED_SAMPLERS[spacing](), torch.tensor([[0.2]]), torch.tensor([[far]]))
    t = to_distance(torch.cat([torch.linspace(0, 0.999, 100), 1 - torch.arange(4).flip(0) * 2.0**-24])[None])
    assert float(t[0, -1]) == far and bool((t.diff() >= 0).all())
    samples = rounds_of(ProposalSampler((8, 6), spacing), rays(near=0.2, far=far), [slab(1.0, 2.0, 1.0)] * 2)[0].samples
    assert bool((samples.frustums.ends[:, -1] == far).all())


@pytest.mark.parametrize("spacing", ["uniform", "disparity", "piecewise"])
def test_spacing_is_nerfstudios(spacing):
    bundle = rays(near=0.3, far=40.0)
    expected = SPACED_SAMPLERS[spacing](num_samples=50).eval()(bundle)
    ours = spacing_maps(SPACED_SAMPLERS[spacing](), bundle.nears, bundle.fars)[0](expected.spacing_starts[..., 0])
    assert torch.allclose(ours, expected.frustums.starts[..., 0], rtol=1e-5)


def test_spacings_divide_what_their_names_say():
    near, far, s = torch.tensor([[0.5]]), torch.tensor([[8.0]]), torch.linspace(0, 1, 6)[None]
    assert torch.allclose(spacing_maps(SPACED_SAMPLERS["uniform"](), near, far)[0](s).diff(), torch.full((1, 5), 1.5))
    steps = (1.0 / spacing_maps(SPACED_SAMPLERS["disparity"](), near, far)[0](s)).diff()
    assert torch.allclose(steps, torch.full((1, 5), (1 / 8 - 2) / 5), atol=1e-5)
    t = spacing_maps(SPACED_SAMPLERS["piecewise"](), near, far)[0](torch.linspace(0, 1, 501)[None])
    inside = t[t < 1.0]
    beyond = 1.0 / t[t > 1.0]
    assert inside.diff().std() < 1e-5 and beyond.diff().std() < 1e-5
    # Half a unit of it covers distances up to 1, the other half all the rest.
    assert inside.diff().mean() == pytest.approx(2 * (1 - 0.5 / 8 - 0.25) / 500, rel=1e-2)


def test_a_guide_moves_the_last_rounds_samples_only():
    sampler = ProposalSampler((8, 6), "disparity")
    guided = torch.tensor([[0.5, 1.0, 2.0, 2.1, 2.2, 5.0, 9.0]])
    field = slab(2.0, 2.2, 10.0)
    free = rounds_of(sampler, rays(near=0.5, far=9.0), [field] * 2)
    first, last = rounds_of(sampler, rays(near=0.5, far=9.0), [field] * 2, guide=lambda t: guided.expand_as(t))
    assert torch.equal(first.bins, free[0].bins)
    assert torch.allclose(distances(last)[0], 0.5 * (guided[0, 1:] + guided[0, :-1]), rtol=1e-5)
    assert torch.allclose(last.bins[0], (1 / guided[0] - 2) / (1 / 9 - 2), atol=1e-5)


@pytest.mark.parametrize("spacing", ["uniform", "disparity", "piecewise", "power"])
def test_rays_that_start_at_0_have_finite_increasing_distances(spacing):
    """As nerfstudio's texture baking sends them."""
    for far in (0.02, 1000.0):
        to_distance, _ = spacing_maps(SPACED_SAMPLERS[spacing](), torch.zeros(1, 1), torch.full((1, 1), far))
        t = to_distance(torch.linspace(0, 1, 33)[None])
        assert torch.isfinite(t).all() and (t.diff() > 0).all() and t[0, 0] >= 0 and t[0, 0] <= 1e-3 * far
        assert float(t[0, -1]) == pytest.approx(far, rel=1e-3)
    if spacing != "disparity":
        assert t[0, 0] == 0.0


def outer_bound_loop(t: list[float], t_env: list[float], w_env: list[float]) -> list[float]:
    """Sum of the envelope's weights whose intervals touch each interval (mip-NeRF 360, equation 13)."""
    return [
        sum(
            weight
            for left, right, weight in zip(t_env[:-1], t_env[1:], w_env)
            if left <= end and right > start  # half-open intervals: what only ends where one starts is outside it
        )
        for start, end in itertools.pairwise(t)
    ]


def test_interlevel_loss_of_nerfstudio_is_the_papers():
    fields = [slab(3.0, 6.0, 0.2), slab(4.0, 8.0, 0.3), Gaussian()]
    rounds = rounds_of(ProposalSampler((16, 12, 8), "uniform"), rays(), fields)
    *proposals, last = rounds
    expected = 0.0
    for proposal in proposals:
        found = lossfun_outer(last.bins, last.weights[..., 0], proposal.bins, proposal.weights[..., 0])
        for row in range(4):
            w = last.weights[row, :, 0].tolist()
            bounds = outer_bound_loop(last.bins[row].tolist(), proposal.bins[row].tolist(), proposal.weights[row, :, 0])
            losses = [max(0.0, a - float(b)) ** 2 / (a + 1e-7) for a, b in zip(w, bounds)]
            assert found[row].tolist() == pytest.approx(losses, abs=1e-6)
            expected += sum(losses) / len(losses) / 4
    assert expected > 0
    total = interlevel_loss([r.weights for r in rounds], [r.samples for r in rounds])
    assert float(total) == pytest.approx(expected, rel=1e-4)


def test_distortion_loss_of_nerfstudio_is_the_double_integral():
    """Of the distance between two points, each drawn from the weights' step function."""
    generator = torch.Generator().manual_seed(0)
    t = torch.rand(6, generator=generator, dtype=torch.float64).sort().values
    w = torch.rand(5, generator=generator, dtype=torch.float64) / 5
    n = 400
    fine = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    places = (t[:-1, None] + fine * t.diff()[:, None]).flatten()
    mass = (w[:, None] / n).expand(5, n).flatten()
    integral = sum(float((mass * float(m) * (places - x).abs()).sum()) for x, m in zip(places, mass))
    assert float(lossfun_distortion(t, w)) == pytest.approx(integral, rel=1e-4)
