"""mip-NeRF 360's controls in the viewer: near plane, kind and level of depth, weights."""

from __future__ import annotations

import pytest
import torch

from common_ns.data.scene_bounds import RayBounds
from mipnerf_ns.base_model import CAPTURE_NEAR_FAR
from tests.mipnerf_ns.tiny360 import CAPTURE, OBJECT, build, rays, rounds_of, training_rays


def test_moving_the_near_plane_in_the_viewer_cuts_away_what_is_closer():
    model = build()
    trained, shown = model.train()(training_rays())["rgb"], model.eval()(rays())["rgb"]
    assert model.shown_near.value == CAPTURE_NEAR_FAR[0]
    model.shown_near.default_value = 1.5
    bundle = rays()
    moved = model.eval()
    assert rounds_of(moved, bundle)[0].samples.frustums.starts.min() == pytest.approx(1.5, rel=1e-4)
    assert model(rays())["depth"].min() >= 1.5 * 0.999 and not torch.equal(model(rays())["rgb"], shown)
    assert bundle.nears.max() == pytest.approx(CAPTURE_NEAR_FAR[0])  # the caller's rays are as they were
    assert torch.equal(model.train()(training_rays())["rgb"], trained)
    # Beyond the far plane nothing is left, but the render must not fail.
    model.shown_near.default_value = 1e6
    assert all(torch.isfinite(value).all() for value in model.eval()(rays()).values())


@pytest.mark.parametrize("bounds", [OBJECT, CAPTURE, RayBounds(0.001, 0.5, False, 1.0, "test", from_points=True)])
def test_slider_of_the_near_plane_holds_the_models(bounds):
    slider = build(bounds).shown_near
    assert slider.min == 0.0 and slider.min <= slider.default_value < slider.max


def test_depth_kind_and_level_of_the_viewer_choose_the_depth():
    model = build().eval()
    outputs = model(rays())
    assert torch.equal(outputs["depth"], outputs["depth_median"])
    assert not torch.allclose(outputs["depth_median"], outputs["expected_depth"])
    model.shown_depth.default_value = "mean"
    assert torch.equal(model(rays())["depth"], outputs["expected_depth"])
    last, *proposals = model.shown_level.options
    assert last == model.shown_level.value == "nerf" and len(proposals) == 2
    for kind, render in (("median", model.renderer_depth), ("mean", model.renderer_expected_depth)):
        model.shown_depth.default_value = kind
        for index, name in enumerate(proposals, start=1):
            model.shown_level.default_value = name
            chosen, round_ = model(rays()), rounds_of(model, rays())[index - 1]
            assert torch.equal(chosen["depth"], render(round_.weights, round_.samples))
            assert torch.equal(chosen["depth"], chosen[f"depth_proposal_{index}"])
            # The others stay, for comparison.
            assert torch.equal(chosen["depth_median"], outputs["depth_median"])


def test_weights_are_an_output_when_asked_for():
    model = build(eval_num_rays_per_chunk=7).eval()
    assert "weights" not in model(rays())
    model.shown_weights.default_value = True
    for name, count in zip(model.shown_level.options, (8, 12, 10)):
        model.shown_level.default_value = name
        outputs = model(rays())
        level = "" if name == "nerf" else f"_{name.replace(' ', '_')}"
        assert outputs["weights"].shape == (20, count)
        assert torch.allclose(outputs["weights"].sum(-1, keepdim=True), outputs[f"accumulation{level}"])
    assert "weights" not in model.train()(rays())
