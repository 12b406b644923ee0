"""Evaluation of training views: all of them, each from where training has moved its camera."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from nerfstudio.cameras.camera_optimizers import CameraOptimizerConfig
from nerfstudio.data.dataparsers.blender_dataparser import BlenderDataParserConfig
from nerfstudio.data.datasets.base_dataset import InputDataset

from common_ns.campaigns.eval_train import TrainingViews, evaluate_training_views
from common_ns.errors import InputError
from common_ns.nerfstudio_seam.model_hooks import ModelHooks


def pipeline_of(folder: Path, mode: str, **model: Any) -> Any:
    """What `TrainingViews` asks of a pipeline, of nerfstudio's own parts."""
    outputs = BlenderDataParserConfig(data=folder).setup().get_dataparser_outputs("train")
    dataset = InputDataset(outputs)
    refinement = CameraOptimizerConfig(mode=mode).setup(num_cameras=len(dataset), device="cpu")  # type: ignore[arg-type]
    torch.manual_seed(0)
    for parameter in refinement.parameters():
        parameter.data = 0.1 * torch.randn_like(parameter)
    datamanager = SimpleNamespace(train_dataset=dataset, device="cpu")
    return SimpleNamespace(datamanager=datamanager, model=SimpleNamespace(camera_optimizer=refinement, **model))


@pytest.mark.parametrize("mode", ["off", "SO3xR3", "SE3"])
def test_rays_of_training_views_are_those_of_training(tiny_blender: Path, mode: str):
    pipeline = pipeline_of(tiny_blender, mode)
    dataset = pipeline.datamanager.train_dataset
    views = TrainingViews(pipeline)
    assert len(views) == len(list(views)) == len(dataset)
    for index, (camera, batch) in enumerate(views):
        coords = torch.tensor([[2.5, 3.5], [10.5, 7.5]])
        mine = camera.generate_rays(camera_indices=torch.zeros(2, 1, dtype=torch.long), coords=coords)
        rays = dataset.cameras.generate_rays(camera_indices=torch.full((2, 1), index), coords=coords)
        pipeline.model.camera_optimizer.apply_to_raybundle(rays)
        torch.testing.assert_close(mine.origins, rays.origins)
        torch.testing.assert_close(mine.directions, rays.directions)
        torch.testing.assert_close(batch["image"], dataset[index]["image"])


def test_cached_images_are_taken_with_their_cameras(tiny_blender: Path):
    pipeline = pipeline_of(tiny_blender, "off")
    dataset = pipeline.datamanager.train_dataset
    pipeline.datamanager.cached_train = [{"image": torch.full((2, 2, 3), float(i))} for i in range(len(dataset))]
    views = list(TrainingViews(pipeline))
    assert [float(batch["image"].mean()) for _, batch in views] == [float(i) for i in range(len(dataset))]
    torch.testing.assert_close(views[2][0].camera_to_worlds[0], dataset.cameras.camera_to_worlds[2])


def test_refined_cameras_are_not_moved_a_second_time(tiny_blender: Path):
    """Models move held-out views along with cameras that have drifted; training views have drifted themselves."""

    class Model(ModelHooks):
        camera_optimizer: Any = None

        def evaluate_image(self, camera: Any, batch: Any) -> Any:
            raise AssertionError("it is moved")

        def get_outputs_for_camera(self, camera: Any) -> Any:
            return camera

        def get_image_metrics_and_images(self, outputs: Any, batch: Any) -> Any:
            return {"seen": float(outputs.camera_to_worlds.sum())}, {}

    pipeline = pipeline_of(tiny_blender, "SO3xR3")
    model = Model()
    model.camera_optimizer = pipeline.model.camera_optimizer
    pipeline.model = model

    def average(views: Any, prefix: str, get_std: bool) -> dict[str, float]:
        seen = [model.evaluate_image(camera, batch)[0]["seen"] for camera, batch in views]
        return {"seen": sum(seen) / len(seen), "count": len(seen)}

    pipeline.get_average_image_metrics = average
    found = evaluate_training_views(pipeline)
    expected = [float(camera.camera_to_worlds.sum()) for camera, _ in TrainingViews(pipeline)]
    assert found["count"] == 4 and found["seen"] == pytest.approx(sum(expected) / 4)


def test_runs_without_training_images_are_refused(tiny_blender: Path):
    pipeline = pipeline_of(tiny_blender, "off")
    pipeline.datamanager.train_dataset = None
    with pytest.raises(InputError, match="no training images"):
        TrainingViews(pipeline)
