"""Masks are read whatever their kind, and bad ones are named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common_ns.errors import InputError
from hashnffb_sdf_ns.object_sphere.mask_checks import (
    check_agreement,
    check_contents,
    mask_files_of,
    views_of,
)
from hashnffb_sdf_ns.object_sphere.normalization import extent_of_masks
from hashnffb_sdf_ns.object_sphere.visual_hull import View
from tests.hashnffb_sdf_ns import idr_scene
from tests.hashnffb_sdf_ns.object_sphere.test_normalization import poses, views

FILES = [Path(f"{index:03d}.png") for index in range(idr_scene.COUNT)]


def hull_of(some: list[View]):
    extent = extent_of_masks(some, poses())
    return None if extent is None else extent.hull


def spoiled(change, which=range(idr_scene.COUNT)) -> list[View]:
    return [View(v.projection, change(v.mask) if index in which else v.mask) for index, v in enumerate(views())]


def test_good_masks_pass():
    check_contents(views(), FILES)
    assert check_agreement(views(), FILES, hull_of(views())) == []


def test_empty_masks_are_named():
    with pytest.raises(InputError, match=r"007.png: the mask is empty. "):
        check_contents(spoiled(np.zeros_like, [7]), FILES)
    with pytest.raises(InputError, match=r"002.png: the mask is empty, as are 1 others of 10"):
        check_contents(spoiled(np.zeros_like, [2, 5]), FILES)


def test_masks_that_are_white_everywhere_say_nothing():
    with pytest.raises(InputError, match=r"white everywhere"):
        check_contents(spoiled(np.ones_like), FILES)
    check_contents(spoiled(np.ones_like, [2, 5]), FILES)  # an object may fill some pictures


def test_inverted_masks_are_found_out():
    with pytest.raises(InputError, match=r"the masks are inverted"):
        some = spoiled(np.invert)
        check_agreement(some, FILES, hull_of(some))


def test_single_inverted_masks_are_named():
    some = spoiled(np.invert, [3])
    with pytest.raises(InputError, match=r"003.png: 1 of 10 masks are inverted"):
        check_agreement(some, FILES, hull_of(some))


def test_a_mask_of_something_else_is_a_warning():
    some = spoiled(lambda m: np.roll(m, 24, axis=1), [6])
    warnings = check_agreement(some, FILES, hull_of(some))
    assert len(warnings) == 1 and "006.png holds" in warnings[0]


def test_masks_of_other_images_are_a_warning():
    """Shifted to either side in turn, as no camera would have it."""
    some = [View(view.projection, np.roll(view.mask, 14 * (-1) ** index, axis=0)) for index, view in enumerate(views())]
    warnings = check_agreement(some, FILES, hull_of(some))
    assert any("masks do not belong to their images" in warning for warning in warnings)


def test_an_object_that_fills_the_pictures_is_not_inverted():
    """White along the border, with a black patch that is not one object's."""

    def filled(index: int, shape: tuple[int, ...]) -> np.ndarray:
        mask = np.ones(shape, dtype=bool)
        mask[5 * (index % 6) : 5 * (index % 6) + 6, 7 * (index % 5) : 7 * (index % 5) + 8] = False
        return mask

    some = [View(view.projection, filled(index, view.mask.shape)) for index, view in enumerate(views())]
    check_agreement(some, FILES, hull_of(some))


def test_views_of_keeps_the_geometry(tmp_path):
    """Masks of large images are carved small: the projection follows."""
    factor = 10
    large = [np.kron(view.mask, np.ones((factor, factor), dtype=bool)) for view in views()]
    files = [tmp_path / file for file in FILES]
    for file, mask in zip(files, large):
        Image.fromarray(mask).save(file)
    projections = np.stack([np.diag([factor, factor, 1.0]) @ view.projection for view in views()])
    found, _ = views_of(files, projections, [(480, 360)] * len(files))
    assert max(found[0].mask.shape) == 256
    hull = hull_of(found)
    assert hull is not None and np.linalg.norm(hull.points.mean(axis=0) - idr_scene.CENTER) < 2.0


def test_alpha_of_images_is_a_mask(tmp_path):
    for mode in ("RGB", "RGBA"):
        Image.new(mode, (4, 4)).save(tmp_path / f"{mode}.png")
    rgb, rgba = tmp_path / "RGB.png", tmp_path / "RGBA.png"
    assert mask_files_of([rgb], None) is None
    assert mask_files_of([rgba], None) == [rgba]
    assert mask_files_of([rgba], [rgb]) == [rgb]
