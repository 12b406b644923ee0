"""ns-mesh with a stand-in for a trained run: options, output, coordinates and error lines."""

from __future__ import annotations

import json
import shutil
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import trimesh

from common_ns.errors import InputError
from common_ns.meshing.extraction import extract_mesh
from common_ns.meshing.iso_field import IsoField, iso_field_of
from common_ns.scripts import mesh as script

CENTER = torch.tensor([0.1, -0.2, 0.05])
TRANSFORM = torch.tensor([[0.0, -1.0, 0.0, 0.5], [1.0, 0.0, 0.0, -0.25], [0.0, 0.0, 1.0, 2.0]])
SCALE = 0.25


class FakeModel:
    """A ball of radius 0.5 as an SDF in a box of side 2."""

    def __init__(self) -> None:
        self.voxel_sizes: list[float | None] = []

    def iso_field(self, level: float | None = None, voxel_size: float | None = None) -> IsoField:
        self.voxel_sizes.append(voxel_size)
        return IsoField(
            value=lambda points: (points - CENTER).norm(dim=-1) - 0.5,
            level=0.0 if level is None else level,
            inside_above=False,
            aabb=torch.tensor([[-1.0, -1.0, -1.0], [1.0, 1.0, 1.0]]),
            color=lambda points, normals: torch.tensor([1.0, 0.5, 0.0]).expand_as(points),
        )


@pytest.fixture
def run(monkeypatch, tmp_path):
    """Runs ns-mesh on the stand-in with some options; gives the mesh as read back, and the model."""
    outputs = SimpleNamespace(dataparser_transform=TRANSFORM, dataparser_scale=SCALE)
    pipeline = SimpleNamespace(model=FakeModel(), datamanager=SimpleNamespace(train_dataparser_outputs=outputs))
    monkeypatch.setattr(script, "load_pipeline", lambda load_config: pipeline)
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)

    def call(*options: str, file: str = "mesh.ply") -> trimesh.Trimesh:
        output = tmp_path / "out" / file
        arguments = ["--load-config", str(tmp_path / "config.yml"), "--output-path", str(output), "--resolution", "24"]
        monkeypatch.setattr(sys, "argv", ["ns-mesh", *arguments, *options])
        script.entrypoint()
        read = trimesh.load(output, process=False)
        if isinstance(read, trimesh.Scene):
            (read,) = read.geometry.values()
        assert isinstance(read, trimesh.Trimesh)
        return read

    call.pipeline = pipeline  # type: ignore[attr-defined]
    return call


def distances(mesh: trimesh.Trimesh) -> np.ndarray:
    return np.linalg.norm(mesh.vertices - CENTER.numpy(), axis=1)


@pytest.mark.parametrize("file", ["mesh.ply", "mesh.obj", "mesh.GLB"])
def test_writes_the_surface_and_says_what_it_is(run, capsys, file):
    mesh = run(file=file)
    assert mesh.is_watertight and mesh.euler_number == 2
    np.testing.assert_allclose(distances(mesh), 0.5, atol=1e-3)
    np.testing.assert_allclose(
        mesh.visual.vertex_colors[:, :3], np.broadcast_to([255, 128, 0], (len(mesh.vertices), 3))
    )  # type: ignore
    said = " ".join(capsys.readouterr().out.split())
    assert f"vertices {len(mesh.vertices):,} with normals and colors" in said
    assert f"faces {len(mesh.faces):,} watertight yes" in said
    assert file in said
    assert run.pipeline.model.voxel_sizes == [None, pytest.approx(2 / 24)]


def test_level_crop_and_open_border(run, capsys):
    np.testing.assert_allclose(distances(run("--level", "0.1")), 0.6, atol=1e-3)
    crop = ("--bounding-box-min", "0.1", "-1", "-1", "--bounding-box-max", "1", "1", "1e0")
    half = run(*crop, "--chunk-size", "1000", "--no-normals", "--no-vertex-colors")
    assert half.is_watertight and half.volume == pytest.approx(2 / 3 * np.pi * 0.125, rel=2e-2)
    assert half.bounds[0, 0] == pytest.approx(0.1, abs=1e-6)
    capsys.readouterr()
    assert not run(*crop, "--no-close").is_watertight
    assert "watertight no" in " ".join(capsys.readouterr().out.split())
    # One corner alone keeps the model's own box on the other side.
    assert run("--bounding-box-max", "0.1", "1", "1").bounds[1, 0] == pytest.approx(0.1, abs=1e-6)


