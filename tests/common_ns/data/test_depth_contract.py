"""The depth contract: every format gives the same depth, every breach one line that names the file."""

from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from nerfstudio.cameras.cameras import Cameras, CameraType
from PIL import Image

from common_ns.data.depth.contract import (
    DepthContract,
    as_float,
    as_tensor,
    check_depth_files,
    contract_of,
    decode_map,
    forward_directions,
    image_ray_per_z,
    load_depth,
    load_sigma,
    map_header,
    nearest,
    ray_per_z,
    read_depth,
    stored_type,
)
from common_ns.data.depth.normals import NormalContract, load_normals, scene_normals
from common_ns.errors import InputError

SIZE = (6, 4)
MILLIMETERS = DepthContract(1e-3)
METERS = DepthContract(1.0)


def steps() -> np.ndarray:
    """A 16-bit depth map [4, 6] with a hole."""
    depth = np.arange(1000, 1024, dtype=np.uint16).reshape(4, 6)
    depth[1, 2] = 0
    return depth


def write(file: Path, array: np.ndarray) -> Path:
    if file.suffix == ".npy":
        np.save(file, array)
    elif file.suffix == ".npz":
        np.savez_compressed(file, depth=array)
    elif file.suffix == ".tif":
        import tifffile

        tifffile.imwrite(file, array)
    elif file.suffix == ".exr":
        os.environ.setdefault("OPENCV_IO_ENABLE_OPENEXR", "1")
        import cv2

        assert cv2.imwrite(str(file), array)
    else:
        Image.fromarray(array).save(file)
    return file


def cameras(camera_type: CameraType = CameraType.PERSPECTIVE, distortion: torch.Tensor | None = None) -> Cameras:
    """One camera that is turned and moved, 30 × 20 pixels."""
    pose = torch.eye(4)[:3]
    angle = 0.3
    pose[:, :3] = torch.tensor(
        [[math.cos(angle), -math.sin(angle), 0.0], [math.sin(angle), math.cos(angle), 0.0], [0.0, 0.0, 1.0]]
    )
    pose[:, 3] = torch.tensor([0.5, -1.0, 2.0])
    return Cameras(
        camera_to_worlds=pose[None],
        fx=16.0,
        fy=17.0,
        cx=14.0,
        cy=11.0,
        width=30,
        height=20,
        distortion_params=distortion,
        camera_type=camera_type,
    )


@pytest.mark.parametrize("suffix", [".png", ".tif", ".npy", ".npz"])
def test_integer_formats_give_the_stored_steps(tmp_path, suffix):
    file = write(tmp_path / f"depth{suffix}", steps())
    stored = load_depth(file, MILLIMETERS, SIZE)
    assert stored.dtype == np.uint16 == stored_type(file)
    assert np.array_equal(stored, steps())


@pytest.mark.parametrize("suffix", [".exr", ".tif", ".npy", ".npz"])
def test_float_formats_give_the_stored_meters(tmp_path, suffix):
    meters = steps().astype(np.float32) / 1000
    file = write(tmp_path / f"depth{suffix}", meters)
    stored = load_depth(file, METERS, SIZE)
    assert stored.dtype == np.float32 == stored_type(file)
    np.testing.assert_array_equal(stored, meters)


def test_arrays_with_a_channel_axis_and_half_floats(tmp_path):
    meters = (steps() / 1000).astype(np.float16)
    stored = load_depth(write(tmp_path / "depth.npy", meters[..., None]), METERS, SIZE)
    np.testing.assert_array_equal(stored, meters.astype(np.float32))


def test_what_is_no_depth_becomes_zero(tmp_path):
    depth = np.array([[0.0, np.nan, np.inf, -np.inf, 1e10, 2.0]], dtype=np.float64)
    stored = load_depth(write(tmp_path / "a.npy", depth), METERS, (6, 1))
    assert stored.tolist() == [[0, 0, 0, 0, 0, 2]]
    saturated = np.array([[65535, 3]], dtype=np.uint16)
    assert load_depth(write(tmp_path / "b.png", saturated), MILLIMETERS, (2, 1)).tolist() == [[0, 3]]


