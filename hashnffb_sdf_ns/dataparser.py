"""`idr-data`: images, masks and cameras in the layout of IDR and NeuS, in all its spellings.

    DATA/image/*.png            or images/, rgb/; any format
    DATA/mask/*.png             or masks/; may be missing
    DATA/cameras_sphere.npz     or cameras.npz; see `idr_cameras`
    DATA/cameras_linear_init.npz   rough cameras, for --cameras linear-init
    DATA/sparse_points.ply      SfM points in the coordinates of world_mat; may be missing
    DATA/splits.json            may be missing: {"train": [file names], "val": […], "test": […]}

The object is in the unit sphere afterwards; `dataparser_transform` and `dataparser_scale` lead back to the data set's
own coordinates (millimeters for DTU), in which `ns-mesh --world-coordinates` writes meshes.

| metadata | is |
|---|---|
| object_mask_filenames | one file for each image, white where the object is; absent without masks |
| reference_camera_to_worlds | with --cameras linear-init: for each image, the pose [3, 4] in the reference file |
| points3D_xyz, points3D_rgb | SfM points, if there are any |
| original_views | `OriginalViews`: images, masks and intrinsics at full size, by which the object is looked for |
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from nerfstudio.cameras.cameras import Cameras, CameraType
from nerfstudio.data.dataparsers.base_dataparser import DataParser, DataParserConfig, DataparserOutputs
from nerfstudio.data.scene_box import SceneBox
from nerfstudio.utils.rich_utils import CONSOLE
from numpy.typing import NDArray

from common_ns.data.checks import read_json
from common_ns.data.masks import check_mask_sizes
from common_ns.data.notes import note_once
from common_ns.errors import InputError
from common_ns.nerfstudio_seam.renames import SuiteConfig
from hashnffb_sdf_ns.idr_data.cameras import INITIAL_FILE, CameraFile, Similarity, decompose, read_camera_file
from hashnffb_sdf_ns.idr_data.downscaled import downscaled_copies, downscaled_size, image_sizes
from hashnffb_sdf_ns.idr_data.layout import IdrFiles, find_camera_file, find_files, pair_masks, pair_views
from hashnffb_sdf_ns.object_sphere.mask_checks import are_white, mask_files_of
from hashnffb_sdf_ns.object_sphere.scene_sources import (
    OriginalViews,
    agreement_of_masks,
    extent_of_capture,
    read_points,
)

SPLITS_FILE = "splits.json"


@dataclass
class IdrDataParserConfig(SuiteConfig, DataParserConfig):
    """IDR / NeuS layout: image/, optionally mask/, cameras_sphere.npz or cameras.npz."""

    _target: type = field(default_factory=lambda: IdrDataParser)
    """target class to instantiate"""
    data: Path = Path()
    """Folder with the images and the cameras."""
    cameras: Literal["stated", "linear-init"] = "stated"
    """stated: those of cameras_sphere.npz or cameras.npz. linear-init: the rough ones of cameras_linear_init.npz, to be
    refined while training; the stated ones, where there are any, then serve to measure the error."""
    cameras_file: Path | None = None
    """Another .npz file with the stated cameras; a relative path starts at the data folder."""
    normalization: Literal["auto", "stated", "masks", "points", "cameras"] = "auto"
    """What becomes the unit sphere. stated: that of scale_mat. masks: the visual hull's; points: that of the SfM
    points; cameras: that of what the cameras look at. auto: scale_mat, and without one the first of the others that
    the data has."""
    downscale_factor: int = 1
    """Train on images of 1 / downscale_factor of the width and height: 2 for half the resolution."""
    eval_mode: Literal["auto", "interval", "all"] = "auto"
    """Which images are held out. auto: as splits.json says, where there is one, else interval; interval: one of every
    eval-interval; all: none, all images serve for both."""
    eval_interval: int = 16
    """Every so many images, one is held out."""
    eval_offset: int = 4
    """The first image that is held out, counted from 0."""


@dataclass(frozen=True)
class Capture:
    """All views of a data set, in its own world."""

    files: IdrFiles
    sizes: NDArray
    """(width, height) of the images on disk [n, 2]."""
    intrinsics: Float[NDArray, "n 3 3"]
    """K of the images on disk; the first pixel's center is at 0.5."""
    poses: Float[NDArray, "n 3 4"]
    """Camera to world, OpenGL axes."""
    reference: Float[NDArray, "n 3 4"] | None
    """Poses to compare with, where `poses` are rough ones."""
    placed: Similarity
    """Map from the unit sphere to the world."""


