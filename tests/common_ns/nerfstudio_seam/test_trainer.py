"""Steps that are not finite change nothing and end a run in time; checkpoints are written whole or not at all."""

from __future__ import annotations

import resource
import signal
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from nerfstudio.configs.base_config import MachineConfig
from nerfstudio.engine.optimizers import AdamOptimizerConfig, Optimizers
from nerfstudio.engine.trainer import TrainerConfig
from nerfstudio.pipelines.base_pipeline import VanillaPipelineConfig

from common_ns.errors import InputError
from common_ns.nerfstudio_seam.model_hooks import ModelHooks
from common_ns.nerfstudio_seam.param_groups import NetworkAdamConfig
from common_ns.nerfstudio_seam.pipeline import FieldPipeline, StepResult
from common_ns.nerfstudio_seam.schedulers import LogLinearSchedulerConfig
from common_ns.nerfstudio_seam.trainer import SafeTrainer, SafeTrainerConfig, save_whole


@dataclass
class StubPipelineConfig(VanillaPipelineConfig):
    _target: type = field(default_factory=lambda: StubPipeline)
    bad_steps: tuple[int, ...] = ()


class StubModel(torch.nn.Linear):
    def update_to_step(self, step: int) -> None:
        pass


class StubPipeline(FieldPipeline):
    """One parameter whose gradient is 1, except at the config's bad steps."""

    datamanager = None

    def __init__(self, config: StubPipelineConfig, **_) -> None:
        torch.nn.Module.__init__(self)
        self.config = config
        self._model = StubModel(1, 1, bias=False)

    def get_param_groups(self):
        return {"fields": list(self._model.parameters())}

    def get_training_callbacks(self, training_callback_attributes):
        return []

    def backward(self, step, grad_scaler, mixed_precision=False):
        bad = step in self.config.bad_steps
        weight = self._model.weight
        gradient = torch.full_like(weight, float("nan") if bad else 1.0)
        weight.grad = gradient if weight.grad is None else weight.grad + gradient
        problem = "square is nan, from rgb at row 2, column 3 of images/[a].png" if bad else None
        loss = weight.grad.sum()
        return StepResult(loss, {"square": loss}, {}, problem)


def build(folder: Path, bad_steps: tuple[int, ...] = (), kind=SafeTrainerConfig, max_steps: int = 100, **options):
    scheduler = LogLinearSchedulerConfig(lr_final=1e-3, max_steps=max_steps, warmup_steps=0)
    config = kind(
        _target=SafeTrainer,
        output_dir=folder,
        experiment_name="stub",
        method_name="stub",
        timestamp="run",
        machine=MachineConfig(device_type="cpu"),
        max_num_iterations=100,
        vis="tensorboard",
        pipeline=StubPipelineConfig(bad_steps=bad_steps),
        optimizers={"fields": {"optimizer": AdamOptimizerConfig(lr=1e-1), "scheduler": scheduler}},
        **options,
    )
    trainer = config.setup(local_rank=0, world_size=1)
    trainer.setup()
    return trainer


def weight_and_rate(trainer: SafeTrainer) -> tuple[float, float]:
    group = trainer.optimizers.optimizers["fields"].param_groups[0]
    return float(group["params"][0]), group["lr"]


def test_a_bad_step_changes_no_parameter_and_the_schedule_goes_on(tmp_path, capsys):
    trainer = build(tmp_path, bad_steps=(2,))
    metrics = []
    states = [weight_and_rate(trainer)]
    for step in range(4):
        metrics.append(trainer.train_iteration(step)[2])
        states.append(weight_and_rate(trainer))
    weights, rates = zip(*states)
    assert weights[3] == weights[2]
    assert all(weights[step + 1] < weights[step] for step in (0, 1, 3))
    assert all(rates[step + 1] < rates[step] for step in range(4))
    assert [{name: int(value) for name, value in m.items()} for m in metrics] == [{}, {}] + [{"skipped_steps": 1}] * 2
    lines = [line for line in capsys.readouterr().out.splitlines() if "left out" in line]
    assert lines == [
        "Step 2 is left out: square is nan, from rgb at row 2, column 3 of images/[a].png. 1 left out so far."
    ]


def test_gradients_accumulate_over_steps_as_the_host_lets_them(tmp_path):
    trainer = build(tmp_path, bad_steps=(4,), gradient_accumulation_steps={"fields": 3})
    weights = [weight_and_rate(trainer)[0]]
    gradients = []
    for step in range(6):
        trainer.train_iteration(step)
        weights.append(weight_and_rate(trainer)[0])
        gradient = trainer.pipeline._model.weight.grad
        gradients.append(None if gradient is None else float(gradient))
    assert [weights[step + 1] < weights[step] for step in range(6)] == [False, False, True, False, False, True]
    assert gradients == [1, 2, 3, 1, None, 1]  # a bad step takes those before it along


class TwoNetworks(StubModel, ModelHooks):
    """Two networks of a parameter each, and a third parameter that is in no group."""

    def __init__(self) -> None:
        super().__init__(1, 1)
        self.other = torch.nn.Parameter(torch.zeros(1))

    def networks(self):
        return [[self.weight], [self.bias, self.other]]


