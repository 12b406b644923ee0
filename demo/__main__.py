"""`make demo`: train every family on built-in data with the ns-* commands, and show the results on one page.

Nothing here is special to the demo: it runs the command lines that a user would type, prints them, and writes them on
the page. It needs no GPU, no network and no data.
"""

from __future__ import annotations

import datetime
import inspect
import json
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import tyro

from common_ns.cores import available_cores
from common_ns.errors import InputError
from common_ns.nerfstudio_seam.last_words import report_input_errors
from demo.chapters import CHAPTERS, Recipe, scenes
from demo.lanes import Lanes
from demo.page import Page
from demo.plan import Chapter
from demo.progress import Progress, clock

MARK = "demo.json"
"""Tells a demo's folder from others, and holds its figures."""


@dataclass
class Demo:
    """Train every family on built-in data, and show pictures, films and figures on one page."""

    output_dir: Path = Path("outputs/demo")
    """Folder of the page; what an earlier demo left there is replaced."""
    chapters: tuple[str, ...] = tuple(CHAPTERS)
    """Parts of the page: surfaces, few-views, outdoors, scales, photograph, volume."""
    effort: float = 1.0
    """Factor on all numbers of training steps: below 1 quicker, above 1 better."""
    frames: int = 24
    """Frames of each film."""
    lanes: int | None = None
    """Commands that run side by side; by default as many as there are cores, at most four."""

    def main(self) -> None:
        """Run all chapters and write the page; ends with its path."""
        self.check()
        start = time.perf_counter()
        folder = self.output_dir.absolute()
        self.clear(folder)
        cores = available_cores()
        count = self.lanes or min(4, cores)
        recipe = Recipe(folder, self.effort, self.frames)
        data = scenes(recipe)
        chapters = [CHAPTERS[name](recipe) for name in CHAPTERS if name in self.chapters]
        if "photograph" in self.chapters:
            save_photograph(folder / "photograph" / "astronaut.png")
        progress = Progress(data + chapters, count)
        number = sum(len(chapter.steps) for chapter in data + chapters)
        print(f"{number} commands, {count} at a time, in about {clock(progress.left())} minutes", flush=True)
        lanes = Lanes(folder / "logs", count, max(1, cores // count), progress)
        try:
            with progress.shown():
                lanes.run(data)
                # The longest first, so that none is left alone at the end.
                lanes.run(sorted(chapters, key=lambda chapter: -sum(step.about for step in chapter.steps)))
        finally:
            # Whatever has come to an end is shown, also where something else has failed.
            minutes = (time.perf_counter() - start) / 60
            done = [chapter for chapter in data + chapters if chapter.done]
            if all(chapter.done for chapter in data):
                page = write_page(folder, done, minutes, cores)
                print(f"\n{len(done)} of {len(data + chapters)} parts done in {minutes:.1f} minutes. Open {page}")

    def check(self) -> None:
        """Raises InputError about options that cannot work."""
        unknown = [name for name in self.chapters if name not in CHAPTERS]
        if unknown or not self.chapters:
            problem = f"--chapters names {unknown[0]!r}" if unknown else "--chapters is empty"
            raise InputError(problem, f"Choose from {', '.join(CHAPTERS)}")
        for name, low, high in (("effort", 1e-3, 1e3), ("frames", 4, 1000), ("lanes", 1, 64)):
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise InputError(f"--{name} is {value}", f"Choose a number from {low:g} to {high:g}")

    def clear(self, folder: Path) -> None:
        """Make the folder, without what an earlier demo left in it.

        Raises: InputError if it holds something else.
        """
        if folder.exists():
            if not folder.is_dir() or (any(folder.iterdir()) and not (folder / MARK).exists()):
                raise InputError("holds files that no demo made", "Choose another --output-dir", folder)
            shutil.rmtree(folder)
        folder.mkdir(parents=True)
        (folder / MARK).write_text("{}\n")


def save_photograph(file: Path) -> None:
    """Write the photograph of Eileen Collins (NASA, public domain) that scikit-image comes with."""
    from PIL import Image
    from skimage import data

    file.parent.mkdir(parents=True)
    Image.fromarray(data.astronaut()).save(file)


def write_page(folder: Path, chapters: list[Chapter], minutes: float, cores: int) -> Path:
    """Write index.html and the figures; returns the page's path."""
    page = Page()
    for chapter in chapters:
        chapter.show(page)
    date = datetime.date.today().isoformat()
    figures = {"minutes": round(minutes, 2), "cores": cores, "date": date, "results": page.results}
    (folder / MARK).write_text(json.dumps(figures, indent=2) + "\n")
    file = folder / "index.html"
    page.write(
        file,
        [
            "Neural fields learn a scene from pictures of it: ask them what a camera would see from anywhere, or for a "
            "mesh. This page shows what each family of methods in fieldsuite does, on data that comes with it.",
            f"All of it was made by one command, make demo, in {minutes:.1f} minutes on {cores} CPU cores ({date}). "
            "These are small models after a few minutes; each becomes sharper with more. Numbers called PSNR compare "
            "a rendering with the true picture: 20 dB is rough, 30 dB good, 40 dB hard to tell apart.",
        ],
    )
    return file


def entrypoint() -> None:
    """Run the demo from the command line."""
    report_input_errors()
    tyro.cli(Demo, prog="make demo", description=inspect.getdoc(Demo)).main()


if __name__ == "__main__":
    entrypoint()
