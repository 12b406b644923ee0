"""idr-data: rays meet the object in the unit sphere, in all spellings of the layout, and bad input is explained."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from common_ns.errors import InputError
from common_ns.sample_scene.generate import SampleSceneConfig, Scene, write_sample_scene
from hashnffb_sdf_ns.camera_errors import pose_errors
from hashnffb_sdf_ns.dataparser import IdrDataParserConfig
from hashnffb_sdf_ns.idr_data.downscaled import downscaled_copies
from hashnffb_sdf_ns.idr_data.layout import list_images, pair_views
from tests.hashnffb_sdf_ns import idr_scene

ALL = {"eval_mode": "all"}
INTERVAL = {"eval_interval": 4, "eval_offset": 1}


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    return idr_scene.write(tmp_path / "scene")


def outputs_of(data: Path, split: str = "train", **options):
    return IdrDataParserConfig(data=data, **options).setup().get_dataparser_outputs(split)


def hits_ball(outputs, index: int, radius: float = 0.8) -> np.ndarray:
    """Which pixels [h, w] of nerfstudio's rays meet the ball of the normalized scene."""
    rays = outputs.cameras.generate_rays(camera_indices=index, keep_shape=True)
    along = (rays.directions * -rays.origins).sum(-1)
    return ((rays.origins.square().sum(-1) - along.square()) < radius**2).numpy()


def test_rays_through_the_masks_meet_the_object(scene):
    """The poses, the intrinsics, the half pixel and the normalization in one."""
    outputs = outputs_of(scene, **ALL)
    assert len(outputs.image_filenames) == len(outputs.metadata["object_mask_filenames"]) == idr_scene.COUNT
    for index, pose in enumerate(idr_scene.poses()):
        assert (hits_ball(outputs, index) != idr_scene.mask_of(pose)).mean() < 2e-3


def test_the_transform_leads_back_to_the_world(scene):
    outputs = outputs_of(scene, **ALL)
    transform, scale = outputs.dataparser_transform.double(), outputs.dataparser_scale
    center = torch.from_numpy(idr_scene.CENTER)
    assert torch.allclose(scale * (transform[:, :3] @ center + transform[:, 3]), torch.zeros(3).double(), atol=1e-5)
    pose = idr_scene.poses()[2]
    position = torch.from_numpy(-pose[:, :3].T @ pose[:, 3])
    moved = scale * (transform[:, :3] @ position + transform[:, 3])
    assert torch.allclose(moved.float(), outputs.cameras.camera_to_worlds[2, :, 3], atol=1e-5)


def test_sample_scene_is_read_exactly(tmp_path):
    """Masks of another program in another layout of cameras: rays hit the sample scene where its masks are."""
    config = SampleSceneConfig(
        tmp_path / "s", layouts=("idr",), num_train=3, num_val=1, num_test=2, resolution=32, supersample=1
    )
    write_sample_scene(config)
    outputs = outputs_of(tmp_path / "s" / "idr")
    names = [file.name for file in outputs_of(tmp_path / "s" / "idr", "test").image_filenames]
    assert len(outputs.image_filenames) == 3 and names == ["000004.png", "000005.png"]  # as splits.json says
    rays = outputs.cameras.generate_rays(camera_indices=1, keep_shape=True)
    transform = outputs.dataparser_transform.double().numpy()
    world = rays.origins.double().numpy() / outputs.dataparser_scale - transform[:, 3]
    directions = rays.directions.double().numpy()
    hits = Scene(0).intersect(world.reshape(-1, 3), directions.reshape(-1, 3))
    mask = np.asarray(Image.open(outputs.metadata["object_mask_filenames"][1])) > 127
    assert (np.isfinite(hits.distance).reshape(mask.shape) == mask).mean() > 0.99


@pytest.mark.parametrize("image", ["images", "rgb"])
def test_spellings(tmp_path, image):
    scene = idr_scene.write(tmp_path / "scene", image=image, names="view {}")
    (scene / "mask").rename(scene / "masks")
    (scene / "cameras_sphere.npz").rename(scene / "cameras.npz")
    (scene / image / ".hidden.png").write_bytes(b"")
    outputs = outputs_of(scene, **ALL)
    assert len(outputs.image_filenames) == idr_scene.COUNT
    assert (hits_ball(outputs, 7) != idr_scene.mask_of(idr_scene.poses()[7])).mean() < 2e-3


