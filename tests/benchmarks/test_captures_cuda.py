"""The CUDA benchmark, as far as a CPU can tell: its count of operations, its table of cards, and whether it runs."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from nerfstudio.cameras.rays import RayBundle
from nerfstudio.data.scene_box import SceneBox
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

from common_ns.data.scene_bounds import RayBounds
from common_ns.errors import InputError
from common_ns.sample_scene.generate import look_at
from mipnerf_ns.model360 import MipNerf360ModelConfig


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module. Benchmarks are not installed: they lie beside the packages."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2]))
    return importlib.import_module("benchmarks.captures_cuda")


@pytest.mark.parametrize("options", [{}, {"appearance_dim": 4}, {"num_color_layers": 3, "num_layers": 7}])
def test_operations_are_those_that_torch_counts(benchmark: ModuleType, options: dict):
    torch.manual_seed(0)
    capture = RayBounds(0.2, 1000.0, bounded=False, extent=2.0, reason="test")
    box = SceneBox(aabb=torch.tensor([[-1.0] * 3, [1.0] * 3]))
    config = MipNerf360ModelConfig(**{**benchmark.TINY, "precision": "float32", "compute_normals": False, **options})
    model = config.setup(scene_box=box, num_train_data=2, metadata={"ray_bounds": capture}).train()
    count = 5
    rays = RayBundle(
        origins=torch.zeros(count, 3),
        directions=torch.nn.functional.normalize(torch.randn(count, 3), dim=-1),
        pixel_area=torch.full((count, 1), 1e-4),
        camera_indices=torch.zeros(count, 1, dtype=torch.long),
    )

    with FlopCounterMode(display=False) as training:
        losses = model.get_loss_dict(model(rays), {"image": torch.rand(count, 3)})
        torch.stack(list(losses.values())).sum().backward()
    assert training.get_total_flops() == count * benchmark.training_flops(model)

    with FlopCounterMode(display=False) as rendering, torch.no_grad():
        model.eval()(rays)
    assert rendering.get_total_flops() == count * benchmark.rendering_flops(model)


def test_paper_network_takes_two_gigaflop_a_ray(benchmark: ModuleType):
    """By hand: 504 features, 4 × 256 for 128 samples, 8 × 1024 for 32 with the features joined again at the sixth."""
    proposal = 504 * 256 + 3 * 256**2 + 256
    nerf = 2 * 504 * 1024 + 7 * 1024**2 + 1024 + 1024 * 256 + 256 * 128 + 128 * 3
    forward = 128 * proposal + 32 * nerf + 27 * 128
    without_input_gradient = 128 * 504 * 256 + 32 * 2 * 504 * 1024 + 27 * 128
    capture = RayBounds(0.2, 1000.0, bounded=False, extent=2.0, reason="test")
    box = SceneBox(aabb=torch.tensor([[-1.0] * 3, [1.0] * 3]))
    model = MipNerf360ModelConfig().setup(scene_box=box, num_train_data=1, metadata={"ray_bounds": capture})
    assert benchmark.rendering_flops(model) == 2 * forward
    assert benchmark.training_flops(model) == 6 * forward - 2 * without_input_gradient


@pytest.mark.parametrize(
    ("card", "bfloat16", "float32"),
    [
        ("NVIDIA H200", 989, 67),
        ("NVIDIA H100 PCIe", 756, 51),
        ("NVIDIA A100-SXM4-80GB", 312, 19.5),
        ("NVIDIA GeForce RTX 4090", 165, 82.6),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None, None),
        ("NVIDIA GeForce RTX 3090", 71, 35.6),
    ],
)
def test_rates_follow_the_cards_name(benchmark: ModuleType, monkeypatch, card, bfloat16, float32):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: card)
    assert benchmark.peak_tflops("bfloat16", None) == bfloat16
    assert benchmark.peak_tflops("float32", None) == float32
    assert benchmark.peak_tflops("TF32", 100.0) == 50.0


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_cuda_it_says_so_before_it_reads_anything(benchmark: ModuleType, tmp_path: Path):
    with pytest.raises(InputError, match="no CUDA device"):
        benchmark.CapturesCuda(data=tmp_path / "nothing").main()


@pytest.mark.slow
def test_a_trial_runs_every_section_and_keeps_nothing(benchmark: ModuleType, tmp_path: Path, capsys):
    torch.set_num_threads(1)  # threads that wait for each other take longer than what there is to compute
    (tmp_path / "images").mkdir()
    frames = []
    for index in range(10):
        pixels = np.random.default_rng(index).integers(0, 256, (160, 240, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{index}.png")
        pose = look_at(np.array([np.cos(index), np.sin(index), 0.1]))
        frames.append({"file_path": f"images/{index}.png", "transform_matrix": pose.tolist()})
    camera = {"camera_model": "OPENCV", "w": 240, "h": 160, "fl_x": 200.0, "fl_y": 200.0, "cx": 120.0, "cy": 80.0}
    (tmp_path / "transforms.json").write_text(json.dumps({**camera, "frames": frames}))

    results = Path(benchmark.report.RESULTS)
    before = {file: file.read_bytes() for file in results.iterdir()}
    benchmark.CapturesCuda(data=tmp_path, tiny=True, rounds=1, compile=False, matrix_tflops=1.0).main()
    assert {file: file.read_bytes() for file in results.iterdir()} == before
    printed = capsys.readouterr().out
    assert all(f"## {section}" in printed for section in ("Speed", "Memory", "Fox", "Zip-speed", "Zip-quality"))


def test_time_to_a_quality_is_that_of_the_first_test_that_has_it(monkeypatch):
    """Steps of two seconds, of which tests are no part; a run that ends at its last target, and one that does not."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2]))
    cuda_run = importlib.import_module("benchmarks.cuda_run")

    class Better:
        def __init__(self) -> None:
            self.step = 0

        def advance(self, steps: int, seconds: float) -> float:
            self.step += steps
            return 2.0 * steps

        def test_metrics(self) -> dict[str, float]:
            return {"psnr": 20.0 + self.step}

    rows, reached = cuda_run.train_to(Better(), (25.0, 28.0), steps=100, test_every=3, minutes=1.0)
    assert [row["steps"] for row in rows] == [3, 6, 9]
    assert reached == {25.0: 12.0, 28.0: 18.0}
    assert cuda_run.outcome(reached) == "25 dB after 12 s of training; 28 dB after 18 s of training"

    rows, reached = cuda_run.train_to(Better(), (25.0, 28.0), steps=7, test_every=3, minutes=1.0)
    assert [row["steps"] for row in rows] == [3, 6, 7]
    assert cuda_run.outcome(reached) == "25 dB after 12 s of training; 28 dB not reached"


