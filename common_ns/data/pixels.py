"""All training pixels of a data set in one flat store, drawn uniformly.

nerfstudio keeps images as float32 and, when their sizes differ, draws a fixed number of rays from every image in a
Python loop. Here pixels stay in the type they were stored in (a quarter of the memory), a pixel of a small image is as
likely
as one of a large image, and drawing is one gather. A capture that is larger than the memory can be kept on disk.
"""

from __future__ import annotations

import errno
import mmap
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int
from rich.progress import track
from torch import Tensor

from common_ns.data.memory import available_memory
from common_ns.errors import InputError

MANY_IMAGES = 200
"""From so many images on, decoding takes seconds and a progress bar shows it."""


class PixelStore:
    """Per-pixel data of images of any sizes.

    Args:
        load: gives the arrays of one image by index, each [height, width, channels], always with the same names,
            channels and types. The optional name "mask" ([height, width, 1], bool) limits which pixels are drawn.
        sizes: (height, width) of each image.
        device: where the pixels are kept and drawn.
        num_workers: threads that decode images, and images that are in memory on their way into the store.
        on_disk: keep the pixels in a temporary file, of which the system holds in memory what there is room for. The
            file has no name: it vanishes with the store, however the process ends. It is in TMPDIR or /var/tmp.
    Raises: InputError if there is less memory, or space on disk, than the pixels need. It is found before the second
        image is decoded.
    """

    def __init__(
        self,
        load: Callable[[int], dict[str, np.ndarray]],
        sizes: Sequence[tuple[int, int]],
        device: torch.device | str = "cpu",
        num_workers: int = 4,
        on_disk: bool = False,
    ) -> None:
        if on_disk and torch.device(device).type != "cpu":
            drop = "Drop --pipeline.datamanager.images-on-gpu True or --pipeline.datamanager.pixels-on-disk True"
            raise InputError(f"pixels on disk cannot be kept on the device {device} as well", drop)
        counts = [height * width for height, width in sizes]
        ends = np.cumsum(counts, dtype=np.int64)
        self.starts = torch.from_numpy(ends - np.array(counts)).to(device)
        self.widths = torch.tensor([width for _, width in sizes], device=device)
        self.device = device
        first = load(0)
        row_types = {name: (array.shape[-1], array.dtype) for name, array in first.items() if name != "mask"}
        self.arrays = _allocate(int(ends[-1]), row_types, device, on_disk)

        def fill(index: int) -> np.ndarray:
            """Store one image; returns the first pixel of each run in its mask and the one after its last [n, 2]."""
            arrays = first if index == 0 else load(index)
            start = int(ends[index]) - counts[index]
            for name, target in self.arrays.items():
                pixels, target = arrays[name].reshape(counts[index], -1), target[start : start + counts[index]]
                if target.device.type == "cpu":
                    np.copyto(target.numpy(), pixels)
                else:
                    target.copy_(torch.tensor(pixels))
            return start + _runs(arrays["mask"].reshape(-1)) if "mask" in arrays else np.empty((0, 2), dtype=np.int64)

        with ThreadPoolExecutor(max_workers=max(1, num_workers)) as pool:
            filled = pool.map(fill, range(len(sizes)))
            quiet = len(sizes) <= MANY_IMAGES
            runs = list(track(filled, "Decoding images", len(sizes), transient=True, disable=quiet))

        self._length = int(ends[-1])
        self._run_ends: Tensor | None = None
        if "mask" in first:
            # Masks are blobs. Their runs along the rows take a fraction of what a list of valid pixels would: 8 bytes
            # for each pixel, more than the pixel itself.
            bounds = torch.from_numpy(np.concatenate(runs)).to(device)
            run_lengths = bounds[:, 1] - bounds[:, 0]
            self._run_ends = torch.cumsum(run_lengths, dim=0)
            self._run_shifts = bounds[:, 1] - self._run_ends
            self._length = int(run_lengths.sum())

    def __len__(self) -> int:
        """Number of pixels that can be drawn."""
        return self._length

    @property
    def nbytes(self) -> int:
        """Bytes that the pixels occupy."""
        return sum(array.numel() * array.element_size() for array in self.arrays.values())

    def sample(self, num_pixels: int, part: slice = slice(None)) -> tuple[dict[str, Tensor], Int[Tensor, "n 3"]]:
        """Draw pixels uniformly with replacement, from torch's global random state.

        Args:
            num_pixels: number of pixels to draw.
            part: which of them to look up; the random numbers are those of all.
        Returns: the arrays' values [n, channels], and (image, row, column) of each pixel of the part.
        """
        # Before 2.7, torch takes 32 random bits modulo the number of pixels: of 2.4 billion, some are twice as likely.
        many = len(self) >= 2**28
        flat = torch.randint(2**62 if many else len(self), (num_pixels,), device=self.device)
        if many:
            flat %= len(self)
        flat = flat[part]
        if self._run_ends is not None:
            flat += self._run_shifts[torch.searchsorted(self._run_ends, flat, right=True)]
        return {name: array.index_select(0, flat) for name, array in self.arrays.items()}, self.locate(flat)

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


def _runs(mask: np.ndarray) -> np.ndarray:
    """First position of each run of true values in a flat mask and the position after its last [n, 2]."""
    padded = np.zeros(len(mask) + 2, dtype=np.int8)
    padded[1:-1] = mask
    return np.flatnonzero(np.diff(padded)).reshape(-1, 2)


def _torch_type(dtype: np.dtype) -> torch.dtype:
    return torch.from_numpy(np.empty(0, dtype)).dtype


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"
