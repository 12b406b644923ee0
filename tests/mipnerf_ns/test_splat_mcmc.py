"""Gaussians as samples: what takes the place of one, where transparent ones go, and how far all wander."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch

from common_ns.splats.covariance import covariances
from mipnerf_ns.splat_mcmc import MCMCStrategy, regularizers, relocated
from mipnerf_ns.splat_start import gaussians_at


def params_of(number: int = 40, opacity: float = 0.5) -> torch.nn.ParameterDict:
    points, shades = torch.randn(2, number, 3, generator=torch.Generator().manual_seed(0))
    values = gaussians_at(points, shades.sigmoid(), sh_degree=1)
    values["opacities"] = torch.logit(torch.full((number, 1), opacity))
    return torch.nn.ParameterDict({name: torch.nn.Parameter(value) for name, value in values.items()})


def stepped(params: torch.nn.ParameterDict) -> dict[str, torch.optim.Adam]:
    """Optimizers that remember something of each number."""
    optimizers = {name: torch.optim.Adam([value], lr=1e-9) for name, value in params.items()}
    for name, optimizer in optimizers.items():
        params[name].grad = torch.ones_like(params[name])
        optimizer.step()
    return optimizers


def test_relocation_is_the_papers_equation_9():
    for opacity in (0.02, 0.5, 0.99):
        for number in (1, 2, 7, 30):
            new, factor = relocated(torch.tensor([opacity], dtype=torch.float64), torch.tensor([number]))
            expected = 1.0 - (1.0 - opacity) ** (1.0 / number)
            total = 0.0
            for i in range(1, number + 1):
                for k in range(i):
                    total += math.comb(i - 1, k) * (-1) ** k * expected ** (k + 1) / math.sqrt(k + 1)
            assert float(new) == pytest.approx(expected, rel=1e-9)
            assert float(factor) == pytest.approx(opacity / total, rel=1e-6)


@pytest.mark.parametrize(("opacity", "number"), [(0.3, 2), (0.9, 5), (0.999, 51)])
def test_rays_near_the_middle_meet_as_much_together_as_before(opacity, number):
    x = torch.linspace(-40.0, 40.0, 80001, dtype=torch.float64)
    new, factor = relocated(torch.tensor([opacity], dtype=torch.float64), torch.tensor([number]))
    one = opacity * torch.exp(-0.5 * x.square())
    many = 1.0 - (1.0 - new * torch.exp(-0.5 * (x / factor).square())) ** number
    assert float(many.sum()) == pytest.approx(float(one.sum()), rel=1e-6)
    assert float(many.max()) == pytest.approx(opacity, rel=1e-6)


def test_transparent_gaussians_move_to_where_opaque_ones_are():
    params = params_of()
    with torch.no_grad():
        params["opacities"][:15] = torch.logit(torch.tensor(0.004))
        params["opacities"][15:20] = torch.logit(torch.tensor(0.02))
    optimizers, before = stepped(params), {name: value.detach().clone() for name, value in params.items()}
    torch.manual_seed(0)
    assert MCMCStrategy(1.0, 40).relocate(params, optimizers) == 15
    assert len(params["means"]) == 40
    distance = torch.cdist(params["means"][:15], before["means"][15:])
    sources = 15 + distance.argmin(dim=1)
    assert float(distance.amin(dim=1).max()) == 0.0
    assert torch.equal(params["features_dc"][:15], before["features_dc"][sources])
    assert torch.equal(params["opacities"][:15], params["opacities"][sources])
    # Each Gaussian, with those that came to it, is as opaque as it was.
    kept = (1 - params["opacities"].sigmoid()[:, 0]).log()
    together = kept[15:].index_add(0, sources - 15, kept[:15])
    torch.testing.assert_close(1 - together.exp(), before["opacities"][15:].sigmoid()[:, 0], rtol=1e-4, atol=1e-6)
    alone = torch.ones(40, dtype=torch.bool)
    alone[:15] = alone[sources] = False
    for name, optimizer in optimizers.items():
        assert optimizer.param_groups[0]["params"] == [params[name]]
        remembered = optimizer.state[params[name]]["exp_avg"].flatten(1).abs().sum(dim=1) > 0
        assert torch.equal(remembered, alone)
    # Opaque ones are drawn more often: 25 have 25 times the opacity of the faint ones.
    assert int((sources >= 20).sum()) >= 13


def test_gaussians_are_added_up_to_the_bound():
    params = params_of(100)
    optimizers, strategy, numbers = stepped(params), MCMCStrategy(1.0, 112), []
    for _ in range(4):
        strategy.add(params, optimizers)
        numbers.append(len(params["means"]))
        assert all(len(value) == numbers[-1] for value in params.values())
        assert all(len(each.state[params[name]]["exp_avg"]) == numbers[-1] for name, each in optimizers.items())
    assert numbers == [105, 110, 112, 112]


def test_steps_of_the_schedule_move_and_the_others_wander():
    params = params_of(100)
    optimizers, strategy = stepped(params), MCMCStrategy(1.0, 200, start=10, stop=40, every=10)
    numbers = []
    for step in (9, 10, 20, 25, 30, 40):
        strategy.after_step(params, optimizers, step, 1e-4)
        numbers.append(len(params["means"]))
    assert [after - before for before, after in pairwise([100, *numbers])] == [0, 0, 5, 0, 5, 0]


def test_noise_has_the_shape_of_the_gaussian_and_spares_opaque_ones():
    params = params_of(20000, opacity=0.004)
    with torch.no_grad():
        params["scales"][:] = torch.tensor([0.3, 0.02, 0.1]).log()
        params["quats"][:] = torch.tensor([0.9, 0.1, -0.4, 0.2])
        params["means"][:] = 0.0
        params["opacities"][-1] = torch.logit(torch.tensor(0.5))
    torch.manual_seed(0)
    MCMCStrategy(2.0, 10, noise=5.0).wander(params, 0.1)
    moved, shape = params["means"].detach(), covariances(params["quats"][:1], params["scales"][:1].exp() / 2.0)[0]
    weight = 1.0 / (1.0 + math.exp(-100 * (0.005 - 0.004)))
    expected = (5.0 * 0.1 * weight) ** 2 * shape @ shape
    torch.testing.assert_close(moved[:-1].T.cov(), expected.detach(), rtol=0.05, atol=0.05 * float(expected.max()))
    assert float(moved[-1].norm()) < 1e-12


def test_scenes_of_any_size_wander_alike():
    moved = []
    for size in (1.0, 30.0):
        params = params_of(opacity=0.001)
        with torch.no_grad():
            params["means"] *= size
            params["scales"] += math.log(size)
        before = params["means"].detach().clone()
        torch.manual_seed(0)
        MCMCStrategy(size, 10).wander(params, 1e-4 * size)
        moved.append((params["means"].detach() - before) / size)
    torch.testing.assert_close(moved[0], moved[1], rtol=1e-3, atol=1e-5)
    scales = torch.rand(5, 3)
    first, second = (regularizers(torch.rand(5), size * scales, size)[1] for size in (1.0, 30.0))
    torch.testing.assert_close(first, second)


def test_broken_numbers_of_copies_are_bounded():
    new, factor = relocated(torch.tensor([0.5, 1.0, 0.0]), torch.tensor([1000, 3, 2]))
    assert bool(torch.isfinite(new).all()) and bool(torch.isfinite(factor).all())
    assert float(new[0]) == pytest.approx(1 - 0.5 ** (1 / 51), rel=1e-5)
