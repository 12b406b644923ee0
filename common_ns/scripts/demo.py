"""`make demo`: train on the embedded sample scene with the ns-* commands, and show the results on one page.

Nothing here is special to the demo: it runs the same command lines that a user would type, prints them, and writes
them on the page. It needs no GPU, no network and no data.
"""

from __future__ import annotations

import html
import json
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro

from common_ns.checks import InputError, report_input_errors


@dataclass
class Demo:
    """Train every family on the sample scene; leave pictures, videos and meshes in one HTML page."""

    output_dir: Path = Path("outputs/demo")
    """Folder of the page; what an earlier demo left there is replaced."""
    steps: int = 800
    """Training steps of mip-nerf-small."""
    steps_360: int = 600
    """Training steps of mip-nerf-360-small."""
    views: int = 60
    """Training views of the sample scene."""
    resolution: int = 100
    """Side of the training views in pixels."""
    frames: int = 24
    """Frames of the orbit video."""
    mesh_resolution: int = 128
    """Voxels along the longest side of the mesh's box."""

    def main(self) -> None:
        """Run all steps; ends with the page's path."""
        start = time.perf_counter()
        self.output_dir = self.output_dir.absolute()
        if self.output_dir.exists():
            if any(self.output_dir.iterdir()) and not (self.output_dir / "demo.json").exists():
                raise InputError(
                    "the folder holds files that no demo made", "Choose another --output-dir", self.output_dir
                )
            shutil.rmtree(self.output_dir)
        self.output_dir.mkdir(parents=True)
        (self.output_dir / "demo.json").write_text("{}\n")
        page = Page(self.output_dir)
        self.mipnerf(page, self.scene(page))
        self.mipnerf360(page, self.landscape(page))
        self.miner(page)
        minutes = (time.perf_counter() - start) / 60
        (self.output_dir / "demo.json").write_text(
            json.dumps({"minutes": round(minutes, 2), "runs": page.results}) + "\n"
        )
        page.write(minutes)
        print(f"\nDone in {minutes:.1f} minutes. Open {self.output_dir / 'index.html'}")

    def scene(self, page: Page) -> Path:
        """Ray-trace the sample scene and draw its cameras."""
        folder = self.output_dir / "scene"
        page.section("The sample scene", "Ray-traced with exact colour, depth, normals, masks and a mesh.")
        page.run("ns-sample-scene", "--output-dir", folder, "--layouts", "blender", "--num-train", self.views,
                 "--num-val", 4, "--num-test", 8, "--resolution", self.resolution)  # fmt: skip
        data = folder / "blender"
        page.run("ns-show-poses", "--data", data, "--output-path", self.output_dir / "poses.png")
        page.pictures(sorted((data / "test").glob("*.png"))[:4], "test views")
        page.pictures([self.output_dir / "poses.png"], "all cameras, as ns-show-poses draws them")
        return data

    def landscape(self, page: Page) -> Path:
        """Ray-trace the sample scene's unbounded form."""
        folder = self.output_dir / "landscape"
        page.section("The same in a landscape", "It reaches 20 scene units in all directions; cameras are inside.")
        page.run("ns-sample-scene", "--output-dir", folder, "--layouts", "nerfstudio", "--unbounded", "--num-train",
                 self.views, "--num-val", 2, "--num-test", 6, "--resolution", self.resolution)  # fmt: skip
        data = folder / "nerfstudio"
        page.pictures(sorted((data / "images").glob("test_*.png"))[:4], "test views")
        return data

    def mipnerf(self, page: Page, data: Path) -> None:
        """mip-nerf-small: train, evaluate, video along the orbit, mesh."""
        page.section("mip-nerf-small", "Cone tracing with integrated positional encoding, sized for two CPU cores.")
        config, pictures = self.train(page, "mip-nerf-small", data, self.steps)
        for name, caption in (
            ("img", "truth, coarse level, fine level"),
            ("depth", "depth of both levels"),
            ("normals", "normals"),
        ):
            page.pictures(sorted(pictures.glob(f"eval_{name}_*.png"))[:2], caption)
        orbit = config.parent / "orbit.json"
        page.run("ns-orbit-path", "--load-config", config, "--output-path", orbit, "--frames", self.frames,
                 "--seconds", self.frames / 12)  # fmt: skip
        page.run("ns-render", "camera-path", "--load-config", config, "--camera-path-filename", orbit, "--output-path",
                 pictures / "orbit.mp4", "--rendered-output-names", "rgb", "normals")  # fmt: skip
        page.video(pictures / "orbit.mp4", "the orbit: colour and normals")
        mesh = pictures / "mesh.ply"
        page.run("ns-mesh", "--load-config", config, "--output-path", mesh, "--resolution", self.mesh_resolution)
        draw_mesh(mesh, pictures / "mesh.png")
        page.pictures([pictures / "mesh.png"], "the mesh, from two sides")
        page.link(mesh, "mesh.ply")

    def mipnerf360(self, page: Page, data: Path) -> None:
        """mip-nerf-360-small: train, evaluate, video between the test views."""
        page.section("mip-nerf-360-small", "Proposal sampling in contracted space, sized for two CPU cores.")
        config, pictures = self.train(page, "mip-nerf-360-small", data, self.steps_360)
        for name, caption in (
            ("img", "truth and rendering"),
            ("depth", "depth of both proposal rounds and of the last round"),
            ("normals", "normals"),
        ):
            page.pictures(sorted(pictures.glob(f"eval_{name}_*.png"))[:2], caption)
        page.run("ns-render", "interpolate", "--load-config", config, "--output-path", pictures / "views.mp4",
                 "--rendered-output-names", "rgb", "depth", "--interpolation-steps", 4, "--frame-rate", 12)  # fmt: skip
        page.video(pictures / "views.mp4", "from test view to test view: colour and depth")

    def miner(self, page: Page) -> None:
        """miner-image on a photograph, miner-occupancy on the sample scene's mesh."""
        from PIL import Image
        from skimage import data

        page.section("miner-image", "Blocks of tiny networks at several scales, trained until each is good enough.")
        photo = self.output_dir / "astronaut.png"
        Image.fromarray(data.astronaut()).save(photo)
        config = self.fit(page, "miner-image", photo)
        pictures = self.output_dir / "miner-image"
        page.run("ns-eval", "--load-config", config, "--output-path", pictures / "eval.json", "--render-output-path",
                 pictures)  # fmt: skip
        results = json.loads((pictures / "eval.json").read_text())["results"]
        page.results["miner-image"] = {"psnr": round(results["psnr"], 2), "num_params": results["num_params"]}
        page.text(f"The whole image: PSNR {results['psnr']:.2f} dB with {results['num_params']:,.0f} parameters.")
        page.run("ns-miner-decode", "--load-config", config, "--output-path", pictures / "decoded.png")
        page.pictures([pictures / "decoded.png", *sorted(pictures.glob("eval_blocks_*.png"))], "decoded; its blocks")

        page.section("miner-occupancy", "The sample scene's mesh as a volume, and the mesh that comes out again.")
        mesh = self.output_dir / "scene" / "mesh.ply"
        config = self.fit(page, "miner-occupancy", mesh, "miner-occupancy-data", "--resolution", 96)
        found = self.output_dir / "miner-occupancy.ply"
        page.run("ns-mesh", "--load-config", config, "--output-path", found, "--resolution", 96)
        draw_mesh(found, self.output_dir / "miner-occupancy.png")
        page.pictures([self.output_dir / "miner-occupancy.png"], "the mesh, from two sides")

    def fit(self, page: Page, method: str, data: Path, *parser: object) -> Path:
        """Train a method that ends by itself; returns the run's config."""
        runs = self.output_dir / "runs"
        page.run("ns-train", method, "--data", data, "--output-dir", runs, "--experiment-name", "sample",
                 "--timestamp", "demo", "--vis", "tensorboard", *parser)  # fmt: skip
        return runs / "sample" / method / "demo" / "config.yml"

    def train(self, page: Page, method: str, data: Path, steps: int) -> tuple[Path, Path]:
        """Train a method and evaluate it; returns the run's config and the folder of its pictures."""
        runs = self.output_dir / "runs"
        page.run("ns-train", method, "--data", data, "--output-dir", runs, "--experiment-name", "sample",
                 "--timestamp", "demo", "--vis", "tensorboard", "--max-num-iterations", steps,
                 "--optimizers.fields.scheduler.max-steps", steps)  # fmt: skip
        config = runs / "sample" / method / "demo" / "config.yml"
        pictures = self.output_dir / method
        page.run("ns-eval", "--load-config", config, "--output-path", pictures / "eval.json", "--render-output-path",
                 pictures)  # fmt: skip
        results = json.loads((pictures / "eval.json").read_text())["results"]
        page.results[method] = {"psnr": round(results["psnr"], 2), "ssim": round(results["ssim"], 3)}
        page.text(f"Test views: PSNR {results['psnr']:.2f} dB, SSIM {results['ssim']:.3f}.")
        return config, pictures


