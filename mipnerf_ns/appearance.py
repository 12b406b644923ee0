"""Appearance codes of images that were not trained on, fitted to a part of them.

Photographs of one capture differ in exposure and white balance; one code per training image takes that up ("GLO",
generative latent optimisation). A test image has no code, so a comparison must say which one it uses: the mean of all
codes, or a code fitted to the left half of the test image, with only the right half compared.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor


def fit_code(
    render: Callable[[Float[Tensor, " d"]], Float[Tensor, "n 3"]],
    target: Float[Tensor, "n 3"],
    start: Float[Tensor, " d"],
    steps: int = 300,
    lr: float = 0.05,
) -> Float[Tensor, " d"]:
    """The code with which rendered colours come closest to the target, by Adam on the mean squared error.

    Args:
        render: colours of fixed pixels as a function of the code.
        target: what the pixels should be.
        start: code to start from.
        steps: steps of the optimiser.
        lr: its learning rate at the start; it falls to 0 along half a cosine.
    Source: NeRF in the Wild (arXiv 2008.02268), section 5, evaluates so.
    """
    code = start.detach().clone().requires_grad_(True)
    optimizer = torch.optim.Adam([code], lr=lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps)
    with torch.enable_grad():
        for _ in range(steps):
            loss = (render(code) - target).square().mean()
            (code.grad,) = torch.autograd.grad(loss, code)
            optimizer.step()
            schedule.step()
    return code.detach()
