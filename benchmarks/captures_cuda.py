"""mip-NeRF 360 and Zip-NeRF at the papers' sizes on a CUDA device: speed beside a floor, memory, and the time to a
given quality.

    python -m benchmarks.captures_cuda speed       --data DIR   # mip-NeRF 360 on a capture in nerfstudio's layout
    python -m benchmarks.captures_cuda memory      --data DIR
    python -m benchmarks.captures_cuda fox         --data DIR   # seconds of training to 25 dB on held-out views
    python -m benchmarks.captures_cuda zip-speed   --data DIR   # Zip-NeRF's step at 65,536 rays, and its peak memory
    python -m benchmarks.captures_cuda zip-quality --data DIR   # seconds to 25 and 28 dB, also on the sample scene
    python -m benchmarks.captures_cuda --tiny      --data DIR   # does it run? All of them, tiny, on a CPU too

mip-NeRF 360's floor is what its matrix products take at the card's full rate, Zip-NeRF's that of
`benchmarks/zip_floor.py`. Each section is written to benchmarks/results/captures_cuda.json, and the tables to
benchmarks/results/captures_cuda.md; with --tiny, to a temporary folder that is removed afterwards.
"""

from __future__ import annotations

import copy
import re
import statistics
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal
from unittest import mock

import torch
import tyro
from nerfstudio.configs.method_configs import all_methods
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig

from benchmarks import report, zip_cuda
from benchmarks.cuda_run import ChunkedRun, outcome, train_to
from benchmarks.mipnerf import device
from benchmarks.mipnerf360 import sample_capture
from common_ns.errors import InputError
from common_ns.nerfstudio_seam.last_words import report_input_errors
from mipnerf_ns import ipe_triton
from mipnerf_ns.field360 import ContractedDensityField
from mipnerf_ns.model360 import MipNerf360Model
from mipnerf_ns.networks import SplitLinear

METHOD = "mip-nerf-360"
SECTIONS = ("speed", "memory", "fox", "zip-speed", "zip-quality")
Precision = Literal["float32", "TF32", "bfloat16"]

TFLOPS: dict[str, dict[Precision, float]] = {
    r"H200 NVL|H100 NVL": {"bfloat16": 835, "TF32": 418, "float32": 60},
    r"H100 PCIe": {"bfloat16": 756, "TF32": 378, "float32": 51},
    r"H200|H100": {"bfloat16": 989, "TF32": 495, "float32": 67},
    r"A100": {"bfloat16": 312, "TF32": 156, "float32": 19.5},
    r"RTX 4090$": {"bfloat16": 165, "TF32": 82.6, "float32": 82.6},
    r"RTX 3090 Ti$": {"bfloat16": 80, "TF32": 40, "float32": 40},
    r"RTX 3090$": {"bfloat16": 71, "TF32": 35.6, "float32": 35.6},
}
"""What cards multiply matrices at by their data sheets: dense, sums in float32, in 10^12 operations a second. The first
pattern that is found in the card's name counts."""

TINY: dict[str, Any] = {
    "num_proposal_samples": (6, 6),
    "num_nerf_samples": 4,
    "basis": "icosahedron-6",
    "num_frequencies": 4,
    "proposal_num_layers": 2,
    "proposal_hidden_dim": 16,
    "num_layers": 4,
    "hidden_dim": 16,
    "skip_layer": 2,
    "bottleneck_dim": 8,
    "color_hidden_dim": 8,
}
"""A network of every kind of layer, for trying the benchmark out."""


