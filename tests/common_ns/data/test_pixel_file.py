"""Pixels that are kept on disk: found again, never half, never those of other images."""

from __future__ import annotations

import errno
import multiprocessing
import os
import shutil
import subprocess
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from common_ns.data import pixel_file
from common_ns.data.files import partial_name
from common_ns.data.pixel_file import FOLDER_NAME, PixelFile, pixels_folder
from common_ns.data.pixels import PixelStore
from common_ns.errors import InputError
from tests.common_ns.data.test_pixels import SIZES, coded, counted, masked


@pytest.fixture
def files(tmp_path) -> list[Path]:
    """Files that stand for the images."""
    made = [tmp_path / "data" / f"{index}.png" for index in range(3)]
    made[0].parent.mkdir()
    for file in made:
        file.write_bytes(b"image")
    return made


def kept(files: list[Path], *settings, folder: Path | None = None) -> PixelFile:
    return PixelFile.of(folder or files[0].parent / FOLDER_NAME, settings, files)


def draw(store: PixelStore) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    torch.manual_seed(0)
    return store.sample(500)


@pytest.mark.parametrize("load", [coded, masked])
def test_the_second_store_decodes_nothing_and_draws_the_same(files, load):
    weights = [np.linspace(0.1, 1.0, height) for height, _ in SIZES]
    for row_weights, name in ((None, "plain"), (weights, "by row")):
        calls: list[int] = []

        def noted(index: int) -> dict[str, np.ndarray]:
            calls.append(index)  # noqa: B023
            return load(index)

        def made(on_disk: bool | PixelFile) -> PixelStore:
            return PixelStore(noted, SIZES, on_disk=on_disk, row_weights=row_weights)  # noqa: B023

        stores = [made(False), made(kept(files, name))]
        calls.clear()
        stores.append(made(kept(files, name)))
        assert calls == []
        values, indices = draw(stores[0])
        for store in stores[1:]:
            found, places = draw(store)
            assert torch.equal(places, indices) and len(store) == len(stores[0]) and store.nbytes == stores[0].nbytes
            assert found.keys() == values.keys()
            assert all(torch.equal(found[each], values[each]) for each in values)
            assert all(found[each].dtype == values[each].dtype for each in values)


def test_images_whose_mask_has_no_pixel_are_known_without_decoding(files):
    def load(index: int) -> dict[str, np.ndarray]:
        return {**coded(index), "mask": np.full((*SIZES[index], 1), index != 1)}

    for store in (PixelStore(load, SIZES, on_disk=kept(files)), PixelStore(load, SIZES, on_disk=kept(files))):
        assert store.empty_images == [1] and len(store) == 24 + 5
        assert 1 not in draw(store)[1][:, 0]


def test_what_pixels_depend_on_has_a_file_of_its_own(files):
    first = kept(files, 1.0)
    assert kept(files, 1.0) == first
    different = [kept(files, 0.5), kept(files[:2], 1.0), kept(files[::-1], 1.0)]
    assert len({first.request, *(each.request for each in different)}) == 4
    files[1].write_bytes(b"IMAGE")
    assert kept(files, 1.0).request == first.request and kept(files, 1.0).state != first.state
    earlier = kept(files, 1.0)
    files[2].write_bytes(b"larger")
    assert kept(files, 1.0).state != earlier.state


