"""NeuS as a model: its pictures, losses and meshes are those of the field, whatever the chunks, masks and exporters."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from nerfstudio.cameras.rays import RayBundle
from nerfstudio.data.dataparsers.blender_dataparser import BlenderDataParserConfig
from nerfstudio.data.scene_box import SceneBox
from torch import Tensor
from torch.cuda.amp.grad_scaler import GradScaler

from common_ns.data.pixels import PixelStore
from common_ns.errors import InputError
from common_ns.hash_grid import HashGridOptions
from common_ns.meshing.extraction import extract_mesh
from common_ns.nerfstudio_seam.datamanager import StorePixelSampler, seed_step
from common_ns.nerfstudio_seam.optimizers import FusedAdamConfig
from common_ns.nerfstudio_seam.pipeline import FieldPipeline, FieldPipelineConfig
from common_ns.rays.random_numbers import KEY
from hashnffb_sdf_ns.background import BackgroundOptions
from hashnffb_sdf_ns.base_model import SdfFieldConfig
from hashnffb_sdf_ns.camera_refinement import CameraRefinementConfig
from hashnffb_sdf_ns.datamanager import MaskBalancedSampler, SdfDataManagerConfig
from hashnffb_sdf_ns.encodings import EncodingConfig
from hashnffb_sdf_ns.encodings.nffb import NFFBOptions
from hashnffb_sdf_ns.neus_model import NeusModel, NeusModelConfig
from hashnffb_sdf_ns.slice_plane import EMPTY_COLOR, distance_colors, slice_picture

GRID = HashGridOptions(num_levels=3, log2_table_size=10, base_resolution=4, max_resolution=16)
ENCODINGS = ("posenc", "fourier", "hash", "nffb", "stylemod-nffb")
COUNT = 40
MASKS = {"has_masks": True}
ALPHA = {"has_masks": True, "images_have_alpha": True}


def config_of(encoding: str = "hash", network: dict | None = None, **options) -> NeusModelConfig:
    sizes = EncodingConfig(hash=GRID, nffb=NFFBOptions(grid=GRID, levels_per_band=1, width=8))
    networks: Any = {"hidden_dim": 32, "feature_dim": 4, "color_hidden_dim": 16, **(network or {})}
    field = SdfFieldConfig(encoding=encoding, options=sizes, **networks)  # type: ignore[arg-type]
    small = BackgroundOptions(grid=GRID, hidden_dim=8, num_samples=6)
    defaults = {"num_samples": 16, "num_upsamples": (8, 8), "cos_anneal_steps": 10, "background": small}
    return NeusModelConfig(sdf_field=field, **{**defaults, **options})


def build(encoding: str = "hash", metadata: dict | None = None, step: int = 10, **options) -> NeusModel:
    torch.manual_seed(0)
    box = SceneBox(aabb=torch.tensor([[-1.0] * 3, [1.0] * 3]))
    model = config_of(encoding, **options).setup(scene_box=box, num_train_data=3, metadata=metadata or {})
    model.set_step(step)
    return model


def sharp(model: NeusModel, value: float = 400.0) -> NeusModel:
    with torch.no_grad():
        model.inv_s.variance.fill_(float(np.log(value - model.inv_s.floor)) / 10.0)
    return model


def rays(model: NeusModel, count: int = COUNT, scale: float = 1.0, **metadata: Tensor) -> RayBundle:
    generator = torch.Generator().manual_seed(1)
    origins = torch.nn.functional.normalize(torch.randn(count, 3, generator=generator), dim=-1) * 3.0
    targets = 0.4 * torch.randn(count, 3, generator=generator)
    metadata[KEY] = torch.rand(count, model.randomness.width, generator=generator)
    return RayBundle(
        origins=origins,
        directions=torch.nn.functional.normalize(targets - origins, dim=-1) * scale,
        pixel_area=torch.full((count, 1), 1e-4),
        camera_indices=torch.arange(count)[:, None] % 3,
        metadata=metadata,
    )


def batch_of(count: int = COUNT, mask: bool = True) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(2)
    batch = {"image": torch.rand(count, 3, generator=generator)}
    return {**batch, "mask": (torch.rand(count, 1, generator=generator) > 0.4).float()} if mask else batch


def expected_hits(bundle: RayBundle, radius: float = 0.5) -> tuple[Tensor, Tensor]:
    """Distance at which rays meet a sphere about the origin, and whether they do so well within its outline."""
    directions = torch.nn.functional.normalize(bundle.directions, dim=-1)
    nearest = -(bundle.origins * directions).sum(-1)
    miss = (bundle.origins + nearest[:, None] * directions).norm(dim=-1)
    return nearest - (radius**2 - miss**2).clamp_min(0).sqrt(), miss < 0.8 * radius


@pytest.mark.parametrize("scale", [1.0, 0.3])
@torch.no_grad()
def test_the_initial_sphere_is_rendered_where_it_is(scale):
    """Also for directions that are not unit vectors, which exporters send: depth then counts in their length."""
    model = sharp(build(metadata=MASKS, network={"hidden_dim": 128})).eval()
    bundle = rays(model, scale=scale)
    outputs = model(bundle)
    depth, hit = expected_hits(bundle)
    miss = (bundle.origins.cross(bundle.directions / scale, dim=-1)).norm(dim=-1) > 0.65
    assert hit.sum() > 5 and miss.sum() > 3
    assert (outputs["accumulation"][hit] > 0.97).all() and (outputs["accumulation"][miss] < 0.03).all()
    assert torch.allclose(outputs["depth"][hit, 0] * scale, depth[hit], atol=0.06)
    normals = torch.nn.functional.normalize(2 * outputs["normals"] - 1, dim=-1)[hit]
    points = bundle.origins + bundle.directions / scale * depth[:, None]
    assert float((normals * points[hit] / 0.5).sum(-1).mean()) > 0.95
    assert torch.allclose(outputs["normals"][miss], torch.tensor(0.5), atol=0.05)


@torch.no_grad()
def test_leaving_out_what_has_no_weight_changes_next_to_nothing():
    bundle_of, results = rays, []
    for threshold in (0.0, 1e-4):
        model = sharp(build(metadata=MASKS, weight_threshold=threshold), 100.0).eval()
        for table in model.grid_tables():
            table.uniform_(-0.05, 0.05, generator=torch.Generator().manual_seed(4))
        results.append(model(bundle_of(model)))
    for name in ("rgb", "accumulation", "normals"):
        assert torch.allclose(results[0][name], results[1][name], atol=5e-3), name


def test_what_has_no_weight_is_not_shaded(monkeypatch):
    model = sharp(build(metadata=MASKS)).train()
    seen = []
    geometry = model.field.geometry
    monkeypatch.setattr(model.field, "geometry", lambda x: seen.append(len(x)) or geometry(x))
    model(rays(model))
    assert COUNT < seen[0] < COUNT + 0.3 * COUNT * model.num_sections


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("gradient", ["analytic", "numerical"])
def test_every_encoding_trains(encoding, gradient):
    curvature = {"curvature_loss_mult": 1e-3} if gradient == "numerical" else {}
    model = build(encoding, MASKS, step=3, network={"gradient": gradient}, **curvature).train()
    losses = model.get_loss_dict(model(rays(model)), batch_of())
    assert set(losses) == {"rgb_loss", "mask_loss", "eikonal_loss"} | ({"curvature_loss"} if curvature else set())
    assert all(torch.isfinite(loss) and float(loss) > 0 for loss in losses.values())
    sum(losses.values()).backward()
    groups = model.get_param_groups()
    trained = {name: p for name, p in model.named_parameters() if name != "device_indicator_param"}
    assert not [name for name, p in trained.items() if p.grad is None or not torch.isfinite(p.grad).all()]
    assert ("grids" in groups) == (encoding not in ("posenc", "fourier"))
    grouped = {id(p) for group in groups.values() for p in group}
    assert grouped == {id(p) for p in trained.values()} and len(grouped) == sum(map(len, groups.values()))


def test_parts_of_a_batch_add_up_to_the_whole():
    """As the pipeline computes them: each part's mean by its share of the rays, with the whole batch's share."""
    model, batch = build(metadata=MASKS, step=3).train(), batch_of()
    whole = model.get_loss_dict(model(rays(model)), batch)
    share = model.count_rays(batch)["colored"] / COUNT
    total = dict.fromkeys(whole, 0.0)
    for part in (slice(0, 7), slice(7, COUNT)):
        rows = {name: value[part] for name, value in batch.items()}
        losses = model.get_loss_dict(model(rays(model)[part]), {**rows, "fraction_colored": share})
        for name, loss in losses.items():
            total[name] += float(loss) * (part.stop - part.start) / COUNT
    for name, loss in whole.items():
        assert total[name] == pytest.approx(float(loss), rel=1e-4), name


def test_training_draws_no_random_numbers_of_its_own():
    """All come with the rays, so that a resumed run equals one without interruption."""
    model = build(metadata=MASKS, step=3).train()
    bundle = rays(model)
    before = torch.get_rng_state()
    first, second = model(bundle), model(bundle)
    assert torch.equal(torch.get_rng_state(), before) and torch.equal(first["rgb"], second["rgb"])
    bundle.metadata[KEY] = torch.rand(COUNT, model.randomness.width)
    assert not torch.equal(model(bundle)["rgb"], first["rgb"])


def test_schedules_follow_the_absolute_step():
    model = build(metadata=MASKS, step=0, coarse_to_fine_steps=100, cos_anneal_steps=50)
    model.update_to_step(25)
    resumed = (model.anneal_fraction, model.field.encoding.grid.active_levels, model.field.numerical_step)
    model.set_step(80)
    for step in range(26):
        model.set_step(step)
    assert resumed == (model.anneal_fraction, model.field.encoding.grid.active_levels, model.field.numerical_step)
    assert resumed[0] == 0.5 and resumed[1] == pytest.approx(1.5)


def test_masks_decide_what_counts():
    batch = batch_of()
    batch["image"][batch["mask"][:, 0] < 0.5] = 100.0  # what is beside the object is not looked at
    model = build(metadata=MASKS).train()
    outputs = model(rays(model))
    assert model.get_loss_dict(outputs, batch)["rgb_loss"] < 2.0
    assert float(model.get_metrics_dict(outputs, batch)["psnr"]) > 0
    unused = build(metadata=MASKS, mask_loss_mult=0.0).train()
    losses = unused.get_loss_dict(unused(rays(unused)), batch)
    assert "mask_loss" not in losses and losses["rgb_loss"] > 10.0 and unused.count_rays(batch) == {}


def test_mask_loss_is_the_cross_entropy_of_the_opacity():
    model, batch = build(metadata=MASKS, mask_loss_mult=0.7).train(), batch_of()
    outputs = model(rays(model))
    p, y = outputs["accumulation"].clamp(1e-3, 1 - 1e-3), batch["mask"]
    expected = -(y * p.log() + (1 - y) * (1 - p).log()).mean()
    assert float(model.get_loss_dict(outputs, batch)["mask_loss"]) == pytest.approx(0.7 * float(expected), rel=1e-5)


def test_alpha_is_blended_over_the_background_for_all_rays():
    model = build(metadata=ALPHA).train()
    assert model.renderer_rgb.background_color == "white" and model.background is None
    batch = batch_of()
    batch["image"] = torch.cat([batch["image"], batch["mask"]], dim=-1)
    outputs = model(rays(model))
    target = batch["image"][:, :3] * batch["mask"] + 1.0 - batch["mask"]
    expected = ((outputs["rgb"] - target).square() + 1e-6).sqrt().mean()
    assert float(model.get_loss_dict(outputs, batch)["rgb_loss"]) == pytest.approx(float(expected), rel=1e-5)


def test_a_random_background_belongs_to_the_rays():
    model = build(metadata=ALPHA, background_color="random").train()
    bundle = rays(model)
    assert torch.equal(model(bundle)["background"], bundle.metadata[KEY][:, -3:])
    assert "background" not in model.eval()(bundle)


@pytest.mark.parametrize(
    "metadata, options, kind",
    [
        ({}, {}, True),
        (MASKS, {}, False),
        (MASKS, {"mask_loss_mult": 0.0}, True),
        (ALPHA, {"mask_loss_mult": 0.0}, False),
    ],
)
def test_a_background_model_is_there_where_nothing_tells_the_object_apart(metadata, options, kind):
    assert (build(metadata=metadata, **options).background is not None) is kind


def test_a_background_fills_rays_and_trains():
    model = sharp(build()).train()
    bundle = rays(model)
    outputs = model(bundle)
    assert torch.allclose(outputs["accumulation"], torch.tensor(1.0))
    assert float(outputs["foreground"].min()) < 0.05 and float(outputs["foreground"].max()) > 0.95
    losses = model.get_loss_dict(outputs, batch_of(mask=False))
    sum(losses.values()).backward()
    assert model.background is not None
    assert all(p.grad is not None and float(p.grad.abs().sum()) > 0 for p in model.background.parameters())
    _, hit = expected_hits(bundle)
    assert (outputs["depth"][~hit & (outputs["foreground"][:, 0] < 0.01)] > 3.0).all()


def test_gradients_reach_the_cameras():
    model = build(metadata=MASKS, camera_optimizer=CameraRefinementConfig(mode="SO3xR3", start_step=0)).train()
    losses = model.get_loss_dict(model(rays(model)), batch_of())
    (losses["rgb_loss"] + losses["mask_loss"]).backward()
    gradient = model.camera_optimizer.pose_adjustment.grad
    assert gradient is not None and (gradient.abs().sum(-1) > 0).all() and torch.isfinite(gradient).all()
    assert "camera_opt" in model.get_param_groups()


@torch.no_grad()
def test_chunks_do_not_change_a_picture(monkeypatch):
    model = build(metadata=MASKS).eval()
    bundle = rays(model)
    whole = model(bundle)
    model.config.eval_num_rays_per_chunk = 7
    for name, value in model(bundle).items():
        assert torch.allclose(value, whole[name], atol=1e-5), name
    get_outputs = model.get_outputs

    def limited(ray_bundle):
        if len(ray_bundle) > 3:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return get_outputs(ray_bundle)

    monkeypatch.setattr(model, "get_outputs", limited)
    assert torch.allclose(model(bundle)["rgb"], whole["rgb"], atol=1e-5) and model.max_eval_rays == 2


@torch.no_grad()
def test_rays_that_miss_everything_are_empty():
    model = build(metadata=MASKS).eval()
    away = RayBundle(
        origins=torch.tensor([[3.0, 0.0, 0.0]]),
        directions=torch.tensor([[1.0, 0.0, 0.0]]),
        pixel_area=torch.ones(1, 1),
        camera_indices=torch.zeros(1, 1),  # a float, as exporters send
    )
    outputs = model(away)
    assert float(outputs["accumulation"]) == 0.0 and all(torch.isfinite(value).all() for value in outputs.values())


@torch.no_grad()
def test_the_mesh_is_the_surface_with_outward_normals_and_colors():
    model = build(metadata=MASKS, network={"hidden_dim": 128}).eval()
    mesh = extract_mesh(model.iso_field(), resolution=32)
    assert mesh.to_trimesh().is_watertight and mesh.to_trimesh().volume > 0
    radius = np.linalg.norm(mesh.vertices, axis=1)
    assert abs(radius.mean() - 0.5) < 0.03 and mesh.normals is not None and mesh.colors is not None
    assert ((mesh.normals * mesh.vertices).sum(1) > 0).mean() > 0.99
    nearest = torch.from_numpy(mesh.vertices[:1]).float()
    normal = torch.from_numpy(mesh.normals[:1]).float()
    assert np.allclose(mesh.colors[0], model.mesh_color(nearest, normal)[0].numpy(), atol=1e-5)


@torch.no_grad()
def test_mesh_colors_are_those_that_cameras_above_see():
    poses = torch.eye(4)[:3].repeat(3, 1, 1)
    poses[:, :, 3] = torch.tensor([[3.0, 0.0, 0.0], [0.0, 2.0, 2.0], [-1.0, -1.0, 4.0]])
    model = build(metadata={**MASKS, "camera_to_worlds": poses}).eval()
    x = 0.5 * F.normalize(torch.randn(50, 3, generator=torch.Generator().manual_seed(0)), dim=-1)
    normals = F.normalize(x + 0.1, dim=-1)
    expected = []
    for point, normal in zip(x, normals):
        along = torch.stack([F.normalize(point - pose[:, 3], dim=0) for pose in poses])
        shares = torch.exp(50.0 * (-along @ normal))
        mean = (shares[:, None] * along).sum(0) / shares.sum()
        features = model.field.forward_geonetwork(point[None])[:, 1:]
        expected.append(
            model.field.color(point[None], model.field.encode_directions(mean[None]), normal[None], features)
        )
    assert torch.allclose(model.mesh_color(x, normals), torch.cat(expected), atol=1e-5)
    plain = build(metadata=MASKS).eval()
    along = plain.field.encode_directions(-normals)
    features = plain.field.forward_geonetwork(x)[:, 1:]
    assert torch.equal(plain.mesh_color(x, normals), plain.field.color(x, along, normals, features))


@torch.no_grad()
def test_nothing_is_meshed_beyond_the_sphere():
    model = build(metadata=MASKS, network={"inside_out": True}).eval()
    value = model.iso_field().value
    corners = torch.tensor([[1.0, 1.0, 1.0], [-0.9, 0.9, 0.0], [0.99, 0.0, 0.0]])
    assert (value(corners)[:2] > 0).all() and float(value(corners)[2]) < 0


@torch.no_grad()
def test_direction_noise_turns_what_training_rays_see_and_nothing_else():
    directions = F.normalize(torch.randn(4000, 3, generator=torch.Generator().manual_seed(0)), dim=-1)
    model = build(metadata=MASKS, direction_noise=0.05)
    noise = model.randomness.named(torch.rand(4000, model.randomness.width, generator=torch.Generator().manual_seed(1)))
    turned = model._turned(directions, noise)
    angle = torch.linalg.cross(turned, directions).norm(dim=-1).asin()
    # Two of the three components turn: the root of the mean square is the deviation times the root of two.
    assert float(angle.square().mean().sqrt()) == pytest.approx(0.05 * 2.0**0.5, rel=0.05)
    assert torch.allclose(turned.norm(dim=-1), torch.ones(4000))
    assert torch.equal(model._turned(directions, None), directions)
    assert torch.equal(build(metadata=MASKS)._turned(directions, noise), directions)


def test_options_that_make_no_sense_are_refused():
    for options, problem in (
        ({"direction_noise": 1.5}, "direction-noise is 1.5"),
        ({"sphere_radius": 0.0}, "sphere-radius is 0"),
        ({"curvature_loss_mult": 1.0}, "gradients are analytic"),
        ({"initial_inv_s": 1.0}, "initial-inv-s 1 is not within"),
        ({"num_upsamples": (0,)}, "num-upsamples"),
        ({"near_plane": 3.0, "far_plane": 2.0}, "do not enclose"),
    ):
        with pytest.raises(InputError, match=problem):
            build(**options)


def test_a_larger_sphere_is_the_same_scene_scaled():
    small, large = build(metadata=MASKS).eval(), build(metadata=MASKS, sphere_radius=10.0).eval()
    bundle = rays(small)
    expected = small(bundle)
    bundle.origins = 10.0 * bundle.origins
    bundle.nears = bundle.fars = None
    found = large(bundle)
    assert torch.allclose(found["rgb"], expected["rgb"], atol=1e-4)
    assert torch.allclose(found["depth"], 10.0 * expected["depth"], rtol=1e-3)


def test_slices_show_the_distance_on_a_plane():
    origins = torch.tensor([[0.1, 0.0, 5.0], [0.7, 0.0, 5.0], [0.5, 0.0, 5.0], [3.0, 0.0, 5.0], [0.1, 0.0, 5.0]])
    directions = torch.tensor([[0.0, 0.0, -1.0]] * 4 + [[0.0, 0.0, 1.0]])
    picture = slice_picture(lambda x: x.norm(dim=-1) - 0.5, origins, directions, "z", 0.0, 1.0)
    inside, outside, surface, beyond, behind = picture
    assert inside[2] > inside[0] and outside[0] > outside[2] and torch.equal(surface, torch.ones(3))
    assert torch.allclose(beyond, torch.tensor(EMPTY_COLOR)) and torch.allclose(behind, torch.tensor(EMPTY_COLOR))
    on_line, beside = distance_colors(torch.tensor([0.2, 0.25]), 0.1).mean(-1)
    assert on_line < 0.5 * beside


def test_the_slice_follows_the_viewers_controls():
    model = build(metadata=MASKS).eval()
    with torch.no_grad():
        before = model(rays(model))["sdf_slice"]
        model.slice_height.value = 0.4
        after = model(rays(model))["sdf_slice"]
    assert before.shape == (COUNT, 3) and not torch.allclose(before, after)
    assert "sdf_slice" not in model.train()(rays(model))


def test_a_batch_has_its_share_of_the_object_and_belongs_to_the_step():
    masks = torch.zeros(3, 20, 20, 1, dtype=torch.uint8)
    masks[0, 5:9, 5:15] = 255

    def load(index: int) -> dict[str, np.ndarray]:
        return {"image": np.full((20, 20, 3), index, np.uint8), "object_mask": masks[index].numpy()}

    sampler = MaskBalancedSampler(StorePixelSampler(lambda: PixelStore(load, [(20, 20)] * 3), None, 100), 0.7)
    seed_step(1, 5)
    whole = sampler.sample_part(200, slice(0, 200))
    assert int((whole["object_mask"] > 0).sum()) == 140 and whole["image"].dtype == torch.float32
    image, row, column = whole["indices"].T
    assert torch.equal(masks[image, row, column], whole["object_mask"])
    seed_step(1, 5)
    part = sampler.sample_part(200, slice(50, 180))
    assert torch.equal(part["indices"], whole["indices"][50:180])


def test_a_batch_of_one_image_has_its_share_of_the_object_where_there_is_one():
    masks = torch.zeros(3, 20, 20, 1, dtype=torch.uint8)
    masks[0, 5:9, 5:15] = masks[2] = 255

    def load(index: int) -> dict[str, np.ndarray]:
        return {"image": np.full((20, 20, 3), index, np.uint8), "object_mask": masks[index].numpy()}

    pixels = StorePixelSampler(lambda: PixelStore(load, [(20, 20)] * 3), None, 100, from_one_image=True)
    sampler = MaskBalancedSampler(pixels, 0.7)
    expected = {0: 140, 1: 0, 2: 200}
    found = set()
    for step in range(30):
        seed_step(1, step)
        batch = sampler.sample_part(200, slice(0, 200))
        (image,) = batch["indices"][:, 0].unique().tolist()
        assert int((batch["object_mask"] > 0).sum()) == expected[image] and len(batch["image"]) == 200
        found.add(image)
    assert found == {0, 1, 2}


def pipeline_on(data: Path, **options) -> FieldPipeline:
    torch.manual_seed(0)
    datamanager = SdfDataManagerConfig(
        data=data,
        dataparser=BlenderDataParserConfig(),
        train_num_rays_per_batch=48,
        scale_check="off",
        mask_check="warn",
    )
    model = config_of(sphere_radius=1.5, **options)
    return FieldPipelineConfig(datamanager=datamanager, model=model).setup(device="cpu", test_mode="val").train()


def test_a_step_of_the_pipeline_trains_on_blender_data(tiny_blender):
    """Data set, masks from alpha, balanced rays, model and gradients together; and chunks leave the step as it is."""
    results = []
    for bound in (None, 500):
        pipeline = pipeline_on(tiny_blender, max_points_per_chunk=bound)
        result = pipeline.backward(3, GradScaler(enabled=False))
        assert result.problem is None and "mask_loss" in result.loss_dict
        gradient = torch.cat([p.grad.flatten() for group in pipeline.get_param_groups().values() for p in group])
        results.append((gradient, result.loss))
    assert torch.allclose(results[0][0], results[1][0], atol=1e-5, rtol=1e-3)
    assert float(results[0][1]) == pytest.approx(float(results[1][1]), rel=1e-5)


def test_a_resumed_run_equals_one_without_interruption(tiny_blender):
    """To the last bit: batches, samples and schedules follow from the absolute step."""

    def advance(pipeline: FieldPipeline, optimizer: torch.optim.Optimizer, steps: range) -> None:
        for step in steps:
            pipeline.model.set_step(step)
            optimizer.zero_grad()
            pipeline.backward(step, GradScaler(enabled=False))
            optimizer.step()

    def start() -> tuple[FieldPipeline, torch.optim.Optimizer]:
        pipeline = pipeline_on(tiny_blender, coarse_to_fine_steps=4, cos_anneal_steps=3)
        groups = pipeline.get_param_groups().values()
        return pipeline, FusedAdamConfig(lr=1e-2).setup([p for group in groups for p in group])

    whole, optimizer = start()
    advance(whole, optimizer, range(2))
    saved = copy.deepcopy((whole.state_dict(), optimizer.state_dict()))
    advance(whole, optimizer, range(2, 4))
    resumed, optimizer = start()
    torch.rand(7)
    resumed.load_pipeline(saved[0], 2)
    optimizer.load_state_dict(saved[1])
    advance(resumed, optimizer, range(2, 4))
    for name, value in whole.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[name], value), name


def test_the_optimizer_takes_the_fused_path_and_steps_like_adam():
    plain = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
    fused = torch.nn.Parameter(plain.detach().clone())
    optimizers = [
        torch.optim.Adam([plain], lr=0.1, betas=(0.9, 0.99), eps=1e-15),
        FusedAdamConfig(lr=0.1).setup([fused]),
    ]
    for parameter, optimizer in zip((plain, fused), optimizers):
        for _ in range(3):
            optimizer.zero_grad()
            parameter.square().sum().backward()
            optimizer.step()
    assert torch.allclose(plain, fused, atol=1e-6)


@torch.no_grad()
def test_masks_are_compared_with_the_surface_not_with_what_is_behind_it():
    """A background is opaque everywhere."""
    model = build().eval()
    assert model.background is not None
    inside = torch.zeros(12, 12, 1)
    inside[3:9, 3:9] = 1.0
    outputs = {"rgb": torch.zeros(12, 12, 3), "accumulation": torch.ones(12, 12, 1), "foreground": inside}
    outputs["depth"] = torch.ones(12, 12, 1)
    metrics, _ = model.get_image_metrics_and_images(outputs, {"image": torch.zeros(12, 12, 3), "mask": inside})
    assert metrics["mask_iou"] == 1.0


@torch.no_grad()
def test_pixels_that_are_not_valid_count_neither_for_colors_nor_for_the_mask():
    model = build(metadata={"has_masks": True}).eval()
    inside, valid = torch.zeros(12, 12, 1), torch.zeros(12, 12, 1, dtype=torch.bool)
    inside[3:9, 3:9], valid[:6] = 1.0, True
    lower = ~valid
    rgb = torch.where(lower, 0.9, 0.1 * inside).expand(12, 12, 3)
    outputs = {"rgb": rgb, "accumulation": torch.where(lower, 1.0, inside), "depth": torch.ones(12, 12, 1)}
    batch = {"image": torch.zeros(12, 12, 3), "mask": inside, "valid_pixels": valid}
    metrics, _ = model.get_image_metrics_and_images(outputs, batch)
    assert metrics["masked_psnr"] == pytest.approx(20.0) and metrics["mask_iou"] == 1.0
    assert metrics["valid_fraction"] == 0.5 and metrics["psnr"] == pytest.approx(20.0 - 10 * np.log10(18 / 72))
