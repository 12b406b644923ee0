"""Pixels are drawn uniformly, with the right values and places, over images of different sizes."""

import errno
import gc
import os
import shutil
import tempfile
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch

from common_ns.data import pixels
from common_ns.data.memory import available_memory
from common_ns.data.pixels import PixelStore, scratch_folder
from common_ns.errors import InputError

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


@pytest.mark.parametrize("kind", ["whole", "masked", "weighted"])
def test_a_batch_of_one_image_is_drawn_from_it_as_from_all(kind):
    """Every image as likely, whatever its size; within it the same pixels as likely as from all images mixed."""

    def load(index):
        arrays = coded(index)
        mask = (arrays["image"][..., 2:] % 2 == 0) & (index != 1)
        return {**arrays, "mask": mask} if kind == "masked" else arrays

    weights = (
        [np.arange(1.0, height + 1) if height > 1 else None for height, _ in SIZES] if kind == "weighted" else None
    )
    store = PixelStore(load, SIZES, row_weights=weights)
    torch.manual_seed(0)
    drawn = []
    for _ in range(60):
        values, indices = store.sample(50, from_one_image=True)
        assert torch.equal(values["image"].long(), indices) and len(indices[:, 0].unique()) == 1
        drawn.append(indices)
    times = torch.bincount(torch.stack([indices[0, 0] for indices in drawn]), minlength=3)
    assert times[1] == 0 if kind == "masked" else times.min() > 10
    first = torch.cat([indices for indices in drawn if indices[0, 0] == 0])
    _, mixed = store.sample(20_000)
    for column in (1, 2):
        shares = [torch.bincount(of[:, column], minlength=6) / len(of) for of in (first, mixed[mixed[:, 0] == 0])]
        assert (shares[0] - shares[1]).abs().max() < 0.06


def test_all_places_in_order():
    store = PixelStore(coded, SIZES)
    flat = torch.arange(35)
    expected = torch.cat([torch.from_numpy(coded(i)["image"].reshape(-1, 3)).long() for i in range(3)])
    assert torch.equal(store.locate(flat), expected)


def masked(index: int) -> dict[str, np.ndarray]:
    """`coded` with a mask, and depth as a second array."""
    arrays = coded(index)
    depth = arrays["image"].sum(axis=-1, keepdims=True).astype(np.float32)
    return {**arrays, "depth": depth, "mask": (arrays["image"][..., 1:2] + arrays["image"][..., 2:]) % 3 != 0}


def test_masked_draws_are_those_of_a_list_of_valid_pixels():
    store = PixelStore(masked, SIZES)
    valid = torch.nonzero(torch.cat([torch.from_numpy(masked(i)["mask"].reshape(-1)) for i in range(3)]))[:, 0]
    assert len(store) == len(valid) < 35
    torch.manual_seed(0)
    expected = store.locate(valid[torch.randint(len(valid), (200,))])
    torch.manual_seed(0)
    values, indices = store.sample(200)
    assert torch.equal(indices, expected)
    assert torch.equal(values["image"].long(), indices)


@pytest.mark.parametrize("fill", [True, False])
def test_masks_of_one_kind(fill):
    store = PixelStore(lambda i: {**coded(i), "mask": np.full((*SIZES[i], 1), fill)}, SIZES)
    assert len(store) == (35 if fill else 0)


def test_more_pixels_than_32_bits_divide_evenly_are_drawn_uniformly(monkeypatch):
    # What torch before 2.7 draws for a range below 2³².
    original = torch.randint
    monkeypatch.setattr(
        torch, "randint", lambda n, *rest, **options: original(2**32 if n < 2**32 else n, *rest, **options) % n
    )
    store = PixelStore(coded, SIZES)
    store._length, store.arrays = 2_400_000_000, {}
    monkeypatch.setattr(store, "locate", lambda flat: flat)
    torch.manual_seed(0)
    _, flat = store.sample(100_000)
    assert flat.min() >= 0 and flat.max() < len(store)
    assert (flat < 2**31).double().mean().item() == pytest.approx(2**31 / len(store), abs=0.01)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder that temporary files go to."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return tmp_path


def test_a_store_on_disk_draws_the_same(folder):
    stores = [PixelStore(masked, SIZES, on_disk=on_disk) for on_disk in (False, True)]
    assert stores[0].nbytes == stores[1].nbytes == 35 * (3 + 4)
    draws = []
    for store in stores:
        torch.manual_seed(0)
        draws.append(store.sample(500))
    (values, indices), (values_on_disk, indices_on_disk) = draws
    assert torch.equal(indices, indices_on_disk)
    assert values.keys() == values_on_disk.keys() == {"image", "depth"}
    for name, value in values.items():
        assert torch.equal(value, values_on_disk[name]) and value.dtype == values_on_disk[name].dtype


