"""Carries out one run: its stages one after the other, each a process of its own, and all that may end them.

It is done under a lock on a file in the run's folder, which the processes of the stages hold too: as long as one of
them is left, nobody else takes the run up, and when all have gone, however that was, it is free.
"""

from __future__ import annotations

import errno
import fcntl
import json
import math
import os
import platform
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from types import FrameType
from typing import Any

from common_ns.campaigns import fingerprint
from common_ns.campaigns.description import Campaign
from common_ns.campaigns.fingerprint import Contents
from common_ns.campaigns.plan import OUTPUTS, USES, Run, command_of, program_words, stages_of
from common_ns.campaigns.record import LOG, PROGRESS, Attempt, RunRecord, StageRecord, read_record
from common_ns.campaigns.watched import CALIBRATION, read_progress
from common_ns.campaigns.watched import PROGRESS as PROGRESS_VARIABLE
from common_ns.cores import available_cores, cpu_name
from common_ns.data.files import written_whole
from common_ns.errors import InputError

LOCK = ".lock"
"""In the run's folder."""
SECONDS_TO_END = 0.4
"""Between asking a stage's processes to end, and ending them: submitit gives a job one second."""
CALIBRATION_STEPS = 100_000
"""What {steps} in options is while steps are timed."""
CUDA_MEMORY = re.compile(r"CUDA out of memory|OutOfMemoryError|the GPU's memory does not suffice|CUDA_ERROR_OUT_OF_MEM")
HOST_MEMORY = re.compile(r"\bMemoryError\b|Cannot allocate memory|not enough memory: you tried to allocate|bad_alloc")
DISK_FULL = re.compile(r"No space left on device|\bENOSPC\b|Disk quota exceeded|\[Errno 28\]")
NOT_FINITE = re.compile(r"training ends at step \d+: \d+ in a row had to be left out")
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Interrupted(BaseException):
    """The run is to stop where it is: Ctrl-C, or the process that wanted it has gone."""


@dataclass(frozen=True)
class Job:
    """What is handed to submitit: called, it carries out a run. It can be handed out again at any time."""

    campaign: Campaign
    run: Run
    folder: Path
    """OUTPUT_DIR/NAME."""
    since: str
    """Attempts that were begun earlier, as ISO 8601 writes it, do not count among those that the file allows."""
    programs: Path | None = None
    """Folder of scripts that take the places of commands."""
    gpus: str | None = None
    """What CUDA_VISIBLE_DEVICES is to be; None: as it is."""
    driver: Path | None = None
    """File that the process that hands it out has locked: when it is free, that has gone, and the run stops. None: it
    goes on."""

    def __call__(self) -> str:
        """Carry the run out, as far as it is missing or out of date.

        Returns: done or failed; taken if somebody else is at it; disk_full, out_of_memory (of the machine) or
            interrupted if it is to be handed out again.
        """
        ending = signal.signal(signal.SIGTERM, _interrupt)
        interrupting = signal.signal(signal.SIGINT, _interrupt)
        try:
            with locked(self.run.folder) as lock:
                return "taken" if lock is None else Work(self, lock).carry_out()
        except (Interrupted, KeyboardInterrupt):
            return "interrupted"
        except (OSError, InputError) as error:
            cause = error if isinstance(error, OSError) else error.__cause__
            if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT):
                return "disk_full"
            return "failed" if self._note(f"Error: {error}") else "disk_full"
        finally:
            signal.signal(signal.SIGTERM, ending)
            signal.signal(signal.SIGINT, interrupting)

    def checkpoint(self) -> Any:
        """What submitit asks for before a cluster ends the job: the same again."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)

    def _note(self, line: str) -> bool:
        """Put a line into the run's log, and into its record. Returns: whether that was possible."""
        try:
            with (self.run.folder / LOG).open("a", encoding="utf-8") as log:
                log.write(f"{line}\n")
            record = read_record(self.run.folder) or RunRecord(*_names(self.run))
            record.state = "failed"
            record.write(self.run.folder)
        except (OSError, InputError):
            return False
        return True


