"""The model's contract with nerfstudio, its choices by data, and its losses."""

from __future__ import annotations

import pytest
import torch
from nerfstudio.cameras.rays import RayBundle
from nerfstudio.data.dataparsers.blender_dataparser import BlenderDataParserConfig
from nerfstudio.data.scene_box import SceneBox
from nerfstudio.model_components.ray_samplers import UniformLinDispPiecewiseSampler, UniformSampler

from common_ns.data.scene_bounds import RayBounds
from common_ns.errors import InputError
from common_ns.nerfstudio_seam.datamanager import FieldDataManagerConfig
from common_ns.rays.positional_encoding import pos_enc
from common_ns.rays.random_numbers import KEY
from mipnerf_ns.model import MipNerfModel, MipNerfModelConfig

OBJECT = RayBounds(2.0, 6.0, bounded=True, extent=2.0, reason="test")
CAPTURE = RayBounds(0.1, 8.0, bounded=False, extent=9.0, reason="test")


def build(bounds: RayBounds | None = OBJECT, alpha: bool = False, **options) -> MipNerfModel:
    torch.manual_seed(0)
    small = {"num_layers": 2, "hidden_dim": 16, "color_hidden_dim": 8, "num_frequencies": 6, "precision": "float32"}
    small |= {"num_coarse_samples": 12, "num_importance_samples": 10}
    metadata = {"images_have_alpha": alpha} | ({} if bounds is None else {"ray_bounds": bounds})
    box = SceneBox(aabb=torch.tensor([[-1.5] * 3, [1.5] * 3]))
    return MipNerfModelConfig(**{**small, **options}).setup(scene_box=box, num_train_data=1, metadata=metadata)


def rays(count: int = 20, area: float = 1e-4, **fields) -> RayBundle:
    generator = torch.Generator().manual_seed(1)
    directions = torch.nn.functional.normalize(torch.randn(count, 3, generator=generator), dim=-1)
    return RayBundle(
        origins=-4.0 * directions + 0.3 * torch.randn(count, 3, generator=generator),
        directions=directions,
        pixel_area=torch.full((count, 1), area),
        camera_indices=torch.zeros(count, 1, dtype=torch.long),
        **fields,
    )


def test_outputs_have_nerfstudios_names_shapes_and_ranges():
    outputs = build().eval()(rays())
    channels = {"rgb": 3, "rgb_coarse": 3, "normals": 3, "depth": 1, "depth_coarse": 1, "expected_depth": 1}
    channels |= {"accumulation": 1, "accumulation_coarse": 1}
    assert {name: value.shape for name, value in outputs.items()} == {n: (20, c) for n, c in channels.items()}
    assert outputs["normals"].min() >= 0 and outputs["normals"].max() <= 1
    assert outputs["depth"].min() >= 2 and outputs["depth"].max() <= 6


def test_near_plane_holds_in_evaluation_too():
    model = build().eval()
    assert model.collider(rays()).nears.min() == 2.0


def test_chunks_give_the_same_image():
    whole, chunked = build().eval(), build(eval_num_rays_per_chunk=7).eval()
    for name, value in whole(rays()).items():
        assert torch.allclose(value, chunked(rays())[name], atol=1e-5), name


def test_training_outputs_leave_normals_out():
    assert "normals" not in build().train()(rays())
    assert "normals" not in build(compute_normals=False).eval()(rays())


@pytest.mark.parametrize(
    ("bounds", "alpha", "sampler", "background"),
    [
        (OBJECT, True, UniformSampler, "white"),
        (OBJECT, False, UniformSampler, "white"),
        (CAPTURE, False, UniformLinDispPiecewiseSampler, "last_sample"),
        (CAPTURE, True, UniformLinDispPiecewiseSampler, "white"),
    ],
)
def test_sampling_and_background_follow_the_data(bounds, alpha, sampler, background):
    model = build(bounds, alpha)
    assert type(model.sampler_coarse) is sampler
    assert model.renderer_rgb.background_color == background


def test_captures_are_scaled_into_the_encodings_period():
    assert build(OBJECT).field.position_scale == 1.0
    assert build(CAPTURE).field.position_scale * 9.0 == pytest.approx(torch.pi)


def test_given_planes_replace_the_datas():
    model = build(near_plane=1.0)
    assert (model.ray_bounds.near, model.ray_bounds.far) == (1.0, 6.0)
    model = build(None, near_plane=0.5, far_plane=3.0)
    assert (model.ray_bounds.near, model.ray_bounds.far) == (0.5, 3.0)


