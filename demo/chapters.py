"""The chapters of the demo: which commands each family runs, and which results the page shows.

The words of the page are in page.html.jinja. Numbers of steps and sizes are chosen so that all chapters together take
ten minutes on two cores.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from common_ns.meshing.pictures import MeshPictures, as_bytes
from common_ns.pages import panels, pixels
from demo.chapter import Chapter, Settings, evaluated

NO_NORMALS = "--pipeline.model.compute-normals False"
"""Where normals are not shown, rendering takes half the time without them."""

SCENES = {
    "day": "--layouts blender idr",
    "evening": "--layouts idr --lights evening",
    "landscape": "--layouts nerfstudio --unbounded",
}
"""Three versions of the sample scene, with the options of ns-sample-scene that make them."""


class Scene(Chapter):
    """One version of the sample scene: the data of the other chapters.

    Args:
        settings: what all chapters share.
        name: one of `SCENES`.
    """

    def __init__(self, settings: Settings, name: str) -> None:
        self.name = name
        super().__init__(settings)

    def plan(self) -> None:
        sizes = "--num-train 50 --num-val 2 --num-test 4 --resolution 144 --supersample 4"
        self.run(f"ns-sample-scene --output-dir {{folder}} {SCENES[self.name]} {sizes}", 30)

    def results(self) -> dict[str, object]:
        pictures = {"day": "blender/test", "evening": "idr/image", "landscape": "nerfstudio/images"}[self.name]
        return {"pictures": sorted(self.folder.glob(f"{pictures}/*.png"))[-2:]}


class Surfaces(Chapter):
    """hash-neus-small by day and in evening light, the mesh, and the colors of one run on the surface of the other."""

    name = "surfaces"

    def plan(self) -> None:
        method = "hash-neus-small --data {demo}/{scene}/idr --pipeline.model.cos-anneal-steps {anneal}"
        common = {"groups": "fields grids", "anneal": self.steps(600)}
        day = self.train("day", method, 250, steps=2100, scene="day", **common)
        self.evaluation = self.evaluate(day, 15)
        mesh = "ns-mesh --load-config {day} --output-path {folder}/mesh.ply --resolution 192 --world-coordinates"
        self.run(mesh, 17, day=day)
        self.run("ns-eval-mesh {folder}/mesh.ply {demo}/day/mesh.ply --output-path {folder}/mesh.json", 4)
        turntable = "ns-turntable {folder}/mesh.ply --output-path {folder}/turntable.mp4 --frames {number}"
        self.run(turntable, 20, number=2 * self.settings.frames)
        evening = self.train("evening", method, 115, steps=850, scene="evening", **common)
        self.run(
            "ns-orbit-path --load-config {day} --output-path {folder}/orbit.json --frames {frames} --seconds {seconds} "
            "--width 160 --height 160 --radius-scale 0.9",
            1,
            day=day,
            seconds=self.settings.frames / 6,
        )
        self.run(
            "ns-render camera-path --load-config {day} --camera-path-filename {folder}/orbit.json "
            "--output-path {folder}/orbit.mp4 --rendered-output-names rgb normals",
            53,
            day=day,
        )
        self.run(
            "ns-swap-appearance --geometry {day} --appearance {evening} --camera-path {folder}/orbit.json "
            "--output-path {folder}/swapped.mp4 --rendered-output-names rgb normals",
            140,
            day=day,
            evening=evening,
        )

    def results(self) -> dict[str, object]:
        truth = MeshPictures(self.settings.folder / "day" / "mesh.ply", size=300)
        distances = json.loads((self.folder / "mesh.json").read_text())
        views = sorted(self.evaluation.glob("eval_img_*.png"))
        return {
            "psnr": evaluated(self.evaluation)["psnr"],
            "chamfer_percent": 100.0 * distances["chamfer"] / (2.0 * truth.radius),
            "views": [[*panels(file, 2), file.with_name(file.name.replace("img", "normals"))] for file in views],
            "mesh": as_bytes(MeshPictures(self.folder / "mesh.ply", size=300).view(30.0)[1]),
            "swapped": first_frame(self.folder / "swapped.mp4"),
        }


class FewViews(Chapter):
    """depth-hash-small on a few views, without and with depth."""

    name = "few-views"
    num_views = 8

    def plan(self) -> None:
        self.evaluations: dict[str, Path] = {}
        for name, loss in (("without-depth", "--pipeline.model.depth-loss none "), ("with-depth", "")):
            config = self.train(
                name,
                f"depth-hash-small --data {{demo}}/landscape/nerfstudio {loss}{NO_NORMALS} "
                f"rgbd-data --num-views {self.num_views}",
                70,
                steps=550,
                groups="fields grids",
            )
            self.evaluations[name] = self.evaluate(config, 11)

    def results(self) -> dict[str, object]:
        views = []
        for index in range(3):
            colors = [panels(folder / f"eval_img_{index:04d}.png", 2) for folder in self.evaluations.values()]
            depths = [pixels(folder / f"eval_depth_{index:04d}.png") for folder in self.evaluations.values()]
            (truth, without), (_, with_depth) = colors
            # The rendered depth is the last panel, as wide as the picture.
            views.append([truth, without, with_depth, *(depth[:, -truth.shape[1] :] for depth in depths)])
        figures = {
            f"{key} {name.replace('-', ' ')}": evaluated(folder)[key]
            for name, folder in self.evaluations.items()
            for key in ("psnr", "depth_rmse")
        }
        return {"num_views": self.num_views, "views": views, **figures}


class Outdoors(Chapter):
    """zip-nerf-small on the unbounded scene; Gaussians that begin where it sees surfaces, and a flight among them."""

    name = "outdoors"

    def plan(self) -> None:
        data = "--data {demo}/landscape/nerfstudio"
        field = self.train("field", f"zip-nerf-small {data} {NO_NORMALS}", 120, steps=650, groups="fields grids")
        groups = "means scales quats features-dc features-rest opacities exposure"
        method = f"mip-splat-small {data} --pipeline.model.init-from {{field}}"
        splats = self.train("splats", method, 75, steps=450, groups=groups, field=field)
        self.evaluations = {"field": self.evaluate(field, 15), "splats": self.evaluate(splats, 10)}
        self.run("ns-splat --load-config {splats} --output-path {folder}/scene.spz", 10, splats=splats)
        self.run(
            "ns-render interpolate --load-config {splats} --output-path {folder}/flight.mp4 "
            "--rendered-output-names rgb depth --interpolation-steps {between} --frame-rate 12",
            15,
            splats=splats,
            between=max(2, self.settings.frames // 4),
        )

    def results(self) -> dict[str, object]:
        views = []
        for index in range(3):
            (truth, field), (_, splats) = (
                panels(folder / f"eval_img_{index:04d}.png", 2) for folder in self.evaluations.values()
            )
            depth = panels(self.evaluations["field"] / f"eval_depth_{index:04d}.png", 3)[-1]
            views.append([truth, field, splats, depth])
        figures = {f"{name} psnr": evaluated(folder)["psnr"] for name, folder in self.evaluations.items()}
        return {"views": views, "megabytes": (self.folder / "scene.spz").stat().st_size / 1e6, **figures}


class Scales(Chapter):
    """mip-nerf-small trained and tested at four image sizes."""

    name = "scales"

    def plan(self) -> None:
        self.run("ns-multiscale-blender {demo}/day/blender {folder}/multiscale", 2)
        samples = "--pipeline.model.num-coarse-samples 32 --pipeline.model.num-importance-samples 32"
        method = f"mip-nerf-small --data {{folder}}/multiscale {samples} {NO_NORMALS} multiscale-blender-data"
        self.evaluation = self.evaluate(self.train("multiscale", method, 250, steps=450, groups="fields"), 50)

    def results(self) -> dict[str, object]:
        found = evaluated(self.evaluation)
        by_width: dict[int, list[np.ndarray]] = {}
        for file in sorted(self.evaluation.glob("eval_img_*.png")):
            truth, _, rendering = panels(file, 3)
            by_width.setdefault(truth.shape[1], [truth, rendering])
        widths = sorted(by_width, reverse=True)
        return {
            "sizes": [f"{width} x {width} pixels" for width in widths],
            "views": [[by_width[width][row] for width in widths] for row in (0, 1)],
            **{name: found[name] for name in ("psnr", "psnr_1x", "psnr_2x", "psnr_4x", "psnr_8x")},
        }


class Photograph(Chapter):
    """miner-image on a photograph that scikit-image contains, and a zoom into it."""

    name = "photograph"

    def plan(self) -> None:
        config = self.train("astronaut", "miner-image --data {folder}/astronaut.png", 15)
        self.evaluation = self.evaluate(config, 8)
        self.run("ns-miner-decode --load-config {config} --output-path {folder}/decoded.png", 5, config=config)
        self.run(
            "ns-zoom-path --load-config {config} --target 110 225 --zoom-factor 12 --seconds 4 --fps {fps} "
            "--resolution 384 384 --output-path {folder}/zoom.json",
            5,
            config=config,
            fps=self.settings.frames / 4,
        )
        self.run(
            "ns-render camera-path --load-config {config} --camera-path-filename {folder}/zoom.json "
            "--output-path {folder}/zoom.mp4",
            20,
            config=config,
        )

    def results(self) -> dict[str, object]:
        found = evaluated(self.evaluation)
        return {
            "psnr": found["psnr"],
            "num_params": found["num_params"],
            "training_seconds": self.seconds[0],
            "blocks": sorted(self.evaluation.glob("eval_blocks_*.png"))[:2],
        }


class Volume(Chapter):
    """miner-occupancy on the sample scene's mesh."""

    name = "volume"

    def plan(self) -> None:
        parser = "miner-occupancy-data --resolution 224 --fractions True --subvoxel 4"
        config = self.train("mesh", f"miner-occupancy --data {{demo}}/day/mesh.ply {parser}", 25)
        self.evaluation = self.evaluate(config, 8)
        mesh = "ns-mesh --load-config {config} --output-path {folder}/mesh.ply --resolution 224"
        self.run(mesh, 10, config=config)

    def results(self) -> dict[str, object]:
        found = evaluated(self.evaluation)
        meshes = (self.settings.folder / "day" / "mesh.ply", self.folder / "mesh.ply")
        views = [as_bytes(MeshPictures(file, size=300).view(30.0)[0]) for file in meshes]
        return {"iou": found["iou"], "num_params": found["num_params"], "views": views}


def save_photograph(file: Path) -> None:
    """Write the photograph of Eileen Collins (NASA, public domain) that scikit-image contains."""
    from PIL import Image
    from skimage import data

    file.parent.mkdir(parents=True)
    Image.fromarray(data.astronaut()).save(file)


def first_frame(film: Path) -> np.ndarray:
    """The first frame of a film, [h, w, 3] of bytes."""
    import imageio_ffmpeg

    frames = imageio_ffmpeg.read_frames(str(film))
    width, height = next(frames)["size"]
    return np.frombuffer(next(frames), dtype=np.uint8).reshape(height, width, 3)


CHAPTERS: dict[str, type[Chapter]] = {
    chapter.name: chapter for chapter in (Surfaces, FewViews, Outdoors, Scales, Photograph, Volume)
}
"""By name, in the order of the page."""
