"""`ns-show-poses`: shows the cameras of a data set, in the viser web viewer or as a picture.

It works with every data parser that nerfstudio knows, and shows what training would see: the poses after the parser has
oriented, centred and scaled them, and the scene box.
"""

from __future__ import annotations

import math
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import tyro
from jaxtyping import Float, UInt8
from numpy.typing import NDArray

from common_ns.camera_geometry import (
    box_edges,
    frustum_corners,
    horizontal_axes,
    in_words,
    orbit_centre,
    positions,
    share_in_front,
    spherical_coordinates,
    up_axis,
)
from common_ns.checks import InputError, explained, has_alpha, report_input_errors, require_path

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from nerfstudio.data.dataparsers.base_dataparser import DataParserConfig, DataparserOutputs
    from viser import ViserServer

SPLIT_COLOURS = {"train": (37, 99, 235), "test": (234, 88, 12)}
"""Colour of each split's frusta, 8-bit RGB."""
BOX_COLOUR = (130, 138, 150)
UP_COLOUR = (22, 140, 80)
FOCUS_COLOUR = (200, 30, 90)


@dataclass(frozen=True)
class SplitCameras:
    """The cameras of one split."""

    name: str
    """train or test."""
    c2w: Float[NDArray, "n 3 4"]
    """Camera-to-world matrices, OpenGL convention."""
    sizes: Float[NDArray, "n 2"]
    """Width and height in pixels."""
    focals: Float[NDArray, "n 2"]
    """fx and fy in pixels."""
    principal_points: Float[NDArray, "n 2"]
    """cx and cy in pixels."""
    image_files: list[Path]
    """Image of each camera."""
    alpha_colour: Float[NDArray, " 3"]
    """What transparent images are blended with, 0 to 1."""

    @property
    def distinct(self) -> NDArray[np.intp]:
        """Indices of the cameras to draw: the first of each pose, as a multi-scale scene has several with one pose."""
        keys = np.round(self.c2w.reshape(len(self.c2w), -1), 6)
        return np.sort(np.unique(keys, axis=0, return_index=True)[1])


@dataclass(frozen=True)
class PoseSet:
    """The cameras of a data set and the region they are about."""

    title: str
    """Name of the data set and its data parser."""
    splits: list[SplitCameras]
    """At least the train split; none of them is empty."""
    box: Float[NDArray, "2 3"]
    """Lower and upper corner of the scene box."""

    @property
    def c2w(self) -> Float[NDArray, "n 3 4"]:
        """Poses of all splits."""
        return np.concatenate([split.c2w for split in self.splits])

    @property
    def focus(self) -> Float[NDArray, " 3"]:
        """The point that the cameras look at."""
        return orbit_centre(self.c2w, self.box)[0]

    @property
    def up(self) -> Float[NDArray, " 3"]:
        """The direction that is up for the cameras."""
        return up_axis(self.c2w)

    @property
    def frustum_depth(self) -> float:
        """Depth in scene units at which frusta are drawn: so that neighbouring cameras stay apart."""
        centres = np.concatenate([positions(split.c2w[split.distinct]) for split in self.splits])[:500]
        extent = float(np.linalg.norm(np.ptp(np.concatenate([centres, self.focus[None]]), axis=0)))
        extent = max(extent, 0.1 * float(np.linalg.norm(self.box[1] - self.box[0])))
        distances = np.linalg.norm(centres[:, None] - centres[None], axis=-1)
        # Each camera is not its own neighbour, nor are cameras that turn about one point.
        distances[distances < 1e-4 * extent] = np.inf
        spacing = np.median(distances.min(axis=1)) if len(centres) > 1 else np.inf
        return float(np.clip(0.7 * spacing, 0.05 * extent, 0.1 * extent))


def guess_dataparser(folder: Path) -> tuple[str, dict[str, Any]]:
    """Name of the data parser for a folder, with the options it needs, judged by the files in it."""
    if (folder / "transforms_train.json").is_file():
        return "blender-data", {}
    if (folder / "metadata.json").is_file():
        return "multiscale-blender-data", {}
    if (folder / "transforms.json").is_file() or folder.suffix == ".json":
        return "nerfstudio-data", {}
    for model in ("colmap/sparse/0", "sparse/0", "colmap/sparse", "sparse"):
        if any((folder / model / f"cameras{suffix}").is_file() for suffix in (".bin", ".txt")):
            return "colmap", {"colmap_path": Path(model)}
    problem = "holds no transforms_train.json, transforms.json, metadata.json or COLMAP model"
    raise InputError(problem, "Name the data parser: ns-show-poses NAME --data FOLDER (--help lists the names)", folder)


