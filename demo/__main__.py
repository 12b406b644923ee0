"""`make demo`: train every family on built-in data with the ns-* commands, and show the results on one page.

The demo has no code of its own for training: it runs the commands that a user would type, prints them, and shows them
on the page. It needs no GPU, no network and no data.
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
from demo.chapter import Chapter, Settings
from demo.chapters import CHAPTERS, SCENES, Scene, save_photograph
from demo.page import write_page
from demo.progress import Progress, clock
from demo.workers import Workers

FIGURES = "demo.json"
"""The demo's figures; a folder with this file was made by a demo, and may be replaced."""


@dataclass
class Demo:
    """Train every family on built-in data, and show pictures, films and figures on one page."""

    output_dir: Path = Path("outputs/demo")
    """Folder of the page. An earlier demo in it is replaced."""
    chapters: tuple[str, ...] = tuple(CHAPTERS)
    """Parts of the page: surfaces, few-views, outdoors, scales, photograph, volume."""
    effort: float = 1.0
    """Factor on all numbers of training steps: less is faster, more gives better results."""
    frames: int = 24
    """Frames of each film."""
    workers: int | None = None
    """Commands that run side by side; by default one for each core, but at most four."""

    def main(self) -> None:
        """Run all chapters and write the page."""
        self.check()
        start = time.perf_counter()
        folder = self.output_dir.absolute()
        clear(folder)
        cores = available_cores()
        count = self.workers or min(4, cores)
        settings = Settings(folder, self.effort, self.frames)
        scenes: list[Chapter] = [Scene(settings, name) for name in SCENES]
        chapters = [CHAPTERS[name](settings) for name in CHAPTERS if name in self.chapters]
        if "photograph" in self.chapters:
            save_photograph(folder / "photograph" / "astronaut.png")
        progress = Progress(scenes + chapters, count)
        number = sum(len(chapter.commands) for chapter in scenes + chapters)
        print(f"{number} commands, {count} at a time, in about {clock(progress.seconds_left())} minutes", flush=True)
        workers = Workers(folder / "logs", count, max(1, cores // count), progress)
        try:
            with progress.shown():
                workers.run(scenes)
                # The longest first, so that none is left running alone at the end.
                workers.run(sorted(chapters, key=lambda chapter: chapter.expected, reverse=True))
        finally:
            # The page shows every chapter that is done, also after another one has failed.
            if all(scene.done for scene in scenes):
                minutes = (time.perf_counter() - start) / 60
                done = [chapter for chapter in scenes + chapters if chapter.done]
                page = show(folder, done, minutes, cores)
                print(f"\n{len(done)} of {len(scenes + chapters)} chapters done in {minutes:.1f} minutes. Open {page}")

    def check(self) -> None:
        """Raises InputError about options that cannot work."""
        unknown = [name for name in self.chapters if name not in CHAPTERS]
        if unknown or not self.chapters:
            problem = f"--chapters names {unknown[0]!r}" if unknown else "--chapters is empty"
            raise InputError(problem, f"Choose from {', '.join(CHAPTERS)}")
        for name, low, high in (("effort", 1e-3, 1e3), ("frames", 4, 1000), ("workers", 1, 64)):
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise InputError(f"--{name} is {value}", f"Choose a number from {low:g} to {high:g}")


def clear(folder: Path) -> None:
    """Make the folder, without what an earlier demo left in it.

    Raises: InputError if it holds other files.
    """
    if folder.exists():
        if not folder.is_dir() or (any(folder.iterdir()) and not (folder / FIGURES).exists()):
            raise InputError("holds files that no demo made", "Choose another --output-dir", folder)
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    (folder / FIGURES).write_text("{}\n")


def show(folder: Path, chapters: list[Chapter], minutes: float, cores: int) -> Path:
    """Write the page and the figures of chapters that are done; returns the page's path."""
    date = datetime.date.today().isoformat()
    results = {chapter.name: chapter.results() for chapter in chapters}
    numbers = {
        name: figures
        for name, shown in results.items()
        if (figures := {key: value for key, value in shown.items() if isinstance(value, (int, float))})
    }
    figures = {"minutes": round(minutes, 2), "cores": cores, "date": date, "results": numbers}
    (folder / FIGURES).write_text(json.dumps(figures, indent=2) + "\n")
    for chapter in chapters:
        results[chapter.name] |= {
            "folder": chapter.folder,
            "commands": list(zip(chapter.commands, chapter.seconds, strict=True)),
        }
    page = folder / "index.html"
    write_page(page, minutes=minutes, cores=cores, date=date, chapters=results)
    return page


def entrypoint() -> None:
    """Run the demo from the command line."""
    report_input_errors()
    tyro.cli(Demo, prog="make demo", description=inspect.getdoc(Demo)).main()


if __name__ == "__main__":
    entrypoint()
