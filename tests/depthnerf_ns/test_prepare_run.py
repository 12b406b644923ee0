"""`ns-depth-prepare` on the sample scene: what it writes, `rgbd-data` reads, and it is right; what cannot work is said
in a line, before or in the report."""

from __future__ import annotations

import json
import math
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from common_ns.checks import InputError
from common_ns.sample_scene import SampleSceneConfig, write_sample_scene
from depthnerf_ns.dataparser import RgbdDataParserConfig
from depthnerf_ns.dataset import DepthDataset
from depthnerf_ns.prepare.capture import read_capture
from depthnerf_ns.prepare.monosdf import read_monosdf
from depthnerf_ns.prepare.options import PrepareOptions
from depthnerf_ns.prepare.predictions import FilePredictions, fit_to_image
from depthnerf_ns.prepare.run import largest_hole, prepare
from depthnerf_ns.prepare.writer import tidy_step

NOISE, SIDE = 0.01, 112


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The scene with a sensor that is noisy and has holes, and with monocular predictions."""
    folder = tmp_path_factory.mktemp("prepare") / "scene"
    config = SampleSceneConfig(
        output_dir=folder,
        layouts=("nerfstudio",),
        num_train=8,
        num_val=1,
        num_test=2,
        resolution=SIDE,
        supersample=1,
        depth_noise=NOISE,
        depth_holes=0.3,
        mono_depth=True,
        normals=True,
        unbounded=True,  # every pixel sees something
    )
    write_sample_scene(config)
    exact = SampleSceneConfig(
        output_dir=folder.parent / "exact",
        layouts=("nerfstudio",),
        num_train=8,
        num_val=1,
        num_test=2,
        resolution=SIDE,
        supersample=1,
        unbounded=True,
    )
    write_sample_scene(exact)
    return folder / "nerfstudio"


@pytest.fixture
def copy(world, tmp_path) -> Path:
    """A copy of it to change."""
    return Path(shutil.copytree(world, tmp_path / "copy"))


def exact_depth(world: Path, name: str) -> np.ndarray:
    return np.asarray(Image.open(world.parents[1] / "exact/nerfstudio/depths" / f"{name}.png")) * 1e-3


def run(data: Path, output: Path, **options: Any):
    return prepare(PrepareOptions(data=data, output_path=output, **options))


def maps(output: Path, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Depth and σ of a frame in scene units, as written."""
    content = json.loads((output / "transforms.json").read_text())
    unit = content["depth_unit_scale_factor"]
    frame = next(frame for frame in content["frames"] if Path(frame["file_path"]).stem == name)
    both = []
    for key in ("depth_file_path", "depth_sigma_file_path"):
        file = output / frame[key]
        values = np.load(file) if file.suffix == ".npy" else np.asarray(Image.open(file))
        both.append(values.astype(np.float64) * unit)
    return both[0], both[1]


def dataset(output: Path, split: str = "train") -> DepthDataset:
    """The result as training reads it."""
    return DepthDataset(RgbdDataParserConfig(data=output).setup().get_dataparser_outputs(split))


# ---------------------------------------------------------------------------------------------------------------------
# Sensor


@pytest.mark.parametrize("depth_format", ["png", "npy"])
def test_sensor_depth_gets_sigma_and_stays_what_it_is(world, tmp_path, depth_format):
    report = run(world, tmp_path, source="sensor", sensor_sigma=(0.001, 0.0, 0.002), depth_format=depth_format)
    assert [frame.status for frame in report.frames] == ["ok"] * 11
    depth, sigma = maps(tmp_path, "train_0000")
    stored = np.asarray(Image.open(world / "depths/train_0000.png")) * 1e-3
    np.testing.assert_allclose(depth, stored, atol=1e-6)
    has = depth > 0
    np.testing.assert_allclose(sigma[has], 0.001 + 0.002 * depth[has] ** 2, atol=3e-4)
    assert (sigma[~has] == 0).all() and 0.25 < 1 - has.mean() < 0.35
    assert "holes, the largest" in next(frame for frame in report.frames if frame.name == "train_0000.png").note