def split_cameras(name: str, outputs: DataparserOutputs, only: list[int] | None = None) -> SplitCameras:
    """Take what is drawn out of a data parser's outputs, for all cameras or only for those at the given indices."""
    cameras = outputs.cameras
    index = np.arange(len(outputs.image_filenames)) if only is None else np.asarray(only, dtype=int)

    def pair(first: Any, second: Any) -> Float[NDArray, "n 2"]:
        return np.stack([first.flatten().numpy(), second.flatten().numpy()], axis=-1).astype(np.float64)[index]

    white = np.ones(3)
    return SplitCameras(
        name=name,
        c2w=cameras.camera_to_worlds.numpy().astype(np.float64)[index],
        sizes=pair(cameras.width, cameras.height),
        focals=pair(cameras.fx, cameras.fy),
        principal_points=pair(cameras.cx, cameras.cy),
        image_files=[outputs.image_filenames[i] for i in index],
        alpha_colour=white if outputs.alpha_color is None else np.asarray(outputs.alpha_color, dtype=np.float64),
    )


def load_poses(dataparser_config: DataParserConfig, title: str) -> PoseSet:
    """Read the train and test cameras of a data set.

    A data set without a test split, or one whose test images are its train images, is shown with its train split alone.
    """
    dataparser = dataparser_config.setup()
    with explained(dataparser_config.data):
        train = dataparser.get_dataparser_outputs(split="train")
    if len(train.image_filenames) == 0:
        raise InputError("the train split is empty", "Check the data set", dataparser_config.data)
    splits = [split_cameras("train", train)]
    try:
        with explained(dataparser_config.data):
            test = dataparser.get_dataparser_outputs(split="test")
    except (RuntimeError, ValueError) as error:
        print(f"The test split is not shown: {error}")
    else:
        known = set(train.image_filenames)
        only = [i for i, file in enumerate(test.image_filenames) if file not in known]
        if only:
            splits.append(split_cameras("test", test, only))
    for split in splits:
        for pose, file in zip(split.c2w, split.image_files):
            if not np.isfinite(pose).all():
                remedy = "Correct this frame or remove it"
                raise InputError(f"the pose of {file.name} holds {pose[~np.isfinite(pose)][0]}", remedy, file.parent)
    return PoseSet(title=title, splits=splits, box=train.scene_box.aabb.numpy().astype(np.float64))


def thumbnail(split: SplitCameras, index: int, side: int) -> UInt8[NDArray, "h w 3"] | None:
    """The image of one camera with its longer side shrunk to `side` pixels; None if it cannot be read."""
    from PIL import Image

    try:
        with Image.open(split.image_files[index]) as image:
            transparent = has_alpha(image.mode) or "transparency" in image.info
            scale = side / max(image.size)
            size = tuple(max(1, round(scale * length)) for length in image.size)
            small = np.asarray(image.convert("RGBA" if transparent else "RGB").resize(size, Image.Resampling.BOX))
    except (OSError, ValueError):
        return None
    if not transparent:
        return small
    alpha = small[..., 3:] / 255.0
    return np.rint(small[..., :3] * alpha + 255.0 * split.alpha_colour * (1.0 - alpha)).astype(np.uint8)


def number_range(values: NDArray, unit: str = "", digits: int = 4) -> str:
    """Smallest, median and largest value, or the one value that they all are."""
    low, middle, high = np.min(values), np.median(values), np.max(values)
    if high - low <= 1e-3 * max(abs(high), abs(low)):
        return f"{middle:.{digits}g}{unit}"
    return f"{low:.{digits}g} – {high:.{digits}g}{unit}, median {middle:.{digits}g}{unit}"


