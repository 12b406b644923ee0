"""A step is the same however its rays are divided, says what is not finite, and averages are over what there is.

This file as a script is a run on two devices, each a process on the CPU.
"""

from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from nerfstudio.configs.base_config import LoggingConfig, MachineConfig
from nerfstudio.data.dataparsers.blender_dataparser import BlenderDataParserConfig
from nerfstudio.engine.optimizers import AdamOptimizerConfig
from nerfstudio.models.base_model import Model, ModelConfig
from nerfstudio.scripts.train import train_loop
from torch.cuda.amp.grad_scaler import GradScaler

from common_ns.errors import InputError
from common_ns.nerfstudio_seam.datamanager import FieldDataManager, FieldDataManagerConfig, seed_step
from common_ns.nerfstudio_seam.model_hooks import ModelHooks
from common_ns.nerfstudio_seam.pipeline import FieldPipeline, FieldPipelineConfig, average_metrics
from common_ns.nerfstudio_seam.schedulers import LogLinearSchedulerConfig
from common_ns.nerfstudio_seam.trainer import SafeTrainer, SafeTrainerConfig
from common_ns.nerfstudio_seam.versions import in_training
from common_ns.rays.random_numbers import KEY, RayRandomness

NUM_RAYS = 63
"""Rays of a batch: neither two devices nor chunks of 20 divide it evenly."""
BAD_STEP, BAD_RAY = 3, 40
"""The step and the ray that meet a pixel that is not a number; of two devices, the second has that ray."""


@dataclass
class TinyModelConfig(ModelConfig):
    """A color for every ray, that depends on the ray's random numbers."""

    _target: type = field(default_factory=lambda: TinyModel)
    enable_collider: bool = False
    rays_per_chunk: int | None = None


class Pair(NamedTuple):
    pair: torch.Tensor


class TinyModel(Model, ModelHooks):
    config: TinyModelConfig
    randomness = RayRandomness(Pair, pair=2)
    train_rays_per_chunk: int | None = None

    def populate_modules(self) -> None:
        self.train_rays_per_chunk = self.config.rays_per_chunk
        self.net = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.Tanh(), torch.nn.Linear(16, 3))
        self.seen: list[int] = []

    def get_param_groups(self):
        return {"fields": list(self.net.parameters())}

    def get_outputs(self, ray_bundle):
        self.seen.append(len(ray_bundle))
        noise = ray_bundle.metadata.get(KEY, torch.full((len(ray_bundle), 2), 0.5))
        return {"rgb": self.net(torch.cat([ray_bundle.origins, ray_bundle.directions, noise], dim=-1)), "levels": 1}

    def get_loss_dict(self, outputs, batch, metrics_dict=None):
        error = outputs["rgb"] - batch["image"]
        return {"square": (batch["footprint"] * error.square()).mean(), "absolute": 0.1 * error.abs().mean()}

    def get_metrics_dict(self, outputs, batch):
        return {"mse": (outputs["rgb"] - batch["image"]).square().mean()}


def pipeline_config(data: Path, rays_per_chunk: int | None = None) -> FieldPipelineConfig:
    datamanager = FieldDataManagerConfig(
        data=data, dataparser=BlenderDataParserConfig(), train_num_rays_per_batch=NUM_RAYS
    )
    return FieldPipelineConfig(datamanager=datamanager, model=TinyModelConfig(rays_per_chunk=rays_per_chunk))


def build(data: Path, rays_per_chunk: int | None = None) -> FieldPipeline:
    torch.manual_seed(0)
    return pipeline_config(data, rays_per_chunk).setup(device="cpu", test_mode="val").train()


def poison(datamanager: FieldDataManager) -> tuple[int, int, int]:
    """Make the pixel that BAD_RAY has at BAD_STEP not a number; returns its image, row and column."""
    sampler = datamanager.train_pixel_sampler
    seed_step(datamanager.seed, BAD_STEP)
    image, row, column = sampler.sample_part(NUM_RAYS, slice(None))["indices"][BAD_RAY].tolist()
    pixels = sampler.store.arrays["image"].float() / 255.0
    pixels[sampler.store.starts[image] + 16 * row + column, 1] = float("nan")
    sampler.store.arrays["image"] = pixels
    return image, row, column


