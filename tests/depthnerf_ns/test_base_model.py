"""Depth-supervised models: what depth adds to losses, samples, outputs and metrics, and that it adds nothing else."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.cameras.rays import RayBundle
from nerfstudio.data.scene_box import SceneBox
from torch import Tensor

from common_ns.data.scene_bounds import RayBounds
from common_ns.errors import InputError
from common_ns.hash_grid import HashGridOptions
from common_ns.rays import per_ray
from common_ns.rays.random_numbers import KEY
from depthnerf_ns.base_model import (
    DEPTH_LOSSES,
    DEPTH_RANGES,
    LOSS_WEIGHTS,
    DepthModel,
    opacity_at,
)
from depthnerf_ns.dataparser import DepthReach
from depthnerf_ns.depth_losses import weight_bounds_loss
from depthnerf_ns.hash_model import DepthHashModel, DepthHashModelConfig
from depthnerf_ns.mipnerf_model import DepthMipNerfModelConfig

CAPTURE = RayBounds(0.1, 8.0, bounded=False, extent=9.0, reason="test")
REACH = DepthReach(near=0.5, far=3.0, fraction=0.95)
GRID = HashGridOptions(num_levels=3, log2_table_size=10, base_resolution=4, max_resolution=16)
SIZES: dict[str, dict[str, Any]] = {
    "hash": {"grid": GRID, "proposal_grid": GRID, "hidden_dim": 8, "color_hidden_dim": 8, "bottleneck_dim": 4},
    "mip": {"num_layers": 2, "hidden_dim": 16, "bottleneck_dim": 8, "color_hidden_dim": 8, "num_frequencies": 4}
    | {"proposal_num_layers": 1, "proposal_hidden_dim": 8, "precision": "float32", "appearance_dim": 0},
}
COUNT = 24


def build(kind: str = "hash", reach: DepthReach | None = REACH, extra: dict | None = None, **options) -> DepthModel:
    torch.manual_seed(0)
    metadata: dict[str, Any] = {"ray_bounds": CAPTURE, "scene_units_per_meter": 0.5, **(extra or {})}
    if reach is not None:
        points = torch.rand(50, 3, generator=torch.Generator().manual_seed(3)) * 4 - 1
        poses = torch.eye(4)[None, :3]
        metadata |= {"depth_reach": reach, "points3D_xyz": points, "camera_to_worlds": poses}
    make: Any = {"hash": DepthHashModelConfig, "mip": DepthMipNerfModelConfig}[kind]
    config = make(**{"num_proposal_samples": (12,), "num_nerf_samples": 10, **SIZES[kind], **options})
    box = SceneBox(aabb=torch.tensor([[-1.5] * 3, [1.5] * 3]))
    model = config.setup(scene_box=box, num_train_data=3, metadata=metadata)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("table"):  # not the nearly empty grid that training starts from
                parameter.uniform_(-1.0, 1.0)
    return model


def rays(depth: Tensor | None = None, noise: int = 6, **metadata: Tensor) -> RayBundle:
    generator = torch.Generator().manual_seed(1)
    directions = torch.nn.functional.normalize(torch.randn(COUNT, 3, generator=generator), dim=-1)
    metadata[KEY] = torch.rand(COUNT, noise, generator=generator)
    if depth is not None:
        metadata["depth"] = depth
    return RayBundle(
        origins=0.1 * torch.randn(COUNT, 3, generator=generator),
        directions=directions,
        pixel_area=torch.full((COUNT, 1), 1e-4),
        camera_indices=torch.zeros(COUNT, 1, dtype=torch.long),
        metadata=metadata,
    )


def some_depth(missing: slice = slice(0, 0)) -> Tensor:
    depth = 0.8 + 1.5 * torch.rand(COUNT, 1, generator=torch.Generator().manual_seed(2))
    depth[missing] = 0.0
    return depth


def batch_of(depth: Tensor) -> dict[str, Tensor]:
    return {"image": torch.full((COUNT, 3), 0.4), "depth_image": depth}


def train_losses(model: DepthModel, depth: Tensor, batch: dict | None = None, **metadata: Tensor) -> dict[str, Tensor]:
    model.train()
    bundle = rays(depth, model.randomness.width, **metadata)
    return model.get_loss_dict(model(bundle), batch or batch_of(depth))


@pytest.mark.parametrize("kind", ["hash", "mip"])
@pytest.mark.parametrize("loss", sorted(LOSS_WEIGHTS))
def test_every_loss_moves_the_field_and_is_not_seen_without_depth(kind, loss):
    model = build(kind, depth_loss=loss)
    losses = train_losses(model, some_depth())
    assert losses["depth_loss"] > 0
    losses["depth_loss"].backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in model.field.parameters())
    assert all(p.grad is None or p.grad.abs().sum() == 0 for p in model.proposal.parameters())
    assert float(train_losses(model, torch.zeros(COUNT, 1))["depth_loss"]) == 0.0


def test_without_a_loss_the_model_is_one_without_depth():
    plain, told = build(depth_loss="none"), build(depth_loss="none", depth_loss_mult=3.0)
    losses = train_losses(told, some_depth())
    assert "depth_loss" not in losses and told.guard is None
    assert losses.keys() == train_losses(plain, torch.zeros(COUNT, 1)).keys()


def test_depth_loss_is_the_mean_over_rays_with_depth():
    depth = some_depth(missing=slice(0, 15))
    model = build(depth_loss="weight-bounds", depth_guard=False).train()
    outputs = model(rays(depth, model.randomness.width))
    loss = model.get_loss_dict(outputs, batch_of(depth))["depth_loss"]
    expected = LOSS_WEIGHTS["weight-bounds"] * outputs[DEPTH_LOSSES].depth[15:].mean()
    assert float(loss) == pytest.approx(float(expected), rel=1e-5)
    assert model.count_rays(batch_of(depth)) == {"with_depth": COUNT - 15}


def test_parts_of_a_batch_add_up_to_the_whole():
    """As the pipeline computes them: each part's mean by its fraction of the rays, with the whole batch's fraction."""
    depth = some_depth(missing=slice(3, 12))
    model = build(depth_guard=False).train()
    outputs = model(rays(depth, model.randomness.width))
    batch = {**batch_of(depth), "fraction_with_depth": (COUNT - 9) / COUNT}
    whole = model.get_loss_dict(outputs, batch)["depth_loss"]
    total = 0.0
    for part in (slice(0, 10), slice(10, COUNT)):
        some = per_ray.rows(outputs, COUNT, part)
        some_batch = {name: value[part] if isinstance(value, Tensor) else value for name, value in batch.items()}
        loss = model.get_loss_dict(some, some_batch)["depth_loss"]
        total += float(loss) * (part.stop - part.start) / COUNT
    assert total == pytest.approx(float(whole), rel=1e-5)


def test_epsilon_may_be_given_in_meters_and_widened_by_sigma():
    assert build(depth_epsilon=0.06, depth_epsilon_unit="meters").epsilon == pytest.approx(0.03)
    depth, sigma = some_depth(), torch.full((COUNT, 1), 0.04)
    wide = build(depth_epsilon=0.05, depth_loss="weight-bounds", depth_guard=False)
    widened = build(depth_epsilon=0.03, depth_loss="weight-bounds", depth_guard=False)
    deaf = build(depth_epsilon=0.03, depth_loss="weight-bounds", depth_guard=False, depth_use_sigma=False)
    expected = float(train_losses(wide, depth)["depth_loss"])
    assert float(train_losses(widened, depth, depth_sigma=sigma)["depth_loss"]) == pytest.approx(expected, rel=1e-5)
    assert float(train_losses(deaf, depth, depth_sigma=sigma)["depth_loss"]) != pytest.approx(expected, rel=1e-3)


def test_options_of_the_bounds_reach_the_loss():
    depth = some_depth()
    options = {"depth_beta": 1.0, "depth_empty_mult": 0.5, "depth_phi_mult": 0.7, "depth_epsilon": 0.1}
    model = build(depth_loss="weight-bounds", depth_loss_mult=2.0, depth_guard=False, **options).train()
    seen: dict[str, Any] = {}
    keep = model._depth_loss

    def remember(t, w, d, epsilon):
        seen.update(t=t, w=w, epsilon=epsilon)
        return keep(t, w, d, epsilon)

    model._depth_loss = remember  # type: ignore[method-assign]
    loss = train_losses(model, depth)["depth_loss"]
    expected = weight_bounds_loss(seen["t"], seen["w"], depth[:, 0], 0.1, 1.0, 0.5, 0.7).mean()
    assert float(loss) == pytest.approx(2.0 * float(expected), rel=1e-5)


def test_weight_and_epsilon_fall_with_the_schedule_and_the_guard():
    model = build(depth_loss="urf", depth_initial=4.0, depth_epsilon_initial=9.0, depth_anneal_fraction=0.5)
    bundle = rays(some_depth(), model.randomness.width)
    usual = LOSS_WEIGHTS["urf"]
    assert model.depth_weight() == pytest.approx(usual)  # a schedule is not known yet
    model.schedule_steps = 200
    for step, weight, epsilon in ((0, 4.0, 9.0), (50, 2.0, 3.0), (100, 1.0, 1.0), (1000, 1.0, 1.0)):
        model.step = step
        assert model.depth_weight() == pytest.approx(usual * weight)
        assert model._epsilon_of(bundle) == pytest.approx(0.03 * epsilon)
    assert model.guard is not None
    model.guard.factor.fill_(0.1)
    assert model.depth_weight() == pytest.approx(0.1 * usual)


def sample_starts(model: DepthModel, depth: Tensor) -> Tensor:
    """Where the last round's intervals begin [n, s]."""
    found: list[Tensor] = []
    keep = model.further_outputs

    def remember(rounds, bundle):
        found.append(rounds[-1].samples.frustums.starts[..., 0])
        return keep(rounds, bundle)

    model.further_outputs = remember  # type: ignore[method-assign]
    model.train()(rays(depth, model.randomness.width))
    return found[0]


