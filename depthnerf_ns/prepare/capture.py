"""The data set that depth is made for, whatever its layout: frames, cameras, sensor depth and points.

Layouts: those of `rgbd-data` (transforms.json, with or without depth; ScanNet; Matterport3D), a COLMAP model beside its
images, and MonoSDF's folders. Cameras stay in the world and the unit of the data set's poses.
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig

from common_ns.data.checks import explained, require_path
from common_ns.data.colmap import find_model
from common_ns.data.depth.contract import DepthContract, DepthKind
from common_ns.data.transforms import read_transforms
from common_ns.errors import InputError
from common_ns.nerfstudio_seam.dataparsers import image_size
from depthnerf_ns.layouts import UNITS, layout_of, rewrite, with_our_names
from depthnerf_ns.prepare.colmap_model import ColmapModel
from depthnerf_ns.prepare.monosdf import camera_file, read_monosdf

Kind = Literal["nerfstudio", "scannet", "matterport", "colmap", "monosdf"]

PATHS = ("file_path", "mask_path", "depth_file_path", "depth_sigma_file_path", "normal_file_path")
"""Fields of a frame that name files; whatever else ends in _path is taken for one as well."""


@dataclass(frozen=True)
class DepthSettings:
    """How sensor depth is to be read where the data set does not state it, and where other files are."""

    depth_unit: float | None = None
    depth_kind: DepthKind | None = None
    depth_min: float = 0.0
    depth_max: float = float("inf")
    depth_resize: bool = False
    images: Path | None = None
    """Folder of the images of a COLMAP model."""
    original_size: tuple[int, int] | None = None
    """Of a MonoSDF folder; see `monosdf.read_monosdf`."""


@dataclass(frozen=True)
class Capture:
    """A data set; lists have one entry for each frame, in the order of their image files."""

    source: Path
    """The folder or file it was read from."""
    kind: Kind
    """Its layout."""
    header: dict[str, Any]
    """Content of its transforms.json without the frames; paths are absolute."""
    frames: list[dict[str, Any]]
    """The frames of its transforms.json; paths are absolute."""
    cameras: Cameras
    """In the world and unit of the poses."""
    depth_files: list[Path | None]
    """Sensor depth; None where a frame has none."""
    sigma_files: list[Path | None]
    """σ of it."""
    contract: DepthContract | None
    """What the depth files mean; None if there are none."""
    assumed: str = ""
    """What of the contract nobody stated, in words."""
    note: str = ""
    """What was left out, for the user."""

    def __len__(self) -> int:
        return len(self.frames)

    @cached_property
    def images(self) -> list[Path]:
        """The image files."""
        return [Path(frame["file_path"]) for frame in self.frames]

    @cached_property
    def names(self) -> list[str]:
        """Short names for reports."""
        return [image.name for image in self.images]

    @cached_property
    def sizes(self) -> list[tuple[int, int]]:
        """(width, height) in pixels."""
        widths, heights = self.cameras.width.reshape(-1).tolist(), self.cameras.height.reshape(-1).tolist()
        return [(int(width), int(height)) for width, height in zip(widths, heights)]

    def model_folder(self) -> Path | None:
        """The folder of the COLMAP model beside the data set; None if there is none."""
        folder = self.source if self.source.is_dir() else self.source.parent
        return find_model(folder, largest=self.kind == "colmap")  # ns-process-data writes poses of the first


def read_capture(data: Path, settings: DepthSettings | None = None) -> Capture:
    """Read a data set.

    Args:
        data: its folder, or its transforms.json, or the folder of a COLMAP model.
        settings: see there.
    Raises: InputError if it is in no known layout, or something in it is missing or wrong.
    """
    settings = settings or DepthSettings()
    kind = find_kind(data)
    pixel_map, note = None, ""
    if kind == "nerfstudio":
        file = data if data.suffix == ".json" else data / "transforms.json"
        found = read_transforms(file, image_size)
        content, note = _absolute(with_our_names(found.content), file.parent), " ".join(found.notes)
    elif kind == "colmap":
        model = ColmapModel.read(find_model(data) or data)
        content = model.transforms(_image_folder(data, model, settings.images))
    elif kind == "monosdf":
        content = read_monosdf(data, settings.original_size)
    else:
        rewritten = rewrite(kind, data)
        content, pixel_map, note = rewritten.transforms, rewritten.pixel_map, rewritten.note
    header = {key: value for key, value in content.items() if key != "frames"}
    frames = sorted(content["frames"], key=lambda frame: frame["file_path"])
    for frame in frames:
        require_path(frame["file_path"], "image")

    bare = [{key: value for key, value in frame.items() if not key.endswith("depth_file_path")} for frame in frames]
    outputs = _parse(NerfstudioDataParserConfig(), header, bare, data)
    capture = Capture(data, kind, header, frames, outputs.cameras, [None] * len(frames), [None] * len(frames), None)
    capture = replace(capture, note=note)
    with_depth = [index for index, frame in enumerate(frames) if "depth_file_path" in frame]
    if not with_depth:
        return capture
    return _add_depth(capture, with_depth, settings, pixel_map)


def find_kind(data: Path) -> Kind:
    """The layout of a data set, by the files in it.

    Raises: InputError that says what was looked for.
    """
    layout = layout_of(data)
    if layout is not None:
        return layout
    if data.is_dir() and find_model(data) is not None:
        return "colmap"
    if data.is_dir() and camera_file(data) is not None:
        return "monosdf"
    problem = "holds neither transforms.json, a COLMAP model (sparse/0), the folders of ScanNet or Matterport3D, nor "
    problem += "NAME_rgb.png with cameras.npz (MonoSDF)"
    raise InputError(problem, "Correct the path, or give photographs without poses as --photos", data)


def _image_folder(data: Path, model: ColmapModel, given: Path | None) -> Path:
    """Where the images of a COLMAP model are."""
    names = [image.name for image in model.images]
    around = [data, *list(model.folder.absolute().parents)[:3]]
    folders = [parent / name for parent in around for name in ("images", "")] if given is None else [given]
    there = [sum((folder / name).is_file() for name in names) for folder in folders]
    if not any(there):
        where = given or "a folder images beside it"
        problem = f"the images of the COLMAP model, such as {names[0]}, are not in {where}"
        raise InputError(problem, "Name their folder as --images", data)
    return folders[int(np.argmax(there))]


def _absolute(content: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The content of a transforms.json with absolute paths."""

    def paths(record: dict[str, Any]) -> dict[str, Any]:
        named = {k: v for k, v in record.items() if k in PATHS or (k.endswith("_path") and isinstance(v, str))}
        return {**record, **{key: str((folder / value).absolute()) for key, value in named.items()}}

    splits = {key: value for key, value in content.items() if key.endswith("_filenames")}
    lists = {key: [str((folder / name).absolute()) for name in names] for key, names in splits.items()}
    return {**paths(content), **lists, "frames": [paths(frame) for frame in content["frames"]]}


