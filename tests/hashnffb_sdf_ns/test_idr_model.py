"""IDR as a model: which rays teach what, chunks that change nothing, and what nerfstudio's commands ask for."""

from __future__ import annotations

import pytest
import torch
from nerfstudio.cameras.rays import RayBundle
from nerfstudio.data.scene_box import SceneBox
from nerfstudio.engine.callbacks import TrainingCallbackAttributes

from common_ns.errors import InputError
from common_ns.hash_grid import HashGridOptions
from common_ns.rays.random_numbers import KEY
from hashnffb_sdf_ns.base_model import SdfFieldConfig
from hashnffb_sdf_ns.camera_refinement import CameraRefinementConfig
from hashnffb_sdf_ns.encodings import EncodingConfig
from hashnffb_sdf_ns.encodings.hash import HashEncoding
from hashnffb_sdf_ns.idr_model import COMPARED_RAYS, IdrModel, IdrModelConfig
from hashnffb_sdf_ns.sphere_tracing import TracingOptions

GRID = HashGridOptions(num_levels=3, log2_table_size=9, base_resolution=4, max_resolution=12)
NOISE = 7
"""Random numbers of a ray: a shift of its samples, a point in the sphere, and a background color."""


def build(masks: bool = True, alpha: bool = False, **options) -> IdrModel:
    torch.manual_seed(0)
    field = SdfFieldConfig(hidden_dim=32, feature_dim=4, color_hidden_dim=8, options=EncodingConfig(hash=GRID))
    metadata = {"has_masks": masks, "images_have_alpha": alpha}
    config = IdrModelConfig(**{"sdf_field": field, **options})
    box = SceneBox(aabb=torch.tensor([[-1.0] * 3, [1.0] * 3]))
    return config.setup(scene_box=box, num_train_data=3, metadata=metadata)


def rays(count: int = 40, spread: float = 0.5, mask: torch.Tensor | None = None, length: float = 1.0) -> RayBundle:
    """Rays towards the initial sphere of radius 0.5 and past it, with the random numbers that a pipeline gives them."""
    generator = torch.Generator().manual_seed(1)
    origins = torch.nn.functional.normalize(torch.randn(count, 3, generator=generator), dim=-1) * 2.5
    directions = spread * torch.randn(count, 3, generator=generator) - origins
    metadata = {KEY: torch.rand(count, NOISE, generator=generator)}
    if mask is not None:
        metadata["object_mask"] = mask
    return RayBundle(
        origins=origins,
        directions=length * torch.nn.functional.normalize(directions, dim=-1),
        pixel_area=torch.full((count, 1), 1e-4),
        camera_indices=torch.arange(count)[:, None] % 3,
        metadata=metadata,
    )


def batch_of(count: int = 40) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    mask = (torch.rand(count, 1, generator=generator) > 0.4).float()
    return {"image": torch.rand(count, 3, generator=generator), "mask": mask}


def test_each_ray_teaches_color_or_outline():
    model, batch = build().train(), batch_of()
    outputs = model(rays(mask=batch["mask"]))
    hit, inside = outputs["accumulation"] > 0.5, batch["mask"] > 0.5
    assert 5 < int(hit.sum()) < 35 and int((hit & ~inside).sum()) > 2
    assert torch.equal(outputs[COMPARED_RAYS].surface, hit & inside)
    outline = outputs[COMPARED_RAYS].outline
    assert not (outline & hit & inside).any() and (outline | ~(hit & ~inside)).all()
    # Rays through the surface go below 0 in it; rays past it stay above.
    assert (outputs[COMPARED_RAYS].least_sdf[outline & hit] < 0).all() and (
        outputs[COMPARED_RAYS].least_sdf[outline & ~hit] > 0
    ).all()


def test_losses_are_the_same_whether_or_not_rays_carry_their_mask():
    """Other datamanagers have masks in batches only. Eikonal points differ, and colors and outlines do not."""
    model, batch = build().train(), batch_of()
    losses = [model.get_loss_dict(model(rays(mask=mask)), batch) for mask in (batch["mask"], None)]
    for name in ("rgb_loss", "mask_loss"):
        assert losses[0][name].item() == pytest.approx(losses[1][name].item(), rel=1e-5)


