"""Masks in batches and evaluation images, and data sets of any kind placed in the unit sphere."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from nerfstudio.data.dataparsers.blender_dataparser import BlenderDataParserConfig
from PIL import Image

from common_ns.errors import InputError
from hashnffb_sdf_ns.datamanager import SdfDataManagerConfig
from hashnffb_sdf_ns.dataparser import IdrDataParserConfig
from hashnffb_sdf_ns.idr_data.cameras import Similarity
from hashnffb_sdf_ns.object_sphere.placement import renormalized
from tests.hashnffb_sdf_ns import idr_scene


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    return idr_scene.write(tmp_path / "scene")


def manager(data: Path, parser=None, mode="test", **options):
    torch.manual_seed(0)
    parser = parser or IdrDataParserConfig(eval_mode="all")
    config = SdfDataManagerConfig(data=data, dataparser=parser, train_num_rays_per_batch=400, **options)
    return config.setup(device="cpu", test_mode=mode)


def hits_ball(rays, radius: float) -> torch.Tensor:
    along = (rays.directions * -rays.origins).sum(-1)
    return (rays.origins.square().sum(-1) - along.square()) < radius**2


def test_batches_have_masks_of_rays_inside_and_outside(scene):
    datamanager = manager(scene)
    rays, batch = datamanager.next_train(0)
    mask = batch["mask"]
    assert mask.shape == (400, 1) and mask.dtype == torch.float32 and "object_mask" not in batch
    assert 0.05 < mask.mean() < 0.9  # nerfstudio would draw inside only
    assert (hits_ball(rays, 0.8) == (mask[:, 0] > 0.5)).float().mean() > 0.99
    assert datamanager.train_dataset.metadata["has_masks"] is True
    _, evaluation = next(iter(datamanager.fixed_indices_eval_dataloader))
    expected = torch.from_numpy(idr_scene.mask_of(idr_scene.poses()[int(evaluation["image_idx"])]))
    assert torch.equal(evaluation["mask"][..., 0] > 0.5, expected)


def test_masks_follow_the_resolution(scene):
    datamanager = manager(scene, camera_res_scale_factor=0.5)
    _, evaluation = next(iter(datamanager.fixed_indices_eval_dataloader))
    assert evaluation["mask"].shape == (18, 24, 1)
    pose = idr_scene.poses()[int(evaluation["image_idx"])]
    expected = idr_scene.mask_of(pose).reshape(18, 2, 24, 2).mean(axis=(1, 3))
    np.testing.assert_allclose(evaluation["mask"][..., 0], expected, atol=3e-3)


def test_data_without_masks_has_none(tmp_path):
    datamanager = manager(idr_scene.write(tmp_path / "s", masks=False))
    assert "mask" not in datamanager.next_train(0)[1]
    assert datamanager.train_dataset.metadata["has_masks"] is False


def blender(folder: Path) -> Path:
    """The ball as a Blender data set: RGBA, alpha is the mask; about the origin, with radius 1."""
    import json

    poses = idr_scene.poses()
    for split in ("train", "val", "test"):
        (folder / split).mkdir(parents=True)
        frames = []
        for index, pose in enumerate(poses):
            # K of Blender has one focal length and its principal point in the middle.
            columns, rows = np.meshgrid(np.arange(32) - 15.5, np.arange(32) - 15.5)
            directions = np.stack([columns / 50.0, rows / 50.0, np.ones_like(rows)], axis=-1) @ pose[:, :3]
            directions /= np.linalg.norm(directions, axis=-1, keepdims=True)
            origin = (-pose[:, :3].T @ pose[:, 3] - idr_scene.CENTER) / 40.0
            alpha = (origin @ origin - (directions @ -origin) ** 2) < 1.0
            pixels = np.full((32, 32, 4), 50, np.uint8)
            pixels[..., 3] = 255 * alpha
            Image.fromarray(pixels).save(folder / split / f"r_{index}.png")
            c2w = np.eye(4)
            c2w[:3] = np.column_stack([pose[0, :3], -pose[1, :3], -pose[2, :3], origin])
            frames.append({"file_path": f"./{split}/r_{index}", "transform_matrix": c2w.tolist()})
        content = {"camera_angle_x": 2 * np.arctan(16 / 50), "frames": frames}
        (folder / f"transforms_{split}.json").write_text(json.dumps(content))
    return folder


def test_alpha_is_the_mask_of_other_dataparsers(tmp_path):
    """Composited on white by nerfstudio's parser, the mask still comes along; and the ball fills the unit sphere."""
    data = blender(tmp_path / "b")
    datamanager = manager(data, BlenderDataParserConfig(scale_factor=2.0), mode="val")
    rays, batch = datamanager.next_train(0)
    assert batch["image"].shape == (400, 3)
    radius = 2.0 * datamanager.train_dataparser_outputs.dataparser_scale / 2.0
    assert 0.7 < radius < 0.95
    assert (hits_ball(rays, radius) == (batch["mask"][:, 0] > 0.5)).float().mean() > 0.98
    near_far = datamanager.train_dataset.metadata["ray_bounds"]
    scale = datamanager.train_dataparser_outputs.dataparser_scale
    assert (near_far.near, near_far.far) == pytest.approx((2.0 * scale, 6.0 * scale))
    ours = datamanager.eval_dataset.cameras.camera_to_worlds
    assert torch.allclose(ours, datamanager.train_dataset.cameras.camera_to_worlds, atol=1e-6)


