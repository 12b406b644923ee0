"""COLMAP models as people have them: read exactly, or refused in a line that names the file, image or camera."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from nerfstudio.data.utils import colmap_parsing_utils as host
from PIL import Image

from common_ns.data.colmap import Reconstruction, check_model, parser_content
from common_ns.nerfstudio_seam.dataparsers import checked_outputs, set_up
from depthnerf_ns.prepare.capture import Capture, read_capture
from depthnerf_ns.prepare.colmap_model import APPLIED, ColmapModel
from tests.odd_inputs.kit import BaseScene, Row, assert_ends_as_it_should, fifo, ids, link_loop

FOCAL, SIZE = 50.0, 40
POINTS = 9


def contents(folder: Path) -> SimpleNamespace:
    """Cameras, images and points of a model whose world is that of a transforms.json, in nerfstudio's types."""
    frames = json.loads((folder / "transforms.json").read_text())["frames"]
    cameras = {1: host.Camera(1, "PINHOLE", SIZE, SIZE, np.array([FOCAL, FOCAL + 1.0, 20.0, 19.0]))}
    images = {}
    for number, frame in enumerate(sorted(frames, key=lambda frame: frame["file_path"]), 1):
        rotation = np.array(frame["transform_matrix"])[:3, :3] @ np.diag([1.0, -1.0, -1.0])
        qvec, tvec = host.rotmat2qvec(rotation.T), rotation.T @ -np.array(frame["transform_matrix"])[:3, 3]
        xys, seen = np.arange(2.0 * POINTS).reshape(-1, 2), np.arange(1, POINTS + 1)
        images[number] = host.Image(number, qvec, tvec, 1, Path(frame["file_path"]).name, xys, seen)
    points = {
        number: host.Point3D(
            number, np.array([0.1 * number, 0.0, 0.0]), np.array([10, 20, number]), 0.5, np.array([1]), np.array([0])
        )
        for number in range(1, POINTS + 1)
    }
    return SimpleNamespace(cameras=cameras, images=images, points=points, folder=folder)


def model(
    edit: Callable[[SimpleNamespace], Any] = lambda content: None, form: str = ".bin", place: str = "sparse/0"
) -> Callable[[Path], None]:
    """A `Row.make` that puts a COLMAP model in the place of transforms.json."""

    def make(folder: Path) -> None:
        content = contents(folder)
        edit(content)
        write(content, form, place)
        (folder / "transforms.json").unlink()

    return make


def write(content: SimpleNamespace, form: str, place: str) -> Path:
    target = content.folder / place
    target.mkdir(parents=True, exist_ok=True)
    host.write_model(content.cameras, content.images, content.points, str(target), form)
    return target


def then(*steps: Callable[[Path], Any]) -> Callable[[Path], None]:
    """A `Row.make` of several."""

    def make(folder: Path) -> None:
        for step in steps:
            step(folder)

    return make


def camera(kind: str, *params: float) -> Callable[[SimpleNamespace], None]:
    """The one camera gets another camera model."""

    def edit(content: SimpleNamespace) -> None:
        content.cameras[1] = host.Camera(1, kind, SIZE, SIZE, np.array(params, dtype=np.float64))

    return edit


def of_image(number: int, **values: Any) -> Callable[[SimpleNamespace], None]:
    def edit(content: SimpleNamespace) -> None:
        changed = {name: value(getattr(content.images[number], name)) for name, value in values.items()}
        content.images[number] = content.images[number]._replace(**changed)

    return edit


def second_camera(kind: str, *params: float) -> Callable[[SimpleNamespace], None]:
    def edit(content: SimpleNamespace) -> None:
        content.cameras[7] = host.Camera(7, kind, SIZE, SIZE, np.array(params))
        content.images[1] = content.images[1]._replace(camera_id=7)

    return edit


def renamed(name: str, number: int = 1) -> Callable[[SimpleNamespace], None]:
    """An image is called otherwise, in the model and on disk."""

    def edit(content: SimpleNamespace) -> None:
        target = content.folder / "images" / name
        target.parent.mkdir(exist_ok=True)
        shutil.move(content.folder / "images" / content.images[number].name, target)
        content.images[number] = content.images[number]._replace(name=name)

    return edit