def test_other_bytes_of_the_same_size_and_time_are_decoded_again(files):
    """Tools that mend pictures in place can keep both."""
    PixelStore(coded, SIZES, on_disk=kept(files))
    before = files[1].stat()
    files[1].write_bytes(b"imagE")
    os.utime(files[1], ns=(before.st_atime_ns, before.st_mtime_ns))
    after = files[1].stat()
    assert (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    calls: list[int] = []
    PixelStore(counted(calls), SIZES, on_disk=kept(files))
    assert sorted(calls) == [0, 1, 2]


def test_the_same_bytes_with_other_times_are_not(files):
    """As after a checkout, or a copy without times."""
    PixelStore(coded, SIZES, on_disk=kept(files))
    for file in files:
        os.utime(file, ns=(0, 0))
    calls: list[int] = []
    PixelStore(counted(calls), SIZES, on_disk=kept(files))
    assert calls == []


def test_a_large_file_counts_to_its_end(files, monkeypatch):
    monkeypatch.setattr(pixel_file, "_BLOCK", 2)
    first = kept(files)
    for changed in (b"Image", b"imAge", b"imagE", b"image!"):
        files[1].write_bytes(changed)
        assert kept(files).state != first.state
    files[1].write_bytes(b"image")
    assert kept(files) == first


def test_an_image_that_cannot_be_read_is_one_line(files):
    files[2].unlink()
    with pytest.raises(InputError, match=r"2\.png"):
        kept(files)


def test_a_data_set_that_was_moved_finds_its_pixels(files, tmp_path):
    PixelStore(coded, SIZES, on_disk=kept(files))
    shutil.move(files[0].parent, tmp_path / "elsewhere")
    calls: list[int] = []
    PixelStore(counted(calls), SIZES, on_disk=kept([tmp_path / "elsewhere" / file.name for file in files]))
    assert calls == []


def test_a_changed_image_replaces_the_file_and_others_stay(files, capsys):
    PixelStore(coded, SIZES, on_disk=kept(files, "other scale"))
    before = kept(files)
    running = PixelStore(coded, SIZES, on_disk=before)
    values = draw(running)[0]["image"].clone()
    files[0].write_bytes(b"another image")
    calls: list[int] = []
    capsys.readouterr()
    PixelStore(counted(calls), SIZES, on_disk=kept(files))
    assert sorted(calls) == [0, 1, 2] and not before.path.exists()
    assert kept(files, "other scale").path.exists() is False  # its images have changed, too
    assert torch.equal(draw(running)[0]["image"], values), "a run that uses the old file goes on"
    names = sorted(path.name for path in before.folder.glob("*.pixels"))
    assert len(names) == 2 and kept(files).path.name in names
    said = capsys.readouterr().out
    assert str(kept(files).path) in said and "others in that folder take 0.0 GiB" in said


@pytest.mark.parametrize("damage", ["half", "empty", "no end", "gone"])
def test_half_a_file_is_not_used(files, damage):
    target = kept(files)
    PixelStore(coded, SIZES, on_disk=target)
    whole = target.path.read_bytes()
    if damage == "gone":
        target.path.unlink()
    else:
        part = {"half": whole[: len(whole) // 2], "empty": b"", "no end": whole[:-1]}[damage]
        target.path.write_bytes(part)
    assert target.read() is None
    calls: list[int] = []
    store = PixelStore(counted(calls), SIZES, on_disk=target)
    assert sorted(calls) == [0, 1, 2] and target.path.read_bytes() == whole
    values, indices = draw(store)
    assert torch.equal(values["image"].long(), indices)


def test_while_it_is_written_nobody_finds_it_and_a_failure_leaves_nothing(files):
    target = kept(files)

    def fails(index: int) -> dict[str, np.ndarray]:
        assert target.read() is None and not target.path.exists()
        if index == 2:
            raise InputError("the image cannot be decoded", "Replace it", "c.png")
        return coded(index)

    with pytest.raises(InputError, match=r"c\.png"):
        PixelStore(fails, SIZES, on_disk=target)
    assert [path for path in target.folder.iterdir() if not path.name.endswith(".lock")] == []


def test_what_a_killed_run_has_left_is_removed(files):
    target = kept(files)
    ended = subprocess.Popen(["true"])
    ended.wait()
    left = partial_name(target.path)
    left = left.with_name(left.name.replace(f".{os.getpid()}.", f".{ended.pid}."))
    target.folder.mkdir()
    left.write_bytes(b"half")
    PixelStore(coded, SIZES, on_disk=target)
    assert not left.exists() and target.path.exists()


def _store_in_process(files: list[Path], decoded, results) -> None:
    def slow(index: int) -> dict[str, np.ndarray]:
        decoded.put(index)
        time.sleep(0.1)
        return coded(index)

    values, indices = draw(PixelStore(slow, SIZES, num_workers=1, on_disk=kept(files)))
    results.put(torch.equal(values["image"].long(), indices))


def test_of_two_processes_at_once_one_decodes_and_both_have_the_pixels(files):
    context = multiprocessing.get_context("fork")
    decoded, results = context.Queue(), context.Queue()
    processes = [context.Process(target=_store_in_process, args=(files, decoded, results)) for _ in range(2)]
    for process in processes:
        process.start()
    assert [results.get(timeout=60) for _ in processes] == [True, True]
    for process in processes:
        process.join(timeout=60)
    assert Counter(decoded.get(timeout=5) for _ in range(3)) == {0: 1, 1: 1, 2: 1} and decoded.empty()


def test_without_locks_two_writers_do_not_disturb_each_other(files, monkeypatch):
    """The second writes all of it while the first is in the midst."""
    import fcntl

    def unsupported(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", unsupported)
    target, inner = kept(files), []

    def load(index: int) -> dict[str, np.ndarray]:
        if index == 2 and not inner:
            with monkeypatch.context() as other:
                other.setattr(os, "getpid", lambda: 1)  # a process that lives
                inner.append(PixelStore(coded, SIZES, on_disk=target))
        return coded(index)

    outer = PixelStore(load, SIZES, num_workers=1, on_disk=target)
    for store in (outer, *inner, PixelStore(coded, SIZES, on_disk=target)):
        values, indices = draw(store)
        assert torch.equal(values["image"].long(), indices)


def test_too_little_space_is_one_line_before_decoding(files, monkeypatch):
    usage = shutil.disk_usage(files[0].parent)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=2**30))
    calls: list[int] = []
    target = kept(files)
    with pytest.raises(InputError, match=r"need 1\.1 GiB of disk space and 1\.0 GiB are free.*pixels-folder") as caught:
        PixelStore(counted(calls), [(20_000, 20_000), *SIZES], on_disk=target)
    assert calls == [0] and caught.value.file == target.folder and "\n" not in str(caught.value)


def test_a_disk_that_fills_up_meanwhile_is_one_line(files, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    target = kept(files)
    for module, name in ((os, "posix_fallocate"), (os, "fsync")):
        with monkeypatch.context() as context:
            context.setattr(module, name, full, raising=False)
            with pytest.raises(InputError, match=r"No space left on device.*pixels-folder"):
                PixelStore(coded, SIZES, on_disk=target)
        assert [path for path in target.folder.iterdir() if not path.name.endswith(".lock")] == []


def test_pixels_are_beside_the_data_or_in_the_users_cache_or_where_the_user_says(files, tmp_path, monkeypatch):
    data = files[0].parent
    assert pixels_folder(data) == pixels_folder(files[0]) == data / FOLDER_NAME
    assert pixels_folder(data, tmp_path / "chosen") == tmp_path / "chosen"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(pixel_file.os, "access", lambda *_: False)
    assert pixels_folder(data) == tmp_path / "cache" / "fieldsuite" / "pixels"
