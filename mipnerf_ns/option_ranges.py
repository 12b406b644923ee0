"""Numbers that the options of this family's radiance fields may have, whichever of them a field has."""

from __future__ import annotations

from common_ns.option_ranges import ABOVE_0, ANY, BELOW_1, FROM_0, FROM_1, Range

RANGES: dict[str, Range] = {
    # Rays and their samples.
    "near_plane": ANY,  # which of them go together, the data says
    "far_plane": ANY,
    "capture_near_plane": FROM_0,
    "capture_far_plane": ABOVE_0,
    "contraction_radius": ABOVE_0,
    "num_coarse_samples": FROM_1,
    "num_importance_samples": FROM_1,
    "num_proposal_samples": FROM_1,
    "num_nerf_samples": FROM_1,
    "anneal_slope": FROM_0,
    "anneal_steps": FROM_0,
    "near_anneal_rate": ABOVE_0,
    "near_anneal_init": BELOW_1,
    "dilation_multiplier": FROM_0,
    "dilation_bias": FROM_0,
    "resample_padding": FROM_0,
    "eval_num_rays_per_chunk": FROM_1,
    "max_points_per_chunk": FROM_1,
    # Losses.
    "loss_coefficients": FROM_0,
    "charbonnier_padding": FROM_0,
    "interlevel_loss_mult": FROM_0,
    "distortion_loss_mult": FROM_0,
    "table_decay_mult": FROM_0,
    "blur_radii": FROM_0,
    # Networks.
    "num_frequencies": FROM_1,
    "num_direction_frequencies": FROM_0,
    "num_layers": FROM_1,
    "hidden_dim": FROM_1,
    "proposal_num_layers": FROM_1,
    "proposal_hidden_dim": FROM_1,
    "skip_layer": FROM_1,
    "bottleneck_dim": FROM_1,
    "num_color_layers": FROM_0,
    "color_hidden_dim": FROM_1,
    "density_bias": ANY,
    "density_noise": FROM_0,
    "rgb_padding": FROM_0,
    "appearance_dim": FROM_0,
    "appearance_std": FROM_0,
}