@dataclass
class IdrDataParser(DataParser):
    """Gives the views of a split in the coordinates of the unit sphere."""

    config: IdrDataParserConfig

    def __init__(self, config: IdrDataParserConfig) -> None:
        super().__init__(config)
        self._capture: Capture | None = None

    def _generate_dataparser_outputs(self, split: str = "train", **kwargs: Any) -> DataparserOutputs:
        config = self.config
        for name, least in (("downscale_factor", 1), ("eval_interval", 2), ("eval_offset", 0)):
            value = getattr(config, name)
            if value < least or value != int(value):
                problem = f"--{name.replace('_', '-')} is {value}"
                raise InputError(problem, f"Choose a whole number, {least} or more", config.data)
        if self._capture is None:  # all splits share what is read
            self._capture = self._read()
        capture, factor = self._capture, int(config.downscale_factor)  # ns-render gives a float
        keep = self._indices(split, capture.files)
        images = downscaled_copies([capture.files.images[i] for i in keep], factor)
        poses = capture.placed.normalized_poses(capture.poses)[keep]
        intrinsics = capture.intrinsics[keep] / factor
        sizes = torch.tensor([downscaled_size((int(w), int(h)), factor) for w, h in capture.sizes[keep]])
        masks = None if capture.files.masks is None else [capture.files.masks[i] for i in keep]
        originals = OriginalViews(
            [capture.files.images[i] for i in keep], masks, capture.sizes[keep], capture.intrinsics[keep]
        )
        metadata: dict[str, Any] = {"original_views": originals}
        if masks is not None:
            metadata["object_mask_filenames"] = downscaled_copies(masks, factor, masks=True)
        if capture.reference is not None:
            reference = capture.placed.normalized_poses(capture.reference)[keep]
            metadata["reference_camera_to_worlds"] = list(torch.from_numpy(reference).float())
        if capture.files.points is not None:
            points, colors = read_points(capture.files.points)
            metadata["points3D_xyz"] = torch.from_numpy(capture.placed.normalized_points(points)).float()
            metadata["points3D_rgb"] = torch.from_numpy(colors)
        intrinsics = torch.from_numpy(intrinsics).float()
        cameras = Cameras(
            camera_to_worlds=torch.from_numpy(poses).float(),
            fx=intrinsics[:, 0, 0, None],
            fy=intrinsics[:, 1, 1, None],
            cx=intrinsics[:, 0, 2, None],
            cy=intrinsics[:, 1, 2, None],
            width=sizes[:, :1],
            height=sizes[:, 1:],
            camera_type=CameraType.PERSPECTIVE,
            metadata={},  # ns-export cameras refuses cameras without metadata
        )
        return DataparserOutputs(
            image_filenames=images,
            cameras=cameras,
            scene_box=SceneBox(aabb=torch.tensor([[-1.0, -1.0, -1.0], [1.0, 1.0, 1.0]])),
            dataparser_transform=torch.from_numpy(capture.placed.to_normalized).float(),
            dataparser_scale=1.0 / capture.placed.radius,
            metadata=metadata,
        )

    def _read(self) -> Capture:
        """All views, checked."""
        config = self.config
        files = find_files(Path(config.data))
        sizes = image_sizes(files.images)
        reference = None
        if config.cameras == "linear-init":
            camera_file = read_camera_file(files.folder / INITIAL_FILE)
            reference_file = self._stated_file(files.folder, must_exist=config.cameras_file is not None)
            if reference_file is not None:
                stated = read_camera_file(reference_file)
                _, reference, _ = cameras_of(stated, files, sizes)
                if not camera_file.scale:
                    camera_file = CameraFile(camera_file.path, camera_file.world, stated.scale, camera_file.camera)
        else:
            stated_file = self._stated_file(files.folder, must_exist=True)
            assert stated_file is not None
            camera_file = read_camera_file(stated_file)
        intrinsics, poses, projections = cameras_of(camera_file, files, sizes)
        files = with_masks(files, sizes, poses, projections)
        placed = None
        if config.normalization in ("auto", "stated"):
            placed = camera_file.similarity()
        if placed is None and config.normalization == "stated":
            remedy = "Write it with ns-idr-cameras, or set --normalization auto"
            raise InputError("there is no scale_mat", remedy, camera_file.path)
        if placed is None:
            source = None if config.normalization == "auto" else config.normalization
            assert source != "stated"
            extent = extent_of_capture(files, sizes, intrinsics, poses, projections, source)
            placed = extent.sphere
            CONSOLE.print(f"The unit sphere is found from the {extent.source}: radius {placed.radius:.4g} of the data.")
        return Capture(files, sizes, intrinsics, poses, reference, placed)

    def _stated_file(self, folder: Path, must_exist: bool) -> Path | None:
        """The file with the stated cameras."""
        if self.config.cameras_file is not None:
            return folder / self.config.cameras_file
        try:
            return find_camera_file(folder)
        except InputError:
            if must_exist:
                raise
            return None

    def _indices(self, split: str, files: IdrFiles) -> list[int]:
        """The views of a split."""
        config, count = self.config, len(files.images)
        everything = list(range(count))
        if config.eval_mode == "all":
            return everything
        file = files.folder / SPLITS_FILE
        if config.eval_mode == "auto" and file.is_file():
            return _listed(split, file, [image.name for image in files.images])
        held_out = everything[config.eval_offset :: config.eval_interval]
        kept = [i for i in everything if i not in set(held_out)]
        if not held_out or not kept:
            problem = f"of {count} images, {len(held_out)} are held out and {len(kept)} left to train on"
            raise InputError(problem, "Set --eval-mode all, or another --eval-interval or --eval-offset", files.folder)
        return kept if split == "train" else held_out


