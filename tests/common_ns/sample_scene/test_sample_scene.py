"""The sample scene is as exact as it says, deterministic, and written as each layout's readers expect it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import trimesh
from PIL import Image
from scipy.ndimage import binary_dilation

from common_ns.errors import InputError
from common_ns.sample_scene.generate import Camera, SampleSceneConfig, Scene, entrypoint, look_at, write_sample_scene
from common_ns.sample_scene.rendering import lattice

RESOLUTION = 48


@pytest.fixture(scope="module")
def scene() -> Scene:
    return Scene(seed=0)


@pytest.fixture(scope="module")
def mesh(scene: Scene) -> trimesh.Trimesh:
    return scene.mesh()


@pytest.fixture(scope="module")
def camera() -> Camera:
    return Camera(look_at(np.array([1.8, -2.9, 1.9])), RESOLUTION, RESOLUTION, 1.35 * RESOLUTION)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> SampleSceneConfig:
    return SampleSceneConfig(
        output_dir=tmp_path_factory.mktemp("sample") / "scene",
        num_train=3,
        num_val=1,
        num_test=2,
        resolution=RESOLUTION,
        supersample=4,
        mono_depth=True,
        masks=True,
        normals=True,
    )


def test_evening_changes_colors_and_nothing_else(scene: Scene, camera: Camera) -> None:
    day, evening = (s.render(camera, supersample=2) for s in (scene, Scene(seed=0, lights="evening")))
    assert np.array_equal(day.depth, evening.depth) and np.array_equal(day.mask, evening.mask)
    assert np.array_equal(day.normals, evening.normals)
    assert np.abs(evening.rgb - day.rgb)[day.mask].mean() > 0.1
    # The sun stands on the other side: what it lights on the floor is not what it lit by day.
    light = [view.rgb[day.mask].mean(axis=1) for view in (day, evening)]
    assert np.corrcoef(*light)[0, 1] < 0.95


@pytest.fixture(scope="module")
def written(config: SampleSceneConfig) -> Path:
    return write_sample_scene(config)


def read(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def project(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Points [n, 3] through a 3 × 4 projection to image positions [n, 2]."""
    homogeneous = points @ matrix[:3, :3].T + matrix[:3, 3]
    return homogeneous[:, :2] / homogeneous[:, 2:]


