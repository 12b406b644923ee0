"""Does the depth fit the poses? Wrong units and a wrong kind of depth, found before training.

Depth of a view is carried into other views and compared with theirs (`common_ns.data.depth.reprojection`). The residual
of a view is the median of |log ratio| over the pixels that land on depth: what another view cannot see does not move
it. It is computed for depth multiplied by a range of scales, and for both kinds of depth:

- where depth has another unit than the poses, the residual is least at another scale than 1;
- where ray distance is taken for z-depth, or the reverse, the other kind fits better at any scale;
- where neither fits at any scale, and the inverse of the numbers does, they are disparity;
- where the cameras move little compared with what they see, all scales fit alike, and the check cannot tell.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from jaxtyping import Float
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs
from numpy import ndarray

from common_ns.cameras.views import views_to_compare
from common_ns.data.depth.contract import KIND_NAMES, DepthKind
from common_ns.data.depth.reprojection import DepthView, depth_views, log_residuals
from common_ns.errors import InputError
from common_ns.nerfstudio_seam.dataparsers import checked_outputs, set_up

if TYPE_CHECKING:
    from depthnerf_ns.dataparser import RgbdDataParserConfig

Verdict = Literal["ok", "suspicious", "wrong", "unknown"]

MAX_POOL, MAX_CHECKED = 200, 60
"""Views that are looked at, evenly over the data set, and those of them that are checked against others."""
NUM_OTHERS = 5
"""Views that each is compared with."""
COARSE_PIXELS, FINE_PIXELS = 100, 300
"""Pixels of a view, for finding the scale and for measuring at and around it."""
COARSE_SCALES = np.exp(np.arange(-46, 47) * 0.2)
"""From 1e-4 to 1e4: all usual units, taken for one another."""
FINE_STEPS = np.unique(np.concatenate([np.arange(-10, 11), np.arange(-30, 31, 4)])) * 0.01
"""Log of the scales around the best coarse one, which is within 0.1 of the best."""

NEAR_STEPS = np.arange(-3, 4) * 0.1
"""Log of the scales around the declared one."""

MIN_OVERLAP = 0.15
"""Scales at which fewer pixels land in other views than this share of the most are not considered."""
MIN_PIXELS = 30
"""A view says something about a scale if so many pixels land in other views."""
MIN_VIEWS = 3
"""So many views must say something."""
ASIDE, SHARP = 0.2, 1.3
"""The scale is known if the residual grows by the factor SHARP for depth larger and smaller by a log of ASIDE."""
SCALE_ERROR, SCALE_DOUBT = 0.05, 0.02
"""Log of a scale from which depth is wrong, and from which it is suspicious."""
GAIN, GAIN_DOUBT = 0.7, 0.9
"""Another scale or kind makes depth wrong, or suspicious, if it brings the residual below this factor."""
AGREEMENT = 0.75
"""Share of the views that have to say so."""
SIGNIFICANT = 3.0
"""Standard deviations by which the number of views that prefer the other kind has to exceed half of them."""
LARGE_RESIDUAL = 0.05
"""Residual at the best scale from which depth and poses hardly describe the same scene."""
STRAY_FACTOR, STRAY_RESIDUAL = 5.0, 0.05
"""A single view is named if its residual exceeds this factor of the median, and this."""
USUAL_UNITS = (1.0, 0.1, 0.01, 1e-3, 1e-4, 5e-4, 2.5e-4, 2e-4)
"""Meters per step that a recommended unit is rounded to, if it is within 3 %."""


@dataclass(frozen=True)
class ViewCheck:
    """How the depth of one view fits that of others."""

    name: str
    """The depth file's name."""
    residual: float
    """Median of |log ratio| as declared: 0.01 for one per cent; NaN if too few pixels land in other views."""
    valid: float
    """Share of its pixels with depth."""
    scale: float
    """Factor on depth that would fit best; NaN if unknown."""
    others: tuple[str, ...]
    """The views it was compared with."""