def test_range_is_in_meters(tmp_path):
    file = write(tmp_path / "depth.png", steps())
    stored = load_depth(file, DepthContract(1e-3, min_depth=1.003, max_depth=1.01), SIZE)
    assert set(stored[stored > 0].tolist()) == {1003, 1004, 1005, 1006, 1007, 1009, 1010}


def test_sixteen_bits_survive_torch():
    stored = np.array([0, 1, 32767, 32768, 65534], dtype=np.uint16)
    assert as_float(as_tensor(stored)).tolist() == [0, 1, 32767, 32768, 65534]
    assert as_float(as_tensor(np.float32([1.5]))).tolist() == [1.5]


@pytest.mark.parametrize(
    ("array", "name", "message"),
    [
        (np.zeros((4, 6), np.uint8) + 9, "d.png", r"d\.png: the depth map has 8 bits a channel: .* Store depth as"),
        (np.zeros((4, 6, 3), np.uint8) + 9, "d.png", "8 bits a channel"),
        (np.zeros((4, 6), np.uint16), "d.png", "holds no depth. Remove this frame"),
        (np.full((4, 6), 9000, np.uint16), "d.png", r"all depths, from 9 to 9 m at 0.001 m a step, are out of range"),
        (np.full((4, 6), -1.5), "d.npy", r"24 of 24 depths are negative, down to -1.5. Write 0 or NaN"),
        (np.full((4, 5), 1.5), "d.npy", r"the depth map has 5×4 pixels, its image 6×4. Render or crop"),
        (np.full((8, 12), 1.5), "d.npy", r"12×8 pixels, its image 6×4. .*--depth-resize True"),
        (np.full((4, 6, 3), [1.5, 2.5, 3.5]), "d.npy", "3 channels that differ"),
        (np.full(24, 1.5), "d.npy", r"has shape \(24,\)"),
        (np.full((4, 6), 1j), "d.npy", "holds complex128"),
    ],
)
def test_breaches_give_one_line(tmp_path, array, name, message):
    file = write(tmp_path / name, array)
    with pytest.raises(InputError, match=message) as caught:
        load_depth(file, DepthContract(1e-3, max_depth=5.0), SIZE)
    assert "\n" not in str(caught.value) and name in str(caught.value)


def test_missing_and_damaged_files(tmp_path):
    for name in ("none.png", "none.npy", "none.npz", "none.exr", "none.tif"):
        with pytest.raises(InputError, match=r"none\.\w+: the depth map does not exist"):
            decode_map(tmp_path / name)
        with pytest.raises(InputError, match="does not exist"):
            map_header(tmp_path / name)
        (tmp_path / name.replace("none", "cut")).write_bytes(b"\x89PNG\r\n\x1a\n cut off")
        with pytest.raises(InputError, match=r"cut\.\w+: the depth map cannot be read"):
            decode_map(tmp_path / name.replace("none", "cut"))
    np.savez(tmp_path / "two.npz", a=steps(), b=steps())
    with pytest.raises(InputError, match=r"holds the arrays a, b\. Save one array"):
        decode_map(tmp_path / "two.npz")


