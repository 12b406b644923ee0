"""The demo's machinery: lanes, the line that tells progress, the page; and that its commands have the options given."""

from __future__ import annotations

import base64
import dataclasses
import io
import re
import sys
import time
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from common_ns.errors import InputError
from common_ns.meshing.pictures import write_film
from demo import lanes as lanes_module
from demo.__main__ import Demo
from demo.chapters import CHAPTERS, Recipe, scenes
from demo.lanes import Lanes
from demo.page import Page, panels, pixels
from demo.plan import Chapter, Step
from demo.progress import Progress, clock, remaining_seconds

SCENE = ("--layouts", "blender", "--num-train", 1, "--num-val", 1, "--num-test", 1, "--resolution", 16)


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lanes set the number of threads of their children in the environment."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(lanes_module, "IMPORTS", [])  # what these commands need is quick to import


class Events:
    """Remembers what it is told."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.ended: list[str] = []

    def begin(self, chapter: Chapter, step: Step) -> None:
        self.begun.append(chapter.name)

    def end(self, chapter: Chapter, step: Step) -> None:
        self.ended.append(chapter.name)


def chapter_of(name: str, *steps: tuple[object, ...]) -> Chapter:
    chapter = Chapter(name, lambda page: None)
    for words in steps:
        chapter.run(*words, about=1.0)
    return chapter


def test_lanes_run_commands_and_keep_what_they_print(tmp_path):
    write = ("ns-sample-scene", "--output-dir", tmp_path / "scene", *SCENE)
    draw = ("ns-turntable", tmp_path / "scene" / "mesh.ply", "--output-path", tmp_path / "mesh.png", "--frames", 2)
    chapter, events = chapter_of("mesh", write, (*draw, "--size", 64)), Events()
    Lanes(tmp_path / "logs", 2, 1, events).run([chapter])
    log = (tmp_path / "logs" / "mesh.log").read_text()
    assert "$ ns-sample-scene" in log and "2 views of" in log and events.ended == ["mesh", "mesh"]
    assert np.ptp(pixels(tmp_path / "mesh.png")) > 100
    assert all(0.0 < chapter.seconds[step] < 120.0 for step in chapter.steps)


def test_without_forks_commands_are_started_as_a_shell_does(tmp_path, monkeypatch):
    monkeypatch.setattr(lanes_module, "can_fork", lambda: False)
    chapter = chapter_of("scene", ("ns-sample-scene", "--output-dir", tmp_path / "scene", *SCENE))
    Lanes(tmp_path / "logs", 1, 1, Events()).run([chapter])
    assert (tmp_path / "scene" / "mesh.ply").exists() and "Wrote" in (tmp_path / "logs" / "scene.log").read_text()


def test_a_failure_stops_the_other_lane_and_names_the_log(tmp_path):
    refused = chapter_of("refused", ("ns-turntable", tmp_path / "missing.ply"))
    endless = ("ns-sample-scene", "--output-dir", tmp_path / "long", "--num-train", 5000, "--layouts", "blender")
    events, start = Events(), time.perf_counter()
    with pytest.raises(InputError, match=r"refused\.log: ns-turntable ended with code 1"):
        Lanes(tmp_path / "logs", 2, 1, events).run([refused, chapter_of("long", endless, endless)])
    assert time.perf_counter() - start < 60 and events.ended == [] and events.begun.count("long") == 1
    log = (tmp_path / "logs" / "refused.log").read_text()
    assert "Error: " in log and "missing.ply" in log and "Traceback" not in log


def test_remaining_time_is_that_of_lanes_that_take_the_next_chapter():
    assert remaining_seconds([[3.0, 4.0], [5.0], [6.0]], 1) == 18.0
    assert remaining_seconds([[3.0, 4.0], [5.0], [6.0]], 2) == 11.0
    assert remaining_seconds([[3.0, 4.0], [5.0], [6.0]], 3) == 7.0
    assert remaining_seconds([], 2) == 0.0


def test_progress_follows_the_pace_of_the_machine(capsys):
    chapter = chapter_of("a", ("ns-eval",), ("ns-train", "m"))
    chapter.steps = [dataclasses.replace(step, about=300.0) for step in chapter.steps]
    progress = Progress([chapter], 1)
    assert progress.left() == pytest.approx(600.0)
    progress.begin(chapter, chapter.steps[0])
    chapter.seconds[chapter.steps[0]] = 660.0  # twice as long as expected, and a minute at the expected pace
    progress.end(chapter, chapter.steps[0])
    assert progress.left() == pytest.approx(300.0 * 720.0 / 360.0)
    progress.begin(chapter, chapter.steps[1])
    assert "1 of 2 steps, about 9:59 to go | a: ns-train m 0:00" in progress.line()
    out = capsys.readouterr().out
    assert out.startswith("$ ns-eval\n") and "about 10:00 to go" in out and clock(61.9) == "1:01"


def test_page_holds_all_it_shows(tmp_path):
    picture = np.random.default_rng(0).integers(0, 256, (8, 12, 3), dtype=np.uint8)
    Image.fromarray(picture).save(tmp_path / "a.png")
    write_film(tmp_path / "film.mp4", [np.full((32, 48, 3), value, np.uint8) for value in (0, 255)], 4)
    page, chapter = Page(), chapter_of("a", ("ns-eval", "--load-config", "<a&b>"))
    chapter.seconds[chapter.steps[0]] = 3.2
    page.section("one", "A & B", "Some <text>.")
    page.grid([[tmp_path / "a.png", picture]], ("left", "right"), "caption", sides=("row",))
    page.film(tmp_path / "film.mp4", "a film")
    page.table(("name", "figure"), [("x", 1.5)])
    page.commands(chapter.timed())
    page.card("one", "First", "what", picture)
    page.write(tmp_path / "index.html", ["Hello."])
    text = (tmp_path / "index.html").read_text()
    assert not re.search(r"(src|href)=\"(?!data:|#)", text) and "http" not in text
    assert "A &amp; B" in text and "Some &lt;text&gt;." in text and "&lt;a&amp;b&gt;" in text
    found = re.findall(r'src="data:image/png;base64,([^"]+)"', text)
    assert len(found) == 3
    for data in found:
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))), picture)
    (film,) = re.findall(r'src="data:video/mp4;base64,([^"]+)"', text)
    assert base64.b64decode(film) == (tmp_path / "film.mp4").read_bytes()


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
    recipe = Recipe(tmp_path)
    chapters = [CHAPTERS[name](recipe)] if name in CHAPTERS else scenes(recipe)
    for step in (step for chapter in chapters for step in chapter.steps):
        assert step.words[0] in commands
        words, known = list(step.words[1:]), None
        if step.words[0] == "ns-train":
            known = all_methods[words[0]]
            for index, word in enumerate(words):
                if word in all_dataparsers:
                    assert options_within(all_dataparsers[word], words[index:]) is None
                    words = words[:index]
        elif commands[step.words[0]].module.split(".")[0].endswith("_ns"):
            known = own_options(commands[step.words[0]].load())
        if known is not None:
            assert options_within(known, words) is None, step


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
        ({"lanes": 0}, "--lanes is 0"),
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
