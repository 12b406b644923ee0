"""The depth contract: what the numbers in a depth file mean, and how they become ray distances in scene units.

A depth map is a file of one number per pixel: 16-bit PNG or TIFF, float TIFF, EXR, .npy or .npz. A `DepthContract` says
the rest: how long a stored step is, whether it counts along the optical axis or along the ray, and which values count.

- 0, NaN, ±inf, the largest 16-bit number (a saturated sensor) and floats from 1e9 on (a renderer's "nothing hit") mean
  that there is no depth. So do values outside of the contract's range.
- Negative depth, 8-bit files, another size than the image's, a map without any valid pixel, and an uncertainty that is
  not above 0 where there is depth are errors that name the file.

Maps are kept in the type they are stored in, with 0 where there is no depth, and converted for the pixels that are
drawn: distance = stored · unit · scale, and for z-depth also / cos of the angle between the ray and the optical axis.
"""

from __future__ import annotations

import math
import struct
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Shaped
from nerfstudio.cameras.cameras import Cameras
from numpy import ndarray
from PIL import Image
from torch import Tensor

from common_ns.data.damaged import damage_explained
from common_ns.data.files import require_file
from common_ns.errors import InputError

DepthKind = Literal["z", "ray"]

INTEGER_UNIT = 1e-3
"""Meters per step of integer files where nothing else is stated: sensors write millimeters."""
SATURATED = 65535
"""The largest 16-bit number: farther than the file can say."""
NO_HIT = 1e9
"""Floats from here on, in stored units, mean that nothing was hit: renderers write 1e10."""
KIND_NAMES = {"z": "z-depth", "ray": "ray distance"}
OTHER_NAMES: dict[str, DepthKind] = {
    **dict.fromkeys(("euclidean", "range", "radial", "distance", "ray distance", "perspective"), "ray"),
    **dict.fromkeys(("z-depth", "zdepth", "planar", "plane", "orthogonal", "depth"), "z"),
}
"""What others call the two kinds."""
UNIT_RANGE = (1e-9, 1e9)
"""Units outside of it are mistakes, and no depth would be finite in 32 bits."""
MAX_NUMBERS = 2**30
"""In a file: none has more, but some that are small state more."""
FORMATS = "a 16-bit PNG or TIFF of one channel, or floats as .npy, .npz, EXR or TIFF"


@dataclass(frozen=True)
class DepthContract:
    """What the numbers in a data set's depth files mean."""

    unit: float
    """Length of a stored step in the unit of the poses, before the dataparser scales them: meters, mostly."""
    kind: DepthKind = "z"
    """z: distance of the point from the camera's plane, along the optical axis; ray: distance from its center."""
    min_depth: float = 0.0
    """Smaller values are no depth; same kind as stored, in the unit of the poses."""
    max_depth: float = math.inf
    """Larger values are no depth; same kind as stored, in the unit of the poses."""
    resize: bool = False
    """Accept maps of another size than their images, of the same proportions: the nearest value counts."""
    pixel_map: tuple[float, float, float, float] | None = None
    """(a, b, c, d): position (x, y) in the image is (a·x + b, c·y + d) in the depth map, both in pixels from the outer
    corner. For depth cameras with intrinsics of their own; None: the maps have their images' pixels."""

    def __post_init__(self) -> None:
        if not UNIT_RANGE[0] <= self.unit <= UNIT_RANGE[1]:
            problem = f"the depth unit is {self.unit}"
            raise InputError(problem, "Set --depth-unit to meters per stored step, such as 0.001 for millimeters")
        if not isinstance(self.kind, str) or self.kind not in KIND_NAMES:
            same = OTHER_NAMES.get(self.kind.lower()) if isinstance(self.kind, str) else None
            remedy = "Set --depth-kind z (along the optical axis) or ray (along the ray)"
            if same is not None:
                remedy = f'It is called "{same}" here: set --depth-kind {same}, or depth_kind in transforms.json'
            raise InputError(f"the depth kind is {self.kind!r}", remedy)
        if not 0.0 <= self.min_depth < self.max_depth:
            problem = f"the valid depth is from {self.min_depth} to {self.max_depth}"
            raise InputError(problem, "Set 0 ≤ --depth-min < --depth-max, in meters")


