"""Programs of a fraction of a second in the places of ns-train and others, for campaigns that are tried as a whole.

A training walks a number from step to step, which depends on seed and options; its checkpoint holds it, so that a
resumed walk comes to the same end. Every process writes into a ledger what it does. What is to go wrong is planned: a
list for each program and run, of which each process takes the first.
"""

from __future__ import annotations

import fcntl
import json
import os
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

TRAIN = """
import json, os, signal, sys, time, zipfile
from pathlib import Path
sys.path.insert(0, os.environ["FAKE_TESTS"])
from fakes import Process

words = sys.argv[1:]
def option(name, default=None):
    places = [i for i, word in enumerate(words) if word == name]
    return words[places[-1] + 1] if places else default
run = Path(option("--output-dir")) / option("--experiment-name") / words[0] / option("--timestamp")
process = Process("train", Path(option("--output-dir")).parent)
total, every, pace = int(option("--max-num-iterations", "12")), int(option("--every", "4")), float(option("--pace", 0))
checkpoints = run / "nerfstudio_models"
checkpoints.mkdir(parents=True, exist_ok=True)
chunk = option("--pipeline.model.eval-num-rays-per-chunk", "4096")
(run / "config.yml").write_text(f"method_name: x\\n  eval_num_rays_per_chunk: {chunk}\\n")
start, value = 0, float(option("--machine.seed")) + float(option("--gain", "1"))
if option("--load-dir"):
    last = max(Path(option("--load-dir")).glob("*.ckpt"))
    with zipfile.ZipFile(last) as archive:
        state = json.loads(archive.read("state"))
    start, value = state["step"] + 1, state["value"]
process.say(f"from {start}", chunk=int(chunk))
progress = Path(os.environ["FIELDSUITE_PROGRESS"])
lines = progress.read_text().splitlines() if progress.exists() else []
kept = [line for line in lines if json.loads(line)["step"] < start]
progress.write_text("".join(line + "\\n" for line in kept))
timed = "FIELDSUITE_CALIBRATION" in os.environ
line = {"step": start - 1, "core_seconds": 0.5 * start, "seconds": 0.5 * start}
for step in range(start, 30 if timed else total):
    process.misbehave(step)
    time.sleep(pace)
    value = value * 0.9 + 0.1 * step
    line = {"step": step, "core_seconds": 0.5 * (step + 1), "seconds": 0.5 * (step + 1), "loss": value, "total": total}
    with progress.open("a") as file:
        file.write(json.dumps(line) + "\\n")
    if (step + 1) % every == 0 or step + 1 == total:
        partial = run / f".partial-{os.getpid()}"
        with zipfile.ZipFile(partial, "w") as archive:
            archive.writestr("state", json.dumps({"step": step, "value": value}))
        os.replace(partial, checkpoints / f"step-{step:09d}.ckpt")
with progress.open("a") as file:
    file.write(json.dumps({**line, "end": True, **({"core_seconds_per_step": 0.5} if timed else {})}) + "\\n")
process.say("end")
"""
OTHER = """
import json, os, sys, zipfile
from pathlib import Path
sys.path.insert(0, os.environ["FAKE_TESTS"])
from fakes import Process

words = sys.argv[1:]
name = Path(sys.argv[0]).name
output = Path(words[words.index("--output-path") + 1])
process = Process({"ns-eval": "eval"}.get(name, name), output.parent)
process.misbehave(0)
if "--load-config" in words:
    config = Path(words[words.index("--load-config") + 1])
    with zipfile.ZipFile(max((config.parent / "nerfstudio_models").glob("*.ckpt"))) as archive:
        value = json.loads(archive.read("state"))["value"]
else:
    value = float(Path(words[0]).read_text())
if output.suffix == ".json":
    output.write_text(json.dumps({"results": {"psnr": value, "psnr_std": 0.0, "fps": os.getpid()}}))
else:
    output.write_text(str(value))
process.say("end")
"""
NAMES = ("ns-train", "ns-eval", "ns-render", "ns-mesh", "ns-eval-mesh", "eval_train")


