"""The power ladder against its plain formula, the authors' numbers and finite differences."""

import math

import pytest
import torch

from common_ns.rays.power_ladder import inverse_power_ladder, power_ladder, power_ladder_limit
from tests.zip_nerf_numbers import numbers_of

DOUBLE = torch.float64
POWERS = [-math.inf, -1.5, -1.0, -0.25, 0.0, 0.5, 1.0, 2.0, math.inf]


@pytest.mark.parametrize("p", [-1.5, -1.0, -0.25, 0.5, 2.0])
def test_the_plain_formula(p: float):
    x = torch.linspace(0.1, 30.0, 50, dtype=DOUBLE)
    plain = abs(p - 1) / p * ((3.0 * x / abs(p - 1) + 1).pow(p) - 1)
    torch.testing.assert_close(power_ladder(x, p, 3.0), plain)


@pytest.mark.parametrize(("p", "nearby"), [(0.0, 1e-7), (1.0, 1 + 1e-7), (math.inf, 1e7), (-math.inf, -1e7)])
def test_special_cases_are_limits(p: float, nearby: float):
    x = torch.linspace(0.0, 3.0, 20, dtype=DOUBLE)
    torch.testing.assert_close(power_ladder(x, p), power_ladder(x, nearby), atol=1e-5, rtol=1e-5)


def test_the_authors_numbers():
    known = numbers_of("power_ladder")
    x = torch.tensor(known["x"])
    for case in known["cases"]:
        y = torch.tensor(case["y"])
        kept = y.isfinite() & (y < 1e30)  # theirs stops at the largest number, here at infinity
        found = power_ladder(x, float(case["p"]), case["premult"])
        # The plain formula that theirs is loses the digits of small distances.
        torch.testing.assert_close(found[kept], y[kept], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("p", POWERS)
def test_the_inverse_inverts_also_negative_numbers(p: float):
    x = torch.cat([-torch.logspace(-6, 1, 15, dtype=DOUBLE), torch.zeros(1, dtype=DOUBLE), torch.logspace(-6, 1, 15)])
    torch.testing.assert_close(inverse_power_ladder(power_ladder(x, p, 2.0), p, 2.0), x, rtol=1e-6, atol=0)


@pytest.mark.parametrize("p", POWERS)
def test_gradients(p: float):
    x = torch.tensor([-2.0, -0.1, 1e-3, 0.7, 4.0], dtype=DOUBLE, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: power_ladder(x, p, 1.5), (x,))
    y = power_ladder(x, p).detach().requires_grad_()
    assert torch.autograd.gradcheck(lambda y: inverse_power_ladder(y, p, 1.5), (y,))
    zero = torch.zeros(1, requires_grad=True)
    assert torch.autograd.grad(power_ladder(zero, p, 1.5), zero)[0].item() == pytest.approx(1.5)
    assert torch.autograd.grad(inverse_power_ladder(zero, p, 1.5), zero)[0].item() == pytest.approx(1 / 1.5)


@pytest.mark.parametrize("p", [-math.inf, -1.5, -0.25, 0.5])
def test_float32_keeps_small_distances(p: float):
    x = torch.tensor([1e-30, 1e-12, 1e-7])
    y = power_ladder(x, p)
    torch.testing.assert_close(y, x, rtol=1e-6, atol=0)
    torch.testing.assert_close(inverse_power_ladder(y, p), x, rtol=1e-6, atol=0)


@pytest.mark.parametrize("p", [-math.inf, -3.0, -1.5, -1.0, -0.3])
def test_infinity_goes_to_the_limit_and_comes_back_finite(p: float):
    limit = power_ladder_limit(p)
    y = power_ladder(torch.tensor([1e38, math.inf]), p, 2.0)
    torch.testing.assert_close(y, torch.tensor([limit, limit]))
    back = inverse_power_ladder(torch.tensor([0.9 * limit, limit, limit * 1.001]), p, 2.0)
    assert back.isfinite().all() and (back.diff() >= 0).all() and back[1] > 2 * back[0]


def test_how_far_float32_tells_distances_apart():
    """As the docstring states it."""
    y = torch.tensor(power_ladder_limit(-1.5))
    assert inverse_power_ladder(y, -1.5).item() == pytest.approx(1.6e5, rel=0.05)
