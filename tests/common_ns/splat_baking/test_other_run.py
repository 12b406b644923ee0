"""Runs that mean the same by scene coordinates, and those that do not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from nerfstudio.cameras.cameras import Cameras, CameraType
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs

from common_ns.errors import InputError
from common_ns.splat_baking.other_run import require_same_coordinates
from tests.conftest import look_at_pose


def outputs(names: tuple[int, ...] = (0, 1, 2, 3), size: float = 1.0, folder: str = "images") -> DataparserOutputs:
    poses = torch.stack([torch.from_numpy(look_at_pose(2 * np.pi * index / 7)[:3]) for index in names]).float()
    poses[:, :, 3] *= size
    cameras = Cameras(poses, 20.0, 20.0, 10.0, 10.0, 20, 20, camera_type=CameraType.PERSPECTIVE)
    files = [Path(folder) / f"{index}.png" for index in names]
    return DataparserOutputs(files, cameras, dataparser_scale=size)


def check(theirs: DataparserOutputs, ours: DataparserOutputs) -> None:
    require_same_coordinates(theirs, ours, Path("run/config.yml"), Path("data/garden"))


def test_the_same_photographs_of_any_size_and_choice_have_the_same_coordinates():
    check(outputs(), outputs((3, 1), folder="images_4"))
    nearly = outputs()
    nearly.cameras.camera_to_worlds[:, 0, 3] += 1e-4
    check(nearly, outputs())


def test_what_differs_is_named_in_one_line():
    moved = outputs()
    moved.cameras.camera_to_worlds[2, 0, 3] += 0.1
    turned = replace(outputs(), dataparser_transform=torch.eye(4)[[1, 0, 2]])
    cases = {
        r"scale 2 there, 1 here": outputs(size=2.0),
        r"2\.png is taken from \(": moved,
        r"no photograph in common \(such as 5\.png there, 0\.png here\)": outputs((5, 6)),
        r"turn or move the data differently": turned,
    }
    for message, theirs in cases.items():
        with pytest.raises(InputError, match=message) as error:
            check(theirs, outputs())
        said = str(error.value)
        assert "\n" not in said and "run/config.yml" in said and "data/garden" in said
