"""A trainer whose checkpoints are written whole or not at all."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import torch
from nerfstudio.engine.trainer import Trainer
from nerfstudio.utils.decorators import check_main_thread

from common_ns.checks import InputError, require_path


def save_whole(state: Any, path: Path) -> None:
    """Write `state` with `torch.save` so that `path` never holds part of it.

    The bytes go to a file in the parent of the checkpoint folder first (the host takes every file inside that folder
    for a checkpoint), reach the disk, and are then moved in one step.

    Raises: InputError if they cannot be written; an earlier file at `path` is then unharmed.
    """
    partial = path.parent.parent / f".{path.name}.{os.getpid()}.partial"
    try:
        with open(partial, "wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except (OSError, RuntimeError) as error:  # torch reports a short write as RuntimeError
        written = partial.stat().st_size if partial.exists() else 0
        partial.unlink(missing_ok=True)
        free = shutil.disk_usage(partial.parent).free if partial.parent.exists() else 0
        problem = (
            f"the checkpoint cannot be written ({' '.join(str(error).split())[:200]}; "
            f"{written / 2**20:.1f} MiB written, {free / 2**20:.0f} MiB free); earlier checkpoints are unharmed"
        )
        raise InputError(problem, "Free space, then resume with --load-dir on that folder", file=path) from error


class SafeTrainer(Trainer):
    """The host's trainer, except that it writes checkpoints whole or not at all.

    nerfstudio 1.1.5 writes them in place: a full disk leaves a broken file as the latest checkpoint, which the next
    resume or evaluation then picks.
    """

    @check_main_thread
    def save_checkpoint(self, step: int) -> None:
        """Save the model and the optimizers; then delete earlier checkpoints if the config says so."""
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
        save_whole(state, path)
        if self.config.save_only_latest_checkpoint:
            for other in self.checkpoint_dir.glob("*.ckpt"):
                if other != path:
                    other.unlink()

    def _load_checkpoint(self) -> None:
        """Resume as the host does, after checking that there is something to resume from."""
        folder, file = self.config.load_dir, self.config.load_checkpoint
        if folder is not None:
            require_path(folder, "checkpoint folder")
            if not list(folder.glob("step-*.ckpt")):
                raise InputError("the folder holds no checkpoint", "Give a run's nerfstudio_models folder", folder)
        elif file is not None:
            require_path(file, "checkpoint")
        super()._load_checkpoint()
