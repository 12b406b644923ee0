"""All training pixels of a data set in one flat store, drawn uniformly.

nerfstudio keeps images as float32 and, when their sizes differ, draws a fixed number of rays from every image in a
Python loop. Here pixels stay in the type they were stored in (a quarter of the memory), a pixel of a small image is as
likely
as one of a large image, and drawing is one gather. A capture that is larger than the memory can be kept on disk. Rows
may have weights: those of panoramas are drawn by solid angle.
"""

from __future__ import annotations

import errno
import mmap
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from rich.progress import track
from torch import Tensor

from common_ns.data.memory import available_memory
from common_ns.data.pixel_file import PixelFile, PixelWriter
from common_ns.errors import InputError

MANY_IMAGES = 200
"""From so many images on, decoding takes seconds and a progress bar shows it."""

_Allocate = Callable[[int, dict[str, tuple[int, np.dtype]]], dict[str, Tensor]]
"""Gives uninitialized arrays [count, channels] for a count of pixels and each name's (channels, type)."""


class PixelRuns:
    """Some pixels of a store, as runs of neighbors: masks are blobs, and lists of pixels would take 8 bytes for each.

    Args:
        bounds: first position of each run and the one after its last, increasing.
        weights: how likely a pixel of each run is; None: all alike.
    """

    def __init__(self, bounds: Int[Tensor, "r 2"], weights: Float[Tensor, " r"] | None = None) -> None:
        lengths = bounds[:, 1] - bounds[:, 0]
        self.bounds = bounds
        self.ends = torch.cumsum(lengths, dim=0)
        """Number of pixels up to the end of each run."""
        self.shifts = bounds[:, 1] - self.ends
        """What leads from a pixel's number to its position."""
        self.weights = weights
        self._weight_ends = None if weights is None else torch.cumsum(weights.double() * lengths, dim=0)

    def __len__(self) -> int:
        """Number of pixels."""
        return int(self.ends[-1]) if len(self.ends) else 0

    def hold(self, positions: Int[Tensor, " k"]) -> Bool[Tensor, " k"]:
        """Whether pixels at positions are among them."""
        run = torch.searchsorted(self.bounds[:, 1].contiguous(), positions, right=True)
        start = self.bounds[run.clamp_max(len(self.bounds) - 1), 0]
        return (run < len(self.bounds)) & (positions >= start)

    def within(self, start: int, stop: int) -> PixelRuns:
        """Those of the pixels whose positions are from start to before stop."""
        first = int(torch.searchsorted(self.bounds[:, 1].contiguous(), start, right=True))
        last = int(torch.searchsorted(self.bounds[:, 0].contiguous(), stop))
        weights = None if self.weights is None else self.weights[first:last]
        return PixelRuns(self.bounds[first:last].clamp(start, stop), weights)

    def positions(self, numbers: Int[Tensor, " k"]) -> Int[Tensor, " k"]:
        """Positions of pixels, given by their number."""
        return numbers + self.shifts[torch.searchsorted(self.ends, numbers, right=True)]

    def draw(self, count: int, part: slice = slice(None)) -> Int[Tensor, " k"]:
        """Positions of pixels that are drawn with replacement, from torch's global random state.

        Args:
            count: number of pixels to draw.
            part: which of them to look up; the random numbers are those of all.
        """
        if self.weights is None or self._weight_ends is None:
            return self.positions(uniform_numbers(len(self), count, self.ends.device)[part])
        drawn = torch.rand(count, dtype=torch.float64, device=self.ends.device)[part] * self._weight_ends[-1]
        run = torch.searchsorted(self._weight_ends, drawn, right=True).clamp_max(len(self.ends) - 1)
        start, end = self.bounds[run].unbind(dim=-1)
        weight = self.weights[run].double()
        into = (drawn - (self._weight_ends[run] - weight * (end - start))) / weight
        return torch.minimum(start + into.long().clamp_min(0), end - 1)


def uniform_numbers(below: int, count: int, device: torch.device | str) -> Int[Tensor, " count"]:
    """Random whole numbers from 0 to below `below`, each as likely."""
    # Before 2.7, torch takes 32 random bits modulo the number of pixels: of 2.4 billion, some are twice as likely.
    many = below >= 2**28
    numbers = torch.randint(2**62 if many else below, (count,), device=device)
    return numbers % below if many else numbers