def test_the_result_reads_like_the_original(world, tmp_path):
    """Same splits, cameras, normals and depth, and nothing left to assume."""
    run(world, tmp_path / "out", source="sensor")
    for split in ("train", "test"):
        new, old = dataset(tmp_path / "out", split), dataset(world, split)
        assert [file.name for file in new.image_filenames] == [file.name for file in old.image_filenames]
        assert new.metadata["depth_assumed"] == ""
        a, b = new.get_data(0), old.get_data(0)
        for key in ("image", "depth_image", "normal_image"):
            np.testing.assert_allclose(a[key], b[key], atol=1e-5)
        assert (a["depth_sigma"] > 0).sum() == (a["depth_image"] > 0).sum()
    assert np.array_equal(new.cameras.camera_to_worlds, old.cameras.camera_to_worlds)


def test_a_result_that_stands_alone(world, tmp_path):
    run(world, tmp_path / "here" / "out", source="sensor", copy_images=True)
    (tmp_path / "here" / "out").rename(tmp_path / "there")
    content = json.loads((tmp_path / "there/transforms.json").read_text())
    assert not any(".." in str(value) for frame in content["frames"] for value in frame.values())
    assert len(dataset(tmp_path / "there")) == 8


def test_ray_distance_stays_ray_distance(copy, tmp_path):
    content = json.loads((copy / "transforms.json").read_text())
    content["depth_kind"] = "ray"
    (copy / "transforms.json").write_text(json.dumps(content))
    run(copy, tmp_path / "out", source="sensor")
    assert json.loads((tmp_path / "out/transforms.json").read_text())["depth_kind"] == "ray"
    assert np.array_equal(
        maps(tmp_path / "out", "train_0001")[0], np.asarray(Image.open(copy / "depths/train_0001.png")) * 1e-3
    )


def test_frames_whose_depth_is_unusable_are_left_out_and_named(copy, tmp_path):
    Image.fromarray(np.zeros((SIDE, SIDE), np.uint16)).save(copy / "depths/train_0002.png")
    report = run(copy, tmp_path / "out", source="sensor")
    assert [frame.name for frame in report.of("failed")] == ["train_0002.png"]
    assert "holds no depth" in report.of("failed")[0].note
    assert any("1 frames are left out, images and all: train_0002.png" in line for line in report.lines())
    content = json.loads((tmp_path / "out/transforms.json").read_text())
    assert len(content["frames"]) == 10 and not any("train_0002" in name for name in content["train_filenames"])
    assert len(dataset(tmp_path / "out")) == 7
    saved = json.loads((tmp_path / "out/prepare.json").read_text())
    assert [frame["status"] for frame in saved["frames"]].count("failed") == 1
    assert (tmp_path / "out/overview.png").stat().st_size > 10_000


# ---------------------------------------------------------------------------------------------------------------------
# Mono and composite


def test_predictions_are_aligned_to_the_sensor(world, tmp_path):
    """Scale and shift of each image are found in spite of noise and holes; σ says how far off depth is."""
    report = run(
        world, tmp_path, source="mono", reference="sensor", predictions=world / "mono_depths", mono_kind="depth"
    )
    truth = json.loads((world.parent / "scene.json").read_text())["mono_depth"]
    for frame in report.frames:
        scale, shift = truth[frame.name]
        assert frame.status == "ok" and frame.inliers > 0.9
        assert frame.scale == pytest.approx(1e-3 / scale, rel=0.01), "stored in steps of 1e-3"
        assert frame.shift == pytest.approx(-shift / scale, abs=0.05)
    depth, sigma = maps(tmp_path, "train_0003")
    exact, has = exact_depth(world, "train_0003"), depth > 0
    assert has.mean() > 0.8
    assert np.median(np.abs(depth - exact)[has]) < NOISE
    assert np.mean(np.abs(depth - exact)[has] < 3 * sigma[has]) > 0.99


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".exr"])
def test_inverse_depth_is_aligned_in_inverse_depth(world, tmp_path, suffix):
    import cv2

    folder = tmp_path / "predictions"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for file in sorted((world / "images").iterdir()):
        values = (rng.uniform(5, 50) / exact_depth(world, file.stem) + rng.uniform(0, 3)).astype(np.float32)
        target = folder / f"{file.stem}_depth{suffix}"
        if suffix == ".npy":
            np.save(target, values)
        elif suffix == ".npz":
            np.savez(target, depth=values)
        else:
            os.environ.setdefault("OPENCV_IO_ENABLE_OPENEXR", "1")
            assert cv2.imwrite(str(target), values)
    options = {"predictions": folder, "mono_kind": "inverse-depth", "reference": "sensor", "source": "mono"}
    report = run(world, tmp_path / "out", **options)
    assert [frame.status for frame in report.frames] == ["ok"] * 11
    depth, _ = maps(tmp_path / "out", "train_0004")
    has = depth > 0
    assert np.median(np.abs(depth / exact_depth(world, "train_0004") - 1)[has]) < 0.01
    with pytest.raises(InputError, match=r"no frame got depth; .*falls where the reference grows"):
        run(world, tmp_path / "wrong", **{**options, "mono_kind": "depth"})


