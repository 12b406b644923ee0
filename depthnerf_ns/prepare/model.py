"""Monocular depth by a model of the transformers library; nothing is downloaded unless that is asked for."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray

from common_ns.data.images import decode_image
from common_ns.errors import InputError
from depthnerf_ns.prepare.predictions import Kind, checked

INSTALL = "Install it with: pip install 'fieldsuite[mono]'"


class ModelPredictions:
    """A depth-estimation model, by its folder or its name in the local cache.

    Args:
        name: folder of a saved model, or a name on the Hugging Face hub.
        kind: what the model's output is; auto: as its configuration says.
        download: fetch a model that is not on this machine.
        device: to run it on.
    Raises: InputError if the library or the model is missing, or its kind is not known.
    """

    def __init__(
        self, name: str, kind: Kind | Literal["auto"] = "auto", download: bool = False, device: str = "cpu"
    ) -> None:
        try:
            from transformers import AutoImageProcessor, AutoModelForDepthEstimation
        except ImportError as error:
            raise InputError(f"the library transformers is not installed ({error})", INSTALL) from error
        if not Path(name).exists() and (name.startswith((".", "/", "~")) or name.count("/") > 1):
            raise InputError("the folder of the model does not exist", "Correct --model", name)
        try:
            options = {"local_files_only": not download}
            self._processor: Any = AutoImageProcessor.from_pretrained(name, **options)
            model: Any = AutoModelForDepthEstimation.from_pretrained(name, **options)
        except (OSError, ValueError, KeyError, ImportError, AttributeError) as error:
            raise self._explained(name, download, error) from error
        self._model = model.eval().to(device)
        found = kind_of_model(model.config) if kind == "auto" else kind
        self._device = device
        if found is None:
            problem = f"whether a model of type {model.config.model_type} gives depth or inverse depth is not known"
            raise InputError(problem, "Say it by --mono-kind, as the model's card does", name)
        self._kind: Kind = found

    @staticmethod
    def _explained(name: str, download: bool, error: Exception) -> InputError:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        if Path(name).exists():
            remedy = "Save a depth-estimation model and its image processor there with save_pretrained"
            return InputError(f"cannot be loaded as a depth-estimation model ({reason})", remedy, name)
        if download:
            return InputError(f"the model cannot be downloaded ({reason})", "Correct its name, or give a folder", name)
        remedy = "Give a folder with the saved model, or let it be fetched with --download"
        return InputError("the model is neither a folder nor in the local cache", remedy, name)

    @property
    def kind(self) -> Kind:
        return self._kind

    @torch.no_grad()
    def __call__(self, frame: dict[str, Any], size: tuple[int, int]) -> Float[ndarray, "h w"]:
        image = np.array(decode_image(Path(frame["file_path"]), size)[..., :3])  # torch wants it writable
        inputs = self._processor(images=image, return_tensors="pt").to(self._device)
        output = self._model(**inputs)
        target = [(size[1], size[0])]
        finish = getattr(self._processor, "post_process_depth_estimation", None)
        if finish is not None:  # some models pad their input or give a field of view, which their processors undo
            sizes: dict[str, Any] = {"target_sizes": target}
            if "source_sizes" in inspect.signature(finish).parameters:
                sizes["source_sizes"] = [image.shape[:2]]
            values = finish(output, **sizes)[0]["predicted_depth"]
        else:
            depth = output.predicted_depth
            depth = depth.reshape(1, 1, *depth.shape[-2:])
            values = torch.nn.functional.interpolate(depth, size=target[0], mode="bicubic", align_corners=False)
        values = values.float().cpu().numpy().reshape(size[::-1])
        return checked(np.maximum(values, 0.0) if self.kind == "inverse-depth" else values, self.kind)


def kind_of_model(config: Any) -> Kind | None:
    """What the output of a model is, by its configuration; None if that does not tell.

    DPT gives inverse depth; its variants on DINOv2, which were trained on NYU or KITTI, are called DPT as well and give
    metric depth, so that those are not judged.
    """
    name = config.model_type
    if name in ("zoedepth", "glpn", "depth_pro", "prompt_depth_anything"):
        return "metric"
    if name == "depth_anything":
        return "metric" if getattr(config, "depth_estimation_type", "relative") == "metric" else "inverse-depth"
    if name == "dpt":
        backbone = getattr(getattr(config, "backbone_config", None), "model_type", "")
        return None if backbone == "dinov2" else "inverse-depth"
    return None
