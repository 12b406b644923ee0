"""The color half of a field: what a density's hidden features look like from a direction, in a training image's light.

Direction and appearance code condition small layers on top of the density's own, so that they cannot move surfaces.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from nerfstudio.cameras.rays import RaySamples
from nerfstudio.field_components.field_heads import FieldHeadNames
from nerfstudio.fields.base_field import Field
from torch import Tensor, nn

from common_ns.appearance import AppearanceCodes
from common_ns.rays.positional_encoding import pos_enc
from mipnerf_ns.networks import ColorHead, init_weights


class ColoredField(Field):
    """Adds color to a class of density, which stands behind this one among the bases of the field.

    Args:
        bottleneck_dim: channels from the density's hidden features to the color head.
        num_color_layers, color_hidden_dim: size of the color head.
        color_skip: join the color head's input again before its output.
        num_direction_frequencies: octaves of the view direction's encoding.
        rgb_padding: colors reach this far beyond [0, 1].
        num_images: training images, each with an appearance code.
        appearance_dim: length of the codes; 0: none.
        appearance_std: standard deviation of their numbers at the start; None: such that their length is about 1.
        **density: arguments of the density, which has a `density_head` on its hidden features.
    """

    density_head: nn.Linear

    def __init__(
        self,
        bottleneck_dim: int = 256,
        num_color_layers: int = 1,
        color_hidden_dim: int = 128,
        color_skip: bool = False,
        num_direction_frequencies: int = 4,
        rgb_padding: float = 0.001,
        num_images: int = 0,
        appearance_dim: int = 0,
        appearance_std: float | None = 0.01,
        **density,
    ) -> None:
        super().__init__(**density)
        self.num_direction_frequencies = num_direction_frequencies
        condition = 3 + 6 * num_direction_frequencies + appearance_dim
        hidden_dim = self.density_head.in_features
        self.color_head = ColorHead(
            hidden_dim, bottleneck_dim, condition, num_color_layers, color_hidden_dim, rgb_padding, color_skip
        )
        init_weights(self.color_head, nn.init.kaiming_uniform_)
        self.appearance = AppearanceCodes(num_images, appearance_dim, appearance_std) if appearance_dim > 0 else None

    def get_outputs(
        self, ray_samples: RaySamples, density_embedding: Tensor | None = None
    ) -> dict[FieldHeadNames, Tensor]:
        assert density_embedding is not None
        # All samples of a ray share its direction and image: they are encoded once and broadcast.
        directions = ray_samples.frustums.directions[..., :1, :]
        indices = None if ray_samples.camera_indices is None else ray_samples.camera_indices[..., :1, :]
        return {FieldHeadNames.RGB: self.color(density_embedding, directions, indices)}

    def color(
        self,
        hidden: Float[Tensor, "*n hidden"],
        directions: Float[Tensor, "*m 3"],
        camera_indices: Int[Tensor, "*m 1"] | None = None,
    ) -> Float[Tensor, "*n 3"]:
        """Color in [−padding, 1 + padding].

        Args:
            hidden: the density's features of the samples.
            directions: view directions (any length), broadcast over the samples.
            camera_indices: training image of each ray, for its appearance code.
        """
        condition = pos_enc(F.normalize(directions, dim=-1), 0, self.num_direction_frequencies)
        if self.appearance is not None:
            codes = self.appearance(camera_indices, condition.shape[:-1])
            condition = torch.cat([condition, codes.to(condition)], dim=-1)
        return self.color_head(hidden, condition)