def fewer(count: int) -> Callable[[SimpleNamespace], None]:
    def edit(content: SimpleNamespace) -> None:
        content.images = dict(list(content.images.items())[:count])

    return edit


def also(place: str, edit: Callable[[SimpleNamespace], Any], form: str = ".bin") -> Callable[[SimpleNamespace], None]:
    """A second model besides the first."""

    def add(content: SimpleNamespace) -> None:
        other = SimpleNamespace(**vars(content))
        edit(other)
        write(other, form, place)

    return add


def cut(file: str, size: int) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        path = folder / "sparse/0" / file
        path.write_bytes(path.read_bytes()[:size])

    return edit


def patched(file: str, offset: int, data: bytes) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        path = folder / "sparse/0" / file
        content = bytearray(path.read_bytes())
        content[offset : offset + len(data)] = data
        path.write_bytes(content)

    return edit


def text(file: str, edit: Callable[[list[str]], list[str]]) -> Callable[[Path], None]:
    """Edit the lines of a text file."""

    def change(folder: Path) -> None:
        path = folder / "sparse/0" / file
        path.write_text("\n".join(edit(path.read_text().splitlines())) + "\n", encoding="utf-8")

    return change


def with_file(name: str) -> Callable[[Path], Any]:
    return lambda folder: (folder / "sparse/0" / name).write_bytes(b"\xff" * 99)


def model_file(change: Callable[[Path], Any], name: str) -> Callable[[Path], None]:
    return lambda folder: change(folder / "sparse/0" / name)


# What has to come out.


def views(count: int) -> Callable[[Capture], None]:
    def right(capture: Capture) -> None:
        assert len(capture) == count

    return right


def exact(capture: Capture) -> None:
    """All of it: poses, intrinsics, and points with the views that see them."""
    assert len(capture) == 17
    world = np.stack([np.array(frame["transform_matrix"])[:3] for frame in capture.frames])
    np.testing.assert_allclose(world, APPLIED[:, :3] @ capture.truth, atol=1e-9)  # type: ignore[attr-defined]
    cameras = capture.cameras
    for name, value in (("fx", FOCAL), ("fy", FOCAL + 1.0), ("cx", 20.0), ("cy", 19.0)):
        assert (getattr(cameras, name) == value).all(), name
    folder = capture.model_folder()
    assert folder is not None
    found = ColmapModel.read(folder)
    assert found.points.ids.tolist() == list(range(1, POINTS + 1))
    assert found.points.rgb[4].tolist() == [10, 20, 5] and found.points.xyz[4].tolist() == [0.5, 0.0, 0.0]
    assert found.images[0].xys[2].tolist() == [4.0, 5.0] and found.images[0].point3D_ids[2] == 3


def no_points(capture: Capture) -> None:
    assert len(capture) == 17
    folder = capture.model_folder()
    assert folder is not None and len(ColmapModel.read(folder).points) == 0


def lens(kind: str, **values: float) -> Callable[[Capture], None]:
    def right(capture: Capture) -> None:
        header = capture.header
        assert header["camera_model"] == kind and capture.cameras.fx[0] == FOCAL
        assert {name: header.get(name, 0.0) for name in values} == values
        assert capture.cameras.distortion_params is not None
        order = ("k1", "k2", "k3", "k4", "p1", "p2")
        expected = [values.get(name, 0.0) for name in order]
        np.testing.assert_allclose(capture.cameras.distortion_params[0].numpy(), expected, rtol=1e-6)

    return right


def first_name(name: str) -> Callable[[Capture], None]:
    def right(capture: Capture) -> None:
        assert name in {str(Path(file).as_posix())[-len(name) :] for file in capture.images}
        exact_pose = next(i for i, file in enumerate(capture.images) if file.as_posix().endswith(name))
        assert capture.frames[exact_pose]["colmap_im_id"] == 1

    return right


