"""Gaussians baked from a trained run, for another run on the same data that begins with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs
from torch import Tensor

from common_ns.data.checks import explained
from common_ns.errors import InputError
from common_ns.nerfstudio_seam.runs import load_run
from common_ns.splat_baking.bake import Samples, bake, is_surface
from common_ns.splat_baking.gaussians import Gaussians

TOLERANCE = 1e-3
"""Largest difference of two poses, in extents of the cameras and in entries of rotation matrices."""


def bake_run(
    load_config: Path, ours: DataparserOutputs, data: Path, count: int, degree: int, seed: int
) -> tuple[Gaussians, Samples]:
    """Gaussians of a run's field, in the coordinates of the run that is to begin with them. torch's random state is
    left as it was.

    Args:
        load_config: config.yml of the trained run, of any radiance or surface method.
        ours: training photographs of the run that begins.
        data: their data set, for messages.
        count, degree, seed: see `bake`.
    Raises: InputError if the run cannot be read, has no colors, or has other coordinates or cameras.
    """
    with torch.random.fork_rng(devices=[]):
        with explained(load_config):
            pipeline: Any = load_run(load_config, test_mode="test")
        try:
            is_surface(pipeline.model)
        except InputError as error:
            raise InputError(error.problem, error.remedy, load_config) from error
        require_same_coordinates(pipeline.datamanager.train_dataparser_outputs, ours, load_config, data)
        return bake(pipeline, count, degree, seed)


def require_same_coordinates(theirs: DataparserOutputs, ours: DataparserOutputs, load_config: Path, data: Path) -> None:
    """Check that two runs mean the same by scene coordinates: photographs of the same name have the same pose, and the
    way from the data set's coordinates is the same.

    Args:
        theirs: training photographs of the run at `load_config`.
        ours: those of the run on `data`.
    Raises: InputError with what differs.
    """
    remedy = "Train both with the same --data, dataparser and dataparser options"
    about = f"the run's coordinates are not those of this run on {data}"
    scales = float(theirs.dataparser_scale), float(ours.dataparser_scale)
    if abs(scales[0] - scales[1]) > TOLERANCE * abs(scales[1]):
        raise InputError(f"{about}: scale {scales[0]:.4g} there, {scales[1]:.4g} here", remedy, load_config)
    there, here = _poses(theirs), _poses(ours)
    common = sorted(there.keys() & here.keys())
    if not common:
        names = f"such as {min(there, default='none')} there, {min(here, default='none')} here"
        raise InputError(f"{about}: they have no photograph in common ({names})", remedy, load_config)
    first, second = (torch.stack([poses[name] for name in common]) for poses in (there, here))
    origins = ours.cameras.camera_to_worlds[:, :3, 3].double().cpu()
    extent = float((origins - origins.mean(dim=0)).norm(dim=-1).max()) or 1.0
    apart = (first[:, :, 3] - second[:, :, 3]).norm(dim=-1) / extent
    turned = (first[:, :, :3] - second[:, :, :3]).abs().amax(dim=(1, 2))
    worst = int(torch.maximum(apart, turned).argmax())
    if float(torch.maximum(apart, turned)[worst]) > TOLERANCE:
        places = [", ".join(f"{value:.3g}" for value in each[worst, :, 3].tolist()) for each in (first, second)]
        where = f"{common[worst]} is taken from ({places[0]}) there, ({places[1]}) here"
        raise InputError(f"{about}: {where}", remedy, load_config)
    ways = [each.dataparser_transform.double().cpu() for each in (theirs, ours)]
    if not torch.allclose(*ways, atol=TOLERANCE, rtol=TOLERANCE):
        raise InputError(f"{about}: their dataparsers turn or move the data differently", remedy, load_config)


def _poses(outputs: DataparserOutputs) -> dict[str, Float[Tensor, "3 4"]]:
    """Camera to world by the photographs' names, of names that are there once."""
    names = [Path(file).name for file in outputs.image_filenames]
    poses = outputs.cameras.camera_to_worlds[:, :3].double().cpu()
    return {name: pose for name, pose in zip(names, poses) if names.count(name) == 1}
