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
from typing import Any

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

from common_ns.data.checks import explained
from common_ns.data.colmap import Reconstruction, check_model, find_model, parser_content
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
        where = np.array([frame["transform_matrix"] for frame in found.frames])[:, :3, 3]
        list(check_positions(where, [frame["file_path"] for frame in found.frames], file))  # its warnings come later
        for note in found.notes:
            note_once(f"{file}: {note}")
        return found


class NerfstudioReader(TransformsReader, Nerfstudio):
    """nerfstudio-data: a transforms.json of any tool."""

    config: NerfstudioDataParserConfig

    def _generate_dataparser_outputs(self, split: str = "train", **kwargs: Any) -> DataparserOutputs:
        transforms = self.transforms
        self._leave_a_test_view(transforms)
        where = np.array([frame["transform_matrix"] for frame in transforms.frames])[:, :3, 3]
        if self.config.auto_scale_poses and self.config.center_method == "poses" and positions_in_one_place(where):
            problem = "all cameras stand in one place, so that there is no scale to give them"
            raise InputError(problem, "Set --auto-scale-poses False", transforms.path)
        for key in FILE_FIELDS[1:]:
            files_of(transforms, key)
        self._choose_downscale_factor(transforms)
        with _given_json(transforms.content):
            return super()._generate_dataparser_outputs(split)

    def _choose_downscale_factor(self, transforms: Transforms) -> None:
        """As nerfstudio does, but that images may have any number of pixels: Pillow's limit is not asked."""
        if self.downscale_factor is not None:
            return
        if self.config.downscale_factor is not None:
            self.downscale_factor = self.config.downscale_factor
            return
        # nerfstudio sorts the frames only after it has looked at the size of the first.
        folder, power = transforms.path.parent, 0
        names = [Path(frame["file_path"]) for frame in transforms.frames]
        name = next((name for name in names if (folder / name).exists()), names[0])
        longest = max(image_size(folder / name))
        while longest / 2**power > LARGEST_IMAGE and (folder / f"images_{2 ** (power + 1)}" / name.name).exists():
            power += 1
        self.downscale_factor = 2**power

    def _leave_a_test_view(self, transforms: Transforms) -> None:
        """The default split rounds the training images up, so that fewer than ten frames leave none to test on;
        nerfstudio then fails for want of them. Here one is kept."""
        config, count = self.config, len(transforms.frames)
        stated = "train_filenames" in transforms.content
        if config.eval_mode != "fraction" or stated or math.ceil(count * config.train_split_fraction) < count:
            return
        if count < 2:
            raise InputError("there is one frame, and none left to test on", "Set --eval-mode all", transforms.path)
        self.config = replace(config, train_split_fraction=(count - 1.5) / count)


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
    lens = torch.tensor([[row[key] or 0.0 for key in DISTORTION] for row in rows], dtype=torch.float32)
    model = transforms.content.get("camera_model")
    return Cameras(
        camera_to_worlds=poses,
        fx=columns["fl_x"],
        fy=columns["fl_y"],
        cx=columns["cx"],
        cy=columns["cy"],
        width=columns["w"].int(),
        height=columns["h"].int(),
        distortion_params=lens if bool(lens.any()) else None,
        camera_type=CameraType.PERSPECTIVE if model is None else CAMERA_MODEL_TO_TYPE[model],
        metadata={},  # ns-export cameras refuses cameras without metadata
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
        half = 0.5 * float(transforms.content.get("aabb_scale", 1))
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
        if not (data / config.colmap_path).exists() and config.colmap_path == ColmapDataParserConfig.colmap_path:
            folder = find_model(data)
            if folder is None:
                wanted = "a folder with images/ and the model in sparse/0"
                raise InputError("there is no COLMAP model", advice(data, "colmap", wanted), data)
            self.config = replace(config, colmap_path=folder.relative_to(data))

    def _generate_dataparser_outputs(self, split: str = "train", **kwargs: Any) -> DataparserOutputs:
        data = Path(self.config.data)
        if not (data / self.config.images_path).is_dir():
            problem = f"there is no folder {self.config.images_path} with the images of the COLMAP model"
            raise InputError(problem, "Name it with --images-path", data)
        _ = self.model
        return super()._generate_dataparser_outputs(split, **kwargs)

    @cached_property
    def model(self) -> Reconstruction:
        """The model, which is read once for all splits."""
        return check_model(Path(self.config.data) / self.config.colmap_path, self.config.load_3D_points)

    def _get_all_images_and_cameras(self, recon_dir: Path) -> dict[str, Any]:
        return parser_content(self.model, self.config)

    def _setup_downscale_factor(
        self, image_filenames: list[Path], mask_filenames: list[Path], depth_filenames: list[Path]
    ) -> Any:
        if self._downscale_factor is None and self.config.downscale_factor is None and not sys.stdin.isatty():
            # nerfstudio asks whether it may make smaller copies; nobody is there to answer.
            width, height = image_size(image_filenames[0])
            factor = 1
            while max(width, height) / factor > LARGEST_IMAGE:
                factor *= 2
            folder = Path(self.config.data) / f"{self.config.images_path}_{factor}"
            if factor > 1 and not folder.exists():
                text = f"images of {width}×{height} pixels are used at full size, as there is no folder"
                note_once(f"{image_filenames[0].parent}: {text} {folder.name} with smaller ones.")
                self._downscale_factor = 1
        return super()._setup_downscale_factor(image_filenames, mask_filenames, depth_filenames)


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