def focal_of_first(value: float) -> Callable[[Capture], None]:
    def right(capture: Capture) -> None:
        fx = capture.cameras.fx.reshape(-1).tolist()
        assert fx[0] == value and set(fx[1:]) == {FOCAL}

    return right


f1 = (FOCAL, 20.0, 20.0)
f2 = (FOCAL, FOCAL, 20.0, 20.0)
opencv = (0.05, 0.02, 0.001, 0.002)
UNDISTORT = r"colmap image_undistorter --image_path images --input_path DATA/sparse/0 --output_path undistorted"

ROWS = [
    Row("binary", model(), right=exact),
    Row("text", model(form=".txt"), right=exact),
    Row("in colmap/sparse/0", model(place="colmap/sparse/0"), right=exact),
    Row("in sparse", model(place="sparse"), right=exact),
    Row("in sparse/1", model(place="sparse/1"), right=exact),
    Row("in the data folder itself", model(place="."), right=exact),
    Row(
        "two models, the larger counts",
        model(also("sparse/0", fewer(5)), place="sparse/1"),
        right=exact,
        warns=r"sparse holds 2 COLMAP models, 0 \(5 images\), 1 \(17 images\): 1 is used\.",
    ),
    Row(
        "two models as text",
        model(also("sparse/1", fewer(5), ".txt"), form=".txt"),
        right=exact,
        warns=r"0 \(17 images\), 1 \(5 images\): 0 is used\.",
    ),
    Row("eleven and nine are numbers", model(also("sparse/9", fewer(3)), place="sparse/11"), right=views(17)),
    Row(
        "a larger model that is cut",
        then(
            model(also("sparse/0", fewer(5)), place="sparse/1"), lambda f: (f / "sparse/1/images.bin").write_bytes(b"")
        ),
        right=views(5),
    ),
    Row("binary before text", model(also("sparse/0", fewer(5), ".txt")), right=exact),
    Row("rigs and frames of newer COLMAP", then(model(), with_file("rigs.bin"), with_file("frames.bin")), right=exact),
    Row("no points3D", then(model(), model_file(Path.unlink, "points3D.bin")), right=no_points),
    Row(
        "points as text beside binary",
        then(
            model(also("sparse/0", lambda content: None, ".txt")),
            *(model_file(Path.unlink, name) for name in ("points3D.bin", "images.txt", "cameras.txt")),
        ),
        right=exact,
    ),
    Row("an image more", then(model(), lambda f: Image.new("RGB", (9, 9)).save(f / "images/zzz.png")), right=exact),
    Row("an image in a subfolder", model(renamed("cam 1/a.png")), right=first_name("images/cam 1/a.png")),
    Row("a space in a name", model(renamed("my photo 1.png")), right=first_name("images/my photo 1.png")),
    Row("a space in a name, text", model(renamed("my photo 1.png"), ".txt"), right=first_name("my photo 1.png")),
    Row("another alphabet in a name", model(renamed("фото ①.png"), ".txt"), right=first_name("фото ①.png")),
    Row(
        "byte-order mark",
        then(model(form=".txt"), text("cameras.txt", lambda x: ["\ufeff" + x[0], *x[1:]])),
        right=exact,
    ),
    Row(
        "Windows line ends", then(model(form=".txt"), text("images.txt", lambda x: [y + "\r" for y in x])), right=exact
    ),
    Row("quaternion of length 2", model(of_image(1, qvec=lambda q: 2.0 * q)), right=exact),
    Row("quaternion of length 2, text", model(of_image(1, qvec=lambda q: -2.0 * q), ".txt"), right=exact),
    # Cameras.
    Row("SIMPLE_PINHOLE", model(camera("SIMPLE_PINHOLE", *f1)), right=lens("OPENCV", k1=0.0)),
    Row("SIMPLE_RADIAL", model(camera("SIMPLE_RADIAL", *f1, 0.1)), right=lens("OPENCV", k1=0.1)),
    Row("RADIAL", model(camera("RADIAL", *f1, 0.1, 0.2)), right=lens("OPENCV", k1=0.1, k2=0.2)),
    Row("OPENCV", model(camera("OPENCV", *f2, *opencv)), right=lens("OPENCV", k1=0.05, k2=0.02, p1=0.001, p2=0.002)),
    Row(
        "FULL_OPENCV without k4 to k6",
        model(camera("FULL_OPENCV", *f2, *opencv, 0.03, 0, 0, 0)),
        right=lens("OPENCV", k1=0.05, k2=0.02, p1=0.001, p2=0.002, k3=0.03),
    ),
    Row(
        "FULL_OPENCV",
        model(camera("FULL_OPENCV", *f2, *opencv, 0.03, 0.5, 0, 0.1)),
        r"camera 1 has COLMAP's camera model FULL_OPENCV with k4 = 0\.5, k6 = 0\.1.*" + UNDISTORT,
    ),
    Row("FOV", model(camera("FOV", *f2, 0.5)), r"camera 1 has COLMAP's camera model FOV, which.*" + UNDISTORT),
    Row(
        "SIMPLE_RADIAL_FISHEYE", model(camera("SIMPLE_RADIAL_FISHEYE", *f1, 0.1)), right=lens("OPENCV_FISHEYE", k1=0.1)
    ),
    Row("RADIAL_FISHEYE", model(camera("RADIAL_FISHEYE", *f1, 0.1, 0.2)), right=lens("OPENCV_FISHEYE", k1=0.1, k2=0.2)),
    Row(
        "OPENCV_FISHEYE",
        model(camera("OPENCV_FISHEYE", *f2, 0.1, 0.2, 0.3, 0.4)),
        right=lens("OPENCV_FISHEYE", k1=0.1, k2=0.2, k3=0.3, k4=0.4),
    ),
    Row(
        "THIN_PRISM_FISHEYE of a radial lens",
        model(camera("THIN_PRISM_FISHEYE", *f2, 0.1, 0.2, 0, 0, 0.3, 0.4, 0, 0)),
        right=lens("OPENCV_FISHEYE", k1=0.1, k2=0.2, k3=0.3, k4=0.4),
    ),
    Row(
        "THIN_PRISM_FISHEYE",
        model(camera("THIN_PRISM_FISHEYE", *f2, 0.1, 0.2, 0.01, 0, 0.3, 0.4, 0, 0.02)),
        r"THIN_PRISM_FISHEYE with p1 = 0\.01, sy1 = 0\.02",
    ),
    Row(
        "a camera model of newer COLMAP",
        then(model(camera("PINHOLE", *f2)), patched("cameras.bin", 12, struct.pack("<i", 15))),
        right=lens("OPENCV_FISHEYE", k1=0.0, k4=0.0),
    ),
    Row(
        "a camera model of nobody's",
        then(model(), patched("cameras.bin", 12, struct.pack("<i", 99))),
        r"sparse/0/cameras\.bin: the camera 1 has the camera model number 99",
    ),
    Row(
        "a camera model's name of nobody's",
        then(model(form=".txt"), text("cameras.txt", lambda x: [y.replace("PINHOLE", "LEICA") for y in x])),
        r"cameras\.txt: line 4: the camera model LEICA is none of COLMAP's.*SIMPLE_PINHOLE",
    ),
    Row(
        "a parameter too few",
        then(model(form=".txt"), text("cameras.txt", lambda x: [y.replace(" 19.0", "") for y in x])),
        r"the camera 1 has 3 parameters, and PINHOLE has 4: fx, fy, cx, cy",
    ),
    Row("focal length 0", model(camera("PINHOLE", 0.0, 9.0, 20.0, 20.0)), r"cameras\.bin: the camera 1 has fx = 0\."),
    Row("focal length NaN", model(camera("PINHOLE", np.nan, 9.0, 20.0, 20.0)), r"the camera 1 has fx = nan"),
    Row("two cameras", model(second_camera("SIMPLE_PINHOLE", 60.0, 20.0, 20.0)), right=focal_of_first(60.0)),
    Row("two camera models of one kind", model(second_camera("RADIAL", *f1, 0.1, 0.0)), right=focal_of_first(FOCAL)),
    Row(
        "perspective and fisheye",
        model(second_camera("OPENCV_FISHEYE", *f2, 0, 0, 0, 0)),
        r"mixes perspective and fisheye cameras: PINHOLE \(camera 1\) and OPENCV_FISHEYE \(camera 7\).*" + UNDISTORT,
    ),
    Row(
        "a camera of another model that no image has",
        model(lambda c: c.cameras.update({7: host.Camera(7, "FOV", 9, 9, np.array([*f2, 0.5]))})),
        right=exact,
    ),
    # Damages.
    Row(
        "camera number unknown",
        model(of_image(1, camera_id=lambda n: 777)),
        r"is of camera 777, and the cameras are 1\.",
    ),
    Row("no images", model(lambda c: c.images.clear()), r"sparse/0: the COLMAP model has no images"),
    Row("empty cameras.bin", then(model(), cut("cameras.bin", 0)), r"cameras\.bin: the COLMAP file ends after 0 bytes"),
    Row("empty images.bin", then(model(), cut("images.bin", 0)), r"images\.bin: the COLMAP file ends after 0 bytes"),
    Row("a pose cut off", then(model(), cut("images.bin", 50)), r"images\.bin: the COLMAP file ends after 50 bytes"),
    Row("a name cut off", then(model(), cut("images.bin", 75)), r"images\.bin: the COLMAP file ends after 75 bytes"),
    Row(
        "2^60 images",
        then(model(), patched("images.bin", 0, struct.pack("<Q", 2**60))),
        r"images\.bin: the COLMAP file ends after \d+ bytes",
    ),
    Row(
        "2^60 key points",
        then(model(), patched("images.bin", 8 + 64 + len("test_0000.png") + 1, struct.pack("<Q", 2**60))),
        r"images\.bin: the COLMAP file ends after \d+ bytes, amid what should reach to byte \d{19}",
    ),
    Row(
        "NaN in a pose", model(of_image(2, tvec=lambda t: t * np.nan)), r"the pose of the image test_0001\.png is .*nan"
    ),
    Row("quaternion 0", model(of_image(2, qvec=lambda q: q * 0)), r"the pose of the image test_0001\.png is 0 0 -0 0 "),
    Row("a name twice", model(of_image(2, name=lambda n: "test_0000.png")), r"the image test_0000\.png is there twice"),
    Row(
        "an image gone",
        then(model(), lambda f: (f / "images/test_0000.png").unlink()),
        r"images/test_0000\.png: the image does not exist",
    ),
    Row(
        "all images gone",
        then(model(), lambda f: shutil.rmtree(f / "images")),
        r"images of the COLMAP model, such as test_0000\.png, are not in a folder images beside it. Name their folder",
    ),
    Row(
        "a line of images without its key points",
        then(model(form=".txt"), text("images.txt", lambda x: x[:5] + x[6:])),
        r"images\.txt: line 6 does not hold the key points of test_0000\.png",
    ),
    Row(
        "a pose without its last number",
        then(model(form=".txt"), text("images.txt", lambda x: [*x[:4], "1 1 0 0 0 0 0 1 test_0000.png", *x[5:]])),
        r"images\.txt: line 5 does not hold IMAGE_ID QW",
    ),
    Row(
        "words for numbers",
        then(model(form=".txt"), text("cameras.txt", lambda x: [*x[:3], "1 PINHOLE wide high 50 51 20 19"])),
        r"cameras\.txt: line 4 does not hold CAMERA_ID MODEL WIDTH HEIGHT PARAMS: 1 PINHOLE wide",
    ),
    Row(
        "text that is binary",
        then(model(form=".txt"), model_file(lambda path: path.write_bytes(b"\xff\xfe\0"), "images.txt")),
        r"images\.txt: is not a text in UTF-8",
    ),
    Row("a named pipe", then(model(), model_file(fifo, "images.bin")), r"images\.bin: the COLMAP file is a named pipe"),
    Row(
        "a folder in place of a file",
        then(model(), model_file(Path.unlink, "cameras.bin"), model_file(Path.mkdir, "cameras.bin")),
        r"cameras\.bin: the COLMAP file is a folder",
    ),
    Row(
        "a link to itself", then(model(), model_file(link_loop, "images.bin")), r"DATA: holds neither transforms\.json"
    ),
]
"""Read by `ns-depth-prepare`."""