def test_composite_is_the_sensor_where_it_has_depth(world, tmp_path):
    report = run(world, tmp_path, source="composite", predictions=world / "mono_depths", mono_kind="depth")
    depth, sigma = maps(tmp_path, "train_0005")
    sensor = np.asarray(Image.open(world / "depths/train_0005.png")) * 1e-3
    has, exact = sensor > 0, exact_depth(world, "train_0005")
    np.testing.assert_allclose(depth[has], sensor[has], atol=6e-4)
    np.testing.assert_allclose(sigma[has], 0.01, atol=6e-4)
    filled = ~has & (depth > 0)
    assert filled.sum() > 0.7 * (~has).sum()
    assert np.median(np.abs(depth - exact)[filled]) < NOISE
    frame = next(frame for frame in report.frames if frame.name == "train_0005.png")
    assert frame.reference == "sensor" and frame.sensor == pytest.approx(has.mean())
    assert any("σ of sensor depth is taken for 0.01 m" in line for line in report.lines())


def test_composite_of_frames_without_a_sensor_falls_back_on_key_points(copy, tmp_path):
    content = json.loads((copy / "transforms.json").read_text())
    for frame in content["frames"][2:]:
        del frame["depth_file_path"]
    (copy / "transforms.json").write_text(json.dumps(content))
    try:
        report = run(copy, tmp_path / "out", source="composite", predictions=copy / "mono_depths", mono_kind="depth")
    except InputError as error:
        pytest.fail(str(error))
    by_name = {frame.name: frame for frame in report.frames}
    assert [by_name[f"train_000{i}.png"].reference for i in range(2)] == ["sensor", "sensor"]
    assert {by_name[f"train_000{i}.png"].reference for i in range(2, 8)} <= {"features", ""}


def test_a_useless_prediction_is_called_poor_or_refused(world, tmp_path):
    folder = tmp_path / "noise"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for file in (world / "images").iterdir():
        np.save(folder / f"{file.stem}.npy", rng.uniform(1, 2, (SIDE, SIDE)).astype(np.float32))
    options = {"source": "mono", "reference": "sensor", "predictions": folder, "mono_kind": "depth"}
    report = run(world, tmp_path / "out", **options)
    assert {frame.status for frame in report.frames} <= {"poor", "failed"} and report.of("poor")
    poor = report.of("poor")[0]
    assert "explains" in poor.note and poor.sigma > 0.1
    assert any("training may do better without this depth" in line for line in report.lines())
    with pytest.raises(InputError, match="no frame got depth"):
        run(world, tmp_path / "none", drop_poor=True, **options)
    assert not (tmp_path / "none/depth").exists()
    composite = {**options, "source": "composite", "drop_poor": True}
    kept = run(world, tmp_path / "composite", **composite)
    assert {frame.status for frame in kept.frames} == {"sensor"}, "good depth is not dropped with a bad prediction"
    assert any("11 frames have their sensor's depth only" in line for line in kept.lines())


def test_metric_predictions_as_they_are(world, tmp_path):
    options = {"source": "mono", "reference": "none", "predictions": world / "mono_depths"}
    run(world, tmp_path / "out", mono_kind="metric", mono_sigma=0.05, **options)
    depth, sigma = maps(tmp_path / "out", "train_0000")
    np.testing.assert_allclose(depth, np.asarray(Image.open(world / "mono_depths/train_0000.png")) * 1.0)
    np.testing.assert_allclose(sigma, 0.05 * depth, atol=1.0)
    with pytest.raises(InputError, match="--reference none is for metric depth"):
        run(world, tmp_path / "other", mono_kind="depth", **options)


