"""transforms.json, Blender scenes and folders of other kinds, as people's tools and hands leave them."""

from __future__ import annotations

import codecs
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from common_ns.nerfstudio_seam.datamanager import FieldDataManager
from tests.odd_inputs.kit import (
    VIEWS,
    BaseScene,
    Row,
    assert_ends_as_it_should,
    datamanager,
    edit_json,
    fifo,
    ids,
    link_loop,
    of_json,
    without_splits,
)

CAPTURE, BLENDER, NGP, RGBD = "nerfstudio-data", "blender-data", "instant-ngp-data", "rgbd-data"
FOCAL = 55.555557
INTRINSICS = ("fl_x", "fl_y", "cx", "cy", "w", "h", "k1", "k2", "p1", "p2")


def cameras(manager: Any) -> Any:
    return manager.train_dataset.cameras


def has(**wanted: float) -> Callable[[Any], None]:
    """The intrinsics of all training cameras: fx, fy, cx, cy, width, height."""

    def check(manager: Any) -> None:
        for name, value in wanted.items():
            found = getattr(cameras(manager), name).double()
            assert torch.allclose(found, torch.full_like(found, value), rtol=1e-5), (name, found)

    return check


def usual(manager: Any) -> None:
    """Everything is as in the file that was not spoiled."""
    has(fx=FOCAL, fy=FOCAL, cx=20, cy=20, width=40, height=40)(manager)
    assert len(manager.train_dataset) == VIEWS[0]
    assert [file.name for file in manager.train_dataset.image_filenames[:2]] == ["train_0000.png", "train_0001.png"]
    # The nearest camera looks at the middle of the scene from where it does in the file.
    poses = cameras(manager).camera_to_worlds
    assert torch.allclose(poses[:, :, :3].transpose(1, 2) @ poses[:, :, :3], torch.eye(3), atol=1e-4)
    assert 0.5 < float(poses[:, :, 3].abs().max()) <= 1.0 + 1e-6


def count(train: int, test: int) -> Callable[[Any], None]:
    def check(manager: Any) -> None:
        assert (len(manager.train_dataset), len(manager.eval_dataset)) == (train, test)

    return check


def frame(index: int, **fields: Any) -> Callable[[Path], None]:
    """Set fields of one frame; Ellipsis removes one."""

    def edit(content: dict) -> None:
        for key, value in fields.items():
            if value is ...:
                content["frames"][index].pop(key)
            else:
                content["frames"][index][key] = value

    return of_json(edit)


def top(**fields: Any) -> Callable[[Path], None]:
    """Set fields of the file; Ellipsis removes one."""

    def edit(content: dict) -> None:
        for key, value in fields.items():
            if value is ...:
                content.pop(key)
            else:
                content[key] = value

    return of_json(edit)


def every(change: Callable[[dict], Any], splits: bool = False) -> Callable[[Path], None]:
    """Change every frame; unless `splits`, drop the lists of the splits, whose names would no longer fit."""

    def edit(content: dict) -> None:
        for each in content["frames"]:
            change(each)
        if not splits:
            without_splits(content)

    return of_json(edit)


def rename(each: dict, spelled: Callable[[str], str]) -> None:
    each["file_path"] = spelled(each["file_path"])


def pose(change: Callable[[np.ndarray], Any], index: int = 1) -> Callable[[Path], None]:
    """Change the pose of one frame."""

    def edit(content: dict) -> None:
        matrix = np.array(content["frames"][index]["transform_matrix"])
        changed = change(matrix)
        content["frames"][index]["transform_matrix"] = (matrix if changed is None else changed).tolist()

    return of_json(edit)


def at(value: float) -> Callable[[Path], None]:
    return pose(lambda matrix: matrix.__setitem__((0, 3), value))


def moved_apart(content: dict) -> None:
    """Intrinsics move from the file to each frame."""
    for each in content["frames"]:
        each.update({key: content[key] for key in INTRINSICS})
    for key in INTRINSICS:
        content.pop(key)


def angle_only(content: dict) -> None:
    for key in (*INTRINSICS, "camera_model"):
        content.pop(key)
    content.update(camera_angle_x=2 * math.atan(20 / FOCAL), aabb_scale=4, scale=0.3, offset=[0.5, 0.5, 0.5])


def own_focal(manager: Any) -> None:
    fx = cameras(manager).fx.flatten()
    assert fx[0] == 80.0 and torch.allclose(fx[1:], torch.tensor(FOCAL))
    assert torch.equal(cameras(manager).fy, cameras(manager).fx), "pixels stay square"


