"""Files of Gaussians, read by other people's code."""

from __future__ import annotations

import gzip
import struct

import numpy as np
import pytest
import torch

from common_ns.errors import InputError
from common_ns.splat_baking.files import save_gaussians
from common_ns.splat_baking.gaussians import Gaussians
from tests.common_ns.splat_baking.test_gaussians import cloud, picture

HALF_TURN = np.array([[1.0, 0.0, 0.0, 0.0], [0.0, -1.0, 0.0, 0.0], [0.0, 0.0, -1.0, 0.0]])


def read_by_gsply(path) -> Gaussians:
    gsply = pytest.importorskip("gsply", reason="gsply is not installed: pip install gsply")
    read = gsply.plyread(path) if path.suffix == ".ply" else gsply.read_spz(path)
    rest = np.asarray(read.shN if read.shN is not None else np.zeros((len(read.means), 0, 3)))
    found = [read.means, read.quats, read.scales, read.opacities, np.concatenate([read.sh0[:, None], rest], axis=1)]
    means, quats, scales, opacities, coefficients = (torch.from_numpy(np.array(each, np.float32)) for each in found)
    return Gaussians(means, quats, scales.exp(), opacities.flatten().sigmoid(), coefficients)


@pytest.mark.parametrize("degree", [0, 2, 3])
def test_gsply_reads_the_same_picture_from_a_ply(tmp_path, degree):
    gaussians = cloud(degree=degree)
    again = read_by_gsply(save_gaussians(gaussians, tmp_path / "scene.ply"))
    assert (picture(again) - picture(gaussians)).abs().max() < 1 / 255


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_gsply_reads_nearly_the_same_picture_from_an_spz_turned_by_half_a_turn(tmp_path, degree):
    gaussians = cloud(degree=degree)
    again = read_by_gsply(save_gaussians(gaussians, tmp_path / "scene.spz")).transformed(HALF_TURN)
    difference = picture(again) - picture(gaussians)
    assert difference.square().mean() < 1e-4 * (1 + degree)
    torch.testing.assert_close(again.means, gaussians.means, atol=4e-6, rtol=0)
    torch.testing.assert_close(again.scales, gaussians.scales, atol=0, rtol=0.035)
    torch.testing.assert_close(again.opacities, gaussians.opacities, atol=0.003, rtol=0)
    agreement = (again.quats * gaussians.quats).sum(dim=-1).abs()  # a quaternion and its negative are one rotation
    assert agreement.min() > 1 - 1e-5
    # Steps of a coefficient: 1/38 of the constant one, 1/32 of degree 1, 1/16 of those above; beyond ±1 they are cut.
    steps = torch.cat([torch.full((each,), step) for each, step in ((1, 1 / 38.25), (3, 1 / 32), (12, 1 / 16))])
    wanted = torch.where(torch.arange(16)[:, None] == 0, torch.inf, 1.0)[: (degree + 1) ** 2]
    off = (again.coefficients - gaussians.coefficients.clamp(-wanted, wanted)).abs().amax(dim=(0, 2))
    assert bool((off <= 0.51 * steps[: (degree + 1) ** 2] + 1e-3).all()), off


def test_an_spz_is_small_says_whether_it_is_antialiased_and_is_the_same_each_time(tmp_path):
    gaussians = cloud(20_000, degree=3)
    files = [save_gaussians(gaussians, tmp_path / name, yes) for name, yes in (("a.spz", True), ("b.spz", False))]
    headers = [struct.unpack("<IIIBBBB", gzip.decompress(file.read_bytes())[:16]) for file in files]
    assert headers[0] == (0x5053474E, 3, 20_000, 3, 18, 1, 0)
    assert headers[1] == (*headers[0][:5], 0, 0)
    assert files[0].stat().st_size < save_gaussians(gaussians, tmp_path / "a.ply").stat().st_size / 4
    before = files[0].read_bytes()
    assert save_gaussians(gaussians, tmp_path / "c.spz").read_bytes() == before


@pytest.mark.parametrize(("farthest", "bits"), [(31.9, 18), (33.0, 17), (1000.0, 13), (8e6, 0)])
def test_positions_of_an_spz_have_as_many_bits_as_the_farthest_leaves(tmp_path, farthest, bits):
    gaussians = cloud(3)
    gaussians.means[1, 2] = -farthest
    path = save_gaussians(gaussians, tmp_path / "scene.spz")
    content = gzip.decompress(path.read_bytes())
    assert content[13] == bits
    z = int.from_bytes(content[16 + 9 + 6 : 16 + 9 + 9], "little", signed=True)  # the second Gaussian's
    assert z == round(farthest * 2**bits)


@pytest.mark.parametrize("value", [9e6, float("inf"), float("nan")])
def test_what_is_too_far_for_an_spz_is_refused(tmp_path, value):
    gaussians = cloud(3)
    gaussians.means[0, 0] = value
    with pytest.raises(InputError, match="too far for"):
        save_gaussians(gaussians, tmp_path / "scene.spz")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["scene.splat", "scene"])
def test_other_suffixes_are_refused(tmp_path, name):
    with pytest.raises(InputError, match="suffix"):
        save_gaussians(cloud(2), tmp_path / name)
    assert not list(tmp_path.iterdir())
