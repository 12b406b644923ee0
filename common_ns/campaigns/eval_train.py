"""Evaluates a run on the images that it was trained on, as ns-eval does on those that were held out.

    python -m common_ns.campaigns.eval_train --load-config RUN/config.yml --output-path eval-train.json

It takes runs of any method, nerfstudio's own too. Cameras whose poses were trained stand where training has moved them.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import tyro

from common_ns.data.files import require_writable, written_whole
from common_ns.errors import InputError
from common_ns.nerfstudio_seam.last_words import report_input_errors
from common_ns.nerfstudio_seam.runs import checkpoint_of, load_run, read_run_config

if TYPE_CHECKING:
    from nerfstudio.cameras.cameras import Cameras
    from nerfstudio.pipelines.base_pipeline import Pipeline


class TrainingViews:
    """The training images of a pipeline with their cameras, in the form of the views that are evaluated.

    Args:
        pipeline: of a run.
        max_views: no more than so many, spread over all; None: all.
    Raises: InputError if it has no training images.
    """

    def __init__(self, pipeline: Pipeline, max_views: int | None = None) -> None:
        from nerfstudio.data.utils.dataloaders import FixedIndicesEvalDataloader

        datamanager: Any = pipeline.datamanager
        dataset = datamanager.train_dataset
        if dataset is None or not hasattr(dataset, "cameras"):
            raise InputError("the run has no training images", "Leave out the stage eval-train")
        count = len(dataset) if max_views is None else min(max_views, len(dataset))
        self.chosen = [round((k + 0.5) * len(dataset) / count - 0.5) for k in range(count)]
        self.refinement = getattr(pipeline.model, "camera_optimizer", None)
        self.device = datamanager.device
        if hasattr(datamanager, "cached_train"):  # whole images, undistorted, with their cameras
            cameras = copy.deepcopy(dataset.cameras).to(self.device)
            self._views: Any = [(cameras[i : i + 1], datamanager.cached_train[i]) for i in self.chosen]
        else:
            chosen: Any = tuple(self.chosen)
            self._views = FixedIndicesEvalDataloader(dataset, chosen, self.device)

    def __len__(self) -> int:
        return len(self.chosen)

    def __iter__(self) -> Iterator[tuple[Cameras, dict[str, Any]]]:
        for index, (camera, batch) in zip(self.chosen, self._views):
            yield self._refined(camera, index), {**batch, "image": batch["image"].to(self.device)}

    def _refined(self, camera: Cameras, index: int) -> Cameras:
        """A camera where training has moved it: directions are turned, and origins are moved, in the world's frame."""
        if self.refinement is None or self.refinement.config.mode == "off":
            return camera
        with torch.no_grad():
            change = self.refinement(torch.tensor([index], device=self.refinement.device))[0].to(camera.device)
        pose = camera.camera_to_worlds[0]
        camera = copy.copy(camera)
        moved = torch.cat([change[:3, :3] @ pose[:, :3], pose[:, 3:] + change[:3, 3:]], dim=-1)
        camera.camera_to_worlds = moved[None].to(pose)
        return camera


def evaluate_training_views(pipeline: Pipeline, max_views: int | None = None) -> dict[str, float]:
    """Mean and deviation of each metric over the training images, by the pipeline's own evaluation.

    Args: those of `TrainingViews`.
    """
    from common_ns.nerfstudio_seam.model_hooks import ModelHooks

    model: Any = pipeline.model
    if isinstance(model, ModelHooks) and hasattr(model, "camera_optimizer"):
        # Held-out views follow cameras that have drifted together. These have drifted themselves.
        model.evaluate_image = lambda camera, batch: ModelHooks.evaluate_image(model, camera, batch)
    views: Any = TrainingViews(pipeline, max_views)
    evaluated: Any = pipeline
    with torch.no_grad():
        return evaluated.get_average_image_metrics(views, "train", get_std=True)


@dataclass
class EvalTrain:
    """Evaluate a run on its training images."""

    load_config: Path
    """The run's config.yml."""
    output_path: Path = Path("eval-train.json")
    """Where to write the figures, as ns-eval does."""
    max_views: int | None = None
    """No more than so many images, spread over all. Default: all."""

    def main(self) -> None:
        """Evaluate, and write the figures."""
        if self.max_views is not None and self.max_views < 1:
            raise InputError(f"--max-views is {self.max_views}", "Give a number above 0, or leave it out")
        require_writable(self.output_path)
        pipeline = load_run(self.load_config, test_mode="test")
        config = read_run_config(self.load_config)
        content = {
            "experiment_name": config.experiment_name,
            "method_name": config.method_name,
            "checkpoint": str(checkpoint_of(config, self.load_config)),
            "results": evaluate_training_views(pipeline, self.max_views),
        }
        with written_whole(self.output_path) as partial:
            partial.write_text(json.dumps(content, indent=2), encoding="utf-8")
        print(f"Saved results to: {self.output_path}")


def entrypoint() -> None:
    """What `python -m` runs."""
    report_input_errors()
    tyro.cli(EvalTrain, description=__doc__).main()


if __name__ == "__main__":
    entrypoint()
