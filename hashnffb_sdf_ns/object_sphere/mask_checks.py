"""Masks of an object, from mask files or the alpha of images, checked before a training relies on them."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import NDArray

from common_ns.data.images import images_have_alpha
from common_ns.data.masks import COUNTS_ABOVE, read_mask
from common_ns.errors import InputError
from hashnffb_sdf_ns.object_sphere.visual_hull import Hull, View, carve, likely_region

CARVE_SIZE = 256
"""Most pixels along a side of the masks that hulls are carved from."""
CARVE_VIEWS = 60
"""Most views that hulls are carved from, evenly over all."""
WHOLE = 0.999
"""Share of white pixels from which a mask is all white."""
BAD_AGREEMENT = 0.2
"""A mask that holds less of the hull than this is not of the same object."""
MIN_COVERAGE = 0.8
"""Share of the masks that a hull of good masks and cameras explains at least."""
OPTION = "--pipeline.datamanager.masks-are"
"""The option that says what masks mean."""

SAME, MUCH_THE_SAME = 0.999, 0.98
"""Median overlap (intersection over union) of masks with their majority, from which all are the same, or nearly so."""
FILLED = 0.97
"""Share of the rectangle about a mask that is white, from which the mask is that rectangle."""

Meaning = Literal["object", "valid"]


def mask_files_of(images: Sequence[Path], masks: Sequence[Path] | None) -> list[Path] | None:
    """The files that masks are read from: mask files where there are any, else images whose alpha says something; None
    if neither."""
    if masks is not None:
        return list(masks)
    return list(images) if alpha_shows_object(images) else None


def alpha_shows_object(images: Sequence[Path]) -> bool:
    """Whether images have alpha, and it is not opaque in all of them, as editors add it that always save one."""
    there = [Path(image) for image in images if Path(image).exists()]
    return images_have_alpha(there) and not all(read_mask(file, alpha_only=True).min() == 255 for file in there)


def are_white(masks: Sequence[Path]) -> bool:
    """Whether masks are white everywhere, as NeuS's preparation writes them where there are none."""
    return all(read_mask(file).mean() > 255.0 * WHOLE for file in masks)


def views_of(
    masks: Sequence[Path],
    projections: Float[NDArray, "v 3 4"],
    sizes: Sequence[tuple[int, int]],
    photographs: bool = False,
) -> tuple[list[View], list[Path]]:
    """Small masks with their projections, of at most `CARVE_VIEWS` views, and the files that they are from.

    Args:
        masks: one file for each view.
        projections: to the pixels of the images, in any coordinates of the world.
        sizes: (width, height) of the images.
        photographs: the files are the images, whose alpha is the mask.
    """
    some = np.unique(np.linspace(0, len(masks) - 1, min(len(masks), CARVE_VIEWS)).round().astype(int))

    def view(index: int) -> View:
        width, height = sizes[index]
        factor = min(1.0, CARVE_SIZE / max(width, height))
        small = (max(1, round(width * factor)), max(1, round(height * factor)))
        scale = np.array([small[0] / width, small[1] / height, 1.0])
        mask = read_mask(masks[index], small, alpha_only=photographs) > COUNTS_ABOVE
        return View(scale[:, None] * projections[index], mask)

    with ThreadPoolExecutor(max_workers=4) as pool:
        return list(pool.map(view, some)), [masks[index] for index in some]


def check_contents(views: Sequence[View], files: Sequence[Path]) -> None:
    """Look at each mask alone.

    Args:
        views: with their masks.
        files: their files.
    Raises: InputError if one is empty, or all are white everywhere.
    """
    shares = np.array([view.mask.mean() for view in views])
    empty = np.flatnonzero(shares == 0.0)
    if len(empty):
        others = f", as are {len(empty) - 1} others of {len(files)}" if len(empty) > 1 else ""
        remedy = "Draw the object white on black, or remove the view; without the mask folder, training needs no masks"
        raise InputError(f"the mask is empty{others}", remedy, files[int(empty[0])])
    if (shares > WHOLE).all():
        problem = "all masks are white everywhere, and say nothing about the object"
        raise InputError(problem, "Remove the mask folder to train without masks", Path(files[0]).parent)


def check_agreement(views: Sequence[View], files: Sequence[Path], hull: Hull | None) -> list[str]:
    """Look at the masks together.

    Masks are inverted if they are white along most of the border of the pictures, and black regions are those of one
    object seen from all sides: they have a visual hull of their own, which fills them. Neither alone would do: the
    surroundings of an object have a hull too, and an object may fill pictures up to the border.

    Args:
        views: with their masks.
        files: their files.
        hull: their visual hull; None if there is none.
    Returns: warnings, one line each.
    Raises: InputError if all masks are inverted, or some of them are.
    """
    if _are_inverted(views):
        problem = "the masks are inverted: they are white where the object is not"
        raise InputError(problem, "Invert them, so that the object is white on black", Path(files[0]).parent)
    if hull is None or len(hull.points) == 0:
        return []
    bad = np.flatnonzero(hull.agreement < BAD_AGREEMENT)
    turned = [index for index in bad if border_fraction(views[index].mask) > 0.5]
    if turned:
        names = ", ".join(files[index].name for index in turned[:5])
        problem = f"{len(turned)} of {len(files)} masks are inverted, unlike the others: {names}"
        raise InputError(problem, "Invert them, so that the object is white on black", files[turned[0]])
    warnings = [
        f"the mask {files[index].name} holds {hull.agreement[index]:.0%} of the object that the others agree on"
        for index in bad
    ]
    common = float(np.median(hull.coverage))
    if common < MIN_COVERAGE:
        reason = "the cameras are rough, or masks do not belong to their images"
        warnings.append(f"what nearly all masks agree on explains {common:.0%} of them only: {reason}")
    return warnings


