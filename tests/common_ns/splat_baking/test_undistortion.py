"""Pinhole pictures of photographs show what nerfstudio's cameras see along the same rays."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from nerfstudio.cameras.cameras import Cameras, CameraType

from common_ns.cameras.pinhole import require_pinhole
from common_ns.errors import InputError
from common_ns.splat_baking.photographs import photographs_of, refined_poses
from common_ns.splat_baking.undistortion import distorted, last_radius, looked_up, source_pixels

LENS = torch.tensor([0.06, -0.08, 0.01, 0.0, -0.004, 0.003])
SIZE = (36, 28)


def camera(kind: CameraType = CameraType.PERSPECTIVE, lens: torch.Tensor | None = LENS, focal: float = 30.0) -> Cameras:
    turn = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(5)))[0]
    pose = torch.cat([turn * torch.det(turn), torch.tensor([[0.3], [-0.2], [1.0]])], dim=1)
    return Cameras(
        pose[None], focal, focal, 17.0, 14.5, *SIZE, distortion_params=None if lens is None else lens[None],
        camera_type=kind,
    )  # fmt: skip


@pytest.mark.parametrize("kind", [CameraType.PERSPECTIVE, CameraType.FISHEYE])
def test_pixels_are_where_nerfstudio_sees_the_same_direction(kind):
    cameras = camera(kind)
    pixels, shown = source_pixels((30.0, 30.0, 17.0, 14.5), SIZE, LENS, kind == CameraType.FISHEYE)
    rows, columns = torch.nonzero(shown, as_tuple=True)
    assert shown.float().mean() > 0.5
    index = torch.zeros(len(rows), 1, dtype=torch.long)
    rays = cameras.generate_rays(index, pixels[rows, columns].flip(-1).float())
    plane = torch.stack([(columns + 0.5 - 17.0) / 30.0, -(rows + 0.5 - 14.5) / 30.0, -torch.ones(len(rows))], dim=-1)
    wanted = torch.nn.functional.normalize(plane @ cameras.camera_to_worlds[0, :, :3].T, dim=-1)
    torch.testing.assert_close(rays.directions, wanted, atol=2e-4, rtol=0)


def test_pixels_beyond_the_photograph_are_not_shown():
    """By comparison of each pixel's place with the photograph's edges, one by one."""
    _, shown = source_pixels((30.0, 30.0, 17.0, 14.5), SIZE, torch.tensor([0.5, 0.0, 0.0, 0.0, 0.0, 0.0]))
    for row in range(SIZE[1]):
        for column in range(SIZE[0]):
            x, y = (column + 0.5 - 17.0) / 30.0, (row + 0.5 - 14.5) / 30.0
            factor = 1.0 + 0.5 * (x * x + y * y)
            u, v = 30.0 * factor * x + 17.0, 30.0 * factor * y + 14.5
            assert bool(shown[row, column]) == (0.0 <= u <= SIZE[0] and 0.0 <= v <= SIZE[1])
    assert 0.2 < shown.float().mean() < 1.0


def test_a_polynomial_that_turns_back_is_followed_no_farther():
    lens = torch.tensor([-0.3, 0.0, 0.0, 0.0, 0.0, 0.0])
    assert last_radius(lens, 3.0) == pytest.approx((1 / 0.9) ** 0.5, abs=2e-3)  # where 1 − 0.9 ρ is 0
    assert last_radius(LENS, 0.7) == 0.7
    points = torch.tensor([[0.5, 0.0], [1.6, 0.0]])
    near, beyond = distorted(points, lens)[:, 0]
    assert beyond < near + 0.1  # it would fall into the picture
    _, shown = source_pixels((30.0, 30.0, 50.0, 14.0), (100, 28), lens)
    assert not shown[:, -3:].any() and shown[14, 50]


def test_between_pixels_colors_are_blended():
    image = torch.arange(12.0).reshape(3, 4, 1)
    places = torch.tensor([[0.5, 0.5], [1.0, 0.5], [1.5, 2.0], [0.0, 0.0], [4.0, 3.0]])
    torch.testing.assert_close(looked_up(image, places)[:, 0], torch.tensor([0.0, 0.5, 7.0, 0.0, 11.0]))


class Dataset:
    """One photograph."""

    def __init__(self, cameras: Cameras, **data: torch.Tensor) -> None:
        self.cameras, self.data = cameras, data

    def __len__(self) -> int:
        return 1

    def get_data(self, index: int, image_type: str) -> dict[str, torch.Tensor]:
        return dict(self.data)


def test_a_straight_photograph_stays_as_it_is_over_its_background():
    image = torch.rand(28, 36, 4, generator=torch.Generator().manual_seed(0))
    (found,) = photographs_of(Dataset(camera(lens=None), image=image), torch.ones(3))
    torch.testing.assert_close(found.colors, image[..., :3] * image[..., 3:] + 1 - image[..., 3:], atol=3e-3, rtol=0)
    assert found.source is None and found.valid.all() and found.size == SIZE
    # The camera's matrix puts a point of a pixel's ray into that pixel.
    rays = camera(lens=None).generate_rays(torch.zeros(1, 1, dtype=torch.long), torch.tensor([[3.5, 20.5]]))
    local = found.viewmat[:3, :3] @ (rays.origins + 2.0 * rays.directions)[0] + found.viewmat[:3, 3]
    pixel = found.K @ local / local[2]
    torch.testing.assert_close(pixel[:2], torch.tensor([20.5, 3.5]), atol=1e-4, rtol=0)


def test_what_the_mask_hides_does_not_count_in_the_pinhole_picture():
    image, mask = torch.rand(28, 36, 3), torch.ones(28, 36, 1, dtype=torch.bool)
    mask[:, :10] = False
    (found,) = photographs_of(Dataset(camera(), image=image, mask=mask), torch.zeros(3))
    assert found.source is not None
    near_edge = (found.source[..., 0] - 10.0).abs() < 1.0
    assert not found.valid[(found.source[..., 0] < 10.0)].any()
    _, shown = source_pixels((30.0, 30.0, 17.0, 14.5), SIZE, LENS)
    assert torch.equal(found.valid[~near_edge], (shown & (found.source[..., 0] > 10.0))[~near_edge])


def test_an_objects_mask_puts_the_background_around_it():
    data = Dataset(camera(lens=None), image=torch.full((28, 36, 3), 0.5))
    covered = np.zeros((28, 36, 1), np.uint8)
    covered[:14] = 255
    data.object_mask = lambda index: covered  # type: ignore[attr-defined]
    (cut,) = photographs_of(data, torch.ones(3), object_only=True)
    (whole,) = photographs_of(data, torch.ones(3))
    assert (cut.image[14:] == 255).all() and torch.equal(cut.image[:14], whole.image[:14])
    assert whole.valid.all() and cut.valid.all() and (whole.image < 255).all()


def test_panoramas_are_refused_in_one_line():
    with pytest.raises(InputError, match=r"EQUIRECTANGULAR.* Leave out --refine"):
        require_pinhole(camera(CameraType.EQUIRECTANGULAR), "Leave out --refine")
    require_pinhole(camera(CameraType.FISHEYE), "None")


def test_poses_are_those_that_training_refined():
    cameras = camera(lens=None)
    poses = cameras.camera_to_worlds
    change = torch.eye(3, 4)[None].clone()
    change[0, :, 3] = torch.tensor([0.1, 0.2, 0.3])
    change[0, :, :3] = torch.tensor([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])

    class Optimizer:
        config = SimpleNamespace(mode="SO3xR3")

        def __call__(self, indices: torch.Tensor) -> torch.Tensor:
            return change[indices]

    model = SimpleNamespace(camera_optimizer=Optimizer(), device="cpu")
    found = refined_poses(model, poses)
    torch.testing.assert_close(found[0, :, 3], poses[0, :, 3] + change[0, :, 3])
    direction = torch.tensor([0.0, 0.6, -0.8])
    torch.testing.assert_close(found[0, :, :3] @ direction, change[0, :, :3] @ (poses[0, :, :3] @ direction))
    model.camera_optimizer.config.mode = "off"
    assert refined_poses(model, poses) is poses
