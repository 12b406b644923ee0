"""ns-eval-mesh and ns-idr-cameras as they are typed: tables, files, and errors in one line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import trimesh
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from PIL import Image

from common_ns.errors import InputError
from hashnffb_sdf_ns.camera_errors import pose_errors
from hashnffb_sdf_ns.dataparser import IdrDataParserConfig
from hashnffb_sdf_ns.idr_data.cameras import decompose, read_camera_file
from hashnffb_sdf_ns.scripts.eval_mesh import EvalMeshCommand
from hashnffb_sdf_ns.scripts.idr_cameras import IdrCamerasCommand
from tests.hashnffb_sdf_ns import idr_scene
from tests.hashnffb_sdf_ns.mesh_evaluation.test_dtu_protocol import files, prediction, scan  # noqa: F401


def test_surfaces_are_compared(tmp_path, capsys):
    trimesh.creation.icosphere(radius=1.05).export(tmp_path / "a.ply")
    trimesh.creation.icosphere(radius=1.0).export(tmp_path / "b.ply")
    result = EvalMeshCommand(
        tmp_path / "a.ply", tmp_path / "b.ply", samples=2000, output_path=tmp_path / "r.json"
    ).main()
    written = json.loads((tmp_path / "r.json").read_text())
    assert written["chamfer"] == result.chamfer == pytest.approx(0.05, abs=2e-3)
    assert written["protocol"] == "surface" and written["reference"].endswith("b.ply")
    out = capsys.readouterr().out
    assert "Chamfer" in out and "F-score" in out and "r.json" in out


def test_dtu_protocol_from_files(tmp_path, files, capsys):  # noqa: F811
    geometry = prediction()
    trimesh.Trimesh(geometry.vertices, geometry.faces, process=False).export(tmp_path / "mesh.ply")
    (tmp_path / "stl.ply").write_bytes(trimesh.PointCloud(scan()).export(file_type="ply"))
    command = EvalMeshCommand(tmp_path / "mesh.ply", tmp_path / "stl.ply", "dtu", obs_mask=files[0], plane=files[1])
    result = command.main()
    out = capsys.readouterr().out
    assert f"{result.overall:.4f} mm" in out and "left out" in out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"protocol": "dtu", "threshold": 1.0}, "--threshold does not belong to --protocol dtu"),
        ({"obs_mask": Path("x.mat")}, "--obs-mask does not belong to --protocol surface"),
        ({"protocol": "dtu", "obs_mask": Path("x.mat")}, "--protocol dtu needs --plane"),
        ({"output_path": Path("r.txt")}, "Give it the suffix .json"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        EvalMeshCommand(Path("a.ply"), Path("b.ply"), **options).main()


@pytest.mark.slow
def test_a_missing_scale_mat_is_written(tmp_path, capsys):
    scene = idr_scene.write(tmp_path / "s", scale=False)
    (scene / "cameras_sphere.npz").rename(scene / "cameras.npz")
    target = scene / "cameras_sphere.npz"
    placed = IdrCamerasCommand(scene, output_path=target).main()
    assert np.linalg.norm(placed.center - idr_scene.CENTER) < 4.0
    assert 1.05 * idr_scene.RADIUS < placed.radius < 1.4 * idr_scene.RADIUS
    written = read_camera_file(target)
    np.testing.assert_allclose(written.world[3], read_camera_file(scene / "cameras.npz").world[3])
    found = written.similarity()
    assert found is not None and found.radius == pytest.approx(placed.radius)
    outputs = IdrDataParserConfig(data=scene, normalization="stated").setup().get_dataparser_outputs("train")
    assert outputs.dataparser_scale == pytest.approx(1 / placed.radius)
    with pytest.raises(InputError, match=r"the file exists"):
        IdrCamerasCommand(scene, output_path=target).main()
    wide = IdrCamerasCommand(scene, output_path=target, overwrite=True, margin=2.0).main()
    assert wide.radius == pytest.approx(2.0 / 1.1 * placed.radius)
    out = capsys.readouterr().out
    assert "Found from the visual hull" in out and "100.0% of the visual hull inside" in out


def test_a_bad_scale_mat_is_named(tmp_path, capsys):
    scene = idr_scene.write(tmp_path / "s")
    idr_scene.change_cameras(
        scene, lambda a: a.update({n: m @ np.diag([0.5, 0.5, 0.5, 1]) for n, m in a.items() if "scale" in n})
    )
    IdrCamerasCommand(scene).main()
    assert "Badly scaled" in capsys.readouterr().out


def test_perturbed_cameras_are_as_far_off_as_asked(tmp_path):
    scene = idr_scene.write(tmp_path / "s")
    target = scene / "cameras_linear_init.npz"
    IdrCamerasCommand(scene, output_path=target, perturb_rotation=2.0, perturb_translation=0.02).main()
    both = []
    for path in (target, scene / "cameras_sphere.npz"):
        world = read_camera_file(path).world
        both.append(np.stack([decompose(world[i], idr_scene.SIZE, "x")[1] for i in sorted(world)]))
    errors = pose_errors(*both, align=False)
    np.testing.assert_allclose(errors.rotation, 2.0, rtol=1e-6)
    np.testing.assert_allclose(
        errors.translation, 0.02 * np.linalg.norm(both[1][:, :, 3] - idr_scene.CENTER, axis=1), rtol=0.05
    )


def test_bad_masks_are_refused(tmp_path):
    scene = idr_scene.write(tmp_path / "s")
    idr_scene.change_masks(scene, np.zeros_like, only=4)
    with pytest.raises(InputError, match=r"004.png: the mask is empty"):
        IdrCamerasCommand(scene).main()
    shutil.rmtree(scene)
    scene = idr_scene.write(scene)
    idr_scene.change_masks(scene, np.invert)
    with pytest.raises(InputError, match=r"mask: the masks are inverted"):
        IdrCamerasCommand(scene).main()


def test_a_transforms_json_is_moved_into_the_unit_sphere(tmp_path, capsys):
    """The object is in the unit sphere for nerfstudio-data, and the transform leads back to the capture's world."""
    frames = []
    (tmp_path / "images").mkdir()
    for index, pose in enumerate(idr_scene.poses()):
        _, c2w = decompose(idr_scene.INTRINSICS @ pose, idr_scene.SIZE, "x")
        pixels = np.zeros((idr_scene.SIZE[1], idr_scene.SIZE[0], 4), np.uint8)
        pixels[..., 3] = 255 * idr_scene.mask_of(pose)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{index}.png")
        frames.append({"file_path": f"images/{index}.png", "transform_matrix": [*c2w.tolist(), [0, 0, 0, 1]]})
    content = {"fl_x": 70.0, "fl_y": 68.0, "cx": 22.5, "cy": 19.5, "w": 48, "h": 36, "k1": 0.0, "frames": frames}
    content |= {"applied_scale": 2.0, "applied_transform": [[1, 0, 0, 5.0], [0, 1, 0, 0], [0, 0, 1, 0]]}
    (tmp_path / "transforms.json").write_text(json.dumps(content))
    target = tmp_path / "moved here" / "sphere.json"
    placed = IdrCamerasCommand(tmp_path, output_path=target).main()
    assert f"Use it with nerfstudio-data --data '{target}' --" in capsys.readouterr().out
    config = NerfstudioDataParserConfig(
        data=target, orientation_method="none", center_method="none", auto_scale_poses=False, eval_mode="all"
    )
    outputs = config.setup().get_dataparser_outputs("train")
    assert outputs.image_filenames[0].exists()
    position = np.array(frames[4]["transform_matrix"])[:3, 3]
    expected = (position - placed.center) / placed.radius
    np.testing.assert_allclose(outputs.cameras.camera_to_worlds[4, :, 3], expected, atol=1e-5)
    # A point x₀ of the capture was at 2 (x₀ + (5, 0, 0)) in the file, and has to end up at the same camera.
    world = position / 2.0 - [5.0, 0.0, 0.0]
    transform = outputs.dataparser_transform.double().numpy()
    moved = outputs.dataparser_scale * (transform[:, :3] @ world + transform[:, 3])
    np.testing.assert_allclose(moved, expected, atol=1e-4)