def encoded(mark: bytes, encoding: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        file = folder / "transforms.json"
        file.write_bytes(mark + file.read_text(encoding="utf-8").encode(encoding))

    return make


def text(content: str) -> Callable[[Path], None]:
    return lambda folder: (folder / "transforms.json").write_text(content, encoding="utf-8") and None


def few(number: int) -> Callable[[Path], None]:
    def edit(content: dict) -> None:
        content["frames"] = content["frames"][:number]
        without_splits(content)

    return of_json(edit)


def first_image(change: Callable[[Path], Any]) -> Callable[[Path], None]:
    return lambda folder: change(folder / "images" / "train_0000.png")


def rotation_of(turn: list[list[float]]) -> Callable[[Any], None]:
    """The map back to the capture's own world is as the file's applied_transform says."""

    def check(manager: Any) -> None:
        usual(manager)
        outputs = manager.train_dataparser_outputs
        found = outputs.dataparser_transform[:, :3].double()
        assert float(torch.linalg.det(found)) == pytest.approx(np.linalg.det(np.array(turn)), abs=1e-4)

    return check


def fisheye(manager: Any) -> None:
    from nerfstudio.cameras.cameras import CameraType

    assert (cameras(manager).camera_type == CameraType.FISHEYE.value).all()


def of_kind(kind: str, **intrinsics: float) -> Callable[[Any], None]:
    """All training cameras are of this model, and their intrinsics as `has` says."""
    from nerfstudio.cameras.cameras import CameraType

    def check(manager: Any) -> None:
        assert (cameras(manager).camera_type == CameraType[kind].value).all(), cameras(manager).camera_type
        has(**intrinsics)(manager)

    return check


def lens(*values: float) -> Callable[[Any], None]:
    """The first training camera has this distortion: k1, k2, k3, k4, p1, p2."""
    return lambda manager: np.testing.assert_allclose(cameras(manager).distortion_params[0], values, rtol=1e-6)


def own_lens(content: dict) -> None:
    """Distortion of one frame as a list beside the file's in fields."""
    content.update(k1=0.01, k2=0.0, p1=0.0, p2=0.0)
    content["frames"][0]["distortion_params"] = [0.03, 0.02, 0.0, 0.0, 0.001, 0.002]


def smaller(factor: int, rounded: Callable[[float], int], keep: bool = True, name: str = "images") -> Callable:
    """Copies in images_N of photographs of 41×41 pixels (of which the data set has 40) that were rounded so."""

    def make(folder: Path) -> None:
        images = folder / name
        (folder / f"{name}_{factor}").mkdir()
        for file in sorted(images.iterdir()):
            large = Image.open(file).resize((41, 41))
            large.resize((rounded(41 / factor),) * 2).save(folder / f"{name}_{factor}" / file.name)
            large.save(file)
        if not keep:
            shutil.rmtree(images)
        edit_json(folder / "transforms.json", lambda c: c.update(w=41, h=41, cx=20.5, cy=20.5))

    return make


def scaled(side: int) -> Callable[[Any], None]:
    """Intrinsics of 41 pixels are those of a copy of `side` pixels, over its whole width."""
    factor = side / 41
    return has(fx=FOCAL * factor, fy=FOCAL * factor, cx=side / 2, cy=side / 2, width=side, height=side)


def nested(flat_copies: bool) -> Callable[[Path], None]:
    """Images of two cameras in folders of their own, under the same names, with copies of half the size."""

    def make(folder: Path) -> None:
        content = json.loads((folder / "transforms.json").read_text())
        without_splits(content)
        for index, each in enumerate(content["frames"]):
            old, new = Path(each["file_path"]), Path(f"images/cam{index % 2}/{index // 2:03d}.png")
            for source, target in (
                (old, new),
                (old, Path("images_2") / (new.name if flat_copies else new.relative_to("images"))),
            ):
                (folder / target).parent.mkdir(parents=True, exist_ok=True)
                image = Image.open(folder / source)
                (image.resize((20, 20)) if target.parts[0] == "images_2" else image).save(folder / target)
            each["file_path"] = new.as_posix()
        (folder / "transforms.json").write_text(json.dumps(content))

    return make


def moved_by(offset: tuple[float, float, float], splits: bool = True) -> Callable[[Path], None]:
    def move(each: dict) -> None:
        for row, shift in zip(each["transform_matrix"], offset):
            row[3] += shift

    return every(move, splits=splits)


def on_a_map(offset: tuple[float, float, float]) -> Callable[[Any], None]:
    """The cameras are where they would be without the offset, and the transform leads there from the map's grid."""

    def check(manager: Any) -> None:
        usual(manager)
        outputs = manager.train_dataparser_outputs
        folder = Path(manager.config.data)
        frames = json.loads((folder / "transforms.json").read_text())["frames"]
        names = [Path(file).name for file in manager.train_dataset.image_filenames]
        stated = {Path(each["file_path"]).name: np.array(each["transform_matrix"])[:3, 3] for each in frames}
        before = torch.from_numpy(np.array([stated[name] for name in names]))
        transform = outputs.dataparser_transform.double()
        found = outputs.dataparser_scale * (before @ transform[:, :3].T + transform[:, 3])
        assert torch.allclose(found, cameras(manager).camera_to_worlds[:, :, 3].double(), atol=1e-5)
        distances = torch.cdist(before, before) * outputs.dataparser_scale
        positions = cameras(manager).camera_to_worlds[:, :, 3].double()
        assert torch.allclose(torch.cdist(positions, positions), distances, atol=1e-5)

    return check


MAP = (4.0e5 + 0.3, 5.6e6 + 0.7, 212.0)
"""A place on a map in meters, as UTM gives it."""


def clustered(content: dict) -> None:
    """A tripod: two thirds of the frames from one place, but for rounding."""
    for index, each in enumerate(content["frames"]):
        if index % 3:
            for row, at in zip(each["transform_matrix"], (1.0, 2.0, 3.0)):
                row[3] = at + 1e-7 * index


def half_turned(folder: Path) -> None:
    """A phone's photographs: stored lying, EXIF turns them, and the principal point is that of the upright picture."""
    for index, file in enumerate(sorted((folder / "images").iterdir())):
        exif = Image.Exif()
        exif[0x0112] = 6
        Image.new("RGB", (60, 40), (index, 0, 0)).save(file, exif=exif)
    edit_json(
        folder / "transforms.json",
        lambda c: ([c.pop(key) for key in ("w", "h")], c.update(cx=19.5, cy=30.5)),
    )


SWAPPED = [[0, 1, 0, 0], [1, 0, 0, 0], [0, 0, -1, 0]]

ROWS = [
    Row("plain", lambda folder: None, right=usual),
    # Names of files.
    Row(
        "names without suffix",
        every(lambda f: rename(f, lambda n: n[:-4])),
        right=count(16, 1),
        warns="spelling on disk",
    ),
    Row("names with ./", every(lambda f: rename(f, lambda n: f"./{n}")), right=count(16, 1)),
    Row(
        "backslashes", every(lambda f: rename(f, lambda n: n.replace("/", "\\"))), right=count(16, 1), warns="backslash"
    ),
    Row(
        "capital suffix in the file", every(lambda f: rename(f, lambda n: n.replace("png", "PNG"))), right=count(16, 1)
    ),
    Row(
        "capital suffix on disk",
        lambda folder: [file.rename(file.with_suffix(".PNG")) for file in (folder / "images").iterdir()],
        right=lambda m: (m.train_dataset.image_filenames[0].name == "train_0000.PNG") or pytest.fail("name"),
        warns="17 names of files are read with the spelling on disk",
    ),
    Row("a file_path that is null", frame(0, file_path=None), refused='"file_path" of frame 0 is null. Give'),
    Row(
        "a file_path that is a number",
        frame(0, file_path=7),
        refused='"file_path" of frame 0 is 7. It must be the name',
    ),
    Row("a file_path that is empty", frame(0, file_path=" "), refused="\"file_path\" of frame 0 is ' '"),
    Row("a missing image", first_image(Path.unlink), refused=r"DATA/images/train_0000\.png: the image does not exist"),
    Row(
        "a missing image, to be left out",
        first_image(Path.unlink),
        right=count(11, 2),
        warns=r"Left out 1 frames whose image is missing: \S+train_0000\.png",
        options={"skip_missing_images": True},
    ),
    Row("an image that is a named pipe", first_image(fifo), refused=r"train_0000\.png: the image is a named pipe"),
    Row(
        "an image that is a loop of links",
        first_image(link_loop),
        refused=r"train_0000\.png: the image cannot be opened",
    ),
    Row(
        "an image that is a folder",
        first_image(lambda file: (file.unlink(), file.mkdir())),
        refused=r"train_0000\.png: the image is a folder",
    ),
    Row("an image that is a device", frame(0, file_path="/dev/zero"), refused="/dev/zero|train_filenames lists"),
    Row(
        "absolute names",
        lambda folder: edit_json(
            folder / "transforms.json",
            lambda c: (
                without_splits(c),
                [f.update(file_path=str((folder / f["file_path"]).absolute())) for f in c["frames"]],
            ),
        ),
        right=count(16, 1),
    ),
    *(
        Row(
            f"absolute names of another machine, {system}",
            every(lambda f, place=place: rename(f, lambda n: place + n.replace("/", place[-1]))),
            right=count(16, 1),
            warns="17 names of files are read with the spelling on disk",
        )
        for system, place in (("Windows", "C:\\Users\\me\\scene\\"), ("another folder", "/home/me/scene/"))
    ),
    Row(
        "a folder in another case",
        lambda folder: (folder / "images").rename(folder / "Images"),
        right=lambda m: (
            {file.parent.name for file in m.train_dataset.image_filenames} == {"Images"} or pytest.fail("folder")
        ),
        warns="17 names of files are read with the spelling on disk",
    ),
    Row(
        "an image twice", of_json(lambda c: c["frames"].append(dict(c["frames"][0]))), warns="1 images are listed more"
    ),
    # Intrinsics.
    Row("only camera_angle_x", of_json(angle_only), right=usual),
    Row("neither w nor h", top(w=..., h=...), right=usual),
    Row("no principal point", top(cx=..., cy=...), right=usual),
    Row("no fl_y", top(fl_y=...), right=usual),
    Row(
        "camera_angle_y beside camera_angle_x",
        top(fl_x=..., fl_y=..., camera_angle_x=0.8, camera_angle_y=0.6),
        right=has(fx=20 / math.tan(0.4), fy=20 / math.tan(0.3)),
    ),
    Row("x_fov in degrees", top(fl_x=..., fl_y=..., x_fov=90.0), right=has(fx=20, fy=20)),
    Row("intrinsics of each frame", of_json(moved_apart), right=usual),
    Row(
        "one frame without its own",
        of_json(lambda c: (moved_apart(c), c["frames"][3].pop("fl_x"), c["frames"][3].pop("fl_y"))),
        refused=r"the focal length of images/train_0003\.png is missing",
    ),
    Row("a frame's own beside the file's", frame(0, fl_x=80.0), right=own_focal),
    Row(
        "a frame's own lens beside the file's",
        frame(0, k1=0.02),
        right=lambda m: (
            (float(cameras(m).distortion_params[0, 0]), float(cameras(m).distortion_params[1, 0]))
            == (pytest.approx(0.02), 0.0)
            or pytest.fail("lens")
        ),
    ),
    Row("fl_x as text", top(fl_x="55.555557"), right=usual),
    Row("fl_x as a word", top(fl_x="wide"), refused=r"fl_x of images/\S+ is 'wide'. It must be a number"),
    Row("fl_x as a list", top(fl_x=[55.5]), refused="fl_x of .* is a list"),
    Row("fl_x as true", top(fl_x=True), refused="fl_x of .* is True"),
    Row("fl_x null", top(fl_x=None, fl_y=None), refused="the focal length of .* is missing"),
    Row("fl_x 0", top(fl_x=0), refused="fl_x of .* is 0. It must be the focal length"),
    Row("fl_x below 0", top(fl_x=-50), refused="fl_x of .* is -50"),
    Row("fl_x NaN", top(fl_x=math.nan), refused="fl_x of .* is nan"),
    Row("fl_x infinite", top(fl_x=math.inf), refused="fl_x of .* is inf"),
    Row("fl_x as a share of the width", top(fl_x=1.39, fl_y=1.39), refused="the angle of view of .* is 17[2-9]"),
    Row("fl_x of a fourth of the picture", top(fl_x=6.0, fl_y=6.0), warns="The angle of view of .* is 146"),
    Row("fl_y of twice fl_x", top(fl_y=2 * FOCAL), warns="pixels are not square"),
    Row("w as text", top(w="40"), right=usual),
    Row("w as a float", top(w=40.0), right=usual),
    Row("w with a fraction", top(w=40.5), refused=r"w of images/\S+ is 40.5"),
    Row("w of another size", top(w=80), refused=r"has 40×40 pixels, its camera 80×40"),
    Row("w 0", top(w=0), refused="w of .* is 0"),
    Row("w of 400 digits", top(w=10**400), refused="w of .* is 1000"),
    Row("cx NaN", top(cx=math.nan), refused="cx of .* is nan"),
    Row("cx far outside", top(cx=1e9), refused=r"cx of \S+ is 1e\+09, and the image 40 pixels"),
    Row("cx of twice the size", top(cx=40.0), warns="The principal point is far from the middle: cx is 40"),
    Row("cx as a share of the width", top(cx=0.5, cy=0.5), warns="cx is 0.5 in an image of 40 pixels"),
    Row(
        "camera_angle_x in degrees", top(fl_x=..., fl_y=..., camera_angle_x=39.6), refused="39.6.* degrees, write 0.691"
    ),
    Row("camera_angle_x that contradicts fl_x", top(camera_angle_x=1.2), right=usual, warns="fl_x counts"),
    # The lens.
    Row("k1 huge", top(k1=1e3), refused=r"the distortion \(k1 1000, .* moves the corner of \S+ by a factor 0.1"),
    Row("k1 that folds the picture", top(k1=-2.0), refused="k1 -2.* folds .* of the picture|moves the corner"),
    Row("k1 NaN", top(k1=math.nan), refused="k1 is nan"),
    Row("k1 as text", top(k1="none"), refused="k1 is 'none'"),
    Row("a rational lens", top(k5=0.1, k6=0.1), refused="k5 is 0.1, of OpenCV's rational lens model"),
    Row("FULL_OPENCV without its own terms", top(camera_model="FULL_OPENCV"), right=usual, warns="is OPENCV"),
    Row(
        "FULL_OPENCV with its own terms",
        top(camera_model="FULL_OPENCV", k4=0.1),
        refused='camera model is "FULL_OPENCV"',
    ),
    Row("FOV", top(camera_model="FOV"), refused=r'the camera model is "FOV", and nerfstudio knows .* Undistort'),
    Row("a camera model in small letters", top(camera_model="opencv"), right=usual),
    Row(
        "camera models of frames that differ", frame(0, camera_model="OPENCV_FISHEYE"), refused="mix the camera models"
    ),
    Row(
        "is_fisheye of instant-ngp",
        top(camera_model=..., is_fisheye=True, k1=0.01),
        right=fisheye,
        warns="OPENCV_FISHEYE",
    ),
    Row("OPENCV_FISHEYE", top(camera_model="OPENCV_FISHEYE", k1=0.01, k2=0.001), right=fisheye),
    Row(
        "EQUIRECTANGULAR",
        top(camera_model="EQUIRECTANGULAR", fl_x=..., fl_y=...),
        right=of_kind("EQUIRECTANGULAR", fx=20, fy=40, cx=20, cy=20),
    ),
    Row(
        "EQUIRECTANGULAR with its angle",
        top(camera_model="EQUIRECTANGULAR", fl_x=..., fl_y=..., camera_angle_x=2 * math.pi),
        right=of_kind("EQUIRECTANGULAR", fx=20, fy=40),
    ),
    Row(
        "equirectangular of instant-ngp",
        top(camera_model=..., fl_x=..., fl_y=..., equirectangular=True),
        right=of_kind("EQUIRECTANGULAR", fx=20, fy=40),
        warns="equirectangular is taken for",
    ),
    Row("is_fisheye as a number", top(camera_model=..., is_fisheye=1, k1=0.01), right=fisheye),
    Row("is_fisheye as text", top(camera_model=..., is_fisheye="true", k1=0.01), right=fisheye),
    Row("is_fisheye that says no", top(camera_model=..., is_fisheye="false"), right=of_kind("PERSPECTIVE")),
    Row("PERSPECTIVE", top(camera_model="PERSPECTIVE"), right=of_kind("PERSPECTIVE", fx=FOCAL)),
    Row("FISHEYE", top(camera_model="FISHEYE", k1=0.01), right=fisheye),
    Row("RADIAL_FISHEYE", top(camera_model="RADIAL_FISHEYE", k1=0.01), right=fisheye),
    Row("perspectives under two names", frame(0, camera_model="PINHOLE"), right=of_kind("PERSPECTIVE", fx=FOCAL)),
    Row("one model in two cases", frame(0, camera_model="opencv"), right=of_kind("PERSPECTIVE", fx=FOCAL)),
    Row(
        "distortion_params",
        top(k1=..., k2=..., p1=..., p2=..., distortion_params=[0.03, 0.02, 0.0, 0.0, 0.001, 0.002]),
        right=lens(0.03, 0.02, 0.0, 0.0, 0.001, 0.002),
    ),
    Row("distortion_params of one frame", of_json(own_lens), right=lens(0.03, 0.02, 0.0, 0.0, 0.001, 0.002)),
    Row(
        "distortion_params as text",
        top(k1=..., k2=..., p1=..., p2=..., distortion_params="none"),
        refused="distortion_params is 'none'. It must be a list of 6 numbers: k1, k2, k3, k4, p1, p2",
    ),
    *(
        Row(
            f"distortion_params of {count} numbers",
            top(k1=..., k2=..., p1=..., p2=..., distortion_params=[0.0] * count),
            refused=f"distortion_params is {count} numbers. It must be a list of 6 numbers",
        )
        for count in (0, 4, 5, 8, 12)
    ),
    Row(
        "FISHEYE624 with six numbers",
        top(camera_model="FISHEYE624", distortion_params=[0.0] * 6),
        refused="distortion_params is 6 numbers. It must be a list of 12 numbers: those of FISHEYE624",
    ),
    Row(
        "a fisheye whose corners are black",
        top(camera_model="OPENCV_FISHEYE", fl_x=18, fl_y=18, k1=-0.02, k2=-0.03),
        right=fisheye,
        warns="outside of its circle: there, rays are wrong. Give fisheye_crop_radius",
    ),
    Row(
        "a fisheye whose corners are cut off",
        top(camera_model="OPENCV_FISHEYE", fl_x=18, fl_y=18, k1=-0.05, k2=-0.05, fisheye_crop_radius=18),
        right=fisheye,
    ),
    Row(
        "a fisheye that folds its circle",
        top(camera_model="OPENCV_FISHEYE", fl_x=18, fl_y=18, k1=-0.5, k2=-0.5),
        refused="folds .* of the circle of the picture over itself. .*undistort the images",
    ),
    Row(
        "a lens of each image, all doubtful",
        of_json(
            lambda c: (
                [c.pop(key) for key in ("fl_x", "fl_y")],
                [f.update(fl_x=6.0 + 1e-3 * i, fl_y=6.0) for i, f in enumerate(c["frames"])],
            )
        ),
        warns=r"The angle of view of \S+ is 14\S+ .*\? So for 12 images",
    ),
    # Focal lengths of one direction, or of one frame.
    Row("only fl_y", top(fl_x=...), right=usual),
    Row("only camera_angle_y", top(fl_x=..., fl_y=..., camera_angle_y=0.8), right=has(fx=20 / math.tan(0.4))),
    Row("only y_fov", top(fl_x=..., fl_y=..., y_fov=90.0), right=has(fx=20, fy=20)),
    Row(
        "a frame's own angle beside the file's length",
        frame(0, camera_angle_x=2 * math.atan(20 / 80)),
        right=lambda m: np.testing.assert_allclose(
            torch.cat([cameras(m).fx[:2], cameras(m).fy[:2]]).flatten(), [80, FOCAL, 80, FOCAL], rtol=1e-5
        ),
    ),
    Row(
        "a principal point of the upright picture",
        half_turned,
        right=has(width=40, height=60, cx=19.5, cy=30.5),
        warns="turned by their EXIF orientation",
    ),
    # Smaller copies.
    Row(
        "copies rounded down",
        smaller(4, math.floor),
        right=has(fx=FOCAL / 4, width=10),
        options={"downscale_factor": 4},
    ),
    Row("copies rounded up", smaller(4, math.ceil), right=scaled(11), options={"downscale_factor": 4}),
    Row("copies only", smaller(2, math.ceil, keep=False), right=scaled(21), warns="images_2 stands in"),
    Row(
        "copies of another size",
        smaller(4, lambda side: 15),
        refused="has 15×15 pixels, its camera 10×10",
        options={"downscale_factor": 4},
    ),
    Row(
        "copies that are not there",
        lambda folder: None,
        refused="there is no folder images_4 with images 4 times smaller. Make it, or drop --downscale-factor",
        options={"downscale_factor": 4},
    ),
    Row(
        "copies in folders",
        nested(False),
        right=lambda m: (
            has(width=20, fx=FOCAL / 2)(m),
            [file.parent.parent.name for file in m.train_dataset.image_filenames[:1]] == ["images_2"]
            or pytest.fail("another folder"),
        ),
        options={"downscale_factor": 2},
    ),
    Row(
        "copies of two cameras in one folder",
        nested(True),
        refused=r"images_2/00\d\.png: is the smaller copy of images/cam0/\S+ and of images/cam1/",
        options={"downscale_factor": 2},
    ),
    # Poses.
    Row(
        "poses of 3×4", every(lambda f: f.update(transform_matrix=f["transform_matrix"][:3]), splits=True), right=usual
    ),
    Row("one pose of 3×4", pose(lambda matrix: matrix[:3]), right=usual),
    Row(
        "a pose of 3×3",
        pose(lambda matrix: matrix[:3, :3]),
        refused=r"pose of images/train_0001\.png has shape \(3, 3\)",
    ),
    Row(
        "a pose by columns",
        pose(lambda matrix: matrix.T),
        refused="the last row of the pose of .* matrices are by rows",
    ),
    Row("a pose with ragged rows", frame(1, transform_matrix=[[1, 2], [3]]), refused="is not a matrix of numbers"),
    Row(
        "a pose that is text", frame(1, transform_matrix="identity"), refused=r"not a matrix of numbers \('identity'\)"
    ),
    Row("a pose that is null", frame(1, transform_matrix=None), refused='"transform_matrix" of frame 1 is null'),
    Row("a pose with NaN", at(math.nan), refused=r"train_0001\.png holds nan at row 0 column 3"),
    Row("a pose at 1e308", at(1e308), refused=r"train_0001\.png puts it at 1e\+308"),
    Row("a pose at 1e9", at(1e9), refused=r"the position of images/train_0001\.png is .* times as far"),
    Row("a pose at 500", at(500.0), warns=r"1 cameras stand far from the others.*train_0001\.png \("),
    Row(
        "a scaled pose",
        pose(lambda m: m.__setitem__((slice(0, 3), slice(0, 3)), 2 * m[:3, :3])),
        refused="is not rigid",
    ),
    Row("a mirrored pose", pose(lambda m: m.__setitem__((slice(0, 3), 0), -m[:3, 0])), refused="det R = -1"),
    Row(
        "all in one place",
        every(lambda f: [row.__setitem__(3, 1.0) for row in f["transform_matrix"][:3]], splits=True),
        refused="all cameras stand in one place.* Set --auto-scale-poses False",
    ),
    Row(
        "all in one place but for rounding",
        every(
            lambda f: [
                row.__setitem__(3, 0.1234567 + 1e-9 * hash(f["file_path"]) % 3e-9) for row in f["transform_matrix"][:3]
            ],
            splits=True,
        ),
        refused="all cameras stand in one place",
    ),
    Row(
        "all in one place, not to be scaled",
        every(lambda f: [row.__setitem__(3, 1.0) for row in f["transform_matrix"][:3]], splits=True),
        warns="cameras stand in one place: nothing tells",
        options={"auto_scale_poses": False},
    ),
    Row(
        "applied_transform of 3×4",
        top(applied_transform=SWAPPED),
        right=rotation_of([[0, 1, 0], [1, 0, 0], [0, 0, -1]]),
    ),
    Row(
        "applied_transform of 4×4",
        top(applied_transform=[*SWAPPED, [0, 0, 0, 1]]),
        right=rotation_of([[0, 1, 0], [1, 0, 0], [0, 0, -1]]),
    ),
    Row("positions on a map", moved_by(MAP), right=on_a_map(MAP)),
    Row(
        "positions on a map, after a transform",
        lambda folder: (moved_by(MAP)(folder), top(applied_transform=SWAPPED)(folder)),
        right=rotation_of([[0, 1, 0], [1, 0, 0], [0, 0, -1]]),
    ),
    Row(
        "positions on a map, not to be centered",
        moved_by(MAP),
        warns="the cameras are around 5.6e\\+06, where single precision has steps of 0.5",
        options={"center_method": "none", "auto_scale_poses": False},
    ),
    Row("many frames from one place", of_json(clustered), right=count(12, 2)),
    Row("applied_transform of 2×2", top(applied_transform=[[1, 0], [0, 1]]), refused="applied_transform has shape"),
    Row("applied_scale 0", top(applied_scale=0), refused="applied_scale is 0"),
    Row(
        "an orientation that is none",
        top(orientation_override="sideways"),
        refused="orientation_override is 'sideways'",
    ),
    # Frames and splits.
    Row("one frame", few(1), refused="there is one frame, and none left to test on. Set --eval-mode all"),
    Row("two frames", few(2), right=count(1, 1)),
    Row("five frames", few(5), right=count(4, 1)),
    Row("no frame", of_json(lambda c: c.update(frames=[])), refused="the list of frames is empty"),
    Row(
        "frames by name", of_json(lambda c: c.update(frames={"0": c["frames"][0]})), refused='"frames" holds an object'
    ),
    Row("a frame that is a name", of_json(lambda c: c["frames"].append("a.png")), refused="frame 17 is 'a.png'"),
    Row("no list of frames", of_json(lambda c: c.pop("frames")), refused='the field "frames" is missing'),
    Row(
        "a split with a lost file",
        of_json(lambda c: c["train_filenames"].append("images/lost.png")),
        refused=r"train_filenames lists images/lost\.png, which is the file_path of no frame",
    ),
    Row("a split that is no list", top(train_filenames="all"), refused="train_filenames is 'all'"),
    Row("no val split", top(val_filenames=...), right=count(12, 3), warns="There are no val_filenames"),
    Row(
        "neither val nor test",
        top(val_filenames=..., test_filenames=...),
        right=count(12, 5),
        warns="does not list are",
    ),
    Row(
        "all for training",
        of_json(
            lambda c: (
                c.update(train_filenames=[f["file_path"] for f in c["frames"]]),
                c.pop("val_filenames"),
                c.pop("test_filenames"),
            )
        ),
        refused="all frames are for training",
    ),
    Row("no train split", top(train_filenames=...), refused='the list "train_filenames" is missing or empty'),
    Row(
        "a split with other spellings",
        of_json(
            lambda c: c.update(
                train_filenames=[f"./{name}" for name in c["train_filenames"]],
                val_filenames=[name.replace("/", "\\") for name in c["val_filenames"]],
            )
        ),
        right=usual,
    ),
    Row(
        "depth for some frames",
        frame(2, depth_file_path=...),
        right=usual,
        warns='"depth_file_path" is not used: 1 of 17 frames lack it, such as images/train_0002.png',
    ),
    Row(
        "a mask for one frame",
        frame(2, mask_path="images/train_0002.png"),
        refused="16 of 17 frames have no mask",
    ),
    # The file itself.
    Row("a byte-order mark", encoded(codecs.BOM_UTF8, "utf-8"), right=usual),
    Row("UTF-16", encoded(codecs.BOM_UTF16_LE, "utf-16-le"), right=usual),
    Row("UTF-16 without a mark", encoded(b"", "utf-16-le"), refused="not valid JSON"),
    Row("an empty file", lambda folder: (folder / "transforms.json").write_bytes(b""), refused="not valid JSON"),
    Row("cut off", text('{"frames": ['), refused="not valid JSON .line 1 column 13.* may have been cut off"),
    Row("nested 200,000 times", text("[" * 200000), refused="its lists are nested too deeply"),
    Row("a list", text("[]"), refused="holds a list. It must hold one JSON object"),
    Row(
        "a named pipe",
        lambda folder: fifo(folder / "transforms.json"),
        refused=r"transforms\.json: the file is a named",
    ),
    Row("a loop of links", lambda folder: link_loop(folder / "transforms.json"), refused="the file cannot be opened"),
    Row(
        "a folder",
        lambda folder: ((folder / "transforms.json").unlink(), (folder / "transforms.json").mkdir()),
        refused=r"transforms\.json: the file is a folder",
    ),
    Row(
        "no transforms.json",
        lambda folder: (folder / "transforms.json").unlink(),
        refused="there is no transforms.json",
    ),
]


@pytest.mark.parametrize("row", ROWS, ids=ids(ROWS))
def test_captures(row: Row, base_scene: BaseScene, tmp_path, capsys):
    folder = base_scene.copy("nerfstudio", tmp_path)
    row.make(folder)
    product = lambda: datamanager("mip-nerf-360-small", folder, CAPTURE, **row.options)  # noqa: E731
    assert_ends_as_it_should(row, product, capsys, folder)


SAME_FOR_ALL = [row for row in ROWS if row.name in (
    "names without suffix", "only camera_angle_x", "a frame's own beside the file's", "poses of 3×4", "fl_x NaN",
    "an image that is a named pipe", "a pose by columns", "UTF-16", "k1 huge", "a rational lens", "no transforms.json",
)]  # fmt: skip
"""Rows of one rule for all dataparsers that read a transforms.json."""


@pytest.mark.parametrize("parser", [NGP, RGBD])
@pytest.mark.parametrize("row", SAME_FOR_ALL, ids=ids(SAME_FOR_ALL))
def test_the_rules_are_the_same_for_all(row: Row, parser: str, base_scene: BaseScene, tmp_path, capsys):
    folder = base_scene.copy("nerfstudio", tmp_path)
    row.make(folder)
    if parser == NGP and row.right is usual:  # it divides and scales the capture in its own way
        row = Row(row.name, row.make, right=has(fx=FOCAL, fy=FOCAL, cx=20, cy=20, width=40))
    if row.name == "no transforms.json" and parser == RGBD:
        row = Row(row.name, row.make, refused="holds neither transforms.json|there is no transforms.json")
    method = "depth-hash-small" if parser == RGBD else "mip-nerf-360-small"
    product = lambda: datamanager(method, folder, parser, **row.options)  # noqa: E731
    assert_ends_as_it_should(row, product, capsys, folder)


# ---------------------------------------------------------------------------------------------------------------------
# Blender scenes


def all_files(change: Callable[[dict], Any]) -> Callable[[Path], None]:
    """Change the content of the JSON file of each split."""

    def make(folder: Path) -> None:
        for file in folder.glob("transforms_*.json"):
            edit_json(file, change)

    return make


def saved_as(suffix: str, in_names: bool = False) -> Callable[[Path], None]:
    """Save the images over white in another format."""

    def make(folder: Path) -> None:
        for file in list(folder.rglob("*.png")):
            image = Image.open(file)
            Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB").save(
                file.with_suffix(suffix)
            )
            file.unlink()
        if in_names:
            all_files(lambda c: [f.update(file_path=f["file_path"] + suffix) for f in c["frames"]])(folder)

    return make


