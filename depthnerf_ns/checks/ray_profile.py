"""How opacity rises along single rays, against the bounds that their depth sets: the numbers and the figure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from nerfstudio.cameras.cameras import Cameras
from torch import Tensor
from torch.special import ndtr

from depthnerf_ns.depth_losses import expected_depth

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from depthnerf_ns.base_model import DepthModel


@dataclass(frozen=True)
class RayProfile:
    """Opacity along a ray, in the unit of the poses (meters, mostly)."""

    pixel: tuple[int, int]
    """Column and row."""
    t: Float[Tensor, " s+1"]
    """Ends of the last round's intervals, as ray distance."""
    opacity: Float[Tensor, " s+1"]
    """Opacity reached there."""
    rendered: float
    """Mean ray distance at which the ray ends."""
    measured: float | None
    """Measured depth; None: there is none."""
    epsilon: float
    """Standard deviation of where the ray ends."""
    beta: float
    """Known error of depth and poses in units of epsilon."""

    def bounds(self) -> tuple[Float[Tensor, " s+1"], Float[Tensor, " s+1"]]:
        """Least and most opacity that the weight bounds allow at `t`: W may not fall below the first beyond the depth,
        and not exceed the second before it."""
        assert self.measured is not None
        offset = (self.t - self.measured) / self.epsilon
        low, high = ndtr(offset - self.beta), ndtr(offset + self.beta)
        return torch.where(offset > 0, low, 0.0), torch.where(offset > 0, 1.0, high)


@torch.no_grad()
def ray_profile(
    model: DepthModel, camera: Cameras, depth: Float[Tensor, "h w 1"] | None, pixel: tuple[int, int]
) -> RayProfile:
    """Send one ray through a model.

    Args:
        model: in evaluation mode.
        camera: one camera.
        depth: the image's measured ray distance in scene units, 0 where there is none.
        pixel: column and row.
    """
    column, row = pixel
    coords = torch.tensor([[row + 0.5, column + 0.5]], device=camera.device)
    rays = camera.generate_rays(camera_indices=torch.zeros(1, 1, dtype=torch.long), coords=coords).to(model.device)
    assert model.collider is not None
    last = model.sampler.rounds(model.collider(rays), model.round_fields)[-1]
    frustums, weights = last.samples.frustums, last.weights[0, :, 0].cpu()
    t = torch.cat([frustums.starts[0, :, 0], frustums.ends[0, -1:, 0]]).cpu()
    measured = 0.0 if depth is None else float(depth[row, column, 0])
    return RayProfile(
        pixel,
        t / model.scale,
        torch.cat([weights.new_zeros(1), weights.cumsum(0)]),
        float(expected_depth(t, weights)) / model.scale,
        measured / model.scale if measured > 0 else None,
        model.epsilon / model.scale,
        model.config.depth_beta,
    )


def draw_profiles(profiles: Sequence[RayProfile], title: str) -> Figure:
    """One plot for each ray: opacity, and where there is depth, the band that weight bounds leave to it."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.0, 1.0 + 2.6 * len(profiles)), layout="constrained")
    figure.suptitle(title)
    for axes, profile in zip(figure.subplots(len(profiles), squeeze=False)[:, 0], profiles, strict=True):
        axes.plot(profile.t, profile.opacity, color="#1d4ed8", label="opacity W", marker=".", markersize=3)
        axes.axvline(profile.rendered, color="#1d4ed8", linestyle=":", label=f"rendered {profile.rendered:.3f}")
        if profile.measured is not None:
            fine = RayProfile(**{**vars(profile), "t": torch.linspace(float(profile.t[0]), float(profile.t[-1]), 2000)})
            low, high = fine.bounds()
            axes.fill_between(fine.t, low, high, color="#16a34a", alpha=0.15, label="allowed by the bounds")
            axes.axvline(profile.measured, color="#b91c1c", linestyle="--", label=f"measured {profile.measured:.3f}")
        # Far planes of captures are at 1,000: show where something happens.
        reach = max(profile.rendered, profile.measured or 0.0)
        axes.set_xlim(0.0, min(float(profile.t[-1]), 1.6 * reach + 5.0 * profile.epsilon))
        axes.set_ylim(-0.03, 1.03)
        axes.set_ylabel(f"pixel {profile.pixel[0]}, {profile.pixel[1]}")
        axes.legend(fontsize="small", loc="center left")
    figure.supxlabel("ray distance in the unit of the poses")
    return figure