def gradients(pipeline: FieldPipeline) -> torch.Tensor:
    return torch.cat([parameter.grad.flatten() for parameter in pipeline.model.net.parameters()])


def test_chunks_add_up_to_the_whole_batch(tiny_blender):
    whole, chunked = build(tiny_blender), build(tiny_blender, rays_per_chunk=20)
    expected = whole.backward(7, GradScaler(enabled=False))
    found = chunked.backward(7, GradScaler(enabled=False))
    assert whole.model.seen == [63] and chunked.model.seen == [15, 16, 16, 16]
    assert torch.allclose(gradients(chunked), gradients(whole), rtol=1e-5, atol=1e-7)
    for name in ("square", "absolute"):
        assert torch.allclose(found.loss_dict[name], expected.loss_dict[name], rtol=1e-5), name
    assert torch.allclose(found.metrics_dict["mse"], expected.metrics_dict["mse"], rtol=1e-5)
    assert torch.allclose(found.loss, sum(found.loss_dict.values())) and not found.loss.requires_grad
    assert found.problem is None and expected.problem is None


def test_backward_gives_the_gradients_of_nerfstudios_step(tiny_blender):
    pipeline, host = build(tiny_blender), build(tiny_blender)
    result = pipeline.backward(7, GradScaler(enabled=False))
    _, losses, metrics = host.get_train_loss_dict(7)
    sum(losses.values()).backward()
    assert torch.equal(gradients(pipeline), gradients(host))
    assert torch.equal(result.loss, sum(losses.values()))
    assert torch.equal(result.metrics_dict["mse"], metrics["mse"])


def test_gradients_add_to_those_of_earlier_steps(tiny_blender):
    pipeline = build(tiny_blender)
    pipeline.backward(7, GradScaler(enabled=False))
    once = gradients(pipeline)
    pipeline.backward(7, GradScaler(enabled=False))
    assert torch.allclose(gradients(pipeline), 2 * once)


def test_random_numbers_follow_from_the_step_and_stay_out_of_evaluation(tiny_blender, monkeypatch):
    pipeline = build(tiny_blender)
    seen = []
    outputs = pipeline.model.get_outputs
    monkeypatch.setattr(pipeline.model, "get_outputs", lambda rays: seen.append(rays.metadata) or outputs(rays))
    for step in (7, 8, 7):
        torch.rand(3)  # whatever else is drawn between steps does not matter
        pipeline.get_train_loss_dict(step)
    first, other, again = (metadata[KEY] for metadata in seen)
    assert first.shape == (63, 2) and first.min() >= 0 and first.max() < 1
    assert torch.equal(first, again) and not torch.equal(first, other)
    monkeypatch.setattr(pipeline.model, "get_loss_dict", lambda *_: {})
    pipeline.get_eval_loss_dict(7)
    monkeypatch.setattr(TinyModel, "randomness", None)
    pipeline.get_train_loss_dict(7)
    assert KEY not in seen[3] and KEY not in seen[4]


def test_the_datamanager_is_told_of_training_and_of_evaluation(tiny_blender):
    pipeline = build(tiny_blender)
    assert in_training(pipeline.datamanager)
    assert not in_training(pipeline.eval().datamanager) and in_training(pipeline.train().datamanager)


def test_a_bad_target_is_found_with_its_file_and_pixel(tiny_blender):
    pipeline = build(tiny_blender, rays_per_chunk=20)
    image, row, column = poison(pipeline.datamanager)
    assert pipeline.backward(BAD_STEP - 1, GradScaler(enabled=False)).problem is None
    file = tiny_blender / "train" / f"r_{image}.png"
    assert pipeline.backward(BAD_STEP, GradScaler(enabled=False)).problem == (
        f"square is nan, from target image at row {row}, column {column} (from 0) of {file} (1 of 63 rays)"
    )


