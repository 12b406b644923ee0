"""Pixels are drawn uniformly, with the right values and places, over images of different sizes."""

import numpy as np
import torch

from common_ns.pixels import PixelStore

SIZES = [(4, 6), (2, 3), (1, 5)]


def coded(index: int) -> dict[str, np.ndarray]:
    """An image whose pixels say where they are: (image, row, column)."""
    height, width = SIZES[index]
    rows, columns = np.meshgrid(np.arange(height), np.arange(width), indexing="ij")
    return {"image": np.stack([np.full_like(rows, index), rows, columns], axis=-1).astype(np.uint8)}


def test_values_and_places_agree():
    store = PixelStore(coded, SIZES)
    assert len(store) == 24 + 6 + 5 and store.nbytes == 3 * 35
    torch.manual_seed(0)
    values, indices = store.sample(500)
    assert values["image"].dtype == torch.uint8
    assert torch.equal(values["image"].long(), indices)


def test_every_pixel_is_equally_likely():
    store = PixelStore(coded, SIZES)
    torch.manual_seed(0)
    _, indices = store.sample(35_000)
    counts = torch.bincount(indices[:, 0] * 100 + indices[:, 1] * 10 + indices[:, 2])
    counts = counts[counts > 0]
    assert len(counts) == 35
    assert (counts - 1000).abs().max() < 5 * 1000**0.5


def test_masked_pixels_are_never_drawn():
    def masked(index):
        arrays = coded(index)
        return {**arrays, "mask": (arrays["image"][..., 2:] % 2 == 0)}

    store = PixelStore(masked, SIZES)
    assert len(store) == 12 + 4 + 3
    _, indices = store.sample(1000)
    assert (indices[:, 2] % 2 == 0).all()


def test_all_places_in_order():
    store = PixelStore(coded, SIZES)
    flat = torch.arange(35)
    expected = torch.cat([torch.from_numpy(coded(i)["image"].reshape(-1, 3)).long() for i in range(3)])
    assert torch.equal(store.locate(flat), expected)
