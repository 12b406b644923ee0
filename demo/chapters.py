"""What the demo shows: a chapter for each family, with the words that a newcomer needs.

Commands are those of the documentation. Steps and sizes are chosen so that all chapters together take ten minutes of
two cores; each gets better with more.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common_ns.meshing.pictures import MeshPictures, as_bytes
from demo.page import Page, panels, pixels
from demo.plan import Chapter

NO_NORMALS = ("--pipeline.model.compute-normals", "False")
"""Where normals are not shown, rendering takes half the time without them."""


@dataclass
class Recipe:
    """Where results go, and how long to train."""

    folder: Path
    """The demo's folder."""
    effort: float = 1.0
    """Factor on all numbers of training steps."""
    frames: int = 24
    """Frames of each film."""

    def steps(self, number: int) -> int:
        """Training steps, times the factor."""
        return max(10, round(number * self.effort))

    def run_folder(self, chapter: str, method: str) -> Path:
        """Folder of a run of ns-train."""
        return self.folder / "runs" / chapter / method / "demo"

    def train(
        self, chapter: Chapter, method: str, data: Path, *options: object, about: float, parser: tuple = ()
    ) -> Path:
        """Add a training and return the path of its config. Data parsers and their options come last.

        Args:
            about: seconds that it takes, see `Step.about`.
        """
        name = f"{chapter.name}{len(chapter.steps)}"
        chapter.run("ns-train", method, "--data", data, "--output-dir", self.folder / "runs", "--experiment-name", name,
                    "--timestamp", "demo", "--vis", "tensorboard", *options, *parser, about=about)  # fmt: skip
        return self.run_folder(name, method) / "config.yml"

    def limited(self, number: int, *groups: str) -> tuple[object, ...]:
        """Options that end a training, and the decay of its learning rates, after so many steps.

        Args:
            groups: names of the optimizers.
        """
        steps = self.steps(number)
        options: list[object] = ["--max-num-iterations", steps]
        for group in groups:
            options += [f"--optimizers.{group}.scheduler.max-steps", steps]
        return tuple(options)

    def evaluate(self, chapter: Chapter, config: Path, about: float) -> Path:
        """Add an evaluation with pictures; returns the folder they are written to."""
        pictures = self.folder / "pictures" / config.parent.parent.parent.name
        chapter.run("ns-eval", "--load-config", config, "--output-path", pictures / "eval.json",
                    "--render-output-path", pictures, about=about)  # fmt: skip
        return pictures


def results_of(pictures: Path) -> dict[str, float]:
    """What ns-eval has found."""
    return json.loads((pictures / "eval.json").read_text())["results"]


def turntable(chapter: Chapter, mesh: Path, film: Path, frames: int, about: float) -> None:
    """Add a film of a mesh."""
    chapter.run("ns-turntable", mesh, "--output-path", film, "--frames", frames, about=about)


SCENES = {
    "day": ("--layouts", "blender", "idr"),
    "evening": ("--layouts", "idr", "--lights", "evening"),
    "landscape": ("--layouts", "nerfstudio", "--unbounded"),
}
"""The sample scene in its forms, with the options of ns-sample-scene that make them."""


def scene(recipe: Recipe, name: str) -> Path:
    """Folder of a form of the sample scene."""
    return recipe.folder / "scenes" / name


def scenes(recipe: Recipe) -> list[Chapter]:
    """The pictures that all others are trained on; they come first, each in a lane of its own."""

    def show(page: Page) -> None:
        page.section(
            "scenes",
            "The data: ns-sample-scene",
            "All pictures are of one small scene that fieldsuite traces by itself: by day, in the evening, and in a "
            "landscape without bounds. Its cameras, depth, masks and mesh are known exactly: every result below can be "
            "compared with the truth.",
        )
        files = [
            *sorted((scene(recipe, "day") / "blender" / "test").glob("*.png"))[:2],
            *sorted((scene(recipe, "evening") / "idr" / "image").glob("*.png"))[-2:],
            *sorted((scene(recipe, "landscape") / "nerfstudio" / "images").glob("test_*.png"))[:2],
        ]
        page.grid([files], ("day", "day", "evening", "evening", "landscape", "landscape"), "Some of them.", width=165)
        page.commands([line for chapter in chapters for line in chapter.timed()])

    def nothing(page: Page) -> None:
        del page

    chapters = []
    for name, options in SCENES.items():
        chapter = Chapter(name, nothing if chapters else show)
        chapter.run(
            *("ns-sample-scene", "--output-dir", scene(recipe, name), *options, "--num-train", 50, "--num-val", 2),
            *("--num-test", 4, "--resolution", 144, "--supersample", 4),
            about=20,
        )
        chapters.append(chapter)
    return chapters


