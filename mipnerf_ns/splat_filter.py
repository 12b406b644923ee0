"""Mip-Splatting's 3D smoothing filter: no Gaussian is smaller than what the nearest photograph could tell.

Source: Mip-Splatting (arXiv 2311.16493), section 4.1.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor


def smoothed(
    scales: Float[Tensor, "n 3"],
    opacities: Float[Tensor, "n"],
    intervals: Float[Tensor, "n"],
    variance: float,
) -> tuple[Float[Tensor, "n 3"], Float[Tensor, "n"]]:
    """Gaussians after a low-pass filter of their sampling rate: equation 9.

    Args:
        scales: standard deviations along the axes, in scene units.
        opacities: 0 to 1.
        intervals: see `common_ns.splats.sampling.sampling_intervals`.
        variance: of the filter, in squared intervals (the paper's s, 0.2); 0 changes nothing.
    Returns: scales √(σ² + s/ν̂²), and opacities times √(|Σ| / |Σ + s/ν̂² I|), so that their integral stays.
    """
    if variance == 0.0:
        return scales, opacities
    wider = (scales.square() + variance * intervals.square()[:, None]).sqrt()
    return wider, opacities * (scales / wider).prod(dim=-1)
