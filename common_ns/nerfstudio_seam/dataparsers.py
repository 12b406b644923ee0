"""nerfstudio's own dataparsers, reading what people's tools really write.

A run of this suite uses these in place of the four that captures come through most: those of nerfstudio-data,
blender-data, instant-ngp-data and colmap. On data that nerfstudio's read rightly, they give the same. What the file
says is first brought into one form, by the rules of `common_ns.data.transforms`; what cannot be meant ends in one line.

nerfstudio loads this module while it still imports its datamanagers, of which it may import none.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from nerfstudio.cameras.cameras import CAMERA_MODEL_TO_TYPE, Cameras, CameraType
from nerfstudio.data.dataparsers import nerfstudio_dataparser
from nerfstudio.data.dataparsers.base_dataparser import DataParserConfig, DataparserOutputs
from nerfstudio.data.dataparsers.blender_dataparser import Blender, BlenderDataParserConfig
from nerfstudio.data.dataparsers.colmap_dataparser import ColmapDataParser, ColmapDataParserConfig
from nerfstudio.data.dataparsers.instant_ngp_dataparser import InstantNGP, InstantNGPDataParserConfig
from nerfstudio.data.dataparsers.nerfstudio_dataparser import Nerfstudio, NerfstudioDataParserConfig
from nerfstudio.data.scene_box import SceneBox
from nerfstudio.data.utils.dataparsers_utils import (
    get_train_eval_split_all,
    get_train_eval_split_filename,
    get_train_eval_split_fraction,
    get_train_eval_split_interval,
)
from torch import Tensor

from common_ns.data.checks import explained
from common_ns.data.colmap import Reconstruction, check_model, find_model, is_model, parser_content
from common_ns.data.files import require_file
from common_ns.data.formats import advice
from common_ns.data.gate import check_outputs, check_positions
from common_ns.data.images import parsers_open_any_photo, photo_header
from common_ns.data.masks import check_mask_fields
from common_ns.data.notes import note_once
from common_ns.data.transforms import (
    DISTORTION,
    FILE_FIELDS,
    INTRINSICS,
    Transforms,
    far_from_origin,
    number,
    positions_in_one_place,
    read_transforms,
)
from common_ns.errors import InputError

LARGEST_IMAGE = nerfstudio_dataparser.MAX_AUTO_RESOLUTION
"""Pixels along the longer side from which nerfstudio looks for smaller copies."""
STAND_IN_SPLITS = {"val": "test", "test": "val"}
"""Which split serves for evaluation where a scene lacks the one that is asked for."""


def image_size(file: Path) -> tuple[int, int]:
    """(width, height) of a picture in pixels, from its header.

    Raises: InputError if it cannot be read.
    """
    return photo_header(file).size


class TransformsReader:
    """What the readers of JSON files share."""

    config: Any

    def transforms_file(self) -> Path:
        """The file that lists all frames."""
        data = Path(self.config.data)
        return data if data.suffix.lower() == ".json" else data / "transforms.json"

    def require_transforms(self, dataparser: str) -> Path:
        """Raises: InputError that says which dataparser would read the data, if there is no such file."""
        data, file = Path(self.config.data), self.transforms_file()
        if not (file.exists() or file.is_symlink()):
            wanted = "a folder with transforms.json and the images that it names"
            raise InputError(f"there is no {file.name}", advice(data, dataparser, wanted), data)
        return require_file(file)

    @cached_property
    def transforms(self) -> Transforms:
        """The content of the file. Says what was changed in it, once."""
        return self._read(self.require_transforms("nerfstudio-data"))

    def _read(self, file: Path, blender: bool = False) -> Transforms:
        found = read_transforms(file, image_size, blender)
        names = [frame["file_path"] for frame in found.frames]
        list(check_positions(found.positions, names, file))  # its warnings come later
        for note in found.notes:
            note_once(f"{file}: {note}")
        return found


class NerfstudioReader(TransformsReader, Nerfstudio):
    """nerfstudio-data: a transforms.json of any tool."""

    config: NerfstudioDataParserConfig
    needed_copies: ClassVar = {"file_path": "images_", "mask_path": "masks_"}
    """Files that smaller copies are needed of, all or none, and where nerfstudio has them."""

    def _generate_dataparser_outputs(self, split: str = "train", **kwargs: Any) -> DataparserOutputs:
        transforms = self.transforms
        self._leave_a_test_view(transforms)
        _require_scale(self.config, transforms.positions, transforms.path)
        self._drop_incomplete_fields(transforms)
        self._choose_downscale_factor(transforms)
        content = dict(transforms.content)
        middle = _middle_to_subtract(transforms.positions, self.config.center_method, transforms.path)
        if middle is not None:
            content["frames"] = [
                {**frame, "transform_matrix": _moved(np.array(frame["transform_matrix"]), middle)}
                for frame in transforms.frames
            ]
        self._middle, self._names = middle, {}
        with _given_json(content):
            outputs = super()._generate_dataparser_outputs(split)
        assert self.downscale_factor is not None
        if self.downscale_factor > 1:
            stated = {str(Path(frame["file_path"])): transforms.intrinsics(frame) for frame in transforms.frames}
            full = [stated[self._names[Path(file)]] for file in outputs.image_filenames]
            fit_to_copies(outputs, [(own["w"], own["h"]) for own in full], self.downscale_factor)
        if middle is not None:
            _move_back(outputs, middle, transforms.content.get("applied_transform"))
        return outputs

    def _drop_incomplete_fields(self, transforms: Transforms) -> None:
        """Files beside the images that some frames have and others lack are of no use, and of no need: what needs them
        says so. Masks are: without, what they hide would be learned.

        Raises: InputError about masks.
        """
        check_mask_fields(transforms.frames, transforms.path)
        for key in FILE_FIELDS[1:]:
            lacking = [frame["file_path"] for frame in transforms.frames if key not in frame]
            if 0 < len(lacking) < len(transforms.frames):
                for frame in transforms.frames:
                    frame.pop(key, None)
                number = f"{len(lacking)} of {len(transforms.frames)} frames"
                note_once(f'{transforms.path}: "{key}" is not used: {number} lack it, such as {lacking[0]}.')

    def _get_fname(self, filepath: Path, data_dir: Path, downsample_folder_prefix: str = "images_") -> Path:
        """The file of an image or mask, or its smaller copy: of a/b/c.png, the copy a_2/b/c.png if it is there, else
        images_2/c.png as nerfstudio has them."""
        factor = self.downscale_factor
        assert factor is not None
        file = data_dir / filepath if factor == 1 else copy_of(data_dir, filepath, factor, downsample_folder_prefix)
        if downsample_folder_prefix == "images_" and self._names.setdefault(file, str(filepath)) != str(filepath):
            problem = f"is the smaller copy of {self._names[file]} and of {filepath}"
            raise InputError(problem, "Set --downscale-factor 1, or give copies of their own folders", file)
        return file

    @cached_property
    def _names(self) -> dict[Path, str]:
        """The `file_path` of each image's file."""
        return {}

    def _load_3D_points(self, ply_file_path: Path, transform_matrix: Tensor, scale_factor: float) -> Any:
        if self._middle is None:
            return super()._load_3D_points(ply_file_path, transform_matrix, scale_factor)
        import trimesh

        points: Any = trimesh.load(require_file(ply_file_path, "point cloud"), process=False)
        moved = torch.from_numpy(np.asarray(points.vertices, dtype=np.float64) - self._middle).float()
        return {
            "points3D_xyz": (moved @ transform_matrix[:, :3].T + transform_matrix[:, 3]) * scale_factor,
            "points3D_rgb": torch.from_numpy(np.asarray(points.visual.vertex_colors)[:, :3].copy()),
        }

    _middle: np.ndarray | None = None
    """What was subtracted from all positions."""

    def _choose_downscale_factor(self, transforms: Transforms) -> None:
        """As nerfstudio does, but that images may have any number of pixels: Pillow's limit is not asked. Smaller
        copies are taken only if masks have them as well; they stand in where the images are not there.

        Raises: InputError if there are no copies for the factor that is asked for.
        """
        folder, frames = transforms.path.parent, transforms.frames
        if self.downscale_factor is not None:
            return
        there = [frame for frame in frames if (folder / frame["file_path"]).exists()]
        example = (there or frames)[0]

        def has_copies(factor: int) -> bool:
            kinds = [(key, prefix) for key, prefix in self.needed_copies.items() if key in example]
            return all(copy_of(folder, Path(example[key]), factor, prefix).exists() for key, prefix in kinds)

        if self.config.downscale_factor is not None:
            factor = self.config.downscale_factor
            copy = copy_of(folder, Path(example["file_path"]), factor, "images_")
            if factor > 1:
                _require_copies(copy.parent, factor)
            self.downscale_factor = factor
            return
        if not there:
            self.downscale_factor = next((each for each in factors_beside(folder / "images") if has_copies(each)), 1)
            if self.downscale_factor > 1:
                smaller = f"images_{self.downscale_factor}"
                note_once(f"{folder}: the images themselves are not there; {smaller} stands in.")
            return
        # nerfstudio sorts the frames only after it has looked at the size of the first.
        longest, power = max(image_size(folder / example["file_path"])), 0
        while longest / 2**power > LARGEST_IMAGE and has_copies(2 ** (power + 1)):
            power += 1
        self.downscale_factor = 2**power

    def _leave_a_test_view(self, transforms: Transforms) -> None:
        if "train_filenames" not in transforms.content:
            self.config = leaving_a_test_view(self.config, len(transforms.frames), transforms.path)


