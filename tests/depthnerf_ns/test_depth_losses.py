"""Depth losses against loops over intervals, dense integration, and what each of them promises."""

import itertools
import math
from collections.abc import Callable

import pytest
import torch

from depthnerf_ns.depth_losses import (
    annealed,
    bounds_likelihood_loss,
    ds_nerf_loss,
    expected_depth,
    has_depth,
    mean_over_valid,
    mixture_likelihood_loss,
    normal_cosine_loss,
    orientation_loss,
    rendered_l2_loss,
    urf_loss,
    weight_bounds_loss,
    widened_epsilon,
)

DOUBLE = torch.float64
EPSILON = 0.05
Loss = Callable[..., torch.Tensor]


def l2(t, w, depth, epsilon=0.0, valid=None):
    """Rendered L2 with the others' arguments."""
    return rendered_l2_loss(t, w, depth, valid)


def bounds_exact(t, w, depth, epsilon=EPSILON, valid=None):
    """Bounds for exact depth."""
    return weight_bounds_loss(t, w, depth, epsilon, 0.0, valid=valid)


def likelihood_tolerant(t, w, depth, epsilon=EPSILON, valid=None):
    """Likelihood with a flat top."""
    return mixture_likelihood_loss(t, w, depth, epsilon, 1.0, valid=valid)


LOSSES: dict[str, Loss] = {
    "l2": l2,
    "urf": urf_loss,
    "ds-nerf": lambda t, w, depth, epsilon=EPSILON, valid=None: ds_nerf_loss(t, w, depth, epsilon, valid=valid),
    "bounds, exact": bounds_exact,
    "bounds": weight_bounds_loss,
    "likelihood": mixture_likelihood_loss,
    "likelihood, tolerant": likelihood_tolerant,
    "bounds and likelihood": bounds_likelihood_loss,
}
every_loss = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES.keys())


