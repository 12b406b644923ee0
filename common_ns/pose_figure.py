"""A picture of a data set's cameras: in perspective, from above and from the side, beside the numbers about them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, UInt8
from numpy.typing import NDArray

from common_ns.camera_geometry import box_edges, frustum_corners, horizontal_axes, positions
from common_ns.pose_set import BOX_COLOR, FOCUS_COLOR, SPLIT_COLORS, UP_COLOR, PoseSet, summary, thumbnail

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class PictureView:
    """A perspective view of the scene from outside, with which the picture is drawn."""

    axes: Float[NDArray, "3 3"]
    """Rows: right, up and towards the viewer, as unit vectors in scene coordinates."""
    middle: Float[NDArray, " 3"]
    """The point that the viewer looks at."""
    distance: float
    """Distance of the viewer from it, in scene units."""

    @classmethod
    def around(cls, points: Float[NDArray, "n 3"], elevation: float, azimuth: float) -> PictureView:
        """A view of all points from afar; angles in radians, z is up."""
        toward = np.array(
            [math.cos(elevation) * math.cos(azimuth), math.cos(elevation) * math.sin(azimuth), math.sin(elevation)]
        )
        right = np.array([-math.sin(azimuth), math.cos(azimuth), 0.0])
        middle = 0.5 * (points.min(axis=0) + points.max(axis=0))
        reach = float(np.linalg.norm(points - middle, axis=-1).max())
        return cls(np.stack([right, np.cross(toward, right), toward]), middle, 4.0 * reach)

    def project(self, points: Float[NDArray, "*n 3"]) -> tuple[Float[NDArray, "*n 2"], Float[NDArray, "*n"]]:
        """Positions in the picture, and nearness to the viewer: larger is nearer. Both in scene units."""
        local = (points - self.middle) @ self.axes.T
        return local[..., :2] / (1.0 - local[..., 2:] / self.distance), local[..., 2]


def upright_rotation(up: Float[NDArray, " 3"]) -> Float[NDArray, "3 3"]:
    """Turns the world by right angles so that the axis nearest to `up` points up; the scene box stays axis-aligned."""
    axis = int(np.argmax(np.abs(up)))
    vertical = np.eye(3)[axis] * math.copysign(1.0, up[axis])
    return np.stack([*horizontal_axes(vertical), vertical])


def draw_figure(poses: PoseSet, thumbnails: int = 150) -> Figure:
    """Draw the cameras in perspective, from above and from the side, beside the numbers of `summary`.

    Args:
        poses: the cameras.
        thumbnails: draw the images into the frusta if there are at most so many cameras.
    """
    from matplotlib.figure import Figure

    turn = upright_rotation(poses.up)
    depth = poses.frustum_depth
    box = box_edges(poses.box) @ turn.T
    focus, up = turn @ poses.focus, turn @ poses.up
    centers = [positions(s.c2w) @ turn.T for s in poses.splits]
    planes = [frustum_corners(s.c2w, s.sizes, s.focals, s.principal_points, depth) @ turn.T for s in poses.splits]
    everything = np.concatenate([box.reshape(-1, 3), focus[None], *centers, *[p.reshape(-1, 3) for p in planes]])
    extent = float(np.max(np.ptp(everything, axis=0)))
    cell = grid_cell(everything)
    grid = floor_grid(everything, cell)
    view = PictureView.around(everything, elevation=math.radians(22), azimuth=math.radians(-55))

    figure = Figure(figsize=(15, 8.4), dpi=110, facecolor="white")
    space = figure.add_axes((0.01, 0.02, 0.6, 0.86))
    space.set_axis_off()
    space.set_aspect("equal")
    add_lines(space, view.project(grid)[0], color="#e3e6ea", linewidth=0.8, zorder=1)
    add_lines(space, view.project(box)[0], color=rgb(BOX_COLOR), linewidth=1.2, linestyle="dashed", zorder=2)
    origin = grid.reshape(-1, 3)[np.argmin(view.project(grid.reshape(-1, 3))[0][:, 0])]
    for axis, name, tone in zip(turn.T, "xyz", ("#dc2626", "#16a34a", "#2563eb")):
        ends = view.project(origin + extent * np.array([[0.0], [0.1], [0.125]]) * axis)[0]
        space.plot(*ends[:2].T, color=tone, linewidth=2.0, zorder=3)
        space.text(ends[2, 0], ends[2, 1], name, color=tone, ha="center", va="center", zorder=3)

    # The painter's algorithm: nearer cameras are drawn over those further away.
    nearness = [view.project(center)[1] for center in centers]
    furthest, nearest = min(n.min() for n in nearness), max(n.max() for n in nearness)
    order = sorted((nearness[k][i], k, i) for k, split in enumerate(poses.splits) for i in split.distinct)
    with_images = len(order) <= thumbnails
    for rank, (near, k, i) in enumerate(order):
        split = poses.splits[k]
        image = thumbnail(split, i, 64) if with_images else None
        fade = 0.4 + 0.6 * (near - furthest) / max(nearest - furthest, 1e-9)
        draw_frustum(space, view, centers[k][i], planes[k][i], image, rgb(SPLIT_COLORS[split.name]), fade, 10 + rank)

    start, tip, label = view.project(focus + extent * np.array([[0.0], [0.16], [0.185]]) * up)[0]
    arrow = {"arrowstyle": "-|>", "color": rgb(UP_COLOR), "linewidth": 2.2, "shrinkA": 0, "shrinkB": 0}
    on_top = 10 + len(order)
    space.annotate("", xy=(tip[0], tip[1]), xytext=(start[0], start[1]), arrowprops=arrow, zorder=on_top)
    halo = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1.5}
    space.text(label[0], label[1], "up", color=rgb(UP_COLOR), ha="center", va="center", zorder=on_top, bbox=halo)
    space.scatter(*start, color=rgb(FOCUS_COLOR), s=40, zorder=on_top)
    shown = np.concatenate([view.project(everything)[0], view.project(grid.reshape(-1, 3))[0], label[None]])
    low, high = shown.min(axis=0) - 0.02 * extent, shown.max(axis=0) + 0.02 * extent
    space.set_xlim(low[0], high[0])
    space.set_ylim(low[1], high[1])

    views = (("from above", [0, 1], (0.645, 0.56, 0.15, 0.30)), ("from the side", [0, 2], (0.84, 0.56, 0.15, 0.30)))
    for title, plane_axes, place in views:
        plan = figure.add_axes(place)
        for split, center, plane in zip(poses.splits, centers, planes):
            color = rgb(SPLIT_COLORS[split.name])
            axes = np.stack([center, plane.mean(axis=1)], axis=1)[..., plane_axes]
            add_lines(plan, axes, color=color, linewidth=0.9, alpha=0.8)
            plan.scatter(*center[:, plane_axes].T, color=color, s=6, linewidths=0, zorder=3)
        add_lines(plan, box[..., plane_axes], color=rgb(BOX_COLOR), linewidth=0.9, linestyle="dashed")
        plan.scatter(*focus[plane_axes], color=rgb(FOCUS_COLOR), s=22, zorder=4)
        plan.set_title(title, fontsize=10, color="#374151")
        plan.set_aspect("equal", adjustable="datalim")
        plan.autoscale_view()
        plan.tick_params(labelsize=7, color="#9ca3af", labelcolor="#6b7280")
        plan.grid(color="#f0f1f3", linewidth=0.6)
        plan.set_axisbelow(True)
        for spine in plan.spines.values():
            spine.set_color("#d1d5db")

    figure.text(0.03, 0.94, poses.title, fontsize=15, weight="bold", color="#111827")
    entries = [(split.name, SPLIT_COLORS[split.name]) for split in poses.splits]
    entries += [("scene box", BOX_COLOR), ("focus point", FOCUS_COLOR), ("up axis", UP_COLOR)]
    for column, (name, color) in enumerate(entries):
        figure.text(0.03 + 0.08 * column, 0.9, f"■ {name}", fontsize=10, color=rgb(color))
    for row, (heading, value) in enumerate([*summary(poses), ("floor grid", f"cells of {cell:g}")]):
        figure.text(0.63, 0.455 - 0.037 * row, heading, fontsize=10, color="#6b7280")
        figure.text(0.71, 0.455 - 0.037 * row, value, fontsize=10, color="#111827")
    return figure


def rgb(color: tuple[int, int, int]) -> tuple[float, float, float]:
    """An 8-bit color in matplotlib's range."""
    return color[0] / 255.0, color[1] / 255.0, color[2] / 255.0


