"""Surfaces as nerfstudio models: everything but how a ray is rendered, for NeuS and IDR alike."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.cameras.rays import RayBundle
from nerfstudio.engine.callbacks import TrainingCallback, TrainingCallbackAttributes, TrainingCallbackLocation
from nerfstudio.model_components.scene_colliders import SceneCollider
from nerfstudio.utils import colormaps
from nerfstudio.utils.rich_utils import CONSOLE
from nerfstudio.viewer.viewer_elements import ViewerDropdown, ViewerSlider
from torch import Tensor
from torch.nn import Parameter

from common_ns.base_model import RadianceModel, RadianceModelConfig
from common_ns.cameras.first_view import ViewOfSphere
from common_ns.data.scene_bounds import RayBounds
from common_ns.errors import InputError
from common_ns.meshing.iso_field import IsoField
from common_ns.metrics import psnr, psnr_of_mse, valid_pixels_of
from common_ns.nerfstudio_seam.shown_outputs import only
from common_ns.viewer_preview.source import Source
from common_ns.viewer_preview.surfaces import SurfaceSource
from hashnffb_sdf_ns.camera_refinement import (
    CameraRefinement,
    CameraRefinementConfig,
    aligned_camera,
    alignment_to_refined,
    camera_metrics,
)
from hashnffb_sdf_ns.encodings.options import EncodingConfig, EncodingName, make_encoding
from hashnffb_sdf_ns.sampling import sphere_interval
from hashnffb_sdf_ns.sdf_field import SPHERE_EDGE, NetworkOptions, SdfField
from hashnffb_sdf_ns.slice_plane import slice_picture
from hashnffb_sdf_ns.viewer_mesh import MeshSnapshot

NEAREST = 0.02
"""Near plane of cameras within the scene's sphere, relative to its radius, if none is given."""

STEEPNESS = 50.0
"""Of the weights by which cameras' directions are blended for the colors of meshes: 10° off costs half of a weight."""


@dataclass
class SdfFieldConfig(NetworkOptions):
    """The field of distance and color."""

    encoding: EncodingName = "hash"
    """Of positions: octaves of sines, random Fourier features, hash grid, Fourier filter banks on a hash grid, or
    filter banks modulated by style."""
    options: EncodingConfig = field(default_factory=EncodingConfig)
    """Sizes of the encodings; those of the chosen one count."""


@dataclass
class SurfaceModelConfig(RadianceModelConfig):
    """Options of surfaces, however they are rendered."""

    _target: type = field(default_factory=lambda: SurfaceModel)
    """target class to instantiate"""
    sdf_field: SdfFieldConfig = field(default_factory=SdfFieldConfig)
    """The field of distance and color."""
    sphere_radius: float = 1.0
    """Radius in scene units of the sphere about the origin that the surface is in."""
    eikonal_loss_mult: float = 0.1
    """Weight of the loss that makes the field's gradient have length 1, as a distance's has."""
    curvature_loss_mult: float = 0.0
    """Weight of the mean curvature (|Laplacian| of the distance), which smooths; needs numerical gradients."""
    mask_loss_mult: float = 0.1
    """Weight of the masks' loss, where images have masks or alpha. With 0 masks are not used at all."""
    charbonnier_padding: float = 0.001
    """Color errors below this count quadratically, those above linearly; 0: absolute errors."""
    coarse_to_fine_steps: int = 0
    """Steps over which the encoding goes from its coarsest level to all of them, and numerical gradients from their
    initial step to the last; 0: all at once."""
    camera_optimizer: CameraRefinementConfig = field(default_factory=CameraRefinementConfig)
    """Refine the training cameras' poses (mode SO3xR3), for captures with imprecise ones."""


FIELD_LOSSES = "field_losses"
"""The training output that holds `FieldLosses`."""


class FieldLosses(NamedTuple):
    """Losses of training rays on the distance field itself, not weighted."""

    eikonal: Float[Tensor, "n 1"]
    """How far the field's gradient is from length 1, at points of the ray and at a random one."""
    curvature: Float[Tensor, "n 1"] | None
    """Magnitude of the distance's Laplacian there, if it is asked for."""