def leaving_a_test_view(config: Any, count: int, source: Path) -> Any:
    """The default split rounds the training images up, so that fewer than ten leave none to test on; nerfstudio then
    fails for want of them. Here one is kept.

    Args:
        config: of nerfstudio-data or colmap.
        count: of images.
        source: for the error.
    Returns: the config, or one with another split.
    Raises: InputError if there is one image only.
    """
    if count < 2 and config.eval_mode != "all":
        raise InputError("there is one frame, and none left to test on", "Set --eval-mode all", source)
    if config.eval_mode != "fraction" or math.ceil(count * config.train_split_fraction) < count:
        return config
    return replace(config, train_split_fraction=(count - 1.5) / count)


def _require_scale(config: Any, positions: np.ndarray, source: Path) -> None:
    """Raises: InputError if nerfstudio would divide by the size of a set of positions [n, 3] that has none."""
    if config.auto_scale_poses and config.center_method == "poses" and positions_in_one_place(positions):
        problem = "all cameras stand in one place, so that there is no scale to give them"
        raise InputError(problem, "Set --auto-scale-poses False", source)


def copy_of(folder: Path, name: Path, factor: int, prefix: str) -> Path:
    """Where a file's copy of 1/factor of its size is: in the folder of the same name with _factor, else where
    nerfstudio looks for it.

    Args:
        folder: of the data set.
        name: of the file, from there.
        factor: an integer above 1.
        prefix: "images_", "masks_" or "depths_".
    """
    parts = name.parts
    if len(parts) > 1 and not name.is_absolute() and parts[0] not in (".", ".."):
        beside = folder.joinpath(f"{parts[0]}_{factor}", *parts[1:])
        if beside.exists():
            return beside
    return folder / f"{prefix}{factor}" / name.name


