"""RGB-D layouts: the same scene gives the same depth and poses from each, and subsets are spread and honest."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from PIL import Image

from common_ns.cameras.views import spread_views, view_distances, views_to_compare
from common_ns.data.depth.contract import load_depth, read_depth
from common_ns.data.scene_bounds import ray_bounds
from common_ns.errors import InputError
from common_ns.sample_scene.generate import Scene
from depthnerf_ns.dataparser import RgbdDataParserConfig, contract_in_words, covered_fraction
from depthnerf_ns.layouts import find_layout

PLAIN = {"orientation_method": "none", "center_method": "none", "auto_scale_poses": False}
"""Options that leave poses as they are in the files."""


def outputs_of(data: Path, split: str = "train", **options):
    return RgbdDataParserConfig(data=data, **options).setup().get_dataparser_outputs(split)


def edit(data: Path, change) -> None:
    file = data / "transforms.json"
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def exact_distance(outputs, index: int) -> np.ndarray:
    """Ray distance in scene units [h, w] by casting rays at the sample scene; 0 where they hit nothing."""
    rays = outputs.cameras.generate_rays(camera_indices=index, keep_shape=True)
    hits = Scene(0).intersect(
        rays.origins.double().numpy().reshape(-1, 3), rays.directions.double().numpy().reshape(-1, 3)
    )
    distance = np.where(np.isfinite(hits.distance), hits.distance, 0.0)
    return distance.reshape(rays.origins.shape[:2])


def depth_of(outputs, index: int) -> np.ndarray:
    metadata = outputs.metadata
    file = metadata["depth_filenames"][index]
    scale = outputs.dataparser_scale
    return read_depth(file, metadata["depth_contract"], outputs.cameras, index, scale)[..., 0].numpy()


def assert_depth_is_exact(outputs, count: int = 3, at_least: float = 0.99) -> None:
    for index in range(count):
        assert (np.abs(depth_of(outputs, index) - exact_distance(outputs, index)) < 2e-3).mean() > at_least


def test_depth_is_the_ray_distance_to_the_surface(depth_scene):
    outputs = outputs_of(depth_scene, **PLAIN)
    assert len(outputs.image_filenames) == len(outputs.metadata["depth_filenames"]) == 14
    assert [f.name for f in outputs.image_filenames] == [f.name for f in outputs.metadata["depth_filenames"]]
    assert_depth_is_exact(outputs)


def test_depth_follows_the_scale_of_the_poses(depth_scene):
    """Points from depth are the same points, whatever the parser does to the poses."""
    plain, scaled = outputs_of(depth_scene, **PLAIN), outputs_of(depth_scene, scale_factor=0.7)
    assert scaled.dataparser_scale != 1.0
    np.testing.assert_allclose(depth_of(scaled, 2), depth_of(plain, 2) * scaled.dataparser_scale, rtol=1e-4)
    moved = plain.metadata["points3D_xyz"] @ scaled.dataparser_transform[:, :3].T + scaled.dataparser_transform[:, 3]
    assert torch.allclose(moved * scaled.dataparser_scale, scaled.metadata["points3D_xyz"], atol=1e-4)


def test_images_and_poses_are_the_hosts(depth_scene):
    ours, hosts = outputs_of(depth_scene), NerfstudioDataParserConfig(data=depth_scene).setup().get_dataparser_outputs()
    assert ours.image_filenames == hosts.image_filenames
    assert torch.equal(ours.cameras.camera_to_worlds, hosts.cameras.camera_to_worlds)
    assert ours.metadata["depth_filenames"] == hosts.metadata["depth_filenames"]


def test_points_from_depth_lie_on_the_surface_and_bound_the_rays(depth_scene):
    outputs = outputs_of(depth_scene, **PLAIN)
    points = outputs.metadata["points3D_xyz"]
    assert len(points) > 1000
    assert np.abs(Scene(0).signed_distance(points.double().numpy())).max() < 5e-3
    bounds = ray_bounds(outputs)
    nearest = min(depth_of(outputs, i)[depth_of(outputs, i) > 0].min() for i in range(14))
    assert bounds.from_points and bounds.near < nearest < bounds.far < 9.0


def test_normals_face_the_camera_in_scene_axes(depth_scene):
    outputs = outputs_of(depth_scene)
    assert len(outputs.metadata["normal_filenames"]) == 14
    rotation = torch.tensor(outputs.metadata["normal_contract"].world_to_scene)
    assert torch.allclose(rotation @ rotation.T, torch.eye(3), atol=1e-5)
    assert torch.allclose(rotation, outputs.dataparser_transform[:, :3], atol=1e-5)


def test_options_override_the_file_and_the_file_the_defaults(scene_copy):
    stated = outputs_of(scene_copy).metadata
    assert (stated["depth_contract"].unit, stated["depth_contract"].kind) == (1e-3, "z")
    assert stated["depth_assumed"] == ""
    edit(scene_copy, lambda c: c.update(depth_unit_scale_factor=2e-3, depth_kind="ray"))
    metadata = outputs_of(scene_copy).metadata
    assert (metadata["depth_contract"].unit, metadata["depth_contract"].kind) == (2e-3, "ray")
    assert metadata["depth_unit_scale_factor"] == 2e-3
    overridden = outputs_of(scene_copy, depth_unit=5e-4, depth_kind="z", depth_max=9.0).metadata["depth_contract"]
    assert (overridden.unit, overridden.kind, overridden.max_depth) == (5e-4, "z", 9.0)


def test_what_nobody_stated_is_told(scene_copy):
    edit(scene_copy, lambda c: (c.pop("depth_unit_scale_factor"), c.pop("depth_kind")))
    metadata = outputs_of(scene_copy).metadata
    assert contract_in_words(metadata) == "Depth: z-depth in steps of 0.001 m (unit and kind assumed)."
    for file in (scene_copy / "depths").iterdir():
        np.save(file.with_suffix(".npy"), np.asarray(Image.open(file)).astype(np.float32) / 1000)
    rename = lambda frame: frame.update(depth_file_path=frame["depth_file_path"].replace(".png", ".npy"))  # noqa: E731
    edit(scene_copy, lambda c: [rename(frame) for frame in c["frames"]])
    outputs = outputs_of(scene_copy, **PLAIN)
    assert outputs.metadata["depth_contract"].unit == 1.0  # floats are meters
    assert_depth_is_exact(outputs, count=1)


def test_sigma_files_are_found(scene_copy):
    edit(scene_copy, lambda c: [f.update(depth_sigma_file_path=f["depth_file_path"]) for f in c["frames"]])
    metadata = outputs_of(scene_copy).metadata
    assert metadata["depth_sigma_filenames"] == metadata["depth_filenames"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: [f.pop("depth_file_path") for f in c["frames"]], 'no frame has the field "depth_file_path"'),
        (lambda c: c["frames"][0].pop("normal_file_path"), r'train_0000\.png lacks the field "normal_file_path"'),
        (lambda c: c["frames"][0].update(depth_file_path="depths/no.png"), r"no\.png: the depth map does not exist"),
        (lambda c: c.update(depth_unit_scale_factor="mm"), "depth_unit_scale_factor is 'mm'"),
        (lambda c: c.update(depth_unit_scale_factor=0), "the depth unit is 0.0"),
        (lambda c: c.update(depth_kind="disparity"), "the depth kind is 'disparity'"),
        (lambda c: c.update(normal_space="left"), "normal_space is 'left'"),
        (lambda c: c["frames"][1].pop("transform_matrix"), 'the field "transform_matrix" of frame 1 is mis'),
    ],
)
def test_bad_files_give_one_line(scene_copy, change, message):
    edit(scene_copy, change)
    with pytest.raises(InputError, match=message) as caught:
        outputs_of(scene_copy)
    assert "\n" not in str(caught.value)


def test_depth_for_some_frames_only_names_one_without(scene_copy):
    edit(scene_copy, lambda c: c["frames"][3].pop("depth_file_path"))
    with pytest.raises(InputError, match=r'train_0003\.png lacks the field "depth_file_path"'):
        outputs_of(scene_copy)


# ---------------------------------------------------------------------------------------------------------------------
# Few views


def test_subset_is_the_same_every_time_spread_and_nested(depth_scene):
    full = outputs_of(depth_scene)
    three, six = outputs_of(depth_scene, num_views=3), outputs_of(depth_scene, num_views=6)
    assert outputs_of(depth_scene, num_views=6).image_filenames == six.image_filenames
    assert set(three.image_filenames) < set(six.image_filenames) < set(full.image_filenames)
    for outputs, count in ((three, 3), (six, 6)):
        metadata = outputs.metadata
        assert len(outputs.image_filenames) == len(outputs.cameras) == count
        assert [f.name for f in metadata["depth_filenames"]] == [f.name for f in outputs.image_filenames]
        assert len(metadata["normal_filenames"]) == count
        assert outputs.dataparser_scale == full.dataparser_scale
    keep = [full.image_filenames.index(file) for file in six.image_filenames]
    assert torch.equal(six.cameras.camera_to_worlds, full.cameras.camera_to_worlds[keep])


def test_subset_leaves_the_test_views_alone(depth_scene):
    full, few = outputs_of(depth_scene, "test"), outputs_of(depth_scene, "test", num_views=3)
    assert few.image_filenames == full.image_filenames and len(full.image_filenames) == 3
    assert not set(few.image_filenames) & set(outputs_of(depth_scene, num_views=3).image_filenames)


def test_subset_larger_than_the_capture(depth_scene):
    with pytest.raises(InputError, match="--num-views is 15, and 14 training views are not test views"):
        outputs_of(depth_scene, num_views=15)
    with pytest.raises(InputError, match="--num-views is 0"):
        outputs_of(depth_scene, num_views=0)


def test_subset_needs_views_that_are_held_back(scene_copy):
    edit(scene_copy, lambda c: [c.pop(f"{split}_filenames") for split in ("train", "val", "test")])
    with pytest.raises(InputError, match=r"0 training views are not test views as well\. Choose an --eval-mode"):
        outputs_of(scene_copy, num_views=3, eval_mode="all")


def circle(count: int, radius: float = 2.0) -> np.ndarray:
    """Poses on a circle in the xy plane, looking at its center."""
    angle = 2 * np.pi * np.arange(count) / count
    back = np.stack([np.cos(angle), np.sin(angle), np.zeros(count)], axis=-1)
    right = np.stack([-np.sin(angle), np.cos(angle), np.zeros(count)], axis=-1)
    up = np.broadcast_to([0.0, 0.0, 1.0], back.shape)
    return np.stack([right, up, back, radius * back], axis=-1)


def test_spread_views_cover_a_circle():
    poses = circle(12)
    assert len(spread_views(poses, 4)) == 4
    gaps = np.diff([*spread_views(poses, 4), spread_views(poses, 4)[0] + 12])
    assert gaps.tolist() == [3, 3, 3, 3]
    assert spread_views(np.repeat(poses[:1], 3, axis=0), 3) == [0, 1, 2]  # the same pose thrice


def test_view_distances_do_not_depend_on_units_or_origin():
    poses = circle(7)
    moved = poses.copy()
    moved[:, :, 3] = 50.0 * moved[:, :, 3] + [3.0, -900.0, 7.0]
    np.testing.assert_allclose(view_distances(moved), view_distances(poses), atol=1e-9)


def test_views_to_compare_look_the_same_way():
    others = views_to_compare(circle(36), 5)
    for view, some in enumerate(others):
        steps = [min((view - other) % 36, (other - view) % 36) for other in some]
        assert steps == sorted(steps) and steps[0] >= 1 and steps[-1] in (5, 6) and len(set(some)) == len(some) == 5
    assert views_to_compare(circle(2), 5) == [[], []]  # opposite each other


# ---------------------------------------------------------------------------------------------------------------------
# Other layouts


def write_scannet(data: Path, folder: Path, depth_size: int | None = None) -> Path:
    """The sample scene as ScanNet's reader extracts a scene; optionally with a depth camera of its own."""
    content = json.loads((data / "transforms.json").read_text())
    for name in ("color", "depth", "pose", "intrinsic"):
        (folder / name).mkdir(parents=True)
    for number, frame in enumerate(content["frames"]):
        pose = np.array(frame["transform_matrix"]) * [1, -1, -1, 1]
        if number == 5:
            pose = np.full((4, 4), -np.inf)  # tracking was lost
        np.savetxt(folder / "pose" / f"{number}.txt", pose)
        Image.open(data / frame["file_path"]).save(folder / "color" / f"{number}.png")
        depth = Image.open(data / frame["depth_file_path"])
        if depth_size is not None:  # the same rays, on a coarser sensor
            depth = depth.resize((depth_size, depth_size), Image.Resampling.NEAREST)
        depth.save(folder / "depth" / f"{number}.png")
    color = np.eye(4)
    color[[0, 1, 0, 1], [0, 1, 2, 2]] = [content[key] for key in ("fl_x", "fl_y", "cx", "cy")]
    np.savetxt(folder / "intrinsic" / "intrinsic_color.txt", color)
    if depth_size is not None:
        color[:2] *= depth_size / content["w"]
    np.savetxt(folder / "intrinsic" / "intrinsic_depth.txt", color)
    return folder


