"""Gaussians from photographs to a file of them, through nerfstudio's own commands."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import trimesh
from nerfstudio.scripts.eval import ComputePSNR
from nerfstudio.scripts.exporter import ExportGaussianSplat, ExportPointCloud, ExportPoissonMesh
from nerfstudio.scripts.render import DatasetRender, SpiralRender
from nerfstudio.utils.eval_utils import eval_setup
from scipy.spatial import KDTree

from common_ns.errors import InputError
from common_ns.hash_grid import HashGridOptions
from common_ns.nerfstudio_seam.runs import load_run
from common_ns.sample_scene.generate import SampleSceneConfig, write_sample_scene
from common_ns.scripts.splat import SplatCommand
from common_ns.splat_baking.photographs import photographs_of
from common_ns.splat_baking.ply import read_ply
from common_ns.splat_baking.refine import draw, splat_psnr
from common_ns.splat_baking.trained import drawn_classically, trained_gaussians
from tests.e2e.running import assert_resumes_exactly, run_config, train

GRID = HashGridOptions(num_levels=6, log2_table_size=12, max_resolution=256)
PROPOSALS = 2 * (HashGridOptions(num_levels=4, features_per_level=1, log2_table_size=11, max_resolution=64),)
FIELD = {"grid": GRID, "proposal_grids": PROPOSALS, "num_proposal_samples": (16, 12), "num_nerf_samples": 12}
TINY = {
    **{"num_start": 1500, "max_gaussians": 2500, "grow_from": 2, "grow_every": 5, "sh_degree_interval": 8},
    **{"start_from": "photographs", "grow_until": 1000, "strategy": "default"},
}


@pytest.fixture(scope="module")
def scene(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("scene")
    options = {"layouts": ("nerfstudio",), "num_train": 12, "num_val": 2, "num_test": 2, "resolution": 40}
    write_sample_scene(SampleSceneConfig(folder, unbounded=True, overwrite=True, **options))
    return folder / "nerfstudio"


def tiny(scene: Path, output: Path, steps: int, method: str = "mip-splat-small", **model: Any) -> Any:
    config = run_config(method, scene, output, steps, rays=None, **{**TINY, **model})
    config.pipeline.model.field = replace(config.pipeline.model.field, **FIELD)
    return config


@pytest.fixture(scope="module")
def run(scene, tmp_path_factory) -> Path:
    # The paper's loss and rates: 120 steps on pictures this small are too few for means that move by their pixels.
    loss = {"color_error": "absolute", "ssim_weight": 0.2, "means_unit": "extent", "grow_gradient": 2e-4}
    config = tiny(scene, tmp_path_factory.mktemp("run"), 120, grow_from=40, grow_every=20, **loss)
    config.optimizers["means"]["optimizer"].lr, config.optimizers["means"]["scheduler"].lr_final = 1.6e-3, 1.6e-5
    return train(config)


def test_a_run_is_evaluated(run, tmp_path):
    ComputePSNR(run, tmp_path / "eval.json").main()
    results = json.loads((tmp_path / "eval.json").read_text())["results"]
    assert results["psnr"] > 15.0 and results["ssim"] > 0.3


@pytest.mark.slow
def test_ns_splat_writes_the_gaussians_of_the_run_and_refines_them_for_viewers(run, tmp_path, capsys):
    trained = SplatCommand(run, tmp_path / "trained.ply")
    trained.main()
    gaussians = read_ply(tmp_path / "trained.ply")
    ExportGaussianSplat(run, tmp_path).main()
    exported = read_ply(tmp_path / "splat.ply")
    # nerfstudio leaves out what nobody sees.
    assert 0.5 * len(gaussians) < len(exported) <= len(gaussians)
    nearest = torch.cdist(exported.means, gaussians.means).argmin(dim=1)
    torch.testing.assert_close(exported.means, gaussians.means[nearest], atol=1e-5, rtol=0)
    torch.testing.assert_close(exported.scales, gaussians.scales[nearest], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(exported.coefficients, gaussians.coefficients[nearest], atol=1e-4, rtol=0)
    SplatCommand(run, tmp_path / "refined.ply", refine=2.0, sh_degree=1).main()
    refined = read_ply(tmp_path / "refined.ply")
    assert refined.coefficients.shape[1] == 4 and trained.psnr["trained"] > 14
    photographs = list(photographs_of(load_run(run, test_mode="test").datamanager.train_dataset, torch.zeros(3)))
    before, after = (splat_psnr(each, photographs, torch.zeros(3)) for each in (gaussians, refined))
    assert after > before + 1
    with pytest.raises(InputError, match=r"--num-gaussians is 500, and the run has Gaussians, .*Leave it out"):
        SplatCommand(run, tmp_path / "fewer.ply", num_gaussians=500).main()


def test_the_file_of_gaussians_holds_them_as_they_are_drawn(run, tmp_path):
    from plyfile import PlyData

    ExportGaussianSplat(load_config=run, output_dir=tmp_path).main()
    vertices = PlyData.read(str(tmp_path / "splat.ply"))["vertex"]
    model = eval_setup(run, test_mode="inference")[1].model
    scales, opacities = model.smoothed
    shown = opacities > 1 / 255
    assert len(vertices) == int(shown.sum()) > 500
    assert np.allclose(np.exp(vertices["scale_1"]), scales[shown, 1].detach().numpy(), rtol=1e-3)
    assert bool((scales > model.gauss_params["scales"].exp()).all())


def test_runs_for_other_viewers_are_drawn_as_these_draw(run):
    """As 3D Gaussian Splatting: widened by 0.3 squared pixels, and brighter for it."""
    pipeline = load_run(run, test_mode="test")
    model, black = pipeline.model, torch.zeros(3)
    photographs = list(photographs_of(pipeline.datamanager.train_dataset, black))
    camera = model._cameras[:1]
    model.config.filter_3d, model.config.filter_2d = 0.0, 0.3
    assert not drawn_classically(model)
    seen = {}
    for mode in ("antialiased", "classic"):
        model.config.rasterize_mode = mode
        seen[mode] = model.get_outputs_for_camera(camera)
        drawn = draw(trained_gaussians(model, None), photographs[0], black, not drawn_classically(model))
        torch.testing.assert_close(seen[mode]["rgb"], drawn.clamp(0, 1), atol=1e-4, rtol=0)
    assert seen["classic"]["accumulation"].mean() > seen["antialiased"]["accumulation"].mean() + 0.001


def test_a_point_cloud_lies_where_pictures_have_their_depth(run, tmp_path):
    ExportPointCloud(run, tmp_path, num_points=3000, num_rays_per_batch=500, remove_outliers=False).main()
    points = trimesh.load(tmp_path / "point_cloud.ply").vertices
    model = load_run(run).model
    pictures = [picture_points(model, index) for index in range(len(model._cameras))]
    distances, _ = KDTree(np.concatenate(pictures)).query(np.asarray(points))
    assert len(points) >= 3000 and distances.max() < 1e-4 * model.extent


def picture_points(model: Any, index: int) -> np.ndarray:
    """Where the pixels of a training camera's picture are."""
    camera = model._cameras[index : index + 1]
    depth = model.get_outputs_for_camera(camera)["depth"].numpy()
    rays = camera.generate_rays(camera_indices=0)
    cosines = rays.directions @ -camera.camera_to_worlds[0, :, 2]
    return (rays.origins + rays.directions * (torch.from_numpy(depth) / cosines[..., None])).reshape(-1, 3).numpy()


