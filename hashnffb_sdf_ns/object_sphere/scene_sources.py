"""What a data set's files say about where its object is: masks, SfM points, or the cameras alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8
from nerfstudio.utils.rich_utils import CONSOLE
from numpy.typing import NDArray

from common_ns.errors import InputError
from common_ns.meshing.reading import load_geometry
from hashnffb_sdf_ns.idr_data.layout import IdrFiles
from hashnffb_sdf_ns.object_sphere.mask_checks import check_agreement, check_contents, mask_files_of, views_of
from hashnffb_sdf_ns.object_sphere.normalization import Extent, Source, extent_of_masks, scene_extent

COMPARED_VIEWS = 30
"""Most views of which it is tried how well their masks agree."""


@dataclass(frozen=True)
class OriginalViews:
    """Views as they are on disk, whatever resolution is trained or rendered: each command has to find the same sphere
    about the object."""

    images: list[Path]
    masks: list[Path] | None
    """One for each image; None if there are none."""
    sizes: NDArray
    """(width, height) of the images [n, 2]."""
    intrinsics: Float[NDArray, "n 3 3"]
    """K in pixels of the images; the first pixel's center is at 0.5."""


def read_points(file: Path) -> tuple[Float[NDArray, "n 3"], UInt8[NDArray, "n 3"]]:
    """Positions and colors (gray where there are none) of a point cloud.

    Raises: InputError if it cannot be read.
    """
    cloud, points, _ = load_geometry(file, "file of points", "Write it again, or remove it")
    colors = getattr(cloud, "colors", None)
    known = colors is not None and len(colors) == len(points) and len(points) > 0
    rgb = np.asarray(colors)[:, :3].astype(np.uint8) if known else np.full(points.shape, 128, np.uint8)
    finite = np.isfinite(points).all(axis=1)
    return points[finite], rgb[finite]


def half_angles(intrinsics: Float[NDArray, "n 3 3"], sizes: NDArray) -> Float[NDArray, " n"]:
    """Half of the smaller field of view of each camera, in radians."""
    return np.arctan(np.minimum(0.5 * sizes[:, 0] / intrinsics[:, 0, 0], 0.5 * sizes[:, 1] / intrinsics[:, 1, 1]))


def agreement_of_masks(
    masks: Sequence[Path],
    projections: Float[NDArray, "n 3 4"],
    sizes: NDArray,
    poses: Float[NDArray, "n 3 4"],
    photographs: bool = False,
) -> float:
    """How well masks agree on one object: the mean share of them that their visual hull explains, 0 without a hull.

    Args: as those of `checked_extent`.
    """
    some = np.unique(np.linspace(0, len(masks) - 1, min(len(masks), COMPARED_VIEWS)).round().astype(int))
    pixels = [(int(width), int(height)) for width, height in sizes[some]]
    views, _ = views_of([masks[index] for index in some], projections[some], pixels, photographs)
    extent = extent_of_masks(views, poses[some])
    return 0.0 if extent is None or extent.hull is None else float(extent.hull.coverage.mean())


def checked_extent(
    masks: Sequence[Path],
    projections: Float[NDArray, "n 3 4"],
    sizes: NDArray,
    poses: Float[NDArray, "n 3 4"],
    refuse: bool = True,
    photographs: bool = False,
) -> Extent | None:
    """The extent of the object by its masks, after checks of the masks.

    Args:
        masks: one file for each view; only some are read if there are many.
        projections: from the poses' world to pixels.
        sizes: (width, height) of the images.
        poses: camera to world, OpenGL axes.
        refuse: raise an error for masks that are empty, inverted or contradict each other; else print it, and return
            what can be found in spite of them.
        photographs: the files are the images, whose alpha is the mask.
    Returns: None if there is no visual hull.
    Raises: InputError if `refuse`.
    """
    views, files = views_of(masks, projections, [(int(w), int(h)) for w, h in sizes], photographs)

    def found(error: InputError) -> None:
        if refuse:
            raise error
        CONSOLE.print(f"[yellow]{error}")

    try:
        check_contents(views, files)
    except InputError as error:
        found(error)
    extent = extent_of_masks(views, poses)
    try:
        for warning in check_agreement(views, files, None if extent is None else extent.hull):
            CONSOLE.print(f"[yellow]Masks: {warning}.")
    except InputError as error:
        found(error)
    if extent is None:
        problem = "the masks contradict each other: no point of space is inside nearly all of them"
        remedy = "Check that masks, images and cameras belong together, and the axes of the cameras"
        found(InputError(problem, remedy, Path(files[0]).parent))
    return extent


def extent_of_capture(
    files: IdrFiles,
    sizes: NDArray,
    intrinsics: Float[NDArray, "n 3 3"],
    poses: Float[NDArray, "n 3 4"],
    projections: Float[NDArray, "n 3 4"],
    source: Source | None = None,
) -> Extent:
    """Where the object of a data set of the IDR layout is, in its world.

    Args:
        files: of the data set.
        sizes: (width, height) of the images.
        intrinsics: intrinsics.
        poses: camera to world, OpenGL axes.
        projections: world to pixels.
        source: what to find it from; None: masks, else points, else cameras.
    Raises: InputError if the source is not there or does not tell.
    """
    masks = mask_files_of(files.images, files.masks)
    if source in (None, "masks") and masks is not None:
        extent = checked_extent(masks, projections, sizes, poses, photographs=files.masks is None)
        assert extent is not None
        return extent
    if source == "masks":
        raise InputError("there are no masks", "Add the folder mask, or set --normalization auto", files.folder)
    points = None
    if source in (None, "points") and files.points is not None:
        points, _ = read_points(files.points)
    extent = scene_extent(poses, half_angles(intrinsics, sizes), points=points)
    if extent is None or (source is not None and extent.source != source):
        missing = {"points": "there are no SfM points, or too few", "cameras": "the cameras do not look at one point"}
        problem = missing.get(
            source or "", "there are no masks, and neither points nor cameras tell where the object is"
        )
        raise InputError(problem, "Write scale_mat into the file of cameras, or add masks", files.folder)
    return extent
