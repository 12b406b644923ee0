"""Depth and σ of a frame: of the sensor, of key points, of a monocular prediction, or of sensor and prediction.

Maps are float32 in the unit of the poses, 0 where there is no depth; z-depth, except that sensor depth on its own stays
what it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray

from common_ns.data.depth.contract import as_float, as_tensor, image_ray_per_z, load_depth, load_sigma
from common_ns.errors import InputError
from depthnerf_ns.prepare.alignment import AlignmentError, align_scale_shift, explained_fraction
from depthnerf_ns.prepare.capture import Capture
from depthnerf_ns.prepare.predictions import Kind, Predictor
from depthnerf_ns.prepare.references import sampled
from depthnerf_ns.prepare.sparse import PointDepth
from depthnerf_ns.prepare.uncertainty import fit_residual_sigma, polynomial_sigma

NETWORK_ERROR = 0.03
"""Standard deviation, as a share of depth, that a prediction has at best: points are not weighted beyond it."""
TOLERANCE = 0.01
"""See `align_scale_shift`."""
SENSOR_SAMPLES = 4000
"""Pixels of a sensor's depth that a prediction is aligned to."""
POOR_RESIDUAL, POOR_INLIERS, POOR_EXPLAINED = 0.1, 0.5, 0.5
"""An aligned prediction is called poor if its median residual exceeds this share of depth, or fewer points agree, or it
explains less of the spread of their depth."""


@dataclass(frozen=True)
class FrameStats:
    """How a frame's depth came about; NaN where something does not apply."""

    name: str
    """Of the image."""
    status: Literal["ok", "poor", "sensor", "failed"] = "ok"
    """sensor: of a composite, only the sensor's depth could be used."""
    note: str = ""
    """What is wrong, or worth to know."""
    reference: str = ""
    """What a prediction was aligned to, or where points come from."""
    points: int = 0
    """Points or pixels of the reference."""
    scale: float = np.nan
    shift: float = np.nan
    inliers: float = np.nan
    """Share of the reference points that agree with the fit."""
    residual: float = np.nan
    """Median over the reference points of |aligned − known| / known depth."""
    explained: float = np.nan
    """See `alignment.explained_fraction`."""
    valid: float = 0.0
    """Share of pixels with depth."""
    sigma: float = np.nan
    """Median over them of σ / depth."""
    sensor: float = np.nan
    """Share of pixels with sensor depth, for composite."""


@dataclass(frozen=True)
class FrameDepth:
    """Depth of a frame."""

    depth: Float[ndarray, "h w"]
    """In the unit of the poses; 0: none."""
    sigma: Float[ndarray, "h w"]
    """Its standard deviation; 0 where there is no depth."""
    stats: FrameStats = field(repr=False)

    def measured(self, **changes: Any) -> FrameDepth:
        """The same with the statistics of its maps, and other changes to them."""
        has = self.depth > 0
        relative = float(np.median(self.sigma[has] / self.depth[has])) if has.any() else np.nan
        return replace(self, stats=replace(self.stats, valid=float(has.mean()), sigma=relative, **changes))


def sensor_depth(
    capture: Capture, index: int, coefficients: Sequence[float] | None, as_z: bool
) -> tuple[Float[ndarray, "h w"], Float[ndarray, "h w"]]:
    """Sensor depth of a frame and its σ.

    Args:
        capture: the data set.
        index: of the frame.
        coefficients: of σ as a polynomial in depth; None: the data set's own σ.
        as_z: turn ray distance into z-depth.
    Raises: InputError if the frame has no depth or σ, or a file breaks the contract.
    """
    file, contract, size = capture.depth_files[index], capture.contract, capture.sizes[index]
    if file is None or contract is None:
        raise InputError("the frame has no depth map", "Name one as depth_file_path", capture.names[index])
    stored = load_depth(file, contract, size)
    depth = as_float(as_tensor(stored)).numpy() * contract.unit
    sigma_file = capture.sigma_files[index]
    if coefficients is not None:
        sigma = polynomial_sigma(coefficients, depth)
        if not (sigma[depth > 0] > 0).all():
            problem = (
                f"the sensor's σ is not above 0 at some depth from {depth[depth > 0].min():.3g} to {depth.max():.3g}"
            )
            raise InputError(problem, "Correct --sensor-sigma")
        sigma = np.where(depth > 0, sigma, 0.0).astype(np.float32)
    elif sigma_file is not None:
        sigma = as_float(as_tensor(load_sigma(sigma_file, stored, contract, size))).numpy() * contract.unit
    else:
        raise InputError("the frame has no σ", "Give it as --sensor-sigma", capture.names[index])
    if as_z and contract.kind == "ray":
        factor = image_ray_per_z(capture.cameras, index)[..., 0]
        cosine = torch.where(factor > 0, 1.0 / factor.clamp_min(1.0), torch.zeros(())).numpy()
        depth, sigma = depth * cosine, sigma * cosine
    return depth.astype(np.float32), sigma.astype(np.float32)