def test_samples_gather_around_the_depth_if_asked_to():
    depth = some_depth(missing=slice(0, 5))
    free, guided = (
        sample_starts(build(depth_sample_fraction=fraction, depth_epsilon=0.02), depth) for fraction in (0.0, 0.5)
    )
    close = [((t - depth).abs() < 0.19).float().mean(-1) for t in (free, guided)]  # 3 deviations of 3 epsilons
    assert float(close[1][5:].mean()) > float(close[0][5:].mean()) + 0.25
    assert torch.equal(free[:5], guided[:5])


def test_outside_of_training_rays_with_depth_say_how_far_it_is_missed():
    depth = some_depth(missing=slice(0, 5))
    model = build().eval()
    bundle = rays(depth, model.randomness.width)
    outputs = model(bundle)
    assert outputs["depth_error"].shape == outputs["opacity_at_depth"].shape == (COUNT, 1)
    assert (outputs["depth_error"][:5] == 0).all() and (outputs["opacity_at_depth"][:5] == 0).all()
    assert DEPTH_LOSSES not in outputs
    assert "depth_error" not in model(rays(None, model.randomness.width))


def test_opacity_at_a_depth_counts_what_is_before_it():
    t = torch.tensor([[0.0, 1.0, 2.0, 4.0]]).expand(4, -1)
    weights = torch.tensor([[0.2, 0.4, 0.4]]).expand(4, -1)
    found = opacity_at(t, weights, torch.tensor([0.0, 1.5, 3.0, 9.0]))
    assert torch.allclose(found, torch.tensor([0.0, 0.4, 0.8, 1.0]))