def test_a_bad_output_is_found_before_targets(tiny_blender, monkeypatch):
    pipeline = build(tiny_blender, rays_per_chunk=20)
    poison(pipeline.datamanager)

    def outputs(rays, original=pipeline.model.get_outputs):
        scale = torch.ones(len(rays), 1)
        scale[2:4] = float("inf")
        return {"rgb": original(rays)["rgb"] * scale}

    monkeypatch.setattr(pipeline.model, "get_outputs", outputs)
    problem = pipeline.backward(BAD_STEP, GradScaler(enabled=False)).problem
    seed_step(pipeline.datamanager.seed, BAD_STEP)
    _, row, column = pipeline.datamanager.next_train(BAD_STEP)[1]["indices"][2].tolist()
    assert f"from rgb at row {row}, column {column} (from 0) of" in problem and "(8 of 63 rays)" in problem


def test_a_gradient_that_is_not_finite_has_no_single_ray(tiny_blender):
    pipeline = build(tiny_blender)
    pipeline.model.net[0].weight.register_hook(lambda gradient: gradient / 0.0)
    problem = pipeline.backward(0, GradScaler(enabled=False)).problem
    assert problem.startswith("the gradient of fields is") and "from no single ray" in problem


def limit_memory(monkeypatch, model, rays: int) -> None:
    """As a GPU would: more rays than these do not fit. It fails late, when some gradients are there already."""

    class Leaky(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, count):
            ctx.count = count
            return x.clone()

        @staticmethod
        def backward(ctx, *cotangents):
            if ctx.count > rays:
                raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
            return cotangents[0], None

    def outputs(ray_bundle, original=model.get_outputs):
        found = original(ray_bundle)
        return {**found, "rgb": Leaky.apply(found["rgb"], len(ray_bundle))}

    monkeypatch.setattr(model, "get_outputs", outputs)


def test_out_of_memory_halves_the_chunks_and_leaves_the_step_as_it_is(tiny_blender, monkeypatch, capsys):
    """Gradients of earlier steps, and of chunks before the one that failed, are neither lost nor counted twice."""
    expected, pipeline = build(tiny_blender), build(tiny_blender)
    for step in (6, 7):
        expected.backward(step, GradScaler(enabled=False))
    pipeline.backward(6, GradScaler(enabled=False))
    limit_memory(monkeypatch, pipeline.model, rays=20)
    result = pipeline.backward(7, GradScaler(enabled=False))
    assert pipeline.model.seen == [63, 63, 31, 15, 16, 16, 16]
    assert torch.allclose(gradients(pipeline), gradients(expected), rtol=1e-5, atol=1e-7)
    assert result.problem is None and pipeline.max_rays_per_chunk == 16
    said = " ".join(capsys.readouterr().out.split())
    assert "Step 7: out of GPU memory; 32 rays at once from now on, instead of 63." in said
    seen = len(pipeline.model.seen)
    pipeline.backward(8, GradScaler(enabled=False))
    assert max(pipeline.model.seen[seen:]) <= 16  # it is remembered
    assert "Step 8" not in capsys.readouterr().out


def test_memory_for_less_than_a_ray_ends_the_run(tiny_blender, monkeypatch):
    pipeline = build(tiny_blender)
    limit_memory(monkeypatch, pipeline.model, rays=0)
    with pytest.raises(InputError, match="does not suffice for a single ray"):
        pipeline.backward(0, GradScaler(enabled=False))


class RecordingTrainer(SafeTrainer):
    """Keeps the losses, and meets a bad pixel."""

    def setup(self, test_mode="val"):
        super().setup(test_mode)
        poison(self.pipeline.datamanager)
        self.losses: list[float] = []

    def train_iteration(self, step):
        result = super().train_iteration(step)
        self.losses.append(float(result[0]))
        if step == 5:
            torch.save(self.losses, self.base_dir / f"losses-{self.local_rank}.pt")
        return result


