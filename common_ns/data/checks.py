"""Input checks that say what is wrong, where, and what to do.

Everything a user can get wrong ends in an `InputError`: one line with the file, the value and the remedy.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import UnidentifiedImageError

from common_ns.errors import InputError


def require_path(path: Path | str, what: str = "data path") -> Path:
    """Return `path` if it exists.

    Raises: InputError that names the nearest existing parent, so that a typing error is found at once.
    """
    path = Path(path)
    if path.exists():
        return path
    parent = next((p for p in path.absolute().parents if p.exists()), Path("/"))
    listing = sorted(p.name for p in parent.iterdir())[:6] if parent.is_dir() else []
    seen = f"; {parent} exists and holds: {', '.join(listing) or 'nothing'}"
    raise InputError(f"the {what} does not exist{seen}", "Correct the path", file=path)


def read_json(path: Path, required: Sequence[str] = ()) -> dict:
    """Read a JSON object and check that it has the `required` fields.

    Raises: InputError if the file is missing, cut off or otherwise not JSON, not an object, or lacks a field.
    """
    path = Path(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError("the file does not exist", "Check the data path and its layout", file=path) from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        is_json = isinstance(error, json.JSONDecodeError)
        where = f"line {error.lineno} column {error.colno}: {error.msg}" if is_json else str(error)
        raise InputError(
            f"not valid JSON ({where})", "Write the file again; it may have been cut off", file=path
        ) from None
    if not isinstance(content, dict):
        raise InputError(f"holds a {type(content).__name__}", "It must hold one JSON object", file=path)
    for key in required:
        if key not in content:
            raise InputError(f'the field "{key}" is missing', "Add it", file=path)
    return content


def check_pose(pose: np.ndarray, name: str, file: Path | None = None, tolerance: float = 1e-2) -> None:
    """Check that a camera-to-world matrix (3×4 or 4×4) is finite and rigid (rotation orthonormal, right-handed).

    A uniform scale within `tolerance` is accepted as rounding.

    Raises: InputError naming the frame and the value.
    """
    pose = np.asarray(pose, dtype=np.float64)
    if pose.shape not in ((3, 4), (4, 4)):
        raise InputError(f"the pose of {name} has shape {pose.shape}", "Give a 3×4 or 4×4 camera-to-world matrix", file)
    if not np.isfinite(pose).all():
        row, column = np.argwhere(~np.isfinite(pose))[0]
        raise InputError(
            f"the pose of {name} holds {pose[row, column]} at row {row} column {column}",
            "Correct this frame or remove it",
            file,
        )
    rotation = pose[:3, :3]
    error = float(np.abs(rotation.T @ rotation - np.eye(3)).max())
    determinant = float(np.linalg.det(rotation))
    if error > tolerance or determinant < 0:
        raise InputError(
            f"the pose of {name} is not rigid (|RᵀR − I| up to {error:.3g}, det R = {determinant:.3g})",
            "Remove scale, shear and mirroring from its rotation",
            file,
        )


def check_transforms(path: Path) -> None:
    """Check a Blender or nerfstudio `transforms*.json`: frames with a file path and a rigid, finite pose.

    Raises: InputError naming file, frame and remedy.
    """
    content = read_json(path, required=["frames"])
    frames = content["frames"]
    if not isinstance(frames, list) or not frames:
        raise InputError("the list of frames is empty", "Add frames, or choose another split", file=path)
    for index, frame in enumerate(frames):
        for key in ("file_path", "transform_matrix"):
            if not isinstance(frame, dict) or key not in frame:
                raise InputError(f'frame {index} lacks the field "{key}"', "Add it", file=path)
        try:
            pose = np.array(frame["transform_matrix"], dtype=np.float64)
        except (TypeError, ValueError):
            raise InputError(
                f"the pose of {frame['file_path']} is not a matrix of numbers", "Correct this frame", file=path
            ) from None
        check_pose(pose, frame["file_path"], path)


@contextmanager
def explained(source: Path | str) -> Iterator[None]:
    """Turn what a dataparser raises on bad input into an `InputError` that names the file.

    Args:
        source: the data folder or file, named where the exception itself names none.
    """
    try:
        yield
    except InputError:
        raise
    except json.JSONDecodeError as error:
        problem = f"a JSON file is not valid (line {error.lineno} column {error.colno}: {error.msg})"
        raise InputError(problem, "Write it again; it may have been cut off", source) from error
    except KeyError as error:
        if not _raised_in_dataparser(error):
            raise
        raise InputError(f'the field "{error.args[0]}" is missing', "Add it to the data set's JSON", source) from error
    except FileNotFoundError as error:
        problem = "the file does not exist"
        raise InputError(problem, "Put it there, or correct the data set", error.filename or source) from error
    except UnidentifiedImageError as error:
        raise InputError(f"an image cannot be read ({error})", "Replace it", source) from error
    except AssertionError as error:
        if not _raised_in_dataparser(error):
            raise
        problem = str(error) or "the dataparser's expectations are not met"
        raise InputError(problem, "Check that the dataparser fits the data's layout", source) from error


def _raised_in_dataparser(error: BaseException) -> bool:
    """Whether the exception passed through a dataparser; elsewhere it is a defect and keeps its traceback."""
    trace = error.__traceback__
    while trace is not None:
        if "dataparser" in trace.tb_frame.f_code.co_filename:
            return True
        trace = trace.tb_next
    return False