def summary(poses: PoseSet) -> list[tuple[str, str]]:
    """What there is to say about the cameras in numbers, as pairs of heading and value."""
    sizes = np.concatenate([split.sizes for split in poses.splits])
    focals = np.concatenate([split.focals for split in poses.splits])
    distance, elevation, _ = spherical_coordinates(positions(poses.c2w), poses.focus, poses.up)
    counts = ", ".join(f"{len(split.c2w)} {split.name}" for split in poses.splits)
    kinds = np.unique(sizes, axis=0)[::-1]
    resolutions = ", ".join(f"{w:.0f} × {h:.0f}" for w, h in kinds[:4]) + (" …" if len(kinds) > 4 else "")
    fov = np.degrees(2 * np.arctan(0.5 * sizes[:, 1] / focals[:, 1]))
    in_front = share_in_front(poses.c2w, poses.focus)
    rows = [("cameras", counts), ("resolution", f"{resolutions} px")]
    if np.allclose(focals[:, 0], focals[:, 1], rtol=1e-3):
        rows.append(("focal length", number_range(focals[:, 0], " px")))
    else:
        rows += [(f"focal length {axis}", number_range(focals[:, k], " px")) for k, axis in enumerate("xy")]
    rows += [
        ("field of view", f"{number_range(fov, '°', 3)} vertical"),
        ("focus point", f"{in_words(poses.focus)}, in front of {in_front:.0%} of the cameras"),
        ("distance", number_range(distance)),
        ("elevation", number_range(np.degrees(elevation), "°", 3)),
        ("up axis", in_words(poses.up)),
        ("scene box", f"{in_words(poses.box[0])}  to  {in_words(poses.box[1])}"),
    ]
    return rows


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
    centres = [positions(s.c2w) @ turn.T for s in poses.splits]
    planes = [frustum_corners(s.c2w, s.sizes, s.focals, s.principal_points, depth) @ turn.T for s in poses.splits]
    everything = np.concatenate([box.reshape(-1, 3), focus[None], *centres, *[p.reshape(-1, 3) for p in planes]])
    extent = float(np.max(np.ptp(everything, axis=0)))
    cell = grid_cell(everything)
    grid = floor_grid(everything, cell)
    view = PictureView.around(everything, elevation=math.radians(22), azimuth=math.radians(-55))

    figure = Figure(figsize=(15, 8.4), dpi=110, facecolor="white")
    space = figure.add_axes((0.01, 0.02, 0.6, 0.86))
    space.set_axis_off()
    space.set_aspect("equal")
    add_lines(space, view.project(grid)[0], color="#e3e6ea", linewidth=0.8, zorder=1)
    add_lines(space, view.project(box)[0], color=rgb(BOX_COLOUR), linewidth=1.2, linestyle="dashed", zorder=2)
    origin = grid.reshape(-1, 3)[np.argmin(view.project(grid.reshape(-1, 3))[0][:, 0])]
    for axis, name, tone in zip(turn.T, "xyz", ("#dc2626", "#16a34a", "#2563eb")):
        ends = view.project(origin + extent * np.array([[0.0], [0.1], [0.125]]) * axis)[0]
        space.plot(*ends[:2].T, color=tone, linewidth=2.0, zorder=3)
        space.text(ends[2, 0], ends[2, 1], name, color=tone, ha="center", va="center", zorder=3)

    # The painter's algorithm: nearer cameras are drawn over those further away.
    nearness = [view.project(centre)[1] for centre in centres]
    furthest, nearest = min(n.min() for n in nearness), max(n.max() for n in nearness)
    order = sorted((nearness[k][i], k, i) for k, split in enumerate(poses.splits) for i in split.distinct)
    with_images = len(order) <= thumbnails
    for rank, (near, k, i) in enumerate(order):
        split = poses.splits[k]
        image = thumbnail(split, i, 64) if with_images else None
        fade = 0.4 + 0.6 * (near - furthest) / max(nearest - furthest, 1e-9)
        draw_frustum(space, view, centres[k][i], planes[k][i], image, rgb(SPLIT_COLOURS[split.name]), fade, 10 + rank)

    start, tip, label = view.project(focus + extent * np.array([[0.0], [0.16], [0.185]]) * up)[0]
    arrow = {"arrowstyle": "-|>", "color": rgb(UP_COLOUR), "linewidth": 2.2, "shrinkA": 0, "shrinkB": 0}
    on_top = 10 + len(order)
    space.annotate("", xy=(tip[0], tip[1]), xytext=(start[0], start[1]), arrowprops=arrow, zorder=on_top)
    halo = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1.5}
    space.text(label[0], label[1], "up", color=rgb(UP_COLOUR), ha="center", va="center", zorder=on_top, bbox=halo)
    space.scatter(*start, color=rgb(FOCUS_COLOUR), s=40, zorder=on_top)
    shown = np.concatenate([view.project(everything)[0], view.project(grid.reshape(-1, 3))[0], label[None]])
    low, high = shown.min(axis=0) - 0.02 * extent, shown.max(axis=0) + 0.02 * extent
    space.set_xlim(low[0], high[0])
    space.set_ylim(low[1], high[1])

    views = (("from above", [0, 1], (0.645, 0.56, 0.15, 0.30)), ("from the side", [0, 2], (0.84, 0.56, 0.15, 0.30)))
    for title, plane_axes, place in views:
        plan = figure.add_axes(place)
        for split, centre, plane in zip(poses.splits, centres, planes):
            colour = rgb(SPLIT_COLOURS[split.name])
            axes = np.stack([centre, plane.mean(axis=1)], axis=1)[..., plane_axes]
            add_lines(plan, axes, color=colour, linewidth=0.9, alpha=0.8)
            plan.scatter(*centre[:, plane_axes].T, color=colour, s=6, linewidths=0, zorder=3)
        add_lines(plan, box[..., plane_axes], color=rgb(BOX_COLOUR), linewidth=0.9, linestyle="dashed")
        plan.scatter(*focus[plane_axes], color=rgb(FOCUS_COLOUR), s=22, zorder=4)
        plan.set_title(title, fontsize=10, color="#374151")
        plan.set_aspect("equal", adjustable="datalim")
        plan.autoscale_view()
        plan.tick_params(labelsize=7, color="#9ca3af", labelcolor="#6b7280")
        plan.grid(color="#f0f1f3", linewidth=0.6)
        plan.set_axisbelow(True)
        for spine in plan.spines.values():
            spine.set_color("#d1d5db")

    figure.text(0.03, 0.94, poses.title, fontsize=15, weight="bold", color="#111827")
    entries = [(split.name, SPLIT_COLOURS[split.name]) for split in poses.splits]
    entries += [("scene box", BOX_COLOUR), ("focus point", FOCUS_COLOUR), ("up axis", UP_COLOUR)]
    for column, (name, colour) in enumerate(entries):
        figure.text(0.03 + 0.08 * column, 0.9, f"■ {name}", fontsize=10, color=rgb(colour))
    for row, (heading, value) in enumerate([*summary(poses), ("floor grid", f"cells of {cell:g}")]):
        figure.text(0.63, 0.455 - 0.037 * row, heading, fontsize=10, color="#6b7280")
        figure.text(0.71, 0.455 - 0.037 * row, value, fontsize=10, color="#111827")
    return figure


