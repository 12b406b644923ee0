"""Hands a campaign's runs to submitit, and again those that ended before their end; one code path for all machines.

On this machine submitit's local executor starts what it is given, at once; so the engine gives it as many runs as
cores, GPUs and memory allow, and the next when one has ended. A cluster gets one array of all runs.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from types import FrameType
from typing import Any, Literal

from common_ns.campaigns.description import Campaign
from common_ns.campaigns.fingerprint import Contents
from common_ns.campaigns.plan import Run, matching, runs_of
from common_ns.campaigns.progress import Display
from common_ns.campaigns.record import read_record
from common_ns.campaigns.work import Job, is_taken, judge, known_steps, locked
from common_ns.cores import available_cores
from common_ns.data.memory import available_memory
from common_ns.errors import InputError

Place = Literal["local", "slurm", "debug"]
"""Where runs are carried out: on this machine, on a cluster, or one after the other in this process."""
DRIVER = "driver.lock"
"""Beside the jobs: locked as long as the process that has handed them out is there."""
LOOK = 0.2
"""Seconds between two looks at jobs."""
PATIENCE = 10.0
"""Seconds before the first new attempt after a full disk; twice as many each time, up to `MOST_PATIENCE`."""
MOST_PATIENCE = 300.0
FREE = 64 << 20
"""Bytes that have to be free on a disk that was full, beyond two checkpoints."""
SLURM_LOOK = 30
"""Seconds between two questions to SLURM, for jobs that have ended without a result."""
YEARS = 60 * 24 * 365 * 10
"""Minutes that submitit gives a local job: stages have limits of their own."""


@dataclass
class Engine:
    """Carries out what is missing of a campaign.

    Args: which campaign, OUTPUT_DIR/NAME, where, and what it tells about the progress.
    """

    campaign: Campaign
    folder: Path
    place: Place = "local"
    display: Display | None = None
    programs: Path | None = None
    """Folder of scripts that take the places of commands."""
    only: tuple[str, ...] = ()
    """Patterns of the names of runs to carry out; none: all."""
    patience: float = PATIENCE
    limit: int = field(init=False, default=0)
    """Runs at once."""

    def run(self) -> dict[str, str]:
        """Carry out all runs that are missing or out of date.

        Returns: done or failed for each run, by name.
        Raises: InputError if a cluster cannot be reached; KeyboardInterrupt when it was interrupted, after everything
            has been stopped.
        """
        runs = matching(runs_of(self.campaign, self.folder), self.only)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.since = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
        self.handed_out = self.folder / "jobs" / f"{self.since.partition('+')[0].replace(':', '')}-{os.getpid()}"
        contents = Contents(self.folder)
        self.results = {run.name: "done" for run in runs}
        waiting = [run for run in runs if not is_up_to_date(self.campaign, run, self.folder, contents)]
        for run in waiting:  # read here, once, and not by each job
            contents.of(run.scene.path)
        contents.save()
        gpus = self._gpus()
        self.limit = self._most_at_once(gpus)
        self.free = deque(gpus)
        self.queue: deque[Run] = deque(waiting)
        self.later: dict[Run, float] = {}
        self.jobs: list[tuple[Any, Run, list[str]]] = []
        self.deaths: Counter[str] = Counter()
        self.pause, self.resume_at = self.patience, 0.0
        display = self.display or Display(quiet=True)
        alive = locked(self.handed_out, DRIVER) if waiting else nullcontext()
        with display.showing(self.campaign, runs, waiting), _interruptible(), alive:
            try:
                self._loop(display)
            except KeyboardInterrupt:
                self._stop()
                display.look()
                raise
        shutil.rmtree(self.handed_out, ignore_errors=True)
        return self.results

    def _loop(self, display: Display) -> None:
        while self.queue or self.jobs or self.later:
            now = time.monotonic()
            for run in [run for run, when in self.later.items() if when <= now]:
                del self.later[run]
                self.queue.append(run)
            self._submit(display)
            display.look()
            if self.jobs or self.later or self.queue:
                time.sleep(LOOK)
            for job, run, gpus in list(self.jobs):
                if self._is_done(job):
                    self.jobs.remove((job, run, gpus))
                    self.free.extend(gpus)
                    display.look()
                    self._take(run, self._outcome(job), display)

    def _submit(self, display: Display) -> None:
        """Hand out what may run now."""
        if self.resume_at > time.monotonic() or not self.queue:
            return
        if self.resume_at and not self._has_space():
            self.resume_at = time.monotonic() + self.pause
            return
        self.resume_at = 0.0
        chosen: list[tuple[Run, list[str]]] = []
        each = self.campaign.resources.gpus if self.place == "local" and self.free else 0
        gpus_of_each = 1 if each is None else each
        while self.queue and (self.place == "slurm" or len(self.jobs) + len(chosen) < self.limit):
            run = self.queue.popleft()
            if is_taken(run):
                self._leave(run, display)
                continue
            chosen.append((run, [self.free.popleft() for _ in range(min(gpus_of_each, len(self.free)))]))
        if not chosen:
            return
        try:
            jobs = self._hand_out(chosen)
        except OSError as error:
            for run, gpus in chosen:
                self.free.extend(gpus)
                self.queue.append(run)
            self._wait_for_space(display, str(error.strerror))
            return
        self.jobs += [(job, run, gpus) for job, (run, gpus) in zip(jobs, chosen)]

    def _hand_out(self, chosen: list[tuple[Run, list[str]]]) -> list[Any]:
        """Submit runs, with the GPUs of each."""
        resources = self.campaign.resources
        driver = self.handed_out / DRIVER if self.place == "local" else None
        visible: list[str | None] = [None] * len(chosen)
        if self.place != "slurm" and (resources.gpus == 0 or self.all_gpus):
            visible = [",".join(gpus) for _, gpus in chosen]
        calls = [
            Job(self.campaign, run, self.folder, self.since, self.programs, seen, driver)
            for (run, _), seen in zip(chosen, visible)
        ]
        import submitit
        from submitit.core.utils import FailedJobError

        folder = self.handed_out
        if self.place == "debug":
            executor: Any = submitit.DebugExecutor(folder)
        elif self.place == "local":
            executor = submitit.LocalExecutor(folder)
            executor.update_parameters(timeout_min=YEARS)
        else:
            slurm = self.campaign.slurm
            try:
                executor = submitit.SlurmExecutor(folder)
            except RuntimeError as error:
                remedy = "Run it on a machine that submits to a cluster, or give --on local"
                raise InputError("there is no SLURM here (no srun)", remedy) from error
            submitit.SlurmJob.watcher._delay_s = SLURM_LOOK
            asked = {name: getattr(slurm, name) for name in ("partition", "account", "qos", "constraint")}
            asked |= {"job_name": self.campaign.name, "time": slurm.time_minutes, "array_parallelism": slurm.array}
            asked |= {"cpus_per_task": resources.cores, "gpus_per_node": resources.gpus or None}
            asked |= {"mem": None if resources.memory_gb is None else f"{round(resources.memory_gb * 1024)}MB"}
            asked |= {"setup": list(slurm.setup) or None}
            executor.update_parameters(**{name: value for name, value in asked.items() if value is not None})
        with _sigint_blocked():  # Ctrl-C reaches this process alone, which then ends the others in order
            try:
                return executor.submit_array(calls)
            except (FailedJobError, subprocess.CalledProcessError) as error:
                said = " ".join(str(error.args[0] if error.args else error).split())
                raise InputError(f"SLURM takes no jobs ({said[:300]})", "Mend slurm in the file") from error

    def _is_done(self, job: Any) -> bool:
        return True if self.place == "debug" else job.done()

    def _outcome(self, job: Any) -> str:
        """What a job has returned; died if nothing."""
        if self.place != "debug" and not job.paths.result_pickle.exists():
            return "died"
        try:
            return job.result()
        except Exception:  # whatever ended it, its run is not finished
            return "died"
        finally:
            if self.place != "debug":  # another job may get its number
                job.paths.result_pickle.unlink(missing_ok=True)

    def _take(self, run: Run, outcome: str, display: Display) -> None:
        """Take in what a job has come to."""
        if outcome in ("done", "failed"):
            self.results[run.name] = outcome
        elif outcome == "taken":
            self._leave(run, display)
        elif outcome == "disk_full":
            self.queue.appendleft(run)
            self._wait_for_space(display, "No space left on device")
        elif outcome == "out_of_memory":
            self.limit = max(1, self.limit - 1)
            fewer = f": {self.limit} at once from now on" if self.place == "local" else ""
            display.tell(run, f"out of memory{fewer}")
            self.queue.append(run)
        elif outcome == "interrupted" and self.place == "debug":
            raise KeyboardInterrupt
        else:
            self.deaths[run.name] += 1
            again = self.deaths[run.name] <= self.campaign.retry["killed"]
            display.tell(run, "its process was ended" + (", again" if again else ""))
            if again:
                self.queue.append(run)
                return
            self.results[run.name] = "failed"
            record = read_record(run.folder)
            if record is not None and not is_taken(run):
                record.state = "failed"
                with suppress(InputError):
                    record.write(run.folder)

    def _leave(self, run: Run, display: Display) -> None:
        """Leave a run to another process that is at it, and see later what has become of it."""
        display.tell(run, "is carried out by another process", once=True)
        self.later[run] = time.monotonic() + 1.0

    def _wait_for_space(self, display: Display, problem: str) -> None:
        if self.resume_at <= time.monotonic():
            self.resume_at = time.monotonic() + self.pause
            needed = self._space_needed() >> 20
            display.say(f"{problem}: nothing new starts until {needed} MiB are free for {self.folder}")
            self.pause = min(2.0 * self.pause, MOST_PATIENCE)

    def _space_needed(self) -> int:
        largest = 0
        for file in self.folder.glob("runs/*/*/*/model/*/*/run/nerfstudio_models/*.ckpt"):
            with suppress(OSError):
                largest = max(largest, file.stat().st_size)
        return FREE + 2 * largest

    def _has_space(self) -> bool:
        return shutil.disk_usage(self.folder).free >= self._space_needed()

    def _gpus(self) -> list[str]:
        """GPUs of this machine that may be used.

        Raises: InputError if there are fewer than one run needs.
        """
        wanted = self.campaign.resources.gpus
        self.all_gpus = [] if self.place != "local" or wanted == 0 else visible_gpus()
        if wanted and self.place == "local" and len(self.all_gpus) < wanted:
            problem = f"resources.gpus is {wanted}, and this machine has {len(self.all_gpus)}"
            raise InputError(problem, "Give fewer, or --on slurm", self.campaign.file)
        return self.all_gpus

    def _most_at_once(self, gpus: list[str]) -> int:
        """Runs that this machine has cores, GPUs and memory for; at least one."""
        if self.place == "debug":
            return 1
        resources = self.campaign.resources
        limits = [available_cores() // resources.cores]
        if gpus:
            limits.append(len(gpus) // (resources.gpus or 1))
        memory = available_memory()
        if resources.memory_gb is not None and memory is not None:
            limits.append(int(memory / (resources.memory_gb * 1e9)))
        return max(1, min(limits))

    def _stop(self) -> None:
        """End all jobs, and wait until they have written what they are."""
        for job, _, _ in self.jobs:
            if self.place == "local":
                with suppress(OSError):
                    os.kill(int(job.job_id), signal.SIGTERM)  # the controller, which passes it on
            elif self.place == "slurm":
                with suppress(OSError, subprocess.SubprocessError):
                    job.cancel(check=False)
        deadline = time.monotonic() + 5.0
        while self.place == "local" and time.monotonic() < deadline and not all(job.done() for job, _, _ in self.jobs):
            time.sleep(0.05)


def is_up_to_date(campaign: Campaign, run: Run, folder: Path, contents: Contents) -> bool:
    """Whether nothing is to be done for a run."""
    record = read_record(run.folder)
    if record is None or record.state != "done":
        return False
    try:
        steps, _ = known_steps(campaign, run, folder, contents)
    except KeyError:
        return False
    return all(verdict.reason is None for verdict in judge(campaign, run, record, contents, steps).values())


def visible_gpus() -> list[str]:
    """Names of the GPUs that programs see, as CUDA_VISIBLE_DEVICES takes them. CUDA is not started for it."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is not None:
        return [name.strip() for name in given.split(",") if name.strip() not in ("", "-1", "NoDevFiles")]
    if shutil.which("nvidia-smi") is None:
        return []
    with suppress(OSError, subprocess.SubprocessError):
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=20, check=True).stdout
        return [str(number) for number, line in enumerate(each for each in listed.splitlines() if each[:3] == "GPU")]
    return []


@contextmanager
def _sigint_blocked() -> Iterator[None]:
    """Processes that are started within it do not get the terminal's Ctrl-C."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _interruptible() -> Iterator[None]:
    """Within it, being asked to end, or losing the terminal, is as Ctrl-C."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        for each in before:
            signal.signal(each, signal.SIG_IGN)
        raise KeyboardInterrupt

    before = {each: signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)}
    try:
        for each in before:
            signal.signal(each, interrupt)
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
