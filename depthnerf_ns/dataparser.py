"""Reads RGB-D captures: nerfstudio's transforms.json with depth, ScanNet and Matterport3D folders.

On top of what nerfstudio's parser reads, a transforms.json may have

| key | where | meaning |
|---|---|---|
| depth_file_path | frame | the depth map; see `common_ns.data.depth.contract` for formats and what is valid |
| depth_sigma_file_path | frame | standard deviation of each depth, in the same unit; optional |
| normal_file_path | frame | surface normals; see `common_ns.data.depth.normals`; optional |
| depth_unit_scale_factor | top | meters (the unit of the poses) per stored step |
| depth_kind | top | z: along the optical axis; ray: along the ray |
| depth_path, integer_depth_scale | frame, top | instant-ngp's depth_file_path and depth_unit_scale_factor, of z-depth |
| normal_space | top | world, opengl or opencv: the axes of the normals |

Options override what the file states. Where neither states it, depth is taken for z-depth, integers for millimeters and
floats for meters, and the run says that it was assumed; `ns-depth-check` tells whether that fits the poses.
"""

from __future__ import annotations

import json
import math
import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
import tyro
from jaxtyping import Bool, Float
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from nerfstudio.utils.rich_utils import CONSOLE
from torch import Tensor

from common_ns.cameras.views import spread_views
from common_ns.data.depth.contract import (
    INTEGER_UNIT,
    KIND_NAMES,
    DepthContract,
    DepthKind,
    forward_directions,
    load_depth,
    map_header,
    ray_per_z,
)
from common_ns.data.depth.normals import NormalContract, NormalSpace
from common_ns.data.notes import note_once
from common_ns.errors import InputError
from common_ns.nerfstudio_seam.dataparsers import NerfstudioReader
from common_ns.nerfstudio_seam.renames import SuiteConfig
from depthnerf_ns.layouts import UNITS, Layout, PixelMap, find_layout, rewrite, with_our_names

FILE_KEYS = ("depth_file_path", "depth_sigma_file_path", "normal_file_path")
"""Fields that all frames have, or none."""
POINT_VIEWS, POINTS_PER_VIEW = 24, 200
"""Views, and pixels of each, whose depth tells how far the scene reaches."""


UNIT_NAMES = {
    **dict.fromkeys(("m", "meter", "metre"), 1.0),
    **dict.fromkeys(("cm", "centimeter", "centimetre"), 0.01),
    **dict.fromkeys(("mm", "millimeter", "millimetre"), 0.001),
}
"""Words that people write for a unit, in the singular, and its meters."""
PLAUSIBLE, USUAL = (0.01, 100.0), (0.1, 30.0)
"""Median depth outside of which its unit is doubtful, and for which another unit is proposed; in meters, and in spreads
of the cameras where these spread over more than a meter."""
USUAL_UNITS = {1.0: "meters", 0.01: "centimeters", 1e-3: "millimeters"}
"""Meters per stored step that are proposed."""

CELLS = 32
"""Cells along the longer side of a map, see `covered_fraction`."""


@dataclass
class RgbdDataParserConfig(SuiteConfig, NerfstudioDataParserConfig):
    """RGB-D captures with stated units: transforms.json with depth_file_path, ScanNet or Matterport3D folders."""

    _target: type = field(default_factory=lambda: RgbdDataParser)
    """target class to instantiate"""
    layout: Literal["auto", "nerfstudio", "scannet", "matterport"] = "auto"
    """How the files are arranged; auto: judged by the folders that are there."""
    depth_unit: float | None = None
    """Meters (the unit of the poses) per step of the depth files: 0.001 for millimeters. None: as the data set states
    it, else 0.001 for integers and 1 for floats."""
    depth_kind: DepthKind | None = None
    """z: depth counts along the optical axis; ray: along the ray. None: as the data set states it, else z."""
    depth_min: float = 0.0
    """Smaller depths, in meters, are taken for missing."""
    depth_max: float = math.inf
    """Larger depths, in meters, are taken for missing."""
    depth_resize: bool = False
    """Accept depth of another size than its image, of the same proportions: each pixel takes the nearest value."""
    normal_space: NormalSpace | None = None
    """Axes of the normals, if there are any. world: those of the poses; opengl: the camera's x right, y up, z back;
    opencv: the camera's x right, y down, z forward. None: as the data set states it, else world."""
    num_views: int | None = None
    """Train on so many views only, spread over the capture, the same ones every time. Test views stay as they are."""
    depth_unit_scale_factor: tyro.conf.Suppress[float] = INTEGER_UNIT
    """nerfstudio's name for depth_unit; not used."""


