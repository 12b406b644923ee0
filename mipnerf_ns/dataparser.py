"""Reads multi-scale Blender scenes: every view at 1, ½, ¼ and ⅛ of its size, as in the mip-NeRF paper.

The format is that of google/mipnerf: a `metadata.json` with one table of equally long lists per split.

| key | per image |
|---|---|
| file_path | the image, relative to the folder |
| cam2world | 4×4 pose, OpenGL convention |
| width, height | size in pixels |
| focal | fx in pixels |
| pix2cam | inverse intrinsics with the y and z axes turned to OpenGL; optional, it can state fx, fy, cx and cy apart |
| label | scale index j: the image is 2^j times smaller than the original |
| near, far | range of ray distances that holds the scene, in scene units |
| lossmult | area of a pixel in pixels of the original, the weight of its loss; not needed to load a scene |

`ns-multiscale-blender` writes it from an ordinary Blender scene.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nerfstudio.cameras.cameras import Cameras, CameraType
from nerfstudio.data.dataparsers.base_dataparser import DataParser, DataParserConfig, DataparserOutputs
from nerfstudio.data.scene_box import SceneBox
from nerfstudio.utils.colors import get_color

from common_ns.data.checks import check_pose, read_json
from common_ns.errors import InputError
from common_ns.nerfstudio_seam.renames import SuiteConfig

METADATA_FILE = "metadata.json"
REQUIRED_KEYS = ("file_path", "cam2world", "width", "height", "focal", "label", "near", "far")
STAND_IN_SPLITS = {"val": "test", "test": "val"}
"""Which split serves for evaluation where a scene lacks the one that nerfstudio asks for."""


@dataclass
class MultiscaleBlenderDataParserConfig(SuiteConfig, DataParserConfig):
    """Multi-scale Blender scenes, in the format of google/mipnerf and ns-multiscale-blender."""

    _target: type = field(default_factory=lambda: MultiscaleBlender)
    """target class to instantiate"""
    data: Path = Path("data/multiscale-blender/lego")
    """Folder with metadata.json and the images."""
    scale_factor: float = 1.0
    """How much to scale the camera origins by."""
    alpha_color: str | None = "white"
    """Color that transparent images are blended with; None hands RGBA images to the model as they are."""
    scales: tuple[int, ...] = (1, 2, 4, 8)
    """Which images to use, by the factor that they are smaller than the original: 1 alone is single-scale training."""
    train_scales: tuple[int, ...] | None = None
    """The same for training images alone: (1,) trains at full size and evaluates at all scales. None: as scales."""


@dataclass
class MultiscaleBlender(DataParser):
    """Gives one camera per image and scale, and for each image its scale in `metadata["image_scale"]`.

    `metadata["near_far"]` holds the range of ray distances in the scaled scene's units.
    """

    config: MultiscaleBlenderDataParserConfig

    def _generate_dataparser_outputs(self, split: str = "train", **kwargs: Any) -> DataparserOutputs:
        table = read_split(self.config.data / METADATA_FILE, split)
        file = self.config.data / METADATA_FILE
        option, scales = "--scales", self.config.scales
        if split == "train" and self.config.train_scales is not None:
            option, scales = "--train-scales", self.config.train_scales
        keep = [i for i, label in enumerate(table["label"]) if 2**label in scales]
        if not keep:
            there = ", ".join(str(2**label) for label in sorted(set(table["label"])))
            problem = f"split {split!r} has no image at the chosen scales {scales}"
            raise InputError(problem, f"Choose {option} from {there}", file)

        filenames = [self.config.data / table["file_path"][i] for i in keep]
        poses = torch.tensor([table["cam2world"][i] for i in keep], dtype=torch.float32)[:, :3, :4].clone()
        poses[..., 3] *= self.config.scale_factor
        fx, fy, cx, cy = torch.tensor([table["intrinsics"][i] for i in keep], dtype=torch.float32).unbind(dim=-1)
        cameras = Cameras(
            camera_to_worlds=poses,
            fx=fx,
            fy=fy,
            cx=cx,
            cy=cy,
            width=torch.tensor([table["width"][i] for i in keep]),
            height=torch.tensor([table["height"][i] for i in keep]),
            camera_type=CameraType.PERSPECTIVE,
            # ns-export cameras refuses cameras without metadata.
            metadata={},
        )
        near = min(float(table["near"][i]) for i in keep) * self.config.scale_factor
        far = max(float(table["far"][i]) for i in keep) * self.config.scale_factor
        half_side = 1.5 * self.config.scale_factor
        return DataparserOutputs(
            image_filenames=filenames,
            cameras=cameras,
            alpha_color=None if self.config.alpha_color is None else get_color(self.config.alpha_color),
            scene_box=SceneBox(aabb=torch.tensor([[-half_side] * 3, [half_side] * 3])),
            dataparser_scale=self.config.scale_factor,
            metadata={"image_scale": [2 ** table["label"][i] for i in keep], "near_far": (near, far)},
        )


def read_split(file: Path, split: str) -> dict[str, list]:
    """Read and check the table of one split.

    Args:
        file: the metadata.json.
        split: train, val or test; val and test stand in for each other where one is missing.
    Returns: the table as in the file, with integer labels, and with "intrinsics" as a list of (fx, fy, cx, cy) in
        pixels.
    """
    if not file.is_file():
        raise InputError("no such file", "Make it from a Blender scene with ns-multiscale-blender INPUT OUTPUT", file)
    splits = read_json(file)
    if split not in splits and STAND_IN_SPLITS.get(split) in splits:
        split = STAND_IN_SPLITS[split]
    if split not in splits:
        problem = f"has no split {split!r}, only {', '.join(splits) or 'none'}"
        raise InputError(problem, f"Convert a scene that has a transforms_{split}.json", file)

    table = splits[split]
    absent = [key for key in REQUIRED_KEYS if key not in table]
    if absent:
        problem = f"split {split!r} lacks {', '.join(absent)}"
        raise InputError(problem, "Run ns-multiscale-blender again", file)
    count = len(table["file_path"])
    uneven = [key for key in (*REQUIRED_KEYS, "pix2cam") if key in table and len(table[key]) != count]
    if uneven or count == 0:
        problem = f"split {split!r} names {count} images, but {len(table[uneven[0]]) if uneven else 0} {uneven or ''}"
        raise InputError(problem, "Run ns-multiscale-blender again", file)

    for i, name in enumerate(table["file_path"]):
        where = f"split {split!r}, image {name!r}"
        check_pose(as_floats(table["cam2world"][i]), where, file)
        for key in ("width", "height", "focal", "far"):
            value = as_floats(table[key][i])
            if value.shape != () or not 0 < value < np.inf:
                raise InputError(f"{where}: {key} is {table[key][i]}", "It must be a number above 0", file)
        label, near = as_floats(table["label"][i]), as_floats(table["near"][i])
        if label.shape != () or not 0 <= label < 16 or label != round(float(label)):
            raise InputError(f"{where}: label is {table['label'][i]}", "It must be 0, 1, 2 or 3", file)
        if near.shape != () or not 0 <= near < table["far"][i]:
            raise InputError(f"{where}: near is {table['near'][i]}", "It must be at least 0 and below far", file)
    table = {**table, "label": [int(label) for label in table["label"]]}
    table["intrinsics"] = [image_intrinsics(table, i, file) for i in range(count)]
    return table


def image_intrinsics(table: dict[str, list], i: int, file: Path) -> tuple[float, float, float, float]:
    """fx, fy, cx and cy of image i in pixels: from pix2cam where it is given, else from the focal length and size.

    Raises: InputError if pix2cam is not the inverse of an OpenGL camera's intrinsic matrix.
    """
    if "pix2cam" not in table:
        return table["focal"][i], table["focal"][i], 0.5 * table["width"][i], 0.5 * table["height"][i]
    pix2cam = as_floats(table["pix2cam"][i])
    # [[1/fx, 0, −cx/fx], [0, −1/fy, cy/fy], [0, 0, −1]]: to a camera that looks along −z, with y up.
    if pix2cam.shape != (3, 3) or not np.isfinite(pix2cam).all() or pix2cam[0, 0] <= 0 or pix2cam[1, 1] >= 0:
        problem = f"image {table['file_path'][i]!r}: pix2cam is {table['pix2cam'][i]}"
        raise InputError(problem, "It must be the inverse of an OpenGL camera's intrinsic matrix", file)
    fx, fy = 1.0 / pix2cam[0, 0], -1.0 / pix2cam[1, 1]
    return float(fx), float(fy), float(-pix2cam[0, 2] * fx), float(pix2cam[1, 2] * fy)


def as_floats(value: Any) -> np.ndarray:
    """A value from JSON as an array of floats; NaN where it is no number or a ragged list."""
    try:
        return np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        return np.array(np.nan)