def test_the_losses_are_those_of_the_paper():
    """Colors: summed absolute errors of surface rays over the number of all rays. Outlines: (1 / α) cross entropy."""
    model, batch = build().train(), batch_of()
    outputs = model(rays(mask=batch["mask"]))
    color, outline = 0.0, 0.0
    for i in range(40):
        if outputs[COMPARED_RAYS].surface[i]:
            color += float((outputs["rgb"][i] - batch["image"][i]).abs().sum()) / 40
        elif outputs[COMPARED_RAYS].outline[i]:
            probability = torch.sigmoid(-50.0 * outputs[COMPARED_RAYS].least_sdf[i].double())
            mask = batch["mask"][i].double()
            entropy = -(mask * probability.log() + (1 - mask) * (1 - probability).log())
            outline += float(entropy) / 50.0 / 40
    losses = model.get_loss_dict(outputs, batch)
    assert losses["rgb_loss"].item() == pytest.approx(color, rel=1e-4)
    assert losses["mask_loss"].item() == pytest.approx(100.0 * outline, rel=1e-3)


def test_chunks_of_rays_give_the_gradients_of_the_whole():
    model, batch = build().train(), batch_of()
    bundle = rays(mask=batch["mask"])

    def gradient(parts):
        model.zero_grad()
        for part in parts:
            chunk = {name: value[part] for name, value in batch.items()}
            losses = model.get_loss_dict(model(bundle[part]), chunk)
            ((part.stop - part.start) / 40 * sum(losses.values())).backward()  # type: ignore[union-attr]
        return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])

    whole = gradient([slice(0, 40)])
    chunks = gradient([slice(0, 7), slice(7, 8), slice(8, 40)])
    assert float(whole.norm()) > 0 and torch.allclose(whole, chunks, rtol=1e-3, atol=1e-5 * float(whole.abs().max()))


def test_masks_move_the_outline():
    """A step against the mask loss lifts the distance on rays that should pass, and lowers it on those that should
    hit."""
    model = build().train()
    bundle = rays(count=200)
    for covered in (0.0, 1.0):
        mask = torch.full((200, 1), covered)
        bundle.metadata["object_mask"] = mask
        batch = {"image": torch.zeros(200, 3), "mask": mask}
        outputs = model(bundle)
        model.zero_grad()
        loss = model.get_loss_dict(outputs, batch)["mask_loss"]
        wrong = (outputs["accumulation"] > 0.5) != (mask > 0.5)
        before = outputs[COMPARED_RAYS].least_sdf[wrong].mean().item()
        loss.backward()
        with torch.no_grad():
            for parameter in model.field.network.parameters():
                assert parameter.grad is not None
                parameter -= 1e-5 * parameter.grad
        after = model(bundle)[COMPARED_RAYS].least_sdf[wrong].mean().item()
        assert (after > before) if covered == 0.0 else (after < before)


def test_colors_reach_cameras_and_so_do_outlines():
    model = build(camera_optimizer=CameraRefinementConfig(mode="SO3xR3", start_step=0)).train()
    batch = batch_of()
    for name in ("rgb_loss", "mask_loss"):
        model.zero_grad()
        model.get_loss_dict(model(rays(mask=batch["mask"])), batch)[name].backward()
        grad = model.camera_optimizer.pose_adjustment.grad
        assert grad is not None and torch.isfinite(grad).all() and (grad.abs().sum(-1) > 0).all()


@pytest.mark.parametrize(("mode", "own", "levels"), [("SO3xR3", 0, 2.0), ("SO3xR3", 20, 1.5), ("off", 0, 3.0)])
def test_while_cameras_are_refined_the_encoding_goes_from_coarse_to_fine(mode, own, levels):
    """Over the longer of both ways, by the absolute step; without refinement all levels are on."""
    refinement = CameraRefinementConfig(mode=mode, coarse_to_fine_steps=10)
    model = build(camera_optimizer=refinement, coarse_to_fine_steps=own)
    encoding = model.field.encoding
    assert isinstance(encoding, HashEncoding)
    model.set_step(5)
    assert encoding.grid.active_levels == pytest.approx(levels)
    model.set_step(20)
    assert encoding.grid.active_levels == 3.0