@dataclass
class Process:
    """One process of a fake program."""

    program: str
    run: Path
    """The run's folder."""
    plan: list[str] = field(init=False)

    def __post_init__(self) -> None:
        self.folder = Path(os.environ["FAKE_FOLDER"])
        self.key = f"{self.program} " + "/".join(self.run.parts[-3:])
        self.fault = self._next_fault()
        self.say("start", threads=os.environ["OMP_NUM_THREADS"])

    def say(self, what: str, **more: object) -> None:
        """Write into the ledger."""
        line = json.dumps({"what": f"{self.key} {what}", "process": os.getpid(), **more})
        with (self.folder / "ledger").open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.write(line + "\n")

    def _next_fault(self) -> str:
        with (self.folder / "faults").open("a+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.seek(0)
            faults = json.loads(file.read() or "{}")
            planned = faults.get(self.key, [])
            fault = planned.pop(0) if planned else ""
            file.truncate(0)
            file.write(json.dumps(faults))
        return fault

    def misbehave(self, step: int) -> None:
        """Do what is planned for a step, as `WHAT@STEP`."""
        what, _, at = self.fault.partition("@")
        if not what or step < int(at or 0):
            return
        if what == "kill":
            os.kill(os.getpid(), 9)
        if what == "kill-job":  # which takes this process along
            os.kill(os.getppid(), 9)
        if what in ("hang", "kill-job"):
            time.sleep(600)
        raise SystemExit({"disk": "OSError: [Errno 28] No space left on device"}.get(what, what))


@dataclass
class Fakes:
    """A folder with the programs, and what they have said."""

    folder: Path

    def __post_init__(self) -> None:
        self.programs = self.folder / "programs"
        self.programs.mkdir(parents=True)
        for name in NAMES:
            (self.programs / name).write_text(TRAIN if name == "ns-train" else OTHER)
        os.environ["FAKE_FOLDER"], os.environ["FAKE_TESTS"] = str(self.folder), str(Path(__file__).parent)
        self.plan({})

    def plan(self, faults: dict[str, list[str]]) -> None:
        """What goes wrong: by "PROGRAM SCENE/METHOD/seed-N", in the order of processes."""
        (self.folder / "faults").write_text(json.dumps(faults))

    def said(self, what: str = "") -> list[dict]:
        """Lines of the ledger that contain something."""
        file = self.folder / "ledger"
        lines = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
        return [line for line in lines if what in line["what"]]

    def forget(self) -> None:
        """Begin a new ledger."""
        (self.folder / "ledger").unlink(missing_ok=True)


SBATCH = """
import os, re, subprocess, sys
from pathlib import Path

folder, script = Path(__file__).parent, sys.argv[1]
number = 4200 + len(list(folder.glob("script-*")))
(folder / f"script-{number}").write_text(Path(script).read_text())
output = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
runner = [sys.executable, str(folder / "runner"), str(number)]
subprocess.Popen(runner, start_new_session=True, **output)
print("Submitted batch job", number)
"""
RUNNER = """
import os, re, subprocess, sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

folder, number = Path(__file__).parent, sys.argv[1]
script = folder / f"script-{number}"
array = re.search(r"--array=0-([0-9]+)%([0-9]+)", script.read_text())

def carry_out(index):
    name = number if index is None else f"{number}_{index}"
    environment = {**os.environ, "SLURM_JOB_ID": number, "SLURM_PROCID": "0", "SLURM_NTASKS": "1"}
    if index is not None:
        environment |= {"SLURM_ARRAY_JOB_ID": number, "SLURM_ARRAY_TASK_ID": str(index)}
    process = subprocess.Popen(["bash", str(script)], env=environment, start_new_session=True)
    (folder / f"process-{name}").write_text(str(process.pid))
    (folder / f"state-{name}").write_text("FAILED" if process.wait() else "COMPLETED")

with ThreadPoolExecutor(2 if array is None else min(2, int(array[2]))) as pool:
    list(pool.map(carry_out, [None] if array is None else range(int(array[1]) + 1)))
"""
SRUN = """
import os, sys

words = sys.argv[1:]
while words[0].startswith("--"):
    words = words[2 if words[0] in ("--output", "--error") else 1 :]
os.execvp(words[0], words)
"""
SACCT = """
from pathlib import Path

folder = Path(__file__).parent
print("JobID|State|NodeList")
for file in folder.glob("process-*"):
    state = folder / file.name.replace("process", "state")
    print(f"{file.name.partition('-')[2]}|{state.read_text() if state.exists() else 'RUNNING'}|here")
"""
SCANCEL = """
import os, sys
from pathlib import Path

file = Path(__file__).parent / f"process-{sys.argv[-1]}"
(Path(__file__).parent / f"cancelled-{sys.argv[-1]}").touch()
if file.exists():
    os.killpg(int(file.read_text()), 15)
"""


def write_slurm(folder: Path) -> Path:
    """The commands of a cluster that runs its jobs here, two at once, to be put on PATH."""
    folder.mkdir()
    scripts = {"sbatch": SBATCH, "runner": RUNNER, "srun": SRUN, "sacct": SACCT, "scancel": SCANCEL}
    for name, text in scripts.items():
        (folder / name).write_text(f"#!{sys.executable}{text}")
        (folder / name).chmod(0o755)
    return folder