def contract_of(metadata: dict[str, Any]) -> DepthContract:
    """The contract in a dataparser's metadata; what nerfstudio's own parsers state is z-depth of a given unit."""
    if "depth_contract" in metadata:
        return metadata["depth_contract"]
    return DepthContract(unit=metadata.get("depth_unit_scale_factor", INTEGER_UNIT))


# ---------------------------------------------------------------------------------------------------------------------
# Files


def decode_map(file: Path, what: str = "depth map", vectors: bool = False) -> Shaped[ndarray, "h w *c"]:
    """The numbers in a file as they are stored, [h, w] or [h, w, c] with red first.

    Args:
        file: of a type in FORMATS.
        what: it holds, for errors.
        vectors: of EXR files, take three channels instead of the one that is depth.
    Raises: InputError if the file is missing or damaged, or an .npz file holds several arrays.
    """
    shape, dtype = map_header(file, what)  # before anything is decoded: a small file can state any size
    suffix = file.suffix.lower()
    with _readable(file, what):
        if suffix == ".npz":
            with np.load(file, allow_pickle=False) as content:
                array = content[_only_name(file, content.files)]
        elif suffix == ".npy":
            array = np.load(file, allow_pickle=False)
        elif suffix in (".tif", ".tiff"):
            import tifffile

            array = tifffile.imread(file)
        elif suffix == ".exr":
            from common_ns.data.depth.exr import read_map, read_vectors

            array = read_vectors(file, what) if vectors else read_map(file, what)
        elif suffix == ".png" and len(shape) == 3 and dtype == np.uint16:  # Pillow would make 8 bits of it
            import cv2

            array = cv2.imread(str(file), cv2.IMREAD_UNCHANGED)
            if array is None:
                raise ValueError("it is cut off")
            array = array[..., 2::-1]
        else:
            with Image.open(file) as image:
                array = np.asarray(image)
                if image.mode == "I":  # 16-bit gray, which older versions of Pillow widen
                    array = array.astype(np.uint16)
    return array[..., 0] if array.ndim == 3 and array.shape[-1] == 1 else array


@contextmanager
def _readable(file: Path, what: str) -> Iterator[None]:
    """Raises: InputError where the file is no file, or whatever reads it finds it damaged."""
    require_file(file, what)
    with damage_explained(file, what):
        try:
            yield
        except Image.DecompressionBombError as error:
            raise ValueError(str(error)) from error


def _only_name(file: Path, names: list[str]) -> str:
    if len(names) != 1:
        raise InputError(f"holds the arrays {', '.join(names) or 'none'}", "Save one array in each .npz file", file)
    return names[0]


def _png_header(file: Path) -> tuple[tuple[int, ...], int]:
    """Shape, (h, w) or (h, w, c), and bits per channel. Pillow says 8 bits of colors with 16."""
    with file.open("rb") as stream:
        header = stream.read(26)
    if len(header) < 26 or header[:8] != b"\x89PNG\r\n\x1a\n":
        raise ValueError("it is no PNG, or cut off")
    width, height, bits, color = struct.unpack(">IIBB", header[16:])
    channels = {2: 3, 4: 2, 6: 4}.get(color, 1)  # 0: gray, 3: palette
    return (height, width) if channels == 1 else (height, width, channels), bits


def map_header(file: Path, what: str = "depth map") -> tuple[tuple[int, ...], np.dtype]:
    """Shape and type of a file's numbers without decoding them; of EXR, float32 whatever floats they are.

    Raises: InputError if the file is missing or damaged, or states a size that no map has.
    """
    with _readable(file, what):
        shape, dtype = _header(file)
    if math.prod(shape) > MAX_NUMBERS:
        problem = f"the {what} states the size {'×'.join(str(length) for length in shape[1::-1])}"
        raise InputError(problem, "Write it again at the size of its image", file)
    return shape, dtype