def test_test_images_report_errors_of_depth_in_meters():
    model = build().eval()
    camera = Cameras(torch.eye(4)[:3], fx=8.0, fy=8.0, cx=4.0, cy=4.0, width=8, height=8).reshape((1,))
    outputs = model.get_outputs_for_camera(camera)
    batch = {"image": torch.zeros(8, 8, 3), "depth_image": outputs["depth"] + 0.5}
    metrics, images = model.evaluate_image(camera, batch)
    assert metrics["depth_rmse"] == pytest.approx(1.0, rel=1e-3)  # half a scene unit to the meter
    assert {"depth_measured", "depth_error", "opacity_at_depth"} <= images.keys()
    metrics, images = model.evaluate_image(camera, {"image": torch.zeros(8, 8, 3)})
    assert "depth_rmse" not in metrics and "depth_error" not in images


def test_a_scene_that_depth_closes_is_not_contracted_and_fills_the_grid():
    model = build()
    assert isinstance(model, DepthHashModel) and not model.field.contracted
    assert model.ray_bounds.near == pytest.approx(0.25) and model.ray_bounds.far == pytest.approx(3.3)
    inside = (model.metadata["points3D_xyz"] - model.field.center) * model.field.position_scale
    assert inside.abs().max() <= 1.0 and inside.abs().max() > 0.85
    holes = build(reach=DepthReach(0.5, 3.0, fraction=0.3))
    assert isinstance(holes, DepthHashModel) and holes.field.contracted
    cutout = build(reach=DepthReach(0.5, 3.0, fraction=0.3), extra={"images_have_alpha": True})
    assert isinstance(cutout, DepthHashModel) and not cutout.field.contracted