class Page:
    """Collects what was run and made, and writes it as HTML.

    Args:
        folder: where the page and everything it shows lie.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.parts: list[str] = []
        self.results: dict[str, dict[str, float]] = {}

    def section(self, title: str, text: str) -> None:
        self.parts.append(f"<h2>{html.escape(title)}</h2><p>{html.escape(text)}</p>")

    def text(self, text: str) -> None:
        self.parts.append(f"<p><b>{html.escape(text)}</b></p>")

    def run(self, *arguments: object) -> None:
        """Run a command of this environment, with its output in the folder's log; stop the demo if it fails."""
        words = [str(argument) for argument in arguments]
        line = " ".join(self._relative(word) for word in words)
        print(f"$ {line}", flush=True)
        start = time.perf_counter()
        with open(self.folder / "demo.log", "a", encoding="utf-8") as log:
            log.write(f"\n$ {line}\n")
            log.flush()
            command = [str(Path(sys.executable).parent / words[0]), *words[1:]]
            code = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, check=False).returncode
        if code != 0:
            raise InputError(f"{words[0]} ended with code {code}", "Read the end of the log", self.folder / "demo.log")
        seconds = time.perf_counter() - start
        print(f"  {seconds:.0f} s", flush=True)
        self.parts.append(f"<pre>$ {html.escape(line)}   <i>{seconds:.0f} s</i></pre>")

    def _relative(self, word: str) -> str:
        path = Path(word)
        inside = path.is_absolute() and path.is_relative_to(Path.cwd())
        return str(path.relative_to(Path.cwd())) if inside else word

    def _source(self, file: Path) -> str:
        return html.escape(str(file.relative_to(self.folder)))

    def pictures(self, files: list[Path], caption: str) -> None:
        if not files:
            raise InputError(f"there are no pictures of {caption}", "Read the log", self.folder / "demo.log")
        images = "".join(f'<img src="{self._source(file)}" alt="{html.escape(caption)}">' for file in files)
        self.parts.append(f"<figure>{images}<figcaption>{html.escape(caption)}</figcaption></figure>")

    def video(self, file: Path, caption: str) -> None:
        tag = f'<video src="{self._source(file)}" controls loop autoplay muted></video>'
        self.parts.append(f"<figure>{tag}<figcaption>{html.escape(caption)}</figcaption></figure>")

    def link(self, file: Path, name: str) -> None:
        size = file.stat().st_size / 2**20
        self.parts.append(f'<p><a href="{self._source(file)}">{html.escape(name)}</a> ({size:.1f} MB)</p>')

    def write(self, minutes: float) -> None:
        style = (
            "body{font:16px sans-serif;max-width:1000px;margin:2em auto;padding:0 1em;background:#fafafa}"
            "img,video{height:220px;margin:2px;background:#fff;image-rendering:auto}figure{margin:1em 0}"
            "figcaption{color:#555}pre{background:#eee;padding:.6em;overflow:auto;font-size:12px}"
        )
        body = "\n".join(self.parts)
        (self.folder / "index.html").write_text(
            f'<!doctype html><html lang="en"><meta charset="utf-8"><title>fieldsuite demo</title><style>{style}</style>'
            f"<h1>fieldsuite demo</h1><p>Made in {minutes:.1f} minutes by <code>make demo</code>.</p>{body}</html>\n",
            encoding="utf-8",
        )