@pytest.mark.slow
def test_meshes_of_point_clouds_keep_their_colors_and_are_not_asked_along_rays(run, tmp_path):
    small = {"num_points": 3000, "num_rays_per_batch": 500, "remove_outliers": False}
    ExportPoissonMesh(run, tmp_path / "cloud", texture_method="point_cloud", **small).main()
    assert trimesh.load(tmp_path / "cloud" / "poisson_mesh.ply").visual.vertex_colors[:, :3].std() > 5
    with pytest.raises(InputError, match="--texture-method point_cloud"):
        ExportPoissonMesh(run, tmp_path / "rays", target_num_faces=100, unwrap_method="custom", **small).main()


def test_a_spiral_begins_at_a_test_camera(run, tmp_path):
    SpiralRender(
        load_config=run, output_path=tmp_path / "spiral", seconds=0.1, output_format="images", image_format="png"
    ).main()
    assert len(list((tmp_path / "spiral").glob("*.png"))) == 2


def test_a_rendered_test_view_is_the_models(run, tmp_path):
    DatasetRender(
        load_config=run, output_path=tmp_path, split="test", rendered_output_names=["rgb", "depth"], image_format="png"
    ).main()
    assert len(list(tmp_path.rglob("*.png"))) == 4


def test_resumed_run_continues_exactly(scene, tmp_path, monkeypatch):
    """Gaussians are added and removed before and after; their number differs from that at the start."""

    def config(output: Path, steps: int):
        made = tiny(scene, output, steps, reset_every=12, background_color="random")
        made.pipeline.model.camera_optimizer.mode = "SO3xR3"
        return made

    assert_resumes_exactly(config, 24, tmp_path, monkeypatch)
    state = torch.load(tmp_path / "whole/sample/mip-splat-small/run/nerfstudio_models/step-000000023.ckpt")
    assert len(state["pipeline"]["_model.gauss_params.means"]) > TINY["num_start"] + 100


def test_the_papers_method_trains(scene, tmp_path):
    train(tiny(scene, tmp_path, 2, "mip-splat"))


@pytest.mark.slow
def test_a_field_is_fitted_once_and_a_resumed_run_goes_on_without_it(scene, tmp_path, monkeypatch, capsys):
    def config(output: Path, steps: int):
        made = tiny(scene, output, steps, start_from="auto", field_steps=30, grow_from=10**9, exposure=True)
        made.pipeline.model.means_unit, made.pipeline.model.color_error = "pixel", "squared"
        return made

    assert_resumes_exactly(config, 8, tmp_path, monkeypatch)
    said = " ".join(capsys.readouterr().out.split())
    assert said.count("1,500 Gaussians begin where a field sees surfaces, which was fitted by 30 steps in") == 2