class PixelStore:
    """Per-pixel data of images of any sizes.

    Args:
        load: gives the arrays of one image by index, each [height, width, channels], always with the same names,
            channels and types. The optional name "mask" ([height, width, 1], bool) limits which pixels are drawn.
        sizes: (height, width) of each image.
        device: where the pixels are kept and drawn.
        num_workers: threads that decode images, and images that are in memory on their way into the store.
        on_disk: keep the pixels in a file, of which the system holds in memory what there is room for. A `PixelFile` is
            read if it is there, else written, and stays for later stores. With True it is a temporary file without a
            name, which vanishes with the store, however the process ends. It is in TMPDIR or /var/tmp.
        row_weights: for each image, how likely a pixel of each of its rows is to be drawn; None: 1 for all rows.
    Raises: InputError if there is less memory, or space on disk, than the pixels need. It is found before the second
        image is decoded.
    """

    def __init__(
        self,
        load: Callable[[int], dict[str, np.ndarray]],
        sizes: Sequence[tuple[int, int]],
        device: torch.device | str = "cpu",
        num_workers: int = 4,
        on_disk: bool | PixelFile = False,
        row_weights: Sequence[Float[np.ndarray, " h"] | None] | None = None,
    ) -> None:
        if on_disk is not False and torch.device(device).type != "cpu":
            drop = "Drop --pipeline.datamanager.images-on-gpu True or --pipeline.datamanager.pixels-on-disk True"
            raise InputError(f"pixels on disk cannot be kept on the device {device} as well", drop)
        counts = [height * width for height, width in sizes]
        ends = np.cumsum(counts, dtype=np.int64)
        self.starts = torch.from_numpy(ends - np.array(counts)).to(device)
        self.sizes = torch.tensor(list(sizes), dtype=torch.long, device=device).reshape(-1, 2)
        """Height and width of each image."""
        self.widths = self.sizes[:, 1].contiguous()
        self._heights = [height for height, _ in sizes]
        self.device = device
        weighted = [] if row_weights is None else [weights is not None for weights in row_weights]
        self._row_weights: list[Float[np.ndarray, " h"] | None] | None = None
        if row_weights is not None and any(weighted):
            self._row_weights = list(row_weights)
        decode = partial(self._decode, load, sizes, num_workers)
        if isinstance(on_disk, PixelFile):
            self.arrays, runs = self._kept(on_disk, decode)
        else:
            runs = decode(lambda count, row_types: _allocate(count, row_types, device, on_disk))

        lengths = np.zeros(len(sizes), dtype=np.int64)
        np.add.at(lengths, np.searchsorted(ends, runs[:, 0], side="right"), runs[:, 1] - runs[:, 0])
        self.empty_images: list[int] = np.flatnonzero(lengths == 0).tolist()
        """Images without a pixel that can be drawn."""
        self._filled: list[int] = np.flatnonzero(lengths).tolist()
        self._length = int(lengths.sum())
        self._runs: PixelRuns | None = None
        """The pixels that can be drawn; None: all, and all alike."""
        if self._length < int(ends[-1]) or self._row_weights is not None:
            self._runs = self._weighted(torch.from_numpy(runs).to(device))

    def _kept(
        self, file: PixelFile, decode: Callable[[_Allocate], Int[np.ndarray, "r 2"]]
    ) -> tuple[dict[str, Tensor], Int[np.ndarray, "r 2"]]:
        """Arrays and runs of a file, which is written if it is not there."""
        found = file.read()
        if found is not None:
            return found
        with file.locked():
            found = file.read()  # another process may just have written it
            if found is not None:
                return found
            writer: PixelWriter | None = None

            def allocate(count: int, row_types: dict[str, tuple[int, np.dtype]]) -> dict[str, Tensor]:
                nonlocal writer
                writer = PixelWriter(file, count, row_types, _reserve)
                return writer.arrays

            try:
                runs = decode(allocate)
            except BaseException:
                if writer is not None:
                    writer.abandon()
                raise
            assert writer is not None
            writer.finish(runs)
            return writer.arrays, runs

    def _decode(
        self,
        load: Callable[[int], dict[str, np.ndarray]],
        sizes: Sequence[tuple[int, int]],
        num_workers: int,
        allocate: _Allocate,
    ) -> Int[np.ndarray, "r 2"]:
        """Fill `arrays` from the images.

        Args:
            load, sizes, num_workers: as the class has them.
            allocate: gives uninitialized arrays.
        Returns: first position of each run of pixels that can be drawn, and the one after its last.
        """
        counts = [height * width for height, width in sizes]
        first = load(0)
        row_types = {name: (array.shape[-1], array.dtype) for name, array in first.items() if name != "mask"}
        self.arrays = allocate(sum(counts), row_types)
        starts = self.starts.tolist()

        def fill(index: int) -> np.ndarray:
            """Store one image; returns the first pixel of each run in its mask and the one after its last [n, 2]."""
            arrays = first if index == 0 else load(index)
            start = starts[index]
            by_row = self._row_weights is not None and self._row_weights[index] is not None
            for name, target in self.arrays.items():
                pixels, target = arrays[name].reshape(counts[index], -1), target[start : start + counts[index]]
                if target.device.type == "cpu":
                    np.copyto(target.numpy(), pixels)
                else:
                    target.copy_(torch.tensor(pixels))
            if "mask" in arrays or by_row:
                mask = arrays.get("mask", np.ones(sizes[index], dtype=bool)).reshape(sizes[index])
                return start + _runs(mask if by_row else mask.reshape(1, -1))
            return np.array([[start, start + counts[index]]])

        with ThreadPoolExecutor(max_workers=max(1, num_workers)) as pool:
            filled = pool.map(fill, range(len(sizes)))
            quiet = len(sizes) <= MANY_IMAGES
            runs = track(filled, "Decoding images", len(sizes), transient=True, disable=quiet)
            return np.concatenate(list(runs)).astype(np.int64)

    def _weighted(self, bounds: Int[Tensor, "r 2"]) -> PixelRuns:
        """Runs with the weights of their rows."""
        if self._row_weights is None:
            return PixelRuns(bounds)
        heights = np.array([len(self._rows(index)) for index in range(len(self._row_weights))])
        table = torch.from_numpy(np.concatenate([self._rows(index) for index in range(len(heights))])).to(self.device)
        first_row = torch.from_numpy(np.cumsum(heights) - heights).to(self.device)
        image, row, _ = self.locate(bounds[:, 0].contiguous()).unbind(dim=-1)
        return PixelRuns(bounds, table[first_row[image] + row])

    def _rows(self, index: int) -> Float[np.ndarray, " h"]:
        assert self._row_weights is not None
        weights = self._row_weights[index]
        return np.ones(self._heights[index]) if weights is None else weights

    def runs_of(self, chosen: Bool[Tensor, " n"]) -> PixelRuns:
        """The pixels that can be drawn and are chosen, with their weights.

        Args:
            chosen: for each pixel of the store.
        """
        edges = torch.zeros(len(chosen) + 1, dtype=torch.bool, device=chosen.device)
        """Positions at which a run may not go on."""
        if self._runs is not None:
            steps = torch.zeros(len(chosen) + 1, dtype=torch.int8, device=chosen.device)
            one = torch.ones(1, dtype=torch.int8, device=chosen.device)
            for column, sign in ((0, one), (1, -one)):
                steps.index_add_(0, self._runs.bounds[:, column], sign.expand(len(self._runs.bounds)))
            chosen = chosen & torch.cumsum(steps[:-1], dim=0, dtype=torch.int8).bool()
            if self._row_weights is not None:
                edges[self._runs.bounds.reshape(-1)] = True
        before = torch.nn.functional.pad(chosen, (1, 0))[:-1]
        after = torch.nn.functional.pad(chosen, (0, 1))[1:]
        starts = (chosen & (~before | edges[:-1])).nonzero()
        ends = (chosen & (~after | edges[1:])).nonzero() + 1
        return self._weighted(torch.cat([starts, ends], dim=-1))

    def __len__(self) -> int:
        """Number of pixels that can be drawn."""
        return self._length

    @property
    def nbytes(self) -> int:
        """Bytes that the pixels occupy."""
        return sum(array.numel() * array.element_size() for array in self.arrays.values())

    def draw_image(self) -> tuple[int, int]:
        """Positions of an image's first pixel and of the one after its last; the image is one of those that have pixels
        to draw, each as likely, by torch's global random state."""
        image = self._filled[int(torch.randint(len(self._filled), ()))]
        start = int(self.starts[image])
        return start, start + self._heights[image] * int(self.widths[image])

    def sample(
        self, num_pixels: int, part: slice = slice(None), from_one_image: bool = False
    ) -> tuple[dict[str, Tensor], Int[Tensor, "n 3"]]:
        """Draw pixels with replacement, by their weights, from torch's global random state.

        Args:
            num_pixels: number of pixels to draw.
            part: which of them to look up; the random numbers are those of all.
            from_one_image: all of them from one image, which is drawn first.
        Returns: the arrays' values [n, channels], and (image, row, column) of each pixel of the part.
        """
        return self.at(self.draw(num_pixels, part, from_one_image))

    def draw(self, num_pixels: int, part: slice = slice(None), from_one_image: bool = False) -> Int[Tensor, " n"]:
        """Flat positions of pixels that are drawn as `sample` does."""
        start, stop = self.draw_image() if from_one_image else (0, len(self))
        if self._runs is None:
            return start + uniform_numbers(stop - start, num_pixels, self.device)[part]
        return (self._runs.within(start, stop) if from_one_image else self._runs).draw(num_pixels, part)

    def can_be_drawn(self, flat: Int[Tensor, "*n"]) -> Bool[Tensor, "*n"]:
        """Whether pixels at positions are not masked out."""
        if self._runs is None:
            return torch.ones_like(flat, dtype=torch.bool)
        return self._runs.hold(flat.flatten()).view_as(flat)

    def at(self, flat: Int[Tensor, " n"]) -> tuple[dict[str, Tensor], Int[Tensor, "n 3"]]:
        """The arrays' values [n, channels], and (image, row, column), at flat pixel positions."""
        return {name: array.index_select(0, flat) for name, array in self.arrays.items()}, self.locate(flat)

    def position(
        self, image: Int[Tensor, "*#n"], row: Int[Tensor, "*#n"], column: Int[Tensor, "*#n"]
    ) -> Int[Tensor, "*n"]:
        """Flat positions of pixels."""
        return self.starts[image] + row * self.widths[image] + column

    def locate(self, flat: Int[Tensor, " n"]) -> Int[Tensor, "n 3"]:
        """(image, row, column) of flat pixel positions."""
        image = torch.searchsorted(self.starts, flat, right=True) - 1
        local = flat - self.starts[image]
        width = self.widths[image]
        return torch.stack([image, local // width, local % width], dim=-1)


def scratch_folder() -> Path:
    """Where a store on disk keeps its file: TMPDIR if it is set, else /var/tmp where there is one.

    Many systems keep /tmp in memory; /var/tmp is always on a disk.
    """
    chosen = any(os.environ.get(name) for name in ("TMPDIR", "TEMP", "TMP"))
    usual = Path("/var/tmp")
    return usual if not chosen and os.access(usual, os.W_OK) else Path(tempfile.gettempdir())


def _allocate(
    count: int, row_types: dict[str, tuple[int, np.dtype]], device: torch.device | str, on_disk: bool
) -> dict[str, Tensor]:
    """Uninitialized arrays [count, channels] for each name's (channels, type), if there is room for them."""
    sizes = {name: count * channels * dtype.itemsize for name, (channels, dtype) in row_types.items()}
    needed = sum(sizes.values())
    smaller = "load smaller images with --pipeline.datamanager.camera-res-scale-factor 0.5"
    if on_disk:
        folder = scratch_folder()
        free = shutil.disk_usage(folder).free
        if needed > free:
            problem = f"the training pixels need {_gib(needed)} of disk space and {_gib(free)} are free"
            raise InputError(problem, f"Set TMPDIR to a folder with more space, or {smaller}", folder)
        dtypes = {name: _torch_type(dtype) for name, (_, dtype) in row_types.items()}
        mapped = {name: torch.frombuffer(_map_file(folder, sizes[name]), dtype=dtypes[name]) for name in row_types}
        return {name: array.reshape(count, -1) for name, array in mapped.items()}

    available = available_memory() if torch.device(device).type == "cpu" else None
    if available is not None and needed > available:
        problem = f"the training pixels need {_gib(needed)} of memory and {_gib(available)} are available"
        raise InputError(problem, f"Keep them on disk with --pipeline.datamanager.pixels-on-disk True, or {smaller}")
    return {
        name: torch.empty((count, channels), dtype=_torch_type(dtype), device=device)
        for name, (channels, dtype) in row_types.items()
    }


def _map_file(folder: Path, size: int) -> mmap.mmap:
    """Memory of `size` bytes that lives in a file without a name in `folder`.

    A temporary file is unlinked as soon as it is made (on Windows: deleted as soon as it is closed), and the mapping
    keeps it open.
    """
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.truncate(size)
            _reserve(file.fileno(), size)
            memory = mmap.mmap(file.fileno(), size)
    except OSError as error:
        problem = f"the training pixels cannot be stored there: {error.strerror or error}"
        raise InputError(problem, "Set TMPDIR to a folder on a disk with enough space", folder) from error
    if hasattr(mmap, "MADV_RANDOM"):
        memory.madvise(mmap.MADV_RANDOM)  # else a pixel that is not in memory is read with the 128 KiB around it
    return memory


def _reserve(descriptor: int, size: int) -> None:
    """Make sure that a file gets its space: one with holes ends the process with a bus error if the disk fills up."""
    if hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(descriptor, 0, size)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):  # what file systems without it say
                raise


def _runs(mask: Bool[np.ndarray, "h w"]) -> Int[np.ndarray, "r 2"]:
    """First position of each run of true values in a row of a mask and the position after its last."""
    height, width = mask.shape
    padded = np.zeros((height, width + 2), dtype=np.int8)
    padded[:, 1:-1] = mask
    rows, columns = np.nonzero(np.diff(padded, axis=1))
    return (rows * width + columns).reshape(-1, 2)


def _torch_type(dtype: np.dtype) -> torch.dtype:
    return torch.from_numpy(np.empty(0, dtype)).dtype


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"