def surfaces(recipe: Recipe) -> Chapter:
    """hash-neus-small by day and by evening light, the mesh, and the colors of one run on the other's surface."""
    folder = recipe.folder / "surface"

    def show(page: Page) -> None:
        page.section(
            "surfaces",
            "A mesh from pictures: hash-neus-small",
            "Fifty pictures of the sample scene from known places, with masks of what belongs to it. The method "
            "learns, for each point in space, how far it is from the nearest surface. Where that distance is zero is "
            "the surface, and ns-mesh takes it out as a watertight, colored mesh.",
        )
        found = results_of(pictures)
        views = [panels(file, 2) for file in sorted(pictures.glob("eval_img_*.png"))]
        normals = [pixels(file) for file in sorted(pictures.glob("eval_normals_*.png"))]
        page.grid(
            [[*view, normal] for view, normal in zip(views, normals, strict=True)],
            ("picture held out", "rendering", "normals"),
            "Views that training has not seen. Normals, the directions that the surface faces, are shown as colors.",
            width=240,
        )
        page.film(folder / "turntable.mp4", "The mesh on a turntable: as clay, and in its own colors.", 720)
        distances = json.loads((folder / "mesh.json").read_text())
        extent = MeshPictures(truth, size=300)
        chamfer = 100.0 * distances["chamfer"] / (2.0 * extent.radius)
        page.text(
            f"The scene's true mesh is known: the mean distance between the two is {chamfer:.2f} % of the scene's "
            "diameter, its underside included, which no picture shows."
        )
        page.results["surfaces"] = {"psnr": found["psnr"], "chamfer_percent": chamfer}
        still = MeshPictures(folder / "mesh.ply", size=300).view(30.0)[1]
        page.card(
            "surfaces",
            "A mesh from pictures",
            f"hash-neus-small: {chamfer:.1f} % of the diameter from the truth",
            as_bytes(still),
        )
        page.section(
            "appearance",
            "The same shape in another light: ns-swap-appearance",
            "A second run has learned the same scene from pictures of an evening. ns-swap-appearance lays its colors "
            "onto the surface of the first run: the geometry of the day in the light of the evening.",
        )
        page.film(folder / "orbit.mp4", "The first run: its own colors, and its normals.", 520)
        page.film(folder / "swapped.mp4", "The surface of the first run with the colors of the second.", 520)
        page.card(
            "appearance", "The same shape in another light", "ns-swap-appearance", first_frame(folder / "swapped.mp4")
        )
        page.commands(chapter.timed())

    chapter = Chapter("surfaces", show)
    schedule = ("--pipeline.model.cos-anneal-steps", recipe.steps(700))
    day = recipe.train(
        chapter,
        "hash-neus-small",
        scene(recipe, "day") / "idr",
        *schedule,
        *recipe.limited(2600, "fields", "grids"),
        about=225,
    )
    pictures = recipe.evaluate(chapter, day, about=15)
    mesh = folder / "mesh.ply"
    chapter.run(
        *("ns-mesh", "--load-config", day, "--output-path", mesh, "--resolution", 192, "--world-coordinates"), about=17
    )
    truth = scene(recipe, "day") / "mesh.ply"
    chapter.run("ns-eval-mesh", mesh, truth, "--output-path", folder / "mesh.json", about=4)
    turntable(chapter, mesh, folder / "turntable.mp4", 2 * recipe.frames, about=20)
    evening = recipe.train(
        chapter,
        "hash-neus-small",
        scene(recipe, "evening") / "idr",
        *schedule,
        *recipe.limited(1100, "fields", "grids"),
        about=90,
    )
    orbit = folder / "orbit.json"
    chapter.run(
        *("ns-orbit-path", "--load-config", day, "--output-path", orbit, "--frames", recipe.frames),
        *("--seconds", recipe.frames / 6, "--width", 160, "--height", 160, "--radius-scale", 0.9),
        about=1,
    )
    shown = ("--rendered-output-names", "rgb", "normals")
    chapter.run(
        *("ns-render", "camera-path", "--load-config", day, "--camera-path-filename", orbit),
        *("--output-path", folder / "orbit.mp4", *shown),
        about=35,
    )
    chapter.run(
        *("ns-swap-appearance", "--geometry", day, "--appearance", evening, "--camera-path", orbit),
        *("--output-path", folder / "swapped.mp4", *shown),
        about=75,
    )
    return chapter