def test_natural_order_and_numbers_pair_images_with_cameras(tmp_path):
    for name in ("10.png", "9.png", "1.png"):
        (tmp_path / name).write_bytes(b"")
    images = list_images(tmp_path)
    assert [file.stem for file in images] == ["1", "9", "10"]
    assert pair_views(images, [4, 5, 6], tmp_path) == [4, 5, 6]  # other numbers: by order
    assert pair_views(images, list(range(12)), tmp_path) == [1, 9, 10]  # cameras without images
    with pytest.raises(InputError, match=r"2 cameras .* for 3 images; 1.png has none of its number"):
        pair_views(images, [9, 10], tmp_path)


def test_images_with_gaps_keep_their_cameras(scene):
    for name in ("000002.png", "000005.png"):
        (scene / "image" / name).unlink()
    for name in ("002.png", "005.png"):
        (scene / "mask" / name).unlink()
    outputs = outputs_of(scene, **ALL)
    for index, number in enumerate([0, 1, 3, 4, 6, 7, 8, 9]):
        assert (hits_ball(outputs, index) != idr_scene.mask_of(idr_scene.poses()[number])).mean() < 2e-3


def test_held_out_views_follow_the_interval(scene):
    train, test = outputs_of(scene, **INTERVAL), outputs_of(scene, "test", **INTERVAL)
    assert [file.stem[-1] for file in test.image_filenames] == ["1", "5", "9"]
    assert [file.stem[-1] for file in train.image_filenames] == ["0", "2", "3", "4", "6", "7", "8"]
    assert [file.stem[-1] for file in train.metadata["object_mask_filenames"]] == list("0234678")
    with pytest.raises(InputError, match=r"of 10 images, 0 are held out"):
        outputs_of(scene, eval_offset=30)


def test_half_resolution_shows_the_same(scene, monkeypatch, tmp_path):
    full, half = outputs_of(scene, **ALL), outputs_of(scene, downscale_factor=2, **ALL)
    assert int(half.cameras.width[0]) == 24 and int(half.cameras.height[0]) == 18
    mask = np.asarray(Image.open(half.metadata["object_mask_filenames"][3]))
    expected = idr_scene.mask_of(idr_scene.poses()[3]).reshape(18, 2, 24, 2).mean(axis=(1, 3))
    np.testing.assert_allclose(mask / 255.0, expected, atol=3e-3)
    assert (hits_ball(half, 3) != (expected > 0.5)).mean() < 0.03
    pixels = np.asarray(Image.open(full.image_filenames[3])).astype(float).reshape(18, 2, 24, 2, 3).mean(axis=(1, 3))
    assert np.abs(np.asarray(Image.open(half.image_filenames[3])) - pixels).max() <= 1.0
    # A data set that cannot be written to has its copies in the user's cache.
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("os.access", lambda *arguments: False)
    copies = downscaled_copies(full.image_filenames, 2)
    assert tmp_path / "cache" in copies[0].parents and copies[0].exists()


def test_copies_are_made_anew_for_newer_images_only(scene):
    first = outputs_of(scene, downscale_factor=2, **ALL).image_filenames[0]
    stamp = first.stat().st_mtime_ns
    assert outputs_of(scene, downscale_factor=2, **ALL).image_filenames[0].stat().st_mtime_ns == stamp
    original = scene / "image" / "000000.png"
    Image.new("RGB", idr_scene.SIZE, (200, 10, 10)).save(original)
    import os

    os.utime(original, ns=(stamp + 10**9, stamp + 10**9))
    again = outputs_of(scene, downscale_factor=2, **ALL).image_filenames[0]
    assert np.asarray(Image.open(again))[0, 0].tolist() == [200, 10, 10]


