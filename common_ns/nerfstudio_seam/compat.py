"""What nerfstudio 1.1.5 needs on today's torch, numpy and machines.

`apply()` runs once when the plugins are loaded, which every ns-* command does before it reads a config or a checkpoint.
Each remedy says which symptom it removes. None of them changes a numerical result.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from common_ns.data.files import written_whole
from common_ns.errors import InputError
from common_ns.nerfstudio_seam.last_words import report_input_errors
from common_ns.nerfstudio_seam.viewer_address import listen_here_by_default
from common_ns.nerfstudio_seam.viewer_renders import make_renders_robust


def default_device() -> Literal["cuda", "cpu"]:
    """The device that `--machine.device-type` starts from: "cuda" if a usable GPU is there, else "cpu"."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def allow_numpy_scalars_in_checkpoints() -> None:
    """Let torch ≥ 2.6 load checkpoints that hold numpy scalars.

    nerfstudio's schedulers put `np.float64` learning rates into checkpoints, and `torch.load` now refuses them with
    "Weights only load failed". The scalar constructor and the numeric dtypes are harmless; they are allowed under the
    module names of numpy 1 and of numpy 2, so that a checkpoint written with one loads with the other.
    """
    if not hasattr(torch.serialization, "add_safe_globals"):  # torch < 2.4 loads everything
        return
    scalar: Any = np.float64(0).__reduce__()[0]  # the function that pickle calls to rebuild a numpy scalar
    dtype_classes = [type(np.dtype(name)) for name in ("float64", "float32", "float16", "int64", "int32", "bool")]
    named = [(scalar, "numpy.core.multiarray.scalar"), (scalar, "numpy._core.multiarray.scalar")]
    torch.serialization.add_safe_globals([np.dtype, *dtype_classes, *named])


def provide_ffmpeg() -> None:
    """Put imageio-ffmpeg's binary on PATH as `ffmpeg` when none is there: ns-render looks for that name on PATH."""
    if shutil.which("ffmpeg") is not None:
        return
    try:
        import imageio_ffmpeg

        binary = Path(imageio_ffmpeg.get_ffmpeg_exe())
    except (ImportError, RuntimeError):  # no wheel with a binary for this platform: nerfstudio's own message remains
        return
    name = "ffmpeg.exe" if sys.platform == "win32" else "ffmpeg"
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "fieldsuite" / "bin"
    for folder in (cache, Path(tempfile.gettempdir()) / f"fieldsuite-bin-{os.environ.get('USER', 'user')}"):
        try:
            _link_or_copy(binary, folder / name)
        except InputError:  # a read-only home: try the next folder
            continue
        os.environ["PATH"] = os.environ.get("PATH", "") + os.pathsep + str(folder)
        return


def _link_or_copy(source: Path, target: Path) -> None:
    """Make `target` an alias of `source`, replacing a stale alias in one step."""
    if target.exists() and (target.resolve() == source.resolve() or target.stat().st_size == source.stat().st_size):
        return
    with written_whole(target) as fresh:
        try:
            fresh.symlink_to(source)
        except OSError:
            shutil.copy2(source, fresh)


def silence_host_deprecations() -> None:
    """Hide two deprecation warnings of nerfstudio's own code, which come with every run and which no user can act
    on."""
    warnings.filterwarnings("ignore", message="Using a non-tuple sequence for multidimensional indexing")
    warnings.filterwarnings("ignore", message="`torch.cuda.amp.custom_")


def refuse_what_the_host_cannot_do() -> None:
    """Let two of nerfstudio's commands end with one line where they cannot work.

    `ns-export marching-cubes` lays out 512³ points, which take 8 GB, before it finds that it cannot send them to CUDA.
    `ns-render interpolate` ends in an error of numpy's where there is one camera, as of an image. Other commands load
    neither module, and there is nothing to do.
    """
    exporter: Any = sys.modules.get("nerfstudio.scripts.exporter")
    render: Any = sys.modules.get("nerfstudio.scripts.render")
    if exporter is not None and not torch.cuda.is_available():

        def refuse(**options: Any) -> None:
            raise InputError("nerfstudio's marching cubes needs a CUDA GPU", "Use ns-mesh, which runs on any device")

        exporter.generate_mesh_with_multires_marching_cubes = refuse
    if render is not None:
        render.get_interpolated_camera_path = _interpolate_between_cameras


def _interpolate_between_cameras(cameras: Any, **options: Any) -> Any:
    """nerfstudio's `get_interpolated_camera_path`, where there is something to interpolate between."""
    from nerfstudio.cameras.camera_paths import get_interpolated_camera_path

    if len(cameras) < 2:
        remedy = "Use ns-render camera-path, with a path of ns-zoom-path or ns-orbit-path"
        raise InputError("the run has one camera, and there is nothing to interpolate between", remedy)
    return get_interpolated_camera_path(cameras=cameras, **options)


def apply() -> None:
    """Apply all remedies. Safe to call more than once."""
    silence_host_deprecations()
    allow_numpy_scalars_in_checkpoints()
    provide_ffmpeg()
    report_input_errors()
    make_renders_robust()
    listen_here_by_default()
    refuse_what_the_host_cannot_do()