@pytest.mark.slow
def test_mcmc_keeps_its_bound_and_resumes(scene, tmp_path, monkeypatch):
    def config(output: Path, steps: int):
        return tiny(scene, output, steps, strategy="mcmc", max_gaussians=1600)

    assert_resumes_exactly(config, 24, tmp_path, monkeypatch)
    state = torch.load(tmp_path / "whole/sample/mip-splat-small/run/nerfstudio_models/step-000000023.ckpt")
    assert len(state["pipeline"]["_model.gauss_params.means"]) == 1600


@pytest.mark.slow
def test_a_run_of_another_method_is_begun_from(scene, tmp_path, capsys):
    field = run_config("zip-nerf-small", scene, tmp_path / "field", 100, **FIELD)
    for group in ("grids", "fields"):
        field.optimizers[group]["scheduler"].max_steps = 100
    file = train(field)
    train(tiny(scene, tmp_path, 2, start_from="auto", init_from=file))
    assert f"1,500 Gaussians begin where {file} sees surfaces" in " ".join(capsys.readouterr().out.split())
    other = tmp_path / "other"
    options = {"layouts": ("nerfstudio",), "num_train": 12, "num_val": 2, "num_test": 2, "resolution": 40}
    write_sample_scene(SampleSceneConfig(other, overwrite=True, **options))
    with pytest.raises(InputError, match=r"config\.yml: the run's coordinates are not those of this run on .*other"):
        train(tiny(other / "nerfstudio", tmp_path / "wrong", 2, start_from="auto", init_from=file))
    missing = tmp_path / "none" / "config.yml"
    with pytest.raises(InputError, match="no such file"):
        train(tiny(scene, tmp_path / "missing", 2, start_from="auto", init_from=missing))


@pytest.mark.slow
def test_a_fit_that_is_broken_off_leaves_the_gaussians_as_they_were(scene, tmp_path, monkeypatch):
    pipeline = tiny(scene, tmp_path, 2, start_from="field").pipeline.setup(device="cpu", test_mode="val")
    before = pipeline.model.means.detach().clone()

    def broken_off(*args: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("mipnerf_ns.splat_field._train", broken_off)
    with pytest.raises(KeyboardInterrupt):
        pipeline.model.begin_with(pipeline.datamanager)
    assert torch.equal(pipeline.model.means, before) and not pipeline.model.placed


def test_broken_gaussians_are_removed_and_counted(scene, tmp_path, capsys):
    pipeline = tiny(scene, tmp_path, 2).pipeline.setup(device="cpu", test_mode="val")
    model = pipeline.model
    model.begin_with(pipeline.datamanager)
    model.optimizers = {name: torch.optim.Adam([value]) for name, value in model.gauss_params.items()}
    with torch.no_grad():
        model.means[3] = torch.nan
        model.gauss_params["scales"][7] = 20.0
    model.remove_faulty()
    assert model.removed["not finite"] == 1 and model.removed["exploded"] >= 1
    assert len(model.means) == TINY["num_start"] - sum(model.removed.values())
    assert bool(torch.isfinite(model.means).all()) and "not finite" in capsys.readouterr().out
    with torch.no_grad():
        model.means[:] = torch.nan
    with pytest.raises(InputError, match="no Gaussian is left"):
        model.remove_faulty()


def test_photographs_are_made_smaller_with_their_cameras(scene, tmp_path):
    cameras = []
    for limit in (None, 500):
        config = tiny(scene, tmp_path, 2)
        config.pipeline.datamanager.max_train_pixels = limit
        cameras.append(config.pipeline.setup(device="cpu", test_mode="val").datamanager.next_train(0))
    focal, (camera, batch) = float(cameras[0][0].fx), cameras[1]
    assert batch["image"].shape == (20, 20, 3) and (int(camera.width), int(camera.height)) == (20, 20)
    assert float(camera.fx) == pytest.approx(focal / 2)


def test_each_photograph_is_seen_once_before_any_twice(scene, tmp_path):
    manager = tiny(scene, tmp_path, 2).pipeline.setup(device="cpu", test_mode="val").datamanager
    seen = [manager.image_of_step(step) for step in range(24)]
    assert sorted(seen[:12]) == sorted(seen[12:]) == list(range(12)) and seen[:12] != seen[12:]


def test_nothing_to_begin_with_is_refused(scene, tmp_path):
    with pytest.raises(InputError, match="num-start"):
        tiny(scene, tmp_path, 2, num_start=0).pipeline.setup(device="cpu", test_mode="val")


def test_no_images_is_refused(scene, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "transforms.json").write_text(json.dumps({"frames": [], "fl_x": 10.0, "w": 10, "h": 10}))
    with pytest.raises(InputError):
        tiny(empty, tmp_path, 2).pipeline.setup(device="cpu", test_mode="val")


def test_several_devices_are_refused(scene, tmp_path):
    with pytest.raises(InputError, match="one device"):
        tiny(scene, tmp_path, 2).pipeline.setup(device="cpu", test_mode="val", world_size=2)
