"""What gsplat is asked for, by a stand-in that keeps it; its kernels need a GPU."""

from __future__ import annotations

import inspect
import sys
from types import SimpleNamespace

import pytest
import torch

from common_ns.splats import dispatch, gsplat_cuda, resolve
from common_ns.splats.projection import project
from common_ns.splats.reference import blend
from tests.common_ns.splats.scenes import camera, cloud
from tests.common_ns.splats.test_projection import frame_of

CUDA = torch.device("cuda")


@pytest.fixture
def asked(monkeypatch):
    """The arguments of gsplat's function, by their names; it answers with pictures of numbered channels."""
    library, kept = pytest.importorskip("gsplat"), {}
    signature = inspect.signature(library.rasterization)

    def rasterization(*arguments, **named):
        bound = signature.bind(*arguments, **named)  # raises for what gsplat does not know
        kept.update(bound.arguments)
        channels = (3 if kept.get("sh_degree") is not None else kept["colors"].shape[-1]) + (
            kept["render_mode"] == "RGB+ED"
        )
        picture = torch.arange(float(channels)).expand(1, kept["height"], kept["width"], channels)
        seen = torch.arange(len(kept["means"]))
        return picture, torch.ones_like(picture[..., :1]), {"gaussian_ids": seen}

    monkeypatch.setattr(library, "rasterization", rasterization)
    return kept


def ask(geometry, scene=None, **options):
    view, scene = camera(), scene or cloud(30)
    frame = frame_of(view, **options)
    background = torch.tensor([0.1, 0.2, 0.3])
    pictures, info = gsplat_cuda.draw(*scene.values(), view["viewmat"], view["K"], frame, background, geometry)
    return scene, view, pictures, info


def test_colors_are_gsplats_own_harmonics(asked):
    scene, view, pictures, _ = ask(False, sh_degree=2, antialiased=True, eps2d=0.1, near=0.5, far=9.0)
    assert torch.equal(asked["colors"], scene["coefficients"]) and asked["sh_degree"] == 2
    assert (asked["render_mode"], asked["rasterize_mode"], asked["packed"]) == ("RGB", "antialiased", True)
    assert (asked["eps2d"], asked["near_plane"], asked["far_plane"]) == (0.1, 0.5, 9.0)
    assert (asked["width"], asked["height"]) == (view["width"], view["height"])
    assert torch.equal(asked["viewmats"][0], view["viewmat"]) and torch.equal(asked["Ks"][0], view["K"])
    assert asked["backgrounds"].tolist() == [pytest.approx([0.1, 0.2, 0.3])]
    assert pictures.color.shape == (37, 45, 3) and pictures.depth is None and pictures.normals is None


def test_with_geometry_colors_and_normals_are_ours(asked):
    scene, view, pictures, _ = ask(True)
    assert asked["sh_degree"] is None and asked["render_mode"] == "RGB+ED" and asked["rasterize_mode"] == "classic"
    seen = project(*scene.values(), view["viewmat"], frame_of(view))
    torch.testing.assert_close(asked["colors"][seen.ids], seen.splats[:, [4, 5, 6, 8, 9, 10]])
    assert asked["backgrounds"].shape == (1, 6) and (asked["backgrounds"][0, 3:] == 0).all()
    assert pictures.color[0, 0].tolist() == [0, 1, 2] and pictures.normals[0, 0].tolist() == [3, 4, 5]
    assert pictures.depth[0, 0].tolist() == [6] and pictures.median_depth is None


def test_gaussians_that_are_not_finite_do_not_reach_gsplat(asked):
    scene = cloud(30)
    scene["means"][4, 1], scene["opacities"][7] = torch.nan, torch.inf
    _, _, _, info = ask(False, scene)
    assert len(asked["means"]) == 28 and asked["means"].isfinite().all()
    assert info["gaussian_ids"].tolist() == [i for i in range(30) if i not in (4, 7)]


def test_median_of_pairs_is_that_of_torch():
    """Given the pairs pixel by pixel from front to back, as gsplat lists them."""
    view, scene = camera(), {name: value.double() for name, value in cloud(40, 0.3).items()}
    seen = project(*scene.values(), view["viewmat"].double(), frame_of(view))
    width, height = view["width"], view["height"]
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    order = seen.splats[:, 7].argsort()
    dx, dy = seen.means2d[order, 0] - x[..., None], seen.means2d[order, 1] - y[..., None]
    a, b, c, opacity = seen.splats[order, :4].unbind(-1)
    alphas = (opacity * torch.exp(-0.5 * (a * dx * dx + c * dy * dy) - b * dx * dy)).clamp(max=0.999)
    reach = seen.radii[order, None] / 16
    first, last = (seen.means2d[order] / 16 - reach).floor(), (seen.means2d[order] / 16 + reach).ceil()
    tile = torch.stack([(x / 16).floor(), (y / 16).floor()], -1)[..., None, :]
    alphas[~((first <= tile) & (tile < last)).all(-1) | (alphas < 1 / 255)] = 0
    pixels, ranks = torch.nonzero(alphas.flatten(0, 1), as_tuple=True)
    found = gsplat_cuda.median_of_pairs(
        pixels, alphas.flatten(0, 1)[pixels, ranks], seen.splats[order[ranks], 7], width * height
    )
    expected = blend(seen, width, height, None, True).median_depth
    assert (expected > 0).sum() > 100
    torch.testing.assert_close(found, expected.flatten())


def test_without_kernels_torch_draws_and_a_line_says_why(monkeypatch, capsys):
    resolve.cache_clear()
    monkeypatch.setitem(sys.modules, "gsplat.cuda._backend", SimpleNamespace(_C=None))
    found = resolve("auto", CUDA)
    assert found.name == "torch" and "no CUDA toolkit" in found.reason
    assert capsys.readouterr().out.count("\n") == 1
    with pytest.raises(ValueError, match="nvcc"):
        resolve("gsplat", CUDA)
    resolve.cache_clear()


def test_kernels_that_do_not_compile_are_a_reason(monkeypatch):
    def fail(name):
        raise RuntimeError("Error building extension 'gsplat_cuda'\nmany lines")

    monkeypatch.setattr(gsplat_cuda.importlib, "import_module", fail)
    reason = gsplat_cuda.refusal(CUDA, torch.float32)
    assert reason is not None and "Error building extension" in reason and "many lines" not in reason


def test_the_fastest_is_chosen(monkeypatch):
    resolve.cache_clear()
    monkeypatch.setitem(sys.modules, "gsplat.cuda._backend", SimpleNamespace(_C=object()))
    assert resolve("auto", CUDA).name == "gsplat"
    assert resolve("auto", torch.device("cpu")).name == "numba"
    assert resolve("auto", torch.device("cpu"), torch.float64).name == "torch"
    assert dispatch.backend("torch").__name__.endswith("reference")
    with pytest.raises(ValueError, match="CUDA GPUs"):
        resolve("gsplat", torch.device("cpu"))
    resolve.cache_clear()