def factors_beside(folder: Path) -> list[int]:
    """By which factors there are folders of smaller copies beside a folder of images: images_2, images_4, …"""
    found = [each.name[len(folder.name) + 1 :] for each in folder.parent.glob(f"{folder.name}_*") if each.is_dir()]
    return sorted(int(factor) for factor in found if factor.isdecimal() and int(factor) > 1)


def _require_copies(folder: Path, factor: int) -> None:
    """Raises: InputError if there is no folder of copies that are so many times smaller."""
    if not folder.exists():
        problem = f"there is no folder {folder.name} with images {factor} times smaller"
        raise InputError(problem, "Make it, or drop --downscale-factor", folder.parent)


def fit_to_copies(outputs: DataparserOutputs, full: list[tuple[int, int]], factor: int) -> None:
    """Give cameras the size of smaller copies that were rounded in another way than nerfstudio does, which differs by a
    pixel: those of the mip-NeRF 360 scenes, for instance. Their lengths are then scaled by what the size says.

    Args:
        outputs: whose cameras are changed.
        full: (width, height) of the images at full size.
        factor: by which the copies are smaller.
    """
    cameras = outputs.cameras
    for index, (file, whole) in enumerate(zip(outputs.image_filenames, full)):
        if not Path(file).exists():
            continue
        size = image_size(Path(file))
        given = int(cameras.width[index]), int(cameras.height[index])
        if size == given or any(abs(side - each / factor) >= 1.0 for side, each in zip(size, whole)):
            continue
        x, y = (factor * side / each for side, each in zip(size, whole))
        cameras.width[index], cameras.height[index] = size
        cameras.fx[index], cameras.cx[index] = cameras.fx[index] * x, cameras.cx[index] * x
        cameras.fy[index], cameras.cy[index] = cameras.fy[index] * y, cameras.cy[index] * y