def test_the_file_of_a_store_on_disk_has_no_name(folder):
    store = PixelStore(coded, SIZES, on_disk=True)
    assert list(folder.iterdir()) == []
    maps = Path("/proc/self/maps")
    if maps.exists():  # it is a file in that folder all the same, as long as the store lives
        assert str(folder) in maps.read_text()
        del store
        gc.collect()
        assert str(folder) not in maps.read_text()


def test_without_tmpdir_the_file_goes_where_a_disk_is(monkeypatch):
    for name in ("TMPDIR", "TEMP", "TMP"):
        monkeypatch.delenv(name, raising=False)
    assert scratch_folder() == (Path("/var/tmp") if Path("/var/tmp").exists() else Path(tempfile.gettempdir()))


def counted(calls: list[int]):
    """`coded` that notes which images it decoded."""

    def load(index: int) -> dict[str, np.ndarray]:
        calls.append(index)
        return coded(index)

    return load


def test_too_little_memory_is_found_before_decoding(monkeypatch):
    calls: list[int] = []
    monkeypatch.setattr(pixels, "available_memory", lambda: 104)
    with pytest.raises(InputError, match=r"need 0\.0 GiB of memory and 0\.0 GiB are available.*pixels-on-disk True"):
        PixelStore(counted(calls), SIZES)
    assert calls == [0]  # the first image tells channels and type
    monkeypatch.setattr(pixels, "available_memory", lambda: 105)
    assert len(PixelStore(coded, SIZES)) == 35
    monkeypatch.setattr(pixels, "available_memory", lambda: None)
    assert len(PixelStore(coded, SIZES)) == 35


def test_memory_is_known_here():
    available = available_memory()
    assert available is not None and 2**26 < available < 2**46


def test_too_little_space_is_found_before_decoding(folder, monkeypatch):
    calls: list[int] = []
    usage = shutil.disk_usage(folder)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=2**30))
    sizes = [(20_000, 20_000), *SIZES]  # 1.1 GiB
    with pytest.raises(InputError, match=r"need 1\.1 GiB of disk space and 1\.0 GiB are free.*TMPDIR") as caught:
        PixelStore(counted(calls), sizes, on_disk=True)
    assert calls == [0] and caught.value.file == folder


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="space is not reserved here")
def test_a_disk_that_fills_up_meanwhile_is_one_line(folder, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(InputError, match="No space left on device"):
        PixelStore(coded, SIZES, on_disk=True)
    assert list(folder.iterdir()) == []


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="space is not reserved here")
def test_a_file_system_that_cannot_reserve_space_will_do(folder, monkeypatch):
    def unsupported(*_):
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    monkeypatch.setattr(os, "posix_fallocate", unsupported)
    assert len(PixelStore(coded, SIZES, on_disk=True)) == 35


def test_on_disk_and_on_a_gpu_exclude_each_other():
    with pytest.raises(InputError, match="images-on-gpu"):
        PixelStore(coded, SIZES, device="cuda:0", on_disk=True)


@pytest.mark.parametrize("on_disk", [False, True])
def test_few_decoded_images_are_in_memory_at_once(folder, on_disk):
    alive: set[int] = set()
    most = 0

    def load(index: int) -> dict[str, np.ndarray]:
        nonlocal most
        image = np.zeros((4, 4, 3), dtype=np.uint8)
        alive.add(index)
        weakref.finalize(image, alive.discard, index)
        most = max(most, len(alive))
        return {"image": image}

    PixelStore(load, [(4, 4)] * 300, num_workers=2, on_disk=on_disk)
    assert most <= 4  # two that are decoded, the first, and one that is about to be freed


def test_an_image_that_cannot_be_decoded_ends_it():
    def load(index: int) -> dict[str, np.ndarray]:
        if index == 2:
            raise InputError("the image cannot be decoded", "Replace it", "b.jpg")
        return coded(index)

    with pytest.raises(InputError, match=r"b\.jpg"):
        PixelStore(load, SIZES)


def test_runs_of_a_mask_are_its_positions():
    generator = torch.Generator().manual_seed(0)
    store = PixelStore(lambda index: {"image": np.zeros((10, 100, 3), np.uint8)}, [(10, 100)])
    for share in (0.0, 0.3, 1.0):
        mask = torch.rand(1000, generator=generator) < share
        runs = store.runs_of(mask)
        assert len(runs) == int(mask.sum())
        if len(runs):
            assert torch.equal(runs.positions(torch.arange(len(runs))), mask.nonzero()[:, 0])
