"""How finely photographs have seen each place.

Source: Mip-Splatting (arXiv 2311.16493), section 4.1.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

MARGIN = 0.15
"""Part of a picture's side by which a mean may lie beside the picture and still counts as seen, as in the authors'
code: Gaussians there reach into it."""


def sampling_intervals(
    means: Float[Tensor, "n 3"],
    viewmats: Float[Tensor, "c 4 4"],
    intrinsics: Float[Tensor, "c 4"],
    sizes: Float[Tensor, "c 2"],
    near: float = 0.01,
) -> Float[Tensor, "n"]:
    """Side in scene units of the smallest pixel that any camera sees a mean in: depth / focal length, equation 7's 1/ν̂.

    Means that no camera sees get the largest interval of those that are seen, as in the authors' code; without any, 0.

    Args:
        means: in scene units.
        viewmats: world to camera, which looks along +z with y downward (OpenCV).
        intrinsics: fx, fy, cx, cy in pixels. Of two focal lengths the larger counts.
        sizes: width and height in pixels.
        near: least depth at which a mean is seen, in scene units.
    """
    smallest = means.new_full((len(means),), torch.inf)
    for viewmat, (fx, fy, cx, cy), (width, height) in zip(viewmats, intrinsics.tolist(), sizes.tolist()):
        x, y, depth = (means @ viewmat[:3, :3].T + viewmat[:3, 3]).unbind(-1)
        in_front = depth > near
        safe = torch.where(in_front, depth, 1.0)
        column, row = fx * x / safe + cx, fy * y / safe + cy
        inside = (column - 0.5 * width).abs() <= (0.5 + MARGIN) * width
        inside &= (row - 0.5 * height).abs() <= (0.5 + MARGIN) * height
        interval = torch.where(in_front & inside, depth / max(fx, fy), torch.inf)
        smallest = torch.minimum(smallest, interval)
    seen = torch.isfinite(smallest)
    largest = smallest[seen].max() if bool(seen.any()) else smallest.new_zeros(())
    return torch.where(seen, smallest, largest)
