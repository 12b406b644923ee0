"""Poses of photographs by structure from motion: COLMAP's program through nerfstudio, or pycolmap."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any, Literal

from common_ns.data.checks import require_path
from common_ns.errors import InputError

Matching = Literal["exhaustive", "sequential"]
SUFFIXES = (".jpg", ".jpeg", ".png")
INSTALL = "Install COLMAP (the program colmap on PATH), or pycolmap with: pip install 'fieldsuite[sfm]'"


def reconstruct(photos: Path, output: Path, matching: Matching = "exhaustive") -> Path:
    """Find the poses of photographs that one camera took.

    Args:
        photos: their folder.
        output: folder for the model.
        matching: how photographs are paired.
    Returns: the folder of the COLMAP model, output/colmap/sparse/0.
    Raises: InputError if there are too few, neither program is there, or it fails.
    """
    require_path(photos, "folder of photographs")
    count = len(list_photos(photos))
    if count < 3:
        raise InputError(f"holds {count} photographs (.jpg, .png)", "Give a folder with at least 3, better 20", photos)
    program = shutil.which("colmap")
    pycolmap = None if program else _pycolmap()
    if program is None and pycolmap is None:
        raise InputError("the poses of photographs need COLMAP or pycolmap, and neither is installed", INSTALL)
    target = output / "colmap" / "sparse" / "0"
    shutil.rmtree(target, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix="colmap-") as name:
        work = Path(name)
        # nerfstudio hands paths to a shell as they are: these have no spaces.
        images = work / "images"
        images.symlink_to(photos.absolute(), target_is_directory=True)
        if pycolmap is None:
            found = _by_program(images, work, matching, photos)
        else:
            found = _by_pycolmap(pycolmap, images, work, matching, photos)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(found, target)
    return target


def list_photos(folder: Path) -> list[str]:
    """Names of the photographs in a folder."""
    files = sorted(folder.iterdir()) if folder.is_dir() else []
    return [file.name for file in files if file.suffix.lower() in SUFFIXES]


def _pycolmap() -> Any:
    try:
        import pycolmap  # type: ignore[import-not-found]
    except ImportError:
        return None
    return pycolmap


def _by_program(images: Path, work: Path, matching: Matching, photos: Path) -> Path:
    """Run COLMAP as nerfstudio does, whose vocabulary tree would have to be downloaded."""
    import torch
    from nerfstudio.process_data.colmap_utils import run_colmap
    from nerfstudio.process_data.process_data_utils import CameraModel

    try:
        run_colmap(
            image_dir=images,
            colmap_dir=work,
            camera_model=CameraModel.OPENCV,
            gpu=torch.cuda.is_available(),
            matching_method=matching,
        )
    except SystemExit as error:  # nerfstudio has printed COLMAP's message
        remedy = "Check the photographs; nerfstudio knows the commands of COLMAP 3, for a later one use pycolmap"
        raise InputError("COLMAP failed; see its message above", remedy, photos) from error
    models = [folder for folder in (work / "sparse").glob("*") if (folder / "images.bin").is_file()]
    if not models:
        raise _nothing_found(photos)
    return max(models, key=lambda folder: (folder / "images.bin").stat().st_size)


def _by_pycolmap(pycolmap: Any, images: Path, work: Path, matching: Matching, photos: Path) -> Path:
    database = work / "database.db"
    try:
        pycolmap.logging.minloglevel = pycolmap.logging.ERROR.value  # it tells of every image otherwise
        options = pycolmap.ImageReaderOptions(camera_model="OPENCV")
        mode = pycolmap.CameraMode.SINGLE
        pycolmap.extract_features(database, images, camera_mode=mode, reader_options=options)
        getattr(pycolmap, f"match_{matching}")(database)
        (work / "sparse").mkdir()
        models = pycolmap.incremental_mapping(database, images, work / "sparse")
    except (RuntimeError, ValueError) as error:
        raise InputError(f"pycolmap failed ({error})", "Check the photographs", photos) from error
    if not models:
        raise _nothing_found(photos)
    best = max(models.values(), key=lambda model: model.num_reg_images())
    (work / "best").mkdir()
    best.write(work / "best")
    return work / "best"


def _nothing_found(photos: Path) -> InputError:
    problem = "COLMAP found no poses: too few photographs show the same thing"
    return InputError(problem, "Take them closer to each other, sharp, and from different places", photos)