@pytest.mark.parametrize(
    ("bounds", "options", "message"),
    [
        (OBJECT, {"near_plane": 7.0}, "near 7 and far 6 do not enclose"),
        (OBJECT, {"near_plane": 0.0, "sampling": "disparity"}, "near 0 has no disparity"),
        (None, {}, "near and far are not known"),
    ],
)
def test_impossible_planes(bounds, options, message):
    with pytest.raises(InputError, match=message):
        build(bounds, **options)


def test_alpha_without_a_background_to_blend_with():
    with pytest.raises(InputError, match="images have an alpha channel"):
        build(CAPTURE, alpha=True, background_color="last_sample")


def test_footprints_weight_the_loss_as_areas():
    model = build().train()
    outputs = model(rays())
    target = torch.rand(20, 3)
    footprint = torch.tensor([0.25, 0.5, 1.25, 2.0]).repeat(5)[:, None]
    losses = model.get_loss_dict(outputs, {"image": target, "footprint": footprint})
    error = (outputs["rgb"] - target).square().mean(-1)
    expected = sum(w * e for w, e in zip(footprint[:, 0], error)) / 20
    assert torch.allclose(losses["rgb_loss_fine"], expected)
    coarse = (outputs["rgb_coarse"] - target).square().mean(-1, keepdim=True)
    assert torch.allclose(losses["rgb_loss_coarse"], 0.1 * (footprint * coarse).mean())
    plain = build(loss_by_footprint=False).get_loss_dict(outputs, {"image": target, "footprint": footprint})
    assert torch.allclose(plain["rgb_loss_fine"], error.mean())


def gradients(model: MipNerfModel, bundle: RayBundle, target: torch.Tensor, shares: list[slice]) -> list[torch.Tensor]:
    """Of the loss of a batch that is divided into chunks, as the pipeline adds them up."""
    for parameter in model.parameters():
        parameter.grad = None
    for share in shares:
        losses = model.get_loss_dict(model(bundle[share]), {"image": target[share]})
        (sum(losses.values()) * len(target[share]) / len(target)).backward()
    return [p.grad.clone() for p in model.field.parameters()]


@pytest.mark.parametrize("noise", [0.0, 1.0])
@pytest.mark.parametrize("background", ["white", "random"])
def test_the_gradient_does_not_depend_on_how_rays_are_cut_into_chunks(background, noise):
    """Random numbers come with the rays, and none are drawn besides."""
    model = build(background_color=background, density_noise=noise).train()
    target = torch.rand(20, 4 if background == "random" else 3, generator=torch.Generator().manual_seed(3))
    drawn = model.randomness.draw(20)
    assert drawn.shape == (20, 13 + 11 + (3 if background == "random" else 0) + (12 + 10 if noise else 0))
    bundle = rays(metadata={KEY: drawn})
    whole = gradients(model, bundle, target, [slice(0, 20)])
    state = torch.get_rng_state()
    sevens = [slice(start, min(start + 7, 20)) for start in range(0, 20, 7)]
    for shares in (sevens, [slice(0, 3), slice(3, 11), slice(11, 20)]):
        cut = gradients(model, bundle, target, shares)
        assert torch.equal(torch.get_rng_state(), state)
        for one, other in zip(whole, cut, strict=True):
            assert one.abs().sum() > 0 and torch.allclose(one, other, rtol=1e-3, atol=1e-6)
    others = gradients(model, rays(metadata={KEY: model.randomness.draw(20)}), target, [slice(0, 20)])
    assert not all(torch.allclose(one, other, rtol=1e-3, atol=1e-6) for one, other in zip(whole, others))


def test_noise_is_on_every_intervals_density_of_both_levels():
    """Columns of the noise change the level that they belong to; without noise, there are none."""
    model = build(density_noise=2.0).train()
    drawn = model.randomness.draw(20)
    names = model.randomness.named(torch.arange(drawn.shape[-1])[None].float())
    plain = model(rays(metadata={KEY: drawn}))
    for level, columns in (("_coarse", names.density_coarse[0].long()), ("", names.density_fine[0].long())):
        for column in (columns[0], columns[-1]):
            changed = drawn.clone()
            changed[:, column] = 1.0 - changed[:, column]
            found = model(rays(metadata={KEY: changed}))
            assert not torch.equal(found[f"accumulation{level}"], plain[f"accumulation{level}"])
            assert level == "_coarse" or torch.equal(found["accumulation_coarse"], plain["accumulation_coarse"])
    quiet = build().randomness.named(torch.zeros(1, build().randomness.width))
    assert quiet.density_coarse.numel() == quiet.density_fine.numel() == 0


