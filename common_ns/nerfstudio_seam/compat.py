"""What runs of this suite need of nerfstudio 1.1.5 and its successors on today's torch, numpy and machines.

Nothing happens when this is imported: `prepare_process` is called where a run of this suite begins, and other functions
where a pipeline of this suite is set up. docs/adding-a-method.md lists what they change, and for which runs. None of
them changes a numerical result.
"""

from __future__ import annotations

import contextlib
import inspect
import os
import shutil
import sys
import tempfile
import warnings
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from common_ns.allocator import keep_freed_memory
from common_ns.data.files import written_whole
from common_ns.errors import InputError
from common_ns.nerfstudio_seam.last_words import report_input_errors

if TYPE_CHECKING:
    from nerfstudio.pipelines.base_pipeline import Pipeline


def default_device() -> Literal["cuda", "cpu"]:
    """The device that `--machine.device-type` starts from: "cuda" if a usable GPU is there, else "cpu"."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def prepare_process() -> None:
    """Prepare this process for a run of this suite. Calling it again changes nothing."""
    silence_deprecations()
    provide_ffmpeg()
    report_input_errors()
    keep_freed_memory()


def silence_deprecations() -> None:
    """Hide a deprecation warning of nerfstudio's own code, which comes with every run and which no user can act on."""
    warnings.filterwarnings("ignore", message="Using a non-tuple sequence for multidimensional indexing")


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


def numpy_scalars_allowed() -> contextlib.AbstractContextManager:
    """Within it, torch loads checkpoints that hold numpy scalars.

    nerfstudio's schedulers put `np.float64` learning rates into checkpoints, and `torch.load` refuses them with
    "Weights only load failed" where it runs nothing that a checkpoint names. The scalar constructor and the numeric
    dtypes are harmless; they are allowed under the module names of numpy 1 and of numpy 2, so that a checkpoint written
    with one loads with the other. Checkpoints of this suite's trainer hold no such numbers; commands of this suite that
    take runs of any method need it.
    """
    scalar: Any = np.float64(0).__reduce__()[0]  # the function that pickle calls to rebuild a numpy scalar
    dtype_classes = [type(np.dtype(name)) for name in ("float64", "float32", "float16", "int64", "int32", "bool")]
    named = [(scalar, "numpy.core.multiarray.scalar"), (scalar, "numpy._core.multiarray.scalar")]
    return torch.serialization.safe_globals([np.dtype, *dtype_classes, *named])


def without_numpy_scalars(state: Any) -> Any:
    """A checkpoint with Python's numbers in place of numpy's, in dictionaries, lists and tuples of any depth."""
    if isinstance(state, np.generic):
        return state.item()
    if isinstance(state, dict):
        return {name: without_numpy_scalars(value) for name, value in state.items()}
    if type(state) in (list, tuple):
        return type(state)(without_numpy_scalars(value) for value in state)
    return state


def refuse_what_nerfstudio_cannot_do(pipeline: Pipeline) -> None:
    """Let two of nerfstudio's commands end with one line where they cannot work on this pipeline.

    `ns-export marching-cubes` lays out 512³ points, which take 8 GB, before it finds that it cannot send them to CUDA.
    `ns-render interpolate` ends in an error of numpy's where there is one camera, as of an image. Other commands load
    neither module, and there is nothing to do.
    """
    ours = weakref.ref(pipeline)

    def marching_cubes(original: Callable[..., Any], **options: Any) -> Any:
        field = options.get("geometry_callable_field")
        exported = inspect.getclosurevars(field).nonlocals.get("pipeline") if inspect.isfunction(field) else None
        if exported is not None and exported is ours() and not torch.cuda.is_available():
            raise InputError("nerfstudio's marching cubes needs a CUDA GPU", "Use ns-mesh, which runs on any device")
        return original(**options)

    def interpolated(original: Callable[..., Any], cameras: Any, **options: Any) -> Any:
        datamanager: Any = getattr(ours(), "datamanager", None)
        datasets = [getattr(datamanager, f"{split}_dataset", None) for split in ("train", "eval")]
        if len(cameras) < 2 and any(dataset is not None and dataset.cameras is cameras for dataset in datasets):
            remedy = "Use ns-render camera-path, with a path of ns-zoom-path or ns-orbit-path"
            raise InputError("the run has one camera, and there is nothing to interpolate between", remedy)
        return original(cameras, **options)

    wrap("nerfstudio.scripts.exporter", "generate_mesh_with_multires_marching_cubes", marching_cubes)
    wrap("nerfstudio.scripts.render", "get_interpolated_camera_path", interpolated)


def let_photographs_be_exported(pipeline: Pipeline) -> None:
    """Let `ns-export` and `ns-render spiral` take a pipeline that draws pictures, not rays.

    `ns-render spiral` asserts a datamanager of nerfstudio's that draws rays, of which it wants a test camera alone.
    `ns-export` asks for one ray of no camera first, to see whether there are normals; it finds out again from the first
    pixels. Other commands load neither module, and there is nothing to do.
    """
    ours, kind = weakref.ref(pipeline), type(pipeline.datamanager)

    def validated(original: Callable[..., Any], method: str, output: str, asked: Pipeline) -> None:
        if asked is not ours():
            original(method, output, asked)

    wrap("nerfstudio.scripts.exporter", "validate_pipeline", validated)
    script: Any = sys.modules.get("nerfstudio.scripts.render")
    taken = getattr(script, "VanillaDataManager", None)  # a tuple after the first call: isinstance takes it
    if taken is not None and kind not in (taken if isinstance(taken, tuple) else ()):
        script.VanillaDataManager = (taken, kind)


def wrap(module: str, name: str, wrapper: Callable[..., Any]) -> None:
    """Let nerfstudio's function in a loaded module go through a wrapper, which is given it first.

    An earlier wrapper is replaced. What others have put in place of nerfstudio's is left alone.
    """
    owner = sys.modules.get(module)
    if owner is None:
        return
    current = getattr(owner, name)
    original = getattr(current, "wrapped_by_suite", current)
    if not original.__module__.startswith("nerfstudio."):
        return

    def wrapped(*args: Any, **options: Any) -> Any:
        return wrapper(original, *args, **options)

    wrapped.wrapped_by_suite = original  # type: ignore[attr-defined]
    setattr(owner, name, wrapped)
