"""The one check of what a dataparser returned, whichever it is: of nerfstudio, of this suite, or of another plugin.

Impossible values are errors of one line, with frame, field, value and remedy. Implausible ones are warnings of one
line: the scene may be so. Both come before the first step.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from nerfstudio.cameras.cameras import Cameras, CameraType
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs
from torch import Tensor

from common_ns.cameras.geometry import positions
from common_ns.data.checks import check_pose
from common_ns.data.drawing import WHOLE_VIEWS
from common_ns.data.transforms import positions_in_one_place
from common_ns.errors import InputError

WIDEST, WIDE = 172.0, 140.0
"""Angle of view, in degrees, from which a perspective camera is impossible, and from which it is unusual."""
NARROW = 0.5
"""Angle of view, in degrees, below which a perspective camera is unusual: a lens of 4 m."""
UNEQUAL = 1.5
"""Ratio of fx and fy from which pixels are unusual."""
OFF_CENTER = 0.25
"""Distance of the principal point from the middle, in sizes of the image, from which it is unusual."""
OUTSIDE = 1.0
"""Distance of the principal point from the middle, in sizes of the image, from which it is impossible."""
FOLDED = 0.05
"""Share of a picture without a ray of its own, as the lens is stated, from which the lens is impossible."""
PIXELS_OFF = 0.5
"""Error, in pixels, of taking the distortion out, from which a ray counts as wrong."""
FAR, TOO_FAR = 30.0, 1e4
FEW = 0.05
"""Distance of a camera from the others, in their median distance from their middle, from which it is unusual, and from
which single precision leaves the others in one place; share of the cameras up to which such ones are the outliers, and
not the others in one cluster, as of a tripod."""
STRETCHED = (1.7, 5.0)
"""Factor by which a lens changes the distance of a picture's corner from its middle from which it is unusual, and from
which it is impossible."""
GRID = 15
"""Points along each side of a picture at which its lens is looked at."""


def check_outputs(outputs: DataparserOutputs, source: Path | str, split: str = "train") -> list[str]:
    """Look at a split's images and cameras.

    Args:
        outputs: of the dataparser.
        source: what it has read, for errors.
        split: for messages.
    Returns: warnings, a line each.
    Raises: InputError about the first thing that is impossible.
    """
    images, cameras = [Path(file) for file in outputs.image_filenames], outputs.cameras
    _check_counts(outputs, images, source, split)
    names = _short_names(images)
    numbers = _numbers(cameras)
    _check_finite(numbers, names, source)
    for name, pose in zip(names, _poses(cameras)):
        check_pose(pose, name, Path(source))
    return [
        *_look_at_intrinsics(numbers, cameras.camera_type.reshape(-1).cpu().numpy(), names, source),
        *_look_at_lenses(cameras, (outputs.metadata or {}).get("fisheye_crop_radius"), names, source),
        *(check_positions(positions(_poses(cameras)), names, source) if split == "train" else ()),
        *_look_at_names(images, split),
    ]


def _check_counts(outputs: DataparserOutputs, images: list[Path], source: Path | str, split: str) -> None:
    if not images:
        raise InputError(f"the split {split!r} has no images", "Check its list of frames, or how it is divided", source)
    count = len(images)
    lists: dict[str, Sequence[Any] | Cameras | None] = {"cameras": outputs.cameras, "masks": outputs.mask_filenames}
    metadata = outputs.metadata or {}
    lists |= {key: value for key, value in metadata.items() if key.endswith("_filenames")}
    for name, values in lists.items():
        if values is not None and len(values) != count:
            problem = f"the split {split!r} has {count} images and {len(values)} {name.replace('_filenames', ' files')}"
            raise InputError(problem, "Give each image one", source)


def _short_names(images: Sequence[Path]) -> list[str]:
    """Names with as much of the folder as tells images of several folders apart."""
    several = len({image.parent for image in images}) > 1
    return [f"{image.parent.name}/{image.name}" if several else image.name for image in images]


def _numbers(cameras: Cameras) -> dict[str, Float[np.ndarray, " n"]]:
    """Intrinsics by their name."""
    fields = {"fx": cameras.fx, "fy": cameras.fy, "cx": cameras.cx, "cy": cameras.cy}
    fields |= {"width": cameras.width, "height": cameras.height}
    found = {name: value.double().cpu().numpy().reshape(-1) for name, value in fields.items()}
    if cameras.distortion_params is not None:
        lens = cameras.distortion_params.double().cpu().numpy().reshape(len(found["fx"]), -1)
        found |= {f"distortion parameter {index}": lens[:, index] for index in range(lens.shape[1])}
    return found


def _poses(cameras: Cameras) -> Float[np.ndarray, "n 3 4"]:
    return cameras.camera_to_worlds.double().cpu().numpy()[:, :3]


def _check_finite(numbers: dict[str, Float[np.ndarray, " n"]], names: list[str], source: Path | str) -> None:
    for field, values in numbers.items():
        bad = np.flatnonzero(~np.isfinite(values))
        if len(bad):
            others = f", as of {len(bad) - 1} other images" if len(bad) > 1 else ""
            problem = f"{field} of {names[bad[0]]} is {values[bad[0]]}{others}"
            raise InputError(problem, "Give it a finite number", source)
    for field in ("fx", "fy", "width", "height"):
        bad = np.flatnonzero(numbers[field] <= 0)
        if len(bad):
            what = "the focal length in pixels" if field.startswith("f") else "the size of the image in pixels"
            problem = f"{field} of {names[bad[0]]} is {numbers[field][bad[0]]:g}"
            raise InputError(problem, f"It must be {what}, above 0", source)


def _first(bad: Bool[np.ndarray, " n"], names: list[str]) -> str:
    """The first image of those that are bad, and how many there are."""
    number = int(bad.sum())
    return f"{names[int(bad.argmax())]}" + (f" and {number - 1} others" if number > 1 else "")


def _look_at_intrinsics(
    numbers: dict[str, Float[np.ndarray, " n"]], kinds: Int[np.ndarray, " n"], names: list[str], source: Path | str
) -> Iterator[str]:
    fx, fy, cx, cy, width, height = (numbers[name] for name in ("fx", "fy", "cx", "cy", "width", "height"))
    for axis, center, size in (("cx", cx, width), ("cy", cy, height)):
        off = np.abs(center / size - 0.5)
        if (off > OUTSIDE).any():
            index = int(off.argmax())
            problem = f"{axis} of {names[index]} is {center[index]:g}, and the image {size[index]:g} pixels"
            raise InputError(problem, "Give the principal point in pixels of this image", source)
        bad = off > OFF_CENTER
        if bad.any():
            index = int(bad.argmax())
            text = f"{axis} is {center[index]:g} in an image of {size[index]:g} pixels ({_first(bad, names)})"
            yield f"The principal point is far from the middle: {text}. Are the intrinsics those of another size?"
    # Of a panorama, these are no focal lengths in pixels of one size.
    flat = ~np.isin(kinds, [CameraType.EQUIRECTANGULAR.value, *(kind.value for kind in WHOLE_VIEWS)])
    ratio = np.where(flat, np.maximum(fx / fy, fy / fx), 1.0)
    if (ratio > UNEQUAL).any():
        index = int(ratio.argmax())
        yield f"fx is {fx[index]:g} and fy {fy[index]:g} ({_first(ratio > UNEQUAL, names)}): pixels are not square."


def _look_at_lenses(cameras: Cameras, radius: float | None, names: list[str], source: Path | str) -> Iterator[str]:
    """Angles of view and distortion of perspective and fisheye cameras, each different one once; `radius` is that of
    fisheyes' pictures, in pixels, where it is known."""
    kinds = cameras.camera_type.reshape(-1).cpu().numpy()
    perspective, fisheye = kinds == CameraType.PERSPECTIVE.value, kinds == CameraType.FISHEYE.value
    columns = [getattr(cameras, name).double().cpu().reshape(len(kinds), -1) for name in ("fx", "fy", "cx", "cy")]
    columns += [cameras.width.double().cpu().reshape(-1, 1), cameras.height.double().cpu().reshape(-1, 1)]
    if cameras.distortion_params is not None:
        columns.append(cameras.distortion_params.double().cpu().reshape(len(kinds), -1))
    table = torch.cat(columns, dim=1).numpy()
    table, first, count = np.unique(np.column_stack([table, kinds]), axis=0, return_index=True, return_counts=True)
    warnings: dict[str, tuple[str, int]] = {}
    """The first warning of each kind, and how many images it is about."""

    def warn(kind: str, text: str, images: int) -> None:
        sentence, number = warnings.get(kind, (f"{text[0].upper()}{text[1:]}", 0))
        warnings[kind] = sentence, number + images

    for row, index, images in zip(table, first, count):
        fx, fy, cx, cy, width, height = row[:6]
        if perspective[index]:
            angles = [
                float(np.degrees(np.arctan2(size - center, focal) + np.arctan2(center, focal)))
                for size, center, focal in ((width, cx, fx), (height, cy, fy))
            ]
            angle = max(angles)
            text = f"the angle of view of {names[index]} is {angle:.4g}° (fx {fx:g}, width {width:g} pixels)"
            if angle > WIDEST:
                raise InputError(text, "Give the focal length in pixels of this image, or a fisheye camera", source)
            if angle > WIDE or angle < NARROW:
                warn("angle", f"{text}. Is the focal length in pixels of this image?", images)
        lens = torch.tensor(row[6:-1])
        if not lens.any() or not (perspective[index] or fisheye[index]) or len(lens) != 6:
            continue
        shown = ", ".join(
            f"{name} {value:g}" for name, value in zip(("k1", "k2", "k3", "k4", "p1", "p2"), lens.tolist())
        )
        remedy = "Correct it: OpenCV's parameters, for coordinates divided by the focal length; or undistort the images"
        text = f"the distortion of {names[index]} ({shown}) folds"
        if fisheye[index]:
            # What a fisheye shows is a circle; the corners outside of it are black, and have no rays.
            within = 0.5 * min(width, height) if radius is None else radius
            folded = folded_share(fx, fy, cx, cy, width, height, lens, True, within)
            if folded > FOLDED:
                raise InputError(f"{text} {folded:.0%} of the circle of the picture over itself", remedy, source)
            beyond = 0.0 if radius is not None else folded_share(fx, fy, cx, cy, width, height, lens, True)
            if beyond > FOLDED:
                wrong = f"{beyond:.0%} of the picture over itself, outside of its circle: there, rays are wrong"
                warn("folds", f"{text} {wrong}. Give fisheye_crop_radius, in pixels, or masks.", images)
            continue
        folded = folded_share(fx, fy, cx, cy, width, height, lens, False)
        if folded > FOLDED:
            raise InputError(f"{text} {folded:.0%} of the picture over itself", remedy, source)
        corner = torch.tensor([[max(cx, width - cx) / fx, max(cy, height - cy) / fy]], dtype=torch.float64)
        factor = float(undistorted(corner, lens).norm() / corner.norm())
        stretch = max(factor, 1.0 / factor)
        moved = f"the distortion ({shown}) moves the corner of {names[index]} by a factor {factor:.3g}"
        if stretch > STRETCHED[1]:
            raise InputError(moved, remedy, source)
        if stretch > STRETCHED[0]:
            warn("stretch", f"{moved}. Are these OpenCV's parameters?", images)
        if folded > 0:
            warn("folds", f"{text} {folded:.0%} of the picture over itself: there, rays are wrong.", images)
    for sentence, number in warnings.values():
        yield sentence if number == 1 else f"{sentence} So for {number} images."