def few_views(recipe: Recipe) -> Chapter:
    """depth-hash-small on a few views, without and with depth."""
    number = 8

    def show(page: Page) -> None:
        page.section(
            "depth",
            "A few pictures with depth: depth-hash-small",
            f"{number} pictures are too few to tell where things are: a model can explain each of them by fog in front "
            "of the camera, and other views fall apart. Depth, as phones and depth cameras measure it, tells it where "
            "rays end. Both models below had the same pictures and the same number of steps.",
        )
        rows, results = [], {}
        for name, pictures in runs.items():
            found = results_of(pictures)
            results[name] = {"psnr": found["psnr"], "depth_rmse": found["depth_rmse"]}
        for index in range(3):
            truth, without = panels(runs["without depth"] / f"eval_img_{index:04d}.png", 2)
            with_depth = panels(runs["with depth"] / f"eval_img_{index:04d}.png", 2)[1]
            depths = [pixels(runs[name] / f"eval_depth_{index:04d}.png") for name in runs]
            rows.append([truth, without, with_depth, *(depth[:, -truth.shape[1] :] for depth in depths)])
        names = ("picture held out", "without depth", "with depth", "depth, without", "depth, with")
        page.grid(rows, names, "Views that training has not seen. Depth from near (blue) to far (red).", width=190)
        page.table(
            ("", "PSNR, dB (higher is better)", "error of depth (RMSE, scene units)"),
            [(name, f"{found['psnr']:.1f}", f"{found['depth_rmse']:.2f}") for name, found in results.items()],
        )
        page.results["few-views"] = {f"{key} {name}": value for name, r in results.items() for key, value in r.items()}
        gain = results["with depth"]["psnr"] - results["without depth"]["psnr"]
        page.card("depth", "A few pictures with depth", f"depth-hash-small, {number} views: {gain:+.1f} dB", rows[0][2])
        page.commands(chapter.timed())

    chapter = Chapter("few-views", show)
    runs: dict[str, Path] = {}
    for name, loss in (("without depth", ("--pipeline.model.depth-loss", "none")), ("with depth", ())):
        config = recipe.train(
            chapter,
            "depth-hash-small",
            scene(recipe, "landscape") / "nerfstudio",
            *recipe.limited(700, "fields", "grids"),
            *loss,
            *NO_NORMALS,
            parser=("rgbd-data", "--num-views", number),
            about=65,
        )
        runs[name] = recipe.evaluate(chapter, config, about=11)
    return chapter