def test_world_coordinates_undo_the_dataparser(run, tmp_path):
    model_mesh = run()

    def check(world: trimesh.Trimesh) -> None:
        linear, shift = TRANSFORM[:, :3].numpy(), TRANSFORM[:, 3].numpy()
        np.testing.assert_allclose((world.vertices @ linear.T + shift) * SCALE, model_mesh.vertices, atol=1e-5)
        np.testing.assert_allclose(world.vertex_normals @ linear.T, model_mesh.vertex_normals, atol=1e-5)
        assert world.volume == pytest.approx(model_mesh.volume / SCALE**3, rel=1e-4)

    check(run("--world-coordinates"))
    # Without a dataparser at hand, the file that ns-train wrote says the same.
    run.pipeline.datamanager = SimpleNamespace()
    content = {"transform": TRANSFORM.tolist(), "scale": SCALE}
    (tmp_path / "dataparser_transforms.json").write_text(json.dumps(content))
    check(run("--world-coordinates"))
    (tmp_path / "dataparser_transforms.json").unlink()
    with pytest.raises(InputError, match=r"dataparser_transforms\.json: the file does not exist"):
        run("--world-coordinates")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--output-path", "mesh.stl"], r"mesh\.stl: the suffix '\.stl' .* \.ply, \.obj, \.glb"),
        (["--output-path", "mesh"], "mesh: the file name has no suffix"),
        (["--resolution", "0"], "--resolution is 0"),
        (["--chunk-size", "-5"], "--chunk-size is -5"),
        (["--bounding-box-min", "0", "0", "0", "--bounding-box-max", "1", "0", "1"], "is empty or inverted"),
        (["--bounding-box-min", "0", "0", "3"], r"from \(0, 0, 3\) to \(1, 1, 1\) is empty or inverted"),
        (["--level", "-3"], r"level -3 .* from -0\.\d+ to 1\.\d+\. Choose --level between"),
    ],
)
def test_mistakes_end_in_one_line(run, tmp_path, monkeypatch, capsys, options, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=message) as caught:
        run(*options)
    assert "\n" not in str(caught.value)
    sys.excepthook(caught.type, caught.value, None)  # what the process would do with it
    assert capsys.readouterr().err == f"Error: {caught.value}\n"
    assert not list(tmp_path.rglob("mesh*"))


def test_a_missing_config_is_named(tmp_path):
    with pytest.raises(InputError, match=r"config\.yml: no such file"):
        script.load_pipeline(tmp_path / "config.yml")


def test_a_missing_checkpoint_is_named(tmp_path):
    import yaml
    from nerfstudio.engine.trainer import TrainerConfig

    config = TrainerConfig(method_name="vanilla-nerf", experiment_name="toy", timestamp="now", output_dir=tmp_path)
    file = config.get_base_dir() / "config.yml"
    config.get_checkpoint_dir().mkdir(parents=True)
    file.write_text(yaml.dump(config))
    for step in (None, 7):
        config.load_step = step
        file.write_text(yaml.dump(config))
        with pytest.raises(InputError, match=r"nerfstudio_models: the folder holds no checkpoint\. Train until"):
            script.load_pipeline(file)
    torch.save({}, config.get_checkpoint_dir() / "step-000000005.ckpt")
    with pytest.raises(InputError, match=r"no checkpoint of step 7\. Choose from those that are there: 5"):
        script.load_pipeline(file)
    shutil.rmtree(config.get_checkpoint_dir())
    with pytest.raises(InputError, match=r"has no checkpoint.*nerfstudio_models beside this file"):
        script.load_pipeline(file)


def test_a_radiance_field_of_the_host_is_meshed_with_its_colors():
    from nerfstudio.data.scene_box import SceneBox
    from nerfstudio.fields.vanilla_nerf_field import NeRFField

    torch.manual_seed(0)
    box = SceneBox(torch.tensor([[-1.0, -1.0, -1.0], [1.0, 1.0, 1.0]]))
    network = NeRFField(base_mlp_num_layers=2, base_mlp_layer_width=16, head_mlp_layer_width=8).eval()
    model = SimpleNamespace(field_coarse=network, field_fine=network, scene_box=box, device=torch.device("cpu"))
    values = iso_field_of(model).value(2.0 * torch.rand(2000, 3) - 1.0)
    mesh = extract_mesh(iso_field_of(model, level=float(values.median())), 20)
    assert mesh.to_trimesh().is_watertight
    assert mesh.normals is not None and np.allclose(np.linalg.norm(mesh.normals, axis=1), 1.0, atol=1e-5)
    assert mesh.colors is not None and 0.0 < mesh.colors.min() <= mesh.colors.max() < 1.0