def _interrupt(number: int, frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once is enough
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    raise Interrupted


def _names(run: Run) -> tuple[str, str, int]:
    return run.scene.name, run.method.name, run.seed


@contextmanager
def locked(folder: Path, name: str = LOCK, wait: bool = False, shared: bool = False) -> Iterator[int | None]:
    """Within it, a folder is this process's and its children's: gives the lock's file descriptor, None if it is taken.

    Args:
        folder: it is made if need be.
        name: of the file.
        wait: until it is free.
        shared: with others that only look whether it is.
    """
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder / name, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        try:
            fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield None
        else:
            yield descriptor
    finally:
        os.close(descriptor)


def is_taken(run: Run) -> bool:
    """Whether somebody is carrying a run out."""
    return _is_locked(run.folder / LOCK)


def _is_locked(file: Path) -> bool:
    if not file.exists():
        return False
    with locked(file.parent, file.name, shared=True) as lock:
        return lock is None


@dataclass
class Verdict:
    """What has to be done for a stage."""

    command: list[str]
    """Its words."""
    parts: dict[str, str]
    """What it depends on, by kind."""
    fingerprint: str
    """Of all."""
    reason: str | None
    """Why it has to be done; None if it is up to date."""
    anew: bool = False
    """Whether what is there must not be used."""


def judge(
    campaign: Campaign, run: Run, record: RunRecord | None, contents: Contents, steps: int | None
) -> dict[str, Verdict]:
    """What has to be done for each stage of a run, and why.

    Args:
        campaign, run: which.
        record: what is known.
        contents: of files.
        steps: to train; None: the method's own.
    """
    verdicts: dict[str, Verdict] = {}
    prints: dict[str, str] = {}
    for stage in stages_of(campaign, run):
        command = command_of(campaign, run, stage, steps)
        parts = fingerprint.parts_of(run, stage, command, contents)
        prints[stage] = fingerprint.fingerprint_of(parts, stage, prints)
        known = None if record is None else record.stages.get(stage)
        verdict = verdicts[stage] = Verdict(command, parts, prints[stage], None)
        before = next((used for used in USES[stage] if verdicts[used].reason is not None), None)
        if known is None or not known.fingerprint:
            verdict.reason = "missing"
        elif known.fingerprint != prints[stage]:
            changed = [kind for kind, value in parts.items() if known.parts.get(kind) != value]
            verdict.reason, verdict.anew = f"{' and '.join(changed) or before or 'another stage'} changed", True
        elif known.state != "done":
            verdict.reason = known.attempts[-1].end.replace("_", " ") if known.attempts else "missing"
        else:
            verdict.reason = damage(run.folder, known)
        if verdict.reason is None and before is not None:
            verdict.reason = f"{before} is done again"
    return verdicts


def damage(folder: Path, stage: StageRecord) -> str | None:
    """What is wrong with the files that a stage made; None if they are as they were."""
    for name, known in stage.outputs.items():
        try:
            state = (folder / name).stat()
        except OSError:
            return f"{name} is gone"
        if state.st_size != known["bytes"]:
            return f"{name} has {state.st_size} bytes instead of {known['bytes']}"
        if state.st_mtime_ns != known.get("changed") and fingerprint.hash_of(folder / name) != known["sha256"]:
            return f"{name} is another file"
    return None if stage.outputs else "nothing was made"


def known_steps(campaign: Campaign, run: Run, folder: Path, contents: Contents) -> tuple[int | None, dict[str, Any]]:
    """A run's number of steps, and its budget for the record; of core-seconds, only if its steps were timed before.

    Raises: KeyError if they have to be timed.
    """
    budget = campaign.budget
    if budget.core_seconds is None:
        return budget.steps, {} if budget.steps is None else {"steps": budget.steps}
    file, key = _budget_file(folder, run), _budget_key(campaign, run, contents)
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise KeyError(key) from None
    if found["depends_on"] != key:
        raise KeyError(key)
    found.pop("depends_on")
    return found["steps"], found


def _budget_file(folder: Path, run: Run) -> Path:
    """Where the number of steps is kept that the runs of a scene and a method share, whatever their seeds."""
    return folder / "budgets" / f"{run.folder.parent.parent.name}--{run.folder.parent.name}.json"


def _budget_key(campaign: Campaign, run: Run, contents: Contents) -> str:
    first = Run(run.scene, run.method, 0, run.folder)
    command = command_of(campaign, first, "train", CALIBRATION_STEPS)
    parts = fingerprint.parts_of(first, "train", command, contents)
    parts["command"] = " ".join(command).replace(str(run.folder), "RUN")
    return json.dumps([parts, campaign.budget.core_seconds, campaign.resources.cores])


def steps_within(budget: float, timed: dict[str, Any]) -> int:
    """How many steps a budget is enough for, at least one.

    Args:
        budget: core-seconds.
        timed: last line of a run that was timed: core_seconds_per_step and, where something is done once before the
            first step, core_seconds_start.

    Raises: InputError if nothing is left for the steps.
    """
    start = timed.get("core_seconds_start", 0.0)
    if start >= budget:
        problem = (
            f"the budget of {budget:g} core-seconds is spent before the first step, for which {start:.0f} are needed"
        )
        raise InputError(problem, "Give the campaign a larger one, or the method a shorter start")
    return max(1, round((budget - start) / timed["core_seconds_per_step"]))


@dataclass
class Work:
    """A run that is being carried out."""

    job: Job
    lock: int
    """Descriptor of the run's lock, which stages inherit."""
    record: RunRecord = field(init=False)
    parent: int = field(default_factory=os.getppid)

    def __post_init__(self) -> None:
        self.run, self.campaign, self.folder = self.job.run, self.job.campaign, self.job.run.folder
        self.record = read_record(self.folder) or RunRecord(*_names(self.run))

    def carry_out(self) -> str:
        """All stages that are missing or out of date. Returns: what `Job` does."""
        contents = Contents(self.job.folder)
        steps, budget = self._steps(contents)
        verdicts = judge(self.campaign, self.run, self.record, contents, steps)
        if all(verdict.reason is None for verdict in verdicts.values()) and self.record.state == "done":
            return "done"
        self.record.budget = budget
        self.record.machine = machine(self.campaign.resources.cores, self.campaign.resources.gpus == 0)
        self.record.versions = versions(self.run)
        # A stage that the file does not name any more is none of the run's.
        self.record.stages = {name: known for name, known in self.record.stages.items() if name in verdicts}
        self._set_state("running")
        failed: set[str] = set()
        for stage, verdict in verdicts.items():
            if verdict.reason is None:
                continue
            if failed & set(USES[stage]):
                failed.add(stage)
                self.record.stages.pop(stage, None)
                continue
            end = self._stage(stage, verdict)
            if end in ("disk_full", "interrupted", "host_memory"):
                self._set_state("waiting")
                return {"host_memory": "out_of_memory"}.get(end, end)
            if end != "done":
                failed.add(stage)
        self.record.figures = figures(self.folder, self.record)
        self._set_state("failed" if failed else "done")
        return self.record.state

    def _set_state(self, state: str) -> None:
        self.record.state = state
        self.record.write(self.folder)

    def _steps(self, contents: Contents) -> tuple[int | None, dict[str, Any]]:
        """Steps to train, timed first if the budget is in core-seconds and nobody has done so."""
        try:
            return known_steps(self.campaign, self.run, self.job.folder, contents)
        except KeyError:
            file = _budget_file(self.job.folder, self.run)
        with locked(file.parent, f".{file.stem}.lock", wait=True):
            with suppress(KeyError):
                return known_steps(self.campaign, self.run, self.job.folder, contents)
            found = self._time_steps()
            with written_whole(file) as partial:
                content = {**found, "depends_on": _budget_key(self.campaign, self.run, contents)}
                partial.write_text(json.dumps(content, indent=1), encoding="utf-8")
        return found["steps"], found

    def _time_steps(self) -> dict[str, Any]:
        """Train the first steps in a folder of their own.

        Raises: InputError if they do not come to their end.
        """
        budget = self.campaign.budget.core_seconds
        assert budget is not None
        scratch = Run(self.run.scene, self.run.method, self.run.seed, self.folder / "timing")
        words = command_of(self.campaign, scratch, "train", CALIBRATION_STEPS)
        progress = scratch.folder / PROGRESS
        more = {CALIBRATION: str(max(10.0, 0.05 * budget)), PROGRESS_VARIABLE: str(progress)}
        stage = self.record.stages["timing"] = StageRecord(state="running", command=words)
        while True:
            shutil.rmtree(scratch.folder, ignore_errors=True)
            scratch.folder.mkdir(parents=True)
            self._set_state("running")
            attempt = self._attempt("timing", stage, words, more)
            lines = read_progress(progress)
            seconds = lines[-1].get("core_seconds_per_step") if lines else None
            if attempt.end == "done" and seconds:
                break
            if attempt.end == "interrupted":
                raise Interrupted
            if attempt.end == "disk_full":
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            if sum(each.end == attempt.end for each in stage.attempts) > self.campaign.retry.get(attempt.end, 0):
                why = attempt.detail or "it has too few steps"
                problem = f"the steps of {self.run.name} could not be timed ({attempt.end.replace('_', ' ')}: {why})"
                raise InputError(problem, "Read the end of the log", self.folder / LOG)
        shutil.rmtree(scratch.folder, ignore_errors=True)
        del self.record.stages["timing"]
        steps = steps_within(budget, lines[-1])
        return {"core_seconds": budget, "core_seconds_per_step": seconds, "steps": steps}

    def _stage(self, stage: str, verdict: Verdict) -> str:
        """Do a stage, as often as the file allows. Returns: how it ended at last."""
        known = self.record.stages.get(stage)
        if known is None or verdict.anew:
            known = self.record.stages[stage] = StageRecord()
            self._clear(stage)
        elif stage != "train":
            self._clear(stage)
        known.fingerprint, known.parts, known.command = verdict.fingerprint, verdict.parts, verdict.command
        known.outputs = {}
        while True:
            words, more = list(verdict.command), {}
            if stage == "train":
                words = self._resumed(words)
                more[PROGRESS_VARIABLE] = str(self.folder / PROGRESS)
            known.state = "running"
            attempt = self._attempt(stage, known, words, more)
            if attempt.end == "done":
                try:
                    known.outputs = self._outputs(stage)
                except (OSError, ValueError) as error:
                    attempt.end, attempt.detail = "failed", str(error)
            known.state = "done" if attempt.end == "done" else "failed"
            self.record.write(self.folder)
            if attempt.end in ("done", "disk_full", "interrupted"):
                return attempt.end
            on_gpu = attempt.end == "out_of_memory" and attempt.detail.startswith("GPU")
            tried = [each for each in known.attempts if each.started >= self.job.since and each.end == attempt.end]
            if len(tried) > self.campaign.retry[attempt.end]:
                return attempt.end
            if on_gpu:
                self._halve_chunks(attempt)
            elif attempt.end == "out_of_memory":
                return "host_memory"

    def _clear(self, stage: str) -> None:
        """Remove what a stage made, and for train what was made of it."""
        for name, output in OUTPUTS.items():
            if name == stage or stage in USES[name]:
                for path in (self.folder / output, *((self.folder / "renders",) if name == "eval" else ())):
                    _remove(path)
                if name == "render":
                    _remove(self.folder / "video")
        if stage == "train":
            _remove(self.folder / PROGRESS)

    def _resumed(self, words: list[str]) -> list[str]:
        """The words of train with those that let it resume from the last whole checkpoint; if there is none, what is
        there is removed. Evaluation takes chunks as small as memory has shown that they have to be."""
        folder = self.run.checkpoints
        for file in sorted(folder.glob("step-*.ckpt"), reverse=True) if folder.is_dir() else ():
            if _is_whole(file):
                # Options go before the dataparser, which takes all that follow it.
                place = len(words) - len(self.run.scene.dataparser)
                words = [*words[:place], "--load-dir", str(folder), *words[place:]]
                break
            file.unlink()
        else:
            self._clear("train")
        if self.chunk is not None:
            place = len(words) - len(self.run.scene.dataparser)
            words = [*words[:place], "--pipeline.model.eval-num-rays-per-chunk", str(self.chunk), *words[place:]]
        return words

    chunk: int | None = None
    """Rays that evaluation takes at once from now on."""

    def _halve_chunks(self, attempt: Attempt) -> None:
        """Let evaluation, in training and by later commands, take half as many rays at once. Results stay the same.

        The batch of a training step is not touched: this suite's methods divide it themselves, and another batch would
        be another training.
        """
        config = self.run.load_config
        found = re.search(r"^( *eval_num_rays_per_chunk: )(\d+)$", _text(config), re.MULTILINE)
        if found is None:
            return
        self.chunk = max(1, int(found[2]) // 2)
        text = _text(config).replace(found[0], f"{found[1]}{self.chunk}")
        with written_whole(config) as partial:
            partial.write_text(text, encoding="utf-8")
        attempt.detail += f"; {self.chunk} rays at once from now on"
        train = self.record.stages["train"]
        if train.outputs:
            train.outputs = self._outputs("train")

    def _attempt(self, stage: str, known: StageRecord, words: list[str], more: dict[str, str]) -> Attempt:
        """One process of a stage, with its end in the record.

        Args:
            stage, known: which, with its record.
            words: its command's.
            more: environment variables.
        """
        # Until the end is known, this is what has happened if nobody is left to write it.
        attempt = Attempt(_now(), 0.0, 0.0, "killed", "what watched it has gone, too")
        known.attempts.append(attempt)
        self.record.write(self.folder)
        command = [sys.executable, "-m", "common_ns.campaigns.watched", *program_words(words, self.job.programs)]
        threads = str(self.campaign.resources.cores)
        names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
        environment = {**os.environ, **dict.fromkeys(names, threads), "COLUMNS": "200", **more}
        if self.job.gpus is not None:
            environment["CUDA_VISIBLE_DEVICES"] = self.job.gpus
        begin, before, kills = time.monotonic(), _core_seconds_of_children(), _memory_kills()
        with (self.folder / LOG).open("ab") as log:
            log.write(f"\n== {attempt.started} {stage}: {' '.join(words)}\n".encode())
            log.flush()
            start = log.tell()
            timed_out = interrupted = False
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
                pass_fds=(self.lock,),
            )
            try:
                while process.poll() is None:
                    time.sleep(0.02 if time.monotonic() - begin < 2.0 else 0.1)
                    timed_out = time.monotonic() - begin > 60.0 * self.campaign.timeout_minutes
                    if timed_out or self._left_alone():
                        interrupted = not timed_out
                        break
            except (Interrupted, KeyboardInterrupt):
                interrupted = True
            finally:
                _end_group(process)
        attempt.seconds = round(time.monotonic() - begin, 3)
        attempt.core_seconds = round(_core_seconds_of_children() - before, 3)
        if interrupted or timed_out:
            attempt.end, attempt.detail = ("interrupted" if interrupted else "timed_out"), ""
        else:
            has_ended = PROGRESS_VARIABLE not in more or _has_ended(Path(more[PROGRESS_VARIABLE]))
            text = _text(self.folder / LOG, start)
            attempt.end, attempt.detail = end_of(process.returncode, text, _memory_kills() > kills, has_ended)
            if attempt.end == "done" and _is_not_finite(more):
                attempt.end, attempt.detail = "not_finite", "the loss is not finite"
        return attempt

    def _left_alone(self) -> bool:
        """Whether the process that wanted the run has gone, or what started this one for it."""
        driver = self.job.driver
        if driver is None:
            return False
        return os.getppid() != self.parent or not driver.exists() or not _is_locked(driver)

    def _outputs(self, stage: str) -> dict[str, dict[str, Any]]:
        """Files that a stage made.

        Raises: OSError if they are not there, ValueError if they cannot be right.
        """
        if stage == "train":
            checkpoints = sorted(self.run.checkpoints.glob("step-*.ckpt"))
            files = [self.run.load_config, *checkpoints[-1:]]
            if not checkpoints:
                raise FileNotFoundError("training has ended without a checkpoint")
        else:
            made = self.folder / OUTPUTS[stage]
            folder = self.folder / "video"
            files = [made]
            if stage == "render" and not made.exists() and folder.is_dir():
                files = sorted(path for path in folder.rglob("*") if path.is_file())
            if made.suffix == ".json":
                json.loads(made.read_text(encoding="utf-8"))
        found = {}
        for file in files:
            state = file.stat()
            if state.st_size == 0:
                raise ValueError(f"{file.name} is empty")
            name = str(file.relative_to(self.folder))
            found[name] = {
                "bytes": state.st_size,
                "sha256": fingerprint.hash_of(file),
                "changed": state.st_mtime_ns,
            }
        return found


def end_of(code: int, text: str, memory_ran_out: bool, has_ended: bool) -> tuple[str, str]:
    """How a process ended, and why.

    Args:
        code: its exit code; below 0 if a signal ended it.
        text: what it has printed.
        memory_ran_out: whether the system has ended a process of ours meanwhile since memory had run out.
        has_ended: of a training, whether it has come to its last step: on Ctrl-C, ns-train ends with code 0.
    """
    lines = [line.strip() for line in ESCAPES.sub("", text).replace("\r", "\n").splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("Error: ")]
    if lines and lines[-1].startswith("╰"):  # what is wrong with a command line comes in a box
        top = max((number for number, line in enumerate(lines) if line.startswith("╭")), default=0)
        lines.append(" ".join(" ".join(line.strip("│╭╮─ ") for line in lines[top:-1]).split()))
    last = (errors or lines or [""])[-1][:300]
    tail = "\n".join(lines[-40:])
    if code == 0 and has_ended:
        return "done", ""
    if code == -signal.SIGKILL and memory_ran_out:
        return "out_of_memory", "the system has ended it since memory had run out"
    if code < 0:
        return "killed", signal.Signals(-code).name
    for end, pattern, what in (
        ("disk_full", DISK_FULL, ""),
        ("out_of_memory", CUDA_MEMORY, "GPU: "),
        ("out_of_memory", HOST_MEMORY, ""),
        ("not_finite", NOT_FINITE, ""),
    ):
        if pattern.search(tail):
            return end, f"{what}{last}"
    return "failed", last if code else "it has ended before its last step"


def machine(threads: int, without_gpu: bool) -> dict[str, Any]:
    """What a run is carried out on."""
    gpu = "none"
    if not without_gpu and shutil.which("nvidia-smi") is not None:
        asked = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
        with suppress(OSError, subprocess.SubprocessError):
            said = subprocess.run(asked, capture_output=True, text=True, timeout=20, check=True).stdout.strip()
            gpu = said.splitlines()[0] if said else gpu
    return {"cpu": cpu_name(), "cores": available_cores(), "gpu": gpu, "threads": threads}


def versions(run: Run) -> dict[str, str]:
    """Of the packages that a run depends on."""
    entry = fingerprint.method_entry(run.method.method)
    own = [] if entry is None or entry.dist is None else [entry.dist.name]
    packages = dict.fromkeys([*fingerprint.PACKAGES, *own])
    return {package: fingerprint.version_of(package) for package in packages} | {"python": platform.python_version()}


def figures(folder: Path, record: RunRecord) -> dict[str, float]:
    """What a run came to: every number that its commands have written, and what its training took."""
    found: dict[str, float] = {}
    for stage, prefix in (("eval", ""), ("eval-train", "train_"), ("eval-mesh", "mesh_")):
        with suppress(OSError, ValueError):
            content = json.loads((folder / OUTPUTS[stage]).read_text(encoding="utf-8"))
            for name, value in content.get("results", content).items():
                if isinstance(value, int | float) and not isinstance(value, bool) and not name.endswith("_std"):
                    found[f"{prefix}{name}"] = float(value)
    lines = read_progress(folder / PROGRESS)
    if lines:
        last = lines[-1]
        found |= {"steps": last["step"] + 1, "core_seconds": last["core_seconds"]}
        if "peak_memory_mb" in last:
            found["peak_memory_mb"] = last["peak_memory_mb"]
    if "train" in record.stages:
        found["seconds"] = round(sum(attempt.seconds for attempt in record.stages["train"].attempts), 3)
    return found


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")


def _text(file: Path, start: int = 0) -> str:
    """The end of a text file, from a place on; "" if there is none."""
    try:
        with file.open("rb") as opened:
            opened.seek(max(start, file.stat().st_size - (1 << 20)))  # files of /proc are said to be empty
            return opened.read().decode(errors="replace")
    except OSError:
        return ""


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _is_whole(checkpoint: Path) -> bool:
    """Whether a checkpoint can be read to its end: torch writes archives with checksums."""
    try:
        with zipfile.ZipFile(checkpoint) as archive:
            return archive.testzip() is None
    except (OSError, zipfile.BadZipFile):
        return False


def _has_ended(progress: Path) -> bool:
    lines = read_progress(progress)
    return bool(lines) and bool(lines[-1].get("end"))


def _is_not_finite(more: dict[str, str]) -> bool:
    """Whether the last loss of a training was none: other packages' trainers go on with it."""
    lines = read_progress(Path(more[PROGRESS_VARIABLE])) if PROGRESS_VARIABLE in more else []
    return bool(lines) and not math.isfinite(float(lines[-1].get("loss", 0.0)))


def _end_group(process: subprocess.Popen) -> None:
    """End a process and all of its session: asked first, if it is still there."""
    with suppress(ProcessLookupError, PermissionError):
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                process.wait(SECONDS_TO_END)
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _core_seconds_of_children() -> float:
    """CPU time of all processes that this one has started and waited for, and of theirs."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _memory_kills() -> int:
    """How many processes the system has ended since memory had run out, of this container's or session's."""
    total = 0
    for line in _text(Path("/proc/self/cgroup")).splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "" or "memory" in controllers.split(","):
            kind = "" if controllers == "" else "memory"
            for folder in (Path("/sys/fs/cgroup", kind, path.lstrip("/")), Path("/sys/fs/cgroup", kind)):
                for name in ("memory.events", "memory.oom_control"):
                    found = re.search(r"^oom_kill (\d+)$", _text(folder / name), re.MULTILINE)
                    total += int(found[1]) if found else 0
    return total