def outdoors(recipe: Recipe) -> Chapter:
    """mip-nerf-360-small on the unbounded scene, with a flight between its test views."""
    folder = recipe.folder / "outdoors"

    def show(page: Page) -> None:
        page.section(
            "outdoors",
            "Without bounds: mip-nerf-360-small",
            "Outdoors, pictures see from centimeters to the horizon. mip-NeRF 360 bends space, so that everything far "
            "away fits into a ball, and uses a small network to find where along a ray there is anything at all.",
        )
        found = results_of(pictures)
        rows = []
        for file in sorted(pictures.glob("eval_img_*.png"))[:3]:
            depth = panels(pictures / file.name.replace("img", "depth"), 3)[-1]
            rows.append([*panels(file, 2), depth])
        page.grid(rows, ("picture held out", "rendering", "depth"), "Views that training has not seen.", width=260)
        page.film(folder / "flight.mp4", "A flight from one held-out view to the next: color and depth.", 560)
        page.text(f"PSNR of the held-out views: {found['psnr']:.1f} dB.")
        page.results["outdoors"] = {"psnr": found["psnr"], "ssim": found["ssim"]}
        page.card("outdoors", "Without bounds", f"mip-nerf-360-small: {found['psnr']:.1f} dB", rows[0][1])
        page.commands(chapter.timed())

    chapter = Chapter("outdoors", show)
    config = recipe.train(
        chapter,
        "mip-nerf-360-small",
        scene(recipe, "landscape") / "nerfstudio",
        *recipe.limited(450, "fields"),
        *NO_NORMALS,
        about=185,
    )
    pictures = recipe.evaluate(chapter, config, about=40)
    chapter.run(
        *("ns-render", "interpolate", "--load-config", config, "--output-path", folder / "flight.mp4"),
        *("--rendered-output-names", "rgb", "depth", "--interpolation-steps", max(2, recipe.frames // 4)),
        *("--frame-rate", 12),
        about=85,
    )
    return chapter


def scales(recipe: Recipe) -> Chapter:
    """mip-nerf-small trained and tested at four scales."""
    folder = recipe.folder / "scales"

    def show(page: Page) -> None:
        page.section(
            "scales",
            "Near and far at once: mip-nerf-small",
            "A pixel of a small picture sees more of the world than a pixel of a large one. mip-NeRF casts a cone for "
            "each pixel, and leaves out detail that is finer than the cone. One model serves all sizes.",
        )
        found = results_of(pictures)
        by_width: dict[int, Path] = {}
        for file in sorted(pictures.glob("eval_img_*.png")):
            by_width.setdefault(pixels(file).shape[1] // 3, file)
        widths = sorted(by_width, reverse=True)
        chosen = [panels(by_width[width], 3) for width in widths]
        page.grid(
            [[panel[0] for panel in chosen], [panel[2] for panel in chosen]],
            [f"{width} x {width} pixels" for width in widths],
            "The same model at four sizes, enlarged to one.",
            sides=("held out", "rendering"),
            width=210,
            sharp=True,
        )
        names = {"psnr_1x": "full size", "psnr_2x": "half", "psnr_4x": "quarter", "psnr_8x": "eighth"}
        page.table(("size", "PSNR, dB"), [(label, f"{found[name]:.1f}") for name, label in names.items()])
        page.results["scales"] = {name: found[name] for name in names}
        page.card(
            "scales", "Near and far at once", f"mip-nerf-small: {found['psnr']:.1f} dB over four sizes", chosen[0][2]
        )
        page.commands(chapter.timed())

    chapter = Chapter("scales", show)
    chapter.run("ns-multiscale-blender", scene(recipe, "day") / "blender", folder / "multiscale", about=2)
    config = recipe.train(
        chapter,
        "mip-nerf-small",
        folder / "multiscale",
        *recipe.limited(800, "fields"),
        *("--pipeline.model.num-coarse-samples", 32, "--pipeline.model.num-importance-samples", 32),
        *NO_NORMALS,
        parser=("multiscale-blender-data",),
        about=145,
    )
    pictures = recipe.evaluate(chapter, config, about=20)
    return chapter


def photograph(recipe: Recipe) -> Chapter:
    """miner-image on a photograph that scikit-image ships, with a zoom into it."""
    folder = recipe.folder / "photograph"

    def show(page: Page) -> None:
        page.section(
            "photograph",
            "An image as thousands of tiny networks: miner-image",
            "MINER cuts an image into blocks at several scales. From coarse to fine, a block gets a network of its own "
            "only where the coarser ones are not good enough. Images of any size fit, and training ends by itself.",
        )
        found = results_of(pictures)
        decoded = folder / "decoded.png"
        blocks = sorted(pictures.glob("eval_blocks_*.png"))
        page.grid(
            [[folder / "astronaut.png", decoded, *blocks[:2]]],
            ("image", "decoded from networks", "blocks, finest scale", "blocks, next scale"),
            "Frames show which blocks have a network at a scale: none where the scale above is good enough.",
            width=245,
        )
        seconds = next(chapter.seconds[step] for step in chapter.steps if step.words[0] == "ns-train")
        page.text(
            f"{found['psnr']:.1f} dB with {found['num_params']:,.0f} parameters; the training command took "
            f"{seconds:.0f} seconds, loading included."
        )
        page.film(folder / "zoom.mp4", "A zoom into the fitted image: it may be asked at any place and any size.", 420)
        page.results["photograph"] = {"psnr": found["psnr"], "num_params": found["num_params"]}
        page.card("photograph", "An image as tiny networks", f"miner-image: {found['psnr']:.1f} dB", decoded)
        page.commands(chapter.timed())

    chapter = Chapter("photograph", show)
    image = folder / "astronaut.png"
    config = recipe.train(chapter, "miner-image", image, about=15)
    pictures = recipe.evaluate(chapter, config, about=8)
    chapter.run("ns-miner-decode", "--load-config", config, "--output-path", folder / "decoded.png", about=5)
    path = folder / "zoom.json"
    chapter.run(
        *("ns-zoom-path", "--load-config", config, "--target", 110, 225, "--zoom-factor", 12, "--seconds", 4),
        *("--fps", recipe.frames / 4, "--resolution", 384, 384, "--output-path", path),
        about=5,
    )
    chapter.run(
        *("ns-render", "camera-path", "--load-config", config, "--camera-path-filename", path),
        *("--output-path", folder / "zoom.mp4"),
        about=20,
    )
    return chapter


def volume(recipe: Recipe) -> Chapter:
    """miner-occupancy on the sample scene's mesh."""
    folder = recipe.folder / "volume"

    def show(page: Page) -> None:
        page.section(
            "volume",
            "A shape as tiny networks: miner-occupancy",
            "The same blocks in three dimensions: how much of each voxel is inside of a mesh? Empty space and solid "
            "inside need no network; only blocks at the surface do.",
        )
        found = results_of(pictures)
        truth, fitted = (
            MeshPictures(file, size=300) for file in (scene(recipe, "day") / "mesh.ply", folder / "mesh.ply")
        )
        rows = [[as_bytes(mesh.view(30.0)[0]) for mesh in (truth, fitted)]]
        page.grid(rows, ("mesh that was voxelised", "mesh from the networks"), "Both as clay.", width=380)
        page.text(
            f"{100 * found['iou']:.2f} % of what is inside of either is inside of both (IoU), with "
            f"{found['num_params']:,.0f} parameters."
        )
        page.results["volume"] = {"iou": found["iou"], "num_params": found["num_params"]}
        page.card("volume", "A shape as tiny networks", f"miner-occupancy: IoU {found['iou']:.4f}", rows[0][1])
        page.commands(chapter.timed())

    chapter = Chapter("volume", show)
    config = recipe.train(
        chapter,
        "miner-occupancy",
        scene(recipe, "day") / "mesh.ply",
        parser=("miner-occupancy-data", "--resolution", 224, "--fractions", True, "--subvoxel", 4),
        about=25,
    )
    pictures = recipe.evaluate(chapter, config, about=8)
    chapter.run("ns-mesh", "--load-config", config, "--output-path", folder / "mesh.ply", "--resolution", 224, about=10)
    return chapter


def first_frame(film: Path) -> np.ndarray:
    """The first frame [h, w, 3] of a film, in bytes."""
    import imageio_ffmpeg

    frames = imageio_ffmpeg.read_frames(str(film))
    width, height = next(frames)["size"]
    return np.frombuffer(next(frames), dtype=np.uint8).reshape(height, width, 3)


CHAPTERS = {
    "surfaces": surfaces,
    "few-views": few_views,
    "outdoors": outdoors,
    "scales": scales,
    "photograph": photograph,
    "volume": volume,
}
"""In the order of the page."""
