"""The picture of Gaussians in one camera, by whichever implementation is the fastest."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from common_ns.splats import harmonics
from common_ns.splats.dispatch import Implementation, backend, resolve
from common_ns.splats.projection import CONIC, DEPTH, OPACITY, Frame, Projected


class Rendering(NamedTuple):
    """What a camera sees, and what is known of the Gaussians that it may see."""

    color: Float[Tensor, "h w 3"]
    """Over the background; may exceed 1."""
    accumulation: Float[Tensor, "h w 1"]
    """The sum of weights: how much of the background is hidden."""
    depth: Float[Tensor, "h w 1"] | None
    """Mean depth along the optical axis by weight, in scene units; 0 where there is nothing. None without geometry."""
    median_depth: Float[Tensor, "h w 1"] | None
    """Depth of the Gaussian that makes transmittance fall to ½; 0 where it stays above. Has no derivatives. None
    without geometry, and from gsplat while derivatives are recorded."""
    normals: Float[Tensor, "h w 3"] | None
    """Sum by weight of the shortest axes, toward the camera, in the world. None without geometry."""
    info: dict[str, Any]
    """What gsplat's strategies of densification read, for one camera and "packed", that is for the m Gaussians that may
    be seen: means2d [m 2], in pixels, whose `retain_grad()` keeps the derivatives; radii [m], in pixels; gaussian_ids,
    camera_ids, depths, opacities [m] (with `antialiased`, compensated); conics [m 3]; width, height, n_cameras."""


def rasterize(
    means: Float[Tensor, "n 3"],
    quats: Float[Tensor, "n 4"],
    scales: Float[Tensor, "n 3"],
    opacities: Float[Tensor, "n"],
    coefficients: Float[Tensor, "n k 3"],
    viewmat: Float[Tensor, "4 4"],
    K: Float[Tensor, "3 3"],
    width: int,
    height: int,
    *,
    sh_degree: int | None = None,
    background: Float[Tensor, "3"] | None = None,
    antialiased: bool = False,
    geometry: bool = True,
    eps2d: float = 0.3,
    near: float = 0.01,
    far: float = 1e10,
    implementation: Implementation = "auto",
) -> Rendering:
    """Draw Gaussians, with derivatives with respect to all of them, the camera's pose and the background.

    Gaussians with a number that is not finite are left out, and so are quaternions of length zero. The picture is that
    of gsplat 1.4 (arXiv 2409.06765) with the same arguments.

    Args:
        means: in scene units.
        quats: rotations as quaternions w, x, y, z, of any length.
        scales: standard deviations along the axes in scene units, positive.
        opacities: 0 to 1.
        coefficients: of the color's spherical harmonics, in the order of `harmonics`; k is 1, 4, 9 or 16.
        viewmat: world to camera, which looks along +z with y downward (OpenCV).
        K: focal lengths and principal point in pixels; the first pixel's center is at (½, ½).
        width, height: of the picture, in pixels.
        sh_degree: up to which degree the coefficients count; None is all.
        background: color behind all; None is black.
        antialiased: whether opacities make up for what `eps2d` adds to ellipses (Mip-Splatting, arXiv 2311.16493, the
            2D filter): times √(det Σ / det (Σ + eps2d)).
        geometry: whether depth and normals are wanted.
        eps2d: variance in squared pixels that is added to each ellipse.
        near, far: between which depths means are drawn, in scene units.
        implementation: see `dispatch`.
    Raises: ValueError if shapes do not fit together, or the implementation cannot draw here.
    """
    degree = harmonics.degree_of(coefficients.shape[-2]) if sh_degree is None else sh_degree
    _check(means, quats, scales, opacities, coefficients, viewmat, K, degree, near, background)
    (fx, skew, cx), (_, fy, cy), _ = K.tolist()
    if skew:
        raise ValueError(f"The camera's matrix K has a skew of {skew}, which is not supported: make it 0.")
    frame = Frame(width, height, (fx, fy, cx, cy), degree, antialiased, eps2d, near, far)
    name = resolve(implementation, means.device, means.dtype).name
    gaussians = (means, quats, scales, opacities, coefficients, viewmat)
    if name == "gsplat":
        pictures, info = backend(name).draw(*gaussians, K, frame, background, geometry)
    else:
        projected = backend(name).project(*gaussians, frame)
        pictures, info = backend(name).blend(projected, width, height, background, geometry), _info(projected, frame)
    return Rendering(**pictures._asdict(), info=info)


def _check(
    means: Tensor,
    quats: Tensor,
    scales: Tensor,
    opacities: Tensor,
    coefficients: Tensor,
    viewmat: Tensor,
    K: Tensor,
    degree: int,
    near: float,
    background: Tensor | None,
) -> None:
    count = len(means)
    wanted = {"means": (count, 3), "quats": (count, 4), "scales": (count, 3), "opacities": (count,)}
    found: dict[str, Tensor] = dict(zip(wanted, (means, quats, scales, opacities)))
    wanted |= {"coefficients": (count, coefficients.shape[1] if coefficients.dim() == 3 else -1, 3)}
    wanted |= {"viewmat": (4, 4), "K": (3, 3)} | ({} if background is None else {"background": (3,)})
    found |= {"coefficients": coefficients, "viewmat": viewmat, "K": K}
    found |= {} if background is None else {"background": background}
    for name, shape in wanted.items():
        if tuple(found[name].shape) != shape:
            raise ValueError(f"{name} has the shape {tuple(found[name].shape)}, and {shape} is needed.")
    if not 0 <= degree <= harmonics.MAX_DEGREE or harmonics.count(degree) > coefficients.shape[1]:
        least = f"{coefficients.shape[1]} coefficients have no sh_degree {degree}"
        raise ValueError(f"{least}: it is 0 to {harmonics.MAX_DEGREE}, with (sh_degree + 1)² coefficients.")
    if not near > 0:
        raise ValueError(f"near is {near}, and means must be before the camera: give a positive one.")


def _info(projected: Projected, frame: Frame) -> dict[str, Any]:
    """See `Rendering.info`."""
    splats = projected.splats.detach()
    return {
        "means2d": projected.means2d,
        "radii": projected.radii,
        "gaussian_ids": projected.ids,
        "camera_ids": torch.zeros_like(projected.ids),
        "depths": splats[:, DEPTH.start],
        "opacities": splats[:, OPACITY.start],
        "conics": splats[:, CONIC],
        "width": frame.width,
        "height": frame.height,
        "n_cameras": 1,
    }
