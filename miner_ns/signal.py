"""What MINER is fitted to: an image or a volume on a regular grid, kept as it is stored and read box by box.

Sample i of an axis covers [i, i + 1) in grid coordinates; its center is at i + ½. Spatial axes come first, the channels
last: (row, column, channel) of an image, (x, y, z, channel) of a volume.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Shaped, UInt8
from numpy.typing import DTypeLike, NDArray

from common_ns.errors import InputError

CHUNK_SAMPLES = 2**24
"""Most samples that are looked at at once when a whole signal is scanned: 64 MiB of float32."""


class Signal:
    """An n-dimensional signal on a grid, kept in the type and the place it was stored in.

    A gigapixel image stays 8-bit (or on disk, as a memory map), an occupancy volume stays one bit a voxel; only the box
    that is asked for becomes float32. Values in [0, 1] stand for `value_range` of the stored values: all that the type
    can hold for bool, uint8 and uint16, else what the signal itself spans (colors are not converted: sRGB stays sRGB).

    The arrays are read-only, so that copies of a signal, as nerfstudio makes them of metadata, share them.

    Args:
        array: spatial axes, then optionally channels; any bool, integer or float type, in memory or memory-mapped. It
            is not copied.
        ndim: number of spatial axes.
        value_range: stored values that become 0 and 1. Default: found as said above, which reads through floats once.
        source: the file it was read from, for messages.
        nodata: stored value of samples that have no data, as GeoTIFFs name it; NaN counts as such then too. These
            samples do not count for the value range, and are read as its lower end. Types whose range is all that
            they can hold keep their values.
    Raises: InputError if the array has no samples, another number of axes or another type, or holds NaN or infinity.
    """

    def __init__(
        self,
        array: Shaped[NDArray, "..."],
        ndim: int,
        value_range: tuple[float, float] | None = None,
        source: Path | str | None = None,
        nodata: float | None = None,
    ) -> None:
        if array.ndim not in (ndim, ndim + 1):
            problem = f"the array has shape {array.shape}"
            raise InputError(problem, f"It must have {ndim} spatial axes, and may have channels as the last", source)
        if array.dtype.kind not in "buif":
            problem = f"the values have type {array.dtype}"
            raise InputError(problem, "Store them as bool, integers or floats", source)
        if array.size == 0:
            problem = f"the array has shape {array.shape}, which is no sample at all"
            raise InputError(problem, "Give a signal with at least one sample", source)
        array = array if array.ndim == ndim + 1 else array[..., None]
        self.array = _read_only(array)
        self.spatial_shape: tuple[int, ...] = tuple(array.shape[:-1])
        self.channels: int = array.shape[-1]
        self.dtype = array.dtype.newbyteorder("=")
        self.source = source
        self.packed = False
        self.nodata = None if _has_fixed_range(self.dtype) else nodata
        self.value_range = find_value_range(self.array, source, nodata) if value_range is None else value_range

    @classmethod
    def from_bits(
        cls, bits: UInt8[NDArray, "..."], spatial_shape: Sequence[int], source: Path | str | None = None
    ) -> Signal:
        """An occupancy signal of one bit a sample.

        Args:
            bits: as np.packbits(occupancy, axis=-1) makes them; it is not copied.
            spatial_shape: number of samples along each axis; the last one tells how many bits of the last byte count.
            source: the file it was read from, for messages.
        """
        shape = tuple(int(n) for n in spatial_shape)
        if bits.dtype != np.uint8 or min(shape) < 1 or bits.shape != (*shape[:-1], -(-shape[-1] // 8)):
            problem = f"bits of shape {bits.shape} and type {bits.dtype} do not make an occupancy of shape {shape}"
            raise InputError(problem, "Pack it along the last axis, as numpy.packbits does", source)
        signal = cls.__new__(cls)
        signal.array, signal.packed, signal.source = _read_only(bits), True, source
        signal.spatial_shape, signal.channels, signal.dtype = shape, 1, np.dtype(bool)
        signal.value_range, signal.nodata = (0.0, 1.0), None
        return signal

    @classmethod
    def from_occupancy(cls, occupancy: Bool[NDArray, "..."], source: Path | str | None = None) -> Signal:
        """An occupancy signal of one bit a sample from a boolean array, which may be memory-mapped."""
        shape = occupancy.shape
        bits = np.empty((*shape[:-1], -(-shape[-1] // 8)), dtype=np.uint8)
        for rows in chunks(shape):
            bits[rows] = np.packbits(occupancy[rows], axis=-1)
        return cls.from_bits(bits, shape, source)

    def __deepcopy__(self, memo: dict[int, Any]) -> Signal:
        # nerfstudio deep-copies the metadata of data sets; for a memory map that would be to read all of it.
        return self

    def __repr__(self) -> str:
        size = "×".join(str(n) for n in self.spatial_shape)
        return f"Signal({size}, {self.channels} channels, {'1 bit' if self.packed else self.dtype})"

    @property
    def ndim(self) -> int:
        """Number of spatial axes."""
        return len(self.spatial_shape)

    @property
    def num_samples(self) -> int:
        """Number of pixels or voxels."""
        return math.prod(self.spatial_shape)

    @property
    def nbytes(self) -> int:
        """Bytes that the stored signal takes, in memory or on disk."""
        return self.array.nbytes

    def read_stored(self, lower: Sequence[int], upper: Sequence[int]) -> Shaped[NDArray, "... c"]:
        """A box as stored (bits as bool); what lies outside of the signal repeats its nearest sample. Samples without
        data have the least value of the range.

        Args:
            lower: first sample of the box along each axis; it may be negative.
            upper: sample after the last along each axis; it may be beyond the signal.
        Returns: a new array [*(upper − lower), channels].
        """
        ranges = [range(*bounds) for bounds in zip(lower, upper, strict=True)]
        assert len(ranges) == self.ndim and all(ranges), f"no box: {tuple(lower)} to {tuple(upper)}"
        # The part of the box inside of the signal; at least the nearest sample, where nothing is inside.
        inner = [slice(min(max(r.start, 0), n - 1), max(min(r.stop, n), 1)) for r, n in zip(ranges, self.spatial_shape)]
        box = self._unpacked(inner) if self.packed else np.array(self.array[tuple(inner)], dtype=self.dtype)
        if self.nodata is not None:
            box[without_data(box, self.nodata)] = self.value_range[0]
        for axis, (wanted, there, n) in enumerate(zip(ranges, inner, self.spatial_shape)):
            if wanted.start < 0 or wanted.stop > n:
                nearest = np.clip(np.arange(wanted.start, wanted.stop), there.start, there.stop - 1)
                box = box.take(nearest - there.start, axis=axis)
        return box

    def read(self, lower: Sequence[int], upper: Sequence[int]) -> Float[NDArray, "... c"]:
        """A box as float32 in [0, 1]; what lies outside of the signal repeats its nearest sample.

        Args:
            lower: first sample of the box along each axis; it may be negative.
            upper: sample after the last along each axis; it may be beyond the signal.
        Returns: a new array [*(upper − lower), channels]. The memory needed is that of the box.
        """
        box = self.read_stored(lower, upper)
        low, high = self.value_range
        if low == 0.0 and self.dtype.itemsize <= 2 and self.dtype.kind in "bu":
            return np.divide(box, np.float32(high), dtype=np.float32)
        # 32-bit integers and 64-bit floats differ from their minimum by more digits than float32 holds.
        wide = np.float64 if self.dtype.itemsize >= 4 else np.float32
        return ((box.astype(wide) - wide(low)) / (wide(high) - wide(low))).astype(np.float32)

    def to_stored(self, values: Float[NDArray, "..."]) -> Shaped[NDArray, "..."]:
        """Values in [0, 1] as the signal stores them: clipped, and rounded where it stores integers or bits."""
        return to_stored(values, self.dtype, self.value_range)

    def _unpacked(self, box: Sequence[slice]) -> Bool[NDArray, "... 1"]:
        """A box inside of the signal from its bits."""
        *outer, last = box
        first_byte = last.start // 8
        some = self.array[(*outer, slice(first_byte, -(-last.stop // 8)))]
        unpacked = np.unpackbits(some, axis=-1, count=last.stop - 8 * first_byte)
        return unpacked[..., last.start - 8 * first_byte :, None].astype(bool)


def to_stored(
    values: Float[NDArray, "..."], dtype: np.dtype, value_range: tuple[float, float]
) -> Shaped[NDArray, "..."]:
    """Values in [0, 1] as a type that stores `value_range` for it: clipped, and rounded to integers or bits."""
    if dtype.kind == "b":
        return np.asarray(values) > 0.5
    low, high = value_range
    if dtype.kind == "f":
        clipped = np.clip(values, 0.0, 1.0).astype(np.result_type(dtype, np.float32), copy=False)
        return (clipped * (high - low) + low).astype(dtype, copy=False)
    exact = np.float32 if dtype.itemsize <= 2 else np.float64
    scaled = np.clip(values, 0.0, 1.0).astype(exact, copy=False) * exact(high - low) + exact(low)
    return np.rint(scaled).astype(dtype)


class SignalLoader:
    """A signal whose size is known and whose samples are read when they are first asked for.

    Rendering a trained model needs the size alone: no gigapixel is decoded and no mesh voxelized for it.

    Args:
        spatial_shape: number of samples along each axis.
        channels: values per sample.
        read: gives the signal; called at most once.
        dtype: type of its values, as far as it is known.
        nbytes: main memory that its samples will take, 0 if they stay on disk.
        source: the file it is read from, for messages.
        remedy: what to do if it does not fit into memory.
    """

    def __init__(
        self,
        spatial_shape: Sequence[int],
        channels: int,
        read: Callable[[], Signal],
        dtype: DTypeLike = np.uint8,
        nbytes: int = 0,
        source: Path | str | None = None,
        remedy: str = "Fit a smaller signal",
    ) -> None:
        self.spatial_shape: tuple[int, ...] = tuple(int(n) for n in spatial_shape)
        self.channels = channels
        self.dtype = np.dtype(dtype)
        self.source, self.remedy = source, remedy
        self._read: Callable[[], Signal] | None = read
        self._nbytes = nbytes
        self._signal: Signal | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> SignalLoader:
        return self

    @property
    def pending_bytes(self) -> int:
        """Main memory that reading the samples will take; 0 once they are read."""
        return self._nbytes if self._signal is None else 0

    def load(self) -> Signal:
        """The signal, the same object every time.

        Raises: InputError if it cannot be read.
        """
        if self._signal is None:
            assert self._read is not None
            self._signal = self._read()
            shape = (*self._signal.spatial_shape, self._signal.channels)
            assert shape == (*self.spatial_shape, self.channels), f"{shape} read, {self.spatial_shape} announced"
            self._read = None  # with the mesh that it may hold
        return self._signal


def chunks(shape: Sequence[int], samples: int = CHUNK_SAMPLES) -> Iterator[slice]:
    """Ranges of the first axis that cover an array of that shape, each of at most about `samples` values."""
    rows = max(1, samples // max(1, math.prod(shape[1:])))
    for start in range(0, shape[0], rows):
        yield slice(start, min(start + rows, shape[0]))


def without_data(values: Shaped[NDArray, "..."], nodata: float) -> Bool[NDArray, "..."]:
    """Which stored values stand for no data: those equal to `nodata` in their type, and NaN."""
    if values.dtype.kind == "f":
        return (values == values.dtype.type(nodata)) | np.isnan(values)
    return values == nodata


def _has_fixed_range(dtype: np.dtype) -> bool:
    """Whether the values of a type are scaled by all that it can hold."""
    return dtype.kind == "b" or (dtype.kind == "u" and dtype.itemsize <= 2)


def find_value_range(
    array: Shaped[NDArray, "..."], source: Path | str | None = None, nodata: float | None = None
) -> tuple[float, float]:
    """The stored values that stand for 0 and 1.

    What the type can hold for bool, uint8 and uint16; the minimum and maximum of the array for other types, for which
    it is read once, chunk by chunk. A constant array gives a range of width 1, so that it maps to 0 and back.

    Args:
        array: spatial axes and channels.
        source: the file, for messages.
        nodata: value of samples without data, which do not count; nor does NaN then.
    Raises: InputError if a float is NaN or infinite, saying where, or no sample has data.
    """
    if _has_fixed_range(array.dtype):
        return 0.0, 1.0 if array.dtype.kind == "b" else float(np.iinfo(array.dtype).max)
    low, high = find_extremes(array, source, nodata)
    return (low, high) if high > low else (low, low + 1.0)


def find_extremes(
    array: Shaped[NDArray, "..."], source: Path | str | None = None, nodata: float | None = None
) -> tuple[float, float]:
    """Minimum and maximum of an array of numbers with channels, read chunk by chunk. Arguments as `find_value_range`.

    Raises: InputError if a value is NaN or infinite, saying where, or no sample has data.
    """
    low, high = math.inf, -math.inf
    for rows in chunks(array.shape):
        part = array[rows]
        if nodata is not None:
            has_data = ~without_data(part, nodata)
            if not has_data.all():
                if not has_data.any():
                    continue
                part = np.where(has_data, part, part[has_data][0])
        smallest, largest = float(part.min()), float(part.max())
        if not (math.isfinite(smallest) and math.isfinite(largest)):
            raise _not_finite(part, rows.start, source)
        low, high = min(low, smallest), max(high, largest)
    if low > high:
        raise InputError(f"no value is other than {nodata:g}, which stands for no data", "Give one with data", source)
    return low, high


def _read_only(array: NDArray) -> NDArray:
    view = array.view()
    view.flags.writeable = False
    return view


def _not_finite(part: Shaped[NDArray, "..."], first_row: int, source: Path | str | None) -> InputError:
    """The error about the first value of a chunk that is not finite, and how many there are in the chunk."""
    bad = np.argwhere(~np.isfinite(part))
    where, value = bad[0].copy(), part[tuple(bad[0])]
    where[0] += first_row
    spatial = len(where) - 1
    place = f"row {where[0]} column {where[1]}" if spatial == 2 else f"sample ({', '.join(map(str, where[:-1]))})"
    others = f" (and {len(bad) - 1:,} more values nearby)" if len(bad) > 1 else ""
    problem = f"the value at {place} channel {where[-1]} is {value}{others}"
    return InputError(problem, "Replace values that are not finite", source)
