"""Points with known places: COLMAP models, point clouds and key points that are triangulated here give the depth that
the scene has, and a σ that fits the error."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from nerfstudio.data.utils import colmap_parsing_utils as host

from common_ns.data.colmap import find_model
from common_ns.data.depth.contract import load_depth
from common_ns.errors import InputError
from common_ns.sample_scene.generate import SampleSceneConfig, write_sample_scene
from depthnerf_ns.prepare.capture import Capture, frame_number, poses, read_capture
from depthnerf_ns.prepare.colmap_model import APPLIED, ColmapModel
from depthnerf_ns.prepare.options import PrepareOptions
from depthnerf_ns.prepare.references import project, sparse_points
from depthnerf_ns.prepare.run import prepare
from depthnerf_ns.prepare.sparse import PointDepth, SparsePoints

RESOLUTION, FOCAL_NOISE = 128, 0.4


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the nerfstudio layout with exact depth, large enough to find key points in."""
    folder = tmp_path_factory.mktemp("sparse") / "scene"
    config = SampleSceneConfig(
        output_dir=folder,
        layouts=("nerfstudio",),
        num_train=14,
        num_val=1,
        num_test=1,
        resolution=RESOLUTION,
        supersample=2,
    )
    write_sample_scene(config)
    return folder / "nerfstudio"


def exact_depth(capture: Capture, view: int) -> np.ndarray:
    """z-depth of a view [h, w], 0 where there is none."""
    assert capture.contract is not None
    file = capture.depth_files[view]
    assert file is not None
    return load_depth(file, capture.contract, capture.sizes[view]) * capture.contract.unit


def true_points(capture: Capture, per_view: int = 30, noise: float = FOCAL_NOISE, seed: int = 0) -> SparsePoints:
    """Points on the surfaces of the scene, in the views that see them, with noise on the key points in pixels."""
    rng = np.random.default_rng(seed)
    world, camera = [], poses(capture)
    for view in range(len(capture)):
        depth = exact_depth(capture, view)
        rows, columns = np.nonzero(depth)
        some = rng.choice(len(rows), per_view, replace=False)
        rows, columns = rows[some], columns[some]
        fx, cx, cy = (float(getattr(capture.cameras, name)[view]) for name in ("fx", "cx", "cy"))
        x, y = (columns + 0.5 - cx) / fx, (rows + 0.5 - cy) / fx
        local = np.stack([x, -y, -np.ones_like(x)], axis=1) * depth[rows, columns, None]
        world.append(local @ camera[view, :, :3].T + camera[view, :, 3])
    xyz = np.concatenate(world)
    places, points = [], []
    for view in range(len(capture)):
        place, z = project(capture, view, xyz)
        inside = (z > 0) & (place >= 1).all(axis=1) & (place < RESOLUTION - 1).all(axis=1)
        column, row = np.where(inside[:, None], place, 1).astype(int).T
        seen = inside & (np.abs(exact_depth(capture, view)[row, column] - z) < 0.02 * z)
        places.append(place[seen] + noise * rng.standard_normal((int(seen.sum()), 2)))
        points.append(np.flatnonzero(seen))
    return SparsePoints(xyz, np.full(len(xyz), noise), places, points, "COLMAP")