def products_per_ray(model: MipNerf360Model) -> Iterator[tuple[int, bool]]:
    """The matrix products that a ray takes part in: multiply-adds, and whether the gradient of the input is needed.

    Encodings need none, neither in the first layer nor where they are joined again, unless cameras are refined. The
    lifting of positions onto the basis does not count: it is no product of a network, and the fused encoding does it
    without one.
    """

    def linear(layer: Any, samples: int, input_gradient: bool = True) -> tuple[int, bool]:
        return samples * layer.weight.numel(), input_gradient

    def split(layer: SplitLinear, samples: int, second_samples: int, second_gradient: bool) -> list[tuple[int, bool]]:
        out, both = layer.weight.shape
        return [
            (samples * out * layer.in_first, True),
            (second_samples * out * (both - layer.in_first), second_gradient),
        ]

    refined = model.config.camera_optimizer.mode != "off"

    def density(field: ContractedDensityField, samples: int) -> Iterator[tuple[int, bool]]:
        for index, layer in enumerate(field.trunk.layers):
            if isinstance(layer, SplitLinear):
                yield from split(layer, samples, samples, refined)
            else:
                yield linear(layer, samples, index > 0 or refined)
        yield linear(field.density_head, samples)

    for samples in model.config.num_proposal_samples:
        yield from density(model.proposal, samples)
    samples, head = model.config.num_nerf_samples, model.field.color_head
    yield from density(model.field, samples)
    yield linear(head.bottleneck, samples)
    # View directions and appearance codes belong to rays, not to samples.
    yield from split(head.input, samples, 1, refined or model.field.appearance is not None)
    for layer in (*head.layers, head.output):
        yield linear(layer, samples)


def training_flops(model: MipNerf360Model) -> int:
    """Operations of all matrix products of a training step, for each ray: a product, the gradient of its weights, and
    that of its input where it is needed. A multiply-add is two operations."""
    return sum(2 * count * (3 if input_gradient else 2) for count, input_gradient in products_per_ray(model))


def rendering_flops(model: MipNerf360Model) -> int:
    """Operations of all matrix products for each ray of an image."""
    return sum(2 * count for count, _ in products_per_ray(model))


def peak_tflops(precision: Precision, given: float | None) -> float | None:
    """What the card multiplies matrices at, in 10^12 operations a second; None if that is not known.

    Args:
        precision: number format.
        given: the rate for bfloat16 where it is given; TF32 then is half of it, as on all cards of the table.
    """
    if given is not None:
        return {"bfloat16": given, "TF32": given / 2}.get(precision)
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
    rates = next((rates for pattern, rates in TFLOPS.items() if re.search(pattern, name)), {})
    return rates.get(precision)


@dataclass(frozen=True)
class Variant:
    """One way of computing the same model."""

    precision: Precision
    """Number format of the hidden layers; TF32 is float32 with the products rounded to TF32."""
    fused: bool
    """Encode in one kernel."""
    compiled: bool = False
    """Hidden layers through torch.compile."""

    @property
    def labels(self) -> dict[str, str]:
        encoding, trunks = "fused" if self.fused else "torch", "compiled" if self.compiled else "eager"
        return {"precision": self.precision, "encoding": encoding, "hidden layers": trunks}

    @contextmanager
    def applied(self, model: MipNerf360Model) -> Iterator[None]:
        """Let a model compute this way."""
        with ExitStack() as stack:
            stack.enter_context(mock.patch.object(ipe_triton, "enabled", self.fused))
            stack.callback(torch.set_float32_matmul_precision, torch.get_float32_matmul_precision())
            torch.set_float32_matmul_precision("high" if self.precision == "TF32" else "highest")
            for field in (model.proposal, model.field):
                precision = "bfloat16" if self.precision == "bfloat16" else "float32"
                stack.enter_context(mock.patch.object(field, "precision", precision))
                if self.compiled:
                    # What is compiled refers to the same parameters, so that the optimizer need not know.
                    stack.callback(setattr, field, "trunk", field.trunk)
                    field.trunk = _compiled(field.trunk)
            yield


def _compiled(trunk: Any) -> Any:
    """The trunk through torch.compile, the same object at each call: what was compiled stays."""
    if "compiled_for_benchmark" not in vars(trunk):
        # The default of 8 kinds of arguments is less than there are variants; beyond it, torch would go on uncompiled.
        for limit in ("cache_size_limit", "recompile_limit"):
            if hasattr(torch._dynamo.config, limit):
                setattr(torch._dynamo.config, limit, 64)
        # Without CUDA this is a trial of the benchmark only, which needs no C++ compiler.
        backend = "inductor" if torch.cuda.is_available() else "eager"
        vars(trunk)["compiled_for_benchmark"] = torch.compile(trunk, backend=backend)
    return vars(trunk)["compiled_for_benchmark"]


