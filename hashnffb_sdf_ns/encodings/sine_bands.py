"""The chain of sine layers of a Fourier filter bank, with its first and second derivatives written out.

With phases a, hidden values h, the bands' Fourier features e and an output y,

    h_0 = sin a_0,   a_b = W_b h_{b−1} + c_b,   h_b = sin a_b + e_b   (b = 1 … B),   y = Σ_b O_b h_b.

A loss on normals needs derivatives of derivatives. Autograd would compute every cosine and sine anew for each of them,
and go back through the layers twice. Here they are kept, and the function is cut so that each layer is passed five
times in all, and six matrices are multiplied for it:

- `_Chain` gives y and, as a second output, the phases: without memory, only for autograd to carry cotangents.
- `_ChainGradient`, its derivative, is a function of the phases. Differentiated again it hands what it gives to the
  phases to `_Chain`'s own backward pass, which has to come through there in any case.
- `_Parameters` stands for W, c, and O as far as y depends on them directly. What takes derivatives by positions alone
  does not reach it, and does not pay for the parameters' gradients.

For the loss's derivatives the cotangents of a_b are p_b = r_b cos a_b + d_b, those of h_b are r_b = O_bᵀ g + W_{b+1}ᵀ
p_{b+1}, where g is y's, and d_b what the derivative of the derivative gave. Along tangents ȧ_0 and ė_b, the derivative
of y is Σ O_b ḣ_b with ȧ_b = W_b ḣ_{b−1} and ḣ_b = ȧ_b cos a_b + ė_b, and d_b = −r_b ȧ_b sin a_b.

Source: Wu et al., Neural Fourier filter bank (arXiv 2212.01735), section 3.2, equations 4 and 5.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from hashnffb_sdf_ns.encodings.sine_layer import sine, sine_tangent


def sine_bands_reference(
    first_phase: Float[Tensor, "n w"],
    embedding: Float[Tensor, "b n w"],
    weight: Float[Tensor, "b w w"],
    bias: Float[Tensor, "b w"],
    out_weight: Float[Tensor, "b w f"],
) -> Float[Tensor, "n f"]:
    """`sine_bands` as the formula says: differentiable as often as one likes, and slow."""
    _, hidden = _reference_hidden(first_phase, embedding, weight, bias)
    return torch.einsum("bnw,bwf->nf", hidden, out_weight)


def _reference_hidden(
    first_phase: Tensor, embedding: Tensor, weight: Tensor, bias: Tensor
) -> tuple[Float[Tensor, "b n w"], Float[Tensor, "b n w"]]:
    """Inputs of the matrices W_b, and the hidden values h_b from b = 1 on."""
    hidden = [torch.sin(first_phase)]
    for e, w, c in zip(embedding, weight, bias):
        hidden.append(torch.sin(hidden[-1] @ w.T + c) + e)
    return torch.stack(hidden[:-1]), torch.stack(hidden[1:])


def sine_bands(
    first_phase: Float[Tensor, "n w"],
    embedding: Float[Tensor, "b n w"],
    weight: Float[Tensor, "b w w"],
    bias: Float[Tensor, "b w"],
    out_weight: Float[Tensor, "b w f"],
) -> Float[Tensor, "n f"]:
    """Sum of the bands' outputs, twice differentiable with respect to every argument.

    Args:
        first_phase: a_0, in radians.
        embedding: Fourier features e_b of each band.
        weight, bias: W_b and c_b, in radians.
        out_weight: O_b, transposed.
    """
    if not torch.is_grad_enabled():
        return _run(first_phase, embedding, weight, bias, out_weight)[0]
    record = _Record(first_phase, embedding, weight, bias)
    phase_token, out_token = _Parameters.apply(weight, bias, out_weight, record, first_phase.detach())  # pyright: ignore
    arguments = (first_phase, embedding, weight, out_weight, phase_token, out_token, bias.detach(), record)
    output, _ = _Chain.apply(*arguments)  # pyright: ignore
    return output


class _Record:
    """What a chain was given, for derivatives by the parameters that are themselves to be differentiated."""

    def __init__(self, *arguments: Tensor) -> None:
        self.arguments = arguments
        self.hidden: Tensor | None = None
        """h_0 to h_B, once they are computed."""


def _placeholder(shape: tuple[int, ...], like: Tensor) -> Tensor:
    """A tensor without memory, for cotangents of its shape."""
    return torch.empty_strided(shape, [0] * len(shape), dtype=like.dtype, device=like.device)


def _run(
    first_phase: Tensor, embedding: Tensor, weight: Tensor, bias: Tensor, out_weight: Tensor
) -> tuple[Float[Tensor, "n f"], Float[Tensor, "b+1 n w"], Float[Tensor, "b+1 n w"]]:
    """y, h and cos a; not known to autograd."""
    bands, count, width = embedding.shape
    hidden, cosine = first_phase.new_empty(2, bands + 1, count, width).unbind(0)
    sine(first_phase, None, (hidden[0], cosine[0]))
    phase, output = torch.empty_like(first_phase), first_phase.new_zeros(count, out_weight.shape[-1])
    for b in range(bands):
        torch.addmm(bias[b], hidden[b], weight[b].T, out=phase)
        sine(phase, embedding[b], (hidden[b + 1], cosine[b + 1]))
        output.addmm_(hidden[b + 1], out_weight[b])
    return output, hidden, cosine


def _correlate(
    left: Float[Tensor, "b n i"], right: Float[Tensor, "b n j"] | list[Float[Tensor, "n j"]]
) -> Float[Tensor, "b i j"]:
    """Sums over n of products, band by band: a batched product would copy the transposed matrices."""
    return torch.stack([torch.mm(a.T, b) for a, b in zip(left, right)])


class _Parameters(torch.autograd.Function):
    """What the parameters add to the phases, and to the output: without memory, but with shapes."""

    @staticmethod
    def forward(
        ctx: Any, weight: Tensor, bias: Tensor, out_weight: Tensor, record: _Record, like: Tensor
    ) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        ctx.record = record
        bands, width, features = out_weight.shape
        return _placeholder((bands, len(like), width), like), _placeholder((len(like), features), like)

    @staticmethod
    def backward(ctx: Any, phases: Any, output: Any) -> Any:
        if torch.is_grad_enabled():
            inputs, hidden = _reference_hidden(*ctx.record.arguments)
        else:
            inputs, hidden = ctx.record.hidden[:-1], ctx.record.hidden[1:]
        weight, bias, out_weight = None, None, None
        if phases is not None:
            weight, bias = _correlate(phases, inputs), phases.sum(1)
        if output is not None:
            out_weight = _correlate(hidden, [output] * len(hidden))
        return weight, bias, out_weight, None, None


class _Chain(torch.autograd.Function):
    """y and the phases."""

    @staticmethod
    def forward(
        ctx: Any,
        first_phase: Tensor,
        embedding: Tensor,
        weight: Tensor,
        out_weight: Tensor,
        phase_token: Tensor,
        out_token: Tensor,
        bias: Tensor,
        record: _Record,
    ) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        output, hidden, cosine = _run(first_phase, embedding, weight, bias, out_weight)
        record.hidden = hidden
        phases = _placeholder(tuple(hidden.shape), hidden)
        ctx.save_for_backward(phases, embedding, weight, out_weight, hidden, cosine)
        return output, phases

    @staticmethod
    def backward(ctx: Any, g: Any, d: Any) -> Any:
        if g is None and d is None:
            return (None,) * 8
        phases, embedding, weight, out_weight, hidden, cosine = ctx.saved_tensors
        if g is None:
            g = phases.new_zeros(hidden.shape[1], out_weight.shape[-1])
        arguments = (g, d, phases, weight, out_weight, embedding.detach(), hidden, cosine)
        embedding_cotangent, first, rest = _ChainGradient.apply(*arguments)  # pyright: ignore
        return first, embedding_cotangent, None, None, rest, g, None, None


class _ChainGradient(torch.autograd.Function):
    """Cotangents r_b of the embeddings, p_0 of the first phase, and p_b of the others."""

    @staticmethod
    def forward(
        ctx: Any,
        g: Tensor,
        d: Tensor | None,
        phases: Tensor,
        weight: Tensor,
        out_weight: Tensor,
        embedding: Tensor,
        hidden: Tensor,
        cosine: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        bands = len(weight)
        r, p = torch.empty_like(hidden), torch.empty_like(hidden)
        torch.mm(g, out_weight[-1].T, out=r[bands])
        for b in range(bands, -1, -1):
            if d is None:
                torch.mul(r[b], cosine[b], out=p[b])
            else:
                torch.addcmul(d[b], r[b], cosine[b], out=p[b])
            if b > 1:
                torch.mm(g, out_weight[b - 2].T, out=r[b - 1]).addmm_(p[b], weight[b - 1])
            elif b == 1:
                torch.mm(p[b], weight[0], out=r[0])
        ctx.third = d is not None
        ctx.save_for_backward(g, weight, out_weight, embedding, hidden, cosine, r, p)
        return r[1:], p[0], p[1:]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, embedding_tangent: Any, first: Any, rest: Any) -> Any:
        if ctx.third:
            raise RuntimeError("Sine layers have first and second derivatives; third ones are not implemented.")
        g, weight, out_weight, embedding, hidden, cosine, r, p = ctx.saved_tensors
        tangent, d = torch.empty_like(hidden), torch.empty_like(hidden)
        phase = torch.zeros_like(hidden[0]) if first is None else first
        sine_tangent(phase, cosine[0], hidden[0], None, r[0], None, (tangent[0], d[0]))
        g_cotangent, phase = torch.zeros_like(g), torch.empty_like(hidden[0])
        for b in range(len(weight)):
            torch.mm(tangent[b], weight[b].T, out=phase)
            if rest is not None:
                phase += rest[b]
            added = None if embedding_tangent is None else embedding_tangent[b]
            outs = (tangent[b + 1], d[b + 1])
            sine_tangent(phase, cosine[b + 1], hidden[b + 1], embedding[b], r[b + 1], added, outs)
            g_cotangent.addmm_(tangent[b + 1], out_weight[b])
        weight_cotangent = _correlate(p[1:], tangent[:-1])
        out_cotangent = _correlate(tangent[1:], [g] * len(weight))
        return g_cotangent, None, d, weight_cotangent, out_cotangent, None, None, None
