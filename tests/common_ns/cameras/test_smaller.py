"""A view made smaller: pixels are averages, and rays go through the middle of what they stand for."""

import pytest
import torch
from nerfstudio.cameras.cameras import Cameras

from common_ns.cameras.smaller import smaller_view
from common_ns.errors import InputError


def camera(width: int, height: int) -> Cameras:
    pose = torch.eye(4)[None, :3]
    return Cameras(pose, fx=50.0, fy=40.0, cx=width / 2 + 0.3, cy=height / 2, width=width, height=height)


def test_a_pixel_is_the_mean_of_those_it_covers():
    image = torch.rand(9, 11, 3)
    _, batch = smaller_view(camera(11, 9), {"image": image, "image_idx": 3}, 4)
    assert batch["image"].shape == (2, 2, 3) and batch["image_idx"] == 3
    torch.testing.assert_close(batch["image"][1, 0], image[4:8, :4].reshape(-1, 3).mean(0))


def test_transparent_pixels_do_not_color_their_neighbors():
    image = torch.zeros(2, 2, 4)
    image[0, 0] = torch.tensor([0.2, 0.4, 0.6, 1.0])
    image[1, 1, :3] = 1.0
    _, batch = smaller_view(camera(2, 2), {"image": image}, 2)
    torch.testing.assert_close(batch["image"][0, 0], torch.tensor([0.2, 0.4, 0.6, 0.25]))


def test_masks_hold_where_all_pixels_are_valid_and_depth_is_not_averaged():
    mask = torch.ones(4, 4, 1, dtype=torch.bool)
    mask[0, 3] = False
    depth = torch.arange(16.0).reshape(4, 4, 1)
    _, batch = smaller_view(camera(4, 4), {"mask": mask, "depth_image": depth}, 2)
    assert batch["mask"][..., 0].tolist() == [[True, False], [True, True]]
    assert batch["depth_image"][..., 0].tolist() == [[5.0, 7.0], [13.0, 15.0]]


def test_a_pixels_ray_is_the_middle_one_and_its_cone_as_wide():
    full = camera(9, 6)
    small, _ = smaller_view(full, {}, 3)
    assert (int(small.width), int(small.height)) == (3, 2)
    coarse = small.generate_rays(camera_indices=0, keep_shape=True)
    fine = full.generate_rays(camera_indices=0, keep_shape=True)
    torch.testing.assert_close(coarse.directions, fine.directions[1::3, 1::3])
    torch.testing.assert_close(coarse.pixel_area, 9 * fine.pixel_area[1::3, 1::3], rtol=0.02, atol=0.0)


def test_a_factor_beyond_the_image_is_refused():
    with pytest.raises(InputError, match="8×6 pixels cannot be evaluated at 1/7"):
        smaller_view(camera(8, 6), {}, 7)
