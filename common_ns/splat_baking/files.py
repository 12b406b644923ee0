"""Files of Gaussians: the format is chosen by the suffix."""

from __future__ import annotations

from pathlib import Path

from common_ns.errors import InputError
from common_ns.splat_baking.gaussians import Gaussians
from common_ns.splat_baking.ply import save_ply
from common_ns.splat_baking.spz import save_spz

SUFFIXES = (".ply", ".spz")


def check_splat_path(path: Path | str) -> Path:
    """Return `path` as a Path if its suffix names a format that Gaussians are written in.

    Raises: InputError if not.
    """
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES:
        problem = f"the suffix {path.suffix!r} is not .ply or .spz" if path.suffix else "the file name has no suffix"
        raise InputError(problem, "Give the file the ending .ply, or .spz for a seventh of the size", path)
    return path


def save_gaussians(gaussians: Gaussians, path: Path | str, antialiased: bool = True) -> Path:
    """Write Gaussians, whole or not at all.

    Args:
        gaussians: to write.
        path: of the file, .ply or .spz; its folder is made if need be.
        antialiased: of .spz, that viewers should draw Gaussians below a pixel's size fainter; a PLY cannot say so.
    Raises: InputError if the suffix is another, or the file cannot be written.
    """
    path = check_splat_path(path)
    return save_ply(gaussians, path) if path.suffix.lower() == ".ply" else save_spz(gaussians, path, antialiased)
