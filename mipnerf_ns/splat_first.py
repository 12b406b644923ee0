"""Which Gaussians a training begins with: at known points, of a field, where photographs agree, or at random."""

from __future__ import annotations

from typing import Any, Literal

import torch
from jaxtyping import Float
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.data.scene_box import SceneBox
from torch import Tensor

from common_ns.data.notes import note
from common_ns.errors import InputError
from common_ns.nerfstudio_seam.image_datamanager import ImageDataManager
from common_ns.splat_baking.gaussians import Gaussians
from common_ns.splat_baking.other_run import bake_run
from common_ns.splats.harmonics import count
from mipnerf_ns.splat_cameras import intrinsics_of, sizes_of, viewmats_of
from mipnerf_ns.splat_config import MipSplatOptions
from mipnerf_ns.splat_field import baked, fitted_field
from mipnerf_ns.splat_start import gaussians_at, random_points_in_box, random_points_in_views
from mipnerf_ns.splat_sweep import small_photographs, swept_points

NEAREST_VIEW, FARTHEST_VIEW = 0.2, 50.0
"""Depths between which random Gaussians of captures are, in extents of the cameras."""
PLACEHOLDERS = 4
"""Gaussians until the first step places others."""

Kind = Literal["points", "field", "run", "photographs", "random", "depth"]


class FirstGaussians:
    """Chooses what the first Gaussians are made of, and makes them.

    Args:
        config: of the model.
        seed_points: known points of the scene and their colors (0 to 255), as nerfstudio gives them; None: none.
        scene_box: of the scene.
        is_object: whether the scene is within the box.
        extent: of the cameras, in scene units.
        seed: of all that is drawn.
    Raises: InputError if there is nothing to begin with.
    """

    def __init__(
        self,
        config: MipSplatOptions,
        seed_points: tuple[Tensor, Tensor] | None,
        scene_box: SceneBox,
        is_object: bool,
        extent: float,
        seed: int,
    ) -> None:
        self.config, self.scene_box, self.is_object, self.seed = config, scene_box, is_object, seed
        most = config.max_gaussians
        self.number = config.num_start if most is None else min(config.num_start, most)
        """Of Gaussians to begin with, where they do not begin at known points."""
        self.depths = NEAREST_VIEW * extent, FARTHEST_VIEW * extent
        wanted = config.init_from is None and config.start_from in ("auto", "points")
        self.known = known_points(seed_points) if wanted else None
        self.kind: Kind = self._choose()

    def _choose(self) -> Kind:
        start, number = self.config.start_from, self.number
        if self.config.init_from is not None and start != "auto":
            problem = f"init-from names a run to begin with, and start-from is {start}"
            raise InputError(problem, "Leave out one of them")
        if start == "points" and self.known is None:
            problem = "start-from is points, and the data has none"
            raise InputError(problem, "Leave --pipeline.model.start-from at auto, or give data with points")
        if self.known is None and number < 2:
            problem = f"no points of the scene are given, and num-start is {number}: there is nothing to begin with"
            raise InputError(problem, "Give 2 or more to --pipeline.model.num-start, or data with points")
        if self.config.init_from is not None:
            return "run"
        if start == "auto":
            return "points" if self.known is not None else "field"
        return start

    @property
    def needs_photographs(self) -> bool:
        """Whether they are placed by `placed_by_photographs`."""
        return self.kind in ("field", "run", "photographs")

    def at_once(self, cameras: Cameras) -> dict[str, Tensor]:
        """Those at known points or at random places; else a few that hold the place of others. In the form of
        `gaussians_at`."""
        if self.known is not None:
            return gaussians_at(*self.known, self.config.sh_degree)
        number = self.number if self.kind == "random" else PLACEHOLDERS
        generator = self._generator()
        if self.is_object:
            points = random_points_in_box(self.scene_box.aabb.float().cpu(), number, generator)
        else:
            cameras = cameras.to("cpu")
            views = (cameras.camera_to_worlds, intrinsics_of(cameras), sizes_of(cameras))
            points = random_points_in_views(*views, *self.depths, number, generator)
        return gaussians_at(points, torch.rand(number, 3, generator=generator), self.config.sh_degree)

    def placed_by_photographs(self, datamanager: ImageDataManager, background: Float[Tensor, "3"]) -> dict[str, Tensor]:
        """Those of a field, of another run, or where photographs agree, and a line that says so.

        Args:
            datamanager: with the training photographs.
            background: that photographs with alpha are put over.
        Raises: InputError about a run that does not fit.
        """
        config = self.config
        if self.kind == "photographs":
            found = self._swept(datamanager, background)
            note(f"No points of the scene are known: {len(found['means']):,} Gaussians begin where photographs agree.")
            return found
        if self.kind == "run":
            assert config.init_from is not None
            data = datamanager.config.dataparser.data
            outputs = datamanager.train_dataparser_outputs
            made = bake_run(config.init_from, outputs, data, self.number, config.sh_degree, self.seed)
            note(f"{len(made[0]):,} Gaussians begin where {config.init_from} sees surfaces.")
            return parameters_of(made[0], config.sh_degree)
        note(f"A field is fitted for {config.field_steps:,} steps, before the first step of Gaussians.")
        fit = fitted_field(datamanager, self.scene_box, config.field_steps, self.seed, config.field)
        try:
            made = baked(fit, self.number, config.sh_degree, self.seed)
        except InputError as error:
            remedy = "Give more to --pipeline.model.field-steps, or another --pipeline.model.start-from"
            raise InputError(f"the field that was fitted: {error.problem}", remedy) from error
        spent = f"{config.field_steps:,} steps in {fit.seconds:.0f} core-seconds"
        note(f"{len(made[0]):,} Gaussians begin where a field sees surfaces, which was fitted by {spent}.")
        return parameters_of(made[0], config.sh_degree)

    def _swept(self, datamanager: ImageDataManager, background: Float[Tensor, "3"]) -> dict[str, Tensor]:
        cameras = datamanager.train_dataset.cameras.to("cpu")
        images = (over(image.cpu(), background.cpu()) for image in datamanager.train_photographs())
        seen = small_photographs(images, viewmats_of(cameras), intrinsics_of(cameras))
        found = swept_points(seen, *self.depths, self.number, self._generator())
        return gaussians_at(found.points, found.colors, self.config.sh_degree, found.footprints)

    def _generator(self) -> torch.Generator:
        return torch.Generator().manual_seed(self.seed)