def add_on(content: dict) -> None:
    """As Blender add-ons write it: suffixes, intrinsics, the camera shifted."""
    content.update(camera_angle_y=content["camera_angle_x"], fl_x=55.5, fl_y=55.5, cx=25.0, cy=20.0, w=40, h=40)
    for each in content["frames"]:
        each["file_path"] += ".png"


BLENDER_ROWS = [
    Row("plain", lambda folder: None, right=has(fx=FOCAL, cx=20, width=40)),
    Row("JPEG files", saved_as(".jpg"), right=count(12, 2), warns="spelling on disk"),
    Row("JPEG files named so", saved_as(".jpg", in_names=True), right=count(12, 2)),
    Row("WebP files", saved_as(".webp"), right=count(12, 2)),
    Row(
        "suffixes in names",
        all_files(lambda c: [f.update(file_path=f["file_path"] + ".png") for f in c["frames"]]),
        right=count(12, 2),
    ),
    Row("an add-on's intrinsics", all_files(add_on), right=has(fx=55.5, fy=55.5, cx=25.0, cy=20.0)),
    Row(
        "fl_x that contradicts the angle",
        all_files(lambda c: c.update(fl_x=80.0, fl_y=80.0)),
        right=has(fx=80.0, fy=80.0),
        warns="fl_x counts",
    ),
    Row("the angle as text", all_files(lambda c: c.update(camera_angle_x="0.69")), right=has(fx=20 / math.tan(0.345))),
    Row(
        "the angle 0",
        all_files(lambda c: c.update(camera_angle_x=0)),
        refused="camera_angle_x is 0. It must be an angle",
    ),
    Row("the angle in degrees", all_files(lambda c: c.update(camera_angle_x=39.6)), refused="degrees, write 0.691"),
    Row("no angle", all_files(lambda c: c.pop("camera_angle_x")), refused='neither "fl_x" nor "camera_angle_x"'),
    Row(
        "an image of half the size",
        lambda folder: Image.open(folder / "train/r_3.png").resize((20, 20)).save(folder / "train/r_3.png"),
        right=lambda m: cameras(m).fx[3] == pytest.approx(FOCAL / 2) or pytest.fail(str(cameras(m).fx)),
        warns=r"The images have different sizes: 40×40 \(11\), 20×20 \(1\)",
    ),
    Row("no val", lambda folder: (folder / "transforms_val.json").unlink(), right=count(12, 3), warns="stands in"),
    Row(
        "neither val nor test",
        lambda folder: [(folder / f"transforms_{split}.json").unlink() for split in ("val", "test")],
        refused="there is neither transforms_val.json nor transforms_test.json",
    ),
    Row(
        "an image that is a named pipe",
        lambda folder: fifo(folder / "train/r_0.png"),
        refused="the image is a named pipe",
    ),
    Row(
        "an image that is none",
        lambda folder: (folder / "train/r_0.png").write_text("x"),
        refused=r"r_0\.png: the image ca",
    ),
    Row(
        "a lost image",
        lambda folder: (folder / "train/r_1.png").unlink(),
        refused=r"train/r_1\.png: the image does not",
    ),
    Row(
        "a lens",
        all_files(lambda c: c.update(k1=0.05)),
        right=lambda m: cameras(m).distortion_params is not None or pytest.fail("no lens"),
    ),
]


