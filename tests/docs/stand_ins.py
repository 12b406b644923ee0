"""What stands for the names in documented commands: DATA, RUN, photo.tif, … become tiny files in the working folder.

A name that is not known here fails the test of the page that uses it.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import skimage.data
import tifffile
import trimesh
from nerfstudio.configs.dataparser_configs import all_dataparsers
from nerfstudio.configs.method_configs import all_methods
from nerfstudio.data.utils import colmap_parsing_utils as colmap
from PIL import Image

from common_ns.sample_scene.generate import SampleSceneConfig, write_sample_scene
from mipnerf_ns.scripts.multiscale_blender import MultiscaleBlender
from tests.e2e.tiny import SAMPLE_SCENE

OPTIONS = {name.replace("-", "_"): value for name, value in SAMPLE_SCENE.items()}


def sample(folder: Path) -> None:
    """The sample scene in all layouts."""
    write_sample_scene(SampleSceneConfig(folder, overwrite=True, **OPTIONS))


def capture(folder: Path) -> None:
    """Pictures with poses, masks of the object and depth, in nerfstudio's layout; large enough to match key points."""
    options = {**OPTIONS, "resolution": 96, "layouts": ("nerfstudio",), "masks": True}
    write_sample_scene(SampleSceneConfig(folder / "sample", overwrite=True, **options))
    for file in (folder / "sample" / "nerfstudio").iterdir():
        shutil.move(file, folder)


def colmap_model(folder: Path) -> None:
    """Pictures, and a COLMAP model of them in sparse/0 of the folder colmap."""
    source = Path("data/sample")
    frames = json.loads((source / "nerfstudio" / "transforms.json").read_text())
    points = trimesh.load(source / "mesh.ply").vertices[::50]
    width, focal, middle = (frames[name] for name in ("w", "fl_x", "cx"))
    images, tracks = {}, {index: [] for index in range(len(points))}
    (folder / "images").mkdir(parents=True)
    for number, frame in enumerate(frames["frames"], 1):
        pose = np.array(frame["transform_matrix"])
        rotation = (pose[:3, :3] * [1.0, -1.0, -1.0]).T
        shift = -rotation @ pose[:3, 3]
        seen = points @ rotation.T + shift
        places = focal * seen[:, :2] / seen[:, 2:] + middle
        inside = np.flatnonzero((places > 0).all(axis=1) & (places < width).all(axis=1))
        for place, index in enumerate(inside):
            tracks[index].append((number, place))
        name = Path(frame["file_path"]).name
        shutil.copyfile(source / "nerfstudio" / frame["file_path"], folder / "images" / name)
        quaternion = colmap.rotmat2qvec(rotation)
        images[number] = colmap.Image(number, quaternion, shift, 1, name, places[inside], inside)
    cameras = {1: colmap.Camera(1, "PINHOLE", width, width, np.array([focal, focal, middle, middle]))}
    cloud = {
        index: colmap.Point3D(
            index, points[index], np.array([200, 100, 50]), 0.5, *(np.array(part) for part in zip(*track))
        )
        for index, track in tracks.items()
        if track
    }
    model = folder / "colmap" / "sparse" / "0"
    model.mkdir(parents=True)
    colmap.write_model(cameras, images, cloud, str(model), ".bin")


def photograph(file: Path) -> None:
    """A photograph that a dependency ships, made small."""
    photo = Image.fromarray(skimage.data.astronaut()).resize((48, 40), Image.Resampling.BOX)
    if file.suffix == ".tif":
        tifffile.imwrite(file, np.asarray(photo), photometric="rgb")
    else:
        photo.save(file)


def ball(file: Path) -> None:
    """A ball as a mesh."""
    trimesh.creation.icosphere(subdivisions=3, radius=0.7).export(file)


def dtu_scene(folder: Path) -> None:
    """A scene in IDR's layout."""
    shutil.copytree("data/sample/idr", folder)


def dtu_points(file: Path) -> None:
    """Points on the sample scene's surface, as DTU's stl<scan>_total.ply."""
    surface = trimesh.load("data/sample/mesh.ply")
    trimesh.PointCloud(surface.sample(3000, seed=0)).export(file)


def dtu_mask(file: Path) -> None:
    """A box about the sample scene, all of which was observed."""
    from scipy.io import savemat

    box = np.array([[-2.0, -2.0, -2.0], [2.0, 2.0, 2.0]])
    savemat(file, {"ObsMask": np.ones((9, 9, 9), dtype=np.uint8), "BB": box, "Res": np.array([[0.5]])})


def dtu_plane(file: Path) -> None:
    """A ground plane below everything."""
    from scipy.io import savemat

    savemat(file, {"P": np.array([[0.0], [0.0], [1.0], [3.0]])})


