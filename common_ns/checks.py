"""Input checks that say what is wrong, where, and what to do.

Everything a user can get wrong ends in an `InputError`: one line with the file, the value and the remedy. Inside Python
it is an ordinary `ValueError`; at the top of a command `report_input_errors` prints the line and exits with code 1.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

import numpy as np
from PIL import Image, UnidentifiedImageError


class InputError(ValueError):
    """Something the user gave is wrong, and the user can mend it.

    Args:
        problem: what is wrong, including the offending value.
        remedy: what to do about it, as an instruction.
        file: the file or folder that the problem was found in.
    """

    def __init__(self, problem: str, remedy: str, file: Path | str | None = None) -> None:
        self.problem, self.remedy, self.file = problem, remedy, file
        where = f"{file}: " if file is not None else ""
        super().__init__(" ".join(f"{where}{problem.rstrip('.')}. {remedy.rstrip('.')}.".split()))


def report_input_errors() -> None:
    """Let an uncaught `InputError` end the process with its one line and exit code 1, without a traceback.

    Other exceptions keep the hook that was there before. Calling it again changes nothing.
    """
    previous = sys.excepthook
    if getattr(previous, "reports_input_errors", False):
        return

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        # With several devices the error happens in a worker, and arrives as the text of its traceback.
        in_worker = re.search(rf"^{__name__}\.InputError: (.+)$", str(error), re.MULTILINE)
        if isinstance(error, InputError):
            print(f"Error: {error}", file=sys.stderr)
        elif kind.__name__ == "ProcessRaisedException" and in_worker is not None:
            print(f"Error: {in_worker[1]}", file=sys.stderr)
        elif (refusal := _refusal_of_host(error, trace)) is not None:
            print(f"Error: {refusal}", file=sys.stderr)
        else:
            previous(kind, error, trace)

    hook.reports_input_errors = True  # type: ignore[attr-defined]
    sys.excepthook = hook


def _refusal_of_host(error: BaseException, trace: TracebackType | None) -> str | None:
    """What one of the host's commands says when it refuses a run or an option by an assertion, on one line."""
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if not isinstance(error, AssertionError) or trace is None or not str(error):
        return None
    if "nerfstudio/scripts/" not in Path(trace.tb_frame.f_code.co_filename).as_posix():
        return None
    text = " ".join(str(error).split())
    return f"{text} Use ns-mesh, which also takes densities." if "SDF field" in text else text


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


def check_images(files: Sequence[Path], sizes: Sequence[tuple[int, int]]) -> list[str]:
    """Check from their headers that images exist, can be read, have their cameras' sizes and agree about alpha.

    Args:
        files: one path per camera.
        sizes: (width, height) in pixels of each camera.
    Returns: PIL's mode of each image.
    Raises: InputError about the first image that fails.
    """
    if len(files) == 0:
        raise InputError("the split has no images", "Check the split's frame list, or choose another split")
    modes = []
    for file, (width, height) in zip(files, sizes):
        try:
            with Image.open(file) as image:
                size, mode = image.size, image.mode
        except FileNotFoundError:
            raise InputError("the image does not exist", "Put it there, or remove its frame", file) from None
        except (UnidentifiedImageError, OSError) as error:
            reason = "not an image" if isinstance(error, UnidentifiedImageError) else str(error)
            raise InputError(f"the image cannot be read ({reason})", "Replace it", file) from None
        if mode.startswith(("I", "F")):
            raise InputError(f"the image has mode {mode} (more than 8 bits)", "Convert it to 8 bits a channel", file)
        if size != (width, height):
            raise InputError(
                f"the image has {size[0]}×{size[1]} pixels, its camera {width}×{height}",
                "Give all images the size that their cameras state",
                file,
            )
        modes.append(mode)
    alpha = [has_alpha(mode) for mode in modes]
    if any(alpha) and not all(alpha):
        odd = alpha.index(sum(alpha) * 2 <= len(alpha))  # the first file of the minority
        verb = "has" if alpha[odd] else "lacks"
        others = "lack" if alpha[odd] else "have"
        raise InputError(
            f"the image {verb} an alpha channel and other images of the split {others} one",
            "Add alpha to all images or remove it from all",
            files[odd],
        )
    return modes


def has_alpha(mode: str) -> bool:
    """Whether images of this PIL mode carry alpha."""
    return mode in ("RGBA", "LA", "PA", "La", "RGBa")


def image_has_alpha(file: Path) -> bool:
    """Whether an image carries alpha, from its header."""
    with Image.open(file) as image:
        return has_alpha(image.mode)


def decode_image(file: Path) -> np.ndarray:
    """Decode an 8-bit image to an array [height, width, 3 or 4] (gray and palette images are expanded).

    Raises: InputError if the file is damaged.
    """
    try:
        with Image.open(file) as image:
            if image.mode not in ("RGB", "RGBA"):
                transparent = has_alpha(image.mode) or "transparency" in image.info
                image = image.convert("RGBA" if transparent else "RGB")
            return np.asarray(image)
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise InputError(f"the image cannot be decoded ({error})", "Replace it; it may be cut off", file) from error
