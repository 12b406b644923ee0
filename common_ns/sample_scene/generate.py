"""A small ray-traced scene that every family can be tried on: exact pictures, depth, normals, masks and mesh.

`ns-sample-scene --output-dir data/sample` writes, from one seed and without any download:

    blender/      transforms_{train,val,test}.json, RGBA pictures                (near 2, far 6, box ±1.5)
    nerfstudio/   transforms.json, images over white, 16-bit z-depth, and by option masks, normals, monocular depth
    idr/          image/ over black, mask/, cameras_sphere.npz, splits.json      (the layout of IDR and NeuS)
    mesh.ply      the objects
    scene.json    how it was made

All layouts show the same views in the same world: z up, scene units, the objects within 1.25 of the origin. In Python,
`Scene` answers queries (first hits, signed distance, surface points) and renders any `Camera`.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from common_ns.cores import available_cores
from common_ns.data.files import require_writable, written_whole
from common_ns.errors import InputError
from common_ns.nerfstudio_seam.last_words import report_input_errors
from common_ns.sample_scene.cameras import Camera, look_at, split_cameras
from common_ns.sample_scene.lights import LIGHTS, LightName
from common_ns.sample_scene.rendering import View
from common_ns.sample_scene.scene import Hits, Scene
from common_ns.sample_scene.sensors import mono_depth, mono_scale_shift, sensor_depth
from common_ns.sample_scene.writers import (
    BlenderWriter,
    Extras,
    IdrWriter,
    NerfstudioWriter,
    Shot,
    Writer,
    write_json,
)

__all__ = ["Camera", "Hits", "SampleSceneConfig", "Scene", "View", "entrypoint", "look_at", "write_sample_scene"]

# What the command writes into its output folder, and what --overwrite may remove from it.
_OWN = ("blender", "nerfstudio", "idr", "mesh.ply", "scene.json")
_GENERATOR = "ns-sample-scene"


@dataclass
class SampleSceneConfig:
    """Write the sample scene: one world, the same views in each of the layouts."""

    output_dir: Path
    """Folder to write to; it is made if need be."""
    layouts: tuple[Literal["blender", "nerfstudio", "idr"], ...] = ("blender", "nerfstudio", "idr")
    """Layouts to write, each into a folder of its name."""
    num_train: int = 70
    """Training views. Any first few of them are spread well, for few-view subsets."""
    num_val: int = 10
    """Validation views, placed like the training views."""
    num_test: int = 20
    """Test views, on an orbit that the training views do not follow."""
    resolution: int = 200
    """Width and height of the pictures in pixels."""
    seed: int = 0
    """Decides textures, cameras and noise, and how some of the objects are turned. Same seed, same bytes."""
    unbounded: bool = False
    """Put the objects into a landscape that reaches 20 scene units in all directions. Pictures are then opaque; masks
    and mesh are still those of the objects."""
    lights: LightName = "day"
    """`evening` shows the same objects in the light of a low sun: for colors of one run on the surface of another."""
    supersample: Literal[1, 2, 4, 8, 16] = 8
    """Root of the number of sub-samples, where a pixel is not constant."""
    depth_noise: float = 0.0
    """Standard deviation of the depth sensor's noise in scene units. Training views only: the depth of validation and
    test views is exact."""
    depth_holes: float = 0.0
    """Share of valid pixels, in [0, 1), that the depth sensor loses, in blobs. Training views only."""
    mono_depth: bool = False
    """Also write depth as a monocular predictor gives it, with another scale and shift in each picture, as
    `mono_depth_file_path` of the nerfstudio layout. scene.json tells scale and shift."""
    masks: bool = False
    """Add the objects' masks as `mask_path` to the nerfstudio layout. nerfstudio then trains on the objects' pixels
    only. The IDR layout always has masks."""
    normals: bool = False
    """Add world-space normals as `normal_file_path` to the nerfstudio layout."""
    overwrite: bool = False
    """Replace a scene that this command wrote into the folder before. Other files in the folder are left alone."""


def write_sample_scene(config: SampleSceneConfig, progress: bool = False) -> Path:
    """Render the sample scene and write the layouts that `config` asks for.

    Args:
        config: what to write, and where to.
        progress: show a progress bar.
    Returns: the output folder.
    Raises: InputError if the configuration makes no sense or the folder cannot be written.
    """
    _check(config)
    try:
        require_writable(config.output_dir, "--output-dir", folder=True)
        _clear(config)
        _write(config, progress)
    except OSError as error:
        reason = f"cannot be written: {error.strerror or error}"
        raise InputError(
            reason, "Free the space or the permission, or choose another --output-dir", config.output_dir
        ) from error
    return config.output_dir


def _check(config: SampleSceneConfig) -> None:
    """Refuse values that make no sense."""

    def option(name: str) -> str:
        return "--" + name.replace("_", "-")

    known = ("blender", "nerfstudio", "idr")
    if not config.layouts or not set(config.layouts) <= set(known):
        raise InputError(f"--layouts is {list(config.layouts)}", f"Name at least one of {', '.join(known)}")
    for name, low, high in (
        ("num_train", 1, 100_000),
        ("num_val", 1, 100_000),
        ("num_test", 1, 100_000),
        ("resolution", 2, 2048),
        ("seed", 0, 2**63),
    ):
        value = getattr(config, name)
        if not low <= value <= high:
            raise InputError(f"{option(name)} is {value}", f"Choose a number from {low} to {high}")
    if config.lights not in LIGHTS:
        raise InputError(f"--lights is {config.lights!r}", f"Choose one of {', '.join(LIGHTS)}")
    if config.supersample not in (1, 2, 4, 8, 16):
        raise InputError(f"--supersample is {config.supersample}", "Choose 1, 2, 4, 8 or 16")
    if not 0.0 <= config.depth_noise < np.inf:
        raise InputError(f"--depth-noise is {config.depth_noise}", "Choose a distance in scene units, 0 or more")
    if not 0.0 <= config.depth_holes < 1.0:
        raise InputError(f"--depth-holes is {config.depth_holes}", "Choose a share from 0 up to, but without, 1")
    if "nerfstudio" not in config.layouts:
        for name in ("depth_noise", "depth_holes", "mono_depth", "masks", "normals"):
            if getattr(config, name):
                raise InputError(
                    f"{option(name)} is about files of the nerfstudio layout, which --layouts leaves out",
                    f"Add nerfstudio to --layouts, or drop {option(name)}",
                )


def _clear(config: SampleSceneConfig) -> None:
    """Make the output folder, and take an earlier scene out of it if `config` allows."""
    folder = config.output_dir
    if folder.exists() and not folder.is_dir():
        raise InputError("is a file", "Name a folder as --output-dir", folder)
    folder.mkdir(parents=True, exist_ok=True)
    if not any(folder.iterdir()):
        return
    if not config.overwrite:
        raise InputError(
            "the folder is not empty", "Choose another --output-dir, or replace a scene with --overwrite", folder
        )
    present = [folder / name for name in _OWN if (folder / name).exists()]
    marker = folder / "scene.json"
    if present and not (marker.is_file() and _GENERATOR in marker.read_text(encoding="utf-8", errors="replace")):
        names = ", ".join(path.name for path in present)
        raise InputError(
            f"the folder holds {names}, and no scene.json says that {_GENERATOR} wrote it",
            "Choose another --output-dir, or move it away yourself",
            folder,
        )
    for path in present:
        # The marker goes last: an interrupted removal can be taken up again.
        if path != marker:
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def _write(config: SampleSceneConfig, progress: bool) -> None:
    """Render and write everything into the cleared folder."""
    counts = {"train": config.num_train, "val": config.num_val, "test": config.num_test}
    cameras = split_cameras(counts, config.resolution, config.seed, config.unbounded)
    views = [(split, index, camera) for split, some in cameras.items() for index, camera in enumerate(some)]
    shots = [Shot(split, index, number, camera) for number, (split, index, camera) in enumerate(views)]

    record: dict[str, Any] = {"generator": _GENERATOR, "complete": False}
    write_json(config.output_dir / "scene.json", record)
    scene = Scene(config.seed, config.unbounded, config.lights)
    mesh = scene.mesh()
    ply: Any = mesh.export(file_type="ply", vertex_normal=False)
    with written_whole(config.output_dir / "mesh.ply") as partial:
        partial.write_bytes(ply)
    center = mesh.bounds.mean(axis=0)
    # A margin, so that the unit sphere of the IDR layout does not touch the objects.
    radius = 1.05 * float(np.linalg.norm(mesh.vertices - center, axis=1).max())

    writers: list[Writer] = []
    if "blender" in config.layouts:
        writers.append(BlenderWriter(config.output_dir / "blender", shots))
    if "nerfstudio" in config.layouts:
        folder = config.output_dir / "nerfstudio"
        writers.append(NerfstudioWriter(folder, shots, config.mono_depth, config.masks, config.normals))
    if "idr" in config.layouts:
        writers.append(IdrWriter(config.output_dir / "idr", shots, center, radius))

    # Each view has its own random numbers: neither threads nor the number of views change them.
    mono = {
        f"{shot.name}.png": mono_scale_shift(np.random.default_rng([config.seed, 5, shot.number])) for shot in shots
    }

    def shoot(shot: Shot) -> None:
        view = scene.render(shot.camera, config.supersample)
        depth = view.depth
        if shot.split == "train" and (config.depth_noise or config.depth_holes):
            rng = np.random.default_rng([config.seed, 6, shot.number])
            depth = sensor_depth(depth, config.depth_noise, config.depth_holes, rng)
        predicted = mono_depth(view.depth, *mono[f"{shot.name}.png"]) if config.mono_depth else None
        for writer in writers:
            writer.add(shot, view, Extras(depth, predicted))

    for _ in _in_threads(shoot, shots, progress):
        pass
    for writer in writers:
        writer.finish()

    options = {key: value for key, value in asdict(config).items() if key not in ("output_dir", "overwrite")}
    record["options"] = {**options, "layouts": list(config.layouts)}
    record["world"] = "z up; cameras in OpenGL axes (look along -z, y up); lengths in scene units"
    record["object_sphere"] = {"center": center.tolist(), "radius": radius}
    record["depth"] = "z-depth of the ray through the pixel's center; 16-bit steps of 1e-3 scene units; 0 is no value"
    if config.mono_depth:
        record["mono_depth"] = {
            "meaning": "file: [scale, shift]; value = scale * z-depth + shift, stored like depth",
            **{name: list(pair) for name, pair in mono.items()},
        }
    record["complete"] = True
    write_json(config.output_dir / "scene.json", record)


def _in_threads(shoot: Any, shots: list[Shot], progress: bool) -> Iterator[None]:
    """Run `shoot` for all shots, one thread per core (numpy works outside of the interpreter lock)."""
    from rich.progress import track

    with ThreadPoolExecutor(max_workers=available_cores()) as pool:
        done = pool.map(shoot, shots)
        yield from track(done, description="Rendering", total=len(shots), disable=not progress)


def entrypoint() -> None:
    """Console command ns-sample-scene."""
    report_input_errors()
    import tyro

    config = tyro.cli(SampleSceneConfig, description="Write a small ray-traced scene in the layouts of data parsers.")
    folder = write_sample_scene(config, progress=True)
    print("Wrote " + ", ".join(str(folder / name) for name in (*config.layouts, "mesh.ply", "scene.json")))


if __name__ == "__main__":
    entrypoint()
