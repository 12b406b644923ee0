"""The pose pictures: what is read from a data set, where it appears, and the command line around it."""

from __future__ import annotations

import json
import math
import time
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mpl_toolkits.mplot3d import proj3d
from nerfstudio.data.dataparsers.blender_dataparser import BlenderDataParserConfig
from nerfstudio.data.dataparsers.colmap_dataparser import ColmapDataParserConfig
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from PIL import Image
from viser import GuiApi, SceneApi

from common_ns.cameras.geometry import box_edges, frustum_corners, look_at, positions
from common_ns.cameras.pose_figure import draw_figure, frustum_faces, nearness, upright_rotation
from common_ns.cameras.pose_set import SPLIT_COLORS, load_poses, number_range, summary, thumbnail
from common_ns.cameras.pose_viewer import show_in_viewer
from common_ns.errors import InputError
from common_ns.scripts.show_poses import ShowPoses, guess_dataparser, parse_arguments


def write_capture(folder: Path) -> Path:
    """A nerfstudio data set of 5 images, of which the parser takes one for testing."""
    (folder / "images").mkdir(parents=True)
    frames = []
    for i in range(5):
        Image.new("RGB", (24, 16), (50 * i, 100, 100)).save(folder / "images" / f"{i}.png")
        pose = np.eye(4)
        place = np.array([[3 * math.cos(0.3 * i), 3 * math.sin(0.3 * i), 1.0]])
        pose[:3] = look_at(place, np.zeros(3), np.array([0.0, 0.0, 1.0]))[0]
        frames.append({"file_path": f"images/{i}.png", "transform_matrix": pose.tolist()})
    intrinsics = {"fl_x": 20.0, "fl_y": 22.0, "cx": 12.0, "cy": 8.0, "w": 24, "h": 16}
    (folder / "transforms.json").write_text(json.dumps({**intrinsics, "frames": frames}))
    return folder


def test_frustum_corners_project_to_the_image_corners():
    c2w = look_at(np.array([[1.0, 2.0, 3.0], [-2.0, 0.5, 1.0]]), np.zeros(3), np.array([0.0, 0.0, 1.0]))
    sizes, focals = np.array([[30.0, 20.0], [8.0, 9.0]]), np.array([[25.0, 27.0], [10.0, 11.0]])
    centers = np.array([[14.0, 11.0], [4.0, 4.0]])
    corners = frustum_corners(c2w, sizes, focals, centers, depth=0.5)
    for n in range(2):
        local = (corners[n] - c2w[n, :, 3]) @ c2w[n, :, :3]
        np.testing.assert_allclose(local[:, 2], -0.5)
        pixels = np.stack([local[:, 0], -local[:, 1]], axis=-1) / 0.5 * focals[n] + centers[n]
        width, height = sizes[n]
        np.testing.assert_allclose(pixels, [[0, 0], [width, 0], [width, height], [0, height]], atol=1e-9)


