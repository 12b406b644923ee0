"""A picture of a data set's cameras: in perspective, from above and from the side, beside the numbers about them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, UInt8
from numpy.typing import NDArray

from common_ns.cameras.geometry import box_edges, frustum_corners, horizontal_axes, positions
from common_ns.cameras.pose_set import BOX_COLOR, FOCUS_COLOR, SPLIT_COLORS, UP_COLOR, PoseSet, summary, thumbnail

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Rgb = tuple[float, float, float]

ELEVATION, AZIMUTH = 22.0, -55.0
"""From where the picture in perspective is seen, in degrees."""

STYLE: Any = {
    "axes.edgecolor": "#d1d5db",
    "axes.labelcolor": "#6b7280",
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": "#e3e6ea",
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "xtick.color": "#9ca3af",
    "ytick.color": "#9ca3af",
}


def upright_rotation(up: Float[NDArray, " 3"]) -> Float[NDArray, "3 3"]:
    """Turns the world by right angles so that the axis nearest to `up` points up; the scene box stays axis-aligned."""
    axis = int(np.argmax(np.abs(up)))
    vertical = np.eye(3)[axis] * math.copysign(1.0, up[axis])
    return np.stack([*horizontal_axes(vertical), vertical])


def nearness(point: Float[NDArray, " 3"]) -> float:
    """How far a point lies towards the viewer of the picture in perspective, in scene units."""
    elevation, azimuth = math.radians(ELEVATION), math.radians(AZIMUTH)
    level = math.cos(elevation)
    return float(point @ [level * math.cos(azimuth), level * math.sin(azimuth), math.sin(elevation)])


def draw_figure(poses: PoseSet, thumbnails: int = 150) -> Figure:
    """Draw the cameras in perspective, from above and from the side, beside the numbers of `summary`.

    Args:
        poses: the cameras.
        thumbnails: draw the images into the frusta if there are at most so many cameras.
    """
    from matplotlib import rc_context
    from matplotlib.collections import LineCollection
    from matplotlib.figure import Figure
    from mpl_toolkits.mplot3d.art3d import Line3DCollection, Poly3DCollection

    turn = upright_rotation(poses.up)
    names = ["−" * int(row.min() < 0) + "xyz"[np.argmax(np.abs(row))] for row in turn]
    depth = poses.frustum_depth
    box = box_edges(poses.box) @ turn.T
    focus, up = turn @ poses.focus, turn @ poses.up
    centers = [positions(s.c2w) @ turn.T for s in poses.splits]
    planes = [frustum_corners(s.c2w, s.sizes, s.focals, s.principal_points, depth) @ turn.T for s in poses.splits]
    everything = np.concatenate([box.reshape(-1, 3), focus[None], *centers, *[p.reshape(-1, 3) for p in planes]])
    low, high = everything.min(axis=0), everything.max(axis=0)
    extent = float(np.max(high - low))

    figure = Figure(figsize=(15, 8.4), dpi=110, facecolor="white")
    place = (0.0, 0.03, 0.62, 0.86)
    with rc_context(STYLE):
        space: Any = figure.add_axes(place, projection="3d", computed_zorder=False)  # pyright: ignore[reportCallIssue]
        plans = [figure.add_axes((left, 0.56, 0.15, 0.30)) for left in (0.645, 0.84)]
    space.view_init(ELEVATION, AZIMUTH)
    space.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), zlim=(low[2], high[2]))
    space.set_box_aspect(high - low, zoom=1.05)
    space.set(xlabel=names[0], ylabel=names[1], zlabel=names[2])
    for axis in (space.xaxis, space.yaxis, space.zaxis):
        axis.set_pane_color("white")
    space.add_collection3d(Line3DCollection(box, colors=[rgb(BOX_COLOR)], linewidths=1.2, linestyles="dashed"))

    # The painter's algorithm: nearer cameras are drawn over those further away.
    order = sorted((nearness(centers[k][i]), k, i) for k, split in enumerate(poses.splits) for i in split.distinct)
    furthest, nearest = order[0][0], order[-1][0]
    for rank, (near, k, i) in enumerate(order):
        split = poses.splits[k]
        image = thumbnail(split, i, 32) if len(order) <= thumbnails else None
        fade = 0.4 + 0.6 * (near - furthest) / max(nearest - furthest, 1e-9)
        faces, fill, edges = frustum_faces(centers[k][i], planes[k][i], image, rgb(SPLIT_COLORS[split.name]), fade)
        solid = Poly3DCollection(faces, facecolors=fill, edgecolors=edges, linewidths=0.6, zorder=10 + rank)
        frame = Poly3DCollection([planes[k][i]], facecolors=[(0, 0, 0, 0)], edgecolors=[edges[0]], zorder=10.5 + rank)
        space.add_collection3d(solid)
        space.add_collection3d(frame)
    on_top = 10 + len(order)
    arrow = {"color": rgb(UP_COLOR), "linewidth": 2.2, "arrow_length_ratio": 0.2}
    space.quiver(*focus, *(0.16 * extent * up), zorder=on_top, **arrow)
    halo = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1.5}
    label = focus + 0.185 * extent * up
    space.text(*label, "up", color=rgb(UP_COLOR), ha="center", va="center", zorder=on_top, bbox=halo)
    space.scatter(*focus, color=rgb(FOCUS_COLOR), s=40, depthshade=False, zorder=on_top)

    for plan, title, plane_axes in zip(plans, ("from above", "from the side"), ([0, 1], [0, 2])):
        for split, center, plane in zip(poses.splits, centers, planes):
            color = rgb(SPLIT_COLORS[split.name])
            axes = np.stack([center, plane.mean(axis=1)], axis=1)[..., plane_axes]
            plan.add_collection(LineCollection(list(axes), color=color, linewidth=0.9, alpha=0.8))
            plan.scatter(*center[:, plane_axes].T, color=color, s=6, linewidths=0, zorder=3)
        edges = list(box[..., plane_axes])
        plan.add_collection(LineCollection(edges, color=rgb(BOX_COLOR), linewidth=0.9, linestyle="dashed"))
        plan.scatter(*focus[plane_axes], color=rgb(FOCUS_COLOR), s=22, zorder=4)
        plan.set_title(title, fontsize=10, color="#374151")
        plan.set_aspect("equal", adjustable="datalim")
        plan.autoscale_view()
        plan.set_xlabel(names[plane_axes[0]], labelpad=0)
        plan.set_ylabel(names[plane_axes[1]], labelpad=0)

    figure.text(0.03, 0.94, poses.title, fontsize=15, weight="bold", color="#111827")
    entries = [(split.name, SPLIT_COLORS[split.name]) for split in poses.splits]
    entries += [("scene box", BOX_COLOR), ("focus point", FOCUS_COLOR), ("up axis", UP_COLOR)]
    for column, (name, color) in enumerate(entries):
        figure.text(0.03 + 0.08 * column, 0.9, f"■ {name}", fontsize=10, color=rgb(color))
    for row, (heading, value) in enumerate(summary(poses)):
        figure.text(0.63, 0.455 - 0.037 * row, heading, fontsize=10, color="#6b7280")
        figure.text(0.71, 0.455 - 0.037 * row, value, fontsize=10, color="#111827")
    return figure


def rgb(color: tuple[int, int, int]) -> Rgb:
    """An 8-bit color in matplotlib's range."""
    return color[0] / 255.0, color[1] / 255.0, color[2] / 255.0


