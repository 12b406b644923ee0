"""Camera paths as nerfstudio's viewer writes them and `ns-render camera-path` reads them."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from common_ns.data.files import written_whole


def camera_path_json(
    poses: Float[NDArray, "n 3 4"], fov_degrees: float, width: int, height: int, seconds: float, cycle: bool = True
) -> dict[str, Any]:
    """A camera path in the format of nerfstudio's viewer.

    Args:
        poses: camera-to-world matrices.
        fov_degrees: vertical field of view.
        width: width of the rendered images in pixels.
        height: height of the rendered images in pixels.
        seconds: duration of the video; ns-render plays the poses at len(poses) / seconds frames per second.
        cycle: whether the path ends where it begins.
    """
    bottom = np.broadcast_to([[[0.0, 0.0, 0.0, 1.0]]], (len(poses), 1, 4))
    frames = [
        {"camera_to_world": matrix.flatten().tolist(), "fov": fov_degrees, "aspect": width / height}
        for matrix in np.concatenate([poses, bottom], axis=1)
    ]
    return {
        "camera_type": "perspective",
        "render_width": width,
        "render_height": height,
        "fps": len(poses) / seconds,
        "seconds": seconds,
        "is_cycle": cycle,
        "smoothness_value": 0.0,
        "default_fov": fov_degrees,
        "keyframes": [],
        "camera_path": frames,
    }


def even(length: float) -> int:
    """The nearest even number of pixels, at least 2: video codecs store color at half resolution."""
    return max(2, 2 * round(length / 2))


def write_camera_path(file: Path, content: dict[str, Any], load_config: Path | str) -> None:
    """Write a camera path, and print where it is and the command that makes a video of it.

    Args:
        file: where to write it.
        content: from `camera_path_json`.
        load_config: config.yml of the run that is to be rendered.
    """
    with written_whole(file) as partial:
        partial.write_text(json.dumps(content, indent=1), encoding="utf-8")
    video = Path(load_config).parent / "renders" / f"{file.stem}.mp4"
    command = ["ns-render", "camera-path", "--load-config", str(load_config)]
    command += ["--camera-path-filename", str(file), "--output-path", str(video)]
    print(f"Written to {file}. Render it with:\n{shlex.join(command)}")