def ray(rays: int = 5, n: int = 24, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Random endpoints between 1 and 2, weights that sum to less than 1 (some 0), and depths."""
    generator = torch.Generator().manual_seed(seed)
    t = 1.0 + torch.rand(rays, n + 1, generator=generator, dtype=DOUBLE).sort(-1).values
    w = torch.rand(rays, n, generator=generator, dtype=DOUBLE) ** 3
    w = w * (torch.rand(rays, n, generator=generator, dtype=DOUBLE) > 0.2)
    total = 0.5 + 0.5 * torch.rand(rays, 1, generator=generator, dtype=DOUBLE)
    return t, total * w / w.sum(-1, keepdim=True), 1.2 + 0.6 * torch.rand(rays, generator=generator, dtype=DOUBLE)


def even(n: int = 200) -> torch.Tensor:
    """Endpoints of n equal intervals between 1 and 2."""
    return torch.linspace(1.0, 2.0, n + 1, dtype=DOUBLE)[None]


def at(place: float, t: torch.Tensor, mass: float = 1.0) -> torch.Tensor:
    """Weights of a surface: all mass in the interval that holds the place."""
    return mass * ((t[:, :-1] <= place) & (t[:, 1:] > place)).to(t.dtype)


def phi(x: float) -> float:
    """Normal distribution function."""
    return 0.5 * (1.0 + math.erf(x / math.sqrt(2.0)))


def mean(values: list[float]) -> float:
    """Mean, or 0 of nothing."""
    return sum(values) / max(len(values), 1)


# One interval at a time.


def bounds_loop(t: list[float], w: list[float], depth: float, epsilon: float, beta: float) -> float:
    """W at the end of each interval against the two curves."""
    empty, near, far, opacity = [], [], [], 0.0
    for end, weight in zip(t[1:], w):
        opacity += weight
        if end <= depth - (3 + beta) * epsilon:
            empty.append(weight**2)
        elif end <= depth:
            near.append(max(opacity - phi((end - (depth - beta * epsilon)) / epsilon), 0.0) ** 2)
        else:
            far.append(max(phi((end - (depth + beta * epsilon)) / epsilon) - opacity, 0.0) ** 2)
    return 1.0 * mean(empty) + 0.1 * (mean(near) + mean(far))


def urf_loop(t: list[float], w: list[float], depth: float, epsilon: float) -> float:
    """Squares before, against the kernel's mass around, and rendered depth."""
    sigma, loss = epsilon / 3, 0.0
    for start, end, weight in zip(t[:-1], t[1:], w):
        if start >= depth + epsilon:
            continue
        low, high = max(start, depth - epsilon), min(end, depth + epsilon)
        mass = phi((high - depth) / sigma) - phi((low - depth) / sigma) if high > low else 0.0
        loss += (weight - mass / (phi(3) - phi(-3))) ** 2
    rendered = sum(weight * (a + b) / 2 for a, b, weight in zip(t[:-1], t[1:], w)) / sum(w)
    return loss + (rendered - depth) ** 2


def ds_loop(t: list[float], w: list[float], depth: float, sigma: float) -> float:
    """Cross-entropy of the Gaussian's masses."""
    masses = [phi((b - depth) / sigma) - phi((a - depth) / sigma) for a, b in itertools.pairwise(t)]
    return -sum(mass * math.log(weight + 1e-5) for mass, weight in zip(masses, w))


def likelihood_dense(t: list[float], w: list[float], depth: float, epsilon: float, beta: float) -> float:
    """Integral of the ray's density times the kernel, by midpoints."""
    total, steps = 0.0, 2000
    for start, end, weight in zip(t[:-1], t[1:], w):
        for i in range(steps):
            place = start + (end - start) * (i + 0.5) / steps
            total += weight / steps * math.exp(-0.5 * max(abs(place - depth) / epsilon - beta, 0.0) ** 2)
    beyond = math.exp(-0.5 * max(max(t[-1] - depth, 0.0) / epsilon - beta, 0.0) ** 2)
    total += (1.0 - sum(w)) * beyond
    return -math.log((total + 0.001) / 1.001)


def rows(t: torch.Tensor, w: torch.Tensor, depth: torch.Tensor) -> list[tuple[list[float], list[float], float]]:
    """Each ray's numbers."""
    return list(zip(t.tolist(), w.tolist(), depth.tolist()))


@pytest.mark.parametrize("beta", [0.0, 1.0, 2.0])
def test_bounds_match_a_loop(beta: float):
    t, w, depth = ray()
    found = weight_bounds_loss(t, w, depth, EPSILON, beta)
    assert found.tolist() == pytest.approx([bounds_loop(*row, EPSILON, beta) for row in rows(t, w, depth)])


def test_urf_and_ds_nerf_and_l2_match_loops():
    t, w, depth = ray()
    assert urf_loss(t, w, depth, 0.1).tolist() == pytest.approx([urf_loop(*row, 0.1) for row in rows(t, w, depth)])
    assert ds_nerf_loss(t, w, depth, 0.1).tolist() == pytest.approx([ds_loop(*row, 0.1) for row in rows(t, w, depth)])
    middles = [
        sum(x * (a + b) / 2 for a, b, x in zip(ends[:-1], ends[1:], weights)) / sum(weights)
        for ends, weights, _ in rows(t, w, depth)
    ]
    assert expected_depth(t, w).tolist() == pytest.approx(middles)
    squares = [(x - place) ** 2 for x, place in zip(middles, depth.tolist())]
    assert rendered_l2_loss(t, w, depth).tolist() == pytest.approx(squares)


@pytest.mark.parametrize(("epsilon", "beta"), [(0.05, 0.0), (0.05, 2.0), (0.5, 0.0), (0.5, 0.3)])
def test_likelihood_matches_dense_integration(epsilon: float, beta: float):
    """Narrow and wide kernels: the exact mean over long intervals and Simpson's rule over short ones."""
    t, w, depth = ray(rays=3, n=12)
    depth[2] = 1.98  # the kernel reaches over the far end
    found = mixture_likelihood_loss(t, w, depth, epsilon, beta)
    expected = [likelihood_dense(*row, epsilon, beta) for row in rows(t, w, depth)]
    assert found.tolist() == pytest.approx(expected, rel=2e-5)


def test_combination_is_the_sum_of_its_parts():
    t, w, depth = ray()
    likelihood = mixture_likelihood_loss(t, w, depth, math.sqrt(5) * EPSILON)
    expected = weight_bounds_loss(t, w, depth, EPSILON, 2.0) + 0.02 * likelihood
    assert torch.allclose(bounds_likelihood_loss(t, w, depth, EPSILON, 2.0, lambda_likelihood=0.02), expected)


# Against the papers' integrals, on a fine grid.


def test_ds_nerf_is_the_papers_sum_where_intervals_are_short():
    t, sigma, depth = even(2000), 0.03, torch.tensor([1.5], dtype=DOUBLE)
    w = torch.rand(1, 2000, generator=torch.Generator().manual_seed(1), dtype=DOUBLE) / 2000
    middles = 0.5 * (t[:, 1:] + t[:, :-1])
    gaussian = torch.exp(-((middles - depth) ** 2) / (2 * sigma**2))
    paper = -(torch.log(w) * gaussian * (t[:, 1:] - t[:, :-1])).sum(-1)
    found = ds_nerf_loss(t, w, depth, sigma, floor=0.0) * sigma * math.sqrt(2 * math.pi)
    assert torch.allclose(found, paper, rtol=1e-4)


def test_urf_is_the_papers_integral_times_the_interval():
    """Σ (w_i − k_i)² → Δ ∫ (w(t) − K(t))² dt for equal intervals, over all that lies before D + ε."""
    t, epsilon, depth = even(4000), 0.09, 1.5
    middles = 0.5 * (t[:, 1:] + t[:, :-1])
    density = 2.0 * (middles - 1.0)  # of the ray's end; integrates to 1
    sigma = epsilon / 3
    kernel = torch.exp(-0.5 * ((middles - depth) / sigma) ** 2) / (sigma * math.sqrt(2 * math.pi))
    kernel = kernel / math.erf(3 / math.sqrt(2)) * ((middles - depth).abs() < epsilon)
    integral = ((density - kernel) ** 2 * (middles < depth + epsilon)).sum() / 4000
    found = urf_loss(t, density / 4000, torch.tensor([depth], dtype=DOUBLE), epsilon, 0.0)
    assert found.item() == pytest.approx(integral.item() / 4000, rel=1e-3)


def test_bounds_tend_to_the_mean_over_distance():
    """A ray that ends at N(1.45, 0.06²), measured at 1.5 with ε 0.03 and β 1, integrated without any intervals."""
    n, depth, epsilon, beta = 4000, 1.5, 0.03, 1.0
    t = even(n)
    reached = torch.special.ndtr((t - 1.45) / 0.06)
    found = weight_bounds_loss(t, reached[:, 1:] - reached[:, :-1], torch.tensor([depth], dtype=DOUBLE), 0.03, beta)
    border = depth - (3 + beta) * epsilon
    near = torch.linspace(border, depth, 20001, dtype=DOUBLE)
    far = torch.linspace(depth, 2.0, 20001, dtype=DOUBLE)
    opacity = torch.special.ndtr((near - 1.45) / 0.06)
    above = torch.relu(opacity - torch.special.ndtr((near - depth) / epsilon + beta)) ** 2
    below = torch.special.ndtr((far - depth) / epsilon - beta) - torch.special.ndtr((far - 1.45) / 0.06)
    expected = 0.1 * (above.mean() + (torch.relu(below) ** 2).mean())
    assert above.mean() > 1e-3
    assert found.item() == pytest.approx(expected.item(), rel=1e-2)


# What is right and what is wrong.


@pytest.mark.parametrize("beta", [0.0, 0.5, 2.0, 4.0])
def test_a_surface_at_the_depth_is_within_all_bounds(beta: float):
    t, depth = even(), torch.tensor([1.5012], dtype=DOUBLE)
    assert weight_bounds_loss(t, at(1.5012, t), depth, EPSILON, beta).item() == 0.0


def test_a_surface_at_the_depth_costs_the_likelihood_nothing():
    t, depth = even(2000), torch.tensor([1.50025], dtype=DOUBLE)
    assert mixture_likelihood_loss(t, at(1.50025, t), depth, EPSILON).item() < 1e-4
    assert mixture_likelihood_loss(t, at(1.58, t), depth, EPSILON, 2.0).item() == pytest.approx(0.0, abs=1e-12)


@every_loss
@pytest.mark.parametrize("place", [1.05, 1.2, 1.95])
def test_weight_in_front_and_behind_is_punished(loss: Loss, place: float):
    t, depth = even(), torch.tensor([1.5012], dtype=DOUBLE)
    surface = at(1.5012, t)
    if loss is urf_loss:  # it asks for the kernel's shape
        reached = torch.special.ndtr((t - depth) / (EPSILON / 3))
        surface = reached[:, 1:] - reached[:, :-1]
    right = loss(t, surface, depth, EPSILON)
    wrong = loss(t, 0.9 * surface + at(place, t, 0.1), depth, EPSILON)
    assert wrong.item() > right.item() + 1e-5


@pytest.mark.parametrize("side", [-1.0, 1.0])
@every_loss
def test_moving_the_surface_away_never_pays(loss: Loss, side: float):
    if loss is urf_loss:  # its line of sight ends at D + ε: a sharp surface beyond costs less than one beside D
        side = -1.0
    t, depth = even(), torch.tensor([1.5025], dtype=DOUBLE)
    losses = [loss(t, at(1.5025 + side * 0.01 * k, t), depth, EPSILON).item() for k in range(45)]
    assert all(later >= earlier - 1e-9 for earlier, later in itertools.pairwise(losses))
    assert losses[-1] > losses[0]


def test_the_likelihoods_slope_against_fog_does_not_fade():
    """Fog of optical depth m in front of an opaque surface costs the likelihood m, the bounds about m²."""
    t, depth = even(), torch.tensor([1.5025], dtype=DOUBLE)
    fog = (t[:, 1:] < 1.2).to(DOUBLE)
    surface = at(1.5025, t)

    def cost(loss: Loss, m: float, **kwargs: float) -> float:
        w = (1 - math.exp(-m)) * fog / fog.sum() + math.exp(-m) * surface
        return (loss(t, w, depth, EPSILON, **kwargs) - loss(t, surface, depth, EPSILON, **kwargs)).item()

    for m in (0.02, 0.1, 1.0):
        assert cost(mixture_likelihood_loss, m, outlier=1e-6) == pytest.approx(m, rel=1e-3)
    assert cost(weight_bounds_loss, 0.1) > 3.8 * cost(weight_bounds_loss, 0.05)


def test_noisy_measurements_agree_on_their_mean_and_outliers_let_go():
    t = even(400).expand(40, -1)
    noise = 0.04 * torch.randn(40, generator=torch.Generator().manual_seed(3), dtype=DOUBLE)
    depth = 1.5 + noise - noise.mean()
    depth[0] = 1.9
    depth[1:] -= depth[1:].mean() - 1.5
    places = [1.3 + 0.0025 * (k + 0.5) for k in range(200)]
    costs = [mixture_likelihood_loss(t, at(place, t), depth, 0.05).sum().item() for place in places]
    assert places[costs.index(min(costs))] == pytest.approx(1.5, abs=0.003)


def test_an_empty_ray_explains_a_depth_beyond_its_end():
    t, depth = even(), torch.tensor([3.0], dtype=DOUBLE)
    empty = torch.zeros(1, 200, dtype=DOUBLE)
    assert mixture_likelihood_loss(t, empty, depth, EPSILON).item() == pytest.approx(0.0, abs=1e-12)
    assert mixture_likelihood_loss(t, at(1.5, t, 0.5), depth, EPSILON).item() == pytest.approx(math.log(1.001 / 0.501))
    assert mixture_likelihood_loss(t, empty, torch.tensor([1.5], dtype=DOUBLE), EPSILON).item() > 6.0


# Rays without depth, and numbers at the edge.


@every_loss
def test_a_ray_without_depth_gives_nothing_to_loss_or_gradient(loss: Loss):
    t, w, _ = ray(rays=6)
    w.requires_grad_()
    depth = torch.tensor([0.0, math.nan, math.inf, -math.inf, -1.0, 1.5], dtype=DOUBLE)
    epsilon = torch.tensor([math.nan, 0.0, 0.05, math.inf, 0.05, 0.05], dtype=DOUBLE)
    found = loss(t, w, depth, epsilon)
    assert (found[:5] == 0).all() and found[5] > 0
    total = mean_over_valid(found, has_depth(depth))
    total.backward()
    assert w.grad is not None and torch.isfinite(w.grad).all()
    assert (w.grad[:5] == 0).all() and (w.grad[5] != 0).any()
    assert torch.allclose(total, loss(t[5:], w[5:], depth[5:], epsilon[5:])[0])


@every_loss
def test_a_mask_leaves_rays_out(loss: Loss):
    t, w, depth = ray()
    valid = torch.tensor([True, False, True, False, False])
    found = loss(t, w, depth, EPSILON, valid=valid)
    assert torch.equal(found, torch.where(valid, loss(t, w, depth, EPSILON), 0.0))


@every_loss
@pytest.mark.parametrize("weights", ["zero", "one interval", "even"])
def test_losses_and_gradients_are_finite_at_the_edges(loss: Loss, weights: str):
    t, _, depth = ray()
    t, depth = t.float(), depth.float()
    t[:, -4:] = t[:, -1:]  # intervals of length 0, as a sampler leaves them at the far plane
    w = {"zero": 0.0, "one interval": 1.0, "even": 1 / 24}[weights] * torch.ones(5, 24)
    if weights == "one interval":
        w[:, 1:] = 0.0
    w.requires_grad_()
    found = loss(t, w, torch.cat([depth[:3], torch.tensor([0.5, 5.0])]), EPSILON)
    found.sum().backward()
    assert torch.isfinite(found).all() and w.grad is not None and torch.isfinite(w.grad).all()


@every_loss
def test_gradients_match_differences(loss: Loss):
    t, w, depth = ray(rays=2, n=8, seed=2)
    w = (0.8 * w + 0.01).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: loss(t, x, depth, EPSILON), (w,))