@dataclass(frozen=True)
class DepthReport:
    """Whether the depth of a data set fits its poses."""

    verdict: Verdict
    """ok; suspicious: look before training; wrong: do not train; unknown: the views cannot tell."""
    problem: str
    """What was found, in one line."""
    remedy: str
    """What to do about it; empty if nothing."""
    kind: DepthKind
    """What the files are declared to hold."""
    unit: float
    """Declared meters per stored step."""
    residual: float
    """Median over views of the residual as declared."""
    scale: float
    """Factor on depth that fits best, for the declared kind; NaN if unknown."""
    other_residual: float
    """Median residual for the other kind, each at its best scale."""
    views: tuple[ViewCheck, ...]
    """Each checked view."""
    scales: Float[ndarray, " s"]
    """Scales at which the residual was measured, increasing."""
    curves: dict[DepthKind, Float[ndarray, " s"]]
    """Median residual over views at these scales, for both kinds."""
    source: Path | None = None
    """The data set."""

    def raise_if_wrong(self) -> None:
        """Raises: InputError if the depth is evidently wrong."""
        if self.verdict == "wrong":
            raise InputError(self.problem, self.remedy, self.source)

    def summary(self) -> str:
        """The verdict in one line."""
        return f"Depth check: {self.verdict}: {self.problem}." + (f" {self.remedy}." if self.remedy else "")

    def lines(self) -> list[str]:
        """A table of the views, and the verdict."""
        rows = [f"{'view':24} {'residual':>9} {'valid':>7} {'best scale':>11}"]
        for view in self.views:
            name = view.name if len(view.name) <= 24 else "…" + view.name[-23:]
            rows.append(f"{name:24} {_percent(view.residual):>9} {view.valid:>7.1%} {_number(view.scale):>11}")
        return [*rows, self.summary()]


@dataclass(frozen=True)
class _Residuals:
    """Residuals of all views for one kind of depth."""

    scales: Float[ndarray, " s"]
    per_view: Float[ndarray, "v s"]
    """NaN where too few pixels land in other views."""
    overlap: Float[ndarray, " s"]
    """Mean share of pixels that land in other views."""

    @property
    def pooled(self) -> Float[ndarray, " s"]:
        """Median over the views; NaN at scales with little overlap, or at which most views say nothing."""
        known = np.isfinite(self.per_view)
        usable = (self.overlap >= MIN_OVERLAP * self.overlap.max()) & (2 * known.sum(axis=0) >= known.any(1).sum())
        columns = [np.median(c[k]) if u and k.any() else np.nan for c, k, u in zip(self.per_view.T, known.T, usable)]
        return np.array(columns)

    def best(self) -> int:
        """Index of the best scale."""
        pooled = self.pooled
        return int(np.where(np.isfinite(pooled), pooled, np.inf).argmin())

    def is_sharp(self) -> bool:
        """Whether the residual rises to both sides of the best scale, so that it tells the scale."""
        pooled, best = self.pooled, self.best()
        sides = (pooled[self.at(float(self.scales[best]) * factor)] for factor in (math.exp(-ASIDE), math.exp(ASIDE)))
        return bool(np.isfinite(pooled[best])) and all(not side < SHARP * pooled[best] for side in sides)

    def at(self, scale: float) -> int:
        """Index of a scale."""
        return int(np.abs(np.log(self.scales / scale)).argmin())

    def best_per_view(self) -> Float[ndarray, " v"]:
        """The scale that fits each view best; NaN if it says nothing."""
        filled = np.where(np.isfinite(self.per_view), self.per_view, np.inf)
        return np.where(np.isfinite(filled).any(axis=1), self.scales[filled.argmin(axis=1)], np.nan)


def check_dataset(config: RgbdDataParserConfig) -> DepthReport:
    """Check a data set with all its views, whichever of them are trained on."""
    return replace(check_depth(*all_outputs(config)), source=config.data)


def all_outputs(config: RgbdDataParserConfig) -> list[DataparserOutputs]:
    """Outputs of the training split with all its views, and of the test split if there is one.

    They are in the unit of the poses: scale plays no part in the check, and cameras in one place have none.
    """
    config = replace(config, num_views=None, auto_scale_poses=False, scale_factor=1.0, orientation_method="none")
    parser = set_up(config)
    outputs = [checked_outputs(parser, "train")]
    with suppress(InputError):  # there may be no test split; what is wrong with the data, the first has shown
        outputs.append(checked_outputs(parser, "test"))
    return outputs


