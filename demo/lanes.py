"""Running the demo's chapters side by side, each command in a process of its own.

A command of nerfstudio spends ten seconds and more on imports. Where it is safe, these are made once: Python's fork
server imports, and each command is a fork of it, with the arguments and the entry point that a shell would give it.
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Protocol

from common_ns.errors import InputError
from demo.plan import Chapter, Step

IMPORTS = ["nerfstudio.scripts.train", "nerfstudio.scripts.eval", "nerfstudio.scripts.render"]
"""What nearly all commands need."""


class Watch(Protocol):
    """Is told what runs."""

    def begin(self, chapter: Chapter, step: Step) -> None: ...
    def end(self, chapter: Chapter, step: Step) -> None: ...


class _Child(Protocol):
    """What forked and other processes have in common."""

    def terminate(self) -> None: ...


def can_fork() -> bool:
    """Whether commands may be forks of a process that has imported everything.

    CUDA does not outlive a fork, and importing may start it; elsewhere than on Linux, forking itself is the danger.
    """
    return sys.platform == "linux" and not Path("/dev/nvidiactl").exists()


class Lanes:
    """Runs chapters, several at a time.

    Args:
        logs: folder for what commands print, a file for each chapter.
        count: chapters that run side by side.
        threads: threads of each command.
        watch: is told about each step.
    """

    def __init__(self, logs: Path, count: int, threads: int, watch: Watch) -> None:
        self.logs, self.count, self.threads, self.watch = logs, count, threads, watch
        self._children: set[_Child] = set()
        self._stopped = threading.Event()
        # Set here, since the libraries read it when they are loaded.
        os.environ["OMP_NUM_THREADS"] = str(threads)
        self._context: Any = None
        if can_fork():
            self._context = multiprocessing.get_context("forkserver")
            self._context.set_forkserver_preload(IMPORTS)

    def run(self, chapters: list[Chapter]) -> None:
        """Run all chapters; when it returns, all are done.

        Raises: InputError if a command fails, after the others have been stopped.
        """
        self.logs.mkdir(parents=True, exist_ok=True)
        self._stopped.clear()
        with ThreadPoolExecutor(max_workers=self.count) as pool:
            futures = [pool.submit(self._chapter, chapter) for chapter in chapters]
            try:
                done, _ = wait(futures, return_when=FIRST_EXCEPTION)
                for future in done:
                    future.result()
            finally:
                self._stopped.set()
                for future in futures:
                    future.cancel()
                while not all(future.done() for future in futures):
                    for child in list(self._children):
                        child.terminate()
                    time.sleep(0.1)

    def _chapter(self, chapter: Chapter) -> None:
        log = self.logs / f"{chapter.name}.log"
        for step in chapter.steps:
            if self._stopped.is_set():
                return
            self.watch.begin(chapter, step)
            start = time.perf_counter()
            code = self._command(step, log)
            if self._stopped.is_set():
                return
            if code != 0:
                raise InputError(f"{step.words[0]} ended with code {code}", "Read the end of the log", log)
            chapter.seconds[step] = time.perf_counter() - start
            self.watch.end(chapter, step)

    def _command(self, step: Step, log: Path) -> int:
        """Run a command with its output at the end of a log; returns its exit code."""
        with open(log, "a", encoding="utf-8") as file:
            file.write(f"\n$ {step}\n")
        if self._context is not None:
            process = self._context.Process(target=run_forked, args=(step.words, str(log), self.threads))
            process.start()
            self._children.add(process)
            process.join()
            code = process.exitcode
        else:
            with open(log, "a", encoding="utf-8") as file:
                command = [str(Path(sys.executable).parent / step.words[0]), *step.words[1:]]
                process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)
                self._children.add(process)
                code = process.wait()
        self._children.discard(process)
        return code


def run_forked(words: tuple[str, ...], log: str, threads: int) -> None:
    """A console command in a forked process: its entry point with its arguments, its output in a log.

    Args:
        words: command and arguments.
        log: file that output is added to.
        threads: for torch, which counted the cores when the fork server imported it.
    """
    with open(log, "a", encoding="utf-8") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.stdout = os.fdopen(1, "w", encoding="utf-8", buffering=1, closefd=False)
    sys.stderr = os.fdopen(2, "w", encoding="utf-8", buffering=1, closefd=False)
    sys.argv = list(words)
    (entry,) = (point for point in entry_points(group="console_scripts") if point.name == words[0])
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(threads)
    try:
        entry.load()()
    except Exception as error:
        sys.excepthook(type(error), error, error.__traceback__)
        raise SystemExit(1) from None
