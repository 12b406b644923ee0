"""The interlevel loss of blurred histograms against numerical integration and the authors' numbers."""

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from mipnerf_ns.blurred_steps import blurred_interlevel_loss, blurred_weights
from tests.zip_nerf_numbers import numbers_of

DOUBLE = torch.float64


def histogram(rays: int, n: int, seed: int, dtype: torch.dtype = DOUBLE) -> tuple[Tensor, Tensor]:
    """Edges [rays, n + 1] from 0 to 1 and weights that sum to less than 1."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.rand(rays, n, generator=generator, dtype=DOUBLE) + 0.02
    t = torch.nn.functional.pad((lengths / lengths.sum(-1, keepdim=True)).cumsum(-1), (1, 0))
    w = torch.rand(rays, n, generator=generator, dtype=DOUBLE).pow(3)
    return t.to(dtype), (0.9 * w / w.sum(-1, keepdim=True)).to(dtype)


def integrated(t: Tensor, w: Tensor, t_query: Tensor, radius: float, steps: int = 10_000) -> Tensor:
    """Blurred weights of one ray, by midpoints: the density at x is the weight within [x − r, x + r], over 2 r."""
    found = []
    for a, b in pairwise(t_query):
        x = a + (b - a) * (torch.arange(steps, dtype=DOUBLE) + 0.5) / steps
        density = torch.zeros_like(x)
        for left, right, weight in zip(t[:-1], t[1:], w):
            overlap = (torch.minimum(right, x + radius) - torch.maximum(left, x - radius)).clamp_min(0.0)
            density += weight / (right - left) * overlap / (2 * radius)
        found.append(density.mean() * (b - a))
    return torch.stack(found)


@pytest.mark.parametrize("radius", [0.3, 0.03, 0.003])
def test_weights_are_the_integrals_of_the_blurred_density(radius: float):
    (t, w), (t_query, _) = histogram(2, 7, 0), histogram(2, 5, 1)
    found = blurred_weights(t, w, t_query, radius)
    for ray in range(2):
        torch.testing.assert_close(found[ray], integrated(t[ray], w[ray], t_query[ray], radius), atol=1e-7, rtol=0)


def test_without_blur_weights_are_those_of_overlaps():
    t, w = torch.tensor([0.0, 1.0, 4.0]), torch.tensor([0.4, 0.6])
    found = blurred_weights(t, w, torch.tensor([-1.0, 0.5, 2.5, 3.0, 9.0]), 0.0)
    torch.testing.assert_close(found, torch.tensor([0.2, 0.2 + 0.3, 0.1, 0.2]))


def test_a_wide_enough_range_keeps_all_weight():
    t, w = histogram(3, 9, 2)
    t_query = torch.tensor([-1.0, 0.2, 0.21, 0.8, 2.0], dtype=DOUBLE).expand(3, -1)
    torch.testing.assert_close(blurred_weights(t, w, t_query, 0.1).sum(-1), w.sum(-1))


def test_the_authors_numbers():
    for case in numbers_of("interlevel"):
        known = {name: torch.tensor(values) for name, values in case.items() if name != "radius"}
        arguments = known["t"], known["w"], known["t_proposal"]
        found = blurred_weights(*arguments, case["radius"])
        torch.testing.assert_close(found, known["resampled"], atol=2e-6, rtol=1e-4)
        loss = blurred_interlevel_loss(*arguments, known["w_proposal"], case["radius"])
        torch.testing.assert_close(loss, known["loss"], atol=1e-5, rtol=1e-4)


def test_gradients_by_the_proposals_weights():
    (t, w), (t_proposal, w_proposal) = histogram(2, 6, 3), histogram(2, 4, 4)
    w_proposal = (0.1 + 0.3 * w_proposal).requires_grad_()

    def loss(weights: Tensor) -> Tensor:
        return blurred_interlevel_loss(t, w, t_proposal, weights, 0.05)

    assert (loss(w_proposal) > 1e-3).all()
    assert torch.autograd.gradcheck(loss, (w_proposal,), eps=1e-7)


def test_no_gradient_reaches_the_last_round_or_the_edges():
    (t, w), (t_proposal, w_proposal) = histogram(2, 6, 3), histogram(2, 4, 4)
    inputs = [tensor.requires_grad_() for tensor in (t, w, t_proposal, w_proposal)]
    loss = blurred_interlevel_loss(t, w, t_proposal, w_proposal, 0.05)
    gradients = torch.autograd.grad(loss.sum(), inputs, allow_unused=True)
    assert [gradient is not None for gradient in gradients] == [False, False, False, True]


def test_splitting_an_interval_into_two_of_its_density_changes_nothing():
    (t, w), (t_proposal, _) = histogram(1, 6, 5), histogram(1, 9, 6)
    middle = 0.3 * t[:, 2:3] + 0.7 * t[:, 3:4]
    t_split = torch.cat([t[:, :3], middle, t[:, 3:]], dim=-1)
    w_split = torch.cat([w[:, :2], 0.7 * w[:, 2:3], 0.3 * w[:, 2:3], w[:, 3:]], dim=-1)
    whole, split = (blurred_weights(*steps, t_query=t_proposal, radius=0.02) for steps in ((t, w), (t_split, w_split)))
    torch.testing.assert_close(split, whole, atol=1e-12, rtol=0)


def test_a_small_shift_changes_the_loss_little_and_without_a_jump():
    """A thin peak that crosses an edge of the proposal: its weight moves over as it crosses, unblurred all at once."""
    t_proposal = torch.tensor([[0.0, 0.5, 1.0]], dtype=DOUBLE)
    w = torch.tensor([[0.0, 1.0, 0.0]], dtype=DOUBLE)
    place = torch.linspace(0.4, 0.6, 401, dtype=DOUBLE)[:, None]
    zero = torch.zeros_like(place)
    t = torch.cat([zero, place - 1e-6, place + 1e-6, zero + 1], dim=-1)
    step = 0.2 / 400

    def greatest_step(radius: float) -> Tensor:
        return blurred_weights(t, w.expand(401, -1), t_proposal.expand(401, -1), radius).diff(dim=0).abs().max()

    assert greatest_step(0.05) <= step / (2 * 0.05) * 1.001
    assert greatest_step(0.0) > 0.49


def test_float32_resolves_small_weights_behind_thin_peaks():
    """The loss divides by the proposal's weight, so that rounding errors there would be all that it sees."""
    t = torch.tensor([[0.0, 0.3, 0.30001, 0.9, 1.0]])
    w = torch.tensor([[0.0, 0.999, 0.0, 1e-6]])
    t_proposal = torch.tensor([[0.0, 0.25, 0.35, 0.5, 0.6, 1.0]])
    found = blurred_weights(t, w, t_proposal, 0.003)
    torch.testing.assert_close(
        found, torch.tensor([[0.0, 0.999, 0.0, 0.0, 1e-6 * (1 - 0.003 / 4 / 0.1)]]), atol=1e-9, rtol=1e-5
    )


def test_empty_intervals_count_with_their_weight():
    t = torch.tensor([[0.0, 0.5, 0.5, 1.0]])
    found = blurred_weights(t, torch.tensor([[0.1, 0.6, 0.2]]), torch.tensor([[0.0, 0.5, 1.0]]), 0.1)
    assert found[0, 0] > 0.3 and found[0, 1] > 0.3
    torch.testing.assert_close(found.sum(), torch.tensor(0.9 - 0.1 * 0.1 / 4 / 0.5 - 0.2 * 0.1 / 4 / 0.5))


def test_a_negative_radius_is_refused():
    with pytest.raises(ValueError, match=r"radius is -0\.1"):
        blurred_weights(torch.rand(1, 3), torch.rand(1, 2), torch.rand(1, 4), -0.1)
