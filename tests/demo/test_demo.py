"""The demo's workers, its line of progress and its page; and that its commands have the options given."""

from __future__ import annotations

import base64
import dataclasses
import io
import json
import re
import sys
import time
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trimesh
from PIL import Image

from common_ns.errors import InputError
from common_ns.meshing.pictures import write_film
from common_ns.pages import panels, pixels
from demo import progress as progress_module
from demo import workers as workers_module
from demo.__main__ import Demo, show
from demo.chapter import Chapter, Settings
from demo.chapters import CHAPTERS, SCENES, Scene
from demo.progress import Progress, clock, seconds_until_done
from demo.workers import Workers

SCENE = "--layouts blender --num-train 1 --num-val 1 --num-test 1 --resolution 16"


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers set the number of threads of their commands in the environment."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(workers_module, "PRELOADED", [])  # what these commands need is quick to import


class Given(Chapter):
    """A chapter of the commands given, each expected to take so many seconds."""

    def __init__(self, folder: Path, name: str, *lines: str, each: float = 1.0) -> None:
        self.name, self.lines, self.each = name, lines, each
        super().__init__(Settings(folder))

    def plan(self) -> None:
        for line in self.lines:
            self.run(line, self.each)

    def results(self) -> dict[str, object]:
        return {}


def work(folder: Path, count: int, *chapters: Chapter) -> None:
    """Run chapters; logs are in folder/logs."""
    Workers(folder / "logs", count, 1, Progress(list(chapters), count)).run(list(chapters))


def test_workers_run_commands_and_keep_what_they_print(tmp_path):
    write = f"ns-sample-scene --output-dir {{folder}} {SCENE}"
    draw = "ns-turntable {folder}/mesh.ply --output-path {demo}/mesh.png --frames 2 --size 64"
    chapter = Given(tmp_path / "with space", "mesh", write, draw)
    work(tmp_path, 2, chapter)
    log = (tmp_path / "logs" / "mesh.log").read_text()
    assert "$ ns-sample-scene" in log and "2 views of" in log and chapter.done
    assert np.ptp(pixels(tmp_path / "with space" / "mesh.png")) > 100
    assert len(chapter.seconds) == 2 and all(0.0 < seconds < 120.0 for seconds in chapter.seconds)


def test_where_forks_are_unsafe_commands_get_fresh_processes(tmp_path, monkeypatch):
    monkeypatch.setattr(workers_module, "can_fork", lambda: False)
    work(tmp_path, 1, Given(tmp_path, "scene", f"ns-sample-scene --output-dir {{folder}} {SCENE}"))
    assert (tmp_path / "scene" / "mesh.ply").exists() and "Wrote" in (tmp_path / "logs" / "scene.log").read_text()


def test_a_failure_stops_the_other_worker_and_names_the_log(tmp_path, capsys):
    refused = Given(tmp_path, "refused", "ns-turntable {demo}/missing.ply")
    endless = "ns-sample-scene --output-dir {folder} --num-train 5000 --layouts blender"
    long, start = Given(tmp_path, "long", endless, endless), time.perf_counter()
    with pytest.raises(InputError, match=r"refused\.log: ns-turntable ended with code 1"):
        work(tmp_path, 2, refused, long)
    assert time.perf_counter() - start < 60 and refused.seconds == long.seconds == []
    assert capsys.readouterr().out.count("$ ns-sample-scene") == 1
    log = (tmp_path / "logs" / "refused.log").read_text()
    assert "Error: " in log and "missing.ply" in log and "Traceback" not in log


def test_remaining_time_is_that_of_workers_that_take_the_next_chapter():
    assert seconds_until_done([7.0, 5.0, 6.0], 1) == 18.0
    assert seconds_until_done([7.0, 5.0, 6.0], 2) == 11.0
    assert seconds_until_done([7.0, 5.0, 6.0], 3) == 7.0
    assert seconds_until_done([], 2) == 0.0


