"""A picture of the depth check: depth and residuals of some views, and the residual against the scale of depth."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

import numpy as np
from jaxtyping import Float
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs
from numpy import ndarray

from depthnerf_ns.depth_data import KIND_NAMES
from depthnerf_ns.reprojection import DepthView, depth_views, log_residuals

if TYPE_CHECKING:
    from matplotlib.figure import Figure, SubFigure

    from depthnerf_ns.depth_check import DepthReport

SHOWN = 4
"""Views in the picture."""
MAP_PIXELS = 20_000
"""Pixels of a residual map."""
COLORS = {"ok": "#15803d", "suspicious": "#b45309", "wrong": "#b91c1c", "unknown": "#4b5563"}


def residual_map(view: DepthView, others: Sequence[DepthView]) -> Float[ndarray, "h w"]:
    """|log ratio| of a view's depth as declared, the median over the other views; NaN where none of them sees it."""
    height, width = view.stored.shape
    step = max(1, round(np.sqrt(height * width / MAP_PIXELS)))
    rows, columns = np.meshgrid(np.arange(0, height, step), np.arange(0, width, step), indexing="ij")
    present = view.stored[rows, columns] > 0
    kind = view.contract.kind
    points = view.points(rows[present], columns[present], kind)
    some = [np.abs(log_residuals(view, other, kind, np.ones(1), points)[0]) for other in others]
    result = np.full(rows.shape, np.nan)
    if some:
        ordered = np.sort(np.stack(some), axis=0)  # NaN last
        seen = np.isfinite(ordered).sum(axis=0)
        result[present] = np.take_along_axis(ordered, np.maximum(seen - 1, 0)[None] // 2, axis=0)[0]
    return result


def draw_figure(report: DepthReport, *outputs: DataparserOutputs) -> Figure:
    """Draw a report.

    Args:
        report: of `check_depth`.
        outputs: what was checked.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import FormatStrFormatter

    by_name = {view.file.name: view for view in depth_views(outputs)}
    # From the best view to the worst.
    checks = sorted((c for c in report.views if np.isfinite(c.residual)), key=lambda check: check.residual)
    checks = [checks[i] for i in np.unique(np.linspace(0, len(checks) - 1, min(SHOWN, len(checks))).astype(int))]
    figure = Figure(figsize=(13, 9), dpi=100, facecolor="white", layout="constrained")
    upper, lower = cast("tuple[SubFigure, SubFigure]", figure.subfigures(2, 1, height_ratios=[1.5, 1.0]))
    title = "\n".join(textwrap.wrap(report.summary(), 140))
    upper.suptitle(title, color=COLORS[report.verdict], fontsize=11)
    if checks:
        axes = upper.subplots(2, len(checks), squeeze=False)
        limit = max(0.02, 3.0 * float(np.nan_to_num(report.residual)))
        for column, check in enumerate(checks):
            view = by_name[check.name]
            depth = view.stored.astype(np.float32) * view.contract.unit
            shown = axes[0, column].imshow(np.where(depth > 0, depth, np.nan), cmap="viridis")
            upper.colorbar(shown, ax=axes[0, column], shrink=0.8)
            axes[0, column].set_title(check.name, fontsize=9)
            others = [by_name[name] for name in check.others if name in by_name]
            maps = 100.0 * residual_map(view, others)
            heat = axes[1, column].imshow(maps, cmap="magma", vmin=0.0, vmax=100.0 * limit)
            if column == len(checks) - 1:
                upper.colorbar(heat, ax=list(axes[1]), shrink=0.8)
            axes[1, column].set_title(f"median {100.0 * check.residual:.2f} %", fontsize=9)
        axes[0, 0].set_ylabel("depth, in meters as declared", fontsize=9)
        axes[1, 0].set_ylabel("residual to other views, %", fontsize=9)
        for axis in axes.ravel():
            axis.set(xticks=[], yticks=[])

    plot = lower.subplots()
    for kind, curve in report.curves.items():
        declared = " (declared)" if kind == report.kind else ""
        plot.plot(report.scales, 100.0 * curve, label=f"as {KIND_NAMES[kind]}{declared}", linewidth=1.8)
    plot.axvline(1.0, color="#6b7280", linewidth=1.0, linestyle="dashed", label="as declared")
    if np.isfinite(report.scale):
        plot.axvline(report.scale, color=COLORS[report.verdict], linewidth=1.0, label=f"best: {report.scale:.4g}")
    plot.set(xscale="log", yscale="log", xlabel="depth multiplied by", ylabel="residual between views, %")
    plot.grid(color="#f0f1f3")
    for axis in (plot.xaxis, plot.yaxis):
        axis.set_major_formatter(FormatStrFormatter("%g"))
    plot.xaxis.set_minor_formatter(FormatStrFormatter("%g"))
    if report.curves:
        plot.legend(fontsize=9)
    return figure
