"""Inputs and outputs of the Zip-NeRF authors' code, as tests compare with them.

`mipnerf_ns/data/zip_nerf.json` was made by running, on a CPU in float32, functions of
github.com/jonbarron/camp_zipnerf, commit 8e6d57e3aee34235faf3ef99decca0994efe66c9, on random inputs (numpy's
default_rng(0)):

============  =====================================================================================
hexify        coord.hexify, without a generator and with one (jax.random.PRNGKey(3)), whose draws
              are `flip` and `turn`
contraction   coord.track_isotropic(coord.contract, …) and coord.contract3_isoscale
power_ladder  math.power_ladder
interlevel    stepfun.blur_and_resample_weights, and loss_utils.spline_interlevel_loss ray by ray
weighting     math.approx_erf(1 / (sqrt(8) * std * cells)), as grid_utils.HashEncoding calls it
============  =====================================================================================
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def numbers_of(name: str) -> Any:
    """Those of a row of the table above."""
    return json.loads((Path(__file__).parent / "mipnerf_ns/data/zip_nerf.json").read_text())[name]