def test_headers_are_enough_to_find_the_first_bad_file(tmp_path):
    good = write(tmp_path / "good.png", steps())
    small = write(tmp_path / "small.png", steps()[:2])
    gray = write(tmp_path / "gray.png", steps().astype(np.uint8))
    check_depth_files([good, good], [SIZE, SIZE], MILLIMETERS)
    with pytest.raises(InputError, match=r"small\.png: the depth map has 6×2 pixels"):
        check_depth_files([good, small, gray], [SIZE] * 3, MILLIMETERS)
    with pytest.raises(InputError, match=r"gray\.png: the depth map has 8 bits"):
        check_depth_files([good, gray], [SIZE] * 2, MILLIMETERS)
    assert map_header(good) == ((4, 6), np.uint16)
    assert map_header(write(tmp_path / "d.npy", steps())) == ((4, 6), np.uint16)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"unit": 0.0}, "the depth unit is 0.0. Set --depth-unit"),
        ({"unit": math.nan}, "the depth unit is nan"),
        ({"unit": 1.0, "kind": "disparity"}, "the depth kind is 'disparity'. Set --depth-kind z"),
        ({"unit": 1.0, "min_depth": 3.0, "max_depth": 2.0}, "from 3.0 to 2.0. Set 0 ≤ --depth-min"),
        ({"unit": 1.0, "min_depth": -1.0}, "from -1.0"),
    ],
)
def test_contracts_that_make_no_sense(options, message):
    with pytest.raises(InputError, match=message):
        DepthContract(**options)


def test_contract_of_nerfstudios_parsers_is_z_depth():
    assert contract_of({"depth_unit_scale_factor": 0.01}) == DepthContract(0.01, "z")
    assert contract_of({"depth_contract": METERS, "depth_unit_scale_factor": 0.01}) is METERS


def test_resizing_takes_the_nearest_value_and_mixes_none(tmp_path):
    depth = steps()
    file = write(tmp_path / "d.png", depth)
    stored = load_depth(file, DepthContract(1e-3, resize=True), (12, 8))
    assert np.array_equal(stored, depth.repeat(2, axis=0).repeat(2, axis=1))
    assert np.array_equal(nearest(stored, SIZE), depth)
    with pytest.raises(InputError, match="Render or crop"):
        load_depth(file, DepthContract(1e-3, resize=True), (12, 6))


def test_depth_camera_with_intrinsics_of_its_own(tmp_path):
    """The value that a pixel gets is that of the same direction in the depth camera; outside of it there is none."""
    height, width = 20, 30
    columns = np.arange(width) + 0.5
    file = write(tmp_path / "d.npy", np.broadcast_to(columns, (height, width)).copy())
    fx, cx, fx_depth, cx_depth = 80.0, 41.0, 24.0, 14.0
    contract = DepthContract(1.0, pixel_map=(fx_depth / fx, cx_depth - fx_depth / fx * cx, 0.5, 0.0))
    stored = load_depth(file, contract, (120, 40))
    direction = (np.arange(120) + 0.5 - cx) / fx
    expected = direction * fx_depth + cx_depth
    inside = (expected >= 0) & (expected < width)
    assert np.abs(stored[0] - expected)[inside].max() <= 0.5
    assert (stored[:, ~inside] == 0).all() and (~inside).any()


def test_sigma_is_read_like_depth_and_is_above_zero(tmp_path):
    depth = load_depth(write(tmp_path / "d.png", steps()), MILLIMETERS, SIZE)
    sigma = np.full((4, 6), 12, np.uint16)
    sigma[1, 2] = 0  # where there is no depth, anything goes
    assert load_sigma(write(tmp_path / "s.png", sigma), depth, MILLIMETERS, SIZE)[0, 0] == 12
    for bad in (0.0, -1.0, np.nan, np.inf):
        values = sigma.astype(np.float32)
        values[2, 3] = bad
        with pytest.raises(InputError, match=r"s\.npy: σ is .* at row 2, column 3 .* at 1 pixels"):
            load_sigma(write(tmp_path / "s.npy", values), depth, MILLIMETERS, SIZE)


@pytest.mark.parametrize("camera_type", [CameraType.PERSPECTIVE, CameraType.FISHEYE])
@pytest.mark.parametrize("distortion", [None, torch.tensor([[-0.1, 0.02, 0.0, 0.0, 0.004, -0.003]])])
def test_z_depth_of_a_plane_is_the_plane_for_any_lens(tmp_path, camera_type, distortion):
    """A wall at z = 3 in front of the camera: the points along nerfstudio's rays lie on it."""
    some = cameras(camera_type, distortion)
    file = write(tmp_path / "d.npy", np.full((20, 30), 3.0))
    distance = read_depth(file, METERS, some, 0, scale=0.5)
    rays = some.generate_rays(camera_indices=0, keep_shape=True)
    local = (distance * rays.directions) @ some.camera_to_worlds[0, :, :3]
    assert torch.allclose(-local[..., 2], torch.full((20, 30), 1.5), atol=1e-5)
    assert torch.equal(read_depth(file, DepthContract(1.0, "ray"), some, 0), torch.full((20, 30, 1), 3.0))


