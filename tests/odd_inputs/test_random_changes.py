"""Whatever is changed in a good data set: it is read, or refused in one line; and no ray is without a direction."""

from __future__ import annotations

import copy
import json
import math
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common_ns.errors import InputError
from common_ns.nerfstudio_seam.dataparsers import checked_outputs, set_up
from tests.odd_inputs.kit import BaseScene, dataparser_config, limited


def times(count: int) -> settings:
    """So many examples, the same ones every time."""
    return settings(
        max_examples=count,
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )


ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 3),
    st.sampled_from([0.0, -1.0, 1e-30, 1e30, 1e308, -1e308, math.nan, math.inf, 10**400, 39.6, 0.5]),
    st.floats(-1e3, 1e3),
    st.sampled_from(["", " ", "x", "..", "/", "\0", "images", "images/train_0003.png", "3", "é" * 300]),
    st.lists(st.floats(-2, 2), max_size=4),
    st.just({}),
)
"""Values that stand where others should."""


def outcome(parser: str, data: Path, **options: Any) -> str:
    """Read a data set, and look at rays of its cameras; returns "read", or the line of its refusal."""
    config = dataparser_config(parser)
    config.data = data
    for name, value in options.items():
        setattr(config, name, value)
    with limited():
        try:
            outputs = checked_outputs(set_up(config), "train")
            checked_outputs(set_up(config), "val")
        except InputError as error:
            line = str(error)
            assert "\n" not in line and line.endswith(".") and len(line) < 1500, line
            return line
    cameras = outputs.cameras
    index = torch.arange(len(cameras))[:, None].repeat(1, 5).reshape(-1, 1)
    share = torch.tensor([[0.5, 0.5], [0.01, 0.01], [0.01, 0.99], [0.99, 0.01], [0.99, 0.99]]).repeat(len(cameras), 1)
    size = torch.cat([cameras.height, cameras.width], dim=-1)[index[:, 0]]
    rays = cameras.generate_rays(camera_indices=index, coords=share * size)
    fisheye = (rays.directions == 0).all(dim=-1)  # nerfstudio's mark for pixels beyond half a turn
    assert torch.isfinite(rays.origins).all() and torch.isfinite(rays.directions).all()
    assert not fisheye.all()
    return "read"


def places(value: Any, at: tuple = ()) -> list[tuple]:
    """Where in a JSON value something can be changed."""
    found = [at] if at else []
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        found += places(inner, (*at, key))
    return found


def change(content: Any, at: tuple, how: str, value: Any) -> None:
    """Change one place of a JSON value in place."""
    owner = content
    for key in at[:-1]:
        owner = owner[key]
    if how == "remove":
        del owner[at[-1]]
    elif how == "twice" and isinstance(owner, list):
        owner.append(owner[at[-1]])
    elif how == "nest":
        owner[at[-1]] = [owner[at[-1]]]
    elif how == "text":
        owner[at[-1]] = str(owner[at[-1]])
    else:
        owner[at[-1]] = value


pytestmark = pytest.mark.slow

HOW = st.sampled_from(["replace", "replace", "replace", "remove", "twice", "nest", "text"])


@pytest.fixture(scope="module")
def workplace(base_scene: BaseScene, tmp_path_factory) -> Path:
    """Copies of the layouts, whose images stay as they are."""
    folder = tmp_path_factory.mktemp("changed")
    for layout in ("nerfstudio", "idr"):
        base_scene.copy(layout, folder)
    return folder


def test_changes_of_a_capture(workplace: Path):
    folder = workplace / "nerfstudio"
    original = json.loads((folder / "transforms.json").read_text())
    original["frames"] = original["frames"][:6] + original["frames"][12:15]
    names = [frame["file_path"] for frame in original["frames"]]
    for split in ("train", "val", "test"):
        original[f"{split}_filenames"] = [n for n in original[f"{split}_filenames"] if n in names] or names[-2:]
    everywhere = places(original)
    # The file's own fields are few among the numbers of the poses.
    often = [at for at in everywhere if len(at) == 1 or at[0] != "frames" or len(at) == 3]
    place = st.one_of(st.sampled_from(often), st.sampled_from(everywhere))
    seen: dict[str, int] = {}

    @times(400)
    @given(
        st.lists(st.tuples(place, HOW, ODD), min_size=1, max_size=2),
        st.sampled_from(["nerfstudio-data", "rgbd-data", "instant-ngp-data"]),
    )
    def run(changes: list[tuple], parser: str) -> None:
        content = copy.deepcopy(original)
        for at, how, value in changes:
            try:
                change(content, at, how, value)
            except (KeyError, IndexError, TypeError):  # an earlier change has removed it
                continue
        (folder / "transforms.json").write_text(json.dumps(content))
        end = outcome(parser, folder)
        seen[end[:4]] = seen.get(end[:4], 0) + 1

    run()
    assert seen.pop("read") > 40 and sum(seen.values()) > 100, seen


