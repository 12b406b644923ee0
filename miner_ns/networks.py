"""The tiny networks of MINER's blocks: their parameters in one row of numbers each, and what they compute.

A signal is cut into blocks, and each block has a network of its own. All networks of a level have the same shape, so
their parameters are one matrix `theta` [n, P] with a row per block. That is what every implementation of the training
(see `miner_ns.kernels`) works on, what is saved, and what shrinks when blocks are finished. This module is the
definition that the implementations are checked against, and it evaluates trained blocks anywhere inside them.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from common_ns.rays.icosahedron import basis_directions
from common_ns.rays.positional_encoding import pos_enc

Architecture = Literal["mlp", "gabor"]
OutputKind = Literal["sigmoid", "sine", "linear"]
EncodingKind = Literal["axes", "icosahedron"]

WIDTH_FLOOR = 1e-8
"""Added to the squared width of a Gaussian activation. Widths are trained freely and may pass through 0, where the
activation has no derivative; one of a million blocks would turn into NaN. At the usual 0.1 it changes nothing."""


def encode_positions(
    x: Float[Tensor, "*n d"], num_frequencies: int, kind: EncodingKind = "axes"
) -> Float[Tensor, "*n F"]:
    """Positional encoding of local coordinates: x itself, then sine and cosine of 2^k times its projections.

    Args:
        x: local coordinates of a block, from -1 to 1.
        num_frequencies: k runs from 0 to this, exclusive, in radians per unit of x; 0: only x itself.
        kind: project onto the axes, or, for volumes, onto the 21 directions of mip-NeRF 360.
    Returns: d + 2 · num_frequencies · (d or 21) features.
    Source: MINER_pl (which leaves x itself out).
    """
    directions = torch.eye(x.shape[-1]) if kind == "axes" else basis_directions("icosahedron-21")
    encoded = pos_enc(x @ directions.to(x), 0, num_frequencies, identity=False, exact=True)
    return torch.cat([x, encoded], dim=-1)


def encoding_dim(d: int, num_frequencies: int, kind: EncodingKind = "axes") -> int:
    """Number of features that `encode_positions` makes of d coordinates."""
    return d + 2 * num_frequencies * (d if kind == "axes" else 21)


@dataclass(frozen=True)
class BlockNetwork:
    """The shape that the networks of all blocks of a level share.

    "mlp": linear layers with the activation exp(−z² / 2a²) between them, its width a trained per block and layer.
    "gabor": a multiplicative filter network (arXiv 2102.08954): the hidden features are multiplied by Gabor filters
    sin(w·x + b) · exp(−s²|x − μ|² / 2) of the input, one per unit and layer.
    """

    num_inputs: int
    """Features of the encoded position."""
    num_outputs: int
    """Channels of the signal."""
    hidden_dim: int = 20
    """Units of a hidden layer."""
    num_layers: int = 3
    """Layers with weights, the output layer included."""
    architecture: Architecture = "mlp"
    """Perceptron or multiplicative filter network."""
    output: OutputKind = "sigmoid"
    """What turns the last layer's z into the signal: a sigmoid for values in [0, 1]; for residuals amplitude · sin(a z)
    with a trained and amplitude given per block; or z itself."""
    activation_init: float = 0.1
    """Initial width a of the Gaussian activations, and initial a of the sine."""
    filter_scale: float = 16.0
    """Gabor networks: spread of the filters' initial frequencies, in radians per unit of input. On the astronaut's
    blocks of 32 pixels 16 was best (8: −2.7 dB, 32: −2.6 dB)."""

    def __post_init__(self) -> None:
        if min(self.num_inputs, self.num_outputs, self.hidden_dim) < 1 or self.num_layers < 2:
            raise ValueError(
                f"A block network needs inputs, outputs, hidden units and at least 2 layers, not {self.num_inputs}, "
                f"{self.num_outputs}, {self.hidden_dim} and {self.num_layers}."
            )

    @functools.cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Parts of a row of theta, in order. Weights are [out, in]."""
        hidden, inputs, layers = self.hidden_dim, self.num_inputs, self.num_layers
        parts: dict[str, tuple[int, ...]] = {}
        if self.architecture == "gabor":
            for i in range(layers - 1):
                parts |= {f"frequency{i}": (hidden, inputs), f"phase{i}": (hidden,)}
                parts |= {f"center{i}": (hidden, inputs), f"sharpness{i}": (hidden,)}
        for i in range(1 if self.architecture == "gabor" else 0, layers):
            fan_out = self.num_outputs if i == layers - 1 else hidden
            parts |= {f"weight{i}": (fan_out, inputs if i == 0 else hidden), f"bias{i}": (fan_out,)}
        if self.architecture == "mlp":
            parts["widths"] = (layers - 1,)
        if self.output == "sine":
            parts["gain"] = (1,)
        return parts

    @functools.cached_property
    def sizes(self) -> list[int]:
        """How many numbers each part has."""
        return [math.prod(shape) for shape in self.shapes.values()]

    @property
    def num_parameters(self) -> int:
        """P, the numbers in a block's row of theta."""
        return sum(self.sizes)

    def unpack(self, theta: Float[Tensor, "n P"]) -> dict[str, Tensor]:
        """The parts of theta by name, each [n, *shape]; gradients flow back into theta."""
        parts = theta.split(self.sizes, dim=1)
        return {name: part.unflatten(1, shape) for (name, shape), part in zip(self.shapes.items(), parts)}

    def init(self, num_blocks: int, generator: torch.Generator | None = None) -> Float[Tensor, "n P"]:
        """Random parameters: of linear layers as torch initializes them, of filters as the multiplicative filter
        networks' authors do.

        Source: MINER_pl.
        """
        theta = torch.empty(num_blocks, self.num_parameters)
        depth = self.num_layers - 1
        for name, part in self.unpack(theta).items():
            role = name.rstrip("0123456789")
            if role in ("weight", "bias"):
                bound = 1 / math.sqrt(self.num_inputs if name[len(role) :] == "0" else self.hidden_dim)
                part.uniform_(-bound, bound, generator=generator)
            elif role in ("widths", "gain"):
                part.fill_(self.activation_init)
            elif role == "phase":
                part.uniform_(-math.pi, math.pi, generator=generator)
            elif role in ("frequency", "center"):
                part.uniform_(-1, 1, generator=generator)
            elif role == "sharpness":  # squared, it follows a gamma distribution; this sampler knows no generator
                shape = 6.0 / depth
                normals = torch.randn(*part.shape, max(round(2 * shape), 1), generator=generator)
                part.copy_(normals.square().sum(-1).div(2).sqrt())
        if self.architecture == "gabor":
            parts = self.unpack(theta)
            for i in range(depth):  # sharp filters get high frequencies
                spread = self.filter_scale / math.sqrt(depth * self.num_inputs)
                parts[f"frequency{i}"].mul_(spread * parts[f"sharpness{i}"][..., None])
        return theta

    def logits(
        self, theta: Float[Tensor, "n P"], inputs: Float[Tensor, "F p"] | Float[Tensor, "n F p"]
    ) -> Float[Tensor, "n C p"]:
        """What the last layer gives, before the output function. Arguments as `evaluate`."""
        parts = self.unpack(theta)
        last = self.num_layers - 1
        if self.architecture == "gabor":
            hidden = self._gabor_filter(parts, 0, inputs)
            for i in range(1, last):
                hidden = _linear(parts, i, hidden) * self._gabor_filter(parts, i, inputs)
        else:
            hidden = inputs
            variances = parts["widths"].square() + WIDTH_FLOOR
            for i in range(last):
                hidden = torch.exp(_linear(parts, i, hidden).square() * (-0.5 / variances[:, i, None, None]))
        return _linear(parts, last, hidden)

    def _gabor_filter(self, parts: dict[str, Tensor], i: int, inputs: Tensor) -> Float[Tensor, "n H p"]:
        """Gabor filters of layer i."""
        center = parts[f"center{i}"]
        wave = torch.sin(torch.matmul(parts[f"frequency{i}"], inputs) + parts[f"phase{i}"][..., None])
        # |x − μ|² multiplied out: the differences would be a tensor of one more dimension.
        distance2 = inputs.square().sum(-2, keepdim=True) - 2 * torch.matmul(center, inputs)
        distance2 = distance2 + center.square().sum(-1, keepdim=True)
        return wave * torch.exp(-0.5 * parts[f"sharpness{i}"].square()[..., None] * distance2.clamp_min(0.0))

    def activate(
        self, theta: Float[Tensor, "n P"], logits: Float[Tensor, "n C p"], amplitudes: Float[Tensor, "n"] | None = None
    ) -> Float[Tensor, "n C p"]:
        """The output function. Arguments as `evaluate`."""
        if self.output == "sigmoid":
            return torch.sigmoid(logits)
        if self.output == "linear":
            return logits
        wave = torch.sin(self.unpack(theta)["gain"][..., None] * logits)
        return wave if amplitudes is None else wave * amplitudes[:, None, None]

    def evaluate(
        self,
        theta: Float[Tensor, "n P"],
        inputs: Float[Tensor, "F p"] | Float[Tensor, "n F p"],
        amplitudes: Float[Tensor, "n"] | None = None,
    ) -> Float[Tensor, "n C p"]:
        """The signal at points of each block.

        Args:
            theta: parameters, a row per block.
            inputs: encoded local positions, feature by feature: the same points for all blocks, or points of their own.
            amplitudes: largest absolute value of each block's signal (output "sine"); None: 1.
        """
        return self.activate(theta, self.logits(theta, inputs), amplitudes)


def _linear(parts: dict[str, Tensor], i: int, hidden: Tensor) -> Tensor:
    """Layer i of every block."""
    return torch.matmul(parts[f"weight{i}"], hidden) + parts[f"bias{i}"][..., None]