def folded_share(
    fx: float,
    fy: float,
    cx: float,
    cy: float,
    width: float,
    height: float,
    lens: Float[Tensor, "6"],
    fisheye: bool,
    radius: float = float("inf"),
) -> float:
    """Share of a picture for which distortion is not monotone, so that it has no ray, or nerfstudio does not find it.

    Args:
        fx, fy, cx, cy: intrinsics in pixels.
        width, height: of the picture, in pixels.
        lens: k1, k2, k3, k4, p1, p2.
        fisheye: whether distortion is of the angle, and not of its tangent.
        radius: in pixels, of the circle around the principal point that is looked at.
    """
    x = (torch.linspace(0, width, GRID, dtype=torch.float64) - cx) / fx
    y = (torch.linspace(0, height, GRID, dtype=torch.float64) - cy) / fy
    seen = torch.stack(torch.meshgrid(x, y, indexing="ij"), dim=-1).reshape(-1, 2)
    seen = seen[(seen * torch.tensor([fx, fy])).norm(dim=-1) <= radius]
    if fisheye:
        seen = seen[seen.norm(dim=-1) < torch.pi]  # beyond there is no ray, and nerfstudio cuts it off
    found = undistorted(seen, lens).requires_grad_()
    again = distorted(found, lens)
    rows = [torch.autograd.grad(again[:, axis].sum(), found, retain_graph=True)[0] for axis in (0, 1)]
    orientation = rows[0][:, 0] * rows[1][:, 1] - rows[0][:, 1] * rows[1][:, 0]
    error = (again - seen).detach().abs() * torch.tensor([fx, fy], dtype=torch.float64)
    # Beyond a fold, the nearest solution may be on the far side of it: the way from the middle has to be increasing.
    inward = torch.stack([distorted(found.detach() * t, lens).norm(dim=-1) for t in torch.linspace(0, 1, 33)])
    monotone = (inward.diff(dim=0) >= -1e-9).all(dim=0)
    wrong = (error.amax(dim=-1) > PIXELS_OFF) | (orientation <= 0) | ~monotone | ~torch.isfinite(orientation)
    return float(wrong.double().mean()) if len(wrong) else 0.0


