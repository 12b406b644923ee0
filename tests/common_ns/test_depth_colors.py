"""Colors of depth: what is near can be told apart, whatever lies behind it, and depth itself stays what it is."""

from __future__ import annotations

import pytest
import torch
from nerfstudio.utils import colormaps
from nerfstudio.viewer.viewer_elements import ViewerDropdown

from common_ns.depth_colors import depth_levels, depth_picture
from tests.mipnerf_ns.tiny360 import CAPTURE, OBJECT, build, rays


def table_top(behind: float = 1000.0, share: float = 0.3) -> torch.Tensor:
    """Depths from 1 to 2 with something far away behind them [50, 50, 1]."""
    far = int(share * 2500)
    return torch.cat([torch.full((far,), behind), torch.linspace(1.0, 2.0, 2500 - far)]).reshape(50, 50, 1)


def span(levels: torch.Tensor, near: torch.Tensor) -> float:
    """Share of the colors that the near pixels take up."""
    return float(levels[near].max() - levels[near].min())


@pytest.mark.parametrize(("colors", "least"), [("log", 0.25), ("percentile", 0.07)])
@pytest.mark.parametrize("behind", [1000.0, 1e6, float("inf")])
def test_a_table_before_a_far_background_has_many_colors(colors, least, behind):
    """With nerfstudio's own colors, the table has one of 256."""
    depth = table_top(behind)
    near = depth < 3.0
    assert span(depth_levels(depth, torch.ones_like(depth), colors), near) > least
    assert span(depth_levels(depth.clamp_max(1e6), None, "linear"), near) < 1 / 255
    levels = depth_levels(depth, None, colors)
    assert (levels[~near] == 1.0).all() and levels.min() == 0.0


@pytest.mark.parametrize("colors", ["log", "percentile"])
def test_a_few_far_pixels_take_no_colors_away(colors):
    depth = table_top(share=0.01)
    assert span(depth_levels(depth, None, colors), depth < 3.0) > 0.99


@pytest.mark.parametrize("colors", ["log", "percentile", "linear"])
def test_farther_is_never_an_earlier_color(colors):
    depth = 10.0 ** (4.0 * torch.rand(400, 1, generator=torch.Generator().manual_seed(0)) - 2.0)
    order = depth[:, 0].argsort()
    levels = depth_levels(depth, None, colors, planes=(0.1, 50.0))[order]
    assert (levels.diff(dim=0) >= 0).all() and levels.min() >= 0.0 and levels.max() <= 1.0


def test_levels_are_even_in_distance_or_in_its_logarithm():
    """Between the 2nd and the 98th of 100 steps from 1 to 2."""
    depth = torch.linspace(1.0, 2.0, 101)[:, None]
    inner, low, high = depth[2:99], 1.02, 1.98
    assert torch.allclose(depth_levels(depth, None, "percentile")[2:99], (inner - low) / (high - low), atol=1e-6)
    expected = torch.log(inner / low) / torch.log(torch.tensor(high / low))
    assert torch.allclose(depth_levels(depth, None, "log")[2:99], expected, atol=1e-5)


def test_what_is_transparent_decides_nothing_and_is_white():
    depth, accumulation = table_top(1e6), torch.ones(50, 50, 1)
    accumulation[depth > 3.0] = 0.0
    near = accumulation > 0.5
    for colors in ("log", "percentile"):
        assert span(depth_levels(depth, accumulation, colors), near) > 0.99
    assert (depth_picture(depth, accumulation)[~near[..., 0]] == 1.0).all()


def test_linear_is_nerfstudios():
    depth, opacity = table_top(), torch.rand(50, 50, 1, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(depth_picture(depth, opacity, "linear"), colormaps.apply_depth_colormap(depth, opacity))
    planes = colormaps.apply_depth_colormap(depth, opacity, 0.5, 4.0)
    assert torch.allclose(depth_picture(depth, opacity, "linear", (0.5, 4.0)), planes)


@pytest.mark.parametrize("colors", ["log", "percentile", "linear"])
@pytest.mark.parametrize("value", [0.0, 1.0, float("nan"), float("inf")])
def test_odd_pictures_have_colors(colors, value):
    depth = torch.full((3, 4, 1), value)
    for opacity in (0.0, 1.0):
        picture = depth_picture(depth, torch.full_like(depth, opacity), colors)
        assert torch.isfinite(picture).all() and picture.shape == (3, 4, 3)
    assert torch.isfinite(depth_levels(depth[:1, :1], None, colors)).all()


def test_models_color_pictures_by_the_config_and_the_viewer_by_its_control():
    depth, opaque = table_top(), torch.ones(50, 50, 1)
    for bounds, planes in ((CAPTURE, None), (OBJECT, (OBJECT.near, OBJECT.far))):
        for colors in ("log", "percentile", "linear"):
            model = build(bounds, depth_colors=colors)
            assert torch.equal(model.depth_picture(depth, opaque), depth_picture(depth, opaque, colors, planes))
            assert model.shown_depth_colors.default_value == colors
    assert isinstance(model.shown_depth_colors, ViewerDropdown) and build().config.depth_colors == "log"
    outputs = model.eval()(rays())
    before = {name: value.clone() for name, value in outputs.items()}
    for colors in ("percentile", "log"):
        model.shown_depth_colors.default_value = colors
        for name in ("depth", "expected_depth", "depth_median"):
            expected = depth_levels(outputs[name], outputs["accumulation"], colors)
            assert torch.equal(model.shown_in_viewer(name, outputs), expected)
        proposal = depth_levels(outputs["depth_proposal_1"], outputs["accumulation_proposal_1"], colors)
        assert torch.equal(model.shown_in_viewer("depth_proposal_1", outputs), proposal)
        for name in ("rgb", "accumulation", "normals", "distortion", "interlevel_proposal_1"):
            assert model.shown_in_viewer(name, outputs) is outputs[name]
    assert all(torch.equal(outputs[name], value) for name, value in before.items()), "depth stays in scene units"


@pytest.mark.parametrize("colors", ["log", "percentile", "linear"])
@pytest.mark.parametrize("shape", [(0, 4, 1), (3, 0, 1), (0, 1)])
def test_a_picture_without_pixels_is_one_of_colors_all_the_same(colors, shape):
    depth = torch.zeros(shape)
    assert depth_levels(depth, depth, colors).shape == shape
    assert depth_picture(depth, depth, colors).shape == (*shape[:-1], 3)