def write_matterport(data: Path, folder: Path) -> Path:
    """The sample scene as an undistorted house of Matterport3D."""
    content = json.loads((data / "transforms.json").read_text())
    for name in ("undistorted_color_images", "undistorted_depth_images", "undistorted_camera_parameters"):
        (folder / name).mkdir(parents=True)
    lines = ["dataset matterport", f"n_images {len(content['frames'])}"]
    cy = content["h"] - content["cy"]  # from the bottom
    lines += ["", f"intrinsics_matrix {content['fl_x']} 0 {content['cx']}  0 {content['fl_y']} {cy} 0 0 1 "]
    for number, frame in enumerate(content["frames"]):
        image, depth = f"a_i{number:03d}.png", f"a_d{number:03d}.png"
        Image.open(data / frame["file_path"]).save(folder / "undistorted_color_images" / image)
        quarter_millimeters = np.asarray(Image.open(data / frame["depth_file_path"])) * 4
        Image.fromarray(quarter_millimeters.astype(np.uint16)).save(folder / "undistorted_depth_images" / depth)
        pose = " ".join(f"{value:.9g}" for value in np.ravel(frame["transform_matrix"]))
        lines.append(f"scan {depth} {image} {pose}")
    (folder / "undistorted_camera_parameters" / "a.conf").write_text("\n".join(lines))
    return folder