def run(rank: int, devices: int, data: Path, output: Path) -> Path:
    """Train six steps, two of them for every step of the optimizer; returns the run's folder."""
    if devices > 1:
        torch.set_num_threads(1)
        meeting = f"file://{output}/meeting"
        torch.distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=devices)
    scheduler = LogLinearSchedulerConfig(lr_final=1e-3, max_steps=6, warmup_steps=0)
    config = SafeTrainerConfig(
        _target=RecordingTrainer,
        output_dir=output,
        experiment_name="tiny",
        method_name="tiny",
        timestamp=f"{devices}",
        machine=MachineConfig(device_type="cpu"),
        logging=LoggingConfig(steps_per_log=1),
        max_num_iterations=6,
        vis="tensorboard",
        pipeline=pipeline_config(data, rays_per_chunk=None if devices == 1 else 20),
        optimizers={"fields": {"optimizer": AdamOptimizerConfig(lr=1e-2, eps=1e-6), "scheduler": scheduler}},
        gradient_accumulation_steps={"fields": 2},
    )
    train_loop(rank, devices, config, rank)
    return config.get_base_dir()


@pytest.mark.slow
def test_two_devices_with_chunks_train_as_one_without(tiny_blender, tmp_path):
    arguments = [sys.executable, __file__, str(tiny_blender), str(tmp_path)]
    devices = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    one = run(rank=0, devices=1, data=tiny_blender, output=tmp_path)
    text, _ = devices.communicate(timeout=200)
    assert devices.returncode == 0, text

    expected = torch.load(one / "losses-0.pt")
    assert math.isnan(expected[BAD_STEP]) and sum(map(math.isfinite, expected)) == 5
    two = one.parent / "2"
    for rank in range(2):
        assert torch.load(two / f"losses-{rank}.pt") == pytest.approx(expected, rel=1e-5, nan_ok=True)
    file = "nerfstudio_models/step-000000005.ckpt"
    states = [torch.load(folder / file)["pipeline"] for folder in (one, two)]
    assert states[0].keys() == states[1].keys()
    for name, value in states[0].items():
        assert torch.allclose(states[1][name], value, rtol=1e-4, atol=1e-6), name
    assert text.count("Step 3 is left out: square is nan, from target image at row") == 1


def test_test_images_are_evaluated_at_each_scale(tiny_blender, tmp_path):
    config = pipeline_config(tiny_blender)
    config.eval_scales = (1, 2)
    pipeline = config.setup(device="cpu", test_mode="test")
    sizes = []

    def evaluate_image(camera, batch):
        sizes.append((int(camera.width), batch["image"].shape[1]))
        return {"psnr": float(batch["image"].shape[1])}, {"img": batch["image"][..., :3]}

    pipeline.model.evaluate_image = evaluate_image
    loader = pipeline.datamanager.fixed_indices_eval_dataloader
    averages = pipeline.get_average_image_metrics(loader, "eval", output_path=tmp_path)
    whole = averages["psnr_1x"]
    assert averages["psnr_2x"] == whole / 2 and averages["psnr"] == 0.75 * whole
    assert sizes == len(loader) * [(whole, whole), (whole / 2, whole / 2)]
    assert {file.name for file in tmp_path.glob("*_0000*")} == {"eval_img_0000.png", "eval_img_0000_2x.png"}


def test_means_and_sample_deviation():
    averages = average_metrics([{"psnr": 20.0}, {"psnr": 24.0}], [None, None], get_std=True)
    assert averages == {"psnr": 22.0, "psnr_std": pytest.approx(math.sqrt(8.0))}


def test_scales_are_averaged_apart():
    images = [{"psnr": p, "fps": 1.0} for p in (20.0, 22.0, 30.0, 34.0)]
    averages = average_metrics(images, [1, 1, 8, 8])
    assert averages == {"psnr": 26.5, "fps": 1.0, "psnr_1x": 21.0, "psnr_8x": 32.0}


def test_one_scale_is_not_named():
    assert average_metrics([{"psnr": 20.0}], [1]) == {"psnr": 20.0}


def test_a_metric_that_some_images_lack():
    averages = average_metrics([{"psnr": 20.0, "lpips": 0.2}, {"psnr": 30.0}], [1, 8])
    assert averages["lpips"] == 0.2 and averages["lpips_1x"] == 0.2 and "lpips_8x" not in averages


if __name__ == "__main__":
    arguments = (2, Path(sys.argv[1]), Path(sys.argv[2]))
    torch.multiprocessing.start_processes(run, arguments, nprocs=2, start_method="fork")