def test_rough_cameras_come_with_their_reference(scene):
    def shift(arrays):
        for name in [name for name in arrays if name.startswith("scale")]:
            del arrays[name]
        for index, pose in enumerate(idr_scene.poses()):
            moved = pose.copy()
            moved[:, 3] += [0.0, 0.0, 5.0 * (-1) ** index]  # along the optical axis
            arrays[f"world_mat_{index}"] = np.vstack([idr_scene.INTRINSICS @ moved, [0, 0, 0, 1]])

    idr_scene.change_cameras(scene, shift, "cameras_linear_init.npz")
    outputs = outputs_of(scene, cameras="linear-init", **INTERVAL)
    reference = torch.stack(outputs.metadata["reference_camera_to_worlds"])
    assert torch.allclose(reference, outputs_of(scene, **INTERVAL).cameras.camera_to_worlds)
    rough = outputs.cameras.camera_to_worlds
    assert torch.allclose((rough - reference)[:, :, 3].norm(dim=-1), torch.full((7,), 5.0 / 50.0), atol=1e-5)
    errors = pose_errors(rough.numpy(), reference.numpy(), align=False)
    assert errors.rotation.max() < 1e-3 and errors.translation.mean() == pytest.approx(0.1, rel=1e-4)
    (scene / "cameras_linear_init.npz").unlink()
    with pytest.raises(InputError, match=r"cameras_linear_init.npz: the file does not exist"):
        outputs_of(scene, cameras="linear-init")


def test_without_scale_mat_masks_or_cameras_tell_the_sphere(tmp_path, capsys):
    scene = idr_scene.write(tmp_path / "a", scale=False)
    outputs = outputs_of(scene, **ALL)
    assert "found from the masks" in capsys.readouterr().out
    assert 1 / outputs.dataparser_scale == pytest.approx(1.1 * idr_scene.RADIUS, rel=0.15)
    with pytest.raises(InputError, match=r"there is no scale_mat"):
        outputs_of(scene, normalization="stated")
    shutil.rmtree(scene / "mask")
    outputs = outputs_of(scene, **ALL)
    assert "found from the cameras" in capsys.readouterr().out
    assert "object_mask_filenames" not in outputs.metadata
    assert outputs.cameras.camera_to_worlds[:, :, 3].norm(dim=-1).min() > 1.0
    with pytest.raises(InputError, match=r"there are no masks"):
        outputs_of(scene, normalization="masks")


def test_points_are_moved_with_the_cameras(scene):
    import trimesh

    points = idr_scene.CENTER + np.random.default_rng(0).normal(size=(80, 3))
    (scene / "sparse_points.ply").write_bytes(trimesh.PointCloud(points).export(file_type="ply"))
    metadata = outputs_of(scene, **ALL).metadata
    expected = torch.from_numpy((points - idr_scene.CENTER) / 50.0).float()
    assert torch.allclose(metadata["points3D_xyz"], expected, atol=1e-5)
    assert metadata["points3D_rgb"].shape == (80, 3)
    assert 1 / outputs_of(scene, normalization="points", **ALL).dataparser_scale < 5.0


def remove(scene: Path, name: str) -> None:
    (scene / name).unlink()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda s: remove(s, "mask/003.png"), "mask: there are 9 masks for 10 images; 000003.png has none"),
        (lambda s: remove(s, "image/000003.png"), None),  # masks and cameras are numbered: not an error
        (lambda s: shutil.rmtree(s / "image"), "no folder image or images or rgb"),
        (lambda s: remove(s, "cameras_sphere.npz"), "no cameras_sphere.npz or cameras.npz"),
        (lambda s: (s / "image" / "000004.png").write_bytes(b"x"), "000004.png: the image cannot be read"),
        (lambda s: Image.new("L", (5, 4)).save(s / "mask" / "004.png"), "the mask has 5×4 pixels, its image 48×36"),
        (lambda s: idr_scene.change_cameras(s, lambda a: a.pop("world_mat_4")), "9 cameras .* for 10 images"),
        (
            lambda s: idr_scene.change_cameras(s, lambda a: a.update(world_mat_4=np.ones((4, 4)))),
            "world_mat_4 is singular",
        ),
    ],
)
def test_bad_input_is_explained(scene, spoil, message):
    spoil(scene)
    if message is None:
        assert len(outputs_of(scene, **ALL).image_filenames) == 9
        return
    with pytest.raises(InputError, match=message):
        outputs_of(scene, **ALL)