def draw_mesh(file: Path, picture: Path, size: int = 440) -> None:
    """Draw a coloured mesh from two opposite sides, shaded by its normals (open3d's CPU ray caster).

    Args:
        file: a mesh with vertex colours.
        picture: PNG to write, twice as wide as high.
        size: height in pixels.
    """
    import open3d as o3d
    from PIL import Image

    mesh = o3d.io.read_triangle_mesh(str(file))
    mesh.compute_triangle_normals()
    colors = np.asarray(mesh.vertex_colors)
    triangles = np.asarray(mesh.triangles)
    caster = o3d.t.geometry.RaycastingScene()
    caster.add_triangles(o3d.t.geometry.TriangleMesh.from_legacy(mesh))
    center = mesh.get_axis_aligned_bounding_box().get_center()
    radius = 0.5 * float(np.linalg.norm(mesh.get_axis_aligned_bounding_box().get_extent()))
    views = []
    for side in (1.0, -1.0):
        eye = center + radius * side * np.array([1.7, 1.3, 1.1 * side])
        # open3d's pixel rows and columns run against the given up vector: turned round, up is up.
        rays = caster.create_rays_pinhole(45.0, center, eye, [0, 0, -1], size, size)
        hit = caster.cast_rays(rays)
        face = hit["primitive_ids"].numpy().astype(np.int64)
        found = hit["t_hit"].numpy() < np.inf
        image = np.ones((size, size, 3))
        corners = colors[triangles[face[found]]].mean(1) if len(colors) else np.full((int(found.sum()), 3), 0.7)
        light = np.abs((hit["primitive_normals"].numpy()[found] * np.array([0.4, 0.3, 0.86])).sum(-1))
        image[found] = corners * (0.45 + 0.55 * light)[:, None]
        views.append(image)
    Image.fromarray((np.concatenate(views, axis=1) * 255).clip(0, 255).astype(np.uint8)).save(picture)


def entrypoint() -> None:
    """Run the demo from the command line."""
    report_input_errors()
    tyro.cli(Demo, description=Demo.__doc__).main()


if __name__ == "__main__":
    entrypoint()