def test_layouts_are_told_apart(depth_scene, tmp_path):
    assert find_layout(depth_scene) == find_layout(depth_scene / "transforms.json") == "nerfstudio"
    assert find_layout(write_scannet(depth_scene, tmp_path / "s")) == "scannet"
    assert find_layout(write_matterport(depth_scene, tmp_path / "m")) == "matterport"
    with pytest.raises(InputError, match=r"holds neither transforms\.json nor the folders color, depth"):
        find_layout(tmp_path)
    with pytest.raises(InputError, match="the data set does not exist"):
        find_layout(tmp_path / "nowhere")


def test_scannet_layout(depth_scene, tmp_path, capsys):
    outputs = outputs_of(write_scannet(depth_scene, tmp_path / "s"), eval_mode="interval", **PLAIN)
    assert "Left out 1 frames whose pose is not finite" in capsys.readouterr().out
    assert len(outputs.image_filenames) == 14 and "5.png" not in [f.name for f in outputs.image_filenames]
    assert outputs.metadata["depth_contract"].unit == 1e-3 and outputs.metadata["depth_assumed"] == ""
    assert_depth_is_exact(outputs)


def test_scannet_depth_on_another_sensor(depth_scene, tmp_path):
    outputs = outputs_of(write_scannet(depth_scene, tmp_path / "s", depth_size=24), eval_mode="all", **PLAIN)
    a, b, c, d = outputs.metadata["depth_contract"].pixel_map
    assert (a, c) == pytest.approx((0.5, 0.5)) and (b, d) == pytest.approx((0.0, 0.0), abs=1e-9)
    on_sensor = np.asarray(Image.open(outputs.metadata["depth_filenames"][3]))
    stored = load_depth(outputs.metadata["depth_filenames"][3], outputs.metadata["depth_contract"], (48, 48))
    assert np.array_equal(stored, on_sensor.repeat(2, axis=0).repeat(2, axis=1))