@dataclass
class RgbdDataParser(NerfstudioReader):
    """Gives nerfstudio's outputs of a transforms.json, with the depth contract in the metadata.

    depth_filenames, depth_contract (and nerfstudio's depth_unit_scale_factor); depth_sigma_filenames; normal_filenames,
    normal_contract; the file lists are None where the data set has none. With points3D_xyz, points from the depth maps
    of training views, near and far planes and the check of the scene's scale follow from what was measured.
    """

    config: RgbdDataParserConfig
    needed_copies: ClassVar = {**NerfstudioReader.needed_copies, "depth_file_path": "depths_"}

    def _generate_dataparser_outputs(self, split: str = "train", **kwargs: Any) -> DataparserOutputs:
        config = self.config
        layout = find_layout(config.data) if config.layout == "auto" else config.layout
        if layout == "nerfstudio":
            file, transforms = self.transforms_file(), with_our_names(self.transforms.content)
            check_file_fields(transforms, file)
            outputs = super()._generate_dataparser_outputs(split)
            outputs = self._with_depth(outputs, transforms, layout, file)
        else:
            outputs = self._rewritten_outputs(layout, split)
        if split == "train":
            if config.num_views is not None:
                outputs = self._subset(outputs, config.num_views)
            if "points3D_xyz" not in outputs.metadata:
                points, reach = depth_points(outputs)
                warn_of_unit(outputs, reach)
                # nerfstudio asks for colors with them. Only models that start from points would use these.
                outputs.metadata.update(points3D_xyz=points, points3D_rgb=torch.full_like(points, 128).byte())
                outputs.metadata.update(depth_reach=reach, points3D_source="depth maps")
        return outputs

    def _rewritten_outputs(self, layout: Layout, split: str) -> DataparserOutputs:
        """The outputs of a data set that has no transforms.json, through one that is made for it."""
        if self.config.downscale_factor not in (None, 1):
            problem = f"--downscale-factor is {self.config.downscale_factor}, and the {layout} layout has one size only"
            raise InputError(problem, "Use --pipeline.datamanager.camera-res-scale-factor instead", self.config.data)
        rewritten = rewrite(layout, self.config.data)
        if rewritten.note and split == "train":
            CONSOLE.print(f"[yellow]{rewritten.note}")
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "transforms.json"
            file.write_text(json.dumps(rewritten.transforms), encoding="utf-8")
            outputs = NerfstudioReader(replace(self.config, data=file))._generate_dataparser_outputs(split)
        return self._with_depth(outputs, rewritten.transforms, layout, self.config.data, rewritten.pixel_map)

    def _with_depth(
        self,
        outputs: DataparserOutputs,
        transforms: dict[str, Any],
        layout: Layout,
        source: Path,
        pixel_map: PixelMap | None = None,
    ) -> DataparserOutputs:
        """Add the files and contracts of depth and normals to the outputs of nerfstudio's parser.

        Args:
            outputs: of one split.
            transforms: content of the transforms.json.
            layout: of the data set.
            source: file or folder to name in errors.
            pixel_map: see `DepthContract`.
        """
        folder = source.parent if source.suffix == ".json" else source
        by_image = {self._image_path(frame["file_path"], folder): frame for frame in transforms["frames"]}
        frames = [by_image[file] for file in outputs.image_filenames]
        depth_files = self._files(frames, "depth_file_path", "depths_", folder)
        assert depth_files is not None
        resize = self.config.depth_resize or (self.downscale_factor or 1) > 1
        contract, assumed = self._contract(transforms, layout, depth_files[0])
        contract = replace(contract, resize=resize, pixel_map=pixel_map)
        for file in depth_files:
            map_header(file)  # names the first that is missing
        turn = outputs.dataparser_transform[:3, :3].double()
        if "applied_transform" in transforms:  # the parser's transform starts from before it, the normals after it
            turn = turn @ torch.tensor(transforms["applied_transform"], dtype=torch.float64)[:3, :3].inverse()
        space = self.config.normal_space or transforms.get("normal_space", "world")
        if space not in ("world", "opengl", "opencv"):
            raise InputError(f"normal_space is {space!r}", "Choose world, opengl or opencv", source)
        outputs.metadata.update(
            depth_filenames=depth_files,
            depth_contract=contract,
            depth_unit_scale_factor=contract.unit,
            depth_assumed=assumed,
            depth_sigma_filenames=self._files(frames, "depth_sigma_file_path", "depth_sigmas_", folder),
            normal_filenames=self._files(frames, "normal_file_path", "normals_", folder),
            normal_contract=NormalContract(space, tuple(map(tuple, turn.tolist())), resize),  # type: ignore[arg-type]
        )
        return outputs

    def _image_path(self, name: str, folder: Path) -> Path:
        """The path that nerfstudio's parser gives an image."""
        if self.downscale_factor is None:
            return folder / name  # another parser has read a rewritten data set, whose paths are absolute
        return self._get_fname(Path(name), folder)

    def _files(self, frames: list[dict[str, Any]], key: str, prefix: str, folder: Path) -> list[Path] | None:
        """The files that all frames name under a key; None if none does. Of downscaled images, those in the folder
        `prefix`N where they exist there."""
        if not any(key in frame for frame in frames):
            return None
        files = []
        for frame in frames:
            file = folder / frame[key]
            smaller = folder / f"{prefix}{self.downscale_factor}" / file.name
            files.append(smaller if (self.downscale_factor or 1) > 1 and smaller.exists() else file)
        return files

    def _contract(self, transforms: dict[str, Any], layout: Layout, file: Path) -> tuple[DepthContract, str]:
        """The contract, and in words what of it nobody stated."""
        config, assumed = self.config, []
        unit = config.depth_unit if config.depth_unit is not None else transforms.get("depth_unit_scale_factor")
        if unit is None:
            unit = UNITS.get(layout)
        if unit is None:
            unit = INTEGER_UNIT if map_header(file)[1].kind in "ui" else 1.0
            assumed.append("unit")
        kind = config.depth_kind or transforms.get("depth_kind") or ("z" if layout in UNITS else None)
        if kind is None:
            kind = "z"
            assumed.append("kind")
        try:
            if isinstance(unit, bool):
                raise TypeError
            unit = float(unit)
        except (TypeError, ValueError):
            problem = f"depth_unit_scale_factor is {unit!r}"
            step = UNIT_NAMES.get(unit.lower().rstrip("s")) if isinstance(unit, str) else None
            remedy = f"Write {step:g}" if step is not None else "It must be meters per stored step, such as 0.001"
            raise InputError(problem, remedy, config.data) from None
        try:
            return DepthContract(unit, kind, config.depth_min, config.depth_max), " and ".join(assumed)
        except InputError as error:
            raise InputError(error.problem, error.remedy, config.data) from None

    def _subset(self, outputs: DataparserOutputs, count: int) -> DataparserOutputs:
        """The training outputs with `count` views that are spread well and are not among the test views."""
        # nerfstudio loads this module while it still imports its datamanagers.
        from common_ns.nerfstudio_seam.datamanager import select_frames

        if count < 1:
            raise InputError(f"--num-views is {count}", "Choose at least 1")
        test = set(self.get_dataparser_outputs("test").image_filenames)
        free = [index for index, file in enumerate(outputs.image_filenames) if file not in test]
        if len(free) < count:
            problem = f"--num-views is {count}, and {len(free)} training views are not test views as well"
            remedy = f"Choose at most {len(free)}" if free else "Choose an --eval-mode that holds test views back"
            raise InputError(problem, remedy, self.config.data)
        poses = outputs.cameras.camera_to_worlds[free].double().numpy()
        keep = [free[index] for index in spread_views(poses, count)]
        names = ", ".join(Path(outputs.image_filenames[index]).name for index in keep)
        CONSOLE.print(f"Training on {count} of {len(outputs.image_filenames)} views: {names}")
        return select_frames(outputs, keep)