def test_masks_of_valid_pixels_go_with_alpha(tmp_path):
    """Alpha says where the object is, and masks of the upper half what may be drawn and is compared."""
    data = blender(tmp_path / "b")
    upper = np.zeros((32, 32), dtype=np.uint8)
    upper[:16] = 255
    Image.fromarray(upper).save(tmp_path / "upper.png")
    config = SdfDataManagerConfig(data=data, dataparser=BlenderDataParserConfig(), train_num_rays_per_batch=400)

    class WithMasks(config._target):
        def _present(self, outputs):
            return super()._present(replace(outputs, mask_filenames=[tmp_path / "upper.png"] * 10))

    config._target = WithMasks
    datamanager = config.setup(device="cpu", test_mode="val")
    batch = datamanager.next_train(0)[1]
    assert batch["indices"][:, 1].max() < 16 and 0.55 < (batch["mask"] > 0.5).float().mean() < 0.65
    _, evaluation = next(iter(datamanager.fixed_indices_eval_dataloader))
    assert np.array_equal(evaluation["valid_pixels"][..., 0].numpy(), upper > 0)
    alpha = np.asarray(Image.open(data / "test" / f"r_{int(evaluation['image_idx'])}.png"))[..., 3]
    assert np.array_equal(evaluation["mask"][..., 0].numpy(), alpha / np.float32(255))


def scaled(scene: Path, factor: float) -> Path:
    idr_scene.change_cameras(
        scene, lambda a: a.update({n: m @ np.diag([factor] * 3 + [1.0]) for n, m in a.items() if "scale" in n})
    )
    return scene


@pytest.mark.parametrize("factor", [0.5, pytest.param(6.0, marks=pytest.mark.slow)])
def test_a_bad_scale_is_fixed_refused_or_named(scene, capsys, factor):
    scaled(scene, factor)
    fixed = manager(scene, mode="val")
    out = " ".join(capsys.readouterr().out.split())
    assert "Badly scaled:" in out and "100.0% of the visual hull inside the unit sphere" in out
    outputs = fixed.train_dataparser_outputs
    position = -idr_scene.poses()[2][:, :3].T @ idr_scene.poses()[2][:, 3]
    transform = outputs.dataparser_transform.double().numpy()
    moved = outputs.dataparser_scale * (transform[:, :3] @ position + transform[:, 3])
    np.testing.assert_allclose(moved, outputs.cameras.camera_to_worlds[2, :, 3], atol=1e-4)
    assert 40.0 < 1 / outputs.dataparser_scale < 56.0
    assert torch.equal(fixed.eval_dataset.cameras.camera_to_worlds, fixed.train_dataset.cameras.camera_to_worlds)
    with pytest.raises(InputError, match=r"--pipeline.datamanager.scale-check fix"):
        manager(scene, scale_check="refuse")
    for choice in ("warn", "off"):
        kept = manager(scene, mode="val", scale_check=choice)
        assert kept.train_dataparser_outputs.dataparser_scale == pytest.approx(1 / (50.0 * factor))
        assert ("Badly scaled" in capsys.readouterr().out) == (choice == "warn")


