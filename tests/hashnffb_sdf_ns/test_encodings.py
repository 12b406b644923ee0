"""Encodings of positions: what holds for all of them, and what each promises."""

from __future__ import annotations

import math
import typing
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from common_ns.errors import InputError
from common_ns.hash_grid import HashGridOptions
from hashnffb_sdf_ns.encodings import Encoding, EncodingConfig, EncodingName, make_encoding
from hashnffb_sdf_ns.encodings.fourier import FourierOptions, RandomFourierFeatures
from hashnffb_sdf_ns.encodings.hash import GridEncoding
from hashnffb_sdf_ns.encodings.nffb import NFFB, NFFBOptions
from hashnffb_sdf_ns.encodings.positional import PosencOptions, PositionalEncoding
from hashnffb_sdf_ns.encodings.style_nffb import StyleModNFFB

NAMES: tuple[EncodingName, ...] = typing.get_args(EncodingName)
GRIDS = tuple(name for name in NAMES if name not in ("posenc", "fourier"))
BANKS = ("nffb", "stylemod-nffb")

GRID = HashGridOptions(num_levels=4, log2_table_size=6, base_resolution=3, max_resolution=7, implementation="torch")
TINY = EncodingConfig(
    posenc=PosencOptions(num_frequencies=3),
    fourier=FourierOptions(num_frequencies=5),
    hash=GRID,
    nffb=NFFBOptions(grid=GRID, levels_per_band=2, width=6, num_features=3),
)


def make(name: EncodingName, config: EncodingConfig = TINY, seed: int = 0, spread: float = 1.0) -> Encoding:
    """An encoding in double precision; its table is as large as after training, and the attention is not uniform."""
    encoding = make_encoding(name, config, torch.Generator().manual_seed(seed)).double()
    generator = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for table in encoding.tables():
            table.uniform_(-spread, spread, generator=generator)
        if isinstance(encoding, StyleModNFFB):
            encoding.attention_weight.normal_(generator=generator)
    return encoding


def points(encoding: Encoding, count: int, seed: int = 0) -> Tensor:
    """Random positions that are within no level close to the border of a cell, where derivatives jump."""
    x = 2 * torch.rand(100 * count, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) - 1
    clear = torch.ones(len(x), dtype=torch.bool)
    if isinstance(encoding, GridEncoding):
        for level in encoding.grid.shape.levels:
            place = (0.5 * x + 0.5) * level.scale + 0.5
            clear &= ((place - place.round()).abs() > 0.02).all(1)
    return x[clear][:count]


def called(encoding: Encoding):
    """The features as a function of positions and parameters, for gradcheck."""
    names = [name for name, _ in encoding.named_parameters()]
    return lambda x, *values: torch.func.functional_call(encoding, dict(zip(names, values)), x)


@pytest.mark.parametrize("progress", (0.6, 1.0))
@pytest.mark.parametrize("name", NAMES)
def test_first_and_second_derivatives_by_positions_and_parameters(name, progress):
    encoding = make(name)
    encoding.set_progress(progress)
    inputs = (points(encoding, 3).requires_grad_(), *(p.detach().requires_grad_() for p in encoding.parameters()))
    assert torch.autograd.gradcheck(called(encoding), inputs, fast_mode=True)
    assert torch.autograd.gradgradcheck(called(encoding), inputs, fast_mode=True)


