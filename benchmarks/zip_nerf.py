"""Zip-NeRF's training step: speed beside nerfstudio's `nerfacto`, and where its time goes beside the floor.

    python -m benchmarks.zip_nerf speed --data DIR   # a capture in nerfstudio's format
    python -m benchmarks.zip_nerf parts --data DIR

`speed` lets `zip-nerf-small`, `mip-nerf-360-small` and `nerfacto`, as it comes, take turns on steps of the same number
of rays; nerfacto takes 256 + 96 + 48 samples of each, zip-nerf-small 32 + 24 + 16. nerfacto's grids are tiny-cuda-nn's
where a CUDA machine has it, else nerfstudio's own in torch. All are in one process, so that what our runs set of it
(`common_ns/allocator.py`) serves nerfacto too. `parts` divides steps of `zip-nerf-small` into their parts; time that is
spent within a part belongs to the innermost. On a CPU, times are those of the process over its threads, which other
work on the machine changes little. The formula of the floor, with rates that are measured in the same run, is in
`benchmarks/zip_floor.py`: the lookups' and the optimizer's bytes at the rate of copies, the networks' operations at the
rate of a large matrix product.

Each section is written to benchmarks/results/zip_nerf.json, the tables to zip_nerf.md.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal
from unittest import mock

import torch
import tyro
from nerfstudio.configs.method_configs import all_methods
from nerfstudio.utils.external import TCNN_EXISTS
from torch import Tensor

from benchmarks.mipnerf import Run, device, our_pipeline
from benchmarks.mipnerf360 import nerfacto_pipeline, sample_capture, seconds
from benchmarks.report import save_section, table, write_sections
from benchmarks.zip_floor import Rates, floor_of_parts
from common_ns.errors import InputError
from common_ns.hash_grid.dispatch import backend
from common_ns.nerfstudio_seam.last_words import report_input_errors

METHOD = "zip-nerf-small"
OTHER = "other"
"""What is in no part: rendering, metrics, checks of gradients."""


def clock() -> float:
    """Seconds of what has been computed, `benchmarks.mipnerf360.seconds` after waiting for the device."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return seconds()


class Stopwatch:
    """Time by part; time within a part belongs to the innermost.

    Args:
        clock: gives the time in seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        self.totals: dict[str, float] = {}
        self._open = [OTHER]
        self._since = clock()

    def enter(self, part: str) -> None:
        """Begin a part within the present one."""
        self._charge()
        self._open.append(part)

    def leave(self) -> None:
        """End the innermost part."""
        self._charge()
        self._open.pop()

    @property
    def present(self) -> str:
        """The innermost part."""
        return self._open[-1]

    def _charge(self) -> None:
        now = self.clock()
        self.totals[self.present] = self.totals.get(self.present, 0.0) + now - self._since
        self._since = now

    def timed(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """A function whose calls are a part."""

        def call(*arguments: Any, **named: Any) -> Any:
            self.enter(part)
            try:
                return function(*arguments, **named)
            finally:
                self.leave()

        return call


class _Mark(torch.autograd.Function):
    """Calls a function when its gradient arrives; changes nothing else."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, call: Callable[[], None]) -> Tensor:
        ctx.call = call
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        ctx.call()
        return gradients[0], None


@contextmanager
def parts_of(run: Run, watch: Stopwatch) -> Iterator[None]:
    """Divide the steps of a run of Zip-NeRF.

    Autograd goes through nodes in the reverse order of their making, and those of a round's network are made one after
    the other: the time from the gradient of its outputs to that of its inputs is the network's.

    Args:
        run: its pipeline's model is Zip-NeRF.
        watch: gets the time of each part.
    Raises: InputError where grids are torch's, whose lookups are no single function.
    """
    pipeline, model = run.pipeline, run.pipeline.model
    name = model.field.grid.resolution().name
    if name not in ("numba", "triton"):
        problem = f"parts are told of grids in numba and triton, and here they are {name}'s"
        raise InputError(problem, "Install numba (CPU) or triton (CUDA)")
    grids: Any = backend(name)
    backward = "networks, backward"

    def begin() -> None:
        if watch.present != backward:
            watch.enter(backward)

    def end() -> None:
        if watch.present == backward:
            watch.leave()

    def marked(function: Callable[..., Tensor], call: Callable[[], None]) -> Callable[..., Tensor]:
        return lambda *arguments: _Mark.apply(function(*arguments), call)  # type: ignore[return-value]

    with ExitStack() as stack:

        def replace(owner: Any, attribute: str, part: str, call: Callable[[], None] | None = None) -> None:
            function = getattr(owner, attribute)
            function = function if call is None else marked(function, call)
            stack.enter_context(mock.patch.object(owner, attribute, watch.timed(part, function)))

        replace(pipeline, "_next_train", "data")
        replace(model.sampler, "rounds", "sampling")
        for field in (*model.proposal, model.field):
            replace(field, "multisamples_of", "points")
            replace(field, "encode", "points", end)
            replace(field, "hidden_of", "networks, forward")
            replace(field, "density_of", "networks, forward", begin)
        replace(model.field, "color", "networks, forward", begin)
        replace(grids, "gaussian_features", "lookups, forward")
        replace(grids, "gaussian_table_gradient", "lookups, backward")
        replace(model, "_regularizers", "losses, forward")
        replace(model, "get_loss_dict", "losses, forward")
        replace(Tensor, "backward", "losses and rendering, backward")
        replace(run.optimizers, "optimizer_step_all", "optimizer")
        replace(run.optimizers, "zero_grad_all", "optimizer")
        yield


