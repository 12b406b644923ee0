"""Pixels are drawn as the camera sees: within a fisheye's circle, of panoramas by solid angle, and copies by area."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nerfstudio.cameras.cameras import Cameras, CameraType
from PIL import Image

from common_ns.data.drawing import pixel_footprint, row_weights
from common_ns.data.pixels import PixelStore
from common_ns.nerfstudio_seam.datamanager import StorePixelSampler, seed_step
from hashnffb_sdf_ns.datamanager import MaskBalancedSampler
from tests.odd_inputs.kit import BaseScene, Row, assert_ends_as_it_should, datamanager, ids, of_json

DRAWS = 100_000
VIEWS, SIZE = 12, 40


def drawn(manager: Any, draws: int = DRAWS, part: slice = slice(None)) -> torch.Tensor:
    """(image, row, column) of pixels that a step draws."""
    seed_step(0, 7)
    return manager.train_pixel_sampler.sample_part(draws, part)["indices"]


def counts_of(indices: torch.Tensor, shape: tuple[int, int] = (SIZE, SIZE)) -> np.ndarray:
    """How often each place was drawn, over all images."""
    flat = indices[:, 1] * shape[1] + indices[:, 2]
    return torch.bincount(flat, minlength=shape[0] * shape[1]).reshape(shape).double().numpy()


def assert_as_likely_as(counts: np.ndarray, weights: np.ndarray) -> None:
    """Pearson's χ² of counts is what is to be expected of these weights, and nothing else was drawn."""
    assert counts[weights == 0].sum() == 0
    expected = counts.sum() * weights[weights > 0] / weights.sum()
    freedom = expected.size - 1
    statistic = ((counts[weights > 0] - expected) ** 2 / expected).sum()
    assert abs(statistic - freedom) < 5.0 * (2.0 * freedom) ** 0.5


def circle(radius: float, size: int = SIZE, center: tuple[float, float] | None = None) -> np.ndarray:
    x, y = center or (size / 2, size / 2)
    places = np.arange(size) + 0.5
    return (((places - x)[None] ** 2 + (places - y)[:, None] ** 2) <= radius**2).astype(float)


def fisheye(radius: Any, **fields: Any) -> Callable[[Path], None]:
    values = {"cx": 20.0, "cy": 20.0, **fields}
    return of_json(lambda c: c.update(camera_model="OPENCV_FISHEYE", fisheye_crop_radius=radius, **values))


def panorama(model: str = "EQUIRECTANGULAR", **fields: Any) -> Callable[[Path], None]:
    values = {"fl_x": 20.0, "fl_y": 40.0, "cx": 20.0, "cy": 20.0, **fields}
    return of_json(lambda c: c.update(camera_model=model, **values))