def _header(file: Path) -> tuple[tuple[int, ...], np.dtype]:
    suffix = file.suffix.lower()
    if suffix == ".npy":
        with file.open("rb") as stream:
            return _array_header(stream)
    if suffix == ".npz":
        with zipfile.ZipFile(file) as archive:
            name = _only_name(file, [name.removesuffix(".npy") for name in archive.namelist()])
            with archive.open(f"{name}.npy") as stream:
                return _array_header(stream)
    if suffix == ".exr":
        from common_ns.data.depth.exr import exr_size

        return exr_size(file), np.dtype(np.float32)
    if suffix in (".tif", ".tiff"):
        import tifffile

        with tifffile.TiffFile(file) as tiff:
            return tiff.series[0].shape, np.dtype(tiff.series[0].dtype)
    if suffix == ".png":
        shape, bits = _png_header(file)
        return shape, np.dtype(np.uint16 if bits == 16 else np.uint8)
    with Image.open(file) as image:
        floats = {"F": np.float32, "I": np.int32}
        shape = (image.height, image.width, len(image.getbands()))
        return shape, np.dtype(floats.get(image.mode, np.uint16 if image.mode.startswith("I") else np.uint8))


def _array_header(stream: Any) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and type of an array in numpy's format."""
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(stream)
    return shape, dtype


def stored_type(file: Path) -> np.dtype:
    """The type in which the maps of a data set are kept, from one of its files: uint16 or float32."""
    return _kept_type(map_header(file)[1])


def _kept_type(dtype: np.dtype) -> np.dtype:
    return np.dtype(np.uint16 if dtype in (np.uint16, np.int16) else np.float32)


def check_depth_files(files: Sequence[Path], sizes: Sequence[tuple[int, int]], contract: DepthContract) -> None:
    """Check from their headers that depth files exist, can be read, hold depth and fit their images.

    Args:
        files: one path per image.
        sizes: (width, height) of each image in pixels.
        contract: whether other sizes are accepted.
    Raises: InputError about the first file that fails.
    """
    for file, size in zip(files, sizes):
        _check_header(Path(file), size, contract, "depth map")


def _check_header(file: Path, size: tuple[int, int], contract: DepthContract, what: str) -> None:
    shape, dtype = map_header(file, what)
    _check_type(shape, dtype, file, what)
    _check_size(shape, size, contract, file, what)


def _check_type(shape: tuple[int, ...], dtype: np.dtype, file: Path, what: str) -> None:
    remedy = f"Store depth as {FORMATS}"
    if dtype.kind not in "uif":
        kind = "Python objects" if dtype.kind == "O" else f"{dtype}"
        raise InputError(f"the {what} holds {kind}", remedy, file)
    if dtype.itemsize == 1:
        problem = f"the {what} has 8 bits a channel: that is a picture of depth, too coarse to measure with"
        if len(shape) == 3 and shape[2] >= 3:
            problem = f"the {what} has {shape[2]} channels, of 8 bits a channel: a colored picture of depth, or "
            problem, remedy = f"{problem}depth coded in colors", f"Decode it by its rule. {remedy}"
        raise InputError(problem, remedy, file)