def test_progress_follows_the_pace_of_the_machine(tmp_path, capsys, monkeypatch):
    now = 0.0
    monkeypatch.setattr(progress_module, "perf_counter", lambda: now)
    chapter = Given(tmp_path, "a", "ns-eval", "ns-train m", each=300.0)
    progress = Progress([chapter], 1)
    assert progress.seconds_left() == pytest.approx(600.0)
    progress.begin(chapter)
    now = 660.0  # twice as long as expected, and a minute at the expected pace
    progress.end(chapter)
    assert progress.seconds_left() == pytest.approx(300.0 * 720.0 / 360.0)
    progress.begin(chapter)
    now = 661.0
    assert "[11:01] 1 of 2 commands, about 9:58 to go | a: ns-train m 0:01" in progress.line()
    out = capsys.readouterr().out
    assert out.startswith("$ ns-eval\n") and "about 10:00 to go" in out and clock(61.9) == "1:01"


NOISE = np.random.default_rng(0)
FIGURES = {"psnr": 21.0, "ssim": 0.5, "depth_rmse": 0.25, "num_params": 12345, "iou": 0.98765}
FIGURES |= {f"psnr_{size}x": 30.0 + size for size in (1, 2, 4, 8)}


def noise(height: int, width: int) -> np.ndarray:
    return NOISE.integers(0, 256, (height, width, 3), dtype=np.uint8)


