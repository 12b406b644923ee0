"""What the floor of splats counts is what is drawn."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("numba")

from benchmarks import splats
from common_ns.splats import rasterize
from common_ns.splats.projection import project
from tests.common_ns.splats.test_projection import frame_of
from tests.common_ns.splats.test_reference import pixel


def test_counted_pairs_are_those_of_a_loop_over_gaussians(monkeypatch):
    """At every pixel of a small scene: as many pairs as are blended there."""
    size = splats.Size(60, 24, 20, 1, 1.5)
    scene = splats.scene_of(size)
    monkeypatch.setattr(splats, "_count", splats._count.py_func)  # no compiler for so few
    counts = splats.counts_of(rasterize(**scene, implementation="numba"), size)
    names = ("means", "quats", "scales", "opacities", "coefficients", "viewmat")
    values = [scene[name].detach().double() for name in names]
    projected = project(*values, frame_of(scene, sh_degree=1))
    pairs = sum(len(pixel(projected, x, y)[0]) for y in range(size.height) for x in range(size.width))
    assert counts["pairs blended"] == pairs > 500
    assert counts["pairs blended"] <= counts["pairs seen"] <= counts["pairs computed"]
    assert counts["Gaussians seen"] == len(projected.ids)


def test_the_floor_grows_with_what_it_counts():
    size = splats.Size(1000, 40, 30, 3, 1.0)
    counts = {"Gaussians seen": 900, "entries": 2000, "pairs blended": 50_000}
    forward, backward = splats.floor_of(size, counts, copied=10.0, computed=50.0)
    assert 0 < forward < backward
    for name in counts:
        more = splats.floor_of(size, {**counts, name: 2 * counts[name]}, copied=10.0, computed=50.0)
        assert more[0] > forward and more[1] > backward
    slower = splats.floor_of(size, counts, copied=5.0, computed=25.0)
    assert torch.tensor(slower).tolist() == pytest.approx([2 * forward, 2 * backward])