@pytest.mark.parametrize("row", BLENDER_ROWS, ids=ids(BLENDER_ROWS))
def test_blender_scenes(row: Row, base_scene: BaseScene, tmp_path, capsys):
    folder = base_scene.copy("blender", tmp_path)
    row.make(folder)
    assert_ends_as_it_should(row, lambda: datamanager("mip-nerf-small", folder), capsys, folder)


# ---------------------------------------------------------------------------------------------------------------------
# Folders of another kind


def polycam(folder: Path) -> None:
    (folder / "keyframes" / "images").mkdir(parents=True)


def record3d(folder: Path) -> None:
    (folder / "EXR_RGBD").mkdir()


def colmap(place: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        (folder / place).mkdir(parents=True)
        for name in ("cameras", "images", "points3D"):
            (folder / place / f"{name}.bin").write_bytes(b"")

    return make


def photographs(folder: Path) -> None:
    Image.new("RGB", (4, 4)).save(folder / "a.JPG")


def idr(folder: Path) -> None:
    np.savez(folder / "cameras_sphere.npz", world_mat_0=np.eye(4))


def written(name: str, **content: Any) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_text(json.dumps(content)) and None


def monosdf(folder: Path) -> None:
    np.savez(folder / "cameras.npz", world_mat_0=np.eye(4))
    Image.new("RGB", (4, 4)).save(folder / "000000_rgb.png")


HINTS = [
    Row(
        "a Blender scene",
        written("transforms_train.json", frames=[]),
        refused="Blender scene: ns-train METHOD .* blender-data",
    ),
    Row("COLMAP in sparse/0", colmap("sparse/0"), refused="a COLMAP model: ns-train METHOD --data DATA colmap"),
    Row("COLMAP in sparse", colmap("sparse"), refused="ns-train METHOD --data DATA colmap"),
    Row("COLMAP in colmap/sparse/0", colmap("colmap/sparse/0"), refused="ns-train METHOD --data DATA colmap"),
    Row("Polycam", polycam, refused="an export of Polycam: ns-process-data polycam --data DATA"),
    Row("Record3D", record3d, refused="an export of Record3D: ns-process-data record3d"),
    Row("MonoSDF", monosdf, refused="a folder of MonoSDF: ns-depth-prepare DATA --source mono"),
    Row("IDR", idr, refused="layout of IDR and NeuS: ns-train hash-neus"),
    Row("photographs", photographs, refused="photographs without poses: ns-process-data images"),
    Row(
        "SDFStudio",
        written("meta_data.json", frames=[]),
        refused="SDFStudio: ns-train METHOD --data DATA sdfstudio-data",
    ),
    Row("multi-scale Blender", written("metadata.json", train={}), refused="multiscale-blender-data"),
    Row("nothing known", lambda folder: None, refused="Give a folder with transforms.json and the images"),
    Row(
        "a folder too high",
        lambda folder: ((folder / "scene").mkdir(), written("transforms.json", frames=[])(folder / "scene")),
        refused="There is a capture in nerfstudio's format in its folder scene: give --data DATA/scene",
    ),
]


@pytest.mark.parametrize("row", HINTS, ids=ids(HINTS))
def test_a_folder_of_another_kind_is_recognized(row: Row, tmp_path, capsys):
    row.make(tmp_path)
    assert_ends_as_it_should(row, lambda: datamanager("mip-nerf-360-small", tmp_path, CAPTURE), capsys, tmp_path)


def test_captures_for_other_dataparsers(base_scene: BaseScene, tmp_path, capsys):
    capture = base_scene.copy("nerfstudio", tmp_path)
    row = Row("", lambda folder: None, refused="nerfstudio's format: ns-train METHOD --data DATA nerfstudio-data")
    for method, parser in (("mip-nerf-small", BLENDER), ("mip-nerf-small", "colmap")):
        assert_ends_as_it_should(row, lambda m=method, p=parser: datamanager(m, capture, p), capsys, capture)
    image = capture / "images" / "train_0000.png"
    row = Row("", lambda folder: None, refused="This looks like an image: ns-train miner-image --data DATA")
    assert_ends_as_it_should(row, lambda: datamanager("mip-nerf-small", image), capsys, image)


def test_data_of_another_family(base_scene: BaseScene, capsys):
    image = base_scene.written / "nerfstudio" / "images" / "train_0000.png"
    row = Row("", lambda folder: None, refused="miner-image-data describes one image .* Use miner-image")
    assert_ends_as_it_should(row, lambda: datamanager("mip-nerf-small", image, "miner-image-data"), capsys)
    row = Row(
        "", lambda folder: None, refused=r"meta_data\.json: the file does not exist. This looks like a Blender scene"
    )
    blender = base_scene.written / "blender"
    assert_ends_as_it_should(row, lambda: datamanager("mip-nerf-small", blender, "sdfstudio-data"), capsys)


def test_right_data_is_said_nothing_about(base_scene: BaseScene, capsys):
    for method, layout, parser in (
        ("mip-nerf-small", "blender", None),
        ("mip-nerf-360-small", "nerfstudio", CAPTURE),
        ("depth-hash-small", "nerfstudio", None),
    ):
        capsys.readouterr()
        manager = datamanager(method, base_scene.written / layout, parser)
        assert isinstance(manager, FieldDataManager)
        printed = capsys.readouterr().out
        assert not any(word in printed for word in ("names of files", "far from", "Are ", "Is the", "stand")), printed


def test_nothing_is_left_in_the_folder(base_scene: BaseScene, tmp_path):
    folder = base_scene.copy("nerfstudio", tmp_path)
    before = sorted(str(file) for file in folder.rglob("*"))
    datamanager("mip-nerf-360-small", folder, CAPTURE)
    assert sorted(str(file) for file in folder.rglob("*")) == before
    shutil.rmtree(folder)