@every_loss
def test_single_precision_suffices(loss: Loss):
    for n in (24, 400):
        t, w, depth = ray(n=n)
        single = loss(t.float(), w.float(), depth.float(), EPSILON)
        assert single.dtype == torch.float32
        assert torch.allclose(single.double(), loss(t.float().double(), w, depth, EPSILON), rtol=2e-4, atol=1e-6)


@every_loss
def test_a_tolerance_for_each_ray_is_the_same_as_one_by_one(loss: Loss):
    t, w, depth = ray()
    epsilon = torch.linspace(0.02, 0.2, 5, dtype=DOUBLE)
    alone = [loss(t[i : i + 1], w[i : i + 1], depth[i : i + 1], epsilon[i].item()) for i in range(5)]
    assert torch.allclose(loss(t, w, depth, epsilon), torch.cat(alone))
    grid = loss(t.reshape(5, 1, -1), w.reshape(5, 1, -1), depth.reshape(5, 1), epsilon.reshape(5, 1))
    assert torch.allclose(grid[:, 0], torch.cat(alone))


# Units, and how the ray is cut.


@every_loss
def test_scene_units_do_not_matter(loss: Loss):
    """All lengths three times as long: no change, except that squared lengths are nine times as large."""
    t, w, depth = ray()
    before, after = loss(t, w, depth, EPSILON), loss(3 * t, w, 3 * depth, 3 * EPSILON)
    if loss is urf_loss:
        before, after = urf_loss(t, w, depth, EPSILON, 1.0), urf_loss(3 * t, w, 3 * depth, 3 * EPSILON, 1 / 9)
    assert torch.allclose(after, 9 * before if loss is l2 else before)


