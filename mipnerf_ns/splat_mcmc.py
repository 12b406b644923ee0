"""Gaussians as samples of a distribution: the transparent ones move to where opaque ones are, and all wander a little.

Source: 3D Gaussian Splatting as Markov Chain Monte Carlo (arXiv 2404.09591), sections 3.2 to 3.5, with the authors'
settings. gsplat's strategy of this name needs CUDA for equation 9; here everything is plain torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import Parameter

from common_ns.splats.covariance import covariances

MOST_COPIES = 51
"""Largest number of Gaussians that take the place of one, as in the authors' code."""
MOST_OPACITY = 1.0 - 1e-6
SHARPNESS, ALIVE = 100.0, 0.005
"""Of the function of opacity that noise is multiplied by: 1 far below `ALIVE`, 0 far above it (section 3.3)."""
GROWTH = 1.05
"""Largest factor on the number of Gaussians each time that some are added."""


def relocated(opacities: Float[Tensor, "n"], copies: Int[Tensor, "n"]) -> tuple[Float[Tensor, "n"], Float[Tensor, "n"]]:
    """What Gaussians become when each is replaced by N equal ones in its place: equation 9.

    A ray through the middle then meets as much opacity as before, and so do parallel rays together.

    Args:
        opacities: 0 to 1.
        copies: N, 1 or more; of more than `MOST_COPIES`, that many.
    Returns: opacities of the new ones, p = 1 − (1 − o)^(1/N), and the factors on their standard deviations, which are
        o divided by the sum over j = 1 … N of C(N, j) (−1)^(j−1) p^j / √j: the paper's double sum, added up over its
        first index.
    """
    copies = copies.clamp(1, MOST_COPIES)
    table = torch.zeros(MOST_COPIES + 1, MOST_COPIES, dtype=torch.float64)
    for number in range(1, MOST_COPIES + 1):
        for power in range(1, number + 1):
            table[number, power - 1] = math.comb(number, power) * (-1) ** (power - 1) / math.sqrt(power)
    # Terms of both signs are many times as large as their sum.
    old = opacities.double().clamp(1e-12, MOST_OPACITY)
    new = -torch.expm1(torch.log1p(-old) / copies)
    powers = new[:, None] ** torch.arange(1, MOST_COPIES + 1, device=new.device)
    total = (table.to(new.device)[copies] * powers).sum(dim=1)
    return new.to(opacities), (old / total).to(opacities)


def _changed(
    params: Any,
    optimizers: Mapping[str, torch.optim.Optimizer],
    values: Callable[[str, Tensor], Tensor],
    moments: Callable[[Tensor], Tensor],
) -> None:
    """Give each parameter new values, and what its optimizer knows of it."""
    for name, optimizer in optimizers.items():
        if name not in params:
            continue
        old = params[name]
        new = Parameter(values(name, old.detach()))
        state = optimizer.state.pop(old, {})
        optimizer.state[new] = {key: moments(value) if key != "step" else value for key, value in state.items()}
        for group in optimizer.param_groups:
            group["params"] = [new if each is old else each for each in group["params"]]
        params[name] = new


def _drawn(opacities: Float[Tensor, "n"], number: int) -> Int[Tensor, "number"]:
    """Gaussians, each as likely as it is opaque. Random numbers are torch's global ones, on the CPU."""
    return torch.multinomial(opacities.detach().double().cpu(), number, replacement=True).to(opacities.device)


