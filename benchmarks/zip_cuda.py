"""Zip-NeRF at the paper's size on a CUDA device: runs on a schedule of a given length, and their step beside its floor.

Sections of `benchmarks.captures_cuda`.
"""

from __future__ import annotations

import copy
import statistics
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from nerfstudio.configs.method_configs import all_methods
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig

from benchmarks.cuda_run import ChunkedRun, clock
from benchmarks.mipnerf import device
from benchmarks.zip_floor import Rates, floor_of_parts
from common_ns.hash_grid import HashGridOptions

METHOD = "zip-nerf"

_TINY_GRID = HashGridOptions(num_levels=3, log2_table_size=8, max_resolution=32)

TINY: dict[str, Any] = {
    "num_proposal_samples": (6, 5),
    "num_nerf_samples": 4,
    "grid": _TINY_GRID,
    "proposal_grids": (replace(_TINY_GRID, features_per_level=1),) * 2,
    "hidden_dim": 16,
    "proposal_hidden_dim": 8,
    "bottleneck_dim": 8,
    "num_color_layers": 2,
    "color_hidden_dim": 8,
}
"""A network of every kind of layer, for trying the benchmark out."""

COLUMNS = [
    "precision",
    "points per chunk",
    "ms per step",
    "lowest",
    "highest",
    "rays per second",
    "floor, ms",
    "lookups",
    "networks",
    "optimizer",
    "times its floor",
    "peak GB",
]
"""Of the table of `speed`; lookups, networks and optimizer are parts of the floor in ms."""


def schedule(steps: int) -> dict[str, Any]:
    """The method's optimizers with a schedule of so many steps, of which as large a part is warm-up."""
    optimizers = copy.deepcopy(all_methods[METHOD].optimizers)
    for group in optimizers.values():
        scheduler = group["scheduler"]
        scheduler.warmup_steps = round(scheduler.warmup_steps * steps / scheduler.max_steps)
        scheduler.max_steps = steps
    return optimizers


def start(data: Path, rays: int | None, steps: int, tiny: bool) -> ChunkedRun:
    """A run at its beginning, the same each time.

    Args:
        data: a capture in nerfstudio's layout; its images are taken at their own resolution.
        rays: per training step; None: as the method has it.
        steps: length of the schedule.
        tiny: a tiny network, and images at a tenth of their size.
    """
    torch.manual_seed(42)
    config = copy.deepcopy(all_methods[METHOD].pipeline)
    config.datamanager.data = data
    config.datamanager.dataparser = NerfstudioDataParserConfig(downscale_factor=1)
    if rays is not None:
        config.datamanager.train_num_rays_per_batch = rays
    if tiny:
        config.datamanager.camera_res_scale_factor = 0.1
    config.model = replace(config.model, compute_normals=False, **(TINY if tiny else {}))
    return ChunkedRun(config.setup(device=device(), test_mode="test"), steps, schedule(steps))


@contextmanager
def _products_in(precision: str) -> Iterator[None]:
    """Matrix products in float32, or rounded to TF32."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if precision == "TF32" else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def speed(run: ChunkedRun, rounds: int, steps_per_turn: int, side: int) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The step by number format and chunk, beside its floor.

    Args:
        run: of Zip-NeRF.
        rounds: repetitions.
        steps_per_turn: steps that are timed in each, after one that is not.
        side: of the matrices whose product is the probe of the networks' rate.
    Returns: rows, and the rates that were measured.
    """
    model = run.pipeline.model
    rays, bound = run.pipeline.config.datamanager.train_num_rays_per_batch, model.config.max_points_per_chunk
    rows: list[dict[str, Any]] = []
    settings: dict[str, Any] = {}
    for precision in ("float32", "TF32"):
        with _products_in(precision):
            rates = Rates.measured(model, clock, side)
            settings |= {
                "copies, GB/s": rates.copied / 1e9,
                f"matrix product in {precision}, TFLOP/s": rates.multiplied / 1e12,
            }
            for points in (bound, None):
                model.config.max_points_per_chunk = points
                labels = {"precision": precision, "points per chunk": "no bound" if points is None else f"{points:,}"}
                rows.append({**labels, **_step(run, rays, rounds, steps_per_turn, rates)})
    model.config.max_points_per_chunk = bound
    return rows, {"random rows, G/s": random_rows(model) / 1e9, **settings}


def _step(run: ChunkedRun, rays: int, rounds: int, steps_per_turn: int, rates: Rates) -> dict[str, Any]:
    """One row of `speed`."""
    cuda = torch.cuda.is_available()
    chunk = run.pipeline.max_rays_per_chunk
    run.optimizers.zero_grad_all()
    if cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    times = []
    for _ in range(rounds):
        run.advance(1)
        times.append(run.advance(steps_per_turn) / steps_per_turn)
    seconds, floors = statistics.median(times), floor_of_parts(run.pipeline.model, rays, rates)
    whole = sum(floors.values())
    parts = {
        name: 1e3 * sum(each for part, each in floors.items() if part.startswith(name))
        for name in ("lookups", "networks", "optimizer")
    }
    row: dict[str, Any] = {
        "ms per step": 1e3 * seconds,
        "lowest": 1e3 * min(times),
        "highest": 1e3 * max(times),
        "rays per second": round(rays / seconds),
        "floor, ms": 1e3 * whole,
        **parts,
        "times its floor": seconds / whole,
        "peak GB": torch.cuda.max_memory_allocated() / 1e9 if cuda else "no CUDA device",
    }
    if run.pipeline.max_rays_per_chunk != chunk:
        # What did not fit into the memory was halved: the row is that of smaller chunks.
        row["points per chunk"] = f"halved to {run.pipeline.max_rays_per_chunk:,} rays"
        run.pipeline.max_rays_per_chunk = chunk
    return row


def random_rows(model: Any, count: int = 2**22, rounds: int = 5) -> float:
    """Rows a second that torch gathers at random places of the largest table: what lookups without neighbors take.

    Args:
        model: Zip-NeRF.
        count: rows.
        rounds: repetitions of which the shortest counts.
    """
    table = max(model.tables, key=lambda each: each.numel()).detach()
    index = torch.randint(len(table), (count,), device=table.device)
    times = []
    for _ in range(rounds + 1):
        begin = clock()
        table.index_select(0, index)
        times.append(clock() - begin)
    return count / max(min(times[1:]), 1e-9)
