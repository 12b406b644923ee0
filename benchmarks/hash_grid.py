"""The multi-resolution hash grid: implementations side by side, and what an optimizer adds to them.

    python -m benchmarks.hash_grid speed --threads 1      # torch, numba, and nerfstudio's own grid in torch
    python -m benchmarks.hash_grid gaussians              # several Gaussians at once, beside looking up each point
    python -m benchmarks.hash_grid optimizer              # Adam over the table beside the grid's own time
    python -m benchmarks.hash_grid compile                # what numba's first use costs
    python -m benchmarks.hash_grid cuda                   # triton, torch, and tinycudann if it is installed

Variants take turns, and the shortest time of each counts: on a busy machine the others say more about the neighbors.
With one CPU thread it is the thread's own time. Each section is written to benchmarks/results/hash_grid.json, the
tables to hash_grid.md.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
import tyro
from nerfstudio.field_components.encodings import HashEncoding
from torch import Tensor

from benchmarks.report import save_section, write_sections
from common_ns.hash_grid import HashGrid, HashGridOptions, resolve
from common_ns.hash_grid.weighting import mean_of_gaussians, weights_of_levels

SIZES = {
    "16 levels, 2^19": HashGridOptions(),
    "16 levels, 2^17": HashGridOptions(log2_table_size=17),
    "8 levels, 2^15": HashGridOptions(num_levels=8, log2_table_size=15, max_resolution=192),
}
FORWARD, BACKWARD, JACOBIAN, DOUBLE = "forward", "+ backward", "Jacobian + eikonal", "the same by autograd"
"""Features; features and the table's gradient; a loss on normals and its gradient by the table, with the explicit
Jacobian; and with the derivative of a derivative."""

TASKS = (FORWARD, BACKWARD, JACOBIAN, DOUBLE)


def prepare(encode: Any, parameter: Tensor, task: str, x: Tensor, width: int) -> Callable[[], object]:
    """A task as a function without arguments."""
    generator = torch.Generator().manual_seed(1)
    cotangent = torch.randn(len(x), width, generator=generator).to(x)
    direction = torch.randn(width, generator=generator).to(x)

    def forward() -> None:
        with torch.no_grad():
            encode(x)

    def backward() -> None:
        parameter.grad = None
        encode(x).backward(cotangent)

    def train_on_normals(features: Tensor, normals: Tensor) -> None:
        loss = (normals.square().sum(1) - 1).square().mean() + features.square().mean()
        parameter.grad = None
        loss.backward(inputs=[parameter])

    def jacobian() -> None:
        features, slopes = encode.with_jacobian(x)
        train_on_normals(features, (slopes * direction[:, None]).sum(1))

    def double() -> None:
        position = x.detach().requires_grad_()
        features = encode(position)
        (normals,) = torch.autograd.grad((features @ direction).sum(), position, create_graph=True)
        train_on_normals(features, normals)

    return {FORWARD: forward, BACKWARD: backward, JACOBIAN: jacobian, DOUBLE: double}[task]


def gaussian_tasks(grid: HashGrid, samples: int, count: int) -> dict[str, dict[str, Callable[[], object]]]:
    """What is to be computed of groups of Gaussians, each in one pass and composed of what `HashGrid.forward` gives.

    Groups are at random places, their Gaussians close together and from much smaller than a cell to much larger.
    """
    generator = torch.Generator().manual_seed(0)
    std = 10 ** (3 * torch.rand(count, samples, generator=generator) - 4)
    points = torch.rand(count, 1, 3, generator=generator) + std.mean(1)[:, None, None] * torch.randn(
        count, samples, 3, generator=generator
    )
    cotangent = torch.randn(count, grid.output_dim, generator=generator)
    points, std, cotangent = points.to(grid.table), std.to(grid.table), cotangent.to(grid.table)

    def composed(points: Tensor, std: Tensor) -> Tensor:
        return mean_of_gaussians(grid(points), weights_of_levels(grid.shape, std))

    def tasks(encode: Callable[[Tensor, Tensor], Tensor]) -> dict[str, Callable[[], object]]:
        def forward() -> None:
            with torch.no_grad():
                encode(points, std)

        def backward() -> None:
            grid.table.grad = None
            encode(points, std).backward(cotangent)

        def by_points() -> None:
            place = points.detach().requires_grad_()
            encode(place, std).backward(cotangent, inputs=[place])

        return {FORWARD: forward, BACKWARD: backward, "+ gradient of the points": by_points}

    each = {"one pass": tasks(grid.gaussian_features), "composed": tasks(composed)}
    return {task: {name: found[task] for name, found in each.items()} for task in each["composed"]}


def take_turns(
    variants: dict[str, Callable[[], object]], clock: Callable[[], float], rounds: int, warm_up: int = 1
) -> dict[str, float]:
    """Shortest time of each variant, in milliseconds."""
    times: dict[str, list[float]] = {name: [] for name in variants}
    for turn in range(warm_up + rounds):
        for name, run in variants.items():
            start = clock()
            run()
            if turn >= warm_up:
                times[name].append(1000 * (clock() - start))
    return {name: min(each) for name, each in times.items()}


def memory_floor(options: HashGridOptions, count: int, task: str) -> float:
    """Bytes that cannot but be moved: positions, results, and each row that is touched, once. In MB.

    Rows that points at random positions do not touch are not counted; a gradient is written as a whole.
    """
    shape = HashGrid(options).shape
    touched = sum(level.size * (1 - (1 - 1 / level.size) ** (8 * count)) for level in shape.levels)
    row, points = 4 * shape.features, 4 * count * (3 + shape.output_dim)
    reading = points + touched * row
    if task == FORWARD:
        return reading / 1e6
    writing = points + shape.rows * row
    more = 2 * 4 * count * 3 * shape.output_dim if task == JACOBIAN else 0  # the Jacobian, and its cotangent
    return (reading + writing + more) / 1e6


def copy_speed(clock: Callable[[], float], rounds: int) -> float:
    """Megabytes a millisecond that are read and written in a copy of what fits into no cache."""
    source = torch.zeros(64 * 2**20)
    target = torch.zeros_like(source)
    best = take_turns({"copy": lambda: target.copy_(source)}, clock, rounds)["copy"]
    return 2 * 4 * source.numel() / 1e6 / best


def peers(options: HashGridOptions, names: tuple[str, ...], device: str) -> dict[str, tuple[Any, Tensor]]:
    """Encodings of a size, and the parameter of each."""
    found: dict[str, tuple[Any, Tensor]] = {}
    for name in names:
        if name == "nerfstudio":
            encoding = HashEncoding(
                options.num_levels,
                options.base_resolution,
                options.max_resolution,
                options.log2_table_size,
                options.features_per_level,
                implementation="torch",
            ).to(device)
            found["nerfstudio's, torch"] = (encoding, encoding.hash_table)
        else:
            grid = HashGrid(replace(options, implementation=name)).to(device)  # pyright: ignore[reportArgumentType]
            found[name] = (grid, grid.table)
    return found


def measure(options: HashGridOptions, count: int, names: tuple[str, ...], device: str, rounds: int, clock: Any) -> list:
    """Rows of a table: a task each for every encoding, and its ratio to torch."""
    x = torch.rand(count, 3, generator=torch.Generator().manual_seed(0)).to(device)
    encodings = peers(options, names, device)
    times: dict[str, dict[str, float]] = {name: {} for name in encodings}
    for task in TASKS:
        variants = {
            name: prepare(encode, parameter, task, x, options.num_levels * options.features_per_level)
            for name, (encode, parameter) in encodings.items()
            if task in (FORWARD, BACKWARD)
            or (name != "tinycudann" and (task == DOUBLE or isinstance(encode, HashGrid)))
        }
        for name, best in take_turns(variants, clock, rounds).items():
            times[name][task] = best
        print(
            options.num_levels,
            options.log2_table_size,
            task,
            {k: round(v[task], 2) for k, v in times.items() if task in v},
        )
    rows = []
    for name, each in times.items():
        row: dict[str, Any] = {"implementation": name}
        for task in TASKS:
            if task in each:
                row[f"{task}, ms"] = each[task]
                row[f"{task}, ratio"] = times["torch"][task] / each[task]
        rows.append(row)
    return rows


@dataclass
class Benchmark:
    """Measure the hash grid."""

    section: tyro.conf.Positional[Literal["speed", "gaussians", "optimizer", "compile", "cuda", "table"]]
    """What to measure; table only writes the table again."""
    points: int = 2**16
    """Positions, uniformly random: the worst case, for those along rays share cells."""
    rounds: int = 7
    """Repetitions of which the shortest counts."""
    threads: int = 1
    """CPU threads."""

    def main(self) -> None:
        torch.set_num_threads(self.threads)
        self.clock = time.thread_time if self.threads == 1 else time.perf_counter
        if self.section != "table":
            getattr(self, self.section)()
        write_sections("hash_grid", "Hash grid")

    def speed(self) -> None:
        """On the CPU."""
        rate = copy_speed(self.clock, self.rounds)
        rows = []
        for name, options in SIZES.items():
            floors = {f"{task}, floor": memory_floor(options, self.points, task) / rate for task in TASKS[:3]}
            for row in measure(options, self.points, ("torch", "numba", "nerfstudio"), "cpu", self.rounds, self.clock):
                rows.append({"size": name, **row})
            rows.append(
                {
                    "size": name,
                    "implementation": "memory floor",
                    **{f"{task}, ms": floors[f"{task}, floor"] for task in TASKS[:3]},
                }
            )
        settings = {"points": self.points, "rounds": self.rounds, "copies, GB/s": round(rate, 1)}
        save_section("hash_grid", f"CPU, threads {self.threads}", {"settings": settings, "rows": rows})

    def gaussians(self) -> None:
        """Zip-NeRF's multisamples, on the CPU, and on a GPU if there is one."""
        for device in ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",):

            def on_gpu() -> float:
                torch.cuda.synchronize()
                return time.perf_counter()

            clock, rows = self.clock if device == "cpu" else on_gpu, []
            for name, options in SIZES.items():
                grid = HashGrid(options).to(device)
                for samples in (1, 3, 6):
                    row: dict[str, Any] = {"size": name, "Gaussians": samples}
                    for task, variants in gaussian_tasks(grid, samples, self.points // samples).items():
                        best = take_turns(variants, clock, self.rounds)
                        row |= {f"{task}, {variant}, ms": each for variant, each in best.items()}
                        row[f"{task}, ratio"] = best["composed"] / best["one pass"]
                    rows.append(row)
                    print({key: round(v, 2) if isinstance(v, float) else v for key, v in row.items()}, flush=True)
            settings = {"points": self.points, "rounds": self.rounds, "implementation": grid.resolution().name}
            threads = f"CPU, threads {self.threads}" if device == "cpu" else "CUDA"
            save_section("hash_grid", f"Gaussians, {threads}", {"settings": settings, "rows": rows})

    def optimizer(self) -> None:
        """A dense Adam beside the features and the gradient that it needs."""
        rows = []
        for log2 in (15, 17, 19):
            options = HashGridOptions(log2_table_size=log2, implementation="auto")
            grid = HashGrid(options)
            reason = resolve("auto", grid.shape, torch.device("cpu")).name
            variants: dict[str, Callable[[], object]] = {}
            for exponent in (13, 16):
                x = torch.rand(2**exponent, 3)
                variants[f"grid ({reason}), 2^{exponent} points"] = prepare(grid, grid.table, BACKWARD, x, 32)
            optimizers = {}
            for name, settings in {"Adam": {}, "Adam, fused": {"fused": True}}.items():
                parameter = torch.nn.Parameter(grid.table.detach().clone())
                parameter.grad = 1e-4 * torch.randn_like(parameter)
                optimizers[name] = torch.optim.Adam([parameter], eps=1e-15, **settings)
                variants[name] = optimizers[name].step
            best = take_turns(variants, self.clock, self.rounds)
            rows.append(
                {"size": f"16 levels, 2^{log2}", "rows": grid.shape.rows, **{f"{k}, ms": v for k, v in best.items()}}
            )
            print(rows[-1], flush=True)
        settings = {"threads": self.threads, "rounds": self.rounds}
        save_section("hash_grid", "Optimizer", {"settings": settings, "rows": rows})

    def compile(self) -> None:
        """Processor seconds of the first calls, in processes of their own with an empty store and with a full one."""
        code = """
import time, torch
from common_ns.hash_grid import HashGrid, HashGridOptions
torch.set_num_threads(1)
grid = HashGrid(HashGridOptions(implementation="numba", log2_table_size=10))
x, marks = torch.rand(100, 3), [time.process_time()]
def mark():
    marks.append(time.process_time())
y = grid(x); mark()
y.sum().backward(); mark()
torch.autograd.grad(grid(x.requires_grad_()).sum(), x); mark()
print(*(b - a for a, b in zip(marks, marks[1:])))
"""
        rows = []
        with tempfile.TemporaryDirectory() as folder:
            environment = os.environ | {"NUMBA_CACHE_DIR": folder, "OMP_NUM_THREADS": "1"}
            for name in ("first process", "later ones"):
                times = []
                for _ in range(1 if name == "first process" else 3):
                    done = subprocess.run(
                        [sys.executable, "-c", code], env=environment, capture_output=True, check=True
                    )
                    times.append([float(number) for number in done.stdout.split()])
                steps = ("numba itself, features", "the table's gradient", "the positions' gradient")
                rows.append({"process": name, **{f"{step}, s": min(each) for step, each in zip(steps, zip(*times))}})
        save_section("hash_grid", "Compiling", {"settings": {"threads": 1}, "rows": rows})

    def cuda(self) -> None:
        """On a GPU."""
        if not torch.cuda.is_available():
            skipped = {"settings": {"skipped": "there is no CUDA device"}, "rows": []}
            save_section("hash_grid", "CUDA", skipped)
            return

        def clock() -> float:
            torch.cuda.synchronize()
            return time.perf_counter()

        rows = []
        for name, options in SIZES.items():
            grid, names = HashGrid(options), ("torch", "triton", "tinycudann")
            possible = []
            for each in names:
                try:
                    resolve(each, grid.shape, torch.device("cuda"))
                    possible.append(each)
                except ValueError as error:
                    print(error)
            for row in measure(options, self.points, tuple(possible), "cuda", 3 * self.rounds, clock):
                rows.append({"size": name, **row})
        settings = {"points": self.points, "rounds": 3 * self.rounds}
        save_section("hash_grid", "CUDA", {"settings": settings, "rows": rows})


if __name__ == "__main__":
    tyro.cli(Benchmark).main()