def check_file_fields(transforms: dict[str, Any], source: Path) -> None:
    """Raises: InputError unless all frames have depth, and all or none have each other kind of file."""
    frames = transforms["frames"]
    for key in FILE_KEYS:
        lacking = [frame for frame in frames if key not in frame]
        if key == "depth_file_path" and len(lacking) == len(frames):
            remedy = "Add it to every frame, or read the data set with nerfstudio-data, which needs no depth"
            raise InputError(f'no frame has the field "{key}"', remedy, source)
        if 0 < len(lacking) < len(frames):
            problem = f'the frame {lacking[0]["file_path"]} lacks the field "{key}", which others have'
            raise InputError(problem, "Add it, or remove the frame", source)
    if any(frame["depth_file_path"] == frame.get("depth_sigma_file_path") for frame in frames):
        note_once(
            f"{source}: depth_sigma_file_path names the depth itself, so that each depth is as uncertain as large."
        )


def contract_in_words(metadata: dict[str, Any]) -> str:
    """The contract of a data set, and what of it was assumed, in a line for the user."""
    contract = metadata["depth_contract"]
    words = f"Depth: {KIND_NAMES[contract.kind]} in steps of {contract.unit:g} m"
    return f"{words} ({metadata['depth_assumed']} assumed)." if metadata.get("depth_assumed") else f"{words}."