class SphereCollider(SceneCollider):
    """Rays begin and end in the scene's sphere; those that miss it are empty.

    In place of nerfstudio's, whose planes lose their digits for far cameras, and whose near plane is for training only.

    Args:
        center: of the sphere.
        radius: of the sphere in scene units.
        near, far: further limits in ray distance.
    """

    def __init__(self, center: tuple[float, float, float], radius: float, near: float, far: float) -> None:
        super().__init__()
        self.center, self.radius, self.near, self.far = center, radius, near, far

    def set_nears_and_fars(self, ray_bundle: RayBundle) -> RayBundle:
        center = ray_bundle.origins.new_tensor(self.center)
        shape = ray_bundle.origins.shape
        near, far = sphere_interval(
            ray_bundle.origins.reshape(-1, 3), ray_bundle.directions.reshape(-1, 3), center, self.radius
        )
        near = near.clamp(self.near, self.far)
        ray_bundle.nears = near.reshape(*shape[:-1], 1)
        ray_bundle.fars = torch.maximum(far.clamp_max(self.far), near).reshape(*shape[:-1], 1)
        return ray_bundle


class SurfaceModel(RadianceModel):
    """A signed distance field in a sphere. Subclasses render rays (`get_outputs`) and say which losses that gives.

    Images may come with masks of the object (`batch["mask"]`, the share of the pixel that it covers). Colors then
    count within them only, unless images have alpha, which says what is seen beside the object.

    Args:
        config: the model's config.
    """

    config: SurfaceModelConfig
    field: SdfField

    def populate_modules(self) -> None:
        """Choose the sphere, near and far, and the background's color; build the field and the viewer's controls."""
        config = self.config
        if not config.sphere_radius > 0:
            raise InputError(f"sphere-radius is {config.sphere_radius:g}", "Choose it above 0, in scene units")
        if config.curvature_loss_mult > 0 and config.sdf_field.gradient != "numerical":
            problem = f"curvature-loss-mult is {config.curvature_loss_mult:g}, and gradients are analytic"
            raise InputError(problem, "Set --pipeline.model.sdf-field.gradient numerical, or leave it 0")
        self.ray_bounds = self._bounds_of_sphere()
        self.center, self.radius = (0.0, 0.0, 0.0), config.sphere_radius
        near = config.near_plane if config.near_plane is not None else NEAREST * self.radius
        far = config.far_plane if config.far_plane is not None else float("inf")
        if not 0 <= near < far:
            problem = f"near {near:g} and far {far:g} do not enclose an interval"
            raise InputError(problem, "Choose 0 ≤ near-plane < far-plane, in scene units")
        self.collider = SphereCollider(self.center, self.radius, near, far)
        self.choose_surface_background()
        options = config.sdf_field
        self.field = SdfField(
            make_encoding(options.encoding, options.options), options, self.center, self.radius, self.num_train_data
        )
        self.camera_optimizer: CameraRefinement = config.camera_optimizer.setup(
            num_cameras=self.num_train_data,
            device="cpu",
            camera_to_worlds=self.metadata.get("camera_to_worlds"),
            radius=self.radius,
        )
        # Not modules: the viewer finds its controls among the model's attributes.
        self.mesh_snapshot = MeshSnapshot(self.iso_field)
        poses = self.metadata.get("camera_to_worlds")
        poses = None if poses is None else poses.double().cpu().numpy()
        self.set_up_viewer(ViewOfSphere(self.center, self.radius, poses))
        self.slice_axis = ViewerDropdown("SDF slice: axis", "z", ["x", "y", "z"])
        self.slice_height = ViewerSlider("SDF slice: height", 0.0, -self.radius, self.radius, 0.01 * self.radius)
        self.step = 0
        self.set_step(0)

    def preview_source(self) -> Source:
        return SurfaceSource(self, self.iso_field, only_colors=lambda: only({"rgb"}))

    @property
    def uses_masks(self) -> bool:
        """Whether images have masks, and the config wants them."""
        return self.config.mask_loss_mult > 0 and bool(self.metadata.get("has_masks", False))

    @property
    def has_alpha(self) -> bool:
        """Whether what is beside the object is known to be empty, and is shown in the background's color."""
        return bool(self.metadata.get("images_have_alpha", False))

    def _bounds_of_sphere(self) -> RayBounds:
        """Near and far for pictures of depth: those of the sphere as the nearest and the farthest camera see it."""
        radius = self.config.sphere_radius
        poses = self.metadata.get("camera_to_worlds")
        distance = torch.tensor([3.0 * radius]) if poses is None else poses[:, :3, 3].float().norm(dim=-1)
        near, far = max(float(distance.min()) - radius, 0.0), float(distance.max()) + radius
        return RayBounds(near, far, bounded=True, extent=radius, reason="the scene's sphere")

    def choose_surface_background(self) -> None:
        """Color behind the sphere: white for images with alpha, else black, unless the user has chosen."""
        captures = "black"
        if self.config.background_color == "auto" and not self.has_alpha:
            # The base takes white for bounded scenes.
            self.ray_bounds = RayBounds(**{**vars(self.ray_bounds), "bounded": False})
        self.choose_background(captures=captures)
        self.ray_bounds = RayBounds(**{**vars(self.ray_bounds), "bounded": True})

    def report(self, *more: str) -> None:
        """Print what was chosen."""
        masks = "with masks" if self.uses_masks else "without masks"
        encoding = self.config.sdf_field.encoding
        facts = [f"Sphere of radius {self.radius:g}", f"encoding {encoding}", masks, *more]
        CONSOLE.print(", ".join(facts) + f", background {self.renderer_rgb.background_color}.")

    def get_param_groups(self) -> dict[str, list[Parameter]]:
        """Tables of grids apart from networks: their rows are seldom met and take larger steps."""
        tables = self.grid_tables()
        groups = {"grids": tables} if tables else {}
        ids = {id(table) for table in tables}
        others = ("camera_optimizer.", "device_indicator_param")
        networks = [p for name, p in self.named_parameters() if not name.startswith(others)]
        groups["fields"] = [p for p in networks if id(p) not in ids]
        self.camera_optimizer.get_param_groups(groups)
        return groups

    def grid_tables(self) -> list[Parameter]:
        """The tables of all grids."""
        return self.field.encoding.tables()

    def get_training_callbacks(
        self, training_callback_attributes: TrainingCallbackAttributes
    ) -> list[TrainingCallback]:
        return [TrainingCallback([TrainingCallbackLocation.BEFORE_TRAIN_ITERATION], self.set_step)]

    def update_to_step(self, step: int) -> None:
        """Called with a checkpoint's step before its state is loaded."""
        super().update_to_step(step)
        self.set_step(step)

    def set_step(self, step: int) -> None:
        """Set what is scheduled by the absolute step."""
        self.step = self.camera_optimizer.step = step
        steps, cameras = self.config.coarse_to_fine_steps, self.config.camera_optimizer
        if cameras.mode != "off":
            steps = max(steps, cameras.coarse_to_fine_steps)
        self.field.set_progress(min(step / steps, 1.0) if steps > 0 else 1.0)

    def training_rays(self, rays: RayBundle) -> RayBundle:
        """Rays of refined cameras, from which gradients flow to their poses."""
        if self.config.camera_optimizer.mode == "off":
            return rays
        rays = self.camera_optimizer.refine(rays)
        with torch.no_grad():  # where they meet the sphere has changed as well
            assert isinstance(self.collider, SphereCollider)
            return self.collider.set_nears_and_fars(rays)

    @abstractmethod
    def get_outputs(self, ray_bundle: RayBundle) -> dict[str, Tensor]:
        """Render rays [n].

        Returns: rgb, accumulation, depth (ray distance), and outside of training normals in [0, 1] and sdf_slice; in
            training `FieldLosses`.
        """

    def slice_output(self, rays: RayBundle) -> Float[Tensor, "n 3"]:
        """The plane through the field that the viewer's controls choose."""
        center = rays.origins.new_tensor(self.center)
        return slice_picture(
            lambda points: self.field.sdf(points + center),
            rays.origins - center,
            rays.directions,
            self.slice_axis.value,  # type: ignore[arg-type]
            self.slice_height.value,
            self.radius,
        )

    def mask_of(self, batch: dict[str, Any]) -> Float[Tensor, "*n 1"] | None:
        """Share of each pixel that the object covers; None if that is not known, or not to be used."""
        if not self.uses_masks or "mask" not in batch:
            return None
        return batch["mask"].to(self.device).float()

    def count_rays(self, batch: dict[str, Any]) -> dict[str, int]:
        """How many of a batch's rays see the object: the color loss is averaged over these."""
        colored = self._colored(batch)
        return {} if colored is None else {"colored": int(colored.sum())}

    def _colored(self, batch: dict[str, Any]) -> Bool[Tensor, "*n 1"] | None:
        """Which rays' colors count; None: all."""
        mask = self.mask_of(batch)
        return None if mask is None or self.has_alpha else mask > 0.5

    def color_loss(self, outputs: dict[str, Tensor], batch: dict[str, Any]) -> Float[Tensor, ""]:
        """Charbonnier or absolute error of the colors that count."""
        prediction, target = self.blended(outputs, batch)
        error, padding = prediction - target, self.config.charbonnier_padding
        loss = (error.square() + padding**2).sqrt() if padding > 0 else error.abs()
        colored = self._colored(batch)
        if colored is None:
            return self.mean_over_rays(loss, batch)
        fraction = batch.get("fraction_colored")
        if fraction is None:  # not from the suite's pipeline: the batch is all there is
            fraction = float(colored.float().mean())
        return self.mean_over_rays(loss * colored, batch) / max(fraction, 1e-12)

    def get_loss_dict(
        self, outputs: dict[str, Tensor], batch: dict[str, Any], metrics_dict: dict | None = None
    ) -> dict[str, Tensor]:
        losses = {"rgb_loss": self.color_loss(outputs, batch)}
        mask_loss = self.mask_loss(outputs, batch)
        if mask_loss is not None:
            losses["mask_loss"] = self.config.mask_loss_mult * mask_loss
        if self.training:
            found: FieldLosses = outputs[FIELD_LOSSES]  # type: ignore[assignment]
            losses["eikonal_loss"] = self.config.eikonal_loss_mult * found.eikonal.mean()
            if found.curvature is not None:
                losses["curvature_loss"] = self.config.curvature_loss_mult * found.curvature.mean()
            self.camera_optimizer.get_loss_dict(losses)
        return losses

    def mask_loss(self, outputs: dict[str, Tensor], batch: dict[str, Any]) -> Float[Tensor, ""] | None:
        """Mean over rays of how far they are from the masks; None without masks."""
        mask = self.mask_of(batch)
        if mask is None:
            return None
        opacity = outputs.get("foreground", outputs["accumulation"]).clamp(1e-3, 1.0 - 1e-3)
        return torch.nn.functional.binary_cross_entropy(opacity, mask)

    def get_metrics_dict(self, outputs: dict[str, Tensor], batch: dict[str, Any]) -> dict[str, Tensor]:
        prediction, target = self.blended(outputs, batch)
        square = (prediction.detach() - target).square()
        colored = self._colored(batch)
        if colored is not None:
            square = square[colored[..., 0]]
        metrics = {"psnr": psnr_of_mse(square.mean().clamp_min(1e-10))}
        if FIELD_LOSSES in outputs:
            found: FieldLosses = outputs[FIELD_LOSSES]  # type: ignore[assignment]
            metrics["eikonal"] = found.eikonal.detach().mean()
        self.camera_optimizer.get_metrics_dict(metrics)
        return metrics

    def get_image_metrics_and_images(
        self, outputs: dict[str, Tensor], batch: dict[str, Any]
    ) -> tuple[dict[str, float], dict[str, Tensor]]:
        """With object masks, what is beside the object is the background's color in both images; `masked_psnr` is over
        the object's pixels, and `mask_iou` compares opacity and mask."""
        mask, valid = batch.get("mask"), valid_pixels_of(batch)
        mask = None if mask is None or mask is valid else mask.to(self.device)
        if mask is not None and self.uses_masks and not self.has_alpha:
            image = torch.cat([batch["image"].to(self.device)[..., :3], (mask > 0.5).float()], dim=-1)
            batch = {**batch, "image": image}
        target, metrics = self.image_target_and_metrics(outputs, batch)
        if mask is not None and "psnr" in metrics:  # no mask has left out all pixels
            inside = mask[..., 0] > 0.5
            opacity = outputs.get("foreground", outputs["accumulation"])
            counts = torch.ones_like(inside) if valid is None else valid[..., 0].to(self.device)
            metrics |= masked_metrics(outputs["rgb"][counts], target[counts], inside[counts], opacity[counts])
        images = {
            "img": torch.cat([target, outputs["rgb"]], dim=1),
            "accumulation": colormaps.apply_colormap(outputs["accumulation"]),
            "depth": self.depth_picture(outputs["depth"], outputs["accumulation"]),
        }
        for name in ("normals", "sdf_slice"):
            if name in outputs:
                images[name] = outputs[name]
        return metrics, images

    def evaluate_image(self, camera: Cameras, batch: dict[str, Any]) -> tuple[dict[str, float], dict[str, Tensor]]:
        """Metrics and pictures of a test image, and the errors of the training cameras where these are known.

        Refined cameras may all have drifted together, which no image can tell. Test views follow them: they are moved
        by the similarity from the training cameras' reference poses, or those of the data, to the refined ones.
        """
        alignment = alignment_to_refined(self.camera_optimizer, self.metadata)
        if alignment is not None:
            camera = aligned_camera(camera, batch.get("reference_camera_to_world"), alignment)
        metrics, images = self.get_image_metrics_and_images(self.get_outputs_for_camera(camera), batch)
        return metrics | camera_metrics(self.camera_optimizer, self.metadata), images

    def mesh_color(self, x: Float[Tensor, "n 3"], normals: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
        """Colors of surface points for meshes: as training cameras that stand above them show them.

        Seen straight along their normals, most points would be shown as no photograph has, and nothing has trained
        such colors. Without known cameras there is no other choice. Directions of cameras are blended, each by how
        steeply it looks down, so that there are no seams.
        """
        along = -normals
        poses = self.metadata.get("camera_to_worlds")
        if poses is not None:
            positions = poses[:, :3, 3].to(x)
            height = normals @ positions.T - (normals * x).sum(-1, keepdim=True)
            distance = torch.cdist(x, positions).clamp_min(1e-9)
            weights = torch.softmax(STEEPNESS * height / distance, dim=-1) / distance
            along = weights.sum(-1, keepdim=True) * x - weights @ positions
        features = self.field.forward_geonetwork(x)[:, 1:]
        codes = self.field.codes_of(None, len(x))
        return self.field.color(x, self.field.encode_directions(along), normals, features, codes)

    def color_along(self, x: Float[Tensor, "n 3"], directions: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
        """Colors of surface points as seen along directions."""
        geometry = self.field.geometry(x)
        normals = F.normalize(geometry.gradient, dim=-1, eps=1e-6)
        codes = self.field.codes_of(None, len(x))
        return self.field.color(x, self.field.encode_directions(directions), normals, geometry.features, codes)

    def iso_field(self, level: float | None = None, voxel_size: float | None = None) -> IsoField:
        """The distance as ns-mesh reads it: 0 at the surface, smaller inside. What is outside of the scene's sphere is
        outside of the surface."""
        del voxel_size
        center = torch.tensor(self.center)

        def value(points: Float[Tensor, "n 3"]) -> Float[Tensor, " n"]:
            # Beyond the sphere nothing has trained the field.
            beyond = (points - center.to(points)).norm(dim=-1) - SPHERE_EDGE * self.radius
            return torch.maximum(self.field.sdf(points), beyond)

        return IsoField(
            value=value,
            level=level if level is not None else 0.0,
            inside_above=False,
            aabb=torch.stack([center - self.radius, center + self.radius]),
            color=self.mesh_color,
            color_along=self.color_along,
            device=self.device,
        )


def masked_metrics(
    prediction: Float[Tensor, "*n 3"],
    target: Float[Tensor, "*n 3"],
    inside: Bool[Tensor, "*n"],
    opacity: Float[Tensor, "*n 1"],
) -> dict[str, float]:
    """masked_psnr over the object's pixels (left out where there are none), and mask_iou of opacity above ½ with them.

    Args:
        prediction, target: images in [0, 1].
        inside: the object's pixels.
        opacity: rendered opacity.
    """
    found = opacity[..., 0] > 0.5
    union = float((found | inside).sum())
    metrics = {"mask_iou": float((found & inside).sum()) / union if union > 0 else 1.0}
    if bool(inside.any()):
        metrics["masked_psnr"] = psnr(prediction.clamp(0, 1)[inside], target[inside])
    return metrics