@pytest.mark.parametrize("row", ROWS, ids=ids(ROWS))
def test_colmap_models(row: Row, base_scene: BaseScene, tmp_path: Path, capsys):
    folder = base_scene.copy("nerfstudio", tmp_path)
    frames = json.loads((folder / "transforms.json").read_text())["frames"]
    poses = {Path(frame["file_path"]).name: np.array(frame["transform_matrix"])[:3] for frame in frames}
    row.make(folder)

    def product() -> Capture:
        capture = read_capture(folder)
        truth = np.stack([poses.get(name, np.zeros((3, 4))) for name in capture.names])
        object.__setattr__(capture, "truth", truth)
        return capture

    assert_ends_as_it_should(row, product, capsys, folder)


def train_views(names: list[str], **values: float) -> Callable[[Any], None]:
    """The training views begin with these, and the first of them has these intrinsics."""

    def right(outputs: Any) -> None:
        assert [Path(file).name for file in outputs.image_filenames][: len(names)] == names
        assert len(outputs.image_filenames) == 14 and len(outputs.metadata["points3D_xyz"]) == POINTS
        for name, value in {"fx": FOCAL, **values}.items():
            assert float(getattr(outputs.cameras, name)[0]) == value
        rotation = outputs.cameras.camera_to_worlds[:, :3, :3].double()
        assert (rotation.transpose(1, 2) @ rotation - torch.eye(3)).abs().max() < 1e-5

    return right