def known_points(seed_points: Any) -> tuple[Float[Tensor, "n 3"], Float[Tensor, "n 3"]] | None:
    """Known points of the scene and their colors in [0, 1], those that are finite; None: there are none.

    Args:
        seed_points: points, and colors from 0 to 255.
    """
    if seed_points is None:
        return None
    points, colors = (torch.as_tensor(value).detach().float().cpu() for value in seed_points)
    colors = colors / 255.0 if len(colors) == len(points) else torch.full_like(points, 0.5)
    finite = torch.isfinite(torch.cat([points, colors], dim=1)).all(dim=1)
    if not bool(finite.all()):
        note(f"Left out {int((~finite).sum())} of {len(finite)} points: not finite.")
    return (points[finite], colors[finite]) if bool(finite.any()) else None


def parameters_of(gaussians: Gaussians, sh_degree: int) -> dict[str, Tensor]:
    """Baked Gaussians in the form of `gaussians_at`."""
    rest = gaussians.coefficients.new_zeros(len(gaussians), count(sh_degree) - 1, 3)
    given = gaussians.coefficients[:, 1 : count(sh_degree)]
    rest[:, : given.shape[1]] = given
    return {
        "means": gaussians.means.clone(),
        "scales": gaussians.scales.log(),
        "quats": gaussians.quats.clone(),
        "features_dc": gaussians.coefficients[:, 0].clone(),
        "features_rest": rest,
        "opacities": torch.logit(gaussians.opacities)[:, None],
    }


def over(image: Float[Tensor, "h w c"], background: Float[Tensor, "3"]) -> Float[Tensor, "h w 3"]:
    """A photograph over a background, where it has alpha."""
    if image.shape[-1] == 4:
        return image[..., :3] * image[..., 3:] + background * (1.0 - image[..., 3:])
    return image