def test_box_edges_are_the_twelve_sides():
    edges = box_edges(np.array([[0.0, 0.0, 0.0], [1.0, 2.0, 3.0]]))
    assert edges.shape == (12, 2, 3)
    lengths = np.linalg.norm(edges[:, 1] - edges[:, 0], axis=-1)
    np.testing.assert_allclose(np.sort(lengths), [1] * 4 + [2] * 4 + [3] * 4)
    assert len({tuple(edge.ravel()) for edge in edges}) == 12


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("transforms_train.json", "blender-data"),
        ("transforms.json", "nerfstudio-data"),
        ("metadata.json", "multiscale-blender-data"),
        ("cameras_sphere.npz", "idr-data"),
        ("cameras_linear_init.npz", "idr-data"),
        ("cameras.npz", "idr-data"),
        ("sparse/0/cameras.bin", "colmap"),
        ("colmap/sparse/0/cameras.txt", "colmap"),
        ("sparse/cameras.bin", "colmap"),
    ],
)
def test_the_data_parser_is_guessed_from_the_files(file, name, tmp_path):
    (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
    for each in (file, file.replace("cameras.", "images.")):
        (tmp_path / each).write_text("{}")
    assert guess_dataparser(tmp_path) == name


def test_a_folder_without_a_data_set_is_explained(tmp_path):
    with pytest.raises(InputError, match="Name the data parser"):
        guess_dataparser(tmp_path)
    with pytest.raises(InputError, match="does not exist"):
        ShowPoses(data=tmp_path / "none", viewer=False).main()
    with pytest.raises(InputError, match="--data FOLDER"):
        ShowPoses(viewer=False).main()


def test_both_splits_are_read_as_the_parser_gives_them(tiny_blender):
    poses = load_poses(BlenderDataParserConfig(data=tiny_blender), "tiny")
    assert [(split.name, len(split.c2w)) for split in poses.splits] == [("train", 4), ("test", 4)]
    np.testing.assert_allclose(poses.focus, 0.0, atol=1e-6)
    np.testing.assert_allclose(poses.up, [0, 0, 1], atol=1e-6)
    rows = dict(summary(poses))
    assert rows["cameras"] == "4 train, 4 test"
    assert rows["resolution"] == "16 × 16 px"
    assert rows["focal length"] == f"{8 / math.tan(0.35):.4g} px"
    assert rows["distance"] == f"{4 * math.sqrt(1.09):.4g}"


def test_a_missing_test_split_is_a_note_and_images_of_training_are_no_test(tiny_blender, tmp_path, capsys):
    for split in ("val", "test"):
        (tiny_blender / f"transforms_{split}.json").unlink()
    poses = load_poses(BlenderDataParserConfig(data=tiny_blender), "tiny")
    assert [split.name for split in poses.splits] == ["train"]
    assert "test split is not shown" in capsys.readouterr().out
    capture = write_capture(tmp_path / "capture")
    everything = load_poses(NerfstudioDataParserConfig(data=capture, eval_mode="all"), "capture")
    assert [(split.name, len(split.c2w)) for split in everything.splits] == [("train", 5)]
    divided = load_poses(NerfstudioDataParserConfig(data=capture, eval_mode="interval", eval_interval=5), "capture")
    assert [(split.name, len(split.c2w)) for split in divided.splits] == [("train", 4), ("test", 1)]
    assert dict(summary(divided))["focal length x"] == "20 px"


def test_bad_data_is_explained_in_one_line(tiny_blender):
    file = tiny_blender / "transforms_train.json"
    content = json.loads(file.read_text())
    content["frames"][2]["transform_matrix"][0][3] = float("nan")
    file.write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"r_2\.png holds nan"):
        load_poses(BlenderDataParserConfig(data=tiny_blender), "tiny")
    file.unlink()
    with pytest.raises(InputError, match=r"there is no transforms_train\.json"):
        load_poses(BlenderDataParserConfig(data=tiny_blender), "tiny")


def test_one_of_several_cameras_with_one_pose_is_drawn(tiny_blender):
    split = load_poses(BlenderDataParserConfig(data=tiny_blender), "tiny").splits[0]
    fields = {name: getattr(split, name) for name in split.__dataclass_fields__}
    doubled = type(split)(**{**fields, "c2w": np.repeat(split.c2w, 2, axis=0)})
    np.testing.assert_array_equal(doubled.distinct, [0, 2, 4, 6])


def test_the_image_lies_upright_on_the_image_plane():
    plane = np.array([[-2.0, 1.0, -3.0], [2.0, 1.0, -3.0], [2.0, -1.0, -3.0], [-2.0, -1.0, -3.0]])
    image = np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [255, 255, 255]]], dtype=np.uint8)
    faces, fill, edges = frustum_faces(np.zeros(3), plane, image, (0.2, 0.4, 0.6), fade=0.5)
    assert len(faces) == len(fill) == len(edges) == 4 + 4
    assert all((face[0] == 0).all() for face in faces[:4])
    middles = np.array([face.mean(axis=0) for face in faces[4:]])
    np.testing.assert_allclose(middles, [[-1, 0.5, -3], [1, 0.5, -3], [-1, -0.5, -3], [1, -0.5, -3]])
    np.testing.assert_allclose(fill[4:], [[1, 0.5, 0.5], [0.5, 1, 0.5], [0.5, 0.5, 1], [1, 1, 1]])
    assert len(frustum_faces(np.zeros(3), plane, None, (0.2, 0.4, 0.6), fade=0.5)[0]) == 4


def test_the_picture_shows_near_things_larger_and_upright(tiny_blender):
    poses = load_poses(BlenderDataParserConfig(data=tiny_blender), "tiny")
    space: Any = draw_figure(poses).axes[0]
    points = np.random.default_rng(0).uniform(-1, 1, (50, 3))
    x, y, depth = proj3d.proj_transform(*points.T, space.get_proj())
    order = np.argsort([nearness(point) for point in points])
    assert (np.diff(np.asarray(depth)[order]) < 0).all(), "cameras are painted from far to near"
    raised = proj3d.proj_transform(*(points + np.array([0, 0, 0.1])).T, space.get_proj())
    assert (raised[1] > y).all() and (np.abs(raised[0] - x) < 0.3 * (raised[1] - y)).all()
    tall = (raised[1] - y)[order]
    assert tall[-10:].mean() > tall[:10].mean()


@pytest.mark.parametrize("up", [[0.1, 0.2, 0.9], [0.9, 0, 0.3], [0, -1, 0.1]])
def test_the_picture_is_turned_by_right_angles_only(up):
    turn = upright_rotation(np.array(up) / np.linalg.norm(up))
    np.testing.assert_allclose(np.abs(turn).sum(axis=0), 1.0)
    np.testing.assert_allclose(np.linalg.det(turn), 1.0)
    assert (turn @ up)[2] == np.max(np.abs(up))


