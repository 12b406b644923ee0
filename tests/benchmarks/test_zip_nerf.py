"""Zip-NeRF's benchmark: its counts are torch's, and parts are all there is of a step."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import pytest
import torch
from nerfstudio.cameras.rays import RayBundle
from nerfstudio.data.scene_box import SceneBox
from torch.utils.flop_counter import FlopCounterMode

from common_ns.data.scene_bounds import RayBounds
from common_ns.hash_grid import HashGridOptions
from mipnerf_ns.zip_model import ZipNerfModel, ZipNerfModelConfig

GRID = HashGridOptions(num_levels=3, log2_table_size=8, max_resolution=32)


def module(monkeypatch: pytest.MonkeyPatch, name: str) -> ModuleType:
    """A benchmark. They are not installed: they lie beside the packages."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2]))
    return importlib.import_module(f"benchmarks.{name}")


def tiny_model(**options) -> ZipNerfModel:
    torch.manual_seed(0)
    sizes = {
        "num_proposal_samples": (6, 5),
        "num_nerf_samples": 4,
        "grid": GRID,
        "proposal_grids": (GRID, GRID),
        "hidden_dim": 16,
        "proposal_hidden_dim": 8,
        "bottleneck_dim": 8,
        "num_color_layers": 2,
        "color_hidden_dim": 8,
        "compute_normals": False,
    }
    capture = RayBounds(0.2, 1000.0, bounded=False, extent=2.0, reason="test")
    box = SceneBox(aabb=torch.tensor([[-1.0] * 3, [1.0] * 3]))
    config = ZipNerfModelConfig(**{**sizes, **options})
    return config.setup(scene_box=box, num_train_data=2, metadata={"ray_bounds": capture}).train()


def some_rays(count: int) -> RayBundle:
    return RayBundle(
        origins=torch.zeros(count, 3),
        directions=torch.nn.functional.normalize(torch.randn(count, 3), dim=-1),
        pixel_area=torch.full((count, 1), 1e-4),
        camera_indices=torch.zeros(count, 1, dtype=torch.long),
    )


@pytest.mark.parametrize(
    "options", [{}, {"appearance_dim": 4}, {"tell_fading": False, "num_color_layers": 3, "color_skip": False}]
)
def test_operations_are_those_that_torch_counts(monkeypatch, options: dict):
    floor, model, count = module(monkeypatch, "zip_floor"), tiny_model(**options), 5
    rays = some_rays(count)
    with FlopCounterMode(display=False) as forward:
        losses = model.get_loss_dict(model(rays), {"image": torch.rand(count, 3)})
    assert forward.get_total_flops() == count * floor.forward_flops(model)
    with FlopCounterMode(display=False) as backward:
        torch.stack(list(losses.values())).sum().backward()
    assert backward.get_total_flops() == count * floor.backward_flops(model)


def test_gathered_rows_by_hand(monkeypatch):
    """15 intervals of 6 points each, 3 levels of 8 corners with 2 features of 4 bytes."""
    assert module(monkeypatch, "zip_floor").gathered_bytes(tiny_model()) == 15 * 6 * 3 * 8 * 2 * 4
    assert module(monkeypatch, "zip_floor").gathered_bytes(tiny_model(num_multisamples=1)) == 15 * 3 * 8 * 2 * 4
    mixed = tiny_model(num_multisamples=3, num_proposal_multisamples=1)
    last = mixed.sampler.counts[-1]
    assert module(monkeypatch, "zip_floor").gathered_bytes(mixed) == (15 + 2 * last) * 3 * 8 * 2 * 4


def test_time_within_a_part_belongs_to_the_innermost(monkeypatch):
    now = [0.0]

    def work(seconds: float) -> None:
        now[0] += seconds

    watch = module(monkeypatch, "zip_nerf").Stopwatch(lambda: now[0])

    def outer() -> None:
        work(1.0)
        watch.timed("inner", work)(2.0)
        work(4.0)

    work(8.0)
    watch.timed("outer", outer)()
    watch.enter("last")
    work(16.0)
    watch.leave()
    assert watch.totals == {"other": 8.0, "outer": 5.0, "inner": 2.0, "last": 16.0}


def test_a_divided_step_gives_the_same_gradients_and_every_part_takes_time(monkeypatch):
    """With a clock that ticks at each look, what takes no time has not been called."""
    benchmark, model = module(monkeypatch, "zip_nerf"), tiny_model()
    rays, target = some_rays(5), torch.rand(5, 3)

    class Pipeline:
        def __init__(self) -> None:
            self.model = model

        def _next_train(self) -> None: ...

    class Optimizers:
        def optimizer_step_all(self) -> None: ...

        def zero_grad_all(self) -> None:
            model.zero_grad()

    class Step:
        pipeline, optimizers = Pipeline(), Optimizers()

        def advance(self) -> list[torch.Tensor]:
            torch.manual_seed(1)
            self.optimizers.zero_grad_all()
            self.pipeline._next_train()
            losses = model.get_loss_dict(model(rays), {"image": target})
            torch.stack(list(losses.values())).sum().backward()
            self.optimizers.optimizer_step_all()
            return [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]

    step, ticks = Step(), iter(range(10**6))
    plain = step.advance()
    watch = benchmark.Stopwatch(lambda: float(next(ticks)))
    with benchmark.parts_of(step, watch):
        divided = step.advance()
    assert all(torch.equal(a, b) for a, b in zip(plain, divided, strict=True))
    assert watch.present == benchmark.OTHER
    assert set(watch.totals) == {
        *(f"{part}, {way}" for part in ("networks", "lookups") for way in ("forward", "backward")),
        *("data", "sampling", "points", "losses, forward", "losses and rendering, backward", "optimizer", "other"),
    }
    assert plain and all(torch.equal(a, b) for a, b in zip(plain, step.advance(), strict=True))