@pytest.mark.parametrize(
    ("limit", "expected"), [(None, [3.0, 0.25, 7.0]), (0.5, [0.5, 0.25, 7.0]), (0.125, [0.125, 0.125, 7.0])]
)
def test_each_networks_gradient_is_bounded_by_itself(tmp_path, limit, expected):
    """A long gradient of one does not shorten that of the other."""
    trainer = build(tmp_path)
    model = trainer.pipeline._model = TwoNetworks()
    config = NetworkAdamConfig(max_norm_per_network=limit)
    group = {"optimizer": config, "scheduler": None}
    trainer.config.optimizers = {"fields": group}
    trainer.optimizers = Optimizers({"fields": group}, {"fields": [model.weight, model.bias]})
    for parameter, gradient in zip((model.weight, model.bias, model.other), (3.0, 0.25, 7.0)):
        parameter.grad = torch.full_like(parameter, gradient)
    trainer._clip_networks("fields")
    assert [float(p.grad) for p in (model.weight, model.bias, model.other)] == pytest.approx(expected)


def test_a_step_bounds_the_gradient_before_the_optimizer_sees_it(tmp_path):
    trainer = build(tmp_path)
    model = trainer.pipeline._model = TwoNetworks()
    group = {"optimizer": NetworkAdamConfig(max_norm_per_network=0.25), "scheduler": None}
    trainer.config.optimizers = {"fields": group}
    trainer.optimizers = Optimizers({"fields": group}, {"fields": [model.weight, model.bias]})
    trainer.train_iteration(0)  # the gradient of the weight is 1
    moment = trainer.optimizers.optimizers["fields"].state[model.weight]["exp_avg"]
    assert float(moment) == pytest.approx(0.1 * 0.25)


def test_gradients_are_logged_if_asked_for(tmp_path):
    trainer = build(tmp_path, log_gradients=True)
    metrics = trainer.train_iteration(0)[2]
    assert {name: float(value) for name, value in metrics.items()} == {"Gradients/weight": 1.0, "Gradients/Total": 1.0}


def test_a_good_step_in_between_keeps_the_run_alive(tmp_path):
    trainer = build(tmp_path, bad_steps=(0, 1, 3, 4), max_skipped_steps=3)
    for step in range(6):
        metrics = trainer.train_iteration(step)[2]
    assert int(metrics["skipped_steps"]) == 4


def test_many_bad_steps_end_the_run_and_leave_its_checkpoint(tmp_path):
    trainer = build(tmp_path, bad_steps=tuple(range(1, 99)), max_skipped_steps=3)
    trainer.train_iteration(0)
    trainer.save_checkpoint(0)
    file = trainer.checkpoint_dir / "step-000000000.ckpt"
    before = file.read_bytes()
    for step in (1, 2):
        trainer.train_iteration(step)
    with pytest.raises(InputError, match="training ends at step 3: 3 in a row") as caught:
        trainer.train_iteration(3)
    text = str(caught.value)
    assert "images/[a].png" in text and str(file) in text and "learning rate" in text and "\n" not in text
    assert list(trainer.checkpoint_dir.iterdir()) == [file] and file.read_bytes() == before


def test_a_run_without_checkpoint_saves_one_before_it_ends(tmp_path):
    trainer = build(tmp_path, bad_steps=tuple(range(1, 99)), kind=TrainerConfig)
    for step in range(10):
        trainer.train_iteration(step)
    with pytest.raises(InputError, match="step-000000010"):  # ten is what a host's config means
        trainer.train_iteration(10)
    weight, rate = weight_and_rate(trainer)
    resumed = build(tmp_path / "resumed", load_dir=trainer.checkpoint_dir)
    assert weight_and_rate(resumed) == (weight, rate) and resumed._start_step == 11


def test_damaged_parameters_are_not_saved(tmp_path):
    trainer = build(tmp_path, bad_steps=(0,), max_skipped_steps=1)
    torch.nn.init.constant_(trainer.pipeline._model.weight, float("nan"))
    with pytest.raises(InputError, match="last good checkpoint: none"):
        trainer.train_iteration(0)
    assert not list(tmp_path.rglob("*.ckpt"))


@pytest.mark.parametrize(("max_steps", "speaks"), [(100, False), (101, False), (102, True), (50, True)])
def test_a_schedule_that_is_not_as_long_as_the_run_is_pointed_out(tmp_path, capsys, max_steps, speaks):
    trainer = build(tmp_path, max_steps=max_steps)
    assert ("--optimizers.fields.scheduler.max-steps 100" in capsys.readouterr().out) == speaks
    trainer.save_checkpoint(7)
    build(tmp_path, max_steps=max_steps, load_dir=trainer.checkpoint_dir)
    assert "max-steps" not in capsys.readouterr().out


@pytest.fixture
def small_disk():
    """A process that may write no file beyond 100 kB: what a full disk does to a checkpoint."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    signal.signal(signal.SIGXFSZ, handler)


def test_checkpoint_arrives_whole(tmp_path):
    folder = tmp_path / "nerfstudio_models"
    folder.mkdir()
    save_whole({"step": 1, "x": torch.ones(10)}, folder / "step-1.ckpt")
    assert [file.name for file in folder.iterdir()] == ["step-1.ckpt"]
    assert torch.load(folder / "step-1.ckpt")["step"] == 1
    assert list(tmp_path.iterdir()) == [folder]


def test_full_disk_leaves_earlier_checkpoints_alone(tmp_path, small_disk):
    folder = tmp_path / "nerfstudio_models"
    folder.mkdir()
    save_whole({"step": 1}, folder / "step-1.ckpt")
    for name in ("step-1.ckpt", "step-2.ckpt"):  # an overwrite and a new file
        with pytest.raises(InputError, match="cannot be written") as caught:
            save_whole({"step": 2, "x": torch.zeros(1_000_000)}, folder / name)
        assert "\n" not in str(caught.value) and name in str(caught.value)
    assert [file.name for file in folder.iterdir()] == ["step-1.ckpt"]
    assert torch.load(folder / "step-1.ckpt")["step"] == 1
    assert list(tmp_path.iterdir()) == [folder]
