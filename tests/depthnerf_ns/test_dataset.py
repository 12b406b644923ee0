"""Depth in batches: that of the drawn pixels, as ray distance in scene units, however pixels are kept."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from common_ns.errors import InputError
from common_ns.nerfstudio_seam.datamanager import FieldDataManagerConfig
from common_ns.sample_scene.generate import Scene
from depthnerf_ns.datamanager import DepthDataManagerConfig
from depthnerf_ns.dataparser import RgbdDataParserConfig

PLAIN = {"orientation_method": "none", "center_method": "none", "auto_scale_poses": False}


def manager(data: Path, mode="test", **options):
    parser = RgbdDataParserConfig(**options.pop("parser", {}))
    torch.manual_seed(options.pop("seed", 42))
    config = DepthDataManagerConfig(data=data, dataparser=parser, train_num_rays_per_batch=256, **options)
    return config.setup(device="cpu", test_mode=mode)


def edit(data: Path, change) -> None:
    file = data / "transforms.json"
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def add_sigma(data: Path, step: int = 7) -> None:
    """A standard deviation of `step` steps, in the folder sigmas."""
    (data / "sigmas").mkdir()
    for file in (data / "depths").iterdir():
        Image.fromarray(np.full((48, 48), step, np.uint16)).save(data / "sigmas" / file.name)
    edit(
        data,
        lambda c: [
            f.update(depth_sigma_file_path=f["depth_file_path"].replace("depths", "sigmas")) for f in c["frames"]
        ],
    )


def test_depth_of_the_rays_is_where_they_hit_the_scene(depth_scene):
    rays, batch = manager(depth_scene, parser=PLAIN).next_train(0)
    depth = batch["depth_image"]
    assert depth.shape == (256, 1) and depth.dtype == torch.float32
    hits = Scene(0).intersect(rays.origins.double().numpy(), rays.directions.double().numpy())
    exact = np.where(np.isfinite(hits.distance), hits.distance, 0.0)
    assert (np.abs(depth[:, 0].numpy() - exact) < 2e-3).mean() > 0.98
    assert 0.1 < (depth > 0).float().mean() < 0.9


def test_a_run_says_how_depth_is_read(depth_scene, capsys):
    manager(depth_scene, mode="val")
    out = capsys.readouterr().out
    assert "Depth: z-depth in steps of 0.001 m." in out and "Depth check: ok" in out


def test_evidently_wrong_depth_is_not_trained_on_unless_asked_for(depth_scene, capsys):
    with pytest.raises(InputError, match="the files hold z-depth rather than ray distance"):
        manager(depth_scene, mode="val", parser={"depth_kind": "ray"})
    manager(depth_scene, mode="val", parser={"depth_kind": "ray"}, depth_check="warn")
    assert "Depth check: wrong" in capsys.readouterr().out
    manager(depth_scene, mode="val", parser={"depth_kind": "ray"}, depth_check="off")
    manager(depth_scene, mode="test", parser={"depth_kind": "ray"})  # evaluation does not look
    assert "Depth check" not in capsys.readouterr().out


def test_depth_is_in_scene_units(depth_scene):
    """The same rays, in a scene that the parser scaled."""
    datamanager = manager(depth_scene)
    scale = datamanager.train_dataparser_outputs.dataparser_scale
    assert scale < 0.5
    _, expected = manager(depth_scene, parser=PLAIN).next_train(4)
    _, found = datamanager.next_train(4)
    assert torch.equal(expected["indices"], found["indices"])
    assert torch.allclose(found["depth_image"], expected["depth_image"] * scale, atol=1e-5)


@pytest.mark.parametrize("kind", ["z", "ray"])
def test_batch_and_image_agree(scene_copy, kind):
    add_sigma(scene_copy)
    datamanager = manager(scene_copy, parser={"depth_kind": kind})
    _, batch = datamanager.next_train(1)
    camera, row, column = batch["indices"].T
    for name, channels in (("depth_image", 1), ("depth_sigma", 1), ("normal_image", 3)):
        images = torch.stack([datamanager.train_dataset[i][name] for i in range(14)])
        assert images.shape == (14, 48, 48, channels)
        assert torch.allclose(images[camera, row, column], batch[name], atol=1e-5), name
    stored = np.asarray(Image.open(datamanager.train_dataset.depth_files[0])).astype(np.float32)[..., None]
    depth = datamanager.train_dataset[0]["depth_image"].numpy()
    scale = 1e-3 * datamanager.train_dataparser_outputs.dataparser_scale
    if kind == "ray":
        np.testing.assert_allclose(depth, stored * scale, rtol=1e-5)
    else:
        rays = datamanager.train_dataset.cameras.generate_rays(camera_indices=0, keep_shape=True)
        np.testing.assert_allclose(depth, stored * scale * rays.metadata["directions_norm"].numpy(), rtol=1e-5)


def test_sigma_is_along_the_ray_like_depth(scene_copy):
    add_sigma(scene_copy, step=7)
    _, batch = manager(scene_copy).next_train(0)
    valid = batch["depth_image"] > 0
    assert (batch["depth_sigma"][~valid] == 0).all()
    datamanager = manager(scene_copy)
    rays, batch = datamanager.next_train(0)
    expected = 7e-3 * datamanager.train_dataparser_outputs.dataparser_scale * rays.metadata["directions_norm"]
    assert torch.allclose(batch["depth_sigma"][valid], expected[valid])


def test_normals_are_those_of_the_surface(depth_scene):
    datamanager = manager(depth_scene)
    rays, batch = datamanager.next_train(0)
    outputs = datamanager.train_dataparser_outputs
    rotation = outputs.dataparser_transform[:, :3]
    origins = (rays.origins / outputs.dataparser_scale - outputs.dataparser_transform[:, 3]) @ rotation
    hits = Scene(0).intersect(origins.double().numpy(), (rays.directions @ rotation).double().numpy())
    present = np.isfinite(hits.distance) & (batch["normal_image"] != 0).any(dim=-1).numpy()
    assert present.sum() > 30
    expected = torch.from_numpy(hits.normal[present]).float() @ rotation.T
    cosine = (batch["normal_image"][torch.from_numpy(present)] * expected).sum(-1)
    assert (cosine > 0.99).float().mean() > 0.9  # supersampled normals at edges are means
    assert (batch["normal_image"][~torch.from_numpy(np.isfinite(hits.distance))] == 0).float().mean() > 0.95


def test_colors_are_drawn_as_without_depth(depth_scene):
    torch.manual_seed(42)
    plain = FieldDataManagerConfig(
        data=depth_scene, dataparser=RgbdDataParserConfig(), train_num_rays_per_batch=256
    ).setup(device="cpu", test_mode="test")
    _, expected = plain.next_train(3)
    _, found = manager(depth_scene).next_train(3)
    assert set(found) - set(expected) == {"depth_image", "normal_image"}
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_pixels_on_disk_give_the_same_batch(depth_scene):
    _, expected = manager(depth_scene).next_train(3)
    _, found = manager(depth_scene, pixels_on_disk=True).next_train(3)
    assert set(found) == set(expected)
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_depth_is_kept_in_two_bytes(depth_scene):
    datamanager = manager(depth_scene)
    datamanager.next_train(0)
    store = datamanager.train_pixel_sampler.store
    assert store.nbytes == 14 * 48 * 48 * (3 + 2 + 3)


def test_devices_share_the_batch(depth_scene, monkeypatch):
    from common_ns.nerfstudio_seam import distributed

    _, whole = manager(depth_scene).next_train(5)
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    monkeypatch.setattr(distributed, "gather", lambda value: [42] * 2)
    parts = []
    for rank in range(2):
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        parts.append(manager(depth_scene, seed=42 + rank).next_train(5)[1])
    for name, value in whole.items():
        assert torch.equal(torch.cat([part[name] for part in parts]), value), name


def test_evaluation_batches_and_images_have_depth(depth_scene):
    datamanager = manager(depth_scene)
    _, batch = datamanager.next_eval(0)
    assert batch["depth_image"].shape == (len(batch["image"]), 1)
    _, batch = datamanager.fixed_indices_eval_dataloader.get_camera(1)
    assert batch["depth_image"].shape == (48, 48, 1) and batch["normal_image"].shape == (48, 48, 3)


def test_host_batches_have_depth_too(depth_scene):
    _, batch = manager(depth_scene, patch_size=4).next_train(0)
    image = manager(depth_scene).train_dataset
    camera, row, column = batch["indices"][17].tolist()
    assert torch.allclose(batch["depth_image"][17], image[camera]["depth_image"][row, column])


def test_smaller_images_take_the_nearest_depth(depth_scene):
    full = manager(depth_scene, parser={"depth_kind": "ray"}).train_dataset[2]["depth_image"]
    half = manager(depth_scene, parser={"depth_kind": "ray"}, camera_res_scale_factor=0.5)
    assert torch.equal(half.train_dataset[2]["depth_image"], full[1::2, 1::2])
    _, batch = half.next_train(0)
    assert batch["indices"][:, 1:].max() < 24 and (batch["depth_image"] > 0).any()


def test_float_and_fisheye_depth(scene_copy):
    for file in (scene_copy / "depths").iterdir():
        np.save(file.with_suffix(".npy"), np.asarray(Image.open(file)).astype(np.float32) / 1000)

    def change(content):
        content.update(camera_model="OPENCV_FISHEYE", depth_unit_scale_factor=1.0)
        for frame in content["frames"]:
            frame["depth_file_path"] = frame["depth_file_path"].replace(".png", ".npy")

    edit(scene_copy, change)
    datamanager = manager(scene_copy)
    rays, batch = datamanager.next_train(0)
    camera, row, column = batch["indices"].T
    z = torch.stack([torch.from_numpy(np.load(file)) for file in datamanager.train_dataset.depth_files])
    forward = -datamanager.train_dataset.cameras.camera_to_worlds[camera, :, 2]
    along_axis = batch["depth_image"][:, 0] * (rays.directions * forward).sum(-1)
    scale = datamanager.train_dataparser_outputs.dataparser_scale
    assert torch.allclose(along_axis, z[camera, row, column] * scale, atol=1e-5)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda d: (d / "depths" / "train_0003.png").unlink(), r"train_0003\.png: the depth map does not exist"),
        (lambda d: (d / "depths" / "train_0003.png").write_bytes(b"x"), r"train_0003\.png: .*cannot be read"),
        (
            lambda d: Image.new("L", (48, 48), 9).save(d / "depths" / "train_0003.png"),
            r"train_0003\.png: the depth map has 8 bits",
        ),
        (
            lambda d: Image.fromarray(np.ones((40, 48), np.uint16)).save(d / "depths" / "val_0000.png"),
            r"val_0000\.png: the depth map has 48×40 pixels, its image 48×48",
        ),
        (
            lambda d: Image.fromarray(np.zeros((48, 48), np.uint16)).save(d / "depths" / "train_0003.png"),
            r"train_0003\.png: the depth map holds no depth",
        ),
        (lambda d: add_sigma(d, step=0), r"sigmas/train_0000\.png: σ is 0 at row"),
        (
            lambda d: Image.new("RGB", (40, 48)).save(d / "normals" / "train_0003.png"),
            r"train_0003\.png: the normals have 40×48 pixels",
        ),
    ],
)
def test_bad_input_is_found_before_training(scene_copy, damage, message):
    damage(scene_copy)
    with pytest.raises(InputError, match=message) as caught:
        manager(scene_copy, mode="val")
    assert "\n" not in str(caught.value)


def test_depth_of_two_types(scene_copy):
    depth = np.asarray(Image.open(scene_copy / "depths" / "train_0003.png"))
    np.save(scene_copy / "depths" / "odd.npy", depth.astype(np.float32))
    edit(scene_copy, lambda c: c["frames"][3].update(depth_file_path="depths/odd.npy"))
    with pytest.raises(InputError, match=r"odd\.npy: the depth is stored as float32, in other files .* uint16"):
        manager(scene_copy, mode="val")


def test_data_without_depth(tiny_blender):
    from nerfstudio.data.dataparsers.blender_dataparser import BlenderDataParserConfig

    config = DepthDataManagerConfig(data=tiny_blender, dataparser=BlenderDataParserConfig())
    with pytest.raises(InputError, match="the data set has no depth"):
        config.setup(device="cpu", test_mode="test")


def test_depth_of_nerfstudios_parser_is_z_depth(depth_scene):
    from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig

    torch.manual_seed(42)
    config = DepthDataManagerConfig(
        data=depth_scene, dataparser=NerfstudioDataParserConfig(), train_num_rays_per_batch=256
    )
    _, found = config.setup(device="cpu", test_mode="test").next_train(3)
    _, expected = manager(depth_scene).next_train(3)
    assert torch.allclose(found["depth_image"], expected["depth_image"])