def full_opencv(outputs: Any) -> None:
    train_views(["test_0001.png"])(outputs)
    found = outputs.cameras.distortion_params[0].tolist()
    assert found == pytest.approx([0.05, 0.02, 0.03, 0.0, 0.001, 0.002])


def without_points(outputs: Any) -> None:
    assert len(outputs.image_filenames) == 14 and "points3D_xyz" not in outputs.metadata


def count_of(views: int) -> Callable[[Any], None]:
    def right(outputs: Any) -> None:
        assert len(outputs.image_filenames) == views

    return right


def of_size(side: int) -> Callable[[Any], None]:
    """The cameras are those of copies with so many pixels along each side, from edge to edge."""

    def right(outputs: Any) -> None:
        found = [float(getattr(outputs.cameras, name)[0]) for name in ("width", "height", "fx", "cx", "cy")]
        factor = side / SIZE
        assert found == pytest.approx([side, side, FOCAL * factor, 20 * factor, 19 * factor])
        assert outputs.image_filenames[0].parent.name == "images_3"

    return right


def copies(side: int, keep: bool = True) -> Callable[[Path], None]:
    """Copies of the images in images_3, of so many pixels along each side."""

    def make(folder: Path) -> None:
        (folder / "images_3").mkdir()
        for file in (folder / "images").iterdir():
            Image.open(file).resize((side, side)).save(folder / "images_3" / file.name)
        if not keep:
            shutil.rmtree(folder / "images")

    return make