def multiscale(folder: Path) -> None:
    """The sample scene at four scales."""
    MultiscaleBlender(Path("data/sample/blender"), folder).main()


FILES: dict[str, Callable[[Path], None]] = {
    "data/sample": sample,
    "MULTI": multiscale,
    "CAPTURE": capture,
    "colmap-data": colmap_model,
    "image.png": photograph,
    "photo.tif": photograph,
    "shape.obj": ball,
    "dtu_scan65": dtu_scene,
    "stl065_total.ply": dtu_points,
    "ObsMask65_10.mat": dtu_mask,
    "Plane65.mat": dtu_plane,
}
"""Files and folders, by the names that they have in documented commands, or that names below stand for."""

DATA_OF = {
    "blender-data": "data/sample/blender",
    "nerfstudio-data": "data/sample/nerfstudio",
    "rgbd-data": "CAPTURE",
    "idr-data": "data/sample/idr",
    "colmap": "colmap-data",
    "multiscale-blender-data": "MULTI",
    "miner-image-data": "image.png",
    "miner-occupancy-data": "shape.obj",
}
"""What DATA and its like stand for, by the dataparser that reads it."""

DATA_FOR = {
    "ns-depth-check": "rgbd-data",
    "ns-depth-prepare": "rgbd-data",
    "ns-idr-cameras": "idr-data",
    "ns-eval-mesh": "miner-occupancy-data",
    "ns-turntable": "miner-occupancy-data",
    "ns-voxelize": "miner-occupancy-data",
}
"""The same for commands that name no dataparser; others read a Blender scene."""

DATA_ON = {"docs/ten-photos.md": "CAPTURE"}
"""What DATA stands for on pages that go on with one data set from the first command to the last."""

NAMES = r"\b(DATA|DIR|IMAGE|MESH|RUN_B|RUN|OUT|INPUT|OUTPUT|REFERENCE|PATH)\b"
"""Names in capitals that stand for something else each time. CAPTURE and MULTI are folders of these names."""

MADE_BY = {"ns-sample-scene": "data/sample", "ns-multiscale-blender": "MULTI"}
"""What a command makes itself."""


def dataparser_of(words: list[str]) -> str:
    """Name of the dataparser that a command reads its data with."""
    named = [word for word in words if word in all_dataparsers]
    if named:
        return named[0]
    if words[0] == "ns-train":
        config = all_methods[words[1]].pipeline.datamanager.dataparser
        return next(name for name, other in all_dataparsers.items() if type(other) is type(config))
    return DATA_FOR.get(words[0], "blender-data")


def fill_in(words: list[str], runs: list[Path], path: Path | None = None, page: str = "") -> list[str]:
    """A command's words with what stands for its names, which is made in the current folder if it is not there yet.

    Args:
        words: as documented.
        runs: what RUN, and then RUN_B, can stand for: runs that the page has trained.
        path: what PATH stands for: a camera path that the page has written.
        page: on which they stand.
    Raises: AssertionError about a name that nothing stands for.
    """

    def meant(match: re.Match[str]) -> str:
        name = match[1]
        if name in ("RUN", "RUN_B"):
            assert runs, f"{' '.join(words)}: nothing was trained on this page before, for {name}"
            return str(runs[min(len(runs) - 1, ("RUN", "RUN_B").index(name))])
        if name == "PATH":
            assert path is not None, f"{' '.join(words)}: no camera path was written on this page before"
            return str(path)
        if name in ("OUT", "OUTPUT") or words[0] == "ns-sample-scene":
            return f"out-{len(list(Path().glob('out-*')))}"
        if name == "REFERENCE":
            return "data/sample/mesh.ply"
        return DATA_ON.get(page) or DATA_OF[dataparser_of(words)]

    filled = [word if word.startswith("--") else re.sub(NAMES, meant, word) for word in words]
    wanted = {name for word in filled for name in FILES if word == name or word.startswith(f"{name}/")}
    if wanted & {"colmap-data", "dtu_scan65", "stl065_total.ply", "MULTI"}:  # which are made of it
        wanted.add("data/sample")
    for name in FILES:
        if name in wanted and name != MADE_BY.get(words[0]) and not Path(name).exists():
            Path(name).parent.mkdir(parents=True, exist_ok=True)
            FILES[name](Path(name))
    unknown = [word for word in filled if re.fullmatch(r"[A-Z][A-Z_]+(/.*)?", word) and word.split("/")[0] not in FILES]
    assert not unknown, f"{' '.join(words)}: nothing stands for {', '.join(unknown)}"
    return filled