def test_thumbnails_blend_transparent_images(tiny_blender):
    file = tiny_blender / "train" / "r_0.png"
    Image.new("RGBA", (16, 8), (100, 0, 200, 51)).save(file)
    split = load_poses(BlenderDataParserConfig(data=tiny_blender), "tiny").splits[0]
    small = thumbnail(split, 0, 4)
    assert small is not None and small.shape == (2, 4, 3)
    np.testing.assert_array_equal(small[0, 0], np.rint(0.2 * np.array([100, 0, 200]) + 0.8 * 255))
    file.unlink()
    assert thumbnail(split, 0, 4) is None


def test_number_ranges_are_short():
    assert number_range(np.array([2.0, 2.0001]), " px") == "2 px"
    assert number_range(np.array([1.0, 2.0, 4.0]), "°") == "1 – 4°, median 2°"


def test_the_command_writes_a_picture_of_both_splits(tiny_blender, tmp_path, capsys):
    output = tmp_path / "pictures" / "poses.png"
    command, dataparser = parse_arguments(["--data", str(tiny_blender), "--output-path", str(output)])
    assert dataparser is None and not command.viewer
    command.main(dataparser)
    assert "Written to" in capsys.readouterr().out
    picture = np.asarray(Image.open(output).convert("RGB")).astype(int)
    for color in SPLIT_COLORS.values():
        assert (np.abs(picture - color).sum(axis=-1) < 30).sum() > 50


@pytest.mark.parametrize("case", ["one camera", "no images", "one point"])
def test_degenerate_camera_sets_are_drawn(case, tiny_blender):
    poses = load_poses(BlenderDataParserConfig(data=tiny_blender), "tiny")
    split = poses.splits[0]
    keep = slice(0, 1) if case == "one camera" else slice(None)
    arrays = {
        name: getattr(split, name)[keep] for name in ("c2w", "sizes", "focals", "principal_points", "image_files")
    }
    if case == "no images":
        arrays["image_files"] = [Path("none.png")] * len(split.image_files)
    if case == "one point":
        arrays["c2w"] = arrays["c2w"].copy()
        arrays["c2w"][:, :, 3] = 0.0
    reduced = type(split)(name="train", alpha_color=split.alpha_color, **arrays)
    figure = draw_figure(type(poses)(title=case, splits=[reduced], box=poses.box))
    assert len(figure.axes) == 3
    assert np.isfinite(figure.axes[0].get_xlim()).all()


def test_options_stand_before_or_after_the_parsers_name():
    command, dataparser = parse_arguments(
        ["blender-data", "--data", "X", "--scale-factor", "2", "--output-path", "p.png"]
    )
    assert (command.data, command.output_path, command.viewer) == (Path("X"), Path("p.png"), False)
    assert isinstance(dataparser, BlenderDataParserConfig) and dataparser.scale_factor == 2.0
    command, dataparser = parse_arguments(["--data", "X", "colmap", "--eval-mode", "all"])
    assert isinstance(dataparser, ColmapDataParserConfig) and dataparser.eval_mode == "all"
    assert command.viewer
    assert command.named_dataparser(dataparser)[0] == "colmap"
    assert parse_arguments(["--output-path", "p.png", "--viewer"])[0].viewer
    assert not parse_arguments(["--output_path=p.png"])[0].viewer
    assert not parse_arguments(["--no-viewer"])[0].viewer


def test_help_of_a_data_parser_lists_its_options(capsys):
    with pytest.raises(SystemExit) as end:
        parse_arguments(["blender-data", "--help"])
    assert end.value.code == 0
    assert "--scale-factor" in capsys.readouterr().out


def test_the_viewer_serves_all_cameras_below_a_switch_for_each_split(tiny_blender, monkeypatch):
    made: dict[str, Any] = {}
    for api, method, real in (
        (SceneApi, "add_frame", SceneApi.add_frame),
        (GuiApi, "add_checkbox", GuiApi.add_checkbox),
    ):

        def add(self: Any, name: str, *args: Any, real: Any = real, **options: Any) -> Any:
            made[name] = real(self, name, *args, **options)
            return made[name]

        monkeypatch.setattr(api, method, add)
    poses = load_poses(BlenderDataParserConfig(data=tiny_blender), "tiny")
    server = show_in_viewer(poses, "127.0.0.1", 7431, thumbnails=4)
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{server.get_port()}", timeout=10) as page:
            assert page.status == 200
        made["test (4)"].value = False
        end = time.monotonic() + 20
        while made["/test"].visible and time.monotonic() < end:  # viser calls back from a thread of its own
            time.sleep(0.01)
        assert made["/train"].visible and not made["/test"].visible
    finally:
        server.stop()
    assert len(positions(poses.c2w)) == 8