def test_changes_of_an_idr_folder(workplace: Path, tmp_path: Path):
    source = workplace / "idr"
    cameras = dict(np.load(source / "cameras_sphere.npz"))
    numbers = sorted(cameras)
    files = sorted(str(file.relative_to(source)) for file in source.rglob("*") if file.is_file())
    seen: dict[str, int] = {}

    def of_camera(name: str, row: int, column: int, value: float) -> Callable[[Path], None]:
        def make(folder: Path) -> None:
            arrays = {key: array.copy() for key, array in cameras.items()}
            arrays[name][row % len(arrays[name]), column] = value
            np.savez(folder / "cameras_sphere.npz", **arrays)

        return make

    def without(name: str) -> Callable[[Path], None]:
        return lambda folder: np.savez(
            folder / "cameras_sphere.npz", **{key: value for key, value in cameras.items() if key != name}
        )

    def of_file(name: str, how: str) -> Callable[[Path], None]:
        def make(folder: Path) -> None:
            file = folder / name
            data = (source / name).read_bytes()
            if file.is_dir():
                file.rmdir()
            file.unlink(missing_ok=True)
            if how == "cut":
                file.write_bytes(data[: len(data) // 2])
            elif how == "empty":
                file.write_bytes(b"")
            elif how == "renamed":
                file.with_name("other_" + file.name).write_bytes(data)
            elif how == "folder":
                file.mkdir(exist_ok=True)
            elif how == "pipe" and not file.exists():
                os.mkfifo(file)

        return make

    value = st.one_of(st.sampled_from([0.0, math.nan, math.inf, 1e30, 1e308, -1e308, 1e-30]), st.floats(-1e4, 1e4))
    changes = st.one_of(
        st.builds(of_camera, st.sampled_from(numbers), st.integers(0, 3), st.integers(0, 3), value),
        st.builds(without, st.sampled_from(numbers)),
        st.builds(
            of_file, st.sampled_from(files), st.sampled_from(["gone", "cut", "empty", "renamed", "folder", "pipe"])
        ),
    )

    @times(300)
    @given(st.lists(changes, min_size=1, max_size=2))
    def run(makes: list[Callable[[Path], None]]) -> None:
        folder = tmp_path / "scene"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(source, folder, copy_function=os.link)
        for make in makes:
            for name in ("cameras_sphere.npz",):  # never through the link
                data = (folder / name).read_bytes() if (folder / name).is_file() else None
                if data is not None:
                    (folder / name).unlink()
                    (folder / name).write_bytes(data)
            if (folder / "cameras_sphere.npz").is_file() or make.__qualname__.startswith("of_file"):
                make(folder)
        end = outcome("idr-data", folder)
        seen[end[:4]] = seen.get(end[:4], 0) + 1

    run()
    assert seen.pop("read") > 20 and sum(seen.values()) > 50, seen


def colmap_text(folder: Path, original: dict) -> dict[str, list[str]]:
    """The lines of a COLMAP text model of a capture's frames."""
    from scipy.spatial.transform import Rotation

    cameras = ["# comment", f"1 OPENCV 40 40 {original['fl_x']} {original['fl_y']} 20 20 0.01 0 0 0"]
    images, points = ["# comment"], ["# comment"]
    for index, frame in enumerate(original["frames"], 1):
        pose = np.array(frame["transform_matrix"]) @ np.diag([1.0, -1.0, -1.0, 1.0])
        rotation = pose[:3, :3].T
        x, y, z, w = Rotation.from_matrix(rotation).as_quat()
        t = -rotation @ pose[:3, 3]
        numbers = " ".join(f"{value:.9g}" for value in (w, x, y, z, *t))
        images += [f"{index} {numbers} 1 {Path(frame['file_path']).name}", ""]
    points += [f"{index} {0.1 * index} 0 1 10 20 30 0.5 1 0" for index in range(1, 13)]
    return {"cameras.txt": cameras, "images.txt": images, "points3D.txt": points}


def test_changes_of_a_colmap_model(workplace: Path, base_scene: BaseScene, tmp_path: Path):
    original = json.loads((base_scene.written / "nerfstudio" / "transforms.json").read_text())
    original["frames"] = original["frames"][:9]
    folder = tmp_path / "capture"
    shutil.copytree(base_scene.written / "nerfstudio" / "images", folder / "images")
    (folder / "sparse" / "0").mkdir(parents=True)
    lines = colmap_text(folder, original)
    where = [
        (name, line, word)
        for name, content in lines.items()
        for line, text in enumerate(content)
        for word in range(len(text.split()))
    ]
    seen: dict[str, int] = {}
    words = st.sampled_from(
        ["nan", "inf", "0", "-1", "1e308", "x", "", "777", "PINHOLE", "FOV", "FULL_OPENCV", "\0", "é"]
    )
    hows = st.sampled_from(["word", "word", "no line", "twice", "cut"])

    @times(300)
    @given(st.lists(st.tuples(st.sampled_from(where), hows, words), min_size=1, max_size=2))
    def run(changes: list[tuple]) -> None:
        content = copy.deepcopy(lines)
        for (name, line, word), how, new in changes:
            texts = content[name]
            if line >= len(texts):
                continue
            if how == "word":
                split = texts[line].split()
                texts[line] = " ".join([*split[:word], new, *split[word + 1 :]])
            elif how == "no line":
                del texts[line]
            elif how == "twice":
                texts.insert(line, texts[line])
            else:
                content[name] = [*texts[:line], texts[line][: len(texts[line]) // 2]]
        for name, texts in content.items():
            (folder / "sparse" / "0" / name).write_text("\n".join(texts) + "\n")
        end = outcome("colmap", folder)
        seen[end[:4]] = seen.get(end[:4], 0) + 1

    run()
    assert seen.pop("read") > 20 and sum(seen.values()) > 50, seen
