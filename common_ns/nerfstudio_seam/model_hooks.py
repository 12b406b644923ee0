"""What `FieldPipeline` asks a model beyond nerfstudio's own contract."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

from nerfstudio.cameras.cameras import Cameras
from torch import Tensor
from torch.nn import Parameter

from common_ns.rays.random_numbers import RayRandomness


@runtime_checkable
class ModelHooks(Protocol):
    """Models of this suite inherit these defaults and override what they need; others are served by `DefaultHooks`.

    Losses are to be means over rays: the pipeline adds them up over chunks and devices.
    """

    randomness: RayRandomness | None = None
    """Random numbers that rays bring along in training, as `ray_bundle.metadata["random_numbers"]`; None: none."""

    @property
    def train_rays_per_chunk(self) -> int | None:
        """Most rays whose activations are kept at once in training; None: the whole batch."""
        return None

    def count_rays(self, batch: dict[str, Any]) -> dict[str, int]:
        """How many rays of a batch a loss is averaged over, by name, for losses that not all rays have.

        The fraction of all devices' rays comes back as `batch["fraction_NAME"]`: the mean over those rays is the sum
        over a chunk divided by the number of its rays and by that fraction.
        """
        return {}

    def networks(self) -> list[list[Parameter]]:
        """The parameters of each network, for optimizers that bound the gradient of each by itself."""
        return []

    def after_backward(self, step: int, metrics: dict[str, Tensor]) -> None:
        """Called after each training step's gradients, with the metrics of all devices."""

    def evaluate_image(self, camera: Cameras, batch: dict[str, Any]) -> tuple[dict[str, float], dict[str, Tensor]]:
        """Metrics and pictures of a test image."""
        model: Any = self
        return model.get_image_metrics_and_images(model.get_outputs_for_camera(camera), batch)


class DefaultHooks(ModelHooks):
    """The defaults, for a model that knows nothing of them: nerfstudio's own.

    Args:
        model: the model.
    """

    def __init__(self, model: Any) -> None:
        self.get_outputs_for_camera = model.get_outputs_for_camera
        self.get_image_metrics_and_images = model.get_image_metrics_and_images


def hooks_of(model: Any) -> ModelHooks:
    """A model's hooks: itself, where it has them."""
    return model if isinstance(model, ModelHooks) else DefaultHooks(model)