@pytest.mark.parametrize("loss", [l2, mixture_likelihood_loss, likelihood_tolerant], ids=lambda f: f.__name__)
def test_cutting_intervals_in_two_changes_nothing(loss: Loss):
    t, w, depth = ray()
    share = torch.rand(5, 24, generator=torch.Generator().manual_seed(5), dtype=DOUBLE)
    cuts = torch.lerp(t[:, :-1], t[:, 1:], share)
    fine_t = torch.cat([torch.stack([t[:, :-1], cuts], -1).flatten(1), t[:, -1:]], -1)
    fine_w = torch.stack([w * share, w * (1 - share)], -1).flatten(1)
    assert torch.allclose(loss(fine_t, fine_w, depth, EPSILON), loss(t, w, depth, EPSILON), rtol=1e-5)


# Averages and schedules.


def test_the_mean_counts_rays_with_depth_and_parts_add_up():
    loss = torch.tensor([1.0, 0.0, 5.0, 0.0], requires_grad=True)
    valid = torch.tensor([True, False, True, False])
    assert mean_over_valid(loss, valid).item() == 3.0
    none = mean_over_valid(loss, torch.zeros(4, dtype=torch.bool))
    none.backward()
    assert none.item() == 0.0 and loss.grad is not None and (loss.grad == 0).all()
    assert (loss[:1].sum() + loss[1:].sum()) / (valid[:1].sum() + valid[1:].sum()) == mean_over_valid(loss, valid)