def frustum_faces(
    center: Float[NDArray, " 3"],
    plane: Float[NDArray, "4 3"],
    image: UInt8[NDArray, "h w 3"] | None,
    color: Rgb,
    fade: float,
) -> tuple[list[Float[NDArray, "corners 3"]], list[tuple[float, ...]], list[tuple[float, ...]]]:
    """The faces of one camera: four translucent sides, and the image on its image plane, a square per pixel.

    Args:
        center: camera center.
        plane: corners of the image plane from top left clockwise.
        image: what to paint on the image plane, if anything.
        color: of the outlines.
        fade: opacity, which tells near from far.
    Returns: corners, color and color of the outline of each face.
    """
    faces = [np.stack([center, plane[k], plane[(k + 1) % 4]]) for k in range(4)]
    fill: list[tuple[float, ...]] = [(*color, 0.08 * fade)] * 4
    edges: list[tuple[float, ...]] = [(*color, 0.9 * fade)] * 4
    if image is not None:
        height, width = image.shape[:2]
        y, x = np.arange(height + 1)[:, None, None] / height, np.arange(width + 1)[:, None] / width
        grid = plane[0] + x * (plane[1] - plane[0]) + y * (plane[3] - plane[0])
        squares = np.stack([grid[:-1, :-1], grid[:-1, 1:], grid[1:, 1:], grid[1:, :-1]], axis=2)
        faces += list(squares.reshape(-1, 4, 3))
        # Opaque, with an outline of the same color: gaps would show between squares, and overlaps if translucent.
        pixels = [tuple(pixel) for pixel in 1.0 - fade * (1.0 - image.reshape(-1, 3) / 255.0)]
        fill, edges = fill + pixels, edges + pixels
    return faces, fill, edges
