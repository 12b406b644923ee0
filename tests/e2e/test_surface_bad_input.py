"""What a user can get wrong with a surface's data ends training in one line that names file, value and remedy."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from common_ns.errors import InputError
from tests.e2e.running import train
from tests.e2e.surface_runs import surface_config
from tests.hashnffb_sdf_ns import idr_scene


@pytest.fixture
def scene(tmp_path) -> Path:
    return idr_scene.write(tmp_path / "scene")


def ball_config(scene: Path, method: str = "hash-neus-small", **options: Any) -> Any:
    """The config of a run of two steps; options are the dataparser's, or else the datamanager's."""
    config = surface_config(scene, scene.parent / "runs", 2, method)
    config.pipeline.datamanager.dataparser.eval_interval = 5
    for name, value in options.items():
        target = config.pipeline.datamanager
        target = target.dataparser if hasattr(target.dataparser, name) else target
        assert hasattr(target, name), name
        setattr(target, name, value)
    return config


def refusal(config: Any) -> str:
    """The line that training ends with, from the name of the file in the data set on."""
    with pytest.raises(InputError) as error:
        train(config)
    line = str(error.value)
    assert "\n" not in line and line.startswith(str(config.data)) and line.endswith("."), line
    assert not config.get_checkpoint_dir().is_dir() or not any(config.get_checkpoint_dir().iterdir())
    return line.removeprefix(str(config.data)).removeprefix("/")


def one_mask_less(scene: Path) -> None:
    (scene / "mask" / "003.png").unlink()


def empty_mask(scene: Path) -> None:
    idr_scene.change_masks(scene, np.zeros_like, only=3)


def inverted_masks(scene: Path) -> None:
    idr_scene.change_masks(scene, np.invert)


def inverted_mask(scene: Path) -> None:
    idr_scene.change_masks(scene, np.invert, only=3)


def small_mask(scene: Path) -> None:
    Image.new("L", (5, 4)).save(scene / "mask" / "003.png")


def singular(scene: Path) -> None:
    def change(arrays: dict) -> None:
        arrays["world_mat_2"][1] = 2.0 * arrays["world_mat_2"][0]

    idr_scene.change_cameras(scene, change)


def no_cameras(scene: Path) -> None:
    (scene / "cameras_sphere.npz").unlink()


def cut_cameras(scene: Path) -> None:
    file = scene / "cameras_sphere.npz"
    file.write_bytes(file.read_bytes()[:500])


def cut_image(scene: Path) -> None:
    file = scene / "image" / "000002.png"
    file.write_bytes(file.read_bytes()[:700])


def unknown_image(scene: Path) -> None:
    (scene / "splits.json").write_text(json.dumps({"train": ["000001.png", "lost.png"], "test": ["000002.png"]}))


@pytest.mark.parametrize(
    ("spoil", "line"),
    [
        (one_mask_less, "mask: there are 9 masks for 10 images; 000003.png has none. Give each image one mask, or "),
        (empty_mask, "mask/003.png: the mask is empty. Draw the object white on black, or remove the view; "),
        (inverted_masks, "mask: the masks are inverted: they are white where the object is not. Invert them, "),
        (inverted_mask, "mask/003.png: 1 of 8 masks are inverted, unlike the others: 003.png. Invert them, "),
        (small_mask, "mask/003.png: the mask has 5×4 pixels, its image 48×36. Give masks the size of their images"),
        (singular, "cameras_sphere.npz: world_mat_2 is singular"),
        (no_cameras, ": there is no cameras_sphere.npz or cameras.npz. "),
        (cut_cameras, "cameras_sphere.npz: cannot be read as an .npz file (BadZipFile). Write it again; "),
        (cut_image, "image/000002.png: the image cannot be decoded (image file is truncated). Replace it; "),
        (unknown_image, "splits.json: it lists lost.png, which is not there. Correct or remove the entry"),
    ],
)
def test_bad_data_is_named(scene, spoil: Callable[[Path], None], line):
    spoil(scene)
    assert refusal(ball_config(scene)).startswith(line)


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"downscale_factor": 0}, ": --downscale-factor is 0. Choose a whole number, 1 or more."),
        ({"downscale_factor": 1.5}, ": --downscale-factor is 1.5. Choose a whole number, 1 or more."),
        ({"downscale_factor": 60}, "image/000001.png: the image has 48×36 pixels, fewer than --downscale-factor 60."),
        ({"eval_interval": 1}, ": --eval-interval is 1. Choose a whole number, 2 or more."),
        ({"cameras": "linear-init"}, "cameras_linear_init.npz: the file does not exist."),
        ({"cameras_file": Path("other.npz")}, "other.npz: the file does not exist. "),
    ],
)
def test_options_that_do_not_fit_are_named(scene, options, line):
    (scene / "splits.json").write_text(json.dumps({"train": ["000001.png"], "test": ["000002.png"]}))
    assert refusal(ball_config(scene, **options)).startswith(line)


def test_a_missing_folder_is_named(tmp_path):
    assert refusal(ball_config(tmp_path / "scene")).startswith(": the data path does not exist")


@pytest.mark.parametrize("method", ["hash-idr", "hash-idr-small", "nffb-idr"])
def test_sphere_tracing_without_masks_is_refused(scene, method):
    shutil.rmtree(scene / "mask")
    with pytest.raises(
        InputError, match=r"neither masks nor alpha, and IDR learns outlines from masks only.*hash-neus"
    ):
        train(ball_config(scene, method))


def enlarge_sphere(scene: Path, factor: float) -> None:
    """Multiply the radius that scale_mat states."""

    def change(arrays: dict) -> None:
        for name in arrays:
            if name.startswith("scale_mat"):
                arrays[name] = arrays[name] @ np.diag([factor] * 3 + [1.0])

    idr_scene.change_cameras(scene, change)


def test_a_scene_outside_of_the_unit_sphere(scene, capsys):
    """Training ends, or puts it there, or says so, or does not look."""
    enlarge_sphere(scene, 0.5)
    line = refusal(ball_config(scene, scale_check="refuse"))
    assert line.startswith(": 76% of the visual hull is outside the unit sphere (it reaches to 1.63)")
    assert line.endswith("Set --pipeline.datamanager.scale-check fix, or correct scale_mat with ns-idr-cameras.")
    capsys.readouterr()
    for choice, said, scale in (("warn", True, 1 / 25.0), ("off", False, 1 / 25.0), ("fix", True, None)):
        config = ball_config(scene, scale_check=choice)
        run = train(config)
        shown = " ".join(capsys.readouterr().out.split())
        assert ("Badly scaled:" in shown) == said, choice
        written = json.loads((run.parent / "dataparser_transforms.json").read_text())["scale"]
        if scale is not None:
            assert written == pytest.approx(scale)
        else:  # the ball has radius 40
            assert 40.0 < 1 / written < 56.0 and "100.0% of the visual hull inside" in shown
            kept = yaml.load(run.read_text(), Loader=yaml.Loader).pipeline.datamanager.unit_sphere
            assert kept is not None and kept[3] == pytest.approx(1 / written / 25.0)


def test_the_sphere_that_replaces_a_bad_one_is_the_same_at_any_resolution(scene):
    """ns-render --downscale-factor, which gives a float, shows the scene where training had it."""
    enlarge_sphere(scene, 0.5)
    found = []
    for factor in (1, 2.0, 3):
        manager = ball_config(scene, downscale_factor=factor).pipeline.datamanager
        outputs = manager.setup(device="cpu", test_mode="inference").train_dataparser_outputs
        found.append([outputs.dataparser_scale, *outputs.dataparser_transform.flatten().tolist()])
    assert 40.0 < 1 / found[0][0] < 56.0
    assert found[1] == found[0] and found[2] == found[0]
    assert {folder.name for folder in scene.glob("downscaled_*")} == {"downscaled_2", "downscaled_3"}