def write_result(path: Path) -> None:
    """What a command leaves at its --output-path: noise as pictures and films, a sphere as a mesh, `FIGURES`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".mp4":
        write_film(path, [noise(32, 64), noise(32, 64)], 4)
    elif path.suffix == ".ply":
        trimesh.creation.icosphere(radius=2.0).export(path)
    elif path.suffix == ".spz":
        path.write_bytes(bytes(1_500_000))
    elif path.suffix == ".png":
        Image.fromarray(noise(8, 8)).save(path)
    elif path.name == "mesh.json":
        path.write_text(json.dumps({"chamfer": 0.05}))
    elif path.name == "eval.json":
        path.write_text(json.dumps({"results": FIGURES}))
        for index in range(4):
            side = 16 >> index
            for name, width in (("img", 6 * side), ("depth", 6 * side), ("normals", side)):
                Image.fromarray(noise(side, width)).save(path.parent / f"eval_{name}_{index:04d}.png")
            Image.fromarray(noise(8, 8)).save(path.parent / f"eval_blocks_{index}.png")


@pytest.fixture
def finished(tmp_path: Path) -> list[Chapter]:
    """All chapters, as if their commands had run."""
    settings = Settings(tmp_path)
    chapters = [Scene(settings, name) for name in SCENES] + [chapter(settings) for chapter in CHAPTERS.values()]
    chapters[-1].run("ns-mesh {odd}", 1.0, odd="<a&b>")
    for chapter in chapters:
        chapter.seconds = [3.2] * len(chapter.commands)
        for command in chapter.commands:
            if "--output-path" in command.words:
                write_result(Path(command.words[command.words.index("--output-path") + 1]))
    for file in ("day/blender/test/0.png", "evening/idr/image/0.png", "landscape/nerfstudio/images/0.png"):
        write_result(tmp_path / file)
    write_result(tmp_path / "day" / "mesh.ply")
    write_result(tmp_path / "photograph" / "astronaut.png")
    return chapters


def embedded(text: str, kind: str) -> list[bytes]:
    return [base64.b64decode(data) for data in re.findall(rf'src="data:{kind};base64,([^"]+)"', text)]


def test_page_contains_all_it_shows(finished, tmp_path):
    text = show(tmp_path, finished, 1.0, 2).read_text()
    assert not re.search(r"(src|href)=\"(?!data:|#)", text) and "http" not in text
    assert "&lt;a&amp;b&gt;" in text and "<a&b>" not in text
    found = [np.asarray(Image.open(io.BytesIO(data))) for data in embedded(text, "image/png")]
    for name in ("astronaut.png", "decoded.png", "astronaut/evaluation/eval_blocks_1.png"):
        assert any(np.array_equal(picture, pixels(tmp_path / "photograph" / name)) for picture in found)
    for film in tmp_path.rglob("*.mp4"):
        assert embedded(text, "video/mp4").count(film.read_bytes()) == 1
    for words in (
        "1.0 minutes on 2 CPU cores",
        "IoU 0.9877",
        "12,345 parameters",
        "16 x 16 pixels",
        "8 views: +0.0 dB",
    ):
        assert words in text


def test_page_shows_what_is_done_when_a_chapter_has_failed(finished, tmp_path):
    done = [chapter for chapter in finished if chapter.name not in ("surfaces", "photograph")]
    text = show(tmp_path, done, 1.0, 2).read_text()
    assert re.findall(r'<h2 id="(.+?)"', text) == ["scenes", "depth", "outdoors", "scales", "volume"]
    assert re.findall(r'<a href="#(.+?)"', text) == ["depth", "outdoors", "scales", "volume"]
    figures = json.loads((tmp_path / "demo.json").read_text())
    assert list(figures["results"]) == ["few-views", "outdoors", "scales", "volume"]
    assert figures["results"]["outdoors"] == {"megabytes": 1.5, "field psnr": 21.0, "splats psnr": 21.0}


def test_panels_are_cut_and_transparency_is_white(tmp_path):
    wide = np.zeros((4, 6, 4), np.uint8)
    wide[:, 3:] = (10, 20, 30, 255)
    Image.fromarray(wide).save(tmp_path / "wide.png")
    left, right = panels(tmp_path / "wide.png", 2)
    assert (left == 255).all() and (right == [10, 20, 30]).all() and left.shape == (4, 3, 3)


@pytest.mark.parametrize("name", ["scenes", *CHAPTERS])
def test_commands_of_the_chapters_have_the_options_given(name, tmp_path):
    """A demo that stops after ten minutes over an option that was renamed is found here."""
    from nerfstudio.configs.dataparser_configs import all_dataparsers
    from nerfstudio.configs.method_configs import all_methods

    commands = {point.name: point for point in entry_points(group="console_scripts")}
    settings = Settings(tmp_path)
    chapters = [CHAPTERS[name](settings)] if name in CHAPTERS else [Scene(settings, scene) for scene in SCENES]
    for command in (command for chapter in chapters for command in chapter.commands):
        assert command.words[0] in commands
        words, known = list(command.words[1:]), None
        if command.words[0] == "ns-train":
            known = all_methods[words[0]]
            for index, word in enumerate(words):
                if word in all_dataparsers:
                    assert options_within(all_dataparsers[word], words[index:]) is None
                    words = words[:index]
        elif commands[command.words[0]].module.split(".")[0].endswith("_ns"):
            known = own_options(commands[command.words[0]].load())
        if known is not None:
            assert options_within(known, words) is None, command


def own_options(entry: Any) -> Any:
    """The dataclass of a command of ours: the one that its module hands to tyro."""
    module = sys.modules[entry.__module__]
    found = [value for value in vars(module).values() if dataclasses.is_dataclass(value) and isinstance(value, type)]
    return next(value for value in found if value.__module__ == module.__name__ and value.__name__ in SOURCES[module])


class _Sources(dict):
    def __missing__(self, module: Any) -> str:
        self[module] = re.findall(r"tyro\.cli\(\s*(\w+)", Path(module.__file__).read_text())
        return self[module]


SOURCES = _Sources()


def options_within(config: Any, words: list[str]) -> str | None:
    """The first option that the config has not; None if it has all."""
    for word in words:
        if not re.match(r"--[a-z]", word):
            continue
        at = config
        for part in word[2:].replace("-", "_").split("."):
            if isinstance(at, dict):
                found = part in at
                at = at.get(part)
            else:
                found = part in {field.name for field in dataclasses.fields(at)}
                at = getattr(at, part, None)
            if not found:
                return word
    return None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"chapters": ("nothing",)}, "--chapters names 'nothing'"),
        ({"chapters": ()}, "--chapters is empty"),
        ({"effort": 0.0}, "--effort is 0"),
        ({"frames": 1}, "--frames is 1"),
        ({"workers": 0}, "--workers is 0"),
    ],
)
def test_bad_options_are_refused(options, message, tmp_path):
    with pytest.raises(InputError, match=message):
        Demo(output_dir=tmp_path / "demo", **options).main()
    assert not (tmp_path / "demo").exists()


def test_a_folder_that_no_demo_made_is_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(InputError, match="holds files that no demo made"):
        Demo(output_dir=tmp_path).main()
    assert (tmp_path / "mine.txt").read_text() == "keep"