def write_colmap(
    capture: Capture, points: SparsePoints, folder: Path, suffix: str, scale: float = 1.0, model: str = "PINHOLE"
) -> Path:
    """Write a COLMAP model of a capture, in a world of its own: turned, moved and scaled."""
    turn, move = host.qvec2rotmat(np.array([0.5, 0.5, -0.1, 0.7]) / 1.0), np.array([3.0, -1.0, 2.0])
    turn = np.linalg.svd(turn)[0] @ np.linalg.svd(turn)[2]
    turn *= np.sign(np.linalg.det(turn))
    xyz = scale * points.xyz @ turn.T + move
    images, first = {}, {}
    for view, pose in enumerate(poses(capture)):
        rotation = (turn @ pose[:, :3] * [1.0, -1.0, -1.0]).T
        center = scale * turn @ pose[:, 3] + move
        name, number = capture.names[view], 10 + view
        first[view] = number
        qvec = host.rotmat2qvec(rotation)
        images[number] = host.Image(
            number, qvec, -rotation @ center, 1, name, points.places[view], points.points[view].astype(np.int64)
        )
    fx, cx, cy = (float(getattr(capture.cameras, name)[0]) for name in ("fx", "cx", "cy"))
    parameters = [fx, fx, cx, cy] if model == "PINHOLE" else [fx, cx, cy, 0.0]
    cameras = {1: host.Camera(1, model, RESOLUTION, RESOLUTION, np.array(parameters))}
    tracks: dict[int, list[tuple[int, int]]] = {index: [] for index in range(len(xyz))}
    for view, members in enumerate(points.points):
        for place, point in enumerate(members):
            tracks[int(point)].append((first[view], place))
    cloud = {
        index: host.Point3D(
            index,
            xyz[index],
            np.array([200, 100, 50]),
            float(points.error[index]),
            np.array([view for view, _ in track]),
            np.array([place for _, place in track]),
        )
        for index, track in tracks.items()
        if len(track) >= 2
    }
    folder.mkdir(parents=True, exist_ok=True)
    host.write_model(cameras, images, cloud, str(folder), suffix)
    return folder


def relative_errors(capture: Capture, depths: list[PointDepth]) -> tuple[np.ndarray, np.ndarray]:
    """|depth − exact| / exact, and / σ, at the points of all views that lie on something."""
    relative, scores = [], []
    for view, found in enumerate(depths):
        exact = exact_depth(capture, view)[found.rows, found.columns]
        on = exact > 0
        error = np.abs(found.depth - exact)[on]
        relative.append(error / exact[on])
        scores.append(error / found.sigma[on])
    return np.concatenate(relative), np.concatenate(scores)


@pytest.mark.parametrize(("suffix", "scale"), [(".bin", 1.0), (".txt", 4.0)])
def test_colmap_points_come_into_the_captures_world(scene, tmp_path, suffix, scale):
    capture = read_capture(scene)
    points = true_points(capture)
    model = ColmapModel.read(write_colmap(capture, points, tmp_path / "sparse" / "0", suffix, scale))
    found = model.sparse_points(capture.names, frame_number(capture), poses(capture), capture.sizes)
    depths = found.depths(capture.cameras, min_views=2)
    relative, _ = relative_errors(capture, depths)
    assert len(relative) > 500
    assert np.median(relative) < 4e-3  # key points are off by part of a pixel, and surfaces are not flat
    assert find_model(tmp_path) == tmp_path / "sparse" / "0"