@pytest.mark.parametrize("kind", ["hash", "mip"])
def test_losses_on_normals_train_the_density(kind):
    normals = torch.nn.functional.normalize(torch.randn(COUNT, 3), dim=-1)
    normals[:6] = 0.0
    extra = {"normal_filenames": ["n.png"]}
    model = build(kind, extra=extra, normal_loss_mult=0.1, orientation_loss_mult=0.1, depth_loss="none")
    batch = {**batch_of(some_depth()), "normal_image": normals}
    assert model.count_rays(batch)["with_normals"] == COUNT - 6
    losses = train_losses(model, some_depth(), batch, normal=normals)
    (losses["normal_loss"] + losses["orientation_loss"]).backward()
    moved = model.field.grid.table if kind == "hash" else model.field.trunk.layers[0].weight  # type: ignore
    assert moved.grad is not None and torch.isfinite(moved.grad).all() and moved.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depth_epsilon": 0.0}, "depth-epsilon is 0"),
        ({"depth_beta": -1.0}, "depth-beta is -1"),
        ({"depth_initial": 0.0}, "depth-initial is 0"),
        ({"depth_epsilon_initial": -1.0}, "depth-epsilon-initial is -1"),
        ({"depth_sample_fraction": 1.0}, "depth-sample-fraction is 1"),
        ({"normal_loss_mult": 0.1}, "the data set has no normals"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        build(**options)


@pytest.mark.parametrize("value", [-1.0, math.nan, math.inf])
@pytest.mark.parametrize("name", sorted(DEPTH_RANGES))
@pytest.mark.parametrize("kind", ["hash", "mip"])
def test_wrong_numbers_are_one_line(kind, name, value):
    option = name.replace("_", "-")
    with pytest.raises(InputError, match=rf"^{option} is {value:g}\. Give .* to --pipeline\.model\.{option}\.$"):
        build(kind, **{name: value})


@pytest.mark.parametrize("kind", ["hash", "mip"])
@pytest.mark.parametrize("name", ["contraction_radius", "distortion_loss_mult", "appearance_dim"])
def test_wrong_numbers_of_the_field_are_too(name, kind):
    with pytest.raises(InputError, match=name.replace("_", "-")):
        build(kind, **{name: -1})


@pytest.mark.parametrize("place", ["origins", "directions"])
def test_a_ray_without_a_place_has_no_loss(place):
    """Though grids read a position that is NaN at 0."""
    model = build("hash").train()
    bundle = rays(some_depth(), model.randomness.width)
    getattr(bundle, place)[5, 2] = math.nan
    outputs = model(bundle)
    assert outputs["rgb"].isnan().any(-1).nonzero().flatten().tolist() == [5]
    losses = model.get_loss_dict(outputs, batch_of(some_depth()))
    assert losses["rgb_loss"].isnan() and losses["depth_loss"].isnan()


@pytest.mark.parametrize("kind", ["hash", "mip"])
def test_no_rays_are_no_pixels(kind):
    model = build(kind).eval()
    bundle = rays(some_depth(), model.randomness.width)
    expected, found = model(bundle), model(bundle[:0])
    assert {name: value.shape for name, value in found.items()} == {
        name: (0, *value.shape[1:]) for name, value in expected.items()
    }