EAST = np.array([4.0e6 + 0.3, -1.2e6, 4.7e6])
"""A place in meters from the middle of the earth."""


def far_away(content: SimpleNamespace) -> None:
    """Coordinates of the earth, as those of a drone's GPS."""
    for number, image in content.images.items():
        moved = image.tvec - host.qvec2rotmat(image.qvec) @ EAST
        content.images[number] = image._replace(tvec=moved)
    for number, point in content.points.items():
        content.points[number] = point._replace(xyz=point.xyz + EAST)


def as_near(outputs: Any) -> None:
    """Cameras and points are those of the same model near the origin, and the transform begins at the earth's axes."""
    folder = Path(outputs.image_filenames[0]).parent.parent
    moved, scale = outputs.dataparser_transform.double(), outputs.dataparser_scale
    truth = read_capture_positions(folder)
    found = outputs.cameras.camera_to_worlds[:, :, 3].double()
    stated = torch.from_numpy(np.stack([truth[Path(file).name] for file in outputs.image_filenames]))
    assert torch.allclose(scale * (stated @ moved[:, :3].T + moved[:, 3]), found, atol=1e-6)
    assert torch.allclose(torch.cdist(found, found), scale * torch.cdist(stated, stated), atol=1e-6)
    points = outputs.metadata["points3D_xyz"].double()
    wanted = torch.from_numpy(np.array([[0.1 * n, 0.0, 0.0] for n in range(1, POINTS + 1)]) + EAST)
    assert torch.allclose(points, scale * (wanted @ moved[:, :3].T + moved[:, 3]), atol=1e-6)