def _without_unit_axis(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of (1, h, w) and (h, w, 1) without its 1."""
    if len(shape) == 3 and 1 in (shape[0], shape[2]):
        return shape[1:] if shape[0] == 1 else shape[:2]
    return shape


def _check_size(shape: tuple[int, ...], size: tuple[int, int], contract: DepthContract, file: Path, what: str) -> None:
    """Raises: InputError unless the contract brings a map of this shape to an image's (width, height)."""
    shape = _without_unit_axis(shape)
    if len(shape) not in (2, 3) or 0 in shape:
        raise InputError(f"the {what} has shape {shape}", "Store one number per pixel: (height, width)", file)
    (height, width), (image_width, image_height) = shape[:2], size
    problem = f"the {what} has {width}×{height} pixels, its image {image_width}×{image_height}"
    if (width, height) == size or contract.pixel_map is not None:
        return
    if (height, width) == size:
        problem = f"{problem}: width and height are swapped"
        raise InputError(problem, "Turn or transpose depth as its image is", file)
    # Within half a pixel of rounding.
    same_proportions = abs(width * image_height - height * image_width) <= 0.5 * max(width, image_width)
    if not same_proportions:
        raise InputError(problem, "Render or crop depth for the pixels of its image", file)
    if not contract.resize:
        remedy = "Store depth at the size of its image, or take the nearest value with --depth-resize True"
        raise InputError(problem, remedy, file)


def nearest(values: Shaped[ndarray, "h w *c"], size: tuple[int, int]) -> Shaped[ndarray, "height width *c"]:
    """Resample to (width, height) without mixing values: those nearest to the new pixels' centers."""
    columns, rows = (
        np.minimum(((np.arange(new) + 0.5) * old / new).astype(int), old - 1)
        for new, old in zip(size, values.shape[1::-1])
    )
    return values if values.shape[1::-1] == size else values[rows[:, None], columns]


def _on_image(
    values: Shaped[ndarray, "h w *c"], size: tuple[int, int], contract: DepthContract
) -> Shaped[ndarray, "height width *c"]:
    """A map of the right proportions on its image's pixels; 0 where the depth camera did not see them."""
    if contract.pixel_map is None:
        return nearest(values, size)
    a, b, c, d = contract.pixel_map
    columns = np.floor(a * (np.arange(size[0]) + 0.5) + b).astype(int)
    rows = np.floor(c * (np.arange(size[1]) + 0.5) + d).astype(int)
    height, width = values.shape[:2]
    seen = ((rows >= 0) & (rows < height))[:, None] & ((columns >= 0) & (columns < width))
    result = values[rows.clip(0, height - 1)[:, None], columns.clip(0, width - 1)]
    return np.where(seen, result, np.zeros((), dtype=values.dtype))


def _load_numbers(file: Path, size: tuple[int, int], contract: DepthContract, what: str) -> Shaped[ndarray, "h w"]:
    """A map of one number per pixel on its image's pixels, uint16 or float32 (negative 16-bit numbers as float32)."""
    _check_header(file, size, contract, what)
    values = decode_map(file, what)
    values = values.reshape(_without_unit_axis(values.shape))
    if values.ndim == 3:
        if not all(np.array_equal(values[..., 0], values[..., k], equal_nan=True) for k in range(1, values.shape[2])):
            raise InputError(f"the {what} has {values.shape[2]} channels that differ", f"Store it as {FORMATS}", file)
        values = values[..., 0]
    if values.dtype == np.int16 and values.size and values.min() < 0:
        return _on_image(values.astype(np.float32), size, contract)
    with np.errstate(over="ignore"):  # what float32 cannot hold is no depth, like infinity
        return _on_image(values.astype(_kept_type(values.dtype), copy=False), size, contract)


def load_depth(file: Path, contract: DepthContract, size: tuple[int, int]) -> Shaped[ndarray, "h w"]:
    """A depth map on its image's pixels in stored units, uint16 or float32, with 0 where there is no depth.

    Args:
        file: the map.
        contract: what its numbers mean.
        size: (width, height) of the image in pixels.
    Raises: InputError if the file breaks the contract.
    """
    stored = _load_numbers(file, size, contract, "depth map")
    if stored.dtype == np.uint16:
        valid = (stored > 0) & (stored < SATURATED)
    else:
        negative = stored < 0
        negative &= np.isfinite(stored)
        if negative.any():
            problem = f"{int(negative.sum())} of {stored.size} depths are negative, down to {stored[negative].min():g}"
            remedy = "Write 0 or NaN where there is no depth; depth in front of the camera is above 0"
            raise InputError(problem, remedy, file)
        valid = np.isfinite(stored) & (stored > 0) & (stored < NO_HIT)
    in_range = valid
    if contract.min_depth > 0.0 or contract.max_depth < math.inf:
        low, high = contract.min_depth / contract.unit, contract.max_depth / contract.unit
        in_range = valid & (stored >= low) & (stored <= high)
    if not in_range.any():
        if not valid.any():
            raise InputError("the depth map holds no depth", "Remove this frame, or write its depth again", file)
        low, high = (float(bound) * contract.unit for bound in (stored[valid].min(), stored[valid].max()))
        problem = f"all depths, from {low:.4g} to {high:.4g} m at {contract.unit:g} m a step, are out of range"
        remedy = f"Correct --depth-unit, or widen --depth-min {contract.min_depth:g} --depth-max {contract.max_depth:g}"
        raise InputError(problem, remedy, file)
    return np.where(in_range, stored, np.zeros((), dtype=stored.dtype))


def load_sigma(
    file: Path, depth: Shaped[ndarray, "h w"], contract: DepthContract, size: tuple[int, int]
) -> Shaped[ndarray, "h w"]:
    """The standard deviation of each depth in stored units, uint16 or float32, with 0 where there is no depth.

    Args:
        file: the map, in the unit and kind of its depth map.
        depth: the depth that it belongs to, as `load_depth` gives it.
        contract: what the numbers mean.
        size: (width, height) of the image in pixels.
    Raises: InputError if it is not above 0 somewhere where there is depth.
    """
    sigma = _load_numbers(file, size, contract, "uncertainty map")
    bad = (depth > 0) & ~((sigma > 0) & np.isfinite(sigma))
    if bad.any():
        row, column = np.argwhere(bad)[0]
        problem = f"σ is {sigma[row, column]:g} at row {row}, column {column} (from 0), where there is depth"
        problem += f", as at {int(bad.sum())} pixels"
        raise InputError(problem, "Write a standard deviation above 0, or remove the depth there", file)
    return np.where(depth > 0, sigma, np.zeros((), dtype=sigma.dtype))


# ---------------------------------------------------------------------------------------------------------------------
# From stored numbers to ray distances


def as_tensor(stored: Shaped[ndarray, "*n"]) -> Shaped[Tensor, "*n"]:
    """A tensor of the same bytes. 16-bit numbers come as int16, as torch before 2.3 has no uint16."""
    return torch.from_numpy(np.ascontiguousarray(stored).view(np.int16) if stored.dtype == np.uint16 else stored)


def as_float(stored: Shaped[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """The numbers of `as_tensor` as float32."""
    return (stored.int() & 0xFFFF).float() if stored.dtype == torch.int16 else stored.float()


def ray_per_z(directions: Float[Tensor, "*n 3"], forward: Float[Tensor, "*n 3"]) -> Float[Tensor, "*n 1"]:
    """Ray distance of a point at z-depth 1: 1 / cos of the angle to the optical axis, for any camera model.

    For perspective cameras it is nerfstudio's `directions_norm`, which is 1 for fisheye cameras whatever the angle. It
    is 0, no depth, for rays that do not run forward by at least 1/1000.

    Args:
        directions: unit ray directions, with lens distortion taken out, in world axes.
        forward: unit directions of the optical axes.
    """
    cosine = (directions * forward).sum(dim=-1, keepdim=True)
    return torch.where(cosine > 1e-3, 1.0 / cosine.clamp_min(1e-3), torch.zeros_like(cosine))


def forward_directions(cameras: Cameras) -> Float[Tensor, "n 3"]:
    """Unit directions of the optical axes in world axes."""
    return torch.nn.functional.normalize(-cameras.camera_to_worlds[..., :3, 2], dim=-1)


def image_ray_per_z(cameras: Cameras, index: int) -> Float[Tensor, "h w 1"]:
    """`ray_per_z` for all pixels of a camera."""
    directions = cameras.generate_rays(camera_indices=index, keep_shape=True).directions
    return ray_per_z(directions, forward_directions(cameras)[index])


def read_depth(
    file: Path, contract: DepthContract, cameras: Cameras, index: int, scale: float = 1.0
) -> Float[Tensor, "h w 1"]:
    """Ray distance in scene units of an image's pixels, 0 where there is no depth.

    Args:
        file: the depth map.
        contract: what its numbers mean.
        cameras: the data set's cameras, at the images' full size.
        index: the image.
        scale: the dataparser's scale, scene units per unit of the poses.
    """
    size = (int(cameras.width[index]), int(cameras.height[index]))
    distance = as_float(as_tensor(load_depth(file, contract, size)))[..., None] * (contract.unit * scale)
    return distance * image_ray_per_z(cameras, index) if contract.kind == "z" else distance