def _middle_to_subtract(positions: np.ndarray, center_method: str, source: Path) -> np.ndarray | None:
    """What has to be subtracted from positions [n, 3] before they are handed over, since nerfstudio reads them in
    single precision and centers them afterwards; None: nothing."""
    middle = far_from_origin(positions)
    if middle is not None and center_method == "none":
        step = float(np.spacing(np.float32(np.abs(middle).max())))
        text = f"the cameras are around {np.abs(middle).max():.6g}, where single precision has steps of {step:.2g}"
        note_once(f"{source}: {text}. Subtract the middle from all positions, or let the data set be centered.")
        return None
    return middle


def _moved(pose: np.ndarray, middle: np.ndarray) -> list[list[float]]:
    pose = pose.copy()
    pose[:3, 3] -= middle
    return pose.tolist()


def _move_back(outputs: DataparserOutputs, middle: np.ndarray, applied: Any = None) -> None:
    """Let a data set's transform start from positions as they were before `middle` was subtracted.

    Args:
        outputs: whose transform is changed; it has double precision then.
        middle: [3], in the coordinates in which it was subtracted.
        applied: the `applied_transform` that leads to those coordinates from the original ones.
    """
    transform = outputs.dataparser_transform.double()
    turn = transform[:, :3]
    if applied is not None:  # the transform starts from before it
        turn = turn @ torch.tensor(applied, dtype=torch.float64)[:3, :3].inverse()
    transform[:, 3] -= turn @ torch.from_numpy(middle)
    outputs.dataparser_transform = transform


@contextmanager
def _given_json(content: dict[str, Any]) -> Iterator[None]:
    """Let nerfstudio's parser take this content for that of the file it reads."""
    original = nerfstudio_dataparser.load_from_json
    nerfstudio_dataparser.load_from_json = lambda _: content
    try:
        yield
    finally:
        nerfstudio_dataparser.load_from_json = original


def cameras_of(transforms: Transforms, scale: float) -> Cameras:
    """The cameras of all frames, at their images' full size.

    Args:
        transforms: with their poses.
        scale: factor on their positions.
    """
    rows = [transforms.intrinsics(frame) for frame in transforms.frames]
    poses = torch.from_numpy(np.array([frame["transform_matrix"] for frame in transforms.frames], dtype=np.float32))
    poses = poses[:, :3].clone()
    poses[..., 3] *= scale
    columns = {key: torch.tensor([[row[key]] for row in rows], dtype=torch.float32) for key in INTRINSICS}
    lens = [row["distortion_params"] or [row[key] or 0.0 for key in DISTORTION] for row in rows]
    lens = torch.tensor(lens, dtype=torch.float32)
    model = transforms.content.get("camera_model")
    kind = CameraType.PERSPECTIVE if model is None else CAMERA_MODEL_TO_TYPE[model]
    metadata = {}  # ns-export cameras refuses cameras without metadata
    if kind in (CameraType.FISHEYE, CameraType.FISHEYE624) and "fisheye_crop_radius" in transforms.content:
        metadata["fisheye_crop_radius"] = transforms.content["fisheye_crop_radius"]
    return Cameras(
        camera_to_worlds=poses,
        fx=columns["fl_x"],
        fy=columns["fl_y"],
        cx=columns["cx"],
        cy=columns["cy"],
        width=columns["w"].int(),
        height=columns["h"].int(),
        distortion_params=lens if bool(lens.any()) else None,
        camera_type=kind,
        metadata=metadata,
    )


