"""What is refused, and what a strategy of densification gets."""

from __future__ import annotations

import ast

import pytest
import torch

from common_ns.splats import rasterize
from tests.common_ns.splats.scenes import camera, cloud
from tests.test_layout import ROOT, imported_at_once


@pytest.mark.parametrize(
    "change, problem",
    [
        ({"means": torch.zeros(80, 2)}, "means has the shape"),
        ({"opacities": torch.zeros(80, 1)}, "opacities has the shape"),
        ({"coefficients": torch.zeros(80, 5, 3)}, "5 coefficients"),
        ({"sh_degree": 4}, "no sh_degree 4"),
        ({"coefficients": torch.zeros(80, 4, 3), "sh_degree": 2}, "no sh_degree 2"),
        ({"near": 0.0}, "near is 0"),
        ({"K": torch.tensor([[9.0, 0.5, 4], [0, 9, 4], [0, 0, 1]])}, "skew"),
        ({"background": torch.zeros(1, 3)}, "background has the shape"),
        ({"implementation": "gsplat"}, "cannot draw here"),
    ],
)
def test_what_does_not_fit_is_refused(change, problem):
    with pytest.raises(ValueError, match=problem):
        rasterize(**{**cloud(), **camera(), **change})


def test_a_strategy_of_gsplat_reads_the_information():
    """Its default one, which divides and removes Gaussians, works on what is returned."""
    strategies = pytest.importorskip("gsplat.strategy")
    scene = cloud(100)
    scene["coefficients"] = scene["coefficients"][:, :1]
    params = torch.nn.ParameterDict(
        {
            "means": scene["means"],
            "scales": scene["scales"].log(),
            "quats": scene["quats"],
            "opacities": scene["opacities"].logit(eps=1e-3),
            "sh0": scene["coefficients"],
        }
    )
    optimizers = {name: torch.optim.Adam([value], lr=1e-3) for name, value in params.items()}
    strategy = strategies.DefaultStrategy(refine_start_iter=0, refine_every=1, grow_grad2d=1e-9)
    state = strategy.initialize_state(scene_scale=1.0)
    for step in (1, 2):
        found = rasterize(
            params["means"],
            params["quats"],
            params["scales"].exp(),
            params["opacities"].sigmoid(),
            params["sh0"],
            **camera(),
        )
        strategy.step_pre_backward(params, optimizers, state, step, found.info)
        found.color.square().mean().backward()
        assert found.info["means2d"].grad.abs().max() > 0
        strategy.step_post_backward(params, optimizers, state, step, found.info, packed=True)
    assert len(params["means"]) > 100


def test_importing_it_needs_no_nerfstudio():
    """Nor what of the suite does, outside functions."""
    for file in (ROOT / "common_ns" / "splats").glob("*.py"):
        names = set(imported_at_once(ast.parse(file.read_text())))
        assert not [name for name in names if name.startswith("nerfstudio")]
        assert all(name.startswith("common_ns.splats") for name in names if name.startswith("common_ns"))