def rgb(colour: tuple[int, int, int]) -> tuple[float, float, float]:
    """An 8-bit colour in matplotlib's range."""
    return colour[0] / 255.0, colour[1] / 255.0, colour[2] / 255.0


def add_lines(axes: Axes, segments: Float[NDArray, "n 2 2"], **style: Any) -> None:
    """Draw line segments."""
    from matplotlib.collections import LineCollection

    axes.add_collection(LineCollection(list(segments), **style))


def draw_frustum(
    axes: Axes,
    view: PictureView,
    centre: Float[NDArray, " 3"],
    plane: Float[NDArray, "4 3"],
    image: UInt8[NDArray, "h w 3"] | None,
    colour: tuple[float, float, float],
    fade: float,
    zorder: float,
) -> None:
    """Draw one camera: four translucent sides, and the image on its image plane.

    Args:
        axes: the picture.
        view: how scene points get there.
        centre: camera centre.
        plane: corners of the image plane from top left clockwise.
        image: what to paint on the image plane, if anything.
        colour: of the outlines.
        fade: opacity, which tells near from far.
        zorder: order of painting; takes the interval up to the next integer.
    """
    from matplotlib.collections import PolyCollection
    from matplotlib.transforms import Affine2D

    (apex, *corners), nearness = view.project(np.concatenate([centre[None], plane]))
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
    sides = PolyCollection(triangles, facecolors=[(*colour, 0.08 * fade)], edgecolors=[(*colour, 0.55 * fade)])
    sides.set(linewidth=0.6, zorder=zorder + 0.25, joinstyle="round")
    axes.add_collection(sides)
    frame = PolyCollection([corners], facecolors="none", edgecolors=[(*colour, fade)])
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


