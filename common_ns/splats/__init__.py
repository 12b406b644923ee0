"""Pictures of 3D Gaussians (arXiv 2308.04079), with derivatives, on every device.

    from common_ns.splats import rasterize

    picture = rasterize(means, quats, scales, opacities, coefficients, viewmat, K, width, height)
    picture.color  # [height width 3]

Nothing here needs nerfstudio.
"""

from common_ns.splats.dispatch import Implementation, Resolution, resolve
from common_ns.splats.drawing import Rendering, rasterize

__all__ = ["Implementation", "Rendering", "Resolution", "rasterize", "resolve"]
