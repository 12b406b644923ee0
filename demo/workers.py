"""Running the demo's chapters side by side, each command in a process of its own.

Importing nerfstudio takes a command ten seconds or more. Where it is safe, this is done once: Python's fork server
imports it, and each command is a fork of that server, with the entry point and arguments that a shell would give it.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
import time
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from importlib.metadata import entry_points
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from common_ns.errors import InputError
from demo.chapter import Chapter, Command
from demo.progress import Progress

PRELOADED = ["nerfstudio.scripts.train", "nerfstudio.scripts.eval", "nerfstudio.scripts.render"]
"""What nearly all commands import."""


def can_fork() -> bool:
    """Whether commands may be forks of a process that has imported nerfstudio.

    CUDA does not survive a fork, and importing may start it; outside of Linux, forking itself is unsafe.
    """
    return sys.platform == "linux" and not Path("/dev/nvidiactl").exists()


class Workers:
    """Runs chapters, several at a time.

    Args:
        logs: folder for what commands print, a file for each chapter.
        count: chapters that run side by side.
        threads: threads of each command.
        progress: learns when commands begin and end.
    """

    def __init__(self, logs: Path, count: int, threads: int, progress: Progress) -> None:
        self.logs, self.count, self.threads, self.progress = logs, count, threads, progress
        self._processes: set[BaseProcess] = set()
        self._stopped = threading.Event()
        # Set here, since libraries read it when they are loaded.
        os.environ["OMP_NUM_THREADS"] = str(threads)
        self._context: Any = multiprocessing.get_context("forkserver" if can_fork() else "spawn")
        if can_fork():
            self._context.set_forkserver_preload(PRELOADED)

    def run(self, chapters: list[Chapter]) -> None:
        """Run all chapters, and return when all are done.

        Raises: InputError if a command fails, after the others have been stopped.
        """
        self.logs.mkdir(parents=True, exist_ok=True)
        self._stopped.clear()
        with ThreadPoolExecutor(max_workers=self.count) as pool:
            futures = [pool.submit(self._run_chapter, chapter) for chapter in chapters]
            try:
                done, _ = wait(futures, return_when=FIRST_EXCEPTION)
                for future in done:
                    future.result()
            finally:
                self._stopped.set()
                for future in futures:
                    future.cancel()
                while not all(future.done() for future in futures):
                    for process in list(self._processes):
                        process.terminate()
                    time.sleep(0.1)

    def _run_chapter(self, chapter: Chapter) -> None:
        log = self.logs / f"{chapter.name}.log"
        for command in chapter.commands:
            if self._stopped.is_set():
                return
            self.progress.begin(chapter)
            code = self._exit_code(command, log)
            if self._stopped.is_set():
                return
            if code != 0:
                raise InputError(f"{command.words[0]} ended with code {code}", "Read the end of the log", log)
            self.progress.end(chapter)

    def _exit_code(self, command: Command, log: Path) -> int | None:
        """Run a command, append what it prints to a log, and return its exit code."""
        with open(log, "a", encoding="utf-8") as file:
            file.write(f"\n$ {command}\n")
        process = self._context.Process(target=run_command, args=(command.words, str(log), self.threads))
        process.start()
        self._processes.add(process)
        process.join()
        self._processes.discard(process)
        return process.exitcode


def run_command(words: tuple[str, ...], log: str, threads: int) -> None:
    """Run a console command in this process, as a shell would start it.

    Args:
        words: the command and its arguments.
        log: file that its output is appended to.
        threads: for torch, which has counted the cores already if the fork server imported it.
    """
    with open(log, "a", encoding="utf-8") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.stdout = os.fdopen(1, "w", encoding="utf-8", buffering=1, closefd=False)
    sys.stderr = os.fdopen(2, "w", encoding="utf-8", buffering=1, closefd=False)
    sys.argv = list(words)
    (entry,) = entry_points(group="console_scripts", name=words[0])
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(threads)
    try:
        entry.load()()
    except Exception as error:
        sys.excepthook(type(error), error, error.__traceback__)
        raise SystemExit(1) from None