class BlenderReader(TransformsReader, Blender):
    """blender-data: images of any format and size, with the intrinsics that the files state."""

    config: BlenderDataParserConfig

    def _generate_dataparser_outputs(self, split: str = "train", **kwargs: Any) -> DataparserOutputs:
        file = self._split_file(split)
        if file not in self._files:
            self._files[file] = self._read(file, blender=True)
        transforms = self._files[file]
        metadata = {} if self.config.ply_path is None else self._load_3D_points(self.config.data / self.config.ply_path)
        return DataparserOutputs(
            image_filenames=[file.parent / frame["file_path"] for frame in transforms.frames],
            cameras=cameras_of(transforms, self.scale_factor),
            alpha_color=self.alpha_color_tensor,
            scene_box=SceneBox(aabb=torch.tensor([[-1.5] * 3, [1.5] * 3], dtype=torch.float32)),
            mask_filenames=files_of(transforms, "mask_path"),
            dataparser_scale=self.scale_factor,
            metadata=metadata,
        )

    @cached_property
    def _files(self) -> dict[Path, Transforms]:
        return {}

    def _split_file(self, split: str) -> Path:
        data = Path(self.config.data)
        wanted = "a folder with transforms_train.json, transforms_val.json or transforms_test.json, and images"
        for name in dict.fromkeys((split, STAND_IN_SPLITS.get(split, split))):
            file = data / f"transforms_{name}.json"
            if file.exists() or file.is_symlink():
                if name != split:
                    note_once(f"{data}: there is no transforms_{split}.json; transforms_{name}.json stands in.")
                return file
        if split == "train" or not (data / "transforms_train.json").exists():
            raise InputError("there is no transforms_train.json", advice(data, "blender-data", wanted), data)
        problem = "there is neither transforms_val.json nor transforms_test.json"
        raise InputError(problem, "Add one of them, with frames to evaluate on", data)


def files_of(transforms: Transforms, key: str) -> list[Path] | None:
    """The files that all frames name under a key, such as "mask_path"; None if none does.

    Raises: InputError if some do.
    """
    if key == "mask_path":
        check_mask_fields(transforms.frames, transforms.path)
    lacking = [frame["file_path"] for frame in transforms.frames if key not in frame]
    if len(lacking) == len(transforms.frames):
        return None
    if lacking:
        problem = f'the frame {lacking[0]} lacks the field "{key}", which others have'
        raise InputError(problem, "Add it, or remove the frame", transforms.path)
    return [transforms.path.parent / frame[key] for frame in transforms.frames]


class InstantNgpReader(TransformsReader, InstantNGP):
    """instant-ngp-data: intrinsics of each frame, and both focal lengths, which nerfstudio's leaves out."""

    config: InstantNGPDataParserConfig

    def _generate_dataparser_outputs(self, split: str = "train", **kwargs: Any) -> DataparserOutputs:
        transforms, config = self.transforms, self.config
        images = [transforms.path.parent / frame["file_path"] for frame in transforms.frames]
        masks = files_of(transforms, "mask_path")
        divide = {
            "fraction": lambda: get_train_eval_split_fraction(images, config.train_split_fraction),
            "filename": lambda: get_train_eval_split_filename(images),
            "interval": lambda: get_train_eval_split_interval(images, config.eval_interval),
            "all": lambda: get_train_eval_split_all(images),
        }[config.eval_mode]
        train, held_out = divide()
        if len(held_out) == 0 and config.eval_mode == "fraction" and len(images) > 1:
            train, held_out = np.arange(len(images) - 1), np.arange(len(images) - 1, len(images))
        keep = [int(index) for index in (train if split == "train" else held_out)]
        scale = number(transforms.content.get("aabb_scale", 1), "aabb_scale", transforms.path)
        if scale <= 0:
            raise InputError(f"aabb_scale is {scale:g}", "It must be above 0", transforms.path)
        half = 0.5 * scale
        return DataparserOutputs(
            image_filenames=[images[index] for index in keep],
            cameras=cameras_of(transforms, config.scene_scale)[torch.tensor(keep, dtype=torch.long)],
            scene_box=SceneBox(aabb=torch.tensor([[-half] * 3, [half] * 3], dtype=torch.float32)),
            mask_filenames=None if masks is None else [masks[index] for index in keep],
            dataparser_scale=config.scene_scale,
        )


