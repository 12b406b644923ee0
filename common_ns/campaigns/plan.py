"""A campaign as a list of runs, where each is written, and the commands that carry it out."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from common_ns.campaigns.description import Campaign, Method, Scene, slug
from common_ns.errors import InputError

OUTPUTS = {
    "train": "model",
    "eval": "eval.json",
    "eval-train": "eval-train.json",
    "render": "video.mp4",
    "mesh": "mesh.ply",
    "eval-mesh": "eval-mesh.json",
}
"""What each stage writes, in the run's folder. Beside it, eval writes pictures into `renders`."""
STEPS = re.compile(r"\{steps(?:\*([0-9.]+))?\}")
"""In options: the steps of the training, or a fraction of them, rounded."""
USES = {
    "train": (),
    "eval": ("train",),
    "eval-train": ("train",),
    "render": ("train",),
    "mesh": ("train",),
    "eval-mesh": ("mesh",),
}
"""The stages whose results a stage works on."""


@dataclass(frozen=True)
class Run:
    """One scene, trained with one method and one seed."""

    scene: Scene
    method: Method
    seed: int
    folder: Path
    """All that it writes goes there."""

    @property
    def name(self) -> str:
        """In one line: for progress and errors."""
        return f"{self.scene.name}, {self.method.name}, seed {self.seed}"

    @property
    def load_config(self) -> Path:
        """Where ns-train writes its config."""
        return self.folder / "model" / slug(self.scene.name) / self.method.method / "run" / "config.yml"

    @property
    def checkpoints(self) -> Path:
        """Where ns-train writes checkpoints."""
        return self.load_config.parent / "nerfstudio_models"


def runs_of(campaign: Campaign, folder: Path) -> list[Run]:
    """All runs of a campaign: by seed, then scene, then method, so that a first table is complete soon.

    Args:
        campaign: which.
        folder: OUTPUT_DIR/NAME.
    """
    return [
        Run(scene, method, seed, folder / "runs" / slug(scene.name) / slug(method.name) / f"seed-{seed}")
        for seed in campaign.seeds
        for scene in campaign.scenes
        for method in campaign.methods
        if method.scenes is None or scene.name in method.scenes
    ]


def matching(runs: list[Run], patterns: tuple[str, ...]) -> list[Run]:
    """Those of some runs whose name fits one of the patterns, as a shell's; all if there are none.

    Raises: InputError if a pattern fits none.
    """
    for pattern in patterns:
        if not any(fnmatch(run.name, pattern) for run in runs):
            names = "; ".join(run.name for run in runs[:3])
            raise InputError(f"--only {pattern!r} fits no run", f"Runs are called {names}, …: use * and ?")
    return [run for run in runs if not patterns or any(fnmatch(run.name, pattern) for pattern in patterns)]


def stages_of(campaign: Campaign, run: Run) -> list[str]:
    """What is done for a run, in order: eval-mesh only where there is something to compare with."""
    chosen = campaign.stages if run.method.stages is None else run.method.stages
    return [stage for stage in chosen if stage != "eval-mesh" or run.scene.reference is not None]


def dataparser_of(scene: Scene, method: Method) -> list[str]:
    """Name and options of the dataparser for a scene and a method; none: the method's own."""
    named = bool(method.dataparser) and not method.dataparser[0].startswith("-")
    return [*scene.dataparser, *method.dataparser[named and bool(scene.dataparser) :]]


def command_of(campaign: Campaign, run: Run, stage: str, steps: int | None = None) -> list[str]:
    """The words of a stage's command; the first is a console script, or `-m` and a module of this package.

    Args:
        campaign, run, stage: which.
        steps: to train; None: as many as the method has.
    """
    scene, method = run.scene, run.method
    load = ["--load-config", str(run.load_config)]
    output = ["--output-path", str(run.folder / OUTPUTS[stage])]
    more = list(campaign.stage_options.get(stage, ()))
    if stage == "train":
        words = ["ns-train", method.method, "--data", str(scene.path), *scene.options, *method.options, *more]
        words += [] if steps is None else ["--max-num-iterations", str(steps)]
        words += ["--machine.seed", str(run.seed), "--vis", "tensorboard", "--output-dir", str(run.folder / "model")]
        words += ["--experiment-name", slug(scene.name), "--timestamp", "run", *dataparser_of(scene, method)]
    elif stage == "eval":
        words = ["ns-eval", *load, *output, "--render-output-path", str(run.folder / "renders"), *more]
    elif stage == "eval-train":
        words = ["-m", "common_ns.campaigns.eval_train", *load, *output, *more]
    elif stage == "render":
        kind = more.pop(0) if more and not more[0].startswith("-") else "interpolate"
        if kind == "dataset":  # writes a folder
            output[1] = str(run.folder / "video")
        words = ["ns-render", kind, *load, *output, *more]
    elif stage == "mesh":
        words = ["ns-mesh", *load, *output, "--world-coordinates", *more]
    else:
        words = ["ns-eval-mesh", str(run.folder / OUTPUTS["mesh"]), str(scene.reference), *output]
        words += [*scene.eval_mesh, *more]
    filled = {"{scene}": scene.name, "{data}": str(campaign.data)}
    for mark, value in filled.items():
        words = [word.replace(mark, value) for word in words]
    if steps is None:
        return words
    length = steps
    return [STEPS.sub(lambda found: str(max(1, round(float(found[1] or 1.0) * length))), word) for word in words]


def program_words(words: list[str], programs: Path | None = None) -> list[str]:
    """A command's words as `common_ns.campaigns.watched` takes them.

    Args:
        words: of `command_of`.
        programs: folder of Python scripts, by name of the console script, or of the module without its packages, that
            take their places; None: those that are installed.
    """
    if programs is None:
        return words
    module = words[0] == "-m"
    name = words[1].rpartition(".")[2] if module else words[0]
    return [str(programs / name), *words[1 + module :]]
