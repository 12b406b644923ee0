"""Squares of pixels: where they are, what they hold, and that masked pixels never enter."""

import numpy as np
import pytest
import torch

from common_ns.data.coarse_pixels import averaged, check_scales, squares_around
from common_ns.data.pixels import PixelStore
from common_ns.errors import InputError

SIZES = [(9, 12), (16, 11), (3, 20)]


def store_of(masks=None):
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in SIZES]

    def load(index):
        return {"image": images[index]} | ({} if masks is None else {"mask": masks[index]})

    return PixelStore(load, SIZES), images


def all_pixels():
    return torch.tensor(
        [(i, r, c) for i, (height, width) in enumerate(SIZES) for r in range(height) for c in range(width)]
    )


@pytest.mark.parametrize("masked", [False, True])
def test_squares_lie_in_their_image_around_the_drawn_pixel_and_hold_valid_pixels_only(masked):
    masks = None
    if masked:
        rng = np.random.default_rng(1)
        masks = [rng.random((*size, 1)) > 0.02 for size in SIZES]
        masks[1][:, 5:] = True
        masks[2][:] = False
    store, images = store_of(masks)
    drawn = all_pixels()
    if masks is not None:
        drawn = drawn[[bool(masks[i][r, c, 0]) for i, r, c in drawn.tolist()]]
    sides = torch.tensor([1, 2, 3, 8]).repeat(len(drawn))[: len(drawn)]
    squares = squares_around(store, drawn, sides)

    held = {ray: pixels for rays, found in squares.larger for ray, pixels in zip(rays.tolist(), found)}
    for ray, (image, row, column) in enumerate(drawn.tolist()):
        asked, side = int(sides[ray]), int(squares.side[ray])
        height, width = SIZES[image]
        top, left = squares.corner[ray].tolist()
        assert 0 <= top <= row < top + side <= height and 0 <= left <= column < left + side <= width
        assert squares.middle[ray].tolist() == [top + side / 2, left + side / 2]
        assert (ray in held) == (side > 1)
        if side == 1:
            if asked > 1 and min(height, width) >= asked:  # alone because of the mask
                around = [
                    min(max(at - (asked - 1) // 2, 0), end - asked) for at, end in ((row, height), (column, width))
                ]
                top, left = around
                assert masks is not None and not masks[image][top : top + asked, left : left + asked].all()
            continue
        assert side == asked
        pixels = images[image][top : top + side, left : left + side].reshape(-1, 3)
        assert np.array_equal(store.arrays["image"][held[ray]].numpy(), pixels)
        if masks is not None:
            assert masks[image][top : top + side, left : left + side].all()
    assert set(squares.side.tolist()) == {1, 2, 3, 8}


def test_what_is_invisible_does_not_color_a_mean():
    pixels = torch.tensor([[[1.0, 0.0, 0.0, 1.0], [0.0, 1.0, 0.0, 0.0]], [[0.2, 0.2, 0.2, 0.5], [0.6, 0.6, 0.6, 0.5]]])
    assert torch.allclose(averaged(pixels), torch.tensor([[1.0, 0.0, 0.0, 0.5], [0.4, 0.4, 0.4, 0.5]]))
    assert torch.allclose(averaged(pixels[..., :3]), pixels[..., :3].mean(dim=1))


@pytest.mark.parametrize("scales", [(), (0, 1), (2, -1)])
def test_scales_below_one_are_refused(scales):
    with pytest.raises(InputError, match="train-scales"):
        check_scales(scales)