def test_matterport_layout(depth_scene, tmp_path):
    folder = write_matterport(depth_scene, tmp_path / "m")
    outputs = outputs_of(folder, eval_mode="interval", **PLAIN)
    assert outputs.metadata["depth_contract"].unit == 2.5e-4 and outputs.metadata["depth_contract"].kind == "z"
    assert_depth_is_exact(outputs)
    assert len(outputs_of(folder, num_views=4).image_filenames) == 4


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "depth" / "2.png").unlink(), r"2\.png: the depth map does not exist"),
        (lambda f: (f / "pose" / "2.txt").write_text("1 2 3"), r"2\.txt: holds a table of shape \(3,\)"),
        (lambda f: (f / "pose" / "2.txt").write_text("a b"), r"2\.txt: is not a table of numbers"),
        (
            lambda f: (f / "intrinsic" / "intrinsic_color.txt").unlink(),
            r"intrinsic_color\.txt: the file does not exist",
        ),
    ],
)
def test_damaged_scannet(depth_scene, tmp_path, damage, message):
    folder = write_scannet(depth_scene, tmp_path / "s")
    damage(folder)
    with pytest.raises(InputError, match=message):
        outputs_of(folder)


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("intrinsics_matrix", "#", "line 5 cannot be read"),
        ("a_d001.png", "a_d999.png", r"a_d999\.png: the depth map does not exist"),
        ("scan ", "scam ", "names no scan"),
    ],
)
def test_damaged_matterport(depth_scene, tmp_path, before, after, message):
    folder = write_matterport(depth_scene, tmp_path / "m")
    file = folder / "undistorted_camera_parameters" / "a.conf"
    file.write_text(file.read_text().replace(before, after))
    with pytest.raises(InputError, match=message):
        outputs_of(folder)


