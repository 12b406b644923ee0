"""Surface methods from training to evaluation and renderings through nerfstudio's own commands, on the sample scene."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import tyro
from nerfstudio.configs.dataparser_configs import all_dataparsers
from nerfstudio.configs.method_configs import AnnotatedBaseConfigUnion
from nerfstudio.scripts import render
from nerfstudio.scripts.eval import ComputePSNR
from nerfstudio.utils.eval_utils import eval_setup
from PIL import Image

from hashnffb_sdf_ns.camera_refinement import CameraRefinementConfig
from hashnffb_sdf_ns.scripts.idr_cameras import IdrCamerasCommand
from tests.e2e.running import assert_resumes_exactly, assert_video, train
from tests.e2e.surface_runs import make_tiny, surface_config, write_scene


@pytest.fixture(scope="module")
def scene(tmp_path_factory) -> Path:
    return write_scene(tmp_path_factory.mktemp("scene"), masks=True)


@pytest.fixture(scope="module")
def run(scene, tmp_path_factory) -> Path:
    return train(surface_config(scene / "idr", tmp_path_factory.mktemp("runs"), 200))


def evaluate(run: Path, folder: Path) -> dict[str, float]:
    """What ns-eval reports."""
    ComputePSNR(run, folder / "eval.json", folder / "pictures").main()
    return json.loads((folder / "eval.json").read_text())["results"]


def test_training_learns_the_object_and_eval_reports_it(run, tmp_path):
    results = evaluate(run, tmp_path)
    assert results["psnr"] > 16 and results["masked_psnr"] > 13 and results["mask_iou"] > 0.7
    assert not [name for name in results if name.startswith("camera_")]
    pictures = {file.name.rsplit("_", 1)[0] for file in (tmp_path / "pictures").iterdir()}
    assert pictures >= {"eval_img", "eval_depth", "eval_accumulation", "eval_normals", "eval_sdf_slice"}


def renderings(run: Path, folder: Path, *names: str, factor: float | None = None) -> dict[str, list[np.ndarray]]:
    """Pictures of the test views that ns-render dataset writes, by the name of the output."""
    command = render.DatasetRender(
        run, output_path=folder, rendered_output_names=list(names), image_format="png", downscale_factor=factor
    )
    command.main()
    return {
        name: [np.asarray(Image.open(file)) for file in sorted((folder / "test" / name).rglob("*.png"))]
        for name in names
    }


def test_render_dataset_at_full_and_at_half_resolution(run, tmp_path):
    names = ("rgb", "depth", "accumulation", "normals", "sdf_slice")
    full = renderings(run, tmp_path / "full", *names)
    for name, images in full.items():
        assert len(images) == 2 and all(im.shape == (48, 48, 3) and im.std() > 5 for im in images), name
    half = renderings(run, tmp_path / "half", "rgb", "gt-rgb", factor=2)
    for large, small, truth in zip(full["rgb"], half["rgb"], half["gt-rgb"]):
        assert small.shape == truth.shape == (24, 24, 3)
        mean = large.astype(float).reshape(24, 2, 24, 2, 3).mean((1, 3))
        assert np.abs(mean - small).mean() < 6  # the same views


def test_render_interpolated_video(run, tmp_path):
    video = tmp_path / "interpolated.mp4"
    render.RenderInterpolated(
        run, output_path=video, interpolation_steps=2, frame_rate=4, rendered_output_names=["rgb", "normals"]
    ).main()
    assert_video(video)


@pytest.mark.parametrize(
    ("method", "rays"),
    [
        pytest.param("hash-neus-small", 100, id="hash-neus-small"),
        pytest.param("hash-idr-small", 128, id="hash-idr-small", marks=pytest.mark.slow),
    ],
)
def test_resumed_run_continues_exactly(scene, tmp_path, monkeypatch, method, rays):
    """With refined cameras, in chunks that are no divisor of the batch."""

    def config(output: Path, steps: int):
        cameras = CameraRefinementConfig(mode="SO3xR3", start_step=5)
        made = surface_config(scene / "idr", output, steps, method, camera_optimizer=cameras, coarse_to_fine_steps=15)
        made = make_tiny(made, 20)
        points = 2 * (16 + 8) + 2 if "neus" in method else 35
        made.pipeline.model.max_points_per_chunk = 70 * points
        return made

    assert_resumes_exactly(config, 20, tmp_path, monkeypatch)


@pytest.mark.slow
def test_errors_of_rough_cameras_are_reported(scene, tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    for name in ("image", "mask", "splits.json", "cameras_sphere.npz"):
        (data / name).symlink_to(scene / "idr" / name)
    rough = data / "cameras_linear_init.npz"
    IdrCamerasCommand(data, rough, perturb_rotation=2.0, perturb_translation=0.02).main()
    results = {}
    for mode in ("off", "SO3xR3"):
        refinement = CameraRefinementConfig(mode=mode, start_step=0)
        config = surface_config(data, tmp_path / mode, 30, camera_optimizer=refinement)
        config.pipeline.datamanager.dataparser.cameras = "linear-init"
        (tmp_path / mode).mkdir()
        results[mode] = evaluate(train(config), tmp_path / mode)
    # The alignment takes away a little of what the cameras were turned and shifted by.
    for name, low, high in (("rotation_error_deg", 1.5, 2.1), ("translation_error_relative", 0.015, 0.021)):
        stated, refined = (results[mode][f"camera_{name}"] for mode in ("off", "SO3xR3"))
        assert low < stated < high and refined != stated and refined < 2 * stated


def command_line(*arguments: str):
    """The config that ns-train makes of its arguments."""
    return tyro.cli(AnnotatedBaseConfigUnion, args=list(arguments))


@pytest.mark.parametrize(
    "encoding",
    ["hash", *(pytest.param(name, marks=pytest.mark.slow) for name in ("posenc", "fourier", "nffb", "stylemod-nffb"))],
)
def test_every_encoding_trains_from_the_command_line(scene, tmp_path, encoding):
    option = ("--pipeline.model.sdf-field.encoding", encoding)
    config = command_line("hash-neus-small", "--data", str(scene / "idr"), *option, "--vis", "tensorboard")
    config.output_dir, config.max_num_iterations, config.timestamp = tmp_path, 4, "run"
    config.viewer.quit_on_train_completion = True
    config.pipeline.datamanager.data = config.data  # as the command does
    run = train(make_tiny(config, 4))
    _, pipeline, checkpoint, step = eval_setup(run, test_mode="inference")
    assert step == 3 and checkpoint.is_file() and pipeline.model.config.sdf_field.encoding == encoding
    camera = pipeline.datamanager.train_dataset.cameras[:1]
    outputs = pipeline.model.get_outputs_for_camera(camera)
    assert outputs["rgb"].shape == (48, 48, 3) and outputs["normals"].std() > 0.05  # the sphere it starts from


@pytest.mark.slow
@pytest.mark.parametrize(("layout", "parser"), [("nerfstudio", "nerfstudio-data"), ("blender", "blender-data")])
def test_other_layouts_train(scene, tmp_path, capsys, layout, parser):
    """Their masks are files, or alpha; their scenes are not in the unit sphere."""
    config = surface_config(scene / layout, tmp_path, 80)
    config.pipeline.datamanager.dataparser = copy.deepcopy(all_dataparsers[parser])
    results = evaluate(train(config), tmp_path)
    said = " ".join(capsys.readouterr().out.split())
    assert results["masked_psnr"] > 11 and results["mask_iou"] > 0.5
    assert "Badly scaled" in said and "inside the unit sphere" in said
    assert "with masks, background model none" in said


@pytest.mark.slow
def test_training_without_masks(scene, tmp_path, capsys):
    data = tmp_path / "data"
    data.mkdir()
    for name in ("image", "splits.json", "cameras_sphere.npz"):
        (data / name).symlink_to(scene / "idr" / name)
    results = evaluate(train(surface_config(data, tmp_path, 200)), tmp_path)
    assert results["psnr"] > 16 and "mask_iou" not in results
    assert "without masks, background model contracted" in " ".join(capsys.readouterr().out.split())
