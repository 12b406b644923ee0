"""The torch implementation against a loop over pixels and Gaussians, gsplat's own, and finite differences."""

from __future__ import annotations

import math
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from common_ns.splats import rasterize
from common_ns.splats.projection import Projected
from common_ns.splats.reference import blend, project
from tests.common_ns.splats.scenes import GAUSSIANS, PICTURES, camera, cloud, draw
from tests.common_ns.splats.test_projection import frame_of

DOUBLE = torch.float64


def projected_cloud(count=60, size=0.12) -> tuple[Projected, dict]:
    view = camera()
    scene = {name: value.double() for name, value in cloud(count, size).items()}
    scene["opacities"] = scene["opacities"].sqrt()  # so that some pixels are done early
    return project(*scene.values(), view["viewmat"].double(), frame_of(view)), view


def pixel(projected: Projected, x: int, y: int) -> tuple[list[tuple[int, float]], float, float]:
    """What is blended at a pixel, one Gaussian after the other: their numbers and weights; transmittance; median."""
    means, splats, radii = (value.tolist() for value in projected[:3])
    found, transmittance, median = [], 1.0, 0.0
    for i in np.argsort(projected.splats[:, 7].numpy(), kind="stable"):
        u, v = means[i]
        a, b, c, opacity, *_, depth = splats[i][:8]
        across = math.floor((u - radii[i]) / 16) <= x // 16 < math.ceil((u + radii[i]) / 16)
        down = math.floor((v - radii[i]) / 16) <= y // 16 < math.ceil((v + radii[i]) / 16)
        dx, dy = u - x - 0.5, v - y - 0.5
        alpha = min(opacity * math.exp(-0.5 * (a * dx * dx + 2 * b * dx * dy + c * dy * dy)), 0.999)
        if not (across and down) or alpha < 1 / 255:
            continue
        after = transmittance * (1 - alpha)
        if after <= 1e-4:
            break
        if transmittance > 0.5 >= after:
            median = depth
        found.append((int(i), transmittance * alpha))
        transmittance = after
    return found, transmittance, median


def test_blending_is_that_of_a_loop_over_gaussians():
    projected, view = projected_cloud(150, 0.3)
    background = torch.tensor([0.3, 0.1, 0.7]).double()
    pictures = blend(projected, view["width"], view["height"], background, geometry=True)
    done = 0
    for y in range(0, view["height"], 3):
        for x in range(0, view["width"], 4):
            found, transmittance, median = pixel(projected, x, y)
            ids, weights = [i for i, _ in found], torch.tensor([w for _, w in found]).double()
            sums = weights @ projected.splats[ids, 4:]
            done += transmittance < 2e-3
            torch.testing.assert_close(pictures.accumulation[y, x, 0], weights.sum())
            torch.testing.assert_close(pictures.color[y, x], sums[:3] + transmittance * background)
            torch.testing.assert_close(pictures.depth[y, x, 0], sums[3] / max(float(weights.sum()), 1e-10))
            torch.testing.assert_close(pictures.normals[y, x], sums[4:])
            assert float(pictures.median_depth[y, x, 0]) == median
    assert done > 10


def weights_of_pairs(alphas, ray_indices, n_rays):
    """What nerfacc has for CUDA only: weights of pairs and their transmittance, pixel by pixel."""
    transmittance, weights = torch.ones(n_rays, dtype=alphas.dtype), []
    for alpha, ray in zip(alphas, ray_indices.tolist()):
        weights.append(alpha * transmittance[ray])
        transmittance[ray] *= 1 - alpha
    return torch.stack(weights), transmittance


def sums_of_pairs(weights, values, ray_indices, n_rays):
    values = torch.ones(len(weights), 1).to(weights) if values is None else values
    return torch.zeros(n_rays, values.shape[-1]).to(values).index_add(0, ray_indices, weights[:, None] * values)


