"""Codes of images that were not trained on are found from the colors that they should give."""

import torch

from common_ns.appearance import AppearanceCodes, fit_code


def test_code_of_an_affine_render_is_recovered():
    generator = torch.Generator().manual_seed(0)
    effect = torch.randn(50, 3, 4, generator=generator)
    base = torch.rand(50, 3, generator=generator)
    code = torch.tensor([0.5, -0.3, 0.1, 0.8])
    found = fit_code(lambda z: base + effect @ z, base + effect @ code, torch.zeros(4))
    assert torch.allclose(found, code, atol=0.02)
    assert not found.requires_grad


def test_with_noise_it_is_the_least_squares_solution():
    generator = torch.Generator().manual_seed(0)
    effect = torch.randn(40, 3, 2, generator=generator)
    target = effect @ torch.tensor([0.4, -0.6]) + 0.2 * torch.randn(40, 3, generator=generator)
    expected = torch.linalg.lstsq(effect.reshape(-1, 2), target.reshape(-1, 1)).solution[:, 0]
    assert torch.allclose(fit_code(lambda z: effect @ z, target, torch.zeros(2), steps=200), expected, atol=5e-3)


def test_fitting_works_without_gradients_and_leaves_others_alone():
    """Evaluation runs under no_grad; the network's parameters and the code that it starts from must not change."""
    layer, start = torch.nn.Linear(2, 3), torch.tensor([0.1, 0.2])
    before = layer.weight.detach().clone()
    with torch.no_grad():
        found = fit_code(lambda z: layer(z).expand(5, 3), torch.rand(5, 3), start, steps=20)
    assert not torch.equal(found, start) and start.tolist() == [0.10000000149011612, 0.20000000298023224]
    assert torch.equal(layer.weight, before) and layer.weight.grad is None and layer.bias.grad is None
    parameter = torch.nn.Parameter(start)
    fit_code(lambda z: layer(z).expand(5, 3), torch.rand(5, 3), parameter, steps=3)
    assert parameter.grad is None and torch.equal(parameter, start)


def test_a_code_without_effect_stays_where_it_starts():
    start = torch.tensor([0.3, -0.7])
    assert torch.equal(fit_code(lambda z: torch.zeros(4, 3) + 0.0 * z.sum(), torch.ones(4, 3), start), start)


def test_codes_are_drawn_once():
    torch.manual_seed(0)
    expected = 0.3 * torch.randn(8, 16)
    following = torch.rand(3)
    torch.manual_seed(0)
    codes = AppearanceCodes(8, 16, std=0.3)
    assert torch.allclose(codes.weight, expected) and torch.equal(torch.rand(3), following)
