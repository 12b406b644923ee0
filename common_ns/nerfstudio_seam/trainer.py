"""A trainer that leaves out steps it cannot take, and writes checkpoints whole or not at all."""

from __future__ import annotations

import itertools
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
import yaml
from nerfstudio.configs.base_config import MachineConfig, ViewerConfig
from nerfstudio.engine.trainer import TRAIN_INTERATION_OUTPUT, Trainer, TrainerConfig
from nerfstudio.utils import profiler
from nerfstudio.utils.decorators import check_main_thread
from nerfstudio.utils.rich_utils import CONSOLE

from common_ns.data.files import require_writable, sweep, written_whole
from common_ns.data.notes import note
from common_ns.errors import InputError
from common_ns.nerfstudio_seam import compat, distributed, launch, runs
from common_ns.nerfstudio_seam.fair_lock import FairLock
from common_ns.nerfstudio_seam.model_hooks import hooks_of
from common_ns.nerfstudio_seam.param_groups import clip_norm
from common_ns.nerfstudio_seam.pipeline import FieldPipeline
from common_ns.nerfstudio_seam.renames import SuiteConfig, accept_old_words
from common_ns.nerfstudio_seam.viewer import here_by_default

MAX_SKIPPED_STEPS = 10


def save_whole(state: Any, path: Path) -> None:
    """Write `state` with `torch.save` so that `path` never holds part of it, and an earlier file at `path` is unharmed.

    The bytes go to the parent of the checkpoint folder first: nerfstudio takes every file inside for a checkpoint.

    Raises: InputError if they cannot be written.
    """
    remedy = "Earlier checkpoints are unharmed: free space, then resume with --load-dir on that folder"
    with written_whole(path, path.parent.parent, durable=True, remedy=remedy) as partial:
        try:
            with partial.open("wb") as file:
                torch.save(state, file)
        except (OSError, RuntimeError) as error:  # torch reports a short write as RuntimeError
            written = partial.stat().st_size if partial.exists() else 0
            free = shutil.disk_usage(partial.parent).free
            sizes = f"{written / 2**20:.1f} MiB written, {free / 2**20:.0f} MiB free"
            raise OSError(f"{' '.join(str(error).split())[:200]}; {sizes}") from error


def write_config(config: TrainerConfig) -> Path:
    """Write a run's config.yml, whole or not at all. Returns: where it is.

    Raises: InputError if it cannot be written.
    """
    file = config.get_base_dir() / "config.yml"
    with written_whole(file, remedy="Choose another --output-dir") as partial:
        partial.write_text(yaml.dump(config), encoding="utf-8")
    return file


@dataclass
class SafeTrainerConfig(SuiteConfig, TrainerConfig):
    """nerfstudio's training options as all methods of the suite start from them, and when to give up."""

    _target: type = field(default_factory=lambda: SafeTrainer)
    """target class to instantiate"""
    machine: MachineConfig = field(default_factory=lambda: MachineConfig(device_type=compat.default_device()))
    """Machine configuration"""
    viewer: ViewerConfig = field(default_factory=lambda: ViewerConfig(websocket_host="127.0.0.1"))
    """Viewer configuration. It listens on this machine only, unless websocket_host says otherwise."""
    steps_per_save: int = 5000
    """Steps between checkpoints."""
    steps_per_eval_batch: int = 1000
    """Steps between evaluations of a batch of rays."""
    steps_per_eval_image: int = 5000
    """Steps between evaluations of one image."""
    steps_per_eval_all_images: int = 100000
    """Steps between evaluations of all images."""
    max_skipped_steps: int = MAX_SKIPPED_STEPS
    """Training ends with an error after so many steps in a row whose loss or gradient was not finite."""

    folder: ClassVar[Path | None] = None
    """Set by commands that read a config: the run's folder as it lies now; it is no option."""

    def __post_init__(self) -> None:
        accept_old_words(self.method_name, self)

    def __setattr__(self, name: str, value: Any) -> None:
        # Nothing but ns-viewer replaces the viewer's options of a config that is complete.
        if name == "viewer" and "viewer" in vars(self):
            value = here_by_default(value)
        super().__setattr__(name, value)

    def get_base_dir(self) -> Path:
        """The run's folder: where its config was read by a command, or where it is written."""
        return self.folder or super().get_base_dir()

    def save_config(self) -> None:
        """Write config.yml, on one of the run's machines, into a folder of the run's own. It is what nerfstudio's
        ns-train does before it hands `machine` to its launcher, in the process that starts others.

        Raises: InputError if the folder cannot be written, or there is no checkpoint where one is to be resumed from.
        """
        compat.prepare_process()
        launch.check_machine(self.machine)
        resumed = runs.checkpoint_to_resume(self)
        if self.machine.machine_rank == 0:
            self._take_folder(resumed)
            CONSOLE.log(f"Saving config to: {write_config(self)}")
        self.machine = launch.as_seen_by_nerfstudio(self.machine)

    def prepare_command(self, load_config: Path, command: Any) -> None:
        """What `runs.prepare_command` does."""
        runs.prepare_command(self, load_config, command)

    def _take_folder(self, resumed: Path | None) -> None:
        """Make the run's folder. If it is there already, another run has it, which may be in training: then this one
        gets a name of its own, unless it is resumed from a checkpoint of that folder.

        Raises: InputError if it cannot be made.
        """
        asked = self.timestamp
        for number in itertools.count(2):
            folder = require_writable(self.get_base_dir(), "--output-dir", folder=True)
            if resumed is not None and resumed.absolute().parent.parent.resolve() == folder.resolve():
                break
            try:
                folder.parent.mkdir(parents=True, exist_ok=True)
                folder.mkdir()  # of two runs that come at once, one makes it
                break
            except FileExistsError:
                self.timestamp = f"{asked}-{number}"
            except OSError as error:
                raise InputError(f"cannot be made ({error.strerror})", "Choose another --output-dir", folder) from error
        if self.timestamp != asked:
            note(f"There is a run {asked} already; this one is {self.get_base_dir()}")

    def setup(self, **kwargs: Any) -> Any:
        """The trainer, or what starts the processes that have one each."""
        if isinstance(self.machine, launch.StartingMachineConfig):
            return launch.Starter(self)
        return super().setup(**kwargs)