def test_uncertain_pixels_get_a_wider_tolerance():
    assert widened_epsilon(0.03, torch.tensor([0.0, 0.04, math.nan])).tolist() == pytest.approx([0.03, 0.05, 0.03])


def test_annealing_depends_on_the_absolute_step():
    assert [annealed(s, 0.2, 0.05, 100, "constant") for s in (0, 50, 500)] == [0.2, 0.2, 0.2]
    assert [annealed(s, 0.2, 0.05, 100, "cosine") for s in (0, 50, 100, 500)] == pytest.approx([0.2, 0.125, 0.05, 0.05])
    expected = [0.2, 0.1, 0.05, 0.05]
    assert [annealed(s, 0.2, 0.05, 100, "exponential") for s in (0, 50, 100, 500)] == pytest.approx(expected)
    assert annealed(0, 0.2, 0.05, 0) == 0.05


# Normals.


def test_normal_loss_is_one_minus_the_cosine_and_skips_missing_normals():
    target = torch.tensor([[0.0, 0.0, 1.0], [0.0, 0.0, 0.0], [math.nan, 0.0, 0.0]])
    normals = torch.tensor([[0.0, 0.0, 1.0], [0.0, 0.6, 0.8]]).expand(3, 2, 3).clone().requires_grad_()
    found = normal_cosine_loss(torch.tensor([[0.25, 0.5]]).expand(3, 2), normals, target)
    assert found.tolist() == pytest.approx([0.5 * 0.2, 0.0, 0.0])
    found.sum().backward()
    assert normals.grad is not None and torch.isfinite(normals.grad).all() and (normals.grad[1:] == 0).all()


def test_orientation_loss_punishes_only_normals_that_face_away():
    normals = torch.tensor([[[0.0, 0.0, -1.0], [0.0, 0.6, 0.8], [0.0, 0.0, 1.0]]])
    found = orientation_loss(torch.tensor([[0.5, 0.25, 0.125]]), normals, torch.tensor([[0.0, 0.0, 1.0]]))
    assert found.tolist() == pytest.approx([0.25 * 0.64 + 0.125])