def test_predictions_of_another_size_and_without_values(tmp_path):
    values = np.tile(np.arange(1.0, 9.0, dtype=np.float32), (4, 1))
    large = fit_to_image(values, (16, 8), None)
    assert large.shape == (8, 16) and large[0, 8] == pytest.approx(4.75)
    with pytest.raises(InputError, match=r"has 8×4 pixels, its image 16×16"):
        fit_to_image(values, (16, 16), tmp_path / "p.npy")
    values[0, 0], values[1, 1] = 0.0, np.inf
    np.save(tmp_path / "a.npy", values[None])
    read = FilePredictions(tmp_path, "depth")({"file_path": "/b/a_rgb.png"}, (8, 4))
    assert np.isnan(read[0, 0]) and np.isnan(read[1, 1]) and np.isfinite(read).sum() == 30
    assert FilePredictions(tmp_path, "inverse-depth")({"file_path": "/b/a.png"}, (8, 4))[0, 0] == 0.0
    with pytest.raises(InputError, match=r"holds no prediction for c\.jpg. Name it c\.npy"):
        FilePredictions(tmp_path, "depth")({"file_path": "/b/c.jpg"}, (8, 4))


# ---------------------------------------------------------------------------------------------------------------------
# MonoSDF


def monosdf_copy(world: Path, folder: Path, crop: bool) -> Path:
    """The scene in MonoSDF's layout; with `crop`, the pictures are the middle of larger ones, halved in size."""
    content = json.loads((world / "transforms.json").read_text())
    folder.mkdir()
    matrices: dict[str, np.ndarray] = {}
    focal, center = content["fl_x"], content["cx"] - 0.5  # from the first pixel's center
    if crop:  # DTU's size: 1600 × 1200
        factor = SIDE / 1200
        focal, center = focal / factor, (content["cx"] / factor) - 0.5
    for index, frame in enumerate(content["frames"]):
        pose = np.array(frame["transform_matrix"]) * [1.0, -1.0, -1.0, 1.0]
        intrinsics = np.diag([focal, focal, 1.0, 1.0])
        intrinsics[:2, 2] = [center + 200.0, center] if crop else center
        scale = np.diag([2.0, 2.0, 2.0, 1.0])
        matrices[f"world_mat_{index}"] = 3.7 * intrinsics @ np.linalg.inv(scale @ pose @ np.diag([0.5, 0.5, 0.5, 1.0]))
        matrices[f"scale_mat_{index}"] = scale
        name = Path(frame["file_path"]).stem
        shutil.copyfile(world / frame["file_path"], folder / f"{index:06d}_rgb.png")
        np.savez(
            folder / f"{index:06d}_depth.npz", np.asarray(Image.open(world / "mono_depths" / f"{name}.png"), float)
        )
        normals = np.asarray(Image.open(world / "normals" / f"{name}.png")) / 127.5 - 1.0
        local = normals @ pose[:3, :3]
        np.save(folder / f"{index:06d}_normal.npy", np.moveaxis(0.5 * (local + 1.0), -1, 0).astype(np.float16))
    np.savez(folder / "cameras.npz", **matrices)  # type: ignore[arg-type]
    return folder


@pytest.mark.parametrize("crop", [False, True])
def test_monosdf_cameras(world, tmp_path, crop):
    content = json.loads((world / "transforms.json").read_text())
    read = read_monosdf(monosdf_copy(world, tmp_path / "sdf", crop))
    for frame, expected in zip(read["frames"], content["frames"]):
        assert frame["fl_x"] == pytest.approx(content["fl_x"], rel=1e-6)
        assert (frame["cx"], frame["cy"]) == pytest.approx((content["cx"], content["cy"]), abs=1e-6)
        np.testing.assert_allclose(
            np.array(frame["transform_matrix"])[:3, :3], np.array(expected["transform_matrix"])[:3, :3], atol=1e-9
        )


def test_monosdf_cues_become_depth_and_normals(world, tmp_path):
    """No sensor and no points: the cues are aligned to key points at the given poses."""
    folder = monosdf_copy(world, tmp_path / "sdf", crop=False)
    report = run(folder, tmp_path / "out", source="composite", min_points=6)
    assert any("No frame has sensor depth" in line for line in report.lines())
    assert any("key points were triangulated" in line for line in report.lines())
    good = [frame for frame in report.frames if frame.status == "ok"]
    assert good
    content = json.loads((tmp_path / "out/transforms.json").read_text())
    assert content["normal_space"] == "opencv"
    data = dataset(tmp_path / "out")
    assert (data.get_data(0)["normal_image"].norm(dim=-1) > 0.99).all()


def test_unknown_original_size(world, tmp_path):
    folder = monosdf_copy(world, tmp_path / "sdf", crop=True)
    with np.load(folder / "cameras.npz") as file:
        matrices = dict(file)
    shift = np.eye(4)
    shift[0, 2] = 5000.0
    np.savez(folder / "cameras.npz", **{k: shift @ v if "world" in k else v for k, v in matrices.items()})  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"Give the size that the cameras belong to as --original-size"):
        read_monosdf(folder)


