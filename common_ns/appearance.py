"""Appearance codes: one of each training image, and codes fitted to a part of images that were not trained on.

Photographs of one capture differ in exposure and white balance; one code per training image takes that up ("GLO",
generative latent optimization). A test image has no code, so a comparison must say which one it uses: the mean of all
codes, zero, or a code fitted to the left half of the test image, with only the right half compared.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn


class AppearanceCodes(nn.Embedding):
    """Codes of the training images, drawn about zero.

    Args:
        num_images: number of training images.
        dim: length of a code.
        std: standard deviation of a code's numbers; None: such that a code's length is about 1.
    """

    def __init__(self, num_images: int, dim: int, std: float | None = 0.01) -> None:
        self._std = dim**-0.5 if std is None else std
        super().__init__(num_images, dim)
        self.rendered_code: Tensor | None = None
        """Code [dim] outside of training; None: the neutral one."""
        self.neutral_is_zero = False
        """Whether the code of images without one is zero, and not the mean of all codes."""

    def reset_parameters(self) -> None:
        """Draw the codes, in place of an embedding's standard normal numbers."""
        nn.init.normal_(self.weight, std=self._std)

    def forward(
        self, camera_indices: Int[Tensor, "*n 1"] | None, shape: torch.Size | tuple[int, ...]
    ) -> Float[Tensor, "*n d"]:
        """Code of each ray: its training image's in training, elsewhere `rendered_code` or the neutral code.

        Args:
            camera_indices: training image of each ray.
            shape: shape of the rays.
        """
        if self.training and camera_indices is not None:
            return super().forward(camera_indices[..., 0].long())
        code = self.rendered_code
        if code is None:
            code = torch.zeros_like(self.weight[0]) if self.neutral_is_zero else self.weight.mean(0)
        return code.expand(*shape, -1)


def fit_code(
    render: Callable[[Float[Tensor, " d"]], Float[Tensor, "n 3"]],
    target: Float[Tensor, "n 3"],
    start: Float[Tensor, " d"],
    steps: int = 300,
    lr: float = 0.05,
) -> Float[Tensor, " d"]:
    """The code with which rendered colors come closest to the target, by Adam on the mean squared error.

    Args:
        render: colors of fixed pixels as a function of the code.
        target: what the pixels should be.
        start: code to start from.
        steps: steps of the optimizer.
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
