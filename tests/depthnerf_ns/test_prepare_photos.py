"""Photographs without poses: what is said where COLMAP is missing, how it is driven, and the real thing where it is
installed."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from common_ns.errors import InputError
from depthnerf_ns.prepare import photos
from depthnerf_ns.prepare.options import PrepareOptions
from depthnerf_ns.prepare.run import prepare

CAPTURE = Path(__file__).parents[3] / "shared" / "data" / "colmap_phone" / "images"


@pytest.fixture
def folder(tmp_path) -> Path:
    """Four photographs of noise, in a folder with a space in its name."""
    folder = tmp_path / "my photos"
    folder.mkdir()
    for index in range(4):
        pixels = np.random.default_rng(index).integers(0, 256, (32, 48, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{index}.jpg")
    (folder / "notes.txt").write_text("not a photograph")
    return folder


def test_neither_program_is_there(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setitem(sys.modules, "pycolmap", None)
    with pytest.raises(InputError, match=r"need COLMAP or pycolmap, and neither .*fieldsuite\[sfm\]") as caught:
        prepare(PrepareOptions(photos=folder, source="sfm", output_path=tmp_path / "out"))
    assert "\n" not in str(caught.value)


def test_too_few_photographs(tmp_path):
    with pytest.raises(InputError, match=r"holds 0 photographs \(\.jpg, \.png\)"):
        photos.reconstruct(tmp_path, tmp_path / "out")
    with pytest.raises(InputError, match="folder of photographs does not exist"):
        photos.reconstruct(tmp_path / "nowhere", tmp_path / "out")


def fake_pycolmap(models: list[int]) -> SimpleNamespace:
    """Stands in for pycolmap: 'finds' models with so many images."""

    def mapping(database: Path, images: Path, output: Path) -> dict[int, SimpleNamespace]:
        def model(count: int) -> SimpleNamespace:
            def write(target: Path) -> None:
                (target / "images.bin").write_bytes(bytes(count))

            return SimpleNamespace(num_reg_images=lambda: count, write=write)

        assert " " not in str(images) and len(photos.list_photos(images)) == 4
        return {index: model(count) for index, count in enumerate(models)}

    return SimpleNamespace(
        logging=SimpleNamespace(minloglevel=0, ERROR=SimpleNamespace(value=2)),
        ImageReaderOptions=lambda **options: options,
        CameraMode=SimpleNamespace(SINGLE="single"),
        extract_features=lambda database, images, **options: None,
        match_exhaustive=lambda database: None,
        incremental_mapping=mapping,
    )


def test_the_largest_model_is_taken(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setitem(sys.modules, "pycolmap", fake_pycolmap([2, 4, 3]))
    model = photos.reconstruct(folder, tmp_path / "out")
    assert model == tmp_path / "out/colmap/sparse/0" and (model / "images.bin").stat().st_size == 4


def test_no_poses_found(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setitem(sys.modules, "pycolmap", fake_pycolmap([]))
    with pytest.raises(InputError, match="COLMAP found no poses: too few photographs show the same thing"):
        photos.reconstruct(folder, tmp_path / "out")


def test_a_program_that_fails(folder, tmp_path, monkeypatch):
    """nerfstudio ends the process; here it is an error that names the photographs."""
    program = tmp_path / "bin" / "colmap"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\necho 'COLMAP 3.8'\ncase $1 in -h) exit 0;; esac\necho broken >&2\nexit 3\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    with pytest.raises(InputError, match="my photos: COLMAP failed; see its message above"):
        photos.reconstruct(folder, tmp_path / "out")


@pytest.mark.skipif(not CAPTURE.is_dir(), reason="needs the capture of a phone")
def test_poses_of_real_photographs(tmp_path):
    if shutil.which("colmap") is None:
        pytest.importorskip("pycolmap")
    some = tmp_path / "photos"
    some.mkdir()
    for file in sorted(CAPTURE.iterdir())[:16:2]:
        shutil.copyfile(file, some / file.name)
    report = prepare(PrepareOptions(photos=some, source="sfm", output_path=tmp_path / "out"))
    assert sum(frame.status == "ok" for frame in report.frames) >= 5