@dataclass
class Benchmark:
    """Measure Zip-NeRF's training step."""

    section: tyro.conf.Positional[Literal["speed", "parts", "table"]]
    """What to measure; table only writes the table again."""
    data: Path | None = None
    """A capture in nerfstudio's format; None: the unbounded sample scene."""
    rays: int = 1024
    """Rays per training step."""
    rounds: int = 10
    """Rounds of the speed comparison, in which the models take turns; ten steps each of the parts."""
    warm_up: int = 20
    """Steps before those that are measured."""
    threads: int = 1
    """CPU threads."""

    def main(self) -> None:
        """Run the section."""
        torch.set_num_threads(self.threads)
        if self.section != "table":
            with TemporaryDirectory() as folder:
                getattr(self, self.section)(self.data or sample_capture(Path(folder)))
        write_sections("zip_nerf", "Zip-NeRF", tables=tables)

    def _run(self, method: str, data: Path) -> Run:
        torch.manual_seed(42)
        return Run(our_pipeline(method, data, self.rays), 3000, all_methods[method].optimizers, clock)

    def speed(self, data: Path) -> None:
        """Training rays per second, the models taking turns."""
        nerfacto = all_methods["nerfacto"].optimizers
        runs = {
            METHOD: self._run(METHOD, data),
            "mip-nerf-360-small": self._run("mip-nerf-360-small", data),
            "nerfacto": Run(nerfacto_pipeline(data, self.rays), 3000, nerfacto, clock),
        }
        times: dict[str, list[float]] = {name: [] for name in runs}
        for run in runs.values():
            run.advance(2)
        for _ in range(self.rounds):
            for name, run in runs.items():
                times[name].append(run.advance(2) / 2)
        rows = []
        for name, each in times.items():
            ratios = [host / own for host, own in zip(times["nerfacto"], each)]
            rows.append(
                {
                    "model": name,
                    "rays per second": round(self.rays / statistics.median(each)),
                    "ms per step": 1e3 * statistics.median(each),
                    "ratio to nerfacto": statistics.median(ratios),
                    "lowest ratio": min(ratios),
                    "highest ratio": max(ratios),
                }
            )
            print(rows[-1], flush=True)
        grids = "tiny-cuda-nn" if device() == "cuda" and TCNN_EXISTS else "torch"
        self._save("speed", rows, rounds=self.rounds, **{"nerfacto's grids": grids})

    def parts(self, data: Path) -> None:
        """Milliseconds of each part of a step, beside its floor."""
        run, steps = self._run(METHOD, data), 10 * self.rounds
        run.advance(self.warm_up)
        rates = Rates.measured(run.pipeline.model, clock)
        watch = Stopwatch(clock)
        with parts_of(run, watch):
            run.advance(steps)
        floors = floor_of_parts(run.pipeline.model, self.rays, rates)
        whole, floor = sum(watch.totals.values()), sum(floors.values())
        rows: list[dict[str, Any]] = []
        for part, total in sorted(watch.totals.items(), key=lambda each: -each[1]):
            row = {"part": part, "ms": 1e3 * total / steps, "%": 100 * total / whole}
            if part in floors:
                row |= {"floor, ms": 1e3 * floors[part], "times its floor": total / steps / floors[part]}
            rows.append(row)
        whole_row = {"part": "step", "ms": 1e3 * whole / steps, "%": 100.0, "floor, ms": 1e3 * floor}
        rows.append({**whole_row, "times its floor": whole / steps / floor})
        for row in rows:
            print(row, flush=True)
        rate = {"copies, GB/s": rates.copied / 1e9, "matrix product, GFLOP/s": rates.multiplied / 1e9}
        self._save("parts", rows, steps=steps, **rate)

    def _save(self, section: str, rows: list[dict], **settings: Any) -> None:
        settings = {
            "data": self.data.name if self.data else "sample scene",
            "threads": self.threads,
            "rays": self.rays,
            **settings,
        }
        save_section("zip_nerf", section, {"settings": settings, "rows": rows})


def tables(section: str, rows: list[dict[str, Any]]) -> list[str]:
    """The table of a section."""
    columns = {
        "speed": ["model", "rays per second", "ms per step", "ratio to nerfacto", "lowest ratio", "highest ratio"],
        "parts": ["part", "ms", "%", "floor, ms", "times its floor"],
    }
    return [table(rows, columns[section])]


if __name__ == "__main__":
    report_input_errors()
    tyro.cli(Benchmark).main()