def test_outputs_of_a_rendering():
    model = build().eval()
    bundle = rays()
    with torch.no_grad():
        outputs = model(bundle)
        longer = model(rays(length=3.0))
    hit = outputs["accumulation"][:, 0] > 0.5
    for name, channels in (("rgb", 3), ("depth", 1), ("accumulation", 1), ("normals", 3), ("sdf_slice", 3)):
        assert outputs[name].shape == (40, channels) and torch.isfinite(outputs[name]).all()
    points = bundle.origins + bundle.directions * outputs["depth"]
    assert float(model.field.sdf(points)[hit].abs().max()) < 1e-3
    normals = 2.0 * outputs["normals"] - 1.0
    # The initial surface is nearly a ball.
    cosine = torch.nn.functional.cosine_similarity(normals[hit], points[hit])
    assert float(cosine.min()) > 0.8 and torch.allclose(normals[~hit], torch.zeros(()))
    # Rays that meet nothing end on the far side of the sphere; those that miss it, where they pass it.
    ends = points[~hit].norm(dim=-1)
    assert (ends > 1.0 - 1e-4).all() and (outputs["rgb"][~hit] == 0).all()
    # Exporters send directions of any length.
    assert torch.allclose(3.0 * longer["depth"], outputs["depth"], atol=1e-3)


def test_rendering_needs_no_ray_to_meet_anything():
    model = build().eval()
    bundle = rays()
    bundle.directions = -bundle.directions
    with torch.no_grad():
        outputs = model(bundle)
    assert not outputs["accumulation"].any() and torch.isfinite(outputs["depth"]).all()


def test_training_survives_a_batch_without_surfaces():
    model, batch = build().train(), batch_of()
    bundle = rays(mask=batch["mask"])
    bundle.directions = -bundle.directions
    losses = model.get_loss_dict(model(bundle), batch)
    sum(losses.values()).backward()  # type: ignore[union-attr]
    assert losses["rgb_loss"] == 0 and losses["mask_loss"] == 0 and losses["eikonal_loss"] > 0


def test_a_field_gone_astray_is_reported_by_its_losses_and_harms_no_index():
    model, batch = build().train(), batch_of()
    with torch.no_grad():
        next(model.field.network.parameters()).fill_(float("nan"))
    losses = model.get_loss_dict(model(rays(mask=batch["mask"])), batch)
    assert not torch.isfinite(sum(losses.values()))  # type: ignore[arg-type]


def test_without_masks_training_is_refused_and_rendering_is_not():
    attributes = TrainingCallbackAttributes(None, None, None, None)  # type: ignore[arg-type]
    assert len(build().get_training_callbacks(attributes)) == 1
    with pytest.raises(InputError, match=r"neither masks nor alpha.*hash-neus"):
        build(masks=False).get_training_callbacks(attributes)
    with pytest.raises(InputError, match="mask-loss-mult is 0"):
        build(mask_loss_mult=0.0).get_training_callbacks(attributes)
    with torch.no_grad():
        assert build(masks=False).eval()(rays())["rgb"].shape == (40, 3)


def test_options_that_cannot_be_are_refused():
    with pytest.raises(InputError, match="num-bracket-samples is 1"):
        build(tracing=TracingOptions(num_bracket_samples=1))
    with pytest.raises(InputError, match="mask-alpha is 0"):
        build(mask_alpha=0.0)


def test_alpha_is_that_of_the_step_and_of_the_sphere():
    model = build(mask_alpha_milestones=(10, 20), sphere_radius=2.0)
    model.set_step(9)
    assert model.alpha == 25.0
    model.update_to_step(20)
    assert model.alpha == 100.0