def test_smaller_images_than_the_models(scene, tmp_path):
    """Key points are scaled with the images."""
    capture = read_capture(scene)
    model = ColmapModel.read(write_colmap(capture, true_points(capture), tmp_path, ".bin"))
    half = [(width // 2, height // 2) for width, height in capture.sizes]
    full = model.sparse_points(capture.names, frame_number(capture), poses(capture), capture.sizes)
    small = model.sparse_points(capture.names, frame_number(capture), poses(capture), half)
    np.testing.assert_allclose(small.places[0], full.places[0] / 2)


def test_a_model_of_other_poses_is_refused(scene, tmp_path):
    capture = read_capture(scene)
    model = ColmapModel.read(write_colmap(capture, true_points(capture), tmp_path, ".bin"))
    other = poses(capture).copy()
    other[:, :, 3] = other[::-1, :, 3]
    with pytest.raises(InputError, match="poses of the frames are not those of the COLMAP model"):
        model.sparse_points(capture.names, frame_number(capture), other, capture.sizes)
    with pytest.raises(InputError, match="0 of 16 frames are images of the COLMAP model"):
        model.sparse_points(["other.png"] * 16, [None] * 16, poses(capture), capture.sizes)


def test_sigma_of_triangulated_points_fits_their_error(scene):
    """Points triangulated from noisy key points by an independent method (linear, all views) are off by about σ."""
    capture = read_capture(scene)
    exact = true_points(capture, noise=0.0)
    rng = np.random.default_rng(1)
    noise = 0.4
    camera = poses(capture)
    rows: list[list[np.ndarray]] = [[] for _ in exact.xyz]
    for view, (place, member) in enumerate(zip(exact.places, exact.points)):
        fx, cx, cy = (float(getattr(capture.cameras, name)[view]) for name in ("fx", "cx", "cy"))
        w2c = np.linalg.inv(np.vstack([camera[view], [0, 0, 0, 1]]))[:3] * np.array([[1.0], [-1.0], [-1.0]])
        projection = np.array([[fx, 0, cx], [0, fx, cy], [0, 0, 1.0]]) @ w2c
        for (x, y), point in zip(place + noise * rng.standard_normal(place.shape), member):
            rows[point] += [x * projection[2] - projection[0], y * projection[2] - projection[1]]
    xyz = exact.xyz.copy()
    for point, equations in enumerate(rows):
        if len(equations) >= 4:
            solution = np.linalg.svd(np.stack(equations))[2][-1]
            xyz[point] = solution[:3] / solution[3]
    noisy = SparsePoints(xyz, np.full(len(xyz), noise), exact.places, exact.points, "test")
    scores = []
    for view, (found, member) in enumerate(zip(noisy.sigmas(capture.cameras), exact.points)):
        moved = -((xyz - exact.xyz)[member] @ camera[view, :, 2])
        keep = (noisy.sizes[member] >= 3) & np.isfinite(found)
        scores.append((moved / found)[keep])
    # σ is given the others' key points only, and its own fixed: a little larger than what all together give.
    assert 0.4 < np.median(np.abs(np.concatenate(scores))) / 0.6745 < 1.2


def test_painting_keeps_the_nearest_point():
    points = PointDepth(np.array([2, 2, 0]), np.array([3, 4, 0]), np.array([5.0, 2.0, 1.0]), np.array([0.5, 0.2, 0.1]))
    depth, sigma = points.painted((6, 4))
    assert depth[2, 3] == 5.0 and depth[2, 4] == 2.0 and (depth > 0).sum() == 3
    depth, sigma = points.painted((6, 4), side=3)
    assert depth[2, 3] == 2.0 and depth[2, 2] == 5.0 and sigma[2, 2] == 0.5
    assert depth[0, 0] == depth[1, 1] == 1.0, "squares are cut off at the border"


def test_uncertain_points_are_left_out(scene):
    capture = read_capture(scene)
    points = true_points(capture)
    every = points.depths(capture.cameras, min_views=2, max_error=9.0, max_relative_sigma=9.0)
    sizes = [len(found) for found in points.depths(capture.cameras, min_views=4)]
    assert 0 < sum(sizes) < sum(len(found) for found in every)
    assert sum(len(found) for found in points.depths(capture.cameras, max_error=0.1)) == 0
    for found in points.depths(capture.cameras, max_relative_sigma=0.005):
        assert (found.sigma <= 0.005 * found.depth).all()


def test_a_point_cloud_gives_depth_where_nothing_hides_it(scene, tmp_path):
    """Points on the back of the objects are not taken for their front."""
    import trimesh

    capture = read_capture(scene)
    xyz = true_points(capture, per_view=200).xyz
    (tmp_path / "cloud.ply").write_bytes(trimesh.PointCloud(xyz).export(file_type="ply"))
    capture.header["ply_file_path"] = str(tmp_path / "cloud.ply")
    found = sparse_points(capture, "ply", None, progress=False)
    relative, _ = relative_errors(capture, found.depths(capture.cameras, min_views=2))
    assert len(relative) > 2000
    assert np.mean(relative < 0.02) > 0.75


def test_key_points_are_triangulated_at_the_given_poses(scene):
    capture = read_capture(scene)
    points = sparse_points(capture, "features", None, progress=False)
    depths = points.depths(capture.cameras, min_views=2)
    relative, _ = relative_errors(capture, depths)
    assert len(relative) > 100
    assert np.median(relative) < 0.015
    many, _ = relative_errors(capture, points.depths(capture.cameras, min_views=3))
    assert np.percentile(many, 80) < 0.05


def test_images_without_anything_to_match(scene, tmp_path):
    from PIL import Image

    capture = read_capture(shutil.copytree(scene, tmp_path / "plain"))
    for file in capture.images:
        Image.new("RGB", (RESOLUTION, RESOLUTION), (90, 90, 90)).save(file)
    with pytest.raises(InputError, match="no key point of the 16 images could be matched"):
        sparse_points(capture, "features", None, progress=False)


# ---------------------------------------------------------------------------------------------------------------------
# The command on COLMAP data


@pytest.fixture(scope="module")
def colmap_scene(scene, tmp_path_factory) -> Path:
    """A folder with images and sparse/0, and nothing else."""
    folder = tmp_path_factory.mktemp("colmap")
    capture = read_capture(scene)
    (folder / "images").mkdir()
    for image in capture.images:
        shutil.copyfile(image, folder / "images" / image.name)
    write_colmap(capture, true_points(capture), folder / "sparse" / "0", ".bin", scale=2.0, model="SIMPLE_RADIAL")
    return folder


def test_poses_of_a_colmap_folder_are_the_hosts(colmap_scene, tmp_path):
    """The same numbers as ns-process-data writes."""
    from nerfstudio.process_data.colmap_utils import colmap_to_json

    colmap_to_json(colmap_scene / "sparse" / "0", tmp_path)
    theirs = json.loads((tmp_path / "transforms.json").read_text())
    ours = ColmapModel.read(colmap_scene / "sparse" / "0").transforms(colmap_scene / "images")
    assert ours["applied_transform"] == APPLIED.tolist() == theirs["applied_transform"]
    assert {key: ours[key] for key in ("fl_x", "cx", "k1", "w", "camera_model")} == {
        key: theirs[key] for key in ("fl_x", "cx", "k1", "w", "camera_model")
    }
    expected = {frame["colmap_im_id"]: frame["transform_matrix"] for frame in theirs["frames"]}
    for frame in ours["frames"]:
        np.testing.assert_allclose(frame["transform_matrix"], expected[frame["colmap_im_id"]], atol=1e-9)


def test_sfm_depth_of_a_colmap_folder(colmap_scene, scene, tmp_path):
    from depthnerf_ns.dataparser import RgbdDataParserConfig
    from depthnerf_ns.dataset import DepthDataset

    output = tmp_path / "out"
    report = prepare(PrepareOptions(data=colmap_scene, source="sfm", output_path=output))
    assert [frame.status for frame in report.frames] == ["ok"] * 16
    outputs = RgbdDataParserConfig(data=output).setup().get_dataparser_outputs("train")
    assert outputs.metadata["depth_contract"].kind == "z" and outputs.metadata["depth_assumed"] == ""
    assert outputs.metadata["points3D_xyz"].shape[0] > 100
    data = DepthDataset(outputs)
    exact = read_capture(scene)
    stored = data.get_data(0)
    depth, sigma = stored["depth_image"][..., 0].numpy(), stored["depth_sigma"][..., 0].numpy()
    assert 10 < (depth > 0).sum() < 0.05 * depth.size
    assert ((sigma > 0) == (depth > 0)).all()
    # Twice as large as the sample scene, whose world COLMAP does not know.
    view = exact.names.index(Path(outputs.image_filenames[0]).name)
    from common_ns.data.depth.contract import read_depth

    truth = exact.depth_files[view]
    assert truth is not None and exact.contract is not None
    expected = read_depth(truth, exact.contract, exact.cameras, view, 2.0 * outputs.dataparser_scale)[..., 0].numpy()
    on = (depth > 0) & (expected > 0)
    assert np.median(np.abs(depth / np.where(on, expected, 1.0) - 1.0)[on]) < 5e-3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda folder: (folder / "sparse/0/points3D.bin").write_bytes(b"\x05"),
            r"points3D\.bin: the COLMAP file ends after 1 bytes",
        ),
        (lambda folder: (folder / "sparse/0/images.bin").write_bytes(b"\0" * 8), "the COLMAP model has no images"),
        (lambda folder: shutil.rmtree(folder / "images"), r"images of the COLMAP model, such as .*\.png, are not"),
        (lambda folder: (folder / "images/train_0003.png").unlink(), r"train_0003\.png: the image does not exist"),
        (lambda folder: (folder / "sparse/0/cameras.bin").unlink(), "holds neither transforms.json, a COLMAP model"),
    ],
)
def test_damaged_colmap_folders(colmap_scene, tmp_path, change, message):
    folder = shutil.copytree(colmap_scene, tmp_path / "copy")
    change(folder)
    with pytest.raises(InputError, match=message) as caught:
        prepare(PrepareOptions(data=folder, source="sfm", output_path=tmp_path / "out"))
    assert "\n" not in str(caught.value)