def show_in_viewer(poses: PoseSet, host: str, port: int, thumbnails: int) -> ViserServer:
    """Fill a viser server with the cameras, the scene box and the numbers, and return it running.

    Args:
        poses: the cameras.
        host: address that the server listens on.
        port: port that the server listens on; the next free one if it is taken.
        thumbnails: number of cameras, evenly chosen, that carry their image.
    """
    import viser
    from viser import transforms

    server = viser.ViserServer(host=host, port=port, label="ns-show-poses", verbose=False)
    server.gui.configure_theme(control_layout="collapsible", show_logo=False, show_share_button=False)
    scene = server.scene
    scene.set_up_direction(tuple(poses.up))
    depth = poses.frustum_depth
    frusta: dict[str, list[Any]] = {}
    every = max(1, math.ceil(sum(len(split.distinct) for split in poses.splits) / max(1, thumbnails)))
    for split in poses.splits:
        frusta[split.name] = []
        for rank, i in enumerate(split.distinct):
            matrix = split.c2w[i]
            fov = 2.0 * math.atan(0.5 * split.sizes[i, 1] / split.focals[i, 1])
            aspect = float(split.sizes[i, 0] / split.sizes[i, 1])
            # viser's cameras look along +z with y down, nerfstudio's along −z with y up.
            rotation = transforms.SO3.from_matrix(np.asarray(matrix[:, :3] * [1.0, -1.0, -1.0], dtype=np.float64))
            frustum = scene.add_camera_frustum(
                f"/{split.name}/{i:05d}",
                fov=fov,
                aspect=aspect,
                # viser scales frusta to equal volume: its depth is scale / ∛(volume of this frustum at depth 1).
                scale=depth * (math.tan(0.5 * fov) ** 2 * aspect / 3.0) ** (1.0 / 3.0),
                color=SPLIT_COLOURS[split.name],
                image=thumbnail(split, i, 128) if thumbnails and rank % every == 0 else None,
                wxyz=rotation.wxyz,
                position=matrix[:, 3],
            )
            fly_on_click(frustum)
            frusta[split.name].append(frustum)

    for i, edge in enumerate(box_edges(poses.box)):
        scene.add_spline_catmull_rom(f"/scene_box/{i}", edge, color=BOX_COLOUR, line_width=2.0, segments=1)
    size = float(np.max(poses.box[1] - poses.box[0]))
    scene.add_frame("/origin", axes_length=0.1 * size, axes_radius=0.002 * size)
    scene.add_icosphere("/focus", radius=0.008 * size, color=FOCUS_COLOUR, position=poses.focus)
    up = np.stack([poses.focus, poses.focus + 0.2 * size * poses.up])
    scene.add_spline_catmull_rom("/up", up, color=UP_COLOUR, line_width=4.0, segments=1)

    server.gui.add_markdown(f"**{poses.title}**")
    table = "\n".join(f"| {heading} | {value} |" for heading, value in summary(poses))
    server.gui.add_markdown(f"| | |\n|---|---|\n{table}")
    for split in poses.splits:
        red, green, blue = SPLIT_COLOURS[split.name]
        box = server.gui.add_checkbox(f"{split.name} ({len(split.c2w)})", True, hint=f"RGB {red}, {green}, {blue}")
        toggle_on_update(box, frusta[split.name])
    distance = float(np.median(np.linalg.norm(positions(poses.c2w) - poses.focus, axis=-1)))

    @server.on_client_connect
    def _(client: viser.ClientHandle) -> None:
        first, second = horizontal_axes(poses.up)
        client.camera.up_direction = poses.up
        client.camera.position = poses.focus + 2.2 * max(distance, 0.3 * size) * (
            0.6 * first - 0.65 * second + 0.45 * poses.up
        )
        client.camera.look_at = poses.focus

    return server


def fly_on_click(frustum: Any) -> None:
    """Let a click on a frustum take the viewer to that camera."""

    @frustum.on_click
    def _(event: Any) -> None:
        with event.client.atomic():
            event.client.camera.wxyz = event.target.wxyz
            event.client.camera.position = event.target.position