def masked(valid: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> Callable[[Path], None]:
    """All frames get a mask of the pixels whose (row, column) are valid."""

    def make(folder: Path) -> None:
        rows, columns = np.mgrid[:SIZE, :SIZE]
        Image.fromarray((valid(rows, columns) * 255).astype(np.uint8)).save(folder / "mask.png")
        of_json(lambda c: [frame.update(mask_path="mask.png") for frame in c["frames"]])(folder)

    return make


def both(*makes: Callable[[Path], Any]) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        for each in makes:
            each(folder)

    return make


def halved(folder: Path) -> None:
    """Images of half the size, as `ns-process-data` leaves them."""
    (folder / "images_2").mkdir()
    for file in (folder / "images").iterdir():
        Image.open(file).resize((SIZE // 2, SIZE // 2)).save(folder / "images_2" / file.name)


def solid_angles(rows: int = SIZE, top: float = 0.0, bottom: float = np.pi) -> np.ndarray:
    """Of the pixels of a panorama between two angles from the pole, all columns."""
    edges = np.linspace(top, bottom, rows + 1)
    return np.repeat(-np.diff(np.cos(edges))[:, None], rows, axis=1)


# What has to come out.


def by(weights: np.ndarray) -> Callable[[Any], None]:
    def right(manager: Any) -> None:
        indices = drawn(manager)
        assert_as_likely_as(counts_of(indices, weights.shape), weights)  # type: ignore[arg-type]
        per_image = torch.bincount(indices[:, 0], minlength=VIEWS).double().numpy()
        assert_as_likely_as(per_image, np.ones(VIEWS))
        assert len(manager.train_pixel_sampler.store) == VIEWS * (weights > 0).sum()
        # Devices share a batch.
        assert torch.equal(drawn(manager, 1000, slice(300, 800)), drawn(manager, 1000)[300:800])

    return right


def polar_third(manager: Any) -> None:
    rows = drawn(manager)[:, 1].numpy()
    polar = (np.minimum(rows, SIZE - 1 - rows) + 0.5) / SIZE < 1 / 6
    # 6⅔ rows of each pole: those whose middles are in it are 7.
    share = 1.0 - np.cos(np.pi * 7 / SIZE)
    assert abs(polar.mean() - share) < 0.005 and abs(share - 0.134) < 0.02


def as_plain_numbers(manager: Any) -> None:
    """The draws of perspective images are the whole numbers that torch gives, as ever."""
    indices = drawn(manager, 500)
    seed_step(0, 7)
    flat = torch.randint(VIEWS * SIZE * SIZE, (500,))
    assert torch.equal(indices, torch.stack([flat // 1600, flat // 40 % 40, flat % 40], dim=-1))
    assert torch.equal(manager.train_footprint, torch.ones(VIEWS, 1))


def evaluated_within(radius: float) -> Callable[[Any], None]:
    def right(manager: Any) -> None:
        _, batch = manager.next_eval_image(0)
        assert batch["mask"].dtype == torch.bool
        np.testing.assert_array_equal(batch["mask"][..., 0].numpy(), circle(radius) > 0)

    return right


left_half = masked(lambda row, column: column < 20)
half = np.repeat((np.arange(SIZE) < 20)[None], SIZE, axis=0)
WRONG = r"DATA: fisheye_crop_radius is {}\. Give the radius in pixels, at the size that the cameras state"

ROWS = [
    Row("perspective", lambda folder: None, right=as_plain_numbers),
    Row("perspective with masks", left_half, right=by(half.astype(float))),
    Row("fisheye without a circle", of_json(lambda c: c.update(camera_model="OPENCV_FISHEYE")), right=as_plain_numbers),
    Row("fisheye, circle", fisheye(13.0), right=by(circle(13.0))),
    Row("fisheye, circle in evaluation", fisheye(13), right=evaluated_within(13.0)),
    Row("fisheye, principal point beside the middle", fisheye(9, cx=14, cy=25), right=by(circle(9, SIZE, (14, 25)))),
    Row("fisheye, circle over the edge", fisheye(23.0), right=by(circle(23.0))),
    Row("fisheye, circle around the image", fisheye(100.0), right=by(np.ones((SIZE, SIZE)))),
    Row("fisheye, circle and masks", both(fisheye(13.0), left_half), right=by(circle(13.0) * half)),
    Row(
        "fisheye, half the resolution",
        fisheye(14.0),
        right=by(circle(7.0, 20)),
        options={"camera_res_scale_factor": 0.5},
    ),
    Row(
        "fisheye, downscaled images",
        both(fisheye(14.0), halved),
        right=by(circle(7.0, 20)),
        options={"downscale_factor": 2},
    ),
    Row(
        "fisheye, downscaled images at half the resolution",
        both(fisheye(18.0), halved),
        right=by(circle(4.5, 10)),
        options={"downscale_factor": 2, "camera_res_scale_factor": 0.5},
    ),
    Row("perspective with a circle", of_json(lambda c: c.update(fisheye_crop_radius=5)), right=as_plain_numbers),
    Row("radius null", fisheye(None), right=as_plain_numbers),
    Row("radius 0", fisheye(0), WRONG.format("0")),
    Row("radius −3", fisheye(-3.5), WRONG.format(r"-3\.5")),
    Row("radius NaN", fisheye(float("nan")), WRONG.format("nan")),
    Row("radius as text", fisheye("13"), WRONG.format("'13'")),
    Row("radius list", fisheye([13]), WRONG.format(r"\[13\]")),
    Row("radius true", fisheye(True), WRONG.format("True")),
    Row("panorama", panorama(), right=by(solid_angles())),
    Row("panorama's polar third", panorama(), right=polar_third),
    Row("panorama with masks", both(panorama(), left_half), right=by(solid_angles() * half)),
    Row(
        "panorama with holes",
        both(panorama(), masked(lambda row, column: (row + 3 * column) % 5 > 1)),
        right=by(solid_angles() * ((np.mgrid[:40, :40][0] + 3 * np.mgrid[:40, :40][1]) % 5 > 1)),
    ),
    Row(
        "panorama, half the resolution",
        panorama(),
        right=by(solid_angles(20)),
        options={"camera_res_scale_factor": 0.5},
    ),
    Row("panorama's upper half", panorama(fl_y=80.0, cy=40.0), right=by(solid_angles(40, 0.0, np.pi / 2))),
    Row("panorama's belt", panorama(fl_y=120.0), right=by(solid_angles(40, np.pi / 3, np.pi * 2 / 3))),
    Row("VR180", panorama("VR180_L"), r"camera model VR180_L, which nerfstudio can render and not train with\. Use"),
    Row("omnidirectional stereo", panorama("OMNIDIRECTIONALSTEREO_R"), r"camera model OMNIDIRECTIONALSTEREO_R"),
]


@pytest.mark.parametrize("row", ROWS, ids=ids(ROWS))
def test_drawn_pixels(row: Row, base_scene: BaseScene, tmp_path: Path, capsys):
    folder = base_scene.copy("nerfstudio", tmp_path)
    shutil.rmtree(folder / "depths")
    of_json(lambda content: [frame.pop("depth_file_path", None) for frame in content["frames"]])(folder)
    row.make(folder)

    def product() -> Any:
        return datamanager("mip-nerf-360-small", folder, "nerfstudio-data", **row.options)

    assert_ends_as_it_should(row, product, capsys, folder)


# Stores of several kinds of images, and of objects.


def store_of(object_masks: bool, panoramas: tuple[int, ...], valid: np.ndarray | None) -> PixelStore:
    """Three images, of which some are panoramas; the object is in columns 5 to 14, and not in the last image."""

    def load(index: int) -> dict[str, np.ndarray]:
        arrays: dict[str, np.ndarray] = {"image": np.full((SIZE, SIZE, 3), index, np.uint8)}
        if object_masks:
            arrays["object_mask"] = np.zeros((SIZE, SIZE, 1), np.uint8)
            arrays["object_mask"][:, 5:15] = 255 * (index < 2)
        return arrays if valid is None else {**arrays, "mask": valid[..., None] > 0}

    rows = solid_angles()[:, 0] / solid_angles()[:, 0].mean()
    weights = [rows if index in panoramas else None for index in range(3)]
    return PixelStore(load, [(SIZE, SIZE)] * 3, row_weights=weights)


@pytest.mark.parametrize("valid", [None, circle(13.0)], ids=["whole", "within a circle"])
def test_photographs_beside_panoramas(valid):
    """Each image is drawn by its pixels' weights, which are 1 on average over a panorama."""
    store = store_of(False, (1,), valid)
    seed_step(0, 1)
    _, indices = store.sample(DRAWS)
    there = np.ones((SIZE, SIZE)) if valid is None else valid
    panorama_weights = there * solid_angles() / solid_angles().mean()
    for index, weights in ((0, there), (1, panorama_weights), (2, there)):
        assert_as_likely_as(counts_of(indices[indices[:, 0] == index]), weights)
    sums = np.array([there.sum(), panorama_weights.sum(), there.sum()])
    assert_as_likely_as(torch.bincount(indices[:, 0]).double().numpy(), sums)
    assert len(store) == 3 * int(there.sum())


@pytest.mark.parametrize("valid", [None, circle(13.0)], ids=["whole", "within a circle"])
@pytest.mark.parametrize("panoramas", [(), (0, 1, 2)], ids=["photographs", "panoramas"])
def test_the_share_of_the_object(panoramas, valid):
    """Rays inside and outside of the object are drawn by the same weights, and only where pixels are valid."""
    store = store_of(True, panoramas, valid)
    sampler = MaskBalancedSampler(StorePixelSampler(lambda: store, None, 100), 0.6)
    seed_step(0, 1)
    whole = sampler.sample_part(DRAWS, slice(None))
    inside = whole["object_mask"][:, 0] > 0
    assert int(inside.sum()) == 60_000 and inside[:60_000].all()
    weights = solid_angles() if panoramas else np.ones((SIZE, SIZE))
    weights = weights if valid is None else weights * valid
    on = np.repeat(((np.arange(SIZE) >= 5) & (np.arange(SIZE) < 15))[None], SIZE, axis=0)
    assert_as_likely_as(counts_of(whole["indices"][inside]), weights * on)
    beside = whole["indices"][~inside]
    assert_as_likely_as(counts_of(beside[beside[:, 0] < 2]), weights * ~on)
    assert_as_likely_as(counts_of(beside[beside[:, 0] == 2]), weights)
    seed_step(0, 1)
    part = sampler.sample_part(DRAWS, slice(59_990, 60_010))
    assert torch.equal(part["indices"], whole["indices"][59_990:60_010])


def test_weights_of_a_row_are_its_solid_angle():
    cameras = Cameras(torch.eye(4)[None, :3], 60.0, 60.0, 60.0, 30.0, 120, 60, camera_type=CameraType.EQUIRECTANGULAR)
    weights = row_weights(cameras, 0)
    assert weights is not None and weights.shape == (60,) and weights.mean() == pytest.approx(1.0)
    np.testing.assert_allclose(weights[:10].sum() + weights[50:].sum(), 60 * (1 - np.cos(np.pi / 6)), rtol=1e-9)
    # As the rays have it: a pixel's solid angle goes with the sine of the angle to the pole.
    rays = cameras.generate_rays(0, keep_shape=True).directions
    sine = torch.sqrt(1.0 - rays[:, 0, 1].double() ** 2).numpy()
    np.testing.assert_allclose(weights / weights[30], sine / sine[30], rtol=1e-3)


@dataclass
class Copies:
    """Cameras, and the weights that their pixels should have, but for a common factor."""

    name: str
    sizes: list[tuple[float, int, int]]
    """Focal length, width, height of each."""
    poses: list[int]
    """Which of them stand in the same place."""
    weights: list[float]
    image_scale: list[int] | None = None

    def __str__(self) -> str:
        return self.name


FOOTPRINTS = [
    Copies("a 70 mm photo beside a 24 mm one", [(70.0, 36, 24), (24.0, 36, 24)], [0, 1], [1, 1]),
    Copies("a zoom from one place", [(70.0, 36, 24), (24.0, 36, 24)], [0, 0], [1, 1]),
    Copies("a smaller photo of another place", [(80.0, 40, 40), (40.0, 20, 20)], [0, 1], [1, 1]),
    Copies("the same view twice", [(80.0, 40, 40), (80.0, 40, 40)], [0, 0], [1, 1]),
    Copies("four copies", [(80 / s, 40 // s, 24 // s) for s in (1, 2, 4, 8)], [0] * 4, [1, 4, 16, 64]),
    Copies("copies of two views", [(80.0, 40, 40), (40.0, 20, 20)] * 2, [0, 0, 1, 1], [1, 4, 1, 4]),
    Copies("copies in another order", [(40.0, 20, 20), (80.0, 40, 40), (80.0, 40, 40)], [0, 1, 0], [4, 1, 1]),
    Copies("sizes rounded down", [(80.0, 41, 27), (40.0, 20, 13), (20.0, 10, 6)], [0] * 3, [1, 4, 16]),
    Copies("a crop beside a copy", [(80.0, 40, 40), (80.0, 20, 20), (40.0, 20, 20)], [0] * 3, [1, 1, 4]),
    Copies(
        "two lenses, each with a copy", [(80, 40, 40), (40, 20, 20), (30, 40, 40), (15, 20, 20)], [0] * 4, [1, 4, 1, 4]
    ),
    Copies("stated scales", [(80 / s, 40 // s, 24 // s) for s in (1, 2, 4, 8)], [0] * 4, [1, 4, 16, 64], [1, 2, 4, 8]),
    Copies("stated scales without the finest", [(40.0, 20, 20), (20.0, 10, 10)], [0, 0], [4, 16], [2, 4]),
]


@pytest.mark.parametrize("row", FOOTPRINTS, ids=str)
def test_pixel_footprints(row: Copies):
    focal, width, height = (torch.tensor(values)[:, None] for values in zip(*row.sizes))
    poses = torch.eye(4)[None, :3].repeat(len(row.poses), 1, 1)
    poses[:, 0, 3] = torch.tensor(row.poses) * 0.37
    cameras = Cameras(poses, focal.float(), focal.float(), width / 2, height / 2, width, height)
    found = pixel_footprint(cameras, row.image_scale)[:, 0]
    expected = torch.tensor(row.weights, dtype=torch.float64)
    pixels = (width * height)[:, 0].double()
    expected = expected * pixels.sum() / (expected * pixels).sum()
    torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=0.0)
    if len(set(row.weights)) == 1:
        assert torch.equal(found, torch.ones(len(found)))
