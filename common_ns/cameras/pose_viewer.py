"""A data set's cameras in the viser web viewer, with the numbers about them and a switch for each split."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from common_ns.cameras.geometry import box_edges, horizontal_axes, positions
from common_ns.cameras.pose_set import BOX_COLOR, FOCUS_COLOR, SPLIT_COLORS, UP_COLOR, PoseSet, summary, thumbnail

if TYPE_CHECKING:
    import viser


def show_in_viewer(poses: PoseSet, host: str, port: int, thumbnails: int) -> viser.ViserServer:
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
    groups: dict[str, Any] = {}
    every = max(1, math.ceil(sum(len(split.distinct) for split in poses.splits) / max(1, thumbnails)))
    for split in poses.splits:
        groups[split.name] = scene.add_frame(f"/{split.name}", show_axes=False)
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
                color=SPLIT_COLORS[split.name],
                image=thumbnail(split, i, 128) if thumbnails and rank % every == 0 else None,
                wxyz=rotation.wxyz,
                position=matrix[:, 3],
            )
            fly_on_click(frustum)

    for i, edge in enumerate(box_edges(poses.box)):
        scene.add_spline_catmull_rom(f"/scene_box/{i}", edge, color=BOX_COLOR, line_width=2.0, segments=1)
    size = float(np.max(poses.box[1] - poses.box[0]))
    scene.add_frame("/origin", axes_length=0.1 * size, axes_radius=0.002 * size)
    scene.add_icosphere("/focus", radius=0.008 * size, color=FOCUS_COLOR, position=poses.focus)
    up = np.stack([poses.focus, poses.focus + 0.2 * size * poses.up])
    scene.add_spline_catmull_rom("/up", up, color=UP_COLOR, line_width=4.0, segments=1)

    server.gui.add_markdown(f"**{poses.title}**")
    table = "\n".join(f"| {heading} | {value} |" for heading, value in summary(poses))
    server.gui.add_markdown(f"| | |\n|---|---|\n{table}")
    for split in poses.splits:
        red, green, blue = SPLIT_COLORS[split.name]
        box = server.gui.add_checkbox(f"{split.name} ({len(split.c2w)})", True, hint=f"RGB {red}, {green}, {blue}")
        toggle_on_update(box, groups[split.name])
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


def toggle_on_update(checkbox: Any, group: Any) -> None:
    """Let a checkbox show and hide all that is below a frame."""

    @checkbox.on_update
    def _(_: Any) -> None:
        group.visible = checkbox.value