def _parse(
    config: NerfstudioDataParserConfig, header: dict[str, Any], frames: list[dict[str, Any]], source: Path
) -> DataparserOutputs:
    """What nerfstudio's kind of parser makes of frames, all of them and in their own world."""
    # Lists of splits and orientations would leave frames out or turn the world.
    header = {k: v for k, v in header.items() if not k.endswith("_filenames") and k != "orientation_override"}
    config = replace(
        config,
        orientation_method="none",
        center_method="none",
        auto_scale_poses=False,
        downscale_factor=1,
        eval_mode="interval",
        eval_interval=1,  # every view is a view of "val"
        load_3D_points=False,
    )
    with tempfile.TemporaryDirectory() as folder:
        config.data = Path(folder) / "transforms.json"
        config.data.write_text(json.dumps({**header, "frames": frames}), encoding="utf-8")
        with explained(source):
            return config.setup().get_dataparser_outputs("val")


def _add_depth(capture: Capture, which: list[int], settings: DepthSettings, pixel_map: Any) -> Capture:
    """The capture with the sensor depth of the frames that have it."""
    from depthnerf_ns.dataparser import RgbdDataParserConfig

    unit, kind = settings.depth_unit, settings.depth_kind
    if capture.kind in UNITS:
        unit, kind = UNITS[capture.kind] if unit is None else unit, kind or "z"
    config = RgbdDataParserConfig(
        layout="nerfstudio",
        depth_unit=unit,
        depth_kind=kind,
        depth_min=settings.depth_min,
        depth_max=settings.depth_max,
        depth_resize=settings.depth_resize,
    )
    metadata = _parse(config, capture.header, [capture.frames[i] for i in which], capture.source).metadata
    depth_files, sigma_files = list(capture.depth_files), list(capture.sigma_files)
    for place, index in enumerate(which):
        depth_files[index] = Path(metadata["depth_filenames"][place])
        if metadata.get("depth_sigma_filenames") is not None:
            sigma_files[index] = Path(metadata["depth_sigma_filenames"][place])
    return replace(
        capture,
        depth_files=depth_files,
        sigma_files=sigma_files,
        contract=replace(metadata["depth_contract"], pixel_map=pixel_map),
        assumed=metadata.get("depth_assumed", ""),
    )


def frame_number(capture: Capture) -> list[int | None]:
    """The numbers that frames state for themselves in the COLMAP model they come from."""
    return [frame.get("colmap_im_id") for frame in capture.frames]


def poses(capture: Capture) -> np.ndarray:
    """Camera to world of the frames, [n, 3, 4], OpenGL axes."""
    return capture.cameras.camera_to_worlds.double().cpu().numpy()