def test_without_integration_the_extent_of_pixels_does_not_count():
    plain, integrated = build(disable_integration=True).eval(), build().eval()
    thin, wide = rays(area=1e-12), rays(area=1e-2)
    assert not torch.allclose(integrated(thin)["rgb"], integrated(wide)["rgb"], atol=1e-5)
    samples = plain.sampler_coarse(plain.collider(rays()))
    mean, var = plain.field.gaussians(samples)
    encoded = pos_enc(mean * plain.field.position_scale, 0, 6, identity=False)
    assert torch.allclose(plain.field.features(mean, var), plain.field.trunk(encoded), atol=1e-5)
    assert not torch.allclose(integrated.field.features(mean, var), integrated.field.trunk(encoded), atol=1e-3)


def test_coarse_level_gets_no_gradient_from_the_fine_levels_sample_positions():
    model = build().train()
    coarse = model.sampler_coarse(model.collider(rays()))
    weights = torch.rand(20, 12, 1, requires_grad=True)
    fine = model.sampler_fine(rays(), coarse, weights)
    assert not fine.frustums.starts.requires_grad


def test_probe_of_the_exporters_gives_finite_outputs():
    """One ray with float camera indices, unnormalized direction, no planes and pixel area 1, with gradients on."""
    bundle = RayBundle(
        origins=torch.zeros(1, 3),
        directions=torch.ones(1, 3),
        pixel_area=torch.ones(1, 1),
        camera_indices=torch.zeros(1, 1),
        metadata={"directions_norm": torch.full((1, 1), 3**0.5)},
    )
    assert all(torch.isfinite(value).all() for value in build().eval()(bundle).values())


def test_texture_baking_with_its_own_planes_and_placeholder_areas():
    bundle = rays(area=1.0, nears=torch.zeros(20, 1), fars=torch.full((20, 1), 0.02))
    assert all(torch.isfinite(value).all() for value in build().eval()(bundle).values())


def test_rgba_is_straight_alpha_without_the_background():
    model = build()
    true, alpha = torch.rand(6, 5, 3), torch.rand(6, 5, 1) * 0.9 + 0.1
    outputs = {"rgb": true * alpha + (1 - alpha), "accumulation": alpha}
    rgba = model.get_rgba_image(outputs)
    assert torch.allclose(rgba, torch.cat([true, alpha], dim=-1), atol=1e-5)


def test_iso_field_is_the_density():
    model = build()
    field = model.iso_field(level=3.0, voxel_size=0.1)
    points = torch.rand(5, 3)
    expected = model.field.density_of_gaussians(points, torch.full_like(points, 0.1**2 / 12))[:, 0]
    assert torch.allclose(field.value(points), expected)
    assert field.level == 3.0 and field.inside_above
    assert torch.equal(field.aabb, model.scene_box.aabb)
    color = field.color(points, torch.nn.functional.normalize(torch.rand(5, 3), dim=-1))
    assert color.shape == (5, 3) and color.min() >= 0 and color.max() <= 1


def test_config_survives_yaml():
    import yaml
    from nerfstudio.configs.method_configs import all_methods

    for name in ("mip-nerf", "mip-nerf-small"):
        loaded = yaml.load(yaml.dump(all_methods[name]), Loader=yaml.Loader)
        assert loaded.pipeline.model == all_methods[name].pipeline.model


def test_no_rays_are_no_pixels():
    model = build()
    for training in (False, True):
        model.train(training)
        expected, found = model(rays()), model(rays(0))
        assert {name: value.shape for name, value in found.items()} == {
            name: (0, *value.shape[1:]) for name, value in expected.items()
        }


def test_a_batch_of_one_image_trains_from_the_pixels_of_that_image(tiny_blender):
    """Whichever it is: a step's rays all start at its camera, its colors are those of its pixels, and its error falls
    with steps along the gradient."""
    config = FieldDataManagerConfig(
        data=tiny_blender,
        dataparser=BlenderDataParserConfig(),
        train_num_rays_per_batch=64,
        single_image_batches=True,
    )
    datamanager = config.setup(device="cpu", test_mode="test")
    model = build().train()
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    images = []
    for step in range(6):
        bundle, batch = datamanager.next_train(step)
        (image,) = batch["indices"][:, 0].unique().tolist()
        images.append(image)
        camera = datamanager.train_dataset.cameras.camera_to_worlds[image, :3, 3]
        assert torch.allclose(bundle.origins, camera.expand_as(bundle.origins))
        bundle.metadata[KEY] = torch.rand(64, model.randomness.width, generator=torch.Generator().manual_seed(step))
        errors = []
        for _ in range(4):
            loss = sum(model.get_loss_dict(model(bundle), batch).values())
            optimizer.zero_grad()
            loss.backward()
            errors.append(float(loss))
            assert all(p.grad is not None and p.grad.isfinite().all() for p in model.field.parameters())
            optimizer.step()
        assert errors[-1] < errors[0]
    assert len(set(images)) > 1