def read_capture_positions(folder: Path) -> dict[str, np.ndarray]:
    model = Reconstruction.read(folder / "sparse/0")
    return {image.name: -host.qvec2rotmat(image.qvec).T @ image.tvec for image in model.images}


PARSED = [
    Row("coordinates of the earth", model(far_away), right=as_near),
    Row("one image", model(fewer(1)), "there is one frame, and none left to test on. Set --eval-mode all"),
    Row(
        "one image for both",
        model(fewer(1)),
        "all cameras stand in one place, .* Set --auto-scale-poses False",
        options={"eval_mode": "all"},
    ),
    Row(
        "one image for both, not to be scaled",
        model(fewer(1)),
        right=count_of(1),
        options={"eval_mode": "all", "auto_scale_poses": False},
    ),
    Row("two images", model(fewer(2)), right=count_of(1)),
    Row("five images", model(fewer(5)), right=count_of(4)),
    Row(
        "an empty folder where nerfstudio looks first",
        then(model(), lambda folder: (folder / "colmap/sparse/0").mkdir(parents=True)),
        right=train_views(["test_0001.png"]),
    ),
    Row("copies rounded down", then(model(), copies(13)), right=count_of(14), options={"downscale_factor": 3}),
    Row("copies rounded up", then(model(), copies(14)), right=of_size(14), options={"downscale_factor": 3}),
    Row(
        "copies only",
        then(model(), copies(14, keep=False)),
        right=of_size(14),
        warns="there is no folder images; images_3 stands in",
        options={"downscale_factor": None},
    ),
    Row(
        "copies that are not there",
        model(),
        "there is no folder images_4 with images 4 times smaller. Make it, or drop --downscale-factor",
        options={"downscale_factor": 4},
    ),
    Row("binary", model(), right=train_views(["test_0001.png", "test_0002.png"], fy=FOCAL + 1.0, cy=19.0)),
    Row("text", model(form=".txt"), right=train_views(["test_0001.png", "test_0002.png"], fy=FOCAL + 1.0, cy=19.0)),
    Row("in sparse/1", model(place="sparse/1"), right=train_views(["test_0001.png"])),
    Row("the larger of two", model(also("sparse/0", fewer(5)), place="sparse/1"), right=train_views(["test_0001.png"])),
    Row("a space in a name", model(renamed("my photo 1.png", 2)), right=train_views(["my photo 1.png"])),
    Row("a space in a name, text", model(renamed("my photo 1.png", 2), ".txt"), right=train_views(["my photo 1.png"])),
    Row("FULL_OPENCV", model(camera("FULL_OPENCV", *f2, *opencv, 0.03, 0, 0, 0)), right=full_opencv),
    Row("FULL_OPENCV with k4", model(camera("FULL_OPENCV", *f2, *opencv, 0.03, 1, 0, 0)), r"with k4 = 1.*" + UNDISTORT),
    Row("FOV", model(camera("FOV", *f2, 0.5)), r"camera 1 has COLMAP's camera model FOV.*" + UNDISTORT),
    Row("quaternions of length 2", model(of_image(2, qvec=lambda q: 2.0 * q)), right=train_views(["test_0001.png"])),
    Row("no points3D", then(model(), model_file(Path.unlink, "points3D.bin")), r"no points.*--load-3D-points False"),
    Row(
        "no points3D, and none wanted",
        then(model(), model_file(Path.unlink, "points3D.bin")),
        right=without_points,
        options={"load_3D_points": False},
    ),
    Row("no points", model(lambda content: content.points.clear()), r"no points.*--load-3D-points False"),
    Row(
        "a point cut off", then(model(), cut("points3D.bin", 60)), r"points3D\.bin: the COLMAP file ends after 60 bytes"
    ),
    Row(
        "a point at infinity",
        model(lambda c: c.points.update({3: c.points[3]._replace(xyz=np.array([np.inf, 0.0, 0.0]))})),
        r"points3D\.bin: the position of the point 3 is not finite, as of 1 points",
    ),
    Row(
        "words for a point",
        then(model(form=".txt"), text("points3D.txt", lambda x: [*x, "1 0 0 0 300 0 0 0.5 1 0"])),
        r"points3D\.txt: line 13 does not hold POINT3D_ID X Y Z R G B ERROR TRACK",
    ),
    Row(
        "text is read before binary",
        then(model(also("sparse/0", lambda c: None, ".txt")), model_file(lambda p: p.write_text("x"), "images.txt")),
        r"images\.txt: line 1 does not hold IMAGE_ID",
    ),
    Row("nothing", lambda folder: (folder / "transforms.json").unlink(), r"DATA: there is no COLMAP model"),
]
"""Read by the `colmap` dataparser, in a run of this suite."""


