"""Encodings of positions side by side, each with the same small network: what a training step takes per point.

    python -m benchmarks.sdf_encodings speed              # on the CPU, one thread
    python -m benchmarks.sdf_encodings cuda               # on a GPU

A step is what a loss on normals needs: features, distance and its gradient, and the loss's derivatives by all
parameters. Variants take turns, and the shortest time of each counts; with one CPU thread it is the thread's own time.
"autograd" rows compute the filter banks' sine layers without derivatives written out. A filter bank is a network by
itself, and the paper's has none on top: "one hidden layer" rows have one less there than the others. Each section is
written to benchmarks/results/sdf_encodings.json, the tables to sdf_encodings.md.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Literal
from unittest import mock

import torch
import torch.nn.functional as F
import tyro
from torch import Tensor, nn

from benchmarks.hash_grid import take_turns
from benchmarks.report import save_section, write_sections
from hashnffb_sdf_ns.encodings import Encoding, EncodingConfig, make_encoding
from hashnffb_sdf_ns.encodings import nffb as nffb_module
from hashnffb_sdf_ns.encodings.sine_bands import sine_bands_reference

OPTIONS = EncodingConfig().nffb
VARIANTS: dict[str, tuple[Any, EncodingConfig]] = {
    "posenc": ("posenc", EncodingConfig()),
    "fourier": ("fourier", EncodingConfig()),
    "hash": ("hash", EncodingConfig()),
    **{
        f"nffb, {8 // levels} bands × {width}": (
            "nffb",
            EncodingConfig(nffb=replace(OPTIONS, levels_per_band=levels, width=width)),
        )
        for levels, width in ((2, 16), (2, 24), (2, 32), (1, 16), (1, 32))
    },
    "stylemod-nffb": ("stylemod-nffb", EncodingConfig()),
}
DEFAULT = f"nffb, {8 // OPTIONS.levels_per_band} bands × {OPTIONS.width}"
AUTOGRAD, SHALLOW = f"{DEFAULT}, autograd", f"{DEFAULT}, one hidden layer"
HIDDEN, OUTPUTS = 64, 16


class Head(nn.Module):
    """Position and features → distance and features for the color."""

    def __init__(self, encoding: Encoding, hidden_layers: int = 2) -> None:
        super().__init__()
        self.encoding = encoding
        sizes = (3 + encoding.output_dim, *hidden_layers * (HIDDEN,), OUTPUTS)
        self.layers = nn.ModuleList(nn.Linear(*pair) for pair in pairwise(sizes))

    def network(self, x: Tensor, features: Tensor) -> Tensor:
        hidden = torch.cat([x, features], dim=-1)
        for layer in self.layers[:-1]:
            hidden = F.softplus(layer(hidden), beta=100)
        return self.layers[-1](hidden)

    def with_gradient(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Outputs, and the distance's gradient by the position."""
        direct = x.detach().requires_grad_()
        staged = self.encoding.stage(x.detach())
        z, jacobian = (None, None) if staged is None else staged
        outputs = self.network(direct, self.encoding.finish(direct, z))
        inputs = [direct] if z is None else [direct, z]
        slopes = torch.autograd.grad(outputs[:, 0].sum(), inputs, create_graph=True)
        if jacobian is None:
            return outputs, slopes[0]
        return outputs, slopes[0] + (jacobian * slopes[1][..., None]).sum(1)


def prepare(head: Head, x: Tensor, training: bool) -> Callable[[], object]:
    """A step, or distances alone, as a function without arguments."""

    def step() -> None:
        outputs, gradient = head.with_gradient(x)
        loss = (gradient.norm(dim=1) - 1).square().mean() + outputs.square().mean()
        for parameter in head.parameters():
            parameter.grad = None
        loss.backward()

    def values() -> None:
        with torch.no_grad():
            head.network(x, head.encoding(x))

    return step if training else values


def without_shortcuts(run: Callable[[], object]) -> Callable[[], object]:
    """The same with sine layers left to autograd."""

    def patched() -> None:
        with mock.patch.object(nffb_module, "sine_bands", sine_bands_reference):
            run()

    return patched


def measure(count: int, device: str, clock: Callable[[], float], rounds: int) -> list[dict[str, Any]]:
    """Rows of a table: every encoding, its times, and its ratio to the hash grid's."""
    torch.manual_seed(0)
    x = (2 * torch.rand(count, 3) - 1).to(device)
    heads = {name: Head(make_encoding(*variant)).to(device) for name, variant in VARIANTS.items()}
    heads[SHALLOW] = Head(make_encoding(*VARIANTS[DEFAULT]), hidden_layers=1).to(device)
    rows: dict[str, dict[str, Any]] = {}
    for column, training in (("values", False), ("step", True)):
        runs = {name: prepare(head, x, training) for name, head in heads.items()}
        runs[AUTOGRAD] = without_shortcuts(runs[DEFAULT])
        best = take_turns(runs, clock, rounds, warm_up=2)
        for name, milliseconds in best.items():
            row = rows.setdefault(name, {"points": count, "encoding": name})
            row[f"{column}, µs a point"] = 1000 * milliseconds / count
            row[f"{column}, ratio"] = milliseconds / best["hash"]
    for row in rows.values():
        print(row, flush=True)
    return list(rows.values())


@dataclass
class Benchmark:
    """Measure the encodings."""

    section: tyro.conf.Positional[Literal["speed", "cuda", "table"]]
    """What to measure; table only writes the table again."""
    points: tuple[int, ...] = (4096, 16384)
    """Positions of a step, uniformly random."""
    rounds: int = 7
    """Repetitions of which the shortest counts."""

    def main(self) -> None:
        if self.section == "speed":
            torch.set_num_threads(1)
            self.save("CPU, one thread", "cpu", time.thread_time)
        elif self.section == "cuda":
            if torch.cuda.is_available():
                self.save("CUDA", "cuda", cuda_clock)
            else:
                skipped = {"settings": {"skipped": "there is no CUDA device"}, "rows": []}
                save_section("sdf_encodings", "CUDA", skipped)
        write_sections("sdf_encodings", "Encodings of positions")

    def save(self, section: str, device: str, clock: Callable[[], float]) -> None:
        rows = [row for count in self.points for row in measure(count, device, clock, self.rounds)]
        save_section("sdf_encodings", section, {"settings": {"rounds": self.rounds}, "rows": rows})


def cuda_clock() -> float:
    """Seconds, once the GPU is done."""
    torch.cuda.synchronize()
    return time.perf_counter()


if __name__ == "__main__":
    tyro.cli(Benchmark).main()