def test_a_sphere_that_was_found_is_kept_in_the_config(scene):
    """A later command has it from there, and does not look at masks again."""
    scaled(scene, 6.0)
    found = manager(scene, mode="val")
    assert found.has_completed_config and found.config.unit_sphere is not None
    poses = found.train_dataparser_outputs.cameras.camera_to_worlds
    for mask in (scene / "mask").iterdir():
        Image.fromarray(np.zeros_like(np.asarray(Image.open(mask)))).save(mask)
    later = manager(scene, mode="test", unit_sphere=found.config.unit_sphere)
    assert torch.equal(later.train_dataparser_outputs.cameras.camera_to_worlds, poses)
    assert not later.has_completed_config
    for sphere in ((0.0, 0.0, 0.0, 0.0), (0.0, float("nan"), 0.0, 1.0)):
        with pytest.raises(InputError, match=r"--pipeline\.datamanager\.unit-sphere is 0"):
            manager(scene, unit_sphere=sphere)


def test_a_good_scale_is_left_alone(scene, capsys):
    datamanager = manager(scene, mode="val")
    assert datamanager.train_dataparser_outputs.dataparser_scale == pytest.approx(1 / 50.0)
    out = capsys.readouterr().out
    assert "of the visual hull inside the unit sphere" in out and "Badly" not in out


def test_bad_masks_end_a_training_unless_told_otherwise(scene, capsys):
    idr_scene.change_masks(scene, np.invert)
    with pytest.raises(InputError, match=r"the masks are inverted"):
        manager(scene, mode="val")
    manager(scene, mode="val", mask_check="warn", scale_check="warn")
    assert "the masks are inverted" in " ".join(capsys.readouterr().out.split())
    manager(scene, mode="test")  # evaluation looks at what was trained


def test_nerfstudios_patches_are_refused_with_masks(scene):
    with pytest.raises(InputError, match=r"draw pixels inside of masks only"):
        manager(scene, patch_size=4)


def test_two_ways_to_draw_where_the_object_is_exclude_each_other(scene):
    with pytest.raises(InputError, match="object-share and mask-ray-fraction"):
        manager(scene, object_share=0.5, mask_ray_fraction=0.5)


def test_renormalized_moves_everything_alike(scene):
    outputs = IdrDataParserConfig(data=scene, eval_mode="all").setup().get_dataparser_outputs("train")
    outputs.metadata["points3D_xyz"] = outputs.cameras.camera_to_worlds[:, :, 3].clone()
    outputs.metadata["near_far"] = (1.0, 3.0)
    turn = np.array([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    placed = Similarity(np.array([0.1, 0.2, -0.3]), 0.5, turn)
    moved = renormalized(outputs, placed)
    assert torch.allclose(moved.metadata["points3D_xyz"], moved.cameras.camera_to_worlds[:, :, 3], atol=1e-6)
    assert moved.metadata["near_far"] == (2.0, 6.0)
    world = np.array([120.0, -10.0, 580.0])
    first, second = (
        o.dataparser_scale * (o.dataparser_transform.double().numpy() @ [*world, 1.0]) for o in (outputs, moved)
    )
    np.testing.assert_allclose(second, placed.normalized_points(first[None])[0], atol=1e-5)
    assert outputs.metadata["near_far"] == (1.0, 3.0)  # the parser's own outputs stay as they are
    assert renormalized(outputs, Similarity(np.zeros(3), 1.0)) is outputs