@dataclass
class CapturesCuda:
    """Measure mip-NeRF 360 and Zip-NeRF at the papers' sizes on a CUDA device."""

    section: tyro.conf.Positional[Literal["all", "speed", "memory", "fox", "zip-speed", "zip-quality", "table"]] = "all"
    """What to measure; table only writes the tables again."""
    data: Path = Path("data/fox")
    """A capture in nerfstudio's layout; its images are taken at their own resolution."""
    rays: int = 16384
    """Rays per training step of mip-NeRF 360."""
    rounds: int = 5
    """Rounds of the speed section; the variants take turns in each."""
    steps_per_turn: int = 3
    """Training steps that are timed at each turn, after one that is not."""
    compile: bool = True
    """Measure torch.compile of the hidden layers as well (speed)."""
    chunks: tuple[int, ...] = (2**17, 2**18, 2**19, 2**20, 2**21, 0)
    """Values of max_points_per_chunk for the memory section; 0: no bound."""
    target_psnr: float = 25.0
    """Quality in dB on the held-out views that ends the fox section."""
    minutes: float = 20.0
    """Wall-clock limit of the fox section, tests and compilation included."""
    steps: int = 5000
    """Length of the fox section's learning-rate schedule in steps, and its end if the target is not reached."""
    test_every: int = 250
    """Steps between tests of the fox section."""
    precision: Precision = "bfloat16"
    """Number format of the fox section."""
    matrix_tflops: float | None = None
    """What the card multiplies bfloat16 matrices at, dense, in TFLOP/s; None: by the card's name."""
    zip_rays: int = 65536
    """Rays per training step of the zip-speed section: the paper's batch."""
    zip_steps: int = 5000
    """Length of the zip-quality section's schedule in steps of as many rays as the method has, and its end."""
    zip_targets: tuple[float, ...] = (25.0, 28.0)
    """Qualities in dB on the held-out views that are waited for, the last of which ends a run (zip-quality)."""
    tiny: bool = False
    """Try the benchmark out: a tiny network, a few steps, images at a tenth of their size; nothing is kept."""

    def main(self) -> None:
        """Run the chosen sections.

        Raises: InputError without a CUDA device, unless it is a trial.
        """
        if self.section == "table":
            write_tables()
            return
        if not self.tiny:
            if not torch.cuda.is_available():
                remedy = "Run it on a machine with an NVIDIA GPU, or try it out with --tiny"
                raise InputError("the benchmark found no CUDA device", remedy)
            self.run_sections()
            return
        trial = replace(
            self,
            rays=64,
            zip_rays=64,
            zip_steps=4,
            rounds=min(self.rounds, 2),
            steps_per_turn=1,
            chunks=(256, 0),
            steps=4,
            test_every=2,
            minutes=min(self.minutes, 1.0),
        )
        with tempfile.TemporaryDirectory() as folder, mock.patch.object(report, "RESULTS", Path(folder)):
            trial.run_sections()
            print((Path(folder) / "captures_cuda.md").read_text())

    def run_sections(self) -> None:
        """Measure, and write after each section."""
        if self.fused_choices() == (False,):
            print("The fused encoding cannot run here: torch's alone is measured.", flush=True)
        for section in SECTIONS if self.section == "all" else (self.section,):
            getattr(self, section.replace("-", "_"))()
            write_tables()

    def build(self) -> Any:
        """The method's pipeline on the data."""
        config = copy.deepcopy(all_methods[METHOD].pipeline)
        config.datamanager.data = self.data
        config.datamanager.dataparser = NerfstudioDataParserConfig(downscale_factor=1)
        config.datamanager.train_num_rays_per_batch = self.rays
        if self.tiny:
            config.datamanager.camera_res_scale_factor = 0.1
        options = {"compute_normals": False, "anneal_steps": self.steps, **(TINY if self.tiny else {})}
        config.model = replace(config.model, **options)
        return config.setup(device=device(), test_mode="test")

    def start(self) -> ChunkedRun:
        """A run at its beginning, the same each time."""
        torch.manual_seed(42)
        return ChunkedRun(self.build(), self.steps, all_methods[METHOD].optimizers)

    def fused_choices(self) -> tuple[bool, ...]:
        """Without and, where the kernel can run, with the fused encoding."""
        return (False, True) if ipe_triton.available(torch.empty(0, device=device()).device) else (False,)

    def speed(self) -> None:
        """Rays per second, beside what the matrix products alone would take at the card's full rate."""
        run = self.start()
        model = run.pipeline.model
        variants = [
            Variant(precision, fused, compiled)
            for precision in ("float32", "TF32", "bfloat16")
            for fused in self.fused_choices()
            for compiled in ((False, True) if self.compile else (False,))
        ]
        train: dict[Variant, list[float]] = {variant: [] for variant in variants}
        render: dict[Variant, list[float]] = {variant: [] for variant in variants}
        pixels = 1
        for variant in variants:
            # Twice: what torch.compile sees for the first time it compiles for one shape, and the next time for all.
            with (
                variant.applied(model),
                mock.patch.object(ipe_triton, "fused_encoding", wraps=ipe_triton.fused_encoding) as fused,
            ):
                run.advance(2)
                run.render()
                assert fused.called == variant.fused, "the field does not encode as the variant says"
            print("warmed up:", ", ".join(variant.labels.values()), flush=True)
        for _ in range(self.rounds):
            for variant in variants:
                with variant.applied(model):
                    run.advance(1)  # not timed: memory is handed from one variant's tensors to another's
                    train[variant].append(run.advance(self.steps_per_turn) / self.steps_per_turn)
                    seconds, pixels = run.render()
                    render[variant].append(seconds)
        rows = []
        for variant in variants:
            rates = [self.rays / seconds for seconds in train[variant]]
            row: dict[str, Any] = {
                **variant.labels,
                "rays per second": round(statistics.median(rates)),
                "lowest": round(min(rates)),
                "highest": round(max(rates)),
                **self._against_floor(variant, statistics.median(train[variant]), self.rays * training_flops(model)),
            }
            shown = statistics.median(render[variant])
            floor = self._against_floor(variant, shown, pixels * rendering_flops(model))
            row |= {"rendered rays per second": round(pixels / shown), "rendering of the floor": floor["of the floor"]}
            rows.append(row)
            print(row, flush=True)
        settings: dict[str, Any] = {"rounds": self.rounds, "GFLOP per trained ray": training_flops(model) / 1e9}
        self._save("speed", rows, **settings)

    def _against_floor(self, variant: Variant, seconds: float, flops: int) -> dict[str, Any]:
        """Time in ms, the rate reached, the floor in ms, and which part of the time it is."""
        peak = peak_tflops(variant.precision, self.matrix_tflops)
        floor = None if peak is None else flops / peak / 1e12
        return {
            "ms per step": 1e3 * seconds,
            "TFLOP/s": flops / seconds / 1e12,
            "floor, ms": "unknown" if floor is None else 1e3 * floor,
            "of the floor": "unknown" if floor is None else floor / seconds,
        }

    def memory(self) -> None:
        """Peak memory and speed by the number of samples that go through the networks at once."""
        run = self.start()
        model = run.pipeline.model
        rows = []
        for precision in ("bfloat16", "float32"):
            for fused in self.fused_choices():
                variant = Variant(precision, fused)
                for points in self.chunks:
                    model.config.max_points_per_chunk = points or None
                    labels = {"points per chunk": f"{points:,}" if points else "no bound", **variant.labels}
                    with variant.applied(model):
                        rows.append({**labels, **self._peak(run)})
                    print(rows[-1], flush=True)
        self._save("memory", rows)

    def _peak(self, run: ChunkedRun) -> dict[str, Any]:
        """Peak memory of a training step and its speed."""
        try:
            run.optimizers.zero_grad_all()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            run.advance(1)
            if torch.cuda.is_available():
                torch.cuda.reset_peak_memory_stats()
            seconds = run.advance(self.steps_per_turn) / self.steps_per_turn
        except torch.cuda.OutOfMemoryError:
            return {"peak GB": "out of memory"}
        peak = torch.cuda.max_memory_allocated() / 1e9 if torch.cuda.is_available() else "no CUDA device"
        return {"peak GB": peak, "rays per second": round(self.rays / seconds)}

    def fox(self) -> None:
        """Train until the held-out views reach the target; the time of tests does not count as training."""
        run = self.start()
        variant = Variant(self.precision, self.fused_choices()[-1])
        with variant.applied(run.pipeline.model):
            rows, reached = train_to(run, (self.target_psnr,), self.steps, self.test_every, self.minutes)
        views = len(run.pipeline.datamanager.eval_dataset)
        settings = {"outcome": outcome(reached), "schedule": f"{self.steps} steps", "minutes at most": self.minutes}
        self._save("fox", rows, **settings, **{"held-out views": views}, **variant.labels)

    def zip_speed(self) -> None:
        """Zip-NeRF's step by number format and chunk, beside its floor."""
        run = zip_cuda.start(self.data, self.zip_rays, self.zip_steps, self.tiny)
        rows, settings = zip_cuda.speed(run, self.rounds, self.steps_per_turn, side=64 if self.tiny else 8192)
        for row in rows:
            print(row, flush=True)
        self._save("zip-speed", rows, zip_cuda.METHOD, rays=self.zip_rays, **settings)

    def zip_quality(self) -> None:
        """Zip-NeRF's time to given qualities, on the capture and on the unbounded sample scene."""
        size = {"num_train": 6, "num_test": 1, "resolution": 80} if self.tiny else {}
        with tempfile.TemporaryDirectory() as folder:
            for name, data in ((self.data.name, self.data), ("sample scene", sample_capture(Path(folder), **size))):
                run = zip_cuda.start(data, 64 if self.tiny else None, self.zip_steps, self.tiny)
                rows, reached = train_to(run, self.zip_targets, self.zip_steps, self.test_every, self.minutes)
                settings = {"outcome": outcome(reached), "schedule": f"{self.zip_steps} steps"}
                settings |= {"held-out views": len(run.pipeline.datamanager.eval_dataset)}
                rays = run.pipeline.config.datamanager.train_num_rays_per_batch
                settings |= {"data": name, "rays": rays, "minutes at most": self.minutes}
                self._save(f"zip-quality on {name}", rows, zip_cuda.METHOD, **settings)

    def _save(self, section: str, rows: list[dict[str, Any]], method: str = METHOD, **settings: Any) -> None:
        method = f"{method}, tiny" if self.tiny else method
        settings = {"method": method, "data": self.data.name, "rays": self.rays, **settings}
        report.save_section("captures_cuda", section, {"settings": settings, "rows": rows})