def random_rays(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Rays from a sphere outside of the scene towards points within it, of any length."""
    rng = np.random.default_rng(seed)
    origins = rng.standard_normal((count, 3))
    origins *= 3.0 / np.linalg.norm(origins, axis=1, keepdims=True)
    targets = rng.uniform(-0.9, 0.9, (count, 3))
    return origins, (targets - origins) * rng.uniform(0.1, 5.0, (count, 1))


def marched(scene: Scene, origins: np.ndarray, directions: np.ndarray) -> np.ndarray:
    """Distance of the first surface by sphere tracing the signed distance; inf where there is none within 6 units."""
    unit = directions / np.linalg.norm(directions, axis=1, keepdims=True)
    t, out, rays = np.zeros(len(unit)), np.full(len(unit), np.inf), np.arange(len(unit))
    while rays.size:
        step = scene.signed_distance(origins[rays] + t[rays, None] * unit[rays])
        out[rays[step < 1e-7]] = t[rays[step < 1e-7]]
        t[rays] += step
        rays = rays[(step >= 1e-7) & (t[rays] < 6.0)]
    return out


# Geometry -------------------------------------------------------------------------------------------------------------


def test_intersections_agree_with_sphere_tracing(scene: Scene) -> None:
    origins, directions = random_rays(1500)
    hits, reference = scene.intersect(origins, directions), marched(scene, origins, directions)
    # Rays that graze a surface stop in front of it when they are marched.
    both = np.isfinite(hits.distance) & np.isfinite(reference)
    assert (np.isfinite(hits.distance) == np.isfinite(reference)).mean() > 0.998
    assert both.mean() > 0.5
    # The mesh lies up to 2e-4 within round solids, along the ray more.
    assert (np.quantile(np.abs(hits.distance[both] - reference[both]), [0.5, 0.995]) < [1e-6, 5e-4]).all()
    assert set(np.unique(hits.part[both])) >= {0, 1, 2, 3, 4}, "the rays meet every kind of solid"


def test_signed_distance_is_a_distance_whose_gradient_is_the_normal(scene: Scene) -> None:
    origins, directions = random_rays(400, seed=1)
    hits = scene.intersect(origins, directions)
    on = np.isfinite(hits.distance)
    unit = directions / np.linalg.norm(directions, axis=1, keepdims=True)
    surface = (origins + hits.distance[:, None] * unit)[on]
    assert np.abs(scene.signed_distance(surface)).max() < 2e-4
    lifted = scene.signed_distance(surface + 1e-4 * hits.normal[on]) - scene.signed_distance(surface)
    assert np.quantile(np.abs(lifted - 1e-4), 0.98) < 1e-7
    assert (scene.signed_distance(surface - 1e-3 * hits.normal[on]) < 0).all()
    # Outside, the nearest of many surface points is as far as the signed distance says.
    points = np.random.default_rng(2).uniform(-1.2, 1.2, (300, 3))
    distance = scene.signed_distance(points)
    samples = scene.surface_points(20_000)
    nearest = np.array([np.linalg.norm(samples - point, axis=1).min() for point in points])
    outside = distance > 0
    assert (nearest[outside] > distance[outside] - 1e-3).all() and (nearest - distance)[outside].max() < 0.04


def test_mesh_parts_are_watertight_and_on_the_surface(scene: Scene, mesh: trimesh.Trimesh) -> None:
    assert mesh.is_watertight and mesh.volume > 0
    assert np.linalg.norm(mesh.vertices, axis=1).max() < 1.25
    assert scene.signed_distance(mesh.vertices).max() < 1e-9
    for part in scene.objects[:5]:
        vertices = part.solids[0].mesh().vertices
        assert np.abs(part.solids[0].distance(vertices.T)).max() < 1e-9, part.name
    points = scene.surface_points(5000, seed=1)
    assert points.shape == (5000, 3) and np.abs(scene.signed_distance(points)).max() < 1e-3


def test_depth_and_normals_agree_with_casting_rays_at_the_mesh(
    scene: Scene, camera: Camera, mesh: trimesh.Trimesh
) -> None:
    view = scene.render(camera, supersample=1)
    corner, b, c = (np.asarray(mesh.triangles)[:, k].T for k in range(3))
    edge1, edge2, from_eye = b - corner, c - corner, camera.origin[:, None] - corner
    sheared = np.cross(from_eye, edge1, axis=0)
    wrong = 0
    pixels = np.random.default_rng(0).integers(10, RESOLUTION - 8, (60, 2))
    for y, x in pixels:
        # All triangles, as Möller and Trumbore have it.
        d = camera.directions(np.array([x + 0.5]), np.array([y + 0.5]))
        across = np.cross(d, edge2, axis=0)
        with np.errstate(divide="ignore", invalid="ignore"):
            inverse = 1.0 / (edge1 * across).sum(axis=0)
            u, v = (from_eye * across).sum(axis=0) * inverse, (sheared * d).sum(axis=0) * inverse
            t = (edge2 * sheared).sum(axis=0) * inverse
        t = np.where((u >= 0) & (v >= 0) & (u + v <= 1) & (t > 0), t, np.inf)
        z, normal = t.min() * (camera.forward @ d).item(), np.asarray(mesh.face_normals)[t.argmin()]
        if np.isinf(z):
            wrong += view.depth[y, x] > 0
        else:
            wrong += abs(z - view.depth[y, x]) > 1e-5 or normal @ view.normals[y, x] < 0.97
    assert wrong <= 1, "at most a ray along a silhouette"
    assert 15 < (view.depth[pixels[:, 0], pixels[:, 1]] > 0).sum() < 55
    assert np.allclose(np.linalg.norm(view.normals, axis=2)[view.depth > 0], 1.0)


# Pictures -------------------------------------------------------------------------------------------------------------


def test_adaptive_antialiasing_agrees_with_brute_force(scene: Scene, camera: Camera) -> None:
    # Every pixel as 16 × 16 pixels of one central sample each: a regular grid, and no adaptivity at all.
    fine = replace(camera, width=16 * camera.width, height=16 * camera.height, focal=16 * camera.focal)
    dense, view = scene.render(fine, supersample=1), scene.render(camera, supersample=8)

    def premultiplied(rgb: np.ndarray, alpha: np.ndarray) -> np.ndarray:
        return np.concatenate([rgb * alpha[..., None], alpha[..., None]], axis=2)

    blocks = premultiplied(dense.rgb, dense.alpha).reshape(camera.height, 16, camera.width, 16, 4).mean(axis=(1, 3))
    error = premultiplied(view.rgb, view.alpha) - blocks
    assert np.sqrt((error**2).mean()) < 0.01
    assert np.abs(error).max() < 0.2
    assert np.abs(error.mean(axis=(0, 1))).max() < 5e-4, "no bias"
    coarse = premultiplied(*(lambda v: (v.rgb, v.alpha))(scene.render(camera, supersample=4))) - blocks
    assert (error**2).mean() < 0.4 * (coarse**2).mean()


@pytest.mark.parametrize("count", [1, 4, 16, 64, 256])
def test_lattice_is_even_and_symmetric(count: int) -> None:
    u, v = lattice(count)
    for values in (u, v):
        assert np.allclose(np.sort(values), (np.arange(count) + 0.5) / count)
    points = {(round(a, 9), round(b, 9)) for a, b in zip(u, v)}
    assert points == {(round(1 - a, 9), round(1 - b, 9)) for a, b in zip(u, v)}


def test_the_ball_alone_changes_color_much_with_the_view(scene: Scene) -> None:
    change = {"mirror ball": 0.0, "crate": 0.0}
    eyes = np.array([[1.0, -3.4, 1.6], [0.1, -3.6, 1.4]])
    for name in change:
        index = [part.name for part in scene.parts].index(name)
        vertices = scene.parts[index].solids[0].mesh().vertices
        center = vertices.mean(axis=0)
        radius = np.linalg.norm(vertices - center, axis=1).max()
        targets = center + radius * np.random.default_rng(0).uniform(-0.6, 0.6, (40, 3))
        hits = scene.intersect(np.broadcast_to(eyes[0], targets.shape), targets - eyes[0])
        along = (targets - eyes[0]) / np.linalg.norm(targets - eyes[0], axis=1, keepdims=True)
        points = (eyes[0] + hits.distance[:, None] * along)[hits.part == index]
        again = scene.intersect(np.broadcast_to(eyes[1], points.shape), points - eyes[1]).distance
        for point in points[np.abs(again - np.linalg.norm(points - eyes[1], axis=1)) < 1e-6]:
            windows = [Camera(look_at(eye, tuple(point)), 1, 1, 1e6) for eye in eyes]
            first, second = (scene.render(window, supersample=2).rgb[0, 0] for window in windows)
            change[name] = max(change[name], np.abs(first - second).max())
    assert change["mirror ball"] > 0.3 and change["crate"] < 0.1, change


def test_unbounded_scene_fills_every_pixel(camera: Camera) -> None:
    scene = Scene(seed=0, unbounded=True)
    near = Camera(look_at(np.array([1.6, -2.4, 1.0])), RESOLUTION, RESOLUTION, 0.9 * RESOLUTION)
    view = scene.render(near, supersample=2)
    assert (view.alpha == 1.0).all() and (view.depth > 0).all()
    assert view.depth.max() > 15.0 and 0.1 < view.mask.mean() < 0.6
    assert (view.rgb[~view.mask].std(axis=0) > 0.02).all(), "the background has texture"
    bounded = Scene(seed=0).render(near, supersample=2)
    assert (bounded.mask == view.mask).mean() > 0.995


# Layouts --------------------------------------------------------------------------------------------------------------


def projections(written: Path, layout: str) -> list[tuple[np.ndarray, np.ndarray]]:
    """For each view of a layout, its world-to-pixel matrix, first pixel centered at (0.5, 0.5), and its mask."""
    out = []
    if layout == "idr":
        cameras = np.load(written / "idr" / "cameras_sphere.npz")
        masks = sorted((written / "idr" / "mask").iterdir())
        images = sorted((written / "idr" / "image").iterdir())
        assert len(images) == len(masks) == 6
        for number, mask in enumerate(masks):
            half = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1.0]])
            out.append((half @ cameras[f"world_mat_{number}"][:3], read(mask) > 127))
        return out
    flip = np.diag([1.0, -1.0, -1.0, 1.0])
    if layout == "nerfstudio":
        meta = json.loads((written / "nerfstudio" / "transforms.json").read_text())
        k = np.array([[meta["fl_x"], 0, meta["cx"]], [0, meta["fl_y"], meta["cy"]], [0, 0, 1.0]])
        for frame in meta["frames"]:
            pose = np.linalg.inv(np.array(frame["transform_matrix"]) @ flip)
            out.append((k @ pose[:3], read(written / "nerfstudio" / frame["mask_path"]) > 127))
        return out
    for split in ("train", "val", "test"):
        meta = json.loads((written / "blender" / f"transforms_{split}.json").read_text())
        focal = 0.5 * RESOLUTION / np.tan(0.5 * meta["camera_angle_x"])
        k = np.array([[focal, 0, RESOLUTION / 2], [0, focal, RESOLUTION / 2], [0, 0, 1.0]])
        for frame in meta["frames"]:
            pose = np.linalg.inv(np.array(frame["transform_matrix"]) @ flip)
            rgba = read(written / "blender" / (frame["file_path"] + ".png"))
            out.append((k @ pose[:3], rgba[..., 3] > 127))
    return out


@pytest.mark.parametrize("layout", ["blender", "nerfstudio", "idr"])
def test_mesh_projects_onto_the_masks(written: Path, scene: Scene, mesh: trimesh.Trimesh, layout: str) -> None:
    loaded = trimesh.load_mesh(written / "mesh.ply")
    vertices = np.asarray(loaded.vertices)
    assert loaded.is_watertight and len(loaded.faces) == len(mesh.faces)
    # Thin rods may cover less than half of every pixel they cross: the other parts decide.
    solid = np.concatenate([part.solids[0].mesh().vertices for part in scene.objects[:5]])
    views = projections(written, layout)
    assert len(views) == 6
    for matrix, mask in views:
        xy = project(matrix, solid)
        pixel = np.floor(xy).astype(int)
        assert binary_dilation(mask, np.ones((3, 3)))[pixel[:, 1], pixel[:, 0]].all()
        rows, columns = np.nonzero(mask)
        all_xy = project(matrix, vertices)
        edges = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
        assert np.abs(edges - np.concatenate([all_xy.min(axis=0), all_xy.max(axis=0)])).max() < 1.1


def test_blender_layout_is_read_by_nerfstudio(written: Path, scene: Scene) -> None:
    from nerfstudio.data.dataparsers.blender_dataparser import BlenderDataParserConfig

    parser = BlenderDataParserConfig(data=written / "blender").setup()
    for split, count in (("train", 3), ("val", 1), ("test", 2)):
        outputs = parser.get_dataparser_outputs(split=split)
        assert len(outputs.image_filenames) == count
        for index, file in enumerate(outputs.image_filenames):
            rgba = read(file)
            assert rgba.shape == (RESOLUTION, RESOLUTION, 4) and rgba.dtype == np.uint8
            rays = outputs.cameras.generate_rays(camera_indices=index)
            hit = np.isfinite(intersect(scene, rays)[0])
            # The central ray and the coverage of a pixel disagree only where the pixel is cut in the middle.
            assert (hit == (rgba[..., 3] > 127)).mean() > 0.985


def intersect(scene: Scene, rays) -> tuple[np.ndarray, np.ndarray]:
    """Ray distance of the first hits of a nerfstudio ray bundle, and the ray lengths of unit z-depth."""
    hits = scene.intersect(rays.origins.numpy().reshape(-1, 3), rays.directions.numpy().reshape(-1, 3))
    norms = rays.metadata["directions_norm"].numpy()[..., 0]
    return hits.distance.reshape(norms.shape), norms


def test_nerfstudio_layout_is_read_by_nerfstudio(written: Path, scene: Scene) -> None:
    from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
    from nerfstudio.data.utils.data_utils import get_depth_image_from_path

    parser = NerfstudioDataParserConfig(
        data=written / "nerfstudio", orientation_method="none", center_method="none", auto_scale_poses=False
    ).setup()
    for split, count in (("train", 3), ("val", 1), ("test", 2)):
        outputs = parser.get_dataparser_outputs(split=split)
        assert [file.name for file in outputs.image_filenames] == [f"{split}_{i:04d}.png" for i in range(count)]
        assert outputs.mask_filenames is not None and len(outputs.mask_filenames) == count
        for index, file in enumerate(outputs.metadata["depth_filenames"]):
            unit = outputs.metadata["depth_unit_scale_factor"]
            depth = get_depth_image_from_path(file, RESOLUTION, RESOLUTION, unit).numpy()[..., 0]
            distance, norms = intersect(scene, outputs.cameras.generate_rays(camera_indices=index))
            z = np.where(np.isfinite(distance), distance / norms, 0.0)
            # The parser keeps poses in single precision, which moves some rays across an edge.
            assert (np.abs(z - depth) < 1e-3).mean() > 0.998


def test_idr_cameras_index_pixels_and_normalize_the_objects(written: Path, scene: Scene, mesh: trimesh.Trimesh) -> None:
    cameras = np.load(written / "idr" / "cameras_sphere.npz")
    frames = json.loads((written / "nerfstudio" / "transforms.json").read_text())["frames"]
    splits = json.loads((written / "idr" / "splits.json").read_text())
    assert splits["test"] == ["000004.png", "000005.png"]
    for number, frame in enumerate(frames):
        scale, world = cameras[f"scale_mat_{number}"], cameras[f"world_mat_{number}"]
        normalized = (np.asarray(mesh.vertices) - scale[:3, 3]) / scale[0, 0]
        assert 0.9 < np.linalg.norm(normalized, axis=1).max() < 1.0
        # A pixel's index, lifted as NeuS does it, is the ray of that pixel's depth.
        inverse = np.linalg.inv(world[:3, :3])
        y, x = np.mgrid[:RESOLUTION, :RESOLUTION]
        directions = np.stack([x, y, np.ones_like(x)], axis=-1).reshape(-1, 3) @ inverse.T
        eye = -inverse @ world[:3, 3]
        hits = scene.intersect(np.broadcast_to(eye, directions.shape), directions)
        z = np.where(np.isfinite(hits.distance), hits.distance, 0.0) / np.linalg.norm(directions, axis=1)
        depth = read(written / "nerfstudio" / frame["depth_file_path"]).ravel() * 1e-3
        assert (np.abs(z - depth) < 1e-3).mean() > 0.999


def test_layouts_show_the_same_views(written: Path) -> None:
    rgba = read(written / "blender" / "test" / "r_1.png") / 255.0
    alpha = rgba[..., 3:]
    white = read(written / "nerfstudio" / "images" / "test_0001.png") / 255.0
    black = read(written / "idr" / "image" / "000005.png") / 255.0
    assert np.abs(rgba[..., :3] * alpha + 1 - alpha - white).max() < 2 / 255
    assert np.abs(rgba[..., :3] * alpha - black).max() < 2 / 255
    normals = read(written / "nerfstudio" / "normals" / "test_0001.png") / 255.0 * 2 - 1
    depth = read(written / "nerfstudio" / "depths" / "test_0001.png")
    assert depth.dtype == np.uint16
    assert np.abs(np.linalg.norm(normals[depth > 0], axis=1) - 1).max() < 0.02


def test_mono_depth_is_affine_in_depth_with_a_scale_and_shift_of_its_own(written: Path) -> None:
    frames = json.loads((written / "nerfstudio" / "transforms.json").read_text())["frames"]
    told = json.loads((written / "scene.json").read_text())["mono_depth"]
    found = []
    for frame in frames:
        depth = read(written / "nerfstudio" / frame["depth_file_path"]) * 1e-3
        mono = read(written / "nerfstudio" / frame["mono_depth_file_path"]) * 1e-3
        assert ((depth > 0) == (mono > 0)).all()
        scale, shift = np.polyfit(depth[depth > 0], mono[depth > 0], 1)
        assert np.abs(scale * depth + shift - mono)[depth > 0].max() < 2e-3
        assert np.allclose(told[Path(frame["file_path"]).name], [scale, shift], atol=0.01)
        found.append(scale)
    assert np.unique(np.round(found, 3)).size == len(frames)


def test_sensor_depth_has_the_noise_and_the_holes_that_were_asked_for(written: Path, config: SampleSceneConfig) -> None:
    noisy = replace(
        config, output_dir=written.parent / "noisy", layouts=("nerfstudio",), depth_noise=0.02, depth_holes=0.2
    )
    write_sample_scene(noisy)
    for name in ("train_0000", "train_0002", "test_0000", "val_0000"):
        exact = read(written / "nerfstudio" / "depths" / f"{name}.png") * 1e-3
        sensed = read(noisy.output_dir / "nerfstudio" / "depths" / f"{name}.png") * 1e-3
        if not name.startswith("train"):
            assert (exact == sensed).all()
            continue
        assert abs((sensed[exact > 0] == 0).mean() - 0.2) < 0.005
        kept = sensed > 0
        assert (exact[kept] > 0).all() and abs((sensed - exact)[kept].std() - 0.02) < 0.004
        # Blobs: the neighbor of a hole is mostly a hole.
        hole = (exact > 0) & (sensed == 0)
        pairs = (exact[:, 1:] > 0) & hole[:, :-1]
        assert hole[:, 1:][pairs].mean() > 0.5


def test_same_seed_same_bytes(written: Path, config: SampleSceneConfig) -> None:
    again = write_sample_scene(replace(config, output_dir=written.parent / "again"))
    files = sorted(path.relative_to(written) for path in written.rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(again) for path in again.rglob("*") if path.is_file())
    assert len(files) > 40 and not any(path.name.startswith(".partial") for path in files)
    for path in files:
        assert (written / path).read_bytes() == (again / path).read_bytes(), path
    other = write_sample_scene(replace(config, output_dir=written.parent / "other", seed=1, num_train=1))
    image = Path("blender/train/r_0.png")
    assert (written / image).read_bytes() != (other / image).read_bytes()


def test_first_training_views_do_not_depend_on_how_many_there_are(written: Path, config: SampleSceneConfig) -> None:
    fewer = write_sample_scene(replace(config, output_dir=written.parent / "fewer", num_train=2))
    image = Path("blender/train/r_1.png")
    assert (written / image).read_bytes() == (fewer / image).read_bytes()


# Mistakes -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"resolution": 0}, r"--resolution is 0\. Choose a number"),
        ({"num_train": 0}, r"--num-train is 0"),
        ({"seed": -1}, r"--seed is -1"),
        ({"supersample": 3}, r"--supersample is 3\. Choose 1, 2, 4, 8 or 16"),
        ({"depth_holes": 1.0}, r"--depth-holes is 1\.0"),
        ({"depth_noise": float("nan")}, r"--depth-noise is nan"),
        ({"layouts": ()}, r"--layouts is \[\]"),
        ({"layouts": ("colmap",)}, r"Name at least one of blender, nerfstudio, idr"),
        ({"layouts": ("idr",)}, r"--mono-depth is about files of the nerfstudio layout"),
    ],
)
def test_bad_options_are_refused(config: SampleSceneConfig, tmp_path: Path, change: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        write_sample_scene(replace(config, output_dir=tmp_path / "out", **change))
    assert not (tmp_path / "out").exists()


def test_output_folder_is_guarded(config: SampleSceneConfig, tmp_path: Path) -> None:
    tiny = replace(config, output_dir=tmp_path / "out", num_train=1, num_test=1, resolution=4, layouts=("nerfstudio",))
    write_sample_scene(tiny)
    (tiny.output_dir / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match=re.escape(f"{tiny.output_dir}: the folder is not empty")):
        write_sample_scene(tiny)
    write_sample_scene(replace(tiny, overwrite=True, num_test=2))
    assert (tiny.output_dir / "notes.txt").read_text() == "mine"
    assert len(list((tiny.output_dir / "nerfstudio" / "images").iterdir())) == 4
    # A folder of the same name that the command did not write.
    (tiny.output_dir / "scene.json").unlink()
    with pytest.raises(InputError, match=r"no scene\.json says that ns-sample-scene wrote it"):
        write_sample_scene(replace(tiny, overwrite=True))
    assert (tiny.output_dir / "nerfstudio" / "images").exists()
    with pytest.raises(InputError, match="is a file"):
        write_sample_scene(replace(tiny, output_dir=tiny.output_dir / "notes.txt"))
    with pytest.raises(InputError, match=r"notes\.txt is a file, and a folder is needed"):
        write_sample_scene(replace(tiny, output_dir=tiny.output_dir / "notes.txt" / "below"))


def test_the_command_writes_and_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    options = ["--layouts", "blender", "--num-train", "1", "--num-val", "1", "--num-test", "1"]
    command = ["ns-sample-scene", "--output-dir", str(tmp_path / "scene"), "--resolution", "8", "--unbounded", *options]
    hook = sys.excepthook
    monkeypatch.setattr(sys, "argv", command)
    entrypoint()
    monkeypatch.setattr(sys, "excepthook", hook)
    assert str(tmp_path / "scene" / "blender") in capsys.readouterr().out
    assert (read(tmp_path / "scene" / "blender" / "test" / "r_0.png")[..., 3] == 255).all()
    assert json.loads((tmp_path / "scene" / "scene.json").read_text())["complete"] is True
    command = [sys.executable, "-m", "common_ns.sample_scene.generate", "--output-dir", str(tmp_path / "scene")]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 1 and run.stderr.startswith("Error: ") and run.stderr.count("\n") == 1


def test_import_is_light() -> None:
    heavy = ("torch", "trimesh", "open3d", "nerfstudio", "tyro")
    code = f"import sys, common_ns.sample_scene.generate; print([m for m in {heavy} if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.stdout.strip() == "[]", run.stderr
