"""A mip-NeRF 360 of a few neurons and rays for it, which its tests share."""

from __future__ import annotations

import torch
from nerfstudio.cameras.rays import RayBundle
from nerfstudio.data.scene_box import SceneBox

from common_ns.scene_bounds import RayBounds
from mipnerf_ns.model360 import MipNerf360Model, MipNerf360ModelConfig
from mipnerf_ns.proposal import Round

OBJECT = RayBounds(2.0, 6.0, bounded=True, extent=2.0, reason="test")
CAPTURE = RayBounds(0.1, 8.0, bounded=False, extent=9.0, reason="test")
NUM_IMAGES = 3
NOISE = 6
"""Random numbers of a ray: a shift for each of three rounds, and a background color."""


def build(bounds: RayBounds | None = CAPTURE, alpha: bool = False, **options) -> MipNerf360Model:
    torch.manual_seed(0)
    small = {"num_layers": 2, "hidden_dim": 16, "bottleneck_dim": 8, "color_hidden_dim": 8, "num_frequencies": 4}
    small |= {"proposal_num_layers": 1, "proposal_hidden_dim": 8, "precision": "float32"}
    small |= {"num_proposal_samples": (12, 10), "num_nerf_samples": 8}
    metadata = {"images_have_alpha": alpha} | ({} if bounds is None else {"ray_bounds": bounds})
    box = SceneBox(aabb=torch.tensor([[-1.5] * 3, [1.5] * 3]))
    config = MipNerf360ModelConfig(**{**small, **options})
    return config.setup(scene_box=box, num_train_data=NUM_IMAGES, metadata=metadata)


def rays(count: int = 20, area: float = 1e-4, **fields) -> RayBundle:
    generator = torch.Generator().manual_seed(1)
    directions = torch.nn.functional.normalize(torch.randn(count, 3, generator=generator), dim=-1)
    return RayBundle(
        origins=-0.5 * directions + 0.1 * torch.randn(count, 3, generator=generator),
        directions=directions,
        pixel_area=torch.full((count, 1), area),
        camera_indices=torch.arange(count)[:, None] % NUM_IMAGES,
        **fields,
    )


def training_rays(count: int = 20, seed: int = 0) -> RayBundle:
    """Rays that bring their random numbers, as the pipeline sends them."""
    noise = torch.rand(count, NOISE, generator=torch.Generator().manual_seed(seed))
    return rays(count, metadata={"noise": noise})


def rounds_of(model: MipNerf360Model, bundle: RayBundle) -> list[Round]:
    """The rounds behind the model's last outputs."""
    found: list[Round] = []
    keep = model._regularizers
    model._regularizers = lambda rounds: (found.extend(rounds), keep(rounds))[1]  # type: ignore[method-assign]
    try:
        model(bundle)
    finally:
        del model._regularizers
    return found