@pytest.mark.parametrize("name", NAMES)
def test_stage_and_finish_are_forward_and_their_gradient_is_that_of_autograd(name):
    encoding = make(name)
    encoding.set_progress(0.7)
    x = points(encoding, 20).requires_grad_()
    features = encoding(x)
    cotangent = torch.randn(features.shape, dtype=torch.float64)
    (expected,) = torch.autograd.grad((features * cotangent).sum(), x, create_graph=True)
    staged = encoding.stage(x.detach())
    if name not in GRIDS:
        assert staged is None and torch.equal(encoding.finish(x, None), features)
        return
    assert staged is not None
    by_parameter = torch.autograd.grad(expected.square().sum(), list(encoding.parameters()), allow_unused=True)
    z, jacobian = staged
    direct = x.detach().requires_grad_()
    finished = encoding.finish(direct, z)
    assert finished.shape == (20, encoding.output_dim) and torch.allclose(finished, features, atol=1e-12)
    by_x, by_z = torch.autograd.grad(
        (finished * cotangent).sum(), (direct, z), create_graph=True, allow_unused=True, materialize_grads=True
    )
    gradient = by_x + torch.einsum("ng,ngk->nk", by_z, jacobian)
    assert torch.allclose(gradient, expected, atol=1e-9)
    again = torch.autograd.grad(gradient.square().sum(), list(encoding.parameters()), allow_unused=True)
    for a, b in zip(again, by_parameter):
        assert (a is None or not a.any()) if b is None else torch.allclose(a, b, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_features_and_their_gradients_change_continuously_with_progress(name):
    encoding = make(name)
    x = points(encoding, 10)

    def features_at(share: float) -> Tensor:
        encoding.set_progress(share)
        with torch.no_grad():
            return encoding(x)

    step = 1e-5
    shares = [k / 60 for k in range(60)]  # among them those at which levels start: thirds, halves, fifths
    jumps = [(features_at(share + step) - features_at(max(share - step, 0))).abs().max().item() for share in shares]
    assert max(jumps) < 2e-3
    assert not torch.allclose(features_at(0), features_at(1), atol=1e-3)
    assert torch.equal(features_at(2.0), features_at(1.0)) and torch.equal(features_at(-1.0), features_at(0.0))


def test_at_the_start_only_the_lowest_frequencies_are_on():
    posenc = make("posenc")
    x = points(posenc, 10)
    posenc.set_progress(0)
    features = posenc(x)
    on = torch.zeros(18, dtype=torch.bool)
    on[[0, 1, 2, 9, 10, 11]] = True  # the first octave's sines and cosines
    assert torch.equal(features[:, ~on], torch.zeros(10, 12, dtype=torch.float64))
    assert torch.allclose(features[:, on], torch.cat([x.sin(), x.cos()], 1))

    fourier = make("fourier")
    fourier.set_progress(0)
    features = fourier(x)
    assert features[:, [0, 5]].abs().min() > 0 and not features[:, [1, 2, 3, 4, 6, 7, 8, 9]].any()


@pytest.mark.parametrize("name", GRIDS)
def test_levels_that_are_off_get_no_gradient_and_have_no_influence(name):
    encoding = make(name)
    assert isinstance(encoding, GridEncoding)
    encoding.set_progress(0)
    x = points(encoding, 10)
    before = encoding(x)
    before.square().sum().backward()
    table = encoding.grid.table
    assert table.grad is not None
    coarse = encoding.grid.shape.levels[0].size
    assert table.grad[:coarse].any() and not table.grad[coarse:].any()
    if isinstance(encoding, NFFB):
        for parameter in (encoding.weight, encoding.bias, encoding.out_weight):
            assert parameter.grad is not None and parameter.grad[0].any() and not parameter.grad[1:].any()
    with torch.no_grad():
        table[coarse:] += 1
    assert torch.equal(encoding(x), before)
    if name == "hash":
        assert not before[:, 2:].any()


@pytest.mark.parametrize("name", NAMES)
def test_state_round_trip_gives_the_same_features(name):
    other = replace(TINY, fourier=FourierOptions(5, seed=7), nffb=replace(TINY.nffb, seed=7))
    first, second = make(name), make(name, other, seed=5)
    x = points(first, 10)
    if name != "posenc":
        assert not torch.allclose(first(x), second(x))
    second.load_state_dict(first.state_dict())
    assert torch.equal(first(x), second(x))


@pytest.mark.parametrize("name", NAMES)
def test_seeds_decide_everything(name):
    first, second = (make_encoding(name, TINY, torch.Generator().manual_seed(3)) for _ in range(2))
    torch.manual_seed(11)
    third = make_encoding(name, TINY)
    x = 2 * torch.rand(10, 3) - 1
    assert torch.equal(first(x), second(x))
    if name in GRIDS:
        assert not torch.equal(first(x), third(x))
        torch.manual_seed(11)
        assert torch.equal(make_encoding(name, TINY)(x), third(x))
    else:
        assert torch.equal(first(x), third(x))  # nothing in it is random but what the options' seed decides


@pytest.mark.parametrize("precision", (torch.float32, torch.float64))
@pytest.mark.parametrize("name", NAMES)
def test_positions_far_outside_have_finite_features_and_gradients(name, precision):
    encoding = make(name).to(precision)
    x = torch.tensor([[2.0, 0, 0], [-1e3, 5, 1e6], [1e12, -1e20, 1]], dtype=precision, requires_grad=True)
    features = encoding(x)
    assert features.isfinite().all()
    (gradient,) = torch.autograd.grad(features.sum(), x)
    assert gradient.isfinite().all()


@pytest.mark.parametrize("name", NAMES)
def test_no_positions_no_features(name):
    encoding = make(name).float()
    x = torch.empty(0, 3, requires_grad=True)
    (gradient,) = torch.autograd.grad(encoding(x).sum(), x, create_graph=True)
    assert encoding(x).shape == (0, encoding.output_dim) and gradient.shape == (0, 3)


def test_positional_encoding_is_the_papers():
    x = torch.rand(4, 3)
    features = PositionalEncoding(PosencOptions(6))(x)
    expected = [f(2**k * x) for f in (torch.sin, torch.cos) for k in range(6)]
    assert torch.allclose(features, torch.cat(expected, 1), atol=1e-5)


def test_random_features_make_a_gaussian_kernel():
    """cos and sin of normal frequencies are, in products averaged over them, the kernel exp(−2 π² σ² r²)."""
    encoding = RandomFourierFeatures(FourierOptions(num_frequencies=4096, sigma=0.4))
    x = torch.zeros(6, 3)
    x[:, 1] = torch.linspace(0, 0.8, 6)
    features = encoding(x)
    kernel = (features * features[:1]).sum(1) / 4096
    assert torch.allclose(kernel, torch.exp(-2 * (math.pi * 0.4 * x[:, 1]) ** 2), atol=0.05)


@pytest.mark.parametrize("name", ("posenc", "fourier", *BANKS))
@pytest.mark.parametrize("spread", (1e-4, 3.0))
def test_features_vary_by_about_one(name, spread):
    """Whether the table is fresh or trained. The hash grid's own features are those of the table."""
    encoding = make(name, EncodingConfig(), spread=spread)
    with torch.no_grad():
        features = encoding(2 * torch.rand(2000, 3, dtype=torch.float64) - 1)
    assert 0.03 < features.var(0).mean() < 2
    assert features.square().mean() < 4


@pytest.mark.parametrize("name", BANKS)
def test_finer_bands_turn_faster(name):
    """The gradient of a band's share of the features grows with the resolution of its grid and its frequencies."""
    options = replace(EncodingConfig().nffb, levels_per_band=2, width=64)
    options = replace(options, grid=replace(options.grid, implementation="torch"))
    encoding = make(name, EncodingConfig(nffb=options))
    assert isinstance(encoding, NFFB)
    out_weight = encoding.out_weight.detach().clone()
    steepness = []
    for band in range(encoding.bands):
        with torch.no_grad():
            encoding.out_weight.zero_()
            encoding.out_weight[band] = out_weight[band]
        x = (2 * torch.rand(500, 3, dtype=torch.float64) - 1).requires_grad_()
        (gradient,) = torch.autograd.grad(encoding(x)[:, 0].sum(), x)
        steepness.append(gradient.square().sum(1).mean().sqrt().item())
    growth = (192 / 16) ** (2 / 7) * options.sigma_growth**2  # from band to band
    assert steepness == sorted(steepness)
    assert 0.3 * growth**3 < steepness[-1] / steepness[0] < 3 * growth**3


def test_attention_starts_at_one_and_sums_to_the_number_of_bands():
    fresh = make_encoding("stylemod-nffb", TINY)
    assert isinstance(fresh, StyleModNFFB)
    x = torch.rand(7, 3)
    assert torch.equal(fresh.attention(x), torch.ones(7, 2))
    trained = make("stylemod-nffb")
    assert isinstance(trained, StyleModNFFB)
    weights = trained.attention(x.double())
    assert weights.std() > 0.05 and torch.allclose(weights.sum(1), torch.full((7,), 2.0, dtype=torch.float64))


def test_style_is_a_layer_norm_times_attention():
    encoding = make("stylemod-nffb")
    assert isinstance(encoding, StyleModNFFB)
    x, embedding = points(encoding, 5), torch.randn(2, 5, 6, dtype=torch.float64)
    with torch.no_grad():
        encoding.style_bias.normal_()
        mixed = torch.einsum("bnw,bvw->bnv", embedding, encoding.style_weight) + encoding.style_bias[:, None]
        expected = torch.nn.functional.layer_norm(mixed, (6,)) * encoding.attention(x).T[..., None]
        assert torch.allclose(encoding.modulate(x, embedding), expected, atol=1e-10)


def test_filter_bank_is_the_papers_loop():
    """x ← sin(w0 (W x + c)) + e, and the average of the bands' outputs."""
    encoding = make("nffb")
    assert isinstance(encoding, NFFB)
    x = points(encoding, 5)
    w0 = encoding.options.w0
    with torch.no_grad():
        z = encoding.grid(0.5 * x + 0.5)
        hidden = torch.sin(w0 * (x @ encoding.first_weight.T + encoding.first_bias))
        output = torch.zeros(5, 3, dtype=torch.float64)
        for band in range(2):
            phase = z[:, 4 * band : 4 * band + 4] @ encoding.frequencies[band][:, :3]
            embedding = torch.cat([phase.sin(), phase.cos()], 1)
            hidden = torch.sin(w0 * (hidden @ encoding.weight[band].T + encoding.bias[band])) + embedding
            output += hidden @ encoding.out_weight[band] / 2
        assert torch.allclose(encoding(x), output, atol=1e-12)


def test_tables_are_the_grids():
    assert [table.shape for table in make("nffb").tables()] == [make("hash").tables()[0].shape]
    assert make("posenc").tables() == make("fourier").tables() == []


@pytest.mark.parametrize(
    "make_options, word",
    (
        (lambda: PosencOptions(num_frequencies=0), "num_frequencies"),
        (lambda: FourierOptions(sigma=0.0), "sigma"),
        (lambda: NFFBOptions(levels_per_band=3), "levels-per-band"),
        (lambda: NFFBOptions(width=7), "even"),
        (lambda: make_encoding("wavelets"), "posenc, fourier, hash, nffb, stylemod-nffb"),  # pyright: ignore
        (lambda: make_encoding("hash", EncodingConfig(hash=replace(GRID, implementation="tinycudann"))), "triton"),
    ),
)
def test_wrong_options_say_what_to_do(make_options, word):
    with pytest.raises(InputError, match=word):
        make_options()
