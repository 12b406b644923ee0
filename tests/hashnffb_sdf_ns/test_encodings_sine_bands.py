"""Sine layers and Fourier features with derivatives written out: against autograd, and compiled against torch."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest
import torch
from torch import Tensor

from hashnffb_sdf_ns.encodings import sine_layer
from hashnffb_sdf_ns.encodings.fourier_bands import fourier_bands
from hashnffb_sdf_ns.encodings.sine_bands import sine_bands, sine_bands_reference


def arguments(bands: int = 3, count: int = 5, width: int = 4, features: int = 2, dtype=torch.float64) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = ((count, width), (bands, count, width), (bands, width, width), (bands, width), (bands, width, features))
    return [torch.randn(shape, generator=generator, dtype=dtype).requires_grad_() for shape in shapes]


def normal_loss(function, given: list[Tensor]) -> tuple[Tensor, ...]:
    """Derivatives of a loss on values and on derivatives by the first two arguments, as training takes them."""
    output = function(*given)
    slopes = torch.autograd.grad(output.square().sum(), given[:2], create_graph=True)
    loss = sum(slope.square().sum() for slope in slopes) + output.sin().sum()
    return output, *slopes, *torch.autograd.grad(loss, given)


@pytest.mark.parametrize("bands", (1, 3))
def test_derivatives_of_the_chain(bands):
    given = arguments(bands)
    assert torch.autograd.gradcheck(sine_bands, given)
    assert torch.autograd.gradgradcheck(sine_bands, given)


def test_training_derivatives_are_those_of_autograd():
    for a, b in zip(normal_loss(sine_bands, arguments()), normal_loss(sine_bands_reference, arguments())):
        assert torch.allclose(a, b, rtol=1e-9, atol=1e-10)


def test_derivatives_where_only_some_arguments_need_them():
    for needed in range(5):
        given = arguments()
        for index, argument in enumerate(given):
            argument.requires_grad_(index == needed)
        expected = torch.autograd.grad(sine_bands_reference(*given).square().sum(), given[needed])
        assert torch.allclose(torch.autograd.grad(sine_bands(*given).square().sum(), given[needed])[0], expected[0])


def test_derivatives_by_positions_do_not_compute_those_by_parameters(monkeypatch):
    from hashnffb_sdf_ns.encodings import sine_bands as module

    calls = []
    monkeypatch.setattr(module, "_correlate", lambda *args: calls.append(args))
    given = arguments()
    torch.autograd.grad(module.sine_bands(*given).sum(), given[:2], create_graph=True)
    assert not calls


def test_third_derivatives_are_refused():
    given = arguments()
    (slope,) = torch.autograd.grad(sine_bands(*given).sum(), given[0], create_graph=True)
    (second,) = torch.autograd.grad(slope.square().sum(), given[0], create_graph=True)
    with pytest.raises(RuntimeError):
        second.sum().backward()


def test_memory_is_freed_without_the_garbage_collector():
    gc.disable()
    try:
        given = arguments()
        output = sine_bands(*given)
        (slope,) = torch.autograd.grad(output.sum(), given[0], create_graph=True)
        watched = weakref.ref(output), weakref.ref(output.grad_fn)
        del output, slope
        assert [each() for each in watched] == [None, None]
    finally:
        gc.enable()


def test_derivatives_of_fourier_features():
    z = torch.randn(2, 3, 2, dtype=torch.float64, requires_grad=True)
    frequencies, shift = torch.randn(2, 2, 4, dtype=torch.float64), torch.randn(4, dtype=torch.float64)
    assert torch.allclose(fourier_bands(z, frequencies, shift), torch.sin(z @ frequencies + shift))
    assert torch.autograd.gradcheck(lambda z: fourier_bands(z, frequencies, shift), z)
    assert torch.autograd.gradgradcheck(lambda z: fourier_bands(z, frequencies, shift), z)


def test_compiled_sine_and_cosine_are_exact_to_float32():
    pytest.importorskip("numba")
    phase = torch.linspace(-50, 50, 100_001)
    hidden, cosine = sine_layer.sine(phase)
    assert (hidden - phase.double().sin()).abs().max() < 2e-7
    assert (cosine - phase.double().cos()).abs().max() < 2e-7
    large = torch.linspace(500, 3000, 10_001)
    assert (sine_layer.sine(large)[0] - large.double().sin()).abs().max() < 1e-6
    endless = sine_layer.sine(torch.tensor([1e9, -1e20, 3e38, float("nan"), float("inf")]))
    assert torch.stack(endless)[:, :3].abs().max() <= 1.001
    assert torch.stack(endless)[:, 3:].isnan().all()


def test_compiled_loops_compute_what_torch_does(monkeypatch):
    pytest.importorskip("numba")
    compiled = normal_loss(sine_bands, arguments(3, 300, 24, 5, torch.float32))
    monkeypatch.setattr(sine_layer, "_kernels", lambda: None)
    plain = normal_loss(sine_bands, arguments(3, 300, 24, 5, torch.float32))
    exact = normal_loss(
        sine_bands_reference, [a.detach().double().requires_grad_() for a in arguments(3, 300, 24, 5, torch.float32)]
    )
    assert sine_layer._compiled(torch.zeros(1)) is None
    for a, b, c in zip(compiled, plain, exact):
        scale = c.abs().max()
        assert (a - c).abs().max() < 1e-4 * scale and (b - c).abs().max() < 1e-4 * scale


def test_tangents_of_a_layer_that_adds_nothing():
    rows = torch.randn(4, 50, generator=torch.Generator().manual_seed(0))
    phase, tangent, cotangent, added_tangent = rows
    for compiled in (True, False):
        dtype = torch.float32 if compiled else torch.float64
        a, t, g, e = (row.to(dtype) for row in (phase, tangent, cotangent, added_tangent))
        hidden, cosine = sine_layer.sine(a)
        out = torch.empty_like(a), torch.empty_like(a)
        for added_tangent_given in (None, e):
            sine_layer.sine_tangent(t, cosine, hidden, None, g, added_tangent_given, out)
            expected = a.cos() * t + (0 if added_tangent_given is None else e)
            np.testing.assert_allclose(out[0], expected, atol=1e-5)
            np.testing.assert_allclose(out[1], -g * a.sin() * t, atol=1e-5)
