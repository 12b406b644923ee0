"""All training pixels of a data set in one flat store, drawn uniformly.

The host keeps images as float32 and, when their sizes differ, draws a fixed number of rays from every image in a Python
loop. Here pixels stay in the type they were stored in (a quarter of the memory), a pixel of a small image is as likely
as one of a large image, and drawing is one gather.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor


class PixelStore:
    """Per-pixel data of images of any sizes.

    Args:
        load: gives the arrays of one image by index, each [height, width, channels], always with the same names,
            channels and types. The optional name "mask" ([height, width, 1], bool) limits which pixels are drawn.
        sizes: (height, width) of each image.
        device: where the pixels are kept and drawn.
        num_workers: threads that decode images.
    """

    def __init__(
        self,
        load: Callable[[int], dict[str, np.ndarray]],
        sizes: Sequence[tuple[int, int]],
        device: torch.device | str = "cpu",
        num_workers: int = 4,
    ) -> None:
        counts = [height * width for height, width in sizes]
        ends = np.cumsum(counts)
        self.starts = torch.from_numpy(ends - np.array(counts)).to(device)
        self.widths = torch.tensor([width for _, width in sizes], device=device)
        self.device = device
        first = load(0)
        total = int(ends[-1])
        self.arrays = {
            name: torch.empty((total, array.shape[-1]), dtype=torch.from_numpy(array[:0]).dtype, device=device)
            for name, array in first.items()
        }

        def fill(index: int) -> None:
            arrays = first if index == 0 else load(index)
            start = int(ends[index]) - counts[index]
            for name, array in arrays.items():
                flat = torch.from_numpy(np.ascontiguousarray(array).reshape(counts[index], -1))
                self.arrays[name][start : start + counts[index]] = flat.to(device)

        with ThreadPoolExecutor(max_workers=max(1, num_workers)) as pool:
            list(pool.map(fill, range(len(sizes))))
        mask = self.arrays.pop("mask", None)
        self.valid = None if mask is None else torch.nonzero(mask[:, 0]).squeeze(-1)

    def __len__(self) -> int:
        """Number of pixels that can be drawn."""
        return len(next(iter(self.arrays.values()))) if self.valid is None else len(self.valid)

    @property
    def nbytes(self) -> int:
        """Bytes that the pixels occupy."""
        return sum(array.numel() * array.element_size() for array in self.arrays.values())

    def sample(self, num_pixels: int) -> tuple[dict[str, Tensor], Int[Tensor, "n 3"]]:
        """Draw pixels uniformly with replacement, from torch's global random state.

        Returns: the arrays' values [n, channels], and (image, row, column) of each pixel.
        """
        flat = torch.randint(len(self), (num_pixels,), device=self.device)
        if self.valid is not None:
            flat = self.valid[flat]
        return {name: array[flat] for name, array in self.arrays.items()}, self.locate(flat)

    def locate(self, flat: Int[Tensor, " n"]) -> Int[Tensor, "n 3"]:
        """(image, row, column) of flat pixel positions."""
        image = torch.searchsorted(self.starts, flat, right=True) - 1
        local = flat - self.starts[image]
        width = self.widths[image]
        return torch.stack([image, local // width, local % width], dim=-1)