def test_factor_is_nerfstudios_for_perspective_cameras():
    some = cameras(distortion=torch.tensor([[0.1, 0.0, 0.0, 0.0, 0.0, 0.0]]))
    rays = some.generate_rays(camera_indices=0, keep_shape=True)
    assert torch.allclose(image_ray_per_z(some, 0), rays.metadata["directions_norm"], atol=1e-5)
    assert image_ray_per_z(some, 0).max() > 1.2


def test_rays_that_look_back_have_no_z_depth():
    forward = forward_directions(cameras())[0]
    assert torch.allclose(forward, torch.tensor([0.0, 0.0, -1.0]))
    factor = ray_per_z(torch.stack([forward, -forward, torch.tensor([1.0, 0.0, 0.0])]), forward)
    assert factor.flatten().tolist() == [1.0, 0.0, 0.0]


# ---------------------------------------------------------------------------------------------------------------------
# Normals


def unit_vectors() -> np.ndarray:
    vectors = np.random.default_rng(0).standard_normal((4, 6, 3))
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def test_normals_in_every_format_are_the_same(tmp_path):
    vectors = unit_vectors()
    missing = vectors.copy()
    missing[0, 0] = 0.0
    coded = np.rint((vectors + 1.0) * 127.5).astype(np.uint8)
    coded[0, 0] = 0
    files = [
        write(tmp_path / "n.png", coded),
        write(tmp_path / "n.npy", missing.astype(np.float32)),
        write(tmp_path / "n.npz", np.moveaxis(missing, -1, 0)),
        write(tmp_path / "n.tif", np.where(missing.any(-1, keepdims=True), (missing + 1) * 32767.5, 0).astype("u2")),
        write(tmp_path / "n.exr", missing[..., ::-1].astype(np.float32)),  # OpenCV writes blue, green, red
    ]
    for file in files:
        stored = torch.from_numpy(load_normals(file, NormalContract(), SIZE))
        normals = scene_normals(stored, NormalContract(), torch.eye(3)).numpy()
        np.testing.assert_allclose(normals[0, 1:], vectors[0, 1:], atol=0.02)
        assert (normals[0, 0] == 0).all(), file


def test_normals_get_to_the_scenes_axes():
    turn = ((0.0, -1.0, 0.0), (1.0, 0.0, 0.0), (0.0, 0.0, 1.0))
    camera = torch.tensor(turn)
    facing_camera = torch.tensor([[0.0, 0.6, 0.8]])  # up and back, in OpenGL axes
    expected = facing_camera @ camera.T
    as_opencv = facing_camera * torch.tensor([1.0, -1.0, -1.0])
    assert torch.allclose(scene_normals(facing_camera, NormalContract("opengl"), camera), expected)
    assert torch.allclose(scene_normals(as_opencv, NormalContract("opencv"), camera), expected)
    assert torch.allclose(scene_normals(facing_camera, NormalContract("world", turn), torch.eye(3)), expected)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        ((unit_vectors() + 1) / 2, r"have lengths from .* Store floats of unit length"),
        (unit_vectors()[..., :2], r"has shape \(4, 6, 2\)"),
        (unit_vectors()[:2], "6×2 pixels, their image 6×4"),
        (np.zeros((4, 6, 3)), "holds no normals"),
    ],
)
def test_bad_normals_give_one_line(tmp_path, array, message):
    with pytest.raises(InputError, match=message):
        load_normals(write(tmp_path / "n.npy", array), NormalContract(), SIZE)
