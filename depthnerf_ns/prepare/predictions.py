"""What a monocular network says about each image: read from files here, computed in `depthnerf_ns.prepare.model`.

A prediction is right up to an affine map of its own for each image, in depth or in inverse depth; or metric, right up
to a factor that it shares with nobody either, as the poses of structure from motion have no unit.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Protocol, cast

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from common_ns.checks import InputError, require_path
from depthnerf_ns.depth_data import NO_HIT, decode_map

Kind = Literal["depth", "inverse-depth", "metric"]
KINDS: dict[Kind, str] = {"depth": "depth", "inverse-depth": "inverse depth", "metric": "metric depth"}
SUFFIXES = (".npy", ".npz", ".exr", ".tif", ".tiff", ".png")
"""Files of predictions, in the order in which they are looked for."""
ENDINGS = ("", "_depth", "_pred", "_disparity")
"""What may follow the name of an image, without its own ending _rgb, in that of its prediction."""


class Predictor(Protocol):
    """Gives the prediction for an image."""

    @property
    def kind(self) -> Kind:
        """What its numbers are."""
        ...

    def __call__(self, frame: dict[str, Any], size: tuple[int, int]) -> Float[ndarray, "h w"]:
        """The prediction at the image's size, NaN where there is none.

        Args:
            frame: of the transforms.json, paths absolute.
            size: (width, height) in pixels.
        Raises: InputError if there is none.
        """
        ...


class FilePredictions:
    """Predictions that lie in a folder, by the names of their images: NAME.npy, NAME_depth.npz, NAME.png, NAME.exr.

    Args:
        folder: of the files; None: those that the frames name as `prediction_path` (MonoSDF's cues).
        kind: what they hold.
    """

    def __init__(self, folder: Path | None, kind: Kind) -> None:
        self.folder = folder
        self._kind: Kind = kind
        if folder is not None:
            require_path(folder, "folder of predictions")

    @property
    def kind(self) -> Kind:
        return self._kind

    def __call__(self, frame: dict[str, Any], size: tuple[int, int]) -> Float[ndarray, "h w"]:
        file = self.file(frame)
        values = decode_map(file, "prediction")
        if values.ndim != 2 and sorted(values.shape)[:-2] == [1]:
            values = values.squeeze()
        if values.ndim == 3 and all(np.array_equal(values[..., 0], values[..., k]) for k in range(1, values.shape[2])):
            values = values[..., 0]
        if values.ndim != 2 or values.dtype.kind not in "uif":
            problem = f"the prediction has shape {values.shape} of {values.dtype}"
            raise InputError(problem, "Store one number per pixel: (height, width)", file)
        return fit_to_image(checked(values.astype(np.float32), self._kind), size, file)

    def file(self, frame: dict[str, Any]) -> Path:
        """The file of a frame's prediction.

        Raises: InputError if there is none.
        """
        if self.folder is None:
            if "prediction_path" not in frame:
                raise InputError("has no prediction", "Name their folder as --predictions", frame["file_path"])
            return Path(frame["prediction_path"])
        stem = Path(frame["file_path"]).stem.removesuffix("_rgb")
        names = [stem + ending + suffix for ending in ENDINGS for suffix in SUFFIXES]
        found = next((self.folder / name for name in names if (self.folder / name).is_file()), None)
        if found is None:
            problem = f"holds no prediction for {Path(frame['file_path']).name}"
            raise InputError(problem, f"Name it {stem}.npy, .npz, .exr, .tif or .png", self.folder)
        return found


def kind_of_files(given: Kind | Literal["auto"], monosdf: bool) -> Kind:
    """What files of predictions hold: as the user says, else depth for MonoSDF's cues.

    Raises: InputError if it is not known.
    """
    if given != "auto":
        return given
    if monosdf:
        return "depth"
    remedy = "Say it by --mono-kind: inverse-depth for MiDaS, DPT or Depth Anything, depth for Omnidata, metric for "
    raise InputError("files do not tell whether they hold depth or inverse depth", remedy + "ZoeDepth or Metric3D")


def checked(values: Float[ndarray, "h w"], kind: Kind) -> Float[ndarray, "h w"]:
    """The prediction with NaN for what is none: depth that is not above 0, inverse depth below 0, and infinity."""
    with np.errstate(invalid="ignore"):
        valid = np.isfinite(values) & (values < NO_HIT) & ((values >= 0) if kind == "inverse-depth" else (values > 0))
    return np.where(valid, values, np.float32(np.nan)).astype(np.float32)


def fit_to_image(values: Float[ndarray, "h w"], size: tuple[int, int], file: Path | None) -> Float[ndarray, "h w"]:
    """The prediction at (width, height): bilinear, and NaN where one of the neighbors is.

    Raises: InputError if its proportions are not those of the image.
    """
    height, width = values.shape
    if (width, height) == size:
        return values
    if abs(width * size[1] - height * size[0]) > max(*size, width, height):
        problem = f"the prediction has {width}×{height} pixels, its image {size[0]}×{size[1]}"
        raise InputError(problem, "Predict on the whole image", file)
    import cv2

    return cast(ndarray, cv2.resize(values, size, interpolation=cv2.INTER_LINEAR))
