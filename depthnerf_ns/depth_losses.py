"""Losses between a ray's rendering weights and a measured depth.

Vocabulary of the papers: `t` interval endpoints in ray distance, increasing; `w` rendering weights of the intervals,
summing to at most 1; `W` their running sum, the opacity reached at the end of an interval; `D` the measured depth. All
lengths are in scene units, and depth is ray distance, not z.

Every loss comes per ray and is exactly 0, with gradient 0, where there is no depth; `mean_over_valid` averages it.

Why depth comes out too near with weight bounds, and what the likelihood does about it. The bounds are hinges, squared:
they stop acting once W is inside its band, which training enters from the front, since a field begins as fog; and a
remainder m of fog, spread over the free space, costs only about m², while it draws the expected depth towards the
camera by m times its distance. The likelihood −log Σ w_i k_i, where the kernel k is 1 at D and falls off as the sensor
errs, equals the optical depth in front of the surface plus what the surface misses of the kernel: its slope against fog
stays 1 down to the last bit, it draws to the middle of the band, and many noisy measurements of one place agree on
their mean. Unlike DS-NeRF it asks no width of the weights: a sharp surface at D is its minimum.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.special import ndtr


def has_depth(depth: Float[Tensor, "*r"]) -> Bool[Tensor, "*r"]:
    """Which rays have a measured depth: sensors write 0 into holes, predictors NaN or infinity."""
    return torch.isfinite(depth) & (depth > 0)


def mean_over_valid(loss: Float[Tensor, "*r"], valid: Bool[Tensor, "*r"]) -> Float[Tensor, ""]:
    """Average a loss over the rays that have depth; 0, still part of the graph, where none has.

    Over several chunks or devices, add up `loss.sum()` and `valid.sum()` and divide once.

    Args:
        loss: a loss per ray.
        valid: which rays have depth.
    """
    return torch.where(valid, loss, 0.0).sum() / valid.sum().clamp_min(1)


def widened_epsilon(epsilon: float, sigma: Float[Tensor, "*r"]) -> Float[Tensor, "*r"]:
    """Tolerance of each ray, given the uncertainty of each pixel's depth: independent errors add in squares.

    Args:
        epsilon: tolerance where depth is certain, in scene units.
        sigma: standard deviation of the measured depth in scene units; NaN counts as certain.
    """
    return torch.sqrt(epsilon**2 + torch.nan_to_num(sigma) ** 2)


def weight_bounds_loss(
    t: Float[Tensor, "*r n+1"],
    w: Float[Tensor, "*r n"],
    depth: Float[Tensor, "*r"],
    epsilon: float | Float[Tensor, "*r"] = 0.03,
    beta: float = 2.0,
    lambda_empty: float = 1.0,
    lambda_phi: float = 0.1,
    valid: Bool[Tensor, "*r"] | None = None,
) -> Float[Tensor, "*r"]:
    """Statistical weight bounds: opacity must rise near the depth, somewhere between two Gaussian curves.

    The ray ends at N(D, ε²), with D known up to ±βε. At the end x of each interval:

    - empty, x ≤ D − (3 + β) ε: w²;
    - near, up to D: W may not exceed Φ((x − D)/ε + β), squared hinge;
    - far, beyond D and open: W may not fall below Φ((x − D)/ε − β), squared hinge.

    Each is averaged over the intervals of its region. The thesis averages over the intervals of all rays at once; here
    it is ray by ray, so that a ray's loss does not depend on the rays beside it. The released code closes the far side
    at D + 3ε and reads W at the middles of intervals, where it is not reached yet: neither is kept.

    Args:
        t: interval endpoints in ray distance, scene units.
        w: rendering weights of the intervals.
        depth: measured ray distance, scene units.
        epsilon: standard deviation of the ray's end in scene units, also per ray.
        beta: known uncertainty of the depth in units of ε: 0 for exact depth and poses, 2 for real sensors.
        lambda_empty: weight of the empty region.
        lambda_phi: weight of the two bounds.
        valid: which rays have depth; None: where it is finite and above 0.
    Returns: loss per ray, without unit.
    Source: A. Sheldrick, statistical weight bounds (thesis, chapter 4; AlexSheldrick/mipnerf_pl, depth-mipnerf).
    """
    depth, epsilon, valid = _targets(depth, epsilon, valid)
    offset = (t[..., 1:] - depth) / epsilon
    opacity = w.cumsum(-1)
    empty = offset <= -(3.0 + beta)
    far = offset > 0.0
    above = torch.relu(opacity - ndtr(offset + beta)) ** 2
    below = torch.relu(ndtr(offset - beta) - opacity) ** 2
    bounds = _mean_within(above, ~empty & ~far) + _mean_within(below, far)
    return torch.where(valid, lambda_empty * _mean_within(w**2, empty) + lambda_phi * bounds, 0.0)


def rendered_l2_loss(
    t: Float[Tensor, "*r n+1"],
    w: Float[Tensor, "*r n"],
    depth: Float[Tensor, "*r"],
    valid: Bool[Tensor, "*r"] | None = None,
) -> Float[Tensor, "*r"]:
    """Squared difference between rendered and measured depth.

    Args:
        t: interval endpoints in ray distance, scene units.
        w: rendering weights of the intervals.
        depth: measured ray distance, scene units.
        valid: which rays have depth; None: where it is finite and above 0.
    Returns: loss per ray in squared scene units.
    """
    depth, _, valid = _targets(depth, 1.0, valid)
    return torch.where(valid, (expected_depth(t, w) - depth[..., 0]) ** 2, 0.0)


def expected_depth(t: Float[Tensor, "*r n+1"], w: Float[Tensor, "*r n"]) -> Float[Tensor, "*r"]:
    """Mean ray distance at which the ray ends, given that it does; 0 where nothing is in the way.

    Args:
        t: interval endpoints in ray distance, scene units.
        w: rendering weights of the intervals.
    """
    middles = 0.5 * (t[..., 1:] + t[..., :-1])
    # Below 0.1 % opacity depth fades to 0 instead of being divided by nearly nothing.
    return (w * middles).sum(-1) / w.sum(-1).clamp_min(1e-3)


def urf_loss(
    t: Float[Tensor, "*r n+1"],
    w: Float[Tensor, "*r n"],
    depth: Float[Tensor, "*r"],
    epsilon: float | Float[Tensor, "*r"] = 0.03,
    expected_depth_weight: float = 1.0,
    valid: Bool[Tensor, "*r"] | None = None,
) -> Float[Tensor, "*r"]:
    """Urban Radiance Fields: no weight before D − ε, a narrow Gaussian of it around D, rendered depth D.

    In place of nerfstudio's, which compares weights, masses of intervals, with values of the kernel's density.

    As in the paper: the kernel K, N(0, (ε/3)²) truncated to ±ε; the split into w² before D − ε and (w − K)² within
    ±ε; nothing beyond, where no weight is left if these hold (until then a sharp surface beyond costs less than one
    beside D, and the rendered depth alone draws it back); the squared difference of rendered and measured depth.
    Made discrete: the paper's w(t) and K(t) are densities under an integral. Weights are masses, so they are compared
    with the mass of K in their interval; K is 0 outside ±ε, so one sum over the intervals that begin before D + ε
    covers both parts, intervals across a border included. The squares are not divided by the intervals' lengths,
    which would give the integral of squared densities: unbounded where intervals are short.

    Args:
        t: interval endpoints in ray distance, scene units.
        w: rendering weights of the intervals.
        depth: measured ray distance, scene units.
        epsilon: half-width of the kernel in scene units, also per ray; the paper lowers it during training.
        expected_depth_weight: weight of the squared error of the rendered depth, per squared scene unit.
        valid: which rays have depth; None: where it is finite and above 0.
    Returns: loss per ray.
    Source: Urban Radiance Fields (arXiv 2111.14643), section 4, expected depth and line-of-sight losses.
    """
    center, epsilon, valid = _targets(depth, epsilon, valid)
    offset = (t - center) / epsilon
    reached = ndtr(3.0 * offset.clamp(-1.0, 1.0)) / math.erf(3.0 / math.sqrt(2.0))
    target = reached[..., 1:] - reached[..., :-1]
    line_of_sight = ((w - target) ** 2 * (offset[..., :-1] < 1.0)).sum(-1)
    rendered = rendered_l2_loss(t, w, depth, valid)
    return torch.where(valid, line_of_sight + expected_depth_weight * rendered, 0.0)


def ds_nerf_loss(
    t: Float[Tensor, "*r n+1"],
    w: Float[Tensor, "*r n"],
    depth: Float[Tensor, "*r"],
    sigma: float | Float[Tensor, "*r"] = 0.03,
    floor: float = 1e-5,
    valid: Bool[Tensor, "*r"] | None = None,
) -> Float[Tensor, "*r"]:
    """DS-NeRF: divergence from N(D, σ²) to the weights, up to a constant: −Σ log(w_i) exp(−(t_i − D)²/2σ²) Δt_i.

    In place of nerfstudio's, which divides by 2σ instead of 2σ² and averages over rays without depth too.

    As in the paper: the logarithm of the weight itself, not of its density. Made discrete: the Gaussian's exact mass in
    the interval stands for exp(·) Δt, which misses it where intervals are longer than σ; the masses sum to 1 at most,
    so that the loss is the paper's divided by σ √(2π), and has no unit.

    Args:
        t: interval endpoints in ray distance, scene units.
        w: rendering weights of the intervals.
        depth: measured ray distance, scene units.
        sigma: standard deviation of the depth in scene units, also per ray.
        floor: added to weights under the logarithm; bounds its gradient at weight 0.
        valid: which rays have depth; None: where it is finite and above 0.
    Returns: loss per ray.
    Source: DS-NeRF (arXiv 2107.02791), section 3.3, depth loss.
    """
    depth, sigma, valid = _targets(depth, sigma, valid)
    reached = ndtr((t - depth) / sigma)
    mass = reached[..., 1:] - reached[..., :-1]
    return torch.where(valid, -(mass * torch.log(w + floor)).sum(-1), 0.0)


def mixture_likelihood_loss(
    t: Float[Tensor, "*r n+1"],
    w: Float[Tensor, "*r n"],
    depth: Float[Tensor, "*r"],
    epsilon: float | Float[Tensor, "*r"] = 0.03,
    beta: float = 0.0,
    outlier: float = 1e-3,
    valid: Bool[Tensor, "*r"] | None = None,
) -> Float[Tensor, "*r"]:
    """Negative log-likelihood of the measured depth, given where the ray ends: −log((Σ w_i k_i + o) / (1 + o)).

    k_i is the mean over interval i of the sensor's kernel: 1 within D ± βε, a Gaussian's flanks of width ε outside. It
    does not depend on how the ray is cut into intervals. What the weights leave over ends beyond the last interval; it
    counts where D lies there too. The floor o stands for measurements that have nothing to do with the ray: once the
    kernel holds less than about o of the weights, the measurement lets go.

    So the kernel must begin wide, and the loss strong, to clear the fog that fields begin as (also from the space that
    no training ray crosses, which only shares the field's parameters): 5 ε and ten times the final weight, falling in
    equal ratios over the first half of training (`annealed`), bring down the errors of depth that are meters large.

    Args:
        t: interval endpoints in ray distance, scene units.
        w: rendering weights of the intervals.
        depth: measured ray distance, scene units.
        epsilon: standard deviation of the kernel's flanks in scene units, also per ray.
        beta: half-width of the kernel's flat top in units of ε, within which the depth is not pinned.
        outlier: o, the outliers' share times their likelihood, relative to the kernel's peak; above 0.
        valid: which rays have depth; None: where it is finite and above 0.
    Returns: loss per ray, without unit; 0 if all weight is where the kernel is 1.
    """
    depth, epsilon, valid = _targets(depth, epsilon, valid)
    offset = (t - depth) / epsilon
    beyond = _kernel(offset[..., -1].clamp_min(0.0), beta)
    left = (1.0 - w.sum(-1)).clamp_min(0.0)
    likelihood = (w * _kernel_means(offset, beta)).sum(-1) + left * beyond
    return torch.where(valid, math.log1p(outlier) - torch.log(likelihood + outlier), 0.0)


def bounds_likelihood_loss(
    t: Float[Tensor, "*r n+1"],
    w: Float[Tensor, "*r n"],
    depth: Float[Tensor, "*r"],
    epsilon: float | Float[Tensor, "*r"] = 0.03,
    beta: float = 2.0,
    lambda_empty: float = 1.0,
    lambda_phi: float = 0.1,
    lambda_likelihood: float = 0.005,
    outlier: float = 1e-3,
    valid: Bool[Tensor, "*r"] | None = None,
) -> Float[Tensor, "*r"]:
    """Weight bounds, and a weak likelihood that clears fog and draws to the middle of the band.

    The likelihood's Gaussian is as wide as the band, √(1 + β²) ε: the two errors, ε and βε, added in squares. Begin
    with 5 ε and ten times the final weight, as for the likelihood alone.

    Args:
        t: interval endpoints in ray distance, scene units.
        w: rendering weights of the intervals.
        depth: measured ray distance, scene units.
        epsilon: standard deviation of the ray's end in scene units, also per ray.
        beta: known uncertainty of the depth in units of ε.
        lambda_empty: weight of the empty region, see `weight_bounds_loss`.
        lambda_phi: weight of the two bounds.
        lambda_likelihood: weight of the likelihood; 0 leaves the bounds alone.
        outlier: see `mixture_likelihood_loss`.
        valid: which rays have depth; None: where it is finite and above 0.
    Returns: loss per ray, without unit.
    """
    bounds = weight_bounds_loss(t, w, depth, epsilon, beta, lambda_empty, lambda_phi, valid)
    width = math.sqrt(1.0 + beta**2) * epsilon
    return bounds + lambda_likelihood * mixture_likelihood_loss(t, w, depth, width, 0.0, outlier, valid)


def normal_cosine_loss(
    w: Float[Tensor, "*r n"],
    normals: Float[Tensor, "*r n 3"],
    target: Float[Tensor, "*r 3"],
    valid: Bool[Tensor, "*r"] | None = None,
) -> Float[Tensor, "*r"]:
    """One minus the cosine between a field's normals and a predicted one, weighted along the ray.

    Args:
        w: rendering weights of the intervals.
        normals: unit normals of the field in the intervals, pointing out of the surface.
        target: unit normal that a monocular predictor gave for the pixel, in the same frame.
        valid: which rays have a predicted normal; None: where it is finite and not 0.
    Returns: loss per ray, from 0 to 2.
    Source: AlexSheldrick/mipnerf_pl, depth-mipnerf (normal loss).
    """
    if valid is None:
        valid = torch.isfinite(target).all(-1) & (target != 0).any(-1)
    target = torch.where(valid[..., None], target, 0.0)
    cosine = (normals * target[..., None, :]).sum(-1)
    return torch.where(valid, (w * (1.0 - cosine)).sum(-1), 0.0)


def orientation_loss(
    w: Float[Tensor, "*r n"], normals: Float[Tensor, "*r n 3"], directions: Float[Tensor, "*r 3"]
) -> Float[Tensor, "*r"]:
    """Penalty on visible normals that face away from the camera: Σ w_i max(0, n_i · d)².

    Args:
        w: rendering weights of the intervals.
        normals: unit normals of the field in the intervals, pointing out of the surface.
        directions: unit directions of the rays, away from the camera.
    Returns: loss per ray, from 0 to 1.
    Source: Ref-NeRF (arXiv 2112.03907), equation 11.
    """
    facing = (normals * directions[..., None, :]).sum(-1)
    return (w * torch.relu(facing) ** 2).sum(-1)


def annealed(
    step: int, initial: float, final: float, steps: int, kind: Literal["constant", "cosine", "exponential"] = "cosine"
) -> float:
    """A weight or a width that changes during training, as a function of the absolute step.

    Args:
        step: absolute training step.
        initial: value at step 0, above 0 if exponential.
        final: value from step `steps` on, above 0 if exponential.
        steps: length of the change; 0: `final` at once.
        kind: constant (`initial` throughout), half a cosine wave, or equal ratios in equal steps.
    """
    if kind == "constant":
        return initial
    progress = min(max(step / steps, 0.0), 1.0) if steps > 0 else 1.0
    if kind == "cosine":
        return final + (initial - final) * 0.5 * (1.0 + math.cos(math.pi * progress))
    return initial ** (1.0 - progress) * final**progress


def _targets(
    depth: Float[Tensor, "*r"], epsilon: float | Float[Tensor, "*r"], valid: Bool[Tensor, "*r"] | None
) -> tuple[Float[Tensor, "*r 1"], Float[Tensor, "*r 1"], Bool[Tensor, "*r"]]:
    """Depth and tolerance ready to meet intervals, and which rays count.

    Rays without depth get harmless numbers: a NaN that enters a graph comes back in the gradient, masked or not.
    """
    if valid is None:
        valid = has_depth(depth)
    epsilon = torch.as_tensor(epsilon, dtype=depth.dtype, device=depth.device)
    depth = torch.where(valid, depth, 1.0)
    return depth[..., None], torch.where(valid, epsilon, 1.0)[..., None], valid


def _mean_within(values: Float[Tensor, "*r n"], region: Bool[Tensor, "*r n"]) -> Float[Tensor, "*r"]:
    """Mean of the values in a region of each ray; 0 where it has no interval."""
    return (values * region).sum(-1) / region.sum(-1).clamp_min(1)


def _kernel(offset: Float[Tensor, "*n"], beta: float) -> Float[Tensor, "*n"]:
    """Gaussian with a flat top of half-width β; peak 1. The offset is in units of its standard deviation."""
    return torch.exp(-0.5 * torch.relu(offset.abs() - beta) ** 2)


def _kernel_means(offset: Float[Tensor, "*r n+1"], beta: float) -> Float[Tensor, "*r n"]:
    """Mean of the kernel over each interval, in closed form; by Simpson's rule over short ones, whose exact integral
    would be a small difference of rounded numbers (or 0 / 0)."""
    start, end = offset[..., :-1], offset[..., 1:]
    integral = offset.clamp(-beta, beta)
    flanks = ndtr(torch.relu(offset - beta)) - ndtr(torch.relu(-offset - beta))
    integral = integral + math.sqrt(2.0 * math.pi) * flanks
    long = (integral[..., 1:] - integral[..., :-1]) / (end - start).clamp_min(0.1)
    ends = _kernel(offset, beta)
    short = (ends[..., :-1] + 4.0 * _kernel(0.5 * (start + end), beta) + ends[..., 1:]) / 6.0
    return torch.where(end - start < 0.1, short, long)