def meaning_of(views: Sequence[View], files: Sequence[Path]) -> tuple[Meaning, str]:
    """What masks mean of which nobody has said it: where an object is, or which pixels are valid.

    Masks of valid pixels leave out what is the same in all pictures (a watermark, the hood of a car, the dark around a
    fisheye's picture), their borders, or here and there something that has moved. Masks of an object are black along
    most of the border of the pictures, and agree on a visual hull. Valid pixels often have a hull as well: of whole
    pictures of one thing it is the space that all see.

    Args:
        views: with their masks.
        files: their files.
    Returns: the meaning, and why, in words.
    Raises: InputError if they are masks of an object that are inverted, or neither kind.
    """
    overlap = _overlap(views)
    if len(views) > 2 and (overlap >= SAME or (overlap >= MUCH_THE_SAME and _reach_opposite_sides(views))):
        return "valid", "they are the same in all pictures"
    if np.median([border_fraction(view.mask) for view in views]) > 0.5:
        if _are_inverted(views):
            problem = "the masks are inverted: they are white where the object is not"
            remedy = f"Invert them, or set {OPTION} valid to train on what is white"
            raise InputError(problem, remedy, Path(files[0]).parent)
        return "valid", "they are white along most of the borders of the pictures"
    boxes = [_box(view.mask) for view in views if view.mask.any()]
    if boxes and np.median([box.mean() for box in boxes]) > FILLED and np.median([v.mask.mean() for v in views]) > 0.3:
        return "valid", "they are rectangles, and leave out the borders of the pictures"
    hull = carve(views, *likely_region(views, np.zeros(3)))
    explained = float(hull.coverage.mean()) if len(hull.points) else 0.0
    if explained >= MIN_COVERAGE:
        return "object", f"they agree on one visual hull, which explains {explained:.0%} of them"
    check_contents(views, files)
    problem = f"the masks are not of one object (a visual hull explains {explained:.0%} of them)"
    remedy = f"Check that masks, images and cameras belong together, or set {OPTION} to object or valid"
    raise InputError(problem, remedy, Path(files[0]).parent)


def _overlap(views: Sequence[View]) -> float:
    """Median overlap of what most masks agree on with each of them, of the white or the black, whichever is less."""
    if len({view.mask.shape for view in views}) > 1:
        return 0.0
    masks = np.stack([view.mask for view in views])
    mostly_white = bool(masks.mean() > 0.5)
    masks = ~masks if mostly_white else masks
    majority = masks.mean(axis=0) > 0.5
    union = (masks | majority).sum(axis=(1, 2))
    # White everywhere is the same in all pictures; black everywhere says nothing.
    shares = np.where(union == 0, float(mostly_white), (masks & majority).sum(axis=(1, 2)) / np.maximum(union, 1))
    return float(np.median(shares))


def _reach_opposite_sides(views: Sequence[View]) -> bool:
    """Whether the white of most masks reaches from one border of the picture to the one opposite, or nearly."""

    def reaches(mask: Bool[NDArray, "h w"]) -> bool:
        return any(
            bool(places[: len(places) // 50 + 1].any() and places[-(len(places) // 50) - 1 :].any())
            for places in (mask.any(axis=0), mask.any(axis=1))
        )

    return float(np.mean([reaches(view.mask) for view in views])) > 0.5


def _box(mask: Bool[NDArray, "h w"]) -> Bool[NDArray, "a b"]:
    """The smallest rectangle of a mask that holds all its white."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def border_fraction(mask: Bool[NDArray, "h w"]) -> float:
    """Share of the pixels along the border of a picture that are in its mask."""
    return float(np.concatenate([mask[0], mask[-1], mask[1:-1, 0], mask[1:-1, -1]]).mean())


def _are_inverted(views: Sequence[View]) -> bool:
    """See `check_agreement`."""
    if np.median([border_fraction(view.mask) for view in views]) <= 0.5:
        return False
    opposite = [View(view.projection, ~view.mask) for view in views]
    if sum(view.mask.any() for view in opposite) < 0.9 * len(views):
        return False
    hull = carve(opposite, *likely_region(opposite, np.zeros(3)))
    return len(hull.points) > 0 and float(np.median(hull.coverage)) > 0.6 and float(np.nanmedian(hull.agreement)) > 0.8