class ColmapReader(ColmapDataParser):
    """colmap: the model is found where it is, and looked at before nerfstudio reads it."""

    config: ColmapDataParserConfig

    def __init__(self, config: ColmapDataParserConfig) -> None:
        super().__init__(config)
        data = Path(config.data)
        if not is_model(data / config.colmap_path) and config.colmap_path == ColmapDataParserConfig.colmap_path:
            folder = find_model(data)
            if folder is None:
                wanted = "a folder with images/ and the model in sparse/0"
                raise InputError("there is no COLMAP model", advice(data, "colmap", wanted), data)
            self.config = replace(config, colmap_path=folder.relative_to(data))

    def _generate_dataparser_outputs(self, split: str = "train", **kwargs: Any) -> DataparserOutputs:
        data = Path(self.config.data)
        self._require_images(data)
        if not any((data / f"{name}_list.txt").exists() for name in ("train", "test", "validation")):
            self.config = leaving_a_test_view(self.config, len(self.model.images), self.model.folder)
        positions = np.array([frame["transform_matrix"] for frame in self._content["frames"]])[:, :3, 3]
        applied = self._content.get("applied_transform")
        _require_scale(self.config, positions, self.model.folder)
        middle = _middle_to_subtract(positions, self.config.center_method, self.model.folder)
        self._middle, self._full = middle, {}
        outputs = super()._generate_dataparser_outputs(split, **kwargs)
        if self._downscale_factor is not None and self._downscale_factor > 1:
            fit_to_copies(outputs, [self._full[Path(file)] for file in outputs.image_filenames], self._downscale_factor)
        if middle is not None:
            _move_back(outputs, middle, applied)
        return outputs

    def _require_images(self, data: Path) -> None:
        """Look for the folder of images, or one of smaller copies in its stead.

        Raises: InputError if there is none.
        """
        name = self.config.images_path
        if (data / name).is_dir():
            return
        factors = factors_beside(data / name)
        factor = self.config.downscale_factor or (factors[0] if factors else None)
        if factor not in factors:
            problem = f"there is no folder {name} with the images of the COLMAP model"
            raise InputError(problem, "Name it with --images-path", data)
        if self.config.downscale_factor is None:
            note_once(f"{data}: there is no folder {name}; {name}_{factor} stands in.")
            self.config = replace(self.config, downscale_factor=factor)

    @cached_property
    def model(self) -> Reconstruction:
        """The model, which is read once for all splits."""
        return check_model(Path(self.config.data) / self.config.colmap_path, self.config.load_3D_points)

    @cached_property
    def _content(self) -> dict[str, Any]:
        return parser_content(self.model, self.config)

    def _get_all_images_and_cameras(self, recon_dir: Path) -> dict[str, Any]:
        if self._middle is None:
            return self._content
        moved = [
            {**frame, "transform_matrix": np.array(_moved(frame["transform_matrix"], self._middle))}
            for frame in self._content["frames"]
        ]
        return {**self._content, "frames": moved}

    def _load_3D_points(self, colmap_path: Path, transform_matrix: Tensor, scale_factor: float) -> dict[str, Any]:
        result = super()._load_3D_points(colmap_path, transform_matrix, scale_factor)
        if self._middle is not None:
            applied = np.array(self._content.get("applied_transform", np.eye(4)[:3]))
            # nerfstudio has read them in single precision; of the transform, which begins at COLMAP's axes, the turn
            # is right, and the translation is that of positions without their middle.
            turn = transform_matrix[:, :3].double() @ torch.from_numpy(applied[:, :3]).inverse()
            shift = transform_matrix[:, 3].double() - turn @ torch.from_numpy(applied[:, 3])
            points = self.model.points.xyz @ applied[:, :3].T + applied[:, 3] - self._middle
            moved = torch.from_numpy(points) @ turn.T + shift
            result["points3D_xyz"] = (moved * scale_factor).float()
        return result

    _middle: np.ndarray | None = None
    """What was subtracted from all positions."""

    @cached_property
    def _full(self) -> dict[Path, tuple[int, int]]:
        """(width, height) at full size of each image's file."""
        return {}

    def _setup_downscale_factor(
        self, image_filenames: list[Path], mask_filenames: list[Path], depth_filenames: list[Path]
    ) -> Any:
        if self._downscale_factor is None and self.config.downscale_factor is not None:
            factor = self.config.downscale_factor
            folder = Path(self.config.data) / f"{self.config.images_path}_{factor}"
            if factor > 1 and not sys.stdin.isatty():
                _require_copies(folder, factor)
            # In a terminal, nerfstudio asks whether it may make them.
            self._downscale_factor = factor if factor == 1 or folder.exists() else None
        if self._downscale_factor is None and not sys.stdin.isatty():
            # nerfstudio asks whether it may make smaller copies; nobody is there to answer.
            width, height = image_size(image_filenames[0])
            factor = 1
            while max(width, height) / factor > LARGEST_IMAGE:
                factor *= 2
            wanted = [self.config.images_path, *filter(None, (self.config.masks_path, self.config.depths_path))]
            lacking = [f"{path}_{factor}" for path in wanted if not Path(self.config.data, f"{path}_{factor}").exists()]
            if factor > 1 and lacking:
                text = f"images of {width}×{height} pixels are used at full size, as there is no folder"
                note_once(f"{image_filenames[0].parent}: {text} {lacking[0]} with smaller ones.")
                self._downscale_factor = 1
        result = super()._setup_downscale_factor(image_filenames, mask_filenames, depth_filenames)
        sizes = [(int(frame["w"]), int(frame["h"])) for frame in self._content["frames"]]
        self._full.update(zip(map(Path, result[0]), sizes))
        return result


