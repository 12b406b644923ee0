"""Splats in numba against torch in double precision, and that threads change nothing."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np
import pytest
import torch

pytest.importorskip("numba")

from common_ns.splats import numba_cpu, numba_kernels, rasterize
from tests.common_ns.splats.scenes import PICTURES, camera, cloud, draw


def check(scene, view, tolerance=2e-5, atol=1e-5, **options):
    """Pictures; and derivatives by everything, their error beside the largest of their kind."""
    found, derivatives = draw(scene, view, "numba", torch.float32, **options)
    expected, exact = draw(scene, view, "torch", torch.float64, **options)
    for name in (*PICTURES, "median_depth"):
        if getattr(expected, name) is None:
            assert getattr(found, name) is None
        else:
            torch.testing.assert_close(getattr(found, name).double(), getattr(expected, name), atol=atol, rtol=1e-4)
    for name in ("gaussian_ids", "radii"):
        torch.testing.assert_close(found.info[name], expected.info[name])
    assert derivatives.keys() == exact.keys()
    for name, value in exact.items():
        if value.numel():
            error = (derivatives[name].double() - value).abs().max() / value.abs().max().clamp(min=1e-6)
            assert error < tolerance, f"{name} is off by {error:.2g}"
    return found


@pytest.mark.parametrize("antialiased", [False, True])
@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_same_as_torch(degree, antialiased):
    check(cloud(degree=degree), camera(), antialiased=antialiased)


def test_coefficients_beyond_the_degree_do_not_count():
    view = camera()
    _, derivatives = draw(cloud(), view, "numba", torch.float32, sh_degree=1)
    assert (derivatives["coefficients"][:, 4:] == 0).all() and (derivatives["coefficients"][:, :4] != 0).any()
    check(cloud(), view, sh_degree=1)


@pytest.mark.parametrize("width, height", [(1, 1), (8, 16), (33, 17), (16, 70)])
def test_pictures_that_are_not_whole_tiles(width, height):
    check(cloud(40), camera(width, height, focal=20.0), antialiased=False)


@pytest.mark.parametrize("size", [1e-4, 0.02, 1.5, 20.0])
def test_sizes_from_far_below_a_pixel_to_beyond_the_picture(size):
    """Also needles: Gaussians differ by e^0.8 in their axes at one standard deviation."""
    check(cloud(30, size), camera(), antialiased=size < 1, tolerance=1e-4)


def test_needles_across_tiles():
    scene = cloud(60)
    scene["scales"] = torch.tensor([1.0, 0.01, 0.003]) * (0.5 + torch.rand(60, 1, generator=torch.Generator()))
    # Their conics' large numbers cancel along the needle, in float32.
    check(scene, camera(150, 110, 90.0), tolerance=1e-3, atol=3e-4)


def test_dense_scenes_stop_early():
    """Where pixels are done, lists of tiles are not followed to their ends; nothing changes by it."""
    scene = cloud(1500, 0.3)
    scene["opacities"] = scene["opacities"].sqrt()
    view = camera(40, 40)
    found = check(scene, view, tolerance=3e-4)
    function = found.color.grad_fn
    read = function.ends - function.lists.starts[:-1]
    assert (found.accumulation > 0.99).all() and read.sum() < 0.7 * len(function.lists.entries)


@pytest.mark.parametrize(
    "change",
    [
        lambda scene: scene["means"].sub_(torch.tensor([0.0, 0.0, 9.0])),  # behind the camera
        lambda scene: scene["opacities"].zero_(),
        lambda scene: scene.update({name: value[:0] for name, value in scene.items()}),
    ],
    ids=["behind", "opacity zero", "none"],
)
def test_nothing_to_be_seen_is_background(change):
    scene = cloud(20)
    change(scene)
    found = check(scene, camera())
    torch.testing.assert_close(found.color, torch.tensor([0.2, 0.5, 0.9]).expand_as(found.color))
    assert (found.accumulation == 0).all() and (found.depth == 0).all() and (found.median_depth == 0).all()


def test_planes_bound_what_is_drawn():
    found = check(cloud(100), camera(), near=2.5, far=3.5)
    assert 0 < len(found.info["depths"]) < 90
    assert ((found.info["depths"] >= 2.5) & (found.info["depths"] <= 3.5)).all()


def test_equal_depths_are_drawn_in_their_order():
    scene = cloud(12, 0.5)
    view = camera()
    view["viewmat"] = torch.eye(4)
    scene["means"][:, 2] = 2.0
    first = check(scene, view)
    assert (first.info["depths"] == 2.0).all()


def test_without_geometry():
    check(cloud(), camera(), geometry=False)


def test_gaussians_in_another_order_of_memory_give_the_same():
    """Transposed and sliced tensors, whose numbers do not lie one after the other."""
    scene, view = cloud(), camera()
    expected, _ = draw(scene, view, "numba", torch.float32)
    strided = {name: torch.stack([value, value], 1)[:, 0] for name, value in scene.items()}
    found = rasterize(**strided, **view, background=torch.tensor([0.2, 0.5, 0.9]), implementation="numba")
    assert torch.equal(found.color, expected.color)


def test_threads_change_no_bit():
    """Also with several callers at a time, as a trainer and a viewer are."""
    scene, view = cloud(numba_cpu.SMALL + 10500, 0.05), camera(120, 90, 90.0)
    threads, results = torch.get_num_threads(), []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            results.append(draw(scene, view, "numba", torch.float32))
        with ThreadPoolExecutor(2) as pool:
            results += pool.map(lambda _: draw(scene, view, "numba", torch.float32), range(2))
    finally:
        torch.set_num_threads(threads)
    first, derivatives = results[0]
    for found, other in results[1:]:
        for name in (*PICTURES, "median_depth"):
            assert torch.equal(getattr(found, name), getattr(first, name)), name
        for name, value in derivatives.items():
            assert torch.equal(other[name], value), name


def test_power_is_exact_to_a_few_units_in_the_last_place():
    from numba import njit

    x = np.linspace(0, 110, 100_001, dtype=np.float32)
    power = njit(lambda x: numba_kernels._power(x))
    found = np.array([power(value) for value in x[::37]], np.float64)
    error = np.abs(found / 2.0 ** -x[::37].astype(np.float64) - 1)
    assert error.max() < 4e-7


def test_depth_order_is_stable():
    """Of tiles with none, one and many Gaussians, with depths that differ in all of their bytes or in few."""
    generator = torch.Generator().manual_seed(0)
    wide = 10 ** (20 * torch.rand(3000, generator=generator) - 10)
    lists = [torch.zeros(0), torch.ones(1), wide.round(decimals=9), 2 + torch.rand(500, generator=generator).round()]
    starts = np.cumsum([0, *map(len, lists)])
    depths = torch.cat(lists).numpy()
    entries, keys = np.arange(len(depths)), depths.view(np.uint32).copy()
    scratch = np.empty(3000, np.int64), np.empty(3000, np.uint32), np.empty((4, 256), np.int64)
    numba_kernels.sort_tiles(starts, 0, 4, entries, keys, *scratch)
    expected = [start + depths[start:stop].argsort(kind="stable") for start, stop in pairwise(starts)]
    assert (depths[starts[2] : starts[3]] == depths[starts[2]]).sum() < 3000
    assert entries.tolist() == np.concatenate(expected).tolist()