@pytest.mark.parametrize("row", PARSED, ids=ids(PARSED))
def test_models_through_the_dataparser(row: Row, base_scene: BaseScene, tmp_path: Path, capsys):
    from nerfstudio.data.dataparsers.colmap_dataparser import ColmapDataParserConfig

    folder = base_scene.copy("nerfstudio", tmp_path)
    row.make(folder)
    config = ColmapDataParserConfig(data=folder, **{"downscale_factor": 1, **row.options})
    assert_ends_as_it_should(row, lambda: checked_outputs(set_up(config), "train"), capsys, folder)


@pytest.mark.parametrize("form", [".bin", ".txt"])
@pytest.mark.parametrize("convention", [True, False])
def test_content_for_nerfstudios_parser_is_its_own(base_scene: BaseScene, tmp_path: Path, form, convention):
    """To the bit, on what it can read; and as for the plain model on what it cannot."""
    from nerfstudio.data.dataparsers.colmap_dataparser import ColmapDataParserConfig

    folder = base_scene.copy("nerfstudio", tmp_path)
    model(second_camera("RADIAL", *f1, 0.1, 0.0), form=form)(folder)
    config = ColmapDataParserConfig(
        data=folder,
        masks_path=Path("masks"),
        depths_path=Path("depths"),
        assume_colmap_world_coordinate_convention=convention,
    )
    theirs = config.setup()._get_all_images_and_cameras(folder / "sparse/0")
    ours = parser_content(Reconstruction.read(folder / "sparse/0"), config)
    assert list(ours) == list(theirs)
    for own, frame in zip(ours["frames"], theirs["frames"]):
        np.testing.assert_array_equal(own.pop("transform_matrix"), frame.pop("transform_matrix"))
        assert own == frame
    assert len(ours["frames"]) == 17 and ours["camera_model"] == theirs["camera_model"]
    assert ours.get("applied_transform") == theirs.get("applied_transform")


def test_a_model_cut_at_any_byte(base_scene: BaseScene, tmp_path: Path):
    """Every length of every binary file: a line about that file, or all of it."""
    folder = base_scene.copy("nerfstudio", tmp_path)
    model(lambda content: (fewer(1)(content), of_image(1, xys=lambda x: x[:2], point3D_ids=lambda x: x[:2])(content)))(
        folder
    )
    whole = {file.name: file.read_bytes() for file in (folder / "sparse/0").iterdir()}
    for name in ("cameras.bin", "images.bin", "points3D.bin"):
        for size in range(len(whole[name])):
            (folder / "sparse/0" / name).write_bytes(whole[name][:size])
            with pytest.raises(ValueError, match=rf"{name}: the COLMAP file ends after {size} bytes, amid"):
                check_model(folder / "sparse/0")
        (folder / "sparse/0" / name).write_bytes(whole[name])
    check_model(folder / "sparse/0")
