"""The multi-scale converter and its data parser, on tiny generated images."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from common_ns.errors import InputError
from mipnerf_ns.dataparser import REQUIRED_KEYS, MultiscaleBlenderDataParserConfig
from mipnerf_ns.scripts.multiscale_blender import MultiscaleBlender, area_average, downscale, pixel_to_camera


def slow_area_average(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """The definition: every old pixel counts by the area of its overlap with the new one."""
    old_height, old_width = image.shape[:2]
    result = np.zeros((height, width, *image.shape[2:]))
    for y in range(height):
        for x in range(width):
            area = 0.0
            for v in range(old_height):
                for u in range(old_width):
                    overlap_y = min((y + 1) * old_height / height, v + 1) - max(y * old_height / height, v)
                    overlap_x = min((x + 1) * old_width / width, u + 1) - max(x * old_width / width, u)
                    if overlap_y > 0 and overlap_x > 0:
                        result[y, x] += overlap_y * overlap_x * image[v, u]
                        area += overlap_y * overlap_x
            result[y, x] /= area
    return result


def composite(image: np.ndarray, background: float) -> np.ndarray:
    """8-bit RGBA over a gray background, 0 to 1."""
    alpha = image[..., 3:] / 255.0
    return image[..., :3] / 255.0 * alpha + background * (1.0 - alpha)


def convert(folder: Path, **options) -> Path:
    output = folder.parent / "multiscale"
    MultiscaleBlender(input=folder, output=output, **options).main()
    return output


def outputs_of(folder: Path, split: str = "train", **options):
    return MultiscaleBlenderDataParserConfig(data=folder, **options).setup().get_dataparser_outputs(split)


@pytest.mark.parametrize("size", [(8, 8), (7, 5), (9, 13), (3, 16), (1, 1)])
@pytest.mark.parametrize("target", [(4, 4), (3, 2), (1, 1), (5, 7)])
def test_area_average_equals_the_slow_loop(size, target):
    height, width = (min(pair) for pair in zip(size, target))
    image = np.random.default_rng(0).random((*size, 3))
    np.testing.assert_allclose(area_average(image, height, width), slow_area_average(image, height, width), atol=1e-12)


@pytest.mark.parametrize("scale", [2, 4, 8])
def test_whole_factors_average_blocks(scale):
    image = np.random.default_rng(1).integers(0, 256, (16, 24, 3), dtype=np.uint8)
    blocks = image.reshape(16 // scale, scale, 24 // scale, scale, 3).mean(axis=(1, 3))
    np.testing.assert_array_equal(downscale(image, scale), np.rint(blocks))


def test_full_scale_keeps_every_byte():
    image = np.random.default_rng(2).integers(0, 256, (5, 6, 4), dtype=np.uint8)
    np.testing.assert_array_equal(downscale(image, 1), image)


def test_an_edge_keeps_its_color_whatever_the_hidden_color_is():
    image = np.zeros((4, 4, 4), dtype=np.uint8)
    image[:, :3] = (200, 40, 10, 255)
    image[:, 3:] = (0, 255, 0, 0)  # transparent, with a color that must not appear
    np.testing.assert_array_equal(downscale(image, 2)[:, 1], [(200, 40, 10, 128)] * 2)
    image[:, 2] = (200, 40, 10, 1)  # also where almost nothing is left
    np.testing.assert_array_equal(downscale(image, 2)[0, 1, :3], (200, 40, 10))
    np.testing.assert_array_equal(downscale(np.zeros((4, 4, 4), np.uint8), 4), np.zeros((1, 1, 4)))


@pytest.mark.parametrize("size", [(16, 16), (15, 17)])
@pytest.mark.parametrize("scale", [2, 4, 8])
def test_light_and_opacity_are_conserved(size, scale):
    image = np.random.default_rng(3).integers(0, 256, (*size, 4), dtype=np.uint8)
    small = downscale(image, scale)
    for background in (0.0, 1.0):
        before, after = composite(image, background).mean(axis=(0, 1)), composite(small, background).mean(axis=(0, 1))
        np.testing.assert_allclose(after, before, atol=1.5 / 255)  # half a step in color, half in opacity
    assert abs(small[..., 3].mean() - image[..., 3].mean()) <= 0.5


@pytest.mark.parametrize(("side", "expected"), [(16, [16, 8, 4, 2]), (13, [13, 7, 3, 2]), (5, [5, 3, 1, 1])])
def test_sides_are_rounded_to_the_nearest_pixel(side, expected):
    image = np.zeros((side, side, 3), np.uint8)
    assert [downscale(image, scale).shape[0] for scale in (1, 2, 4, 8)] == expected


def test_pixel_to_camera_inverts_the_projection():
    fx, fy, cx, cy = 30.0, 28.0, 11.0, 9.0
    point = np.array([0.3, -0.2, -2.0])  # in front of a camera that looks along −z
    pixel = np.array([fx * point[0] / 2.0 + cx, -fy * point[1] / 2.0 + cy, 1.0])
    np.testing.assert_allclose(2.0 * np.array(pixel_to_camera(fx, fy, cx, cy)) @ pixel, point)


def write_scene(
    folder: Path, width: int, height: int, mode: str = "RGBA", splits: tuple[str, ...] = ("train",)
) -> Path:
    rng = np.random.default_rng(4)
    pose = np.eye(4)
    pose[:3, 3] = (0.5, 0.25, 4.0)
    for split in splits:
        (folder / split).mkdir(parents=True, exist_ok=True)
        for i in range(2):
            image = rng.integers(0, 256, (height, width, len(mode)), dtype=np.uint8)
            Image.fromarray(image).save(folder / split / f"r_{i}.png")
        frames = [{"file_path": f"./{split}/r_{i}", "transform_matrix": pose.tolist()} for i in range(2)]
        (folder / f"transforms_{split}.json").write_text(json.dumps({"camera_angle_x": 0.8, "frames": frames}))
    return folder


@pytest.mark.parametrize(("width", "height"), [(16, 16), (24, 16), (21, 13)])
def test_a_point_projects_to_the_same_place_at_every_scale(width, height, tmp_path):
    outputs = outputs_of(convert(write_scene(tmp_path / "scene", width, height)))
    point = torch.tensor([0.2, -0.3, 0.1])
    places = []
    for i in range(4):
        camera = outputs.cameras[i]
        local = camera.camera_to_worlds[:, :3].T @ (point - camera.camera_to_worlds[:, 3])
        x = camera.fx * local[0] / -local[2] + camera.cx
        y = camera.fy * -local[1] / -local[2] + camera.cy
        places.append([float(x / camera.width), float(y / camera.height)])
        assert Image.open(outputs.image_filenames[i]).size == (int(camera.width), int(camera.height))
        # Rays are what training uses: the one through the middle of the image agrees with the full-size one.
        middle = torch.tensor([float(camera.height) / 2, float(camera.width) / 2])
        ray = outputs.cameras.generate_rays(camera_indices=i, coords=middle)
        torch.testing.assert_close(ray.directions, torch.tensor([0.0, 0.0, -1.0]), atol=1e-6, rtol=0)
    np.testing.assert_allclose(places, np.tile(places[0], (4, 1)), atol=1e-6)
    np.testing.assert_allclose(float(outputs.cameras.fx[0]), 0.5 * width / math.tan(0.4), rtol=1e-6)


def test_metadata_has_the_format_of_the_paper(tmp_path):
    output = convert(write_scene(tmp_path / "scene", 16, 16, splits=("train", "val", "test")))
    metadata = json.loads((output / "metadata.json").read_text())
    assert list(metadata) == ["train", "val", "test"]
    table = metadata["train"]
    assert set(table) == {*REQUIRED_KEYS, "lossmult", "pix2cam"}
    assert table["file_path"][:5] == [*(f"images_train/000_d{j}.png" for j in range(4)), "images_train/001_d0.png"]
    assert table["label"] == [0, 1, 2, 3] * 2
    assert table["lossmult"] == [1.0, 4.0, 16.0, 64.0] * 2
    assert (table["near"][0], table["far"][0]) == (2.0, 6.0)
    assert np.shape(table["cam2world"]) == (8, 4, 4)
    np.testing.assert_allclose(np.array(table["pix2cam"])[1, 0], [1 / table["focal"][1], 0, -4 / table["focal"][1]])
    assert not list(output.glob("*.tmp*")) and not list(output.glob(".*"))


def test_the_parser_gives_cameras_scales_and_range(tmp_path):
    output = convert(write_scene(tmp_path / "scene", 16, 16), near=1.0, far=5.0)
    outputs = outputs_of(output, scale_factor=0.5)
    assert len(outputs.image_filenames) == len(outputs.cameras) == 8
    assert outputs.metadata["image_scale"] == [1, 2, 4, 8] * 2
    assert outputs.metadata["near_far"] == (0.5, 2.5)
    assert outputs.cameras.metadata == {}
    assert outputs.cameras.width.flatten().tolist() == [16, 8, 4, 2] * 2
    torch.testing.assert_close(outputs.cameras.camera_to_worlds[3, :, 3], torch.tensor([0.25, 0.125, 2.0]))
    torch.testing.assert_close(outputs.scene_box.aabb, torch.tensor([[-0.75] * 3, [0.75] * 3]))
    torch.testing.assert_close(outputs.alpha_color, torch.ones(3))
    assert outputs_of(output, alpha_color=None).alpha_color is None


def test_scales_choose_images(tmp_path):
    output = convert(write_scene(tmp_path / "scene", 16, 16))
    assert outputs_of(output, scales=(1,)).metadata["image_scale"] == [1, 1]
    assert outputs_of(output, scales=(8, 2)).metadata["image_scale"] == [2, 8, 2, 8]
    with pytest.raises(InputError, match="Choose --scales from 1, 2, 4, 8"):
        outputs_of(output, scales=(3,))


def test_training_images_may_have_scales_of_their_own(tmp_path):
    output = convert(write_scene(tmp_path / "scene", 16, 16, splits=("train", "val", "test")))
    assert outputs_of(output, train_scales=(1,)).metadata["image_scale"] == [1, 1]
    assert outputs_of(output, "test", train_scales=(1,)).metadata["image_scale"] == [1, 2, 4, 8] * 2
    with pytest.raises(InputError, match="Choose --train-scales from 1, 2, 4, 8"):
        outputs_of(output, train_scales=(3,))


def test_missing_splits_are_skipped_and_stood_in_for(tmp_path, capsys):
    output = convert(write_scene(tmp_path / "scene", 8, 8, splits=("train", "test")))
    assert "transforms_val.json does not exist" in capsys.readouterr().out
    assert outputs_of(output, "val").image_filenames == outputs_of(output, "test").image_filenames
    train_only = convert(write_scene(tmp_path / "other" / "scene", 8, 8))
    with pytest.raises(InputError, match="no split 'test'"):
        outputs_of(train_only, "test")


def test_data_of_the_original_converter_loads_without_pix2cam(tmp_path):
    output = convert(write_scene(tmp_path / "scene", 16, 12))
    expected = outputs_of(output).cameras
    file = output / "metadata.json"
    metadata = json.loads(file.read_text())
    del metadata["train"]["pix2cam"], metadata["train"]["lossmult"]
    file.write_text(json.dumps(metadata))
    cameras = outputs_of(output).cameras
    torch.testing.assert_close(cameras.fx, expected.fx)
    torch.testing.assert_close(cameras.cy, expected.cy)


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_images_keep_their_kind(mode, tmp_path):
    output = convert(write_scene(tmp_path / "scene", 8, 8, mode=mode))
    assert Image.open(output / "images_train" / "000_d2.png").mode == mode


def test_a_failed_conversion_leaves_no_metadata(tmp_path):
    scene = write_scene(tmp_path / "scene", 8, 8)
    output = convert(scene)
    broken = scene / "train" / "r_1.png"
    whole = broken.read_bytes()
    broken.write_bytes(b"not an image")
    with pytest.raises(InputError, match=r"r_1\.png"):  # found before anything is written
        convert(scene)
    assert (output / "metadata.json").exists()
    broken.write_bytes(whole[:-40])
    with pytest.raises(InputError, match=r"r_1\.png"):
        convert(scene)
    assert not (output / "metadata.json").exists()


def edit_transforms(scene: Path, edit) -> None:
    file = scene / "transforms_train.json"
    content = json.loads(file.read_text())
    edit(content)
    file.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda c: c.pop("camera_angle_x"), "camera_angle_x"),
        (lambda c: c.update(camera_angle_x=0), "camera_angle_x is 0"),
        (lambda c: c.update(frames=[]), "empty"),
        (lambda c: c["frames"][1].pop("transform_matrix"), "transform_matrix"),
        (lambda c: c["frames"][1]["transform_matrix"][0].__setitem__(0, float("nan")), "nan"),
        (lambda c: c["frames"][1].update(file_path="./train/none"), r"1 of 2 images do not exist.*none\.png"),
    ],
)
def test_bad_scenes_are_explained(edit, message, tmp_path):
    scene = write_scene(tmp_path / "scene", 8, 8)
    edit_transforms(scene, edit)
    with pytest.raises(InputError, match=message) as error:
        convert(scene)
    assert "\n" not in str(error.value)


def test_bad_options_are_explained(tmp_path):
    scene = write_scene(tmp_path / "scene", 8, 8)
    with pytest.raises(InputError, match="both input and output"):
        MultiscaleBlender(input=scene, output=scene).main()
    with pytest.raises(InputError, match="hold no range"):
        convert(scene, near=3.0, far=2.0)
    with pytest.raises(InputError, match="no such folder"):
        convert(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="transforms_train"):
        convert(tmp_path / "empty")
    Image.fromarray(np.zeros((8, 8), np.float32)).save(scene / "train" / "r_0.png", "TIFF")
    with pytest.raises(InputError, match="8 or 16 bits"):
        convert(scene)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda t: t.pop("focal"), "lacks focal"),
        (lambda t: t["near"].pop(), "8 images, but 7"),
        (lambda t: t["cam2world"][2][1].__setitem__(3, float("nan")), "000_d2.*nan"),
        (lambda t: t["cam2world"].__setitem__(2, [[1, 2], [3]]), "000_d2"),
        (lambda t: t["width"].__setitem__(1, 0), "000_d1.*width is 0"),
        (lambda t: t["focal"].__setitem__(1, None), "000_d1.*focal is None"),
        (lambda t: t["label"].__setitem__(1, 0.5), "label is 0.5"),
        (lambda t: t["far"].__setitem__(1, 1.0), "near is 2"),
        (lambda t: t["pix2cam"][1][0].__setitem__(0, -1.0), "000_d1.*pix2cam"),
    ],
)
def test_bad_metadata_is_explained(edit, message, tmp_path):
    output = convert(write_scene(tmp_path / "scene", 8, 8))
    file = output / "metadata.json"
    metadata = json.loads(file.read_text())
    edit(metadata["train"])
    file.write_text(json.dumps(metadata))
    with pytest.raises(InputError, match=message) as error:
        outputs_of(output)
    assert "metadata.json" in str(error.value) and "\n" not in str(error.value)


def test_a_folder_without_metadata_names_the_converter(tmp_path):
    with pytest.raises(InputError, match="ns-multiscale-blender"):
        outputs_of(tmp_path)