@dataclass(frozen=True)
class DepthReach:
    """How far depth maps see."""

    near: float
    """Smallest ray distance in scene units, but for the nearest hundredth."""
    far: float
    """Largest ray distance in scene units."""
    fraction: float
    """Share of the pictures' area that has depth; small holes do not count."""
    median: float = math.nan
    """Median ray distance in scene units."""


def covered_fraction(valid: Bool[np.ndarray, "h w"]) -> float:
    """Share of a map's cells in which depth is: sensors leave holes at edges and on what is dark or shines, all over a
    room, whereas a sky has no depth anywhere."""
    height, width = valid.shape
    size = max(1, max(height, width) // CELLS)
    rows, columns = height // size, width // size
    cells = valid[: rows * size, : columns * size].reshape(rows, size, columns, size)
    return float(cells.any(axis=(1, 3)).mean())


def depth_points(
    outputs: DataparserOutputs, views: int = POINT_VIEWS, per_view: int = POINTS_PER_VIEW
) -> tuple[Float[Tensor, "n 3"], DepthReach]:
    """Points in scene units where the depth maps of some views see a surface, and how far these maps see.

    Args:
        outputs: with the depth contract in the metadata.
        views: how many views to look at, at most.
        per_view: points of each, at most.
    """
    contract, cameras = outputs.metadata["depth_contract"], outputs.cameras
    count = len(outputs.image_filenames)
    forward = forward_directions(cameras)
    points, distances, fractions = [], [], []
    for index in np.unique(np.linspace(0, count - 1, min(count, views)).round().astype(int)):
        size = (int(cameras.width[index]), int(cameras.height[index]))
        stored = load_depth(outputs.metadata["depth_filenames"][index], contract, size)
        rows, columns = np.nonzero(stored)
        fractions.append(covered_fraction(stored > 0))
        some = np.linspace(0, len(rows) - 1, min(len(rows), per_view)).astype(int)
        rows, columns = rows[some], columns[some]
        coords = torch.from_numpy(np.stack([rows, columns], axis=-1)).float() + 0.5
        rays = cameras.generate_rays(camera_indices=int(index), coords=coords)
        distance = torch.from_numpy(stored[rows, columns].astype(np.float32))[:, None]
        distance = distance * (contract.unit * outputs.dataparser_scale)
        if contract.kind == "z":
            distance = distance * ray_per_z(rays.directions, forward[index])
        points.append(rays.origins + distance * rays.directions)
        distances.append(distance)
    every = torch.cat(distances)
    near, far, median = float(every.quantile(0.01)), float(every.max()), float(every.median())
    reach = DepthReach(near, far, float(np.mean(fractions)), median)
    return torch.cat(points), reach


def warn_of_unit(outputs: DataparserOutputs, reach: DepthReach) -> None:
    """Say so where depth is so large, or so small, that its unit can hardly be right: `ns-depth-check`, which knows,
    finds nothing where the views do not overlap.

    Args:
        outputs: with the depth contract in the metadata.
        reach: of their depth.
    """
    unit, scale = outputs.metadata["depth_contract"].unit, outputs.dataparser_scale
    centers = outputs.cameras.camera_to_worlds[:, :3, 3]
    spread = float((centers - centers.mean(dim=0)).norm(dim=-1).max()) / scale
    median = reach.median / scale
    relative = median / max(spread, 1.0)
    if PLAUSIBLE[0] <= relative <= PLAUSIBLE[1]:
        return
    better = {u: name for u, name in USUAL_UNITS.items() if USUAL[0] < relative / unit * u < USUAL[1]}
    remedy = ", or ".join(f"--depth-unit {u:g} if the files hold {name}" for u, name in better.items())
    note_once(
        f"The median depth is {median:.4g} m at {unit:g} m a step, and the cameras are within {spread:.3g} m of their "
        f"middle: the unit may be wrong. {'Set ' + remedy if remedy else 'Check it with ns-depth-check'}."
    )
