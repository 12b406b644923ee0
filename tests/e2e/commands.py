"""ns-* commands run in the tests' own process, from the words of their command line: each start costs many seconds.

What a command would show on a terminal is caught, an error included, as the interpreter would print it at the end.
"""

from __future__ import annotations

import contextlib
import copy
import io
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.request import urlopen

import tyro
from nerfstudio.configs.method_configs import all_descriptions, all_methods
from nerfstudio.scripts import train
from nerfstudio.scripts.viewer import run_viewer
from nerfstudio.utils import writer

from common_ns.scripts import show_poses


@dataclass(frozen=True)
class Outcome:
    """What became of a command."""

    words: tuple[str, ...]
    """Its command line."""
    code: int
    """Its exit code."""
    out: str
    """What it printed on standard output."""
    err: str
    """What it printed on standard error, the interpreter's last words included."""
    seconds: float
    """CPU time."""

    @property
    def error_lines(self) -> list[str]:
        """Lines that say that the command ended by an error that the user can mend."""
        return [line.removeprefix("Error: ") for line in self.err.splitlines() if line.startswith("Error: ")]

    @property
    def refusal(self) -> str | None:
        """The one line that a command ended with that could not do what was asked; None if it ended otherwise."""
        one_line = self.code == 1 and len(self.error_lines) == 1 and "Traceback" not in self.out + self.err
        return self.error_lines[0] if one_line else None

    def __str__(self) -> str:
        text = f"{' '.join(self.words)}\nended with code {self.code}"
        return f"{text}\n{self.out[-2000:]}\n{self.err[-3000:]}"


def run_command(words: Sequence[str], folder: Path) -> Outcome:
    """Run a console command in a working folder.

    ns-viewer and ns-show-poses, which go on until they are interrupted, are interrupted once they have answered.

    Args:
        words: the command line.
        folder: the working folder; it is made if need be.
    """
    (entry,) = {entry.value: entry for entry in entry_points(group="console_scripts", name=words[0])}.values()
    out, err, code = io.StringIO(), io.StringIO(), 0
    start = time.process_time()
    folder.mkdir(parents=True, exist_ok=True)
    with _working_in(folder), _command_line(words), contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.redirect_stdout(out))
        stack.enter_context(contextlib.redirect_stderr(err))
        try:
            main: Callable[[], Any] = entry.load()
            if words[0] == "ns-train":
                stack.enter_context(_parser_of(words[1:2]))
            elif words[0] == "ns-viewer":
                stack.enter_context(_viewer_that_is_looked_at())
            elif words[:2] == ["ns-export", "poisson"]:
                stack.enter_context(coarse_poisson())
            elif words[0] == "ns-show-poses":
                stack.enter_context(_replaced(show_poses, "time", SimpleNamespace(sleep=_interrupt)))
            main()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
            if isinstance(end.code, str):
                err.write(end.code)
        except Exception:
            sys.excepthook(*sys.exc_info())
            code = 1
        finally:
            _forget_logs()
    return Outcome(tuple(words), code, out.getvalue(), err.getvalue(), time.process_time() - start)


@contextlib.contextmanager
def _working_in(folder: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


@contextlib.contextmanager
def _command_line(words: Sequence[str]) -> Iterator[None]:
    before = sys.argv
    sys.argv = list(words)
    try:
        yield
    finally:
        sys.argv = before


@contextlib.contextmanager
def _replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    before = owner.__dict__[name]
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


def _forget_logs() -> None:
    """Close what a run logs to: nerfstudio keeps it for the whole process, and the next run would write there too."""
    for each in writer.EVENT_WRITERS:
        if isinstance(each, writer.TensorboardWriter):
            each.tb_writer.close()
    writer.EVENT_WRITERS.clear()
    writer.GLOBAL_BUFFER.clear()


@contextlib.contextmanager
def coarse_poisson() -> Iterator[None]:
    """Poisson reconstruction on an octree of depth 6. nerfstudio's depth of 9 takes 10 s, however few the points."""
    import open3d

    fine = open3d.geometry.TriangleMesh.create_from_point_cloud_poisson
    with _replaced(
        open3d.geometry.TriangleMesh,
        "create_from_point_cloud_poisson",
        staticmethod(lambda cloud, depth: fine(cloud, depth=min(depth, 6), n_threads=1)),
    ):
        yield


def _interrupt(seconds: float) -> None:
    """In place of the wait for ctrl+c."""
    raise KeyboardInterrupt


@contextlib.contextmanager
def _parser_of(methods: Sequence[str]) -> Iterator[None]:
    """ns-train's parser with the methods that are named and one more, in place of all: they take seconds to set up."""
    if not set(methods) <= set(all_methods):
        yield
        return
    names = [*methods, "vanilla-nerf"]
    union = tyro.conf.SuppressFixed[
        tyro.conf.FlagConversionOff[
            tyro.extras.subcommand_type_from_defaults(
                defaults={name: copy.deepcopy(all_methods[name]) for name in names},
                descriptions={name: all_descriptions[name] for name in names},
            )
        ]
    ]
    with _replaced(train, "AnnotatedBaseConfigUnion", union):
        yield


@contextlib.contextmanager
def _viewer_that_is_looked_at() -> Iterator[None]:
    """ns-viewer until it waits: then its page is fetched and what a browser would be sent is rendered, and it ends.

    Raises: AssertionError if the page does not come, or the picture is blank.
    """
    viewers: list[Any] = []

    class Recorded(run_viewer.ViewerState):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            viewers.append(self)

    def look(seconds: float) -> None:
        (viewer,) = viewers
        page = urlopen(f"http://127.0.0.1:{viewer.viser_server.get_port()}", timeout=20).read()
        assert b"<html" in page.lower()
        picture = first_picture(viewer)
        assert picture.std() > 2.0 / 255.0, "the viewer's picture is blank"
        raise SystemExit(0)

    with _replaced(run_viewer, "ViewerState", Recorded), _replaced(run_viewer, "time", SimpleNamespace(sleep=look)):
        try:
            yield
        finally:
            for viewer in viewers:
                viewer.viser_server.stop()


def first_picture(viewer: Any) -> Any:
    """Colors [height, width, 3] that the viewer's own render thread sends for the first training camera."""
    from nerfstudio.cameras.cameras import CameraType
    from nerfstudio.viewer.render_state_machine import RenderStateMachine
    from nerfstudio.viewer.utils import CameraState

    camera = viewer.pipeline.datamanager.train_dataset.cameras[:1]
    fov = 2.0 * float((camera.cy / camera.fy).atan())
    state = CameraState(fov, float(camera.width / camera.height), camera.camera_to_worlds[0], CameraType.PERSPECTIVE)
    viewer.control_panel._max_res.value = 48
    return RenderStateMachine(viewer, 10.0, client=None)._render_img(state)["rgb"]


def without_paths(line: str, *folders: Path) -> str:
    """A line with the names of folders taken out, so that it is the same on every machine."""
    for folder in folders:
        line = re.sub(rf"{re.escape(str(folder))}/?", "", line)
    return line