def _take_over(
    params: Any, optimizers: Mapping[str, torch.optim.Optimizer], sources: Tensor, targets: Tensor | None, least: float
) -> None:
    """Replace the Gaussians `sources`, which may be named several times, by themselves and one for each time: at
    `targets` in the place of those there, or behind the last. The optimizer knows nothing of any of them yet."""
    opacities = params["opacities"].detach()[:, 0].sigmoid()
    copies = torch.bincount(sources, minlength=len(opacities))[sources] + 1
    opacity, factor = relocated(opacities[sources], copies)
    opacity = opacity.clamp(least, MOST_OPACITY)

    def values(name: str, value: Tensor) -> Tensor:
        value = value.clone()
        if name == "opacities":
            value[sources] = torch.logit(opacity)[:, None]
        elif name == "scales":
            value[sources] = value[sources] + factor.log()[:, None]
        if targets is None:
            return torch.cat([value, value[sources]])
        value[targets] = value[sources]
        return value

    def moments(value: Tensor) -> Tensor:
        value = value.clone()
        value[sources] = 0
        if targets is None:
            return torch.cat([value, value[sources]])
        value[targets] = 0
        return value

    _changed(params, optimizers, values, moments)


@dataclass
class MCMCStrategy:
    """Moves Gaussians that have become transparent, adds some up to a bound, and lets all wander.

    Places and standard deviations count in extents of the cameras, so that scenes of any size are treated alike.
    """

    extent: float
    """Of the cameras, in scene units."""
    most: int
    """Largest number of Gaussians."""
    noise: float = 5e5
    """Factor on the learning rate of means that gives the noise."""
    least_opacity: float = 0.005
    """At or below which a Gaussian moves elsewhere."""
    start: int = 500
    """Step after which Gaussians are moved and added."""
    stop: int = 25000
    """Step before which they are."""
    every: int = 100
    """Steps between."""

    @torch.no_grad()
    def after_step(
        self, params: Any, optimizers: Mapping[str, torch.optim.Optimizer], step: int, rate: float | Tensor
    ) -> None:
        """What follows a step of the optimizers.

        Args:
            params: means, scales (logarithms), quats, opacities (logits), features_dc, features_rest.
            optimizers: one for each of them.
            step: that was taken.
            rate: learning rate of means, of all [] or of each [n], in scene units.
        """
        if self.start < step < self.stop and step % self.every == 0:
            moved = self.relocate(params, optimizers)
            added = self.add(params, optimizers)
            if moved or added:
                return  # rates of each belong to Gaussians that were moved
        self.wander(params, rate)

    @torch.no_grad()
    def relocate(self, params: Any, optimizers: Mapping[str, torch.optim.Optimizer]) -> int:
        """Move transparent Gaussians to where opaque ones are. Returns: how many."""
        opacities = params["opacities"][:, 0].sigmoid()
        dead = opacities <= self.least_opacity
        targets = dead.nonzero()[:, 0]
        if not len(targets) or bool(dead.all()):
            return 0
        sources = _drawn(torch.where(dead, 0.0, opacities), len(targets))
        _take_over(params, optimizers, sources, targets, self.least_opacity)
        return len(targets)

    @torch.no_grad()
    def add(self, params: Any, optimizers: Mapping[str, torch.optim.Optimizer]) -> int:
        """Add a twentieth, as far as there is room, where opaque ones are. Returns: how many."""
        number = min(self.most, int(GROWTH * len(params["means"]))) - len(params["means"])
        if number <= 0:
            return 0
        sources = _drawn(params["opacities"][:, 0].sigmoid(), number)
        _take_over(params, optimizers, sources, None, self.least_opacity)
        return number

    @torch.no_grad()
    def wander(self, params: Any, rate: float | Tensor) -> None:
        """Move each mean at random, as far as it is large and transparent: equation 8. Random numbers are torch's
        global ones."""
        transparent = torch.sigmoid(SHARPNESS * (ALIVE - params["opacities"][:, 0].sigmoid()))
        shapes = covariances(params["quats"], params["scales"].exp() / self.extent)
        drawn = torch.randn(len(transparent), 3).to(transparent.device)
        steps = (self.noise * rate * transparent)[:, None] * drawn
        params["means"].add_((shapes @ steps[..., None])[..., 0])


def regularizers(
    opacities: Float[Tensor, "n"], scales: Float[Tensor, "n 3"], extent: float
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Mean opacity, and mean standard deviation in extents of the cameras, whose smallness frees Gaussians that no
    picture needs: equation 10."""
    return opacities.mean(), scales.mean() / extent