def test_a_shorter_schedule_keeps_its_part_of_warm_up_and_the_method_its_own(benchmark: ModuleType):
    methods = importlib.import_module("nerfstudio.configs.method_configs").all_methods
    whole = methods["zip-nerf"].optimizers["grids"]["scheduler"]
    before = (whole.warmup_steps, whole.max_steps)
    short = benchmark.zip_cuda.schedule(1000)["grids"]["scheduler"]
    assert short.max_steps == 1000
    assert short.warmup_steps == 1000 * before[0] / before[1] > 0
    assert (whole.warmup_steps, whole.max_steps) == before


def test_the_floor_of_a_step_is_the_sum_of_its_parts(benchmark: ModuleType, monkeypatch):
    """At a byte and an operation a second, a step of the paper's size takes what is counted."""
    from benchmarks.zip_floor import Rates, backward_flops, floor_of_parts, forward_flops, gathered_bytes
    from mipnerf_ns.zip_model import ZipNerfModelConfig

    capture = RayBounds(0.2, 1000.0, bounded=False, extent=2.0, reason="test")
    box = SceneBox(aabb=torch.tensor([[-1.0] * 3, [1.0] * 3]))
    config = ZipNerfModelConfig(**benchmark.zip_cuda.TINY)
    model = config.setup(scene_box=box, num_train_data=1, metadata={"ray_bounds": capture})
    parameters, tables = sum(p.numel() for p in model.parameters()), sum(t.numel() for t in model.tables)
    moved = 3 * 7 * gathered_bytes(model) + 4 * tables + 7 * 4 * parameters
    multiplied = 7 * (forward_flops(model) + backward_flops(model))
    parts = floor_of_parts(model, 7, Rates(copied=1.0, multiplied=1.0))
    assert sum(parts.values()) == moved + multiplied
    rates = Rates.measured(model, benchmark.zip_cuda.clock, side=16, rounds=2)
    assert rates.copied > 1e6 and rates.multiplied > 1e6
