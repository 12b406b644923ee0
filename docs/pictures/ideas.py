"""The figures that explain the idea of each family, computed with the suite's own functions.

python docs/pictures/ideas.py
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import skimage.data
import torch
import tyro
from matplotlib.colors import LogNorm
from matplotlib.patches import Circle, Ellipse, Rectangle
from PIL import Image
from torch import Tensor

from common_ns.hash_grid.weighting import level_weights
from common_ns.rays.cones import frustum_moments, lift
from common_ns.rays.contraction import contract
from common_ns.rays.positional_encoding import integrated_pos_enc, pos_enc
from common_ns.rays.stepfun import max_dilate, sample_intervals
from common_ns.rays.transmittance import render_weights
from depthnerf_ns.depth_losses import weight_bounds_loss
from hashnffb_sdf_ns.neus import section_optical_depth
from miner_ns.fitting import Fitting
from miner_ns.options import FitOptions
from miner_ns.signal import Signal
from mipnerf_ns.blurred_steps import blurred_weights
from mipnerf_ns.multisampling import multisamples

BLUE, SKY, ORANGE, GREEN, GRAY = "#0072b2", "#56b4e9", "#d55e00", "#009e73", "#999999"
"""Colors that differ for the color-blind as well (Okabe and Ito)."""


@dataclass
class Figures:
    """Draw the figures of all families."""

    output_dir: Path = Path("docs/pictures")
    """Where to write them."""

    def main(self) -> None:
        """Draw and write."""
        plt.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False})
        for name, draw in (
            ("mipnerf", cones),
            ("mipnerf360", contraction_and_proposals),
            ("zipnerf", points_of_a_cone_and_blurred_weights),
            ("depth", bounds_about_a_depth),
            ("surfaces", weights_of_a_distance),
            ("miner", blocks_of_a_pyramid),
        ):
            figure, pixels = draw(), io.BytesIO()
            figure.savefig(pixels, dpi=120)
            file = self.output_dir / f"{name}-idea.png"
            Image.open(pixels).convert("RGB").quantize(96).save(file, optimize=True)
            print(f"Wrote {file}, {file.stat().st_size // 1024} KiB")


def cones() -> plt.Figure:
    """mip-NeRF: the Gaussians of a cone, and how octaves of the encoding fade as they grow."""
    radius, ratio = 0.05, 1.35
    heights = (2.2, 1, 1, 1)
    figure, axes = plt.subplots(4, 1, figsize=(8.4, 4.8), height_ratios=heights, sharex=True, layout="constrained")
    bounds = 0.5 * ratio ** torch.arange(8.0)[:, None]
    t_mean, t_var, r_var = frustum_moments(bounds[:-1], bounds[1:], torch.full_like(bounds[1:], radius))
    end = float(bounds[-1])
    axes[0].fill([0, end, end], [0, radius * end, -radius * end], color=GRAY, alpha=0.2, linewidth=0)
    axes[0].plot([0, end], [0, 0], color="black", linewidth=0.8)
    for bound in bounds[:, 0].tolist():
        axes[0].plot([bound, bound], [-radius * bound, radius * bound], color=GRAY, linewidth=0.8)
    for place, along, across in torch.cat([t_mean, t_var.sqrt(), r_var.sqrt()], dim=1).tolist():
        axes[0].add_patch(Ellipse((place, 0), 4 * along, 4 * across, color=BLUE, alpha=0.45, linewidth=0))
    axes[0].set(ylim=(-0.25, 0.25), ylabel="across")
    axes[0].set_title("The cone of one pixel, its intervals, and their Gaussians (2 σ)")
    t = torch.linspace(0.5, end, 3000)[:, None]
    half = ratio**0.5
    moments = frustum_moments(t / half, t * half, torch.full_like(t, radius))
    mean, variance = lift(torch.zeros(1, 3), torch.tensor([[0.6, 0.8, 0.0]]), *moments)
    for axis, octave in zip(axes[1:], (1, 3, 5)):
        point = pos_enc(mean[:, :1], octave, octave + 1, identity=False)[:, 0]
        gaussian = integrated_pos_enc(mean[:, :1], variance[:, :1], octave, octave + 1)[:, 0]
        axis.plot(t, point, color=GRAY, linewidth=0.7, label="of the point: NeRF")
        axis.plot(t, gaussian, color=BLUE, linewidth=1.6, label="of the Gaussian: mip-NeRF")
        axis.set(ylim=(-1.15, 1.15), yticks=(-1, 0, 1), ylabel=f"sin({2**octave}x)")
    axes[1].legend(loc="lower left", ncols=2, fontsize=7, framealpha=0.9)
    axes[3].set(xlabel="distance along the ray", xlim=(0, end))
    return figure


def contraction_and_proposals() -> plt.Figure:
    """mip-NeRF 360: space in a ball of radius 2, and rounds of intervals that close in on surfaces."""
    figure = plt.figure(figsize=(8.4, 3.9), layout="constrained")
    grid = figure.add_gridspec(3, 2, width_ratios=(1, 1.25))
    ball = figure.add_subplot(grid[:, 0])
    for distance, style in ((1.0, "-"), (2.0, ":"), (4.0, ":"), (1e6, "-")):
        size = float(contract(torch.tensor([[distance, 0.0, 0.0]]))[0, 0])
        ball.add_patch(Circle((0, 0), size, fill=False, linestyle=style, color="black", linewidth=0.8))
        label = "∞" if distance == 1e6 else f"{distance:g}"
        box = {"facecolor": "white", "linewidth": 0, "pad": 1}
        ball.text(-size * 0.95, -size * 0.31, label, ha="center", va="center", fontsize=8, bbox=box)
    ball.add_patch(Circle((0, 0), 1, color=BLUE, alpha=0.08, linewidth=0))
    distances = 1.0 / torch.linspace(1 / 0.2, 1 / 1000.0, 25)
    for angle, place, color in ((80, (-0.6, 0.3), BLUE), (25, (0.1, 0.65), ORANGE), (-20, (-0.55, -0.55), GREEN)):
        direction = torch.tensor([np.cos(np.radians(angle)), np.sin(np.radians(angle)), 0.0], dtype=torch.float32)
        points = contract(torch.tensor([*place, 0.0]) + distances[:, None] * direction)
        ball.plot(points[:, 0], points[:, 1], "o-", color=color, markersize=3, linewidth=0.8)
        ball.plot(*place, "s", color=color, markersize=6)
    ball.set(xlim=(-2.1, 2.1), ylim=(-2.1, 2.1), aspect="equal")
    ball.set_title("Contracted space: distances from the origin", fontsize=9)
    ball.axis("off")
    t, weights = torch.linspace(0, 1, 2), torch.ones(1)
    titles = ("1st proposal round", "2nd proposal round", "last round: the large network")
    for index, (count, blur) in enumerate(((24, 0.03), (24, 0.015), (20, 0.004))):
        axis = figure.add_subplot(grid[index, 1])
        t = sample_intervals(t, weights, count)
        middles, lengths = 0.5 * (t[1:] + t[:-1]), t[1:] - t[:-1]
        post = 0.3 / blur * torch.exp(-0.5 * ((middles - 0.35) / blur) ** 2)
        wall = 120.0 * torch.sigmoid((middles - 0.75) / blur * 2)
        weights = render_weights((post + wall) * lengths)
        axis.stairs(weights / lengths, t, fill=True, color=(GRAY, GRAY, BLUE)[index], alpha=0.7)
        axis.plot(t, torch.zeros_like(t), "|", color="black", markersize=7, markeredgewidth=0.7, clip_on=False)
        if index < 2:
            t, weights = max_dilate(t, weights, 0.02)
            used = t[1:] > t[:-1]
            density = torch.where(used, weights / (t[1:] - t[:-1]).clamp_min(1e-12), 0.0)
            axis.stairs(density[used], torch.cat([t[:-1][used], t[-1:]]), color=ORANGE, linewidth=1.2)
        axis.set(title=titles[index], yticks=(), xlim=(0, 1), xticks=() if index < 2 else (0, 0.5, 1))
        axis.title.set_fontsize(8)
    axis.set_xlabel("normalized distance along the ray (ticks: bounds of intervals)")
    return figure


def points_of_a_cone_and_blurred_weights() -> plt.Figure:
    """Zip-NeRF: six points of each interval of a cone, how grid levels fade, and weights blurred for comparison."""
    figure = plt.figure(figsize=(8.4, 4.6), layout="constrained")
    layout = figure.add_gridspec(2, 2, height_ratios=(1, 1.2))
    cone, radius = figure.add_subplot(layout[0, :]), 0.07
    edges = torch.tensor([1.0, 1.5, 2.2, 3.2])
    ray = (torch.zeros(3), torch.tensor([1.0, 0.0, 0.0]), torch.tensor([radius]))
    points, std = multisamples(edges[:-1], edges[1:], *ray)
    end = 3.3
    cone.fill([0, end, end], [0, 2 * radius * end, -2 * radius * end], color=GRAY, alpha=0.2, linewidth=0)
    cone.plot([0, end], [0, 0], color="black", linewidth=0.8)
    for edge in edges.tolist():
        cone.plot([edge, edge], [-2 * radius * edge, 2 * radius * edge], color=GRAY, linewidth=0.8)
    for interval, sizes, color in zip(points.tolist(), std.tolist(), (BLUE, ORANGE, BLUE)):
        cone.plot(*np.array(interval)[:, :2].T, "-", color=color, linewidth=0.6)
        for (x, y, _), size in zip(interval, sizes):
            cone.add_patch(Circle((x, y), 2 * size, color=color, alpha=0.3, linewidth=0))
            cone.plot(x, y, ".", color=color, markersize=4)
    cone.set(xlim=(0.7, end), ylim=(-0.5, 0.5), aspect="equal", yticks=(), xlabel="distance along the ray")
    cone.set_title("Each interval of a pixel's cone is looked up at six points of a helix (seen from the side; 2 σ)")
    fading = figure.add_subplot(layout[1, 0])
    sizes = torch.logspace(-4, 0, 200)[:, None]
    cells = torch.tensor([16.0, 64.0, 256.0, 1024.0])
    for curve, cell in zip(level_weights(sizes, cells).T, cells.tolist()):
        fading.semilogx(sizes[:, 0], curve, color=BLUE, alpha=0.35 + 0.2 * float(np.log2(cell) - 4) / 2)
        fading.text(
            0.28 / cell, 0.93, f"{cell:.0f}", fontsize=7, ha="center", bbox={"facecolor": "white", "linewidth": 0}
        )
    fading.set(xlabel="σ of a point, in sides of the grid's cube", ylabel="weight", ylim=(0, 1.05))
    fading.set_title("Weight of levels by their cells a side", fontsize=9)
    steps = figure.add_subplot(layout[1, 1])
    t = torch.linspace(0, 1, 33)
    middles = 0.5 * (t[1:] + t[:-1])
    weights = torch.softmax(-(((middles - 0.42) / 0.012) ** 2), dim=0)
    coarse = torch.linspace(0, 1, 14)
    steps.stairs(weights / t.diff(), t, fill=True, color=BLUE, alpha=0.5, label="last round")
    fine = torch.linspace(0, 1, 801)
    blurred = blurred_weights(t, weights, fine, 0.03)
    steps.plot(0.5 * (fine[1:] + fine[:-1]), blurred / fine.diff(), color=ORANGE, linewidth=1.2, label="blurred")
    steps.stairs(
        blurred_weights(t, weights, coarse, 0.03) / coarse.diff(), coarse, color="black", label="asked of a proposal"
    )
    steps.set(xlim=(0.2, 0.65), yticks=(), xlabel="normalized distance along the ray")
    steps.set_title("Weights that proposals are compared with", fontsize=9)
    steps.legend(fontsize=7)
    return figure


def bounds_about_a_depth() -> plt.Figure:
    """Depth: between which curves the opacity of a ray may rise, and what rays outside of them cost."""
    depth, epsilon, beta = 2.0, 0.1, 2.0
    figure, axis = plt.subplots(figsize=(8.4, 3.6), layout="constrained")
    t = torch.linspace(0.5, 3.9, 1361)
    offset = (t - depth) / epsilon
    upper, lower = torch.special.ndtr(offset + beta), torch.special.ndtr(offset - beta)
    empty = depth - (3 + beta) * epsilon
    behind = t > depth
    axis.fill_between(t, torch.where(behind, 1.0, upper), torch.where(behind, lower, 0.0), color=GREEN, alpha=0.15)
    axis.plot(t, upper, color=GREEN, linewidth=1)
    axis.plot(t, lower, color=GREEN, linewidth=1)
    axis.axvline(depth, ymax=0.91, color="black", linewidth=0.8)
    axis.axvspan(0.5, empty, color=GRAY, alpha=0.15, linewidth=0)
    axis.text(0.5 * (0.5 + empty), 1.07, "empty: weights cost w²", ha="center", color="#555555", fontsize=8)
    axis.text(depth, 1.07, "measured depth D", ha="center", fontsize=8)
    rays: dict[str, tuple[Tensor, str, str]] = {
        "surface at D − ε/2": (torch.special.ndtr((t - depth + 0.05) / 0.04), BLUE, "-"),
        "fog in front": (1 - torch.exp(-0.9 * (t - 0.5).clamp_min(0)), ORANGE, "-"),
        "surface at D + 7 ε": (torch.special.ndtr((t - depth - 0.7) / 0.04), ORANGE, "--"),
    }
    for name, (opacity, color, style) in rays.items():
        weights = opacity[1:] - opacity[:-1]
        loss = float(weight_bounds_loss(t[None], weights[None], torch.tensor([depth]), epsilon, beta)[0])
        axis.plot(t, opacity, color=color, linestyle=style, linewidth=1.8, label=f"{name}: loss {loss:.3f}")
    axis.set(xlim=(0.5, 3.9), ylim=(-0.02, 1.15), xlabel="distance along the ray", ylabel="opacity reached, W")
    axis.legend(loc="lower right", fontsize=8)
    return figure


def weights_of_a_distance() -> plt.Figure:
    """Surfaces: a ray through a distance field, and where it ends by NeuS's weights and by IDR's sphere tracing."""
    figure = plt.figure(figsize=(8.4, 3.9), layout="constrained")
    grid = figure.add_gridspec(2, 2, width_ratios=(1.15, 1))
    plane, line, bars = figure.add_subplot(grid[:, 0]), figure.add_subplot(grid[0, 1]), figure.add_subplot(grid[1, 1])

    def distance(x: Tensor, y: Tensor) -> Tensor:
        return torch.minimum(torch.hypot(x + 0.3, y + 0.4) - 0.3, torch.hypot(x - 0.4, y - 0.15) - 0.28)

    height, start, end = -0.02, -1.0, 1.0
    x, y = torch.meshgrid(torch.linspace(-1, 1, 300), torch.linspace(-0.75, 0.75, 225), indexing="xy")
    field = distance(x, y)
    plane.contourf(x, y, field, levels=[-1, 0], colors=[BLUE], alpha=0.2)
    plane.contour(x, y, field, levels=torch.arange(-0.3, 1.0, 0.1).tolist(), colors=GRAY, linewidths=0.6)
    plane.contour(x, y, field, levels=[0.0], colors=BLUE, linewidths=2)
    plane.annotate("", (end, height), (start, height), arrowprops={"arrowstyle": "->", "linewidth": 1})
    place = start
    for _ in range(12):
        step = float(distance(torch.tensor(place), torch.tensor(height)))
        plane.add_patch(Circle((place, height), step, fill=False, color=ORANGE, linewidth=0.9))
        place += step
    plane.plot(place, height, "o", color=ORANGE, markersize=5)
    plane.set(aspect="equal", xlim=(-1, 1), ylim=(-0.75, 0.75))
    plane.set_title("Lines of equal distance; sphere tracing (orange)")
    plane.axis("off")
    t = torch.linspace(start, end, 401)
    values = distance(t, torch.full_like(t, height))
    line.plot(t, values, color=BLUE)
    line.axhline(0, color="black", linewidth=0.6)
    line.set(ylabel="distance f", xlim=(start, end), xticks=(), title="Along the ray")
    for sharpness, color in ((20.0, GRAY), (60.0, SKY), (200.0, BLUE)):
        weights = render_weights(section_optical_depth(values[:-1], values[1:], sharpness)[None])[0]
        bars.plot(0.5 * (t[1:] + t[:-1]), weights / (t[1:] - t[:-1]), color=color, label=f"s = {sharpness:g}")
    bars.set(ylabel="weight per length", xlim=(start, end), xlabel="position along the ray")
    bars.legend(fontsize=8, title="NeuS weights", title_fontsize=8)
    for axis in (line, bars):
        axis.axvline(place, color=ORANGE, linewidth=0.8)
    return figure


def blocks_of_a_pyramid() -> plt.Figure:
    """MINER: the error that coarser levels leave, the blocks that get a network for it, and the fit."""
    image = skimage.data.rocket()
    fit = Fitting(Signal(image, 2), FitOptions())
    before: dict[int, Tensor] = {}
    while not fit.finished:
        level = fit.level
        if level not in before and level < fit.options.num_levels - 1:
            before[level] = fit.hierarchy.reconstruct(level)
        fit.advance()
    levels = list(reversed(range(fit.options.num_levels)))
    figure, axes = plt.subplots(2, len(levels), figsize=(8.4, 3.3), layout="constrained")
    for column, level in enumerate(levels):
        grid = fit.hierarchy.grids[level]
        truth = torch.from_numpy(fit.pyramid.read(level, (0, 0), grid.shape))
        index = fit.hierarchy.levels[level].index.numpy()
        place = {"extent": (0, grid.signal_shape[1], grid.signal_shape[0], 0), "interpolation": "nearest"}
        error = (truth - before[level]).square().mean(-1) if level in before else torch.ones(grid.shape)
        axes[0, column].imshow(error.clamp_min(1e-6), norm=LogNorm(1e-5, 1e-2), cmap="gray", **place)
        axes[1, column].imshow(fit.hierarchy.reconstruct(level).clamp(0, 1), **place)
        extent = grid.block_extent
        for row, left in grid.coordinates(index) * extent:
            for axis in axes[:, column]:
                axis.add_patch(Rectangle((left, row), extent, extent, fill=False, color=ORANGE, linewidth=0.6))
        size = "×".join(str(side) for side in reversed(grid.shape))
        axes[0, column].set_title(f"level {level}: {size}\n{len(index)} of {grid.num_blocks} blocks", fontsize=8)
        if level not in before:
            axes[0, column].text(0.5, 0.5, "nothing yet:\nevery block\ngets a network", ha="center", va="center",
                                 fontsize=8, transform=axes[0, column].transAxes)  # fmt: skip
        for axis in axes[:, column]:
            axis.set(xticks=(), yticks=(), xlim=(0, grid.signal_shape[1]), ylim=(grid.signal_shape[0], 0))
    axes[0, 0].set_ylabel("error before")
    axes[1, 0].set_ylabel("fit after")
    return figure


if __name__ == "__main__":
    tyro.cli(Figures).main()