def cameras_of(
    camera_file: CameraFile, files: IdrFiles, sizes: NDArray
) -> tuple[Float[NDArray, "n 3 3"], Float[NDArray, "n 3 4"], Float[NDArray, "n 3 4"]]:
    """Intrinsics, camera-to-world matrices and projections of all images, in world coordinates and pixels.

    Raises: InputError if cameras and images do not belong together, or a matrix is no camera.
    """
    known = sorted(camera_file.world)

    def cameras(images: Sequence[int], numbers: Sequence[int]) -> tuple[NDArray, NDArray, NDArray]:
        pixels = [(int(width), int(height)) for width, height in sizes[list(images)]]
        projections = camera_file.projections(list(numbers), pixels)
        parts = [
            decompose(matrix, size, f"world_mat_{number}", camera_file.path)
            for matrix, size, number in zip(projections, pixels, numbers)
        ]
        intrinsics, poses = (np.stack(values) for values in zip(*parts))
        return intrinsics, poses, np.stack(projections)

    def agreement(images: Sequence[int], ranks: Sequence[int]) -> float:
        try:
            _, poses, projections = cameras(images, [known[rank] for rank in ranks])
        except InputError:  # no cameras of these images
            return 0.0
        some, photographs = list(images), files.masks is None
        return agreement_of_masks([masks[i] for i in some], projections, sizes[some], poses, photographs)

    masks = mask_files_of(files.images, files.masks) or []
    score = agreement if masks and files.unpaired_masks is None else None
    return cameras(range(len(files.images)), pair_views(files.images, known, camera_file.path, score))


def with_masks(
    files: IdrFiles, sizes: NDArray, poses: Float[NDArray, "n 3 4"], projections: Float[NDArray, "n 3 4"]
) -> IdrFiles:
    """The files with masks that are paired with their images, and have their sizes.

    Args:
        files: of the data set.
        sizes: (width, height) of the images [n, 2].
        poses, projections: of the images' cameras; see `cameras_of`.
    Raises: InputError if nothing tells which belong together, or a mask has another size.
    """
    there = files.masks or files.unpaired_masks
    if there is not None and are_white(there):
        note_once(f"{there[0].parent}: all masks are white everywhere, and say nothing: the data has no masks.")
        return replace(files, masks=None, unpaired_masks=None)
    masks = files.unpaired_masks
    if masks is not None:

        def agreement(images: Sequence[int], positions: Sequence[int]) -> float:
            some = list(images)
            return agreement_of_masks([masks[i] for i in positions], projections[some], sizes[some], poses[some])

        paired = pair_masks(files.images, masks, masks[0].parent, agreement)
        files = replace(files, masks=paired, unpaired_masks=None)
    if files.masks is not None:
        check_mask_sizes(files.masks, [(int(width), int(height)) for width, height in sizes])
    return files


def _short(value: Any) -> str:
    """A JSON value, cut short."""
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:37]}…"


def _listed(split: str, file: Path, names: list[str]) -> list[int]:
    """The views that splits.json lists for a split; where it lists no val, or no test, the other of them."""
    content = read_json(file, required=["train"])
    other = {"val": "test", "test": "val"}.get(split, split)
    for name in ("train", "val", "test"):
        listed = content.get(name)
        if listed is not None and not isinstance(listed, list):
            raise InputError(f'"{name}" is {_short(listed)}', "Give it a list of file names", file)
        for entry in listed or ():
            if not isinstance(entry, str):
                raise InputError(f'"{name}" lists {_short(entry)}', "List file names", file)
    chosen = content.get(split) or content.get(other)
    if not chosen:
        raise InputError(f'it lists no images for "{split}"', "Add them, or set --eval-mode interval", file)
    unknown = sorted(set(chosen) - set(names))
    if unknown:
        raise InputError(f"it lists {unknown[0]}, which is not there", "Correct or remove the entry", file)
    return [names.index(name) for name in chosen]