def add_lines(axes: Axes, segments: Float[NDArray, "n 2 2"], **style: Any) -> None:
    """Draw line segments."""
    from matplotlib.collections import LineCollection

    axes.add_collection(LineCollection(list(segments), **style))


def draw_frustum(
    axes: Axes,
    view: PictureView,
    center: Float[NDArray, " 3"],
    plane: Float[NDArray, "4 3"],
    image: UInt8[NDArray, "h w 3"] | None,
    color: tuple[float, float, float],
    fade: float,
    zorder: float,
) -> None:
    """Draw one camera: four translucent sides, and the image on its image plane.

    Args:
        axes: the picture.
        view: how scene points get there.
        center: camera center.
        plane: corners of the image plane from top left clockwise.
        image: what to paint on the image plane, if anything.
        color: of the outlines.
        fade: opacity, which tells near from far.
        zorder: order of painting; takes the interval up to the next integer.
    """
    from matplotlib.collections import PolyCollection
    from matplotlib.transforms import Affine2D

    (apex, *corners), nearness = view.project(np.concatenate([center[None], plane]))
    image_in_front = nearness[1:].mean() > nearness[0]
    if image is not None:
        # A frustum is so small in the picture that perspective on its image plane is a linear map.
        right, down = corners[1] - corners[0], corners[3] - corners[0]
        to_plane = Affine2D(
            np.array([[right[0], down[0], corners[0][0]], [right[1], down[1], corners[0][1]], [0, 0, 1]])
        )
        axes.imshow(
            image,
            extent=(0.0, 1.0, 1.0, 0.0),
            transform=to_plane + axes.transData,
            interpolation="bilinear",
            alpha=fade,
            zorder=zorder + (0.5 if image_in_front else 0.0),
            aspect="equal",
        )
    triangles = [[apex, corners[k], corners[(k + 1) % 4]] for k in range(4)]
    sides = PolyCollection(triangles, facecolors=[(*color, 0.08 * fade)], edgecolors=[(*color, 0.55 * fade)])
    sides.set(linewidth=0.6, zorder=zorder + 0.25, joinstyle="round")
    axes.add_collection(sides)
    frame = PolyCollection([corners], facecolors="none", edgecolors=[(*color, fade)])
    frame.set(linewidth=1.1, zorder=zorder + 0.6, joinstyle="round")
    axes.add_collection(frame)


def grid_cell(points: Float[NDArray, "n 3"]) -> float:
    """Side of the floor grid's cells: the largest of 1, 2 and 5 times a power of ten that gives some ten cells."""
    wanted = float(np.max(np.ptp(points, axis=0))) / 8.0
    power = 10.0 ** math.floor(math.log10(wanted))
    return power * max(factor for factor in (1.0, 2.0, 5.0) if factor * power <= wanted)


def floor_grid(points: Float[NDArray, "n 3"], cell: float) -> Float[NDArray, "lines 2 3"]:
    """Line segments of a square grid below all points, as a cue for depth; its lines lie on multiples of the cell."""
    low, high = points.min(axis=0), points.max(axis=0)
    x, y = (cell * np.arange(math.floor(low[k] / cell + 1e-6), math.ceil(high[k] / cell - 1e-6) + 1) for k in (0, 1))
    along_x = [[[x[0], value, low[2]], [x[-1], value, low[2]]] for value in y]
    along_y = [[[value, y[0], low[2]], [value, y[-1], low[2]]] for value in x]
    return np.array(along_x + along_y)
