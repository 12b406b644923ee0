"""The check finds wrong units and a wrong kind, leaves right depth alone, and says when it cannot tell."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from nerfstudio.cameras.cameras import CameraType
from PIL import Image

from common_ns.data.depth.reprojection import depth_views, log_residuals
from common_ns.errors import InputError
from common_ns.sample_scene.generate import Camera, SampleSceneConfig, Scene, look_at, write_sample_scene
from depthnerf_ns.checks.depth_check import check_dataset, check_depth, tidy_unit
from depthnerf_ns.dataparser import RgbdDataParserConfig


def check(data: Path, **options):
    return check_dataset(RgbdDataParserConfig(data=data, **options))


@pytest.fixture(scope="module")
def room(tmp_path_factory) -> Path:
    """The sample scene in its landscape, seen by a moving wide camera: depth in every pixel."""
    rng = np.random.default_rng(1)
    positions = np.array([-3.0, -3.0, 1.6]) + rng.uniform(-1.2, 1.2, (10, 3)) * [1, 1, 0.5]
    return write_capture(tmp_path_factory.mktemp("room"), [look_at(p) for p in positions])


def write_capture(folder: Path, poses: list[np.ndarray], size: int = 48) -> Path:
    """A transforms.json with exact z-depth in millimeters of the unbounded sample scene from the given poses."""
    scene = Scene(0, unbounded=True)
    for name in ("images", "depths"):
        (folder / name).mkdir(parents=True)
    frames = []
    for number, pose in enumerate(poses):
        view = scene.render(Camera(pose, size, size, 0.7 * size), supersample=1)
        name = f"{number:03d}.png"
        Image.fromarray((view.rgb * 255).astype(np.uint8)).save(folder / "images" / name)
        Image.fromarray(np.rint(view.depth * 1000).clip(0, 65535).astype(np.uint16)).save(folder / "depths" / name)
        frames.append(
            {"file_path": f"images/{name}", "depth_file_path": f"depths/{name}", "transform_matrix": pose.tolist()}
        )
    intrinsics = {"fl_x": 0.7 * size, "fl_y": 0.7 * size, "cx": size / 2, "cy": size / 2, "w": size, "h": size}
    content = {**intrinsics, "depth_unit_scale_factor": 1e-3, "depth_kind": "z", "frames": frames}
    (folder / "transforms.json").write_text(json.dumps(content))
    return folder


def edit_depth(data: Path, change, which=lambda number: True) -> None:
    """Replace the depth maps by `change(depth in steps, ray distance per z-depth)`."""
    content = json.loads((data / "transforms.json").read_text())
    rows, columns = np.mgrid[: content["h"], : content["w"]] + 0.5
    x, y = (columns - content["cx"]) / content["fl_x"], (rows - content["cy"]) / content["fl_y"]
    ray_per_z = np.sqrt(x**2 + y**2 + 1)
    for number, frame in enumerate(content["frames"]):
        if which(number):
            file = data / frame["depth_file_path"]
            depth = change(np.asarray(Image.open(file)).astype(np.float64), ray_per_z)
            Image.fromarray(np.rint(depth).clip(0, 65535).astype(np.uint16)).save(file)


def copy(data: Path, folder: Path) -> Path:
    import shutil

    return Path(shutil.copytree(data, folder / "copy"))


def test_right_depth_is_ok(depth_scene, room):
    for data in (depth_scene, room):
        report = check(data)
        assert report.verdict == "ok", report.summary()
        assert report.scale == pytest.approx(1.0, abs=0.011) and report.residual < 0.02
        assert report.other_residual > 1.2 * report.residual
        report.raise_if_wrong()
    assert len(check(depth_scene).views) == 17  # test views as well, in their order
    names = [view.name for view in check(depth_scene).views]
    assert names == sorted(names)


@pytest.mark.parametrize("factor", [1.3, 1 / 1.3, 1000.0, 1e-3, 0.1])
def test_wrong_units_are_found_and_the_right_one_is_named(depth_scene, room, factor):
    for data in (depth_scene, room):
        report = check(data, depth_unit=1e-3 * factor)
        assert report.verdict == "wrong", report.summary()
        assert report.scale * factor == pytest.approx(1.0, abs=0.03)
        assert report.remedy == "Set --depth-unit 0.001"
        with pytest.raises(InputError, match=f"{data.name}: depth is .* times too .* Set --depth-unit 0.001"):
            report.raise_if_wrong()


def test_a_small_error_of_scale_is_suspicious(depth_scene):
    report = check(depth_scene, depth_unit=1.035e-3)
    assert report.verdict == "suspicious" and report.remedy == "Set --depth-unit 0.001"
    report.raise_if_wrong()


def test_ray_distance_declared_as_z_is_found(depth_scene, room, tmp_path):
    for number, data in enumerate((depth_scene, room)):
        changed = copy(data, tmp_path / str(number))
        edit_depth(changed, lambda depth, ray_per_z: depth * ray_per_z)
        report = check(changed)
        assert report.verdict == "wrong" and report.remedy == "Set --depth-kind ray", report.summary()
        assert "hold ray distance rather than z-depth" in report.problem
        assert check(changed, depth_kind="ray").verdict == "ok"


def test_z_depth_declared_as_ray_distance_is_found(depth_scene, room):
    for data in (depth_scene, room):
        report = check(data, depth_kind="ray")
        assert report.verdict == "wrong" and report.remedy == "Set --depth-kind z", report.summary()


@pytest.mark.parametrize("numerator", [3e6, 3e7])
def test_inverse_depth_is_found(depth_scene, room, tmp_path, numerator):
    for number, data in enumerate((depth_scene, room)):
        folder = copy(data, tmp_path / str(number))
        edit_depth(folder, lambda d, _: np.where(d > 0, numerator / np.maximum(d, 1.0), 0.0).clip(0, 65534))
        report = check(folder)
        assert report.verdict == "wrong" and "the files hold inverse depth (disparity) rather than" in report.problem
        assert "--mono-kind inverse-depth" in report.remedy


def test_both_wrong_at_once(room):
    report = check(room, depth_kind="ray", depth_unit=1.3e-3)
    assert report.verdict == "wrong" and report.remedy == "Set --depth-kind z --depth-unit 0.001"


def test_noise_and_holes_do_not_hide_it(tmp_path):
    config = SampleSceneConfig(
        output_dir=tmp_path / "noisy",
        layouts=("nerfstudio",),
        num_train=20,
        num_val=1,
        num_test=1,
        resolution=40,
        supersample=1,
        depth_noise=0.06,
        depth_holes=0.3,
    )
    data = write_sample_scene(config) / "nerfstudio"
    assert check(data).verdict == "ok"
    report = check(data, depth_unit=1.3e-3)
    assert report.verdict == "wrong" and report.remedy == "Set --depth-unit 0.001"


def test_turning_on_the_spot_cannot_tell_the_unit(tmp_path):
    """Without parallax every scale fits; the kind of depth is seen all the same."""
    place = np.array([-3.0, -3.0, 1.6])
    angles = np.linspace(-0.5, 0.5, 7)
    poses = [look_at(place, (-3.0 + 4 * np.cos(a + 0.8), -3.0 + 4 * np.sin(a + 0.8), 0.8)) for a in angles]
    data = write_capture(tmp_path / "still", poses)
    for unit in (1e-3, 1.3e-3):
        report = check(data, depth_unit=unit)
        assert report.verdict == "unknown" and "too little" in report.problem, report.summary()
        assert np.isnan(report.scale)
        report.raise_if_wrong()
    assert check(data, depth_kind="ray").verdict == "wrong"


def test_too_few_views(tmp_path):
    data = write_capture(tmp_path / "two", [look_at(np.array([-3.0, -3.0, 1.6])), look_at(np.array([3.0, 3.0, 1.6]))])
    report = check(data, eval_mode="all")
    assert report.verdict == "unknown" and "too few" in report.problem
    assert all(np.isnan(view.residual) for view in report.views)


def test_a_scale_of_its_own_in_every_view_is_suspicious(room, tmp_path):
    """As monocular predictors give it."""
    data, rng = copy(room, tmp_path), np.random.default_rng(0)
    edit_depth(data, lambda depth, _: depth * rng.uniform(0.6, 1.5))
    report = check(data)
    assert report.verdict == "suspicious" and "scale of its own" in report.remedy, report.summary()


def test_a_view_that_disagrees_with_the_others_is_named(room, tmp_path):
    data = copy(room, tmp_path)
    edit_depth(data, lambda depth, _: depth * 1.5, which=lambda number: number == 4)
    report = check(data)
    assert report.verdict == "suspicious" and "004.png" in report.problem, report.summary()
    assert max(report.views, key=lambda view: view.residual).name == "004.png"


def test_subset_is_checked_with_all_views(depth_scene):
    assert len(check(depth_scene, num_views=3).views) == 17


def test_lens_distortion_is_taken_into_account():
    """Points of a view land on the pixels that they came from."""
    from nerfstudio.cameras.cameras import Cameras

    from common_ns.data.depth.contract import DepthContract
    from common_ns.data.depth.reprojection import DepthView

    for camera_type in (CameraType.PERSPECTIVE, CameraType.FISHEYE):
        cameras = Cameras(
            camera_to_worlds=torch.from_numpy(look_at(np.array([1.0, 2.0, 0.5])))[None, :3].float(),
            fx=30.0,
            fy=31.0,
            cx=25.0,
            cy=21.0,
            width=48,
            height=40,
            distortion_params=torch.tensor([[-0.12, 0.03, 0.0, 0.0, 0.003, -0.004]]),
            camera_type=camera_type,
        )
        view = DepthView(Path("none.npy"), cameras, 0, DepthContract(1.0), 1.0)
        rng = np.random.default_rng(0)
        vars(view)["stored"] = rng.uniform(1.0, 4.0, (40, 48)).astype(np.float32)
        rows, columns = view.grid(300)
        for kind in ("z", "ray"):
            points = view.points(rows, columns, kind)
            row, column, inside = view.project(points @ view.pose[:, :3])
            assert inside.all() and np.array_equal(row, rows) and np.array_equal(column, columns)
            residual = log_residuals(view, view, kind, np.array([1.0, 1.7]), points)
            assert np.abs(residual).max() < 1e-5
        behind = -view.points(rows, columns, "ray") @ view.pose[:, :3]
        assert not view.project(behind)[2].any()


def test_large_maps_are_thinned(room, monkeypatch):
    from common_ns.data.depth import reprojection

    monkeypatch.setattr(reprojection, "LONGEST_SIDE", 24)
    outputs = RgbdDataParserConfig(data=room).setup().get_dataparser_outputs("train")
    views = depth_views([outputs])
    assert views[0].stride == 2 and views[0].stored.shape == (24, 24)
    assert check_depth(outputs).scale == pytest.approx(1.0, abs=0.03)


def test_cameras_without_projection_are_unknown(room):
    outputs = RgbdDataParserConfig(data=room, depth_kind="ray").setup().get_dataparser_outputs("train")
    outputs.cameras.camera_type = torch.full_like(outputs.cameras.camera_type, CameraType.EQUIRECTANGULAR.value)
    assert check_depth(outputs).verdict == "unknown"


def test_units_are_rounded_to_usual_ones():
    assert tidy_unit(0.00101) == 0.001 and tidy_unit(2.45e-4) == 2.5e-4 and tidy_unit(1.02) == 1.0
    assert tidy_unit(0.00076923) == 0.000769


def test_command_writes_a_table_and_a_picture(room, tmp_path, capsys):
    from depthnerf_ns.scripts.depth_check import DepthCheck

    DepthCheck(room, output_path=tmp_path / "new" / "check.png").main()
    printed = capsys.readouterr().out
    assert "004.png" in printed and "Depth check: ok" in printed
    with Image.open(tmp_path / "new" / "check.png") as picture:
        assert picture.size == (1300, 900)
    with pytest.raises(InputError, match=r"times too large for the poses.* Set --depth-unit 0\.001"):
        DepthCheck(room, depth_unit=1.3e-3, output_path=tmp_path / "wrong.png").main()
    assert (tmp_path / "wrong.png").exists() and "004.png" in capsys.readouterr().out