def test_layout_can_be_named(depth_scene, tmp_path):
    with pytest.raises(InputError, match="the folder of the scannet layout does not exist"):
        outputs_of(depth_scene, layout="scannet")
    with pytest.raises(InputError, match="--downscale-factor is 2"):
        outputs_of(write_scannet(depth_scene, tmp_path / "s"), downscale_factor=2)


def test_downscaled_images_take_the_nearest_depth(scene_copy):
    (scene_copy / "images_2").mkdir()
    for file in (scene_copy / "images").iterdir():
        Image.open(file).resize((24, 24)).save(scene_copy / "images_2" / file.name)
    outputs = outputs_of(scene_copy, downscale_factor=2, **PLAIN)
    assert int(outputs.cameras.width[0]) == 24
    stored = load_depth(outputs.metadata["depth_filenames"][0], outputs.metadata["depth_contract"], (24, 24))
    assert np.array_equal(stored, np.asarray(Image.open(scene_copy / "depths" / "train_0000.png"))[1::2, 1::2])


def test_config_survives_yaml(depth_scene):
    import yaml

    config = RgbdDataParserConfig(data=depth_scene, depth_kind="ray", num_views=3)
    again = yaml.load(yaml.dump(config), Loader=yaml.Loader)
    assert again == config and again.depth_max == math.inf


@pytest.mark.parametrize("count", [2, 5, 9])
def test_few_frames_leave_one_to_test_on(scene_copy, count):
    """nerfstudio's default split gives all of fewer than ten frames to training, and fails in evaluation."""
    drop = [f"{split}_filenames" for split in ("train", "val", "test")]
    edit(scene_copy, lambda c: (c.update(frames=c["frames"][:count]), [c.pop(key, None) for key in drop]))
    train, test = (outputs_of(scene_copy, split).image_filenames for split in ("train", "test"))
    assert (len(train), len(test)) == (count - 1, 1) and not set(train) & set(test)


def test_one_frame_is_refused_where_one_has_to_be_tested_on(scene_copy):
    drop = [f"{split}_filenames" for split in ("train", "val", "test")]
    edit(scene_copy, lambda c: (c.update(frames=c["frames"][:1]), [c.pop(key, None) for key in drop]))
    with pytest.raises(InputError, match="eval-mode all"):
        outputs_of(scene_copy)
    assert len(outputs_of(scene_copy, eval_mode="all", auto_scale_poses=False).image_filenames) == 1


def test_scattered_holes_are_not_taken_for_sky():
    rng = np.random.default_rng(0)
    scattered = rng.random((120, 160)) > 0.5
    sky = np.ones((120, 160), dtype=bool)
    sky[:60] = False
    assert covered_fraction(scattered) == 1.0 and covered_fraction(np.ones((7, 9), dtype=bool)) == 1.0
    assert covered_fraction(sky) == pytest.approx(0.5) and covered_fraction(~np.ones((120, 160), dtype=bool)) == 0.0