READERS: dict[type[DataParserConfig], type] = {
    NerfstudioDataParserConfig: NerfstudioReader,
    BlenderDataParserConfig: BlenderReader,
    InstantNGPDataParserConfig: InstantNgpReader,
    ColmapDataParserConfig: ColmapReader,
}
"""By the config of nerfstudio's dataparser."""


@contextmanager
def own_readers(config: DataParserConfig) -> Iterator[None]:
    """Let a config of nerfstudio's set up the reader of this module; a config with another target keeps it."""
    reader, target = READERS.get(type(config)), config._target
    if reader is None or not issubclass(reader, target):
        yield
        return
    config._target = reader
    try:
        yield
    finally:
        config._target = target


def name_of(config: DataParserConfig) -> str:
    """The name that ns-train knows a dataparser by; that of its class if it knows none."""
    from nerfstudio.configs.dataparser_configs import all_dataparsers

    return next((name for name, each in all_dataparsers.items() if type(each) is type(config)), type(config).__name__)


def set_up(config: DataParserConfig) -> Any:
    """The dataparser of a config, by this module's reader where there is one."""
    with explained(config.data), own_readers(config):
        return config.setup()


def checked_outputs(dataparser: Any, split: str) -> DataparserOutputs:
    """The outputs of a split, looked at; for commands that read a data set without a datamanager.

    Raises: InputError about what cannot be.
    """
    data = dataparser.config.data
    with explained(data), parsers_open_any_photo(data):
        outputs = dataparser.get_dataparser_outputs(split=split)
        check_outputs(outputs, data, split)
    return outputs