def undistorted(points: Float[Tensor, "n 2"], lens: Float[Tensor, "6"]) -> Float[Tensor, "n 2"]:
    """What nerfstudio finds for points as a lens shows them, at distance 1."""
    from nerfstudio.cameras.camera_utils import radial_and_tangential_undistort

    return radial_and_tangential_undistort(points, lens.expand(len(points), -1))


def distorted(points: Float[Tensor, "n 2"], lens: Float[Tensor, "6"]) -> Float[Tensor, "n 2"]:
    """Points at distance 1 as a lens shows them: OpenCV's radial distortion up to r⁸, and tangential.

    Source: OpenCV, "Camera Calibration and 3D Reconstruction"; nerfstudio's order of the parameters.
    """
    k1, k2, k3, k4, p1, p2 = lens.unbind()
    x, y = points.unbind(dim=-1)
    r = x * x + y * y
    radial = 1.0 + r * (k1 + r * (k2 + r * (k3 + r * k4)))
    return torch.stack(
        [
            x * radial + 2.0 * p1 * x * y + p2 * (r + 2.0 * x * x),
            y * radial + 2.0 * p2 * x * y + p1 * (r + 2.0 * y * y),
        ],
        dim=-1,
    )


def check_positions(where: Float[np.ndarray, "n 3"], names: Sequence[str], source: Path | str) -> Iterator[str]:
    """Look at where the cameras of a scene stand.

    Args:
        where: their positions.
        names: of their images.
        source: for errors.
    Returns: warnings.
    Raises: InputError if one is so far away that the others cannot be told apart.
    """
    if len(where) < 2:
        return
    if positions_in_one_place(where):
        yield f"All {len(where)} cameras stand in one place: nothing tells how far away things are."
        return
    distance = np.linalg.norm(where - np.median(where, axis=0), axis=1)
    median = float(np.median(distance))
    if len(where) < 4 or median == 0.0:
        return
    times = distance / median
    if (times > FAR).sum() > max(1, FEW * len(where)):
        return
    if times.max() > TOO_FAR:
        problem = f"the position of {names[int(times.argmax())]} is {times.max():.3g} times as far from the middle as "
        raise InputError(problem + "the others'", "Correct this frame or remove it", source)
    if times.max() > FAR:
        far = np.flatnonzero(times > FAR)
        shown = ", ".join(f"{names[index]} ({times[index]:.0f} times)" for index in far[:3])
        yield f"{len(far)} cameras stand far from the others, in their median distance from the middle: {shown}."


def _look_at_names(images: list[Path], split: str) -> Iterator[str]:
    twice = len(images) - len(set(images))
    if twice:
        repeated = next(image.name for image in images if images.count(image) > 1)
        yield f"{twice} images of the split {split!r} are there more than once, such as {repeated}."