COLUMNS = {
    "speed": [
        "precision",
        "encoding",
        "hidden layers",
        "rays per second",
        "lowest",
        "highest",
        "ms per step",
        "TFLOP/s",
        "floor, ms",
        "of the floor",
        "rendered rays per second",
        "rendering of the floor",
    ],
    "memory": ["points per chunk", "precision", "encoding", "peak GB", "rays per second"],
    "zip-speed": zip_cuda.COLUMNS,
    "fox": ["steps", "training seconds", "wall-clock seconds", "psnr", "ssim"],
}


def _columns_of(section: str) -> str:
    """Time to a quality is told alike of all runs."""
    return "fox" if section.startswith("zip-quality") else section


def write_tables() -> None:
    """Turn the JSON into Markdown.

    Raises: InputError if nothing has been measured.
    """
    file = report.RESULTS / "captures_cuda.json"
    if not file.exists():
        raise InputError("nothing has been measured yet", "Run the other sections first", file)
    report.write_sections(
        "captures_cuda",
        "mip-NeRF 360 and Zip-NeRF on CUDA",
        "The floor of mip-NeRF 360 is the time that the matrix products of a step (or an image) would take at the "
        "card's full rate; that of Zip-NeRF is in `benchmarks/zip_floor.py`, with rates measured in the same run.",
        lambda section, rows: [report.table(rows, COLUMNS[_columns_of(section)])],
    )


if __name__ == "__main__":
    report_input_errors()
    tyro.cli(CapturesCuda).main()