def align_prediction(
    prediction: Float[ndarray, "h w"],
    kind: Kind,
    reference: PointDepth,
    name: str,
    extrapolate: float = 2.0,
    min_points: int = 10,
) -> FrameDepth:
    """Bring a prediction to the scale of the poses.

    Inverse depth is fitted in inverse depth, other predictions in depth, metric ones by a scale only. Depth that is not
    above 0 after that is left out, and depth that is nearer or farther than the reference by more than `extrapolate`:
    what a shift makes of the sky is no depth.

    Args:
        prediction: NaN where there is none.
        kind: what it is.
        reference: known depth.
        name: of the frame.
        extrapolate: factor between depth and the least or largest depth of the reference, above 1.
        min_points: of the reference.
    Raises: AlignmentError if they do not fit.
    """
    inverse = kind == "inverse-depth"
    at, known = prediction[reference.rows, reference.columns].astype(np.float64), reference.depth
    if inverse:
        target = 1.0 / known
        variance = (
            (reference.sigma * target**2) ** 2 + (NETWORK_ERROR * np.median(target)) ** 2 if len(known) else known
        )
    else:
        target, variance = known, reference.sigma**2 + (NETWORK_ERROR * known) ** 2
    fit = align_scale_shift(
        at, target, 1.0 / variance, fit_shift=kind != "metric", min_points=min_points, tolerance=TOLERANCE
    )

    def to_depth(values: ndarray) -> ndarray:
        """Depth by the prediction; NaN where it is none."""
        with np.errstate(divide="ignore", invalid="ignore"):
            aligned = fit.scale * values + fit.shift
            return np.where(aligned > 0, 1.0 / aligned if inverse else aligned, np.nan)

    aligned = to_depth(at)
    used = np.isfinite(aligned) & fit.inliers
    if used.sum() < 3:
        raise AlignmentError("the aligned prediction is not above 0 at the points with known depth")
    model = fit_residual_sigma(aligned[np.isfinite(aligned)], known[np.isfinite(aligned)], used[np.isfinite(aligned)])
    # Where a point's depth came out as none, it is as far off as it can be.
    residual = np.where(np.isfinite(aligned), np.abs(aligned - known), known)[np.isfinite(at)]
    depth = to_depth(prediction)
    with np.errstate(invalid="ignore"):
        valid = (depth >= model.low / extrapolate) & (depth <= model.high * extrapolate)
    depth = np.where(valid, depth, 0.0).astype(np.float32)
    sigma = np.where(valid, model(depth), 0.0).astype(np.float32)
    known = known[np.isfinite(at)]
    relative, explained = float(np.median(residual / known)), explained_fraction(known, residual)
    share = float(fit.inliers[np.isfinite(at)].mean())
    reasons = []
    if relative > POOR_RESIDUAL:
        reasons.append(f"it is off by {relative:.0%} in the median")
    if share < POOR_INLIERS:
        reasons.append(f"{share:.0%} of the points agree")
    if explained < POOR_EXPLAINED:
        reasons.append(f"it explains {max(explained, 0.0):.0%} of the spread of depth")
    stats = FrameStats(
        name=name,
        status="poor" if reasons else "ok",
        note="; ".join(reasons),
        reference=reference.origin,
        points=len(known),
        scale=fit.scale,
        shift=fit.shift,
        inliers=share,
        residual=relative,
        explained=explained,
    )
    return FrameDepth(depth, sigma, stats).measured()


def from_points(points: PointDepth, size: tuple[int, int], name: str, side: int, min_points: int) -> FrameDepth:
    """A sparse map of key points.

    Raises: AlignmentError if the frame sees too few.
    """
    if len(points) < min_points:
        raise AlignmentError(f"{len(points)} key points have a depth that is certain enough, {min_points} are needed")
    stats = FrameStats(name, reference=points.origin, points=len(points))
    return FrameDepth(*points.painted(size, side), stats).measured()


def from_sensor(depth: Float[ndarray, "h w"], sigma: Float[ndarray, "h w"], name: str, note: str = "") -> FrameDepth:
    """Sensor depth as it is."""
    return FrameDepth(depth, sigma, FrameStats(name, "ok", note, "sensor")).measured(sensor=float((depth > 0).mean()))


def composed(sensor: FrameDepth, mono: FrameDepth) -> FrameDepth:
    """Sensor depth where there is some, the aligned prediction elsewhere; no transition between them."""
    has = sensor.depth > 0
    depth, sigma = np.where(has, sensor.depth, mono.depth), np.where(has, sensor.sigma, mono.sigma)
    return FrameDepth(depth, sigma, mono.stats).measured(sensor=float(has.mean()))


def sensor_reference(sensor: FrameDepth) -> PointDepth:
    """Pixels of a sensor's depth to align a prediction to."""
    return sampled(sensor.depth, sensor.sigma, SENSOR_SAMPLES)


def as_predicted(
    prediction: Float[ndarray, "h w"], relative_sigma: float, predictor: Predictor, name: str
) -> FrameDepth:
    """A metric prediction as it is, for poses in meters and nothing to align it to."""
    if predictor.kind != "metric":
        raise InputError("a relative prediction has no scale of its own", "Choose another --reference than none", name)
    depth = np.nan_to_num(prediction, nan=0.0).astype(np.float32)
    stats = FrameStats(name, "ok", "not aligned", "none")
    return FrameDepth(depth, (relative_sigma * depth).astype(np.float32), stats).measured()