class SafeTrainer(Trainer):
    """Differs from nerfstudio's trainer in six ways.

    Checkpoints are written whole or not at all: nerfstudio 1.1.5 writes them in place, so that a full disk leaves a
    broken file as the latest checkpoint, which the next resume or evaluation then picks. A step whose losses or
    gradients are not finite changes no parameter, is reported, and ends the run if too many follow each other. A
    learning-rate schedule that is not as long as the run is pointed out. What a datamanager has found in the data for
    later commands to use goes into config.yml. Devices part after the last step, so that none waits for a viewer that
    stays open. Training, the viewer's renders and its preview take turns in the order in which they ask.

    Args: those of nerfstudio's trainer. Any `TrainerConfig` will do, on one device.
    """

    skipped_steps = 0
    """Steps of this run that were left out."""
    skipped_in_a_row = 0
    """Those since the last step that was taken."""

    def setup(self, test_mode: Literal["test", "val", "inference"] = "val") -> None:
        """Set up as nerfstudio does; then look at the schedules of a run that starts anew, and save the config again if
        what was found in the data belongs into it."""
        self.train_lock = FairLock()  # type: ignore[assignment]  # before the viewer gets it
        super().setup(test_mode)
        if getattr(self.pipeline.datamanager, "has_completed_config", False) and distributed.rank() == 0:
            write_config(self.config)
        if self.config.load_dir is None and self.config.load_checkpoint is None:
            self._compare_schedules()

    @check_main_thread
    def _compare_schedules(self) -> None:
        """Say so if a learning-rate schedule and the run differ in length by more than 1 %."""
        steps = self.config.max_num_iterations
        for group in self.optimizers.schedulers:
            scheduled = getattr(self.config.optimizers[group]["scheduler"], "max_steps", None)
            if scheduled is not None and abs(scheduled - steps) > 0.01 * steps:
                option = f"--optimizers.{group.replace('_', '-')}.scheduler.max-steps {steps}"
                lengths = f"scheduled over {scheduled} steps, and the run has {steps}"
                note(f"The learning rate of {group} is {lengths}. To make them agree: {option}")

    @profiler.time_function
    def train_iteration(self, step: int) -> TRAIN_INTERATION_OUTPUT:
        """Run one step as nerfstudio does, except that gradients come from the pipeline's `backward` and are dropped if
        they cannot be used. The schedule of the learning rate then advances all the same: it follows the step.

        Raises: InputError after too many such steps in a row, with the last good checkpoint unharmed.
        """
        if not isinstance(self.pipeline, FieldPipeline):
            return super().train_iteration(step)
        every = {group: self.gradient_accumulation_steps[group] for group in self.optimizers.parameters}
        self.optimizers.zero_grad_some([group for group in every if step % every[group] == 0])
        result = self.pipeline.backward(step, self.grad_scaler, self.mixed_precision)
        scale = self.grad_scaler.get_scale()
        if result.problem is None:
            self.skipped_in_a_row = 0
            ready = [group for group in every if step % every[group] == every[group] - 1]
            for group in ready:
                self._clip_networks(group)
            self.optimizers.optimizer_scaler_step_some(self.grad_scaler, ready)
        else:
            self.optimizers.zero_grad_all()
        if self.config.log_gradients:
            gradients = {n: p.grad.norm() for n, p in self.pipeline.model.named_parameters() if p.grad is not None}
            result.metrics_dict |= {f"Gradients/{name}": norm for name, norm in gradients.items()}
            result.metrics_dict["Gradients/Total"] = sum(gradients.values(), torch.zeros((), device=self.device))
        if result.problem is None:
            self.grad_scaler.update()
        # Where the scaler has lowered its scale, it has left the step out, and the schedule waits.
        if scale <= self.grad_scaler.get_scale():
            self.optimizers.scheduler_step_all(step)
        if result.problem is not None:
            self._report_skipped(step, result.problem)
        if self.skipped_steps > 0:
            result.metrics_dict["skipped_steps"] = torch.tensor(self.skipped_steps)
        return result.loss, result.loss_dict, result.metrics_dict

    def _clip_networks(self, group: str) -> None:
        """Shorten the gradient of each network in a group of parameters, if its optimizer's config asks for it."""
        limit = getattr(self.config.optimizers[group]["optimizer"], "max_norm_per_network", None)
        if limit is None:
            return
        self.grad_scaler.unscale_(self.optimizers.optimizers[group])
        own = {id(parameter) for parameter in self.optimizers.parameters[group]}
        for network in hooks_of(self.pipeline.model).networks():
            clip_norm([parameter for parameter in network if id(parameter) in own], limit)

    def _report_skipped(self, step: int, problem: str) -> None:
        """Count a step that was left out, and say why; on all devices alike.

        Raises: InputError if it was one too many.
        """
        self.skipped_steps += 1
        self.skipped_in_a_row += 1
        if distributed.rank() == 0:
            note(f"Step {step} is left out: {problem}. {self.skipped_steps} left out so far.")
        if self.skipped_in_a_row < getattr(self.config, "max_skipped_steps", MAX_SKIPPED_STEPS):
            return
        self._save_if_none(step)
        # From rank 0, which alone has checkpoints; and no process ends before rank 0 has written one.
        checkpoint = distributed.gather(str(max(self.checkpoint_dir.glob("step-*.ckpt"), default="none")))[0]
        raise InputError(
            f"training ends at step {step}: {self.skipped_in_a_row} in a row had to be left out, the last because "
            f"{problem}; last good checkpoint: {checkpoint}",
            "Check that image, or lower the learning rate (--optimizers.GROUP.optimizer.lr), and resume",
        )

    def _save_if_none(self, step: int) -> None:
        """Save the parameters of a run without a checkpoint, unless they are damaged themselves."""
        finite = all(bool(torch.isfinite(parameter).all()) for parameter in self.pipeline.model.parameters())
        if distributed.gather(finite and not any(self.checkpoint_dir.glob("step-*.ckpt")))[0]:
            self.save_checkpoint(step)

    def _gather_state(self) -> None:
        """What `FieldPipeline.gather_state` does."""
        if isinstance(self.pipeline, FieldPipeline):
            self.pipeline.gather_state()

    def save_checkpoint(self, step: int) -> None:
        """Save the model and the optimizers; then delete earlier checkpoints if the config says so. All devices call
        this, and rank 0 writes."""
        self._gather_state()
        if distributed.rank() == 0:
            self._write_checkpoint(step)

    def _write_checkpoint(self, step: int) -> None:
        self.checkpoint_dir.mkdir(parents=True, exist_ok=True)
        path = self.checkpoint_dir / f"step-{step:09d}.ckpt"
        pipeline: Any = getattr(self.pipeline, "module", self.pipeline)
        state = {
            "step": step,
            "pipeline": pipeline.state_dict(),
            "optimizers": {name: optimizer.state_dict() for name, optimizer in self.optimizers.optimizers.items()},
            "schedulers": {name: scheduler.state_dict() for name, scheduler in self.optimizers.schedulers.items()},
            "scalers": self.grad_scaler.state_dict(),
        }
        save_whole(compat.without_numpy_scalars(state), path)
        if self.config.save_only_latest_checkpoint:
            for other in self.checkpoint_dir.glob("*.ckpt"):
                if other != path:
                    other.unlink()

    def _after_train(self) -> None:
        """Part from the other devices, which end here; then end as nerfstudio does, with the viewer for as long as it
        is looked at."""
        is_first = distributed.rank() == 0
        self._gather_state()
        distributed.leave()
        if is_first:
            super()._after_train()

    def _load_checkpoint(self) -> None:
        """Resume as nerfstudio does, from a checkpoint that is whole and fits the run.

        Raises: InputError if it is not.
        """
        file = runs.checkpoint_to_resume(self.config)
        if file is None:
            CONSOLE.print("No Nerfstudio checkpoint to load, so training from scratch.")
            return
        sweep(file.parent.parent)
        state = runs.read_checkpoint(file)
        self._start_step = state["step"] + 1
        with runs.fitting(file, self.config):
            self.pipeline.load_pipeline(state["pipeline"], state["step"])
            self.optimizers.load_optimizers(state["optimizers"])
            if "schedulers" in state and self.config.load_scheduler:
                self.optimizers.load_schedulers(state["schedulers"])
            self.grad_scaler.load_state_dict(state["scalers"])
        CONSOLE.print(f"Done loading Nerfstudio checkpoint from {file}")
