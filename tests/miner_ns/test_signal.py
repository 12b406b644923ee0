"""A signal is read box by box, exactly as it is stored, and stays where it is."""

from __future__ import annotations

import copy
import tracemalloc

import numpy as np
import pytest

from common_ns.data.memory import require_memory
from common_ns.errors import InputError
from miner_ns import signal as signal_module
from miner_ns.signal import Signal, SignalLoader, chunks

RNG = np.random.default_rng(0)


def some_array(dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    """Random values over what a type holds."""
    kind = np.dtype(dtype)
    if kind.kind == "f":
        return RNG.normal(size=shape).astype(kind)
    if kind.kind == "b":
        return RNG.random(shape) < 0.5
    info = np.iinfo(kind)
    return RNG.integers(info.min, info.max, shape, endpoint=True, dtype=kind.newbyteorder("=")).astype(kind)


@pytest.mark.parametrize("dtype", ["bool", "uint8", "uint16", ">u2", "int16", "int32", "float16", "float32", "float64"])
def test_values_survive_the_way_to_unit_range_and_back(dtype: str) -> None:
    array = some_array(dtype, (17, 9, 3))
    signal = Signal(array, ndim=2)
    values = signal.read((0, 0), (17, 9))
    assert values.dtype == np.float32 and values.min() >= 0.0 and values.max() <= 1.0
    back = signal.to_stored(values)
    assert back.dtype == signal.dtype == array.dtype.newbyteorder("=")
    if dtype in ("float16", "float32", "float64", "int32"):  # float32 between them has 24 bits
        span = float(array.max()) - float(array.min())
        assert np.abs(back.astype(float) - array.astype(float)).max() <= (1e-3 if dtype == "float16" else 3e-7) * span
    else:
        np.testing.assert_array_equal(back, array)


def test_bytes_become_exact_fractions() -> None:
    array = np.arange(256, dtype=np.uint8).reshape(16, 16)
    values = Signal(array, ndim=2).read((0, 0), (16, 16))
    np.testing.assert_array_equal(values[..., 0], (array / 255.0).astype(np.float32))


def test_to_stored_rounds_and_clips() -> None:
    signal = Signal(np.zeros((2, 2), dtype=np.uint8), ndim=2)
    np.testing.assert_array_equal(signal.to_stored(np.array([-1.0, 0.499 / 255, 0.501 / 255, 2.0])), [0, 0, 1, 255])


@pytest.mark.parametrize("bits", [False, True])
@pytest.mark.parametrize("shape", [(5, 7, 9), (1, 1, 1), (3, 2, 16)])
def test_boxes_repeat_the_border(shape: tuple[int, int, int], bits: bool) -> None:
    """Any box equals the same box of the signal padded by its border samples; also one wholly outside."""
    array = RNG.random(shape) < 0.5
    signal = Signal.from_occupancy(array) if bits else Signal(array, ndim=3)
    padded = np.pad(array, 20, mode="edge")
    for _ in range(60):
        lower = RNG.integers(-20, 16, 3)
        upper = lower + RNG.integers(1, 20, 3)
        upper = np.minimum(upper, np.array(shape) + 20)
        lower = np.minimum(lower, upper - 1)
        expected = padded[tuple(slice(a + 20, b + 20) for a, b in zip(lower, upper))]
        box = signal.read_stored(lower.tolist(), upper.tolist())
        assert box.dtype == bool
        np.testing.assert_array_equal(box[..., 0], expected)


def test_bits_take_an_eighth() -> None:
    signal = Signal.from_occupancy(np.ones((4, 4, 64), dtype=bool))
    assert signal.nbytes == 4 * 4 * 8 and signal.channels == 1 and signal.num_samples == 1024
    assert "1 bit" in repr(signal)


def test_a_read_box_is_a_copy_and_the_signal_is_read_only() -> None:
    array = np.zeros((4, 4), dtype=np.uint8)
    signal = Signal(array, ndim=2)
    signal.read_stored((0, 0), (4, 4))[:] = 1
    assert array.max() == 0
    with pytest.raises(ValueError, match="read-only"):
        signal.array[0] = 1
    array[0] = 1  # the caller's own array is as it was


def test_reading_a_box_of_a_huge_map_takes_the_memory_of_the_box(tmp_path) -> None:
    """Ten gigapixels on disk (a file with holes): neither opening nor copying nor reading a box goes through them."""
    huge = np.memmap(tmp_path / "huge", dtype=np.uint8, mode="w+", shape=(100_000, 100_000))
    huge[77_777, 55_555] = 255
    tracemalloc.start()
    signal = copy.deepcopy({"signal": Signal(huge, ndim=2)})["signal"]
    box = signal.read((77_770, 55_550), (77_802, 55_582))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert box.shape == (32, 32, 1) and box[7, 5, 0] == 1.0 and box.sum() == 1.0
    assert peak < 200_000


def test_copies_share_the_samples() -> None:
    loader = SignalLoader((4, 4), 1, lambda: Signal(np.zeros((4, 4)), ndim=2))
    copied = copy.deepcopy({"signal": loader})["signal"]
    assert copied.load() is loader.load() is loader.load()


def test_floats_span_their_own_range_and_constants_are_zero() -> None:
    signal = Signal(np.array([[-2.0, 6.0]]), ndim=2)
    assert signal.value_range == (-2.0, 6.0)
    constant = Signal(np.full((3, 3), 7.0, dtype=np.float32), ndim=2)
    values = constant.read((0, 0), (3, 3))
    assert values.max() == 0.0 and (constant.to_stored(values) == 7.0).all()


def test_a_given_range_is_kept() -> None:
    signal = Signal(np.array([[10, 20]], dtype=np.uint8), ndim=2, value_range=(10.0, 20.0))
    np.testing.assert_allclose(signal.read((0, 0), (1, 2)).ravel(), [0.0, 1.0])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_found(value: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signal_module, "CHUNK_SAMPLES", 64)
    array = np.zeros((50, 20, 3), dtype=np.float32)
    array[33, 4, 1] = value
    with pytest.raises(InputError, match=rf"photo.tif: the value at row 33 column 4 channel 1 is {value}"):
        Signal(array, ndim=2, source="photo.tif")
    with pytest.raises(InputError, match=r"sample \(33, 4, 1\)"):
        Signal(array, ndim=3)


@pytest.mark.parametrize(
    "array", [np.zeros(3), np.zeros((2, 2, 2, 2)), np.zeros((0, 3)), np.zeros((2, 2), complex), np.array([["a"]])]
)
def test_other_arrays_are_refused(array: np.ndarray) -> None:
    with pytest.raises(InputError):
        Signal(array, ndim=2)


def test_bits_of_another_shape_are_refused() -> None:
    with pytest.raises(InputError, match="as numpy"):
        Signal.from_bits(np.zeros((4, 4, 2), dtype=np.uint8), (4, 4, 8))


def test_chunks_cover_the_first_axis() -> None:
    parts = list(chunks((10, 100, 3), samples=900))
    assert [part.stop - part.start for part in parts] == [3, 3, 3, 1] and parts[-1].stop == 10
    assert list(chunks((2, 10**9), samples=10)) == [slice(0, 1), slice(1, 2)]


def test_too_little_memory_is_said_with_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("common_ns.data.memory.available_memory", lambda: 2**30)
    require_memory(2**30, "a signal", "Use less")
    with pytest.raises(InputError, match=r"needs 2.5 GiB of memory and 1.0 GiB are available. Use less"):
        require_memory(5 * 2**29, "a signal", "Use less")
    monkeypatch.setattr("common_ns.data.memory.available_memory", lambda: None)
    require_memory(2**60, "a signal", "Use less")