def test_blending_of_pairs_is_gsplats(monkeypatch):
    """gsplat's own torch implementation, given the pairs of Gaussians and pixels in their order."""
    gsplat = pytest.importorskip("gsplat.cuda._torch_impl")
    stand_in = SimpleNamespace(render_weight_from_alpha=weights_of_pairs, accumulate_along_rays=sums_of_pairs)
    monkeypatch.setitem(sys.modules, "nerfacc", stand_in)
    view, scene = camera(21, 18, 20.0), {name: value.double() for name, value in cloud(40).items()}
    projected = project(*scene.values(), view["viewmat"].double(), frame_of(view))
    width, height = view["width"], view["height"]
    pairs = [(i, y * width + x) for y in range(height) for x in range(width) for i, _ in pixel(projected, x, y)[0]]
    ids, pixels = torch.tensor(pairs).T
    conics, opacities, values = (projected.splats[None, :, part] for part in (slice(3), 3, slice(4, 7)))
    means2d, cameras = projected.means2d[None], torch.zeros_like(ids)
    colors, alphas = gsplat.accumulate(means2d, conics, opacities, values, ids, pixels, cameras, width, height)
    pictures = blend(projected, width, height, None, geometry=False)
    assert (pictures.accumulation > 0.5).any()
    torch.testing.assert_close(pictures.color, colors[0])
    torch.testing.assert_close(pictures.accumulation, alphas[0])


@pytest.mark.parametrize("antialiased", [False, True])
@pytest.mark.parametrize("name", [*GAUSSIANS, "viewmat", "background"])
def test_derivatives_are_finite_differences(name, antialiased):
    """Along a random direction, of a random sum of all pictures: where nothing is decided otherwise within the step,
    which at Gaussians that are cut off at 1/255 somewhere is never exactly so, hence the tolerance."""
    view, scene = camera(20, 15, 16.0), cloud(12, 0.35)
    scene["opacities"] = 0.5 + 0.3 * scene["opacities"]
    _, derivatives = draw(scene, view, "torch", DOUBLE, antialiased=antialiased)
    background = torch.tensor([0.2, 0.5, 0.9])
    values = {**scene, "viewmat": view["viewmat"], "background": background}
    change = torch.randn(values[name].shape, generator=torch.Generator().manual_seed(4))
    if name == "viewmat":
        change[3] = 0
    step = 3e-6

    def total(sign: float) -> torch.Tensor:
        moved = {key: value.double() for key, value in values.items()}
        moved[name] = moved[name] + sign * step * change.double()
        K = view["K"].double()
        given = {"K": K, "width": view["width"], "height": view["height"], "antialiased": antialiased}
        found = rasterize(**moved, **given, implementation="torch")
        generator, result = torch.Generator().manual_seed(1), torch.zeros((), dtype=DOUBLE)
        for picture in PICTURES:
            image = getattr(found, picture)
            result = result + (image * torch.randn(image.shape, generator=generator).double()).sum()
        return result

    expected = (total(1) - total(-1)) / (2 * step)
    found = (derivatives[name] * change).sum()
    torch.testing.assert_close(found, expected, rtol=2e-4, atol=1e-4)


@pytest.mark.parametrize(
    "name, bad",
    [*((name, bad) for name in GAUSSIANS for bad in (math.nan, math.inf)), ("means", 1e30), ("scales", 1e30)],
)
@pytest.mark.parametrize("implementation", ["torch", "numba"])
def test_gaussians_that_are_not_finite_are_left_out(name, bad, implementation):
    """One more, with such a number, changes nothing; and derivatives are finite. 1e30 overflows when it is squared."""
    view, scene = camera(), cloud(20)
    expected, _ = draw(scene, view, implementation, torch.float32)
    more = {key: torch.cat([value[:1] * 0 + (1 if key == "scales" else 0), value]) for key, value in scene.items()}
    more["quats"][0, 0], more["opacities"][0] = 1.0, 0.9
    more[name].view(len(more[name]), -1)[0, -1] = bad
    found, derivatives = draw(more, view, implementation, torch.float32)
    for picture in PICTURES:
        torch.testing.assert_close(getattr(found, picture), getattr(expected, picture), atol=1e-6, rtol=1e-5)
    assert all(value.isfinite().all() for value in derivatives.values())
    assert 0 not in found.info["gaussian_ids"]