# ---------------------------------------------------------------------------------------------------------------------
# What a user can get wrong


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"source": "mono"}, "--source mono needs monocular predictions. Give a depth model as --model"),
        ({"source": "sfm", "reference": "ply"}, "ply does not go with --source sfm, as a point cloud does not say"),
        ({"source": "sfm", "reference": "colmap"}, "there is no COLMAP model"),
        ({"source": "sfm", "model": "x"}, "--source sfm uses no prediction"),
        (
            {"source": "mono", "predictions": Path("/no/where"), "mono_kind": "depth"},
            "folder of predictions does not exist",
        ),
        ({"source": "mono", "model": "x", "predictions": Path("y")}, "both given"),
        ({"source": "sensor", "sensor_sigma": (-0.1,)}, "no frame got depth; .*the sensor's σ is not above 0"),
        ({"source": "sensor", "sensor_sigma": ()}, "--sensor-sigma is"),
        ({"source": "sensor", "extrapolate": 1.0}, "--extrapolate is 1.0. Choose a number above 1"),
        ({"source": "sensor", "min_points": 1}, "--min-points is 1. Choose at least 3"),
        ({"source": "sensor", "depth_unit": 1e6, "depth_max": 9.0}, "no frame got depth; .*out of range"),
        ({"source": "sensor", "photos": Path("/photos")}, "name either a data set or --photos"),
    ],
)
def test_wrong_options_give_one_line(world, tmp_path, options, message):
    with pytest.raises(InputError, match=message) as caught:
        run(world, tmp_path / "out", **options)
    assert "\n" not in str(caught.value)


def test_the_kind_of_files_has_to_be_known(world, tmp_path):
    with pytest.raises(InputError, match=r"files do not tell .* Say it by --mono-kind"):
        run(world, tmp_path, source="mono", predictions=world / "mono_depths")


def test_sensor_of_a_data_set_without_depth(copy, tmp_path):
    content = json.loads((copy / "transforms.json").read_text())
    for frame in content["frames"]:
        del frame["depth_file_path"]
    (copy / "transforms.json").write_text(json.dumps(content))
    for options in ({"source": "sensor"}, {"source": "mono", "reference": "sensor", "predictions": copy}):
        with pytest.raises(InputError, match="no frame has sensor depth"):
            run(copy, tmp_path / "out", **options)
    with pytest.raises(InputError, match=r"holds neither transforms\.json, a COLMAP model"):
        run(copy / "images", tmp_path / "out", source="sensor")


def test_output_folders(world, copy, tmp_path):
    with pytest.raises(InputError, match=r"holds .*transforms\.json, which this command did not write"):
        run(copy, copy, source="sensor")
    run(copy, copy / "prepared", source="sensor")
    with pytest.raises(InputError, match=r"an earlier result. .*--overwrite"):
        run(copy, copy / "prepared", source="sensor")
    (copy / "prepared/mine.txt").write_text("kept")
    run(copy, copy / "prepared", source="sensor", overwrite=True)
    assert (copy / "prepared/mine.txt").exists() and len(dataset(copy / "prepared")) == 8
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is a file"):
        run(copy, tmp_path / "file", source="sensor")


def test_sixteen_bit_steps_are_tidy_and_reach_far_enough():
    for largest, step in ((6.5, 1e-4), (6.6, 2e-4), (32.0, 5e-4), (65.0, 1e-3), (0.01, 2e-7)):
        assert tidy_step(largest) == pytest.approx(step, rel=1e-12)
        assert largest / tidy_step(largest) <= 65534


def test_holes_in_words():
    depth = np.ones((10, 10))
    assert largest_hole(depth) == ""
    depth[:2, :5] = depth[5, 5] = 0.0
    assert largest_hole(depth) == "2 holes, the largest 10.0% of the image"


def test_cameras_keep_their_world(world):
    """Neither turned, nor moved, nor scaled; in the order of the files."""
    content = json.loads((world / "transforms.json").read_text())
    capture = read_capture(world)
    expected = {Path(frame["file_path"]).name: frame["transform_matrix"] for frame in content["frames"]}
    for name, pose in zip(capture.names, capture.cameras.camera_to_worlds):
        np.testing.assert_allclose(pose, np.array(expected[name])[:3], atol=1e-5)
    assert capture.sizes == [(SIDE, SIDE)] * 11 and capture.assumed == ""
    assert not math.isnan(float(capture.cameras.fx[0]))