def check_depth(*outputs: DataparserOutputs) -> DepthReport:
    """Check the depth of one or several splits of a data set against its poses.

    Args:
        outputs: of a dataparser that names depth files, as `RgbdDataParser` does.
    Raises: InputError if a depth file breaks its contract.
    """
    views = depth_views(outputs)
    views = [views[i] for i in _evenly(len(views), MAX_POOL)]
    if not views:
        problem = "no view has depth and a perspective or fisheye camera"
        empty = np.zeros(0)
        return DepthReport("unknown", problem, "", "z", 1.0, np.nan, np.nan, np.nan, (), empty, {})
    kind: DepthKind = views[0].contract.kind
    other: DepthKind = "ray" if kind == "z" else "z"
    others = views_to_compare(np.stack([view.pose for view in views]), NUM_OTHERS)
    checked = _evenly(len(views), MAX_CHECKED)
    pairs = [(views[i], [views[j] for j in others[i]]) for i in checked]

    coarse = _residuals(pairs[:: max(1, len(pairs) // 24)], kind, COARSE_SCALES, COARSE_PIXELS)
    center = float(coarse.scales[coarse.best()])
    scales = np.unique(np.concatenate([center * np.exp(FINE_STEPS), np.exp(NEAR_STEPS)]))
    kinds: tuple[DepthKind, DepthKind] = (kind, other)
    fine: dict[DepthKind, _Residuals] = {which: _residuals(pairs, which, scales, FINE_PIXELS) for which in kinds}
    return _judge(pairs, kind, other, fine)


def _evenly(count: int, most: int) -> list[int]:
    """At most so many of `count` indices, evenly spread."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(int)).tolist()


def _residuals(
    pairs: Sequence[tuple[DepthView, list[DepthView]]], kind: DepthKind, scales: Float[ndarray, " s"], pixels: int
) -> _Residuals:
    """The residual of each view against its others, at each scale."""
    per_view, overlap = [], []
    for view, others in pairs:
        rows, columns = view.grid(pixels)
        points = view.points(rows, columns, kind)
        parts = [np.abs(log_residuals(view, other, kind, scales, points)) for other in others]
        residuals = np.concatenate(parts, axis=1) if parts else np.full((len(scales), 1), np.nan)
        landed = np.isfinite(residuals).sum(axis=1)
        # NaN sorts last, so that the median of the rest is at half their number.
        median = np.take_along_axis(np.sort(residuals, axis=1), np.maximum(landed - 1, 0)[:, None] // 2, axis=1)[:, 0]
        per_view.append(np.where(landed >= min(MIN_PIXELS, pixels // 3), median, np.nan))
        overlap.append(landed / residuals.shape[1])
    return _Residuals(scales, np.stack(per_view), np.mean(overlap, axis=0))


@dataclass(frozen=True)
class _InverseView(DepthView):
    """A view whose file holds inverse depth, by assumption."""

    middle: float = 1.0
    """Stored number that is taken for the depth of the same number."""

    @cached_property
    def stored(self) -> Float[ndarray, "h w"]:
        values = DepthView(self.file, self.cameras, self.index, self.contract, self.scale).stored.astype(np.float64)
        return np.where(values > 0, self.middle**2 / np.where(values > 0, values, 1.0), 0.0)


def _residual_of_inverse(pairs: Sequence[tuple[DepthView, list[DepthView]]], kind: DepthKind) -> float:
    """The least median residual, at any scale, if the files hold the inverse of depth."""
    first = pairs[0][0].stored
    middle = float(np.median(first[first > 0]))
    inverted: dict[Path, DepthView] = {}

    def inverse(view: DepthView) -> DepthView:
        made = _InverseView(view.file, view.cameras, view.index, view.contract, view.scale, middle)
        return inverted.setdefault(view.file, made)

    some = [(inverse(view), [inverse(o) for o in others]) for view, others in pairs[:: max(1, len(pairs) // 24)]]
    coarse = _residuals(some, kind, COARSE_SCALES, COARSE_PIXELS)
    fine = _residuals(some, kind, float(coarse.scales[coarse.best()]) * np.exp(FINE_STEPS), FINE_PIXELS)
    return float(fine.pooled[fine.best()])


def _judge(
    pairs: Sequence[tuple[DepthView, list[DepthView]]],
    kind: DepthKind,
    other: DepthKind,
    found: dict[DepthKind, _Residuals],
) -> DepthReport:
    """The verdict on the residuals of the declared and of the other kind."""
    declared, swapped = found[kind], found[other]
    least, least_swapped = declared.pooled[declared.best()], swapped.pooled[swapped.best()]
    residual, unit = float(declared.pooled[declared.at(1.0)]), pairs[0][0].contract.unit
    scale = float(declared.scales[declared.best()]) if declared.is_sharp() else math.nan
    view_scales = declared.best_per_view() if declared.is_sharp() else np.full(len(pairs), np.nan)
    telling = int(np.isfinite(declared.per_view[:, declared.best()]).sum())
    checks = tuple(
        ViewCheck(view.file.name, float(r), view.valid, float(s), tuple(o.file.name for o in others))
        for (view, others), r, s in zip(pairs, declared.per_view[:, declared.at(1.0)], view_scales)
    )
    curves: dict[DepthKind, ndarray] = {which: residuals.pooled for which, residuals in found.items()}
    fixed = (kind, unit, residual, scale, float(least_swapped), checks, declared.scales, curves)

    if telling < MIN_VIEWS:
        return DepthReport("unknown", f"{telling} views see what others see, too few to tell", "", *fixed)

    if least > LARGE_RESIDUAL:
        inverse = _residual_of_inverse(pairs, kind)
        if inverse < min(GAIN * least, LARGE_RESIDUAL):
            problem = f"the files hold inverse depth (disparity) rather than {KIND_NAMES[kind]}: taken for that, the "
            problem += f"residual between views is {_percent(inverse)} instead of {_percent(least)}"
            remedy = "Write depth, or make it with ns-depth-prepare --source mono --predictions FOLDER --mono-kind "
            return DepthReport("wrong", problem, f"{remedy}inverse-depth", *fixed)

    prefer_swapped = _share(swapped.per_view[:, swapped.best()] < declared.per_view[:, declared.best()])
    # Noise hides the difference in each view, but not which kind most of them prefer.
    clear = (2.0 * prefer_swapped - 1.0) * math.sqrt(len(checks)) > SIGNIFICANT and least_swapped < 0.99 * least
    if clear or (least_swapped < GAIN_DOUBT * least and prefer_swapped >= AGREEMENT):
        wrong = least_swapped < GAIN * least and prefer_swapped >= AGREEMENT
        problem = f"the files {'hold' if wrong else 'may hold'} {KIND_NAMES[other]} rather than {KIND_NAMES[kind]}: "
        problem += f"with it the residual between views is {_percent(least_swapped)} instead of {_percent(least)}"
        remedy = f"Set --depth-kind {other}"
        factor = float(swapped.scales[swapped.best()])
        if swapped.is_sharp() and abs(math.log(factor)) > SCALE_ERROR:
            remedy += f" --depth-unit {tidy_unit(unit * factor):.6g}"
        return DepthReport("wrong" if wrong else "suspicious", problem, remedy, *fixed)

    if least > LARGE_RESIDUAL:
        problem = f"the depth of neighboring views differs by {_percent(float(least))} in the median, at the best scale"
        remedy = "Check poses, intrinsics and depth; predicted depth has a scale of its own in each view"
        return DepthReport("suspicious", problem, remedy, *fixed)
    if math.isnan(scale):
        problem = "the views move too little, or see too plain a scene, or their poses are too inaccurate, to tell the "
        problem += f"unit of depth: others fit about as well (residual {_percent(residual)})"
        return DepthReport("unknown", problem, "", *fixed)

    error, logs = math.log(scale), np.log(view_scales[np.isfinite(view_scales)])
    gain = least / residual if np.isfinite(residual) and residual > 0 else (0.0 if math.isnan(residual) else 1.0)
    agreeing = _share(logs * np.sign(error) > 0.5 * abs(error))
    if abs(error) > SCALE_DOUBT and gain < GAIN_DOUBT and agreeing >= AGREEMENT:
        wrong = abs(error) > SCALE_ERROR and gain < GAIN
        size = f"{math.exp(abs(error)):.4g} times too {'large' if error < 0 else 'small'}"
        problem = f"depth {'is' if wrong else 'may be'} {size} for the poses: scaled by {scale:.4g}, the residual "
        problem += f"between views is {_percent(least)} instead of {_percent(residual)}"
        remedy = f"Set --depth-unit {tidy_unit(unit * scale):.6g}"
        return DepthReport("wrong" if wrong else "suspicious", problem, remedy, *fixed)

    stray = [v.name for v in checks if v.residual > max(STRAY_FACTOR * residual, STRAY_RESIDUAL)]
    if stray:
        problem = f"{len(stray)} of {len(checks)} views disagree with the others: {', '.join(stray[:5])}"
        return DepthReport("suspicious", problem, "Check their poses and depth, or remove them", *fixed)
    problem = f"{KIND_NAMES[kind]} in steps of {unit:g} fits the poses to {_percent(residual)} in the median of "
    problem += f"{len(checks)} views, best at scale {scale:.3f} ({KIND_NAMES[other]}: {_percent(least_swapped)})"
    return DepthReport("ok", problem, "", *fixed)


def _share(votes: ndarray) -> float:
    """Share of true values; 0 of none."""
    return float(votes.mean()) if len(votes) else 0.0


def tidy_unit(unit: float) -> float:
    """A usual unit if one is within 3 %, else the unit to three significant digits."""
    return next((u for u in USUAL_UNITS if abs(unit / u - 1.0) < 0.03), float(f"{unit:.3g}"))


def _percent(value: float) -> str:
    return "–" if math.isnan(value) else f"{100.0 * value:.2f} %"


def _number(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.3f}"