def toggle_on_update(checkbox: Any, frusta: list[Any]) -> None:
    """Let a checkbox show and hide frusta."""

    @checkbox.on_update
    def _(_: Any) -> None:
        for frustum in frusta:
            frustum.visible = checkbox.value


@dataclass
class ShowPoses:
    """Show the cameras of a data set in the web viewer, or as a picture with --output."""

    data: Path | None = None
    """Folder of the data set. Default: that of the data parser."""
    output: Path | None = None
    """Picture to write, such as poses.png."""
    viewer: bool = True
    """Open the web viewer and keep it running. On the command line, --output alone turns it off."""
    thumbnails: int = 150
    """How many cameras carry their image; the picture has them only if it has no more cameras than that."""
    host: str = "0.0.0.0"
    """Address that the web viewer listens on."""
    port: int = 7007
    """Port of the web viewer; the next free one if it is taken."""

    def main(self, dataparser: DataParserConfig | None = None) -> None:
        """Show the cameras.

        Args:
            dataparser: how to read the data set; None to judge by the files in it.
        """
        name, config = self.named_dataparser(dataparser)
        require_path(config.data, "data set")
        poses = load_poses(config, f"{config.data.resolve().name}  ({name})")
        if self.output is not None:
            self.output.parent.mkdir(parents=True, exist_ok=True)
            draw_figure(poses, self.thumbnails).savefig(self.output)
            print(f"Written to {self.output}")
        for heading, value in summary(poses):
            print(f"  {heading:16}{value}")
        if self.viewer:
            server = show_in_viewer(poses, self.host, self.port, self.thumbnails)
            print(f"Open http://localhost:{server.get_port()} in a browser; ctrl+c ends.", flush=True)
            try:
                while True:
                    time.sleep(1.0)
            except KeyboardInterrupt:
                server.stop()

    def named_dataparser(self, dataparser: DataParserConfig | None) -> tuple[str, DataParserConfig]:
        """The data parser to use with --data filled in, and its name on the command line."""
        from copy import deepcopy

        from nerfstudio.configs.dataparser_configs import all_dataparsers

        if dataparser is not None:
            names = [name for name, config in all_dataparsers.items() if type(config) is type(dataparser)]
            dataparser.data = self.data or dataparser.data
            return (names or [type(dataparser).__name__])[0], dataparser
        if self.data is None:
            raise InputError("no data set is named", "Give its folder: ns-show-poses --data FOLDER")
        require_path(self.data, "data set")
        name, options = guess_dataparser(self.data)
        if name not in all_dataparsers:
            remedy = "Install the package that provides it, or name another data parser"
            raise InputError(f"looks like a data set for {name}, which is not installed", remedy, self.data)
        config = deepcopy(all_dataparsers[name])
        config.data = self.data
        for key, value in options.items():
            setattr(config, key, value)
        return name, config


def parse_arguments(arguments: list[str]) -> tuple[ShowPoses, DataParserConfig | None]:
    """Read the command line: this command's options, and optionally a data parser's name followed by its options.

    The two are read one after the other, so that --data and --output may stand before or after the name.
    """
    from nerfstudio.configs.dataparser_configs import AnnotatedDataParserUnion, all_dataparsers

    named = next((argument for argument in arguments if argument in all_dataparsers), None)
    if named is not None and {"-h", "--help"} & set(arguments):
        arguments = [argument for argument in arguments if argument not in ("-h", "--help")]
        tyro.cli(AnnotatedDataParserUnion, args=[named, "--help"], prog="ns-show-poses")
    description = (
        f"{ShowPoses.__doc__}\n\nThe data set is read as its files suggest, or by the data parser that is named: "
        f"ns-show-poses NAME --data FOLDER [options of the data parser], with NAME one of {', '.join(all_dataparsers)}."
    )
    writes_picture = any(argument.split("=")[0] == "--output" for argument in arguments)
    command, rest = tyro.cli(
        ShowPoses,
        args=arguments,
        default=ShowPoses(viewer=not writes_picture),
        description=description,
        return_unknown_args=True,
    )
    if not rest:
        return command, None
    return command, tyro.cli(AnnotatedDataParserUnion, args=rest, prog="ns-show-poses")


def entrypoint() -> None:
    """Entry point of the console command."""
    report_input_errors()
    command, dataparser = parse_arguments(sys.argv[1:])
    command.main(dataparser)


if __name__ == "__main__":
    entrypoint()
