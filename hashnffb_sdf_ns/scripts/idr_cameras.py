"""`ns-idr-cameras`: the sphere that holds the object, written into the cameras of a data set.

ns-idr-cameras DATA                                       say how the scene lies in its unit sphere
ns-idr-cameras DATA --output-path DATA/cameras_sphere.npz
ns-idr-cameras DATA/transforms.json --output-path DATA/transforms_sphere.json
"""

from __future__ import annotations

import inspect
import json
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import tyro
from jaxtyping import Float
from numpy.typing import NDArray

from common_ns.data.checks import require_path
from common_ns.data.files import require_writable, written_whole
from common_ns.errors import InputError
from common_ns.nerfstudio_seam.last_words import report_input_errors
from hashnffb_sdf_ns.dataparser import cameras_of, with_masks
from hashnffb_sdf_ns.idr_data.cameras import Similarity, read_camera_file
from hashnffb_sdf_ns.idr_data.downscaled import image_sizes
from hashnffb_sdf_ns.idr_data.layout import find_camera_file, find_files
from hashnffb_sdf_ns.object_sphere.normalization import MARGIN, SOURCE_NAMES, Extent, diagnose
from hashnffb_sdf_ns.object_sphere.scene_sources import extent_of_capture
from hashnffb_sdf_ns.object_sphere.transforms_json import PLAIN_OPTIONS, TransformsCapture


@dataclass
class IdrCamerasCommand:
    """Find the sphere that holds the object, and write it into the cameras of a data set.

    It is that of the visual hull where there are masks, else of the SfM points, else of what the cameras look at.
    """

    data: Annotated[Path, tyro.conf.Positional]
    """Folder in the IDR or NeuS layout (scale_mat may be missing), or a nerfstudio transforms.json or its folder."""
    output_path: Path | None = None
    """File to write: .npz for the IDR layout, .json for a transforms.json. Default: only say what was found."""
    source: Literal["auto", "masks", "points", "cameras"] = "auto"
    """What to find the sphere from."""
    margin: float = MARGIN
    """Radius of the sphere relative to what it holds."""
    cameras_file: Path | None = None
    """Another .npz file with world_mat; a relative path starts at the data folder."""
    perturb_rotation: float = 0.0
    """Also turn each camera about a random axis by this many degrees, to try the refinement of cameras."""
    perturb_translation: float = 0.0
    """Also shift each camera in a random direction, by this share of its distance from the object."""
    seed: int = 0
    """Of the perturbation."""
    overwrite: bool = False
    """Replace the output file if there is one."""

    def check(self) -> None:
        """Raises: InputError about options that cannot work."""
        if not 1.0 <= self.margin < 100.0:
            raise InputError(f"--margin is {self.margin}", "Give a factor of 1 or a little more")
        if self.perturb_rotation < 0 or self.perturb_translation < 0:
            raise InputError("a perturbation is below 0", "Give degrees and a share of 0 or more")
        if self.output_path is not None:
            require_writable(self.output_path)
        if self.output_path is not None and self.output_path.exists() and not self.overwrite:
            raise InputError("the file exists", "Choose another --output-path, or add --overwrite", self.output_path)

    def main(self) -> Similarity:
        """Find the sphere, print what was found, write the file, and return the sphere."""
        self.check()
        data = require_path(self.data)
        file = data if data.suffix == ".json" else data / "transforms.json"
        return self._transforms(file) if file.is_file() else self._idr(data)

    def _idr(self, data: Path) -> Similarity:
        """The IDR or NeuS layout."""
        self._check_suffix(".npz")
        files = find_files(data)
        sizes = image_sizes(files.images)
        path = data / self.cameras_file if self.cameras_file is not None else find_camera_file(data)
        cameras = read_camera_file(path)
        intrinsics, poses, projections = cameras_of(cameras, files, sizes)
        files = with_masks(files, sizes, poses, projections)
        source = None if self.source == "auto" else self.source
        extent = extent_of_capture(files, sizes, intrinsics, poses, projections, source)
        stated = cameras.similarity()
        if stated is not None:
            print(f"{path}: the unit sphere has radius {stated.radius:.5g} about {_words(stated.center)}.")
            self._print_diagnosis(extent, poses, stated)
        placed = self._sphere(extent, poses)
        if self.output_path is not None:
            arrays = {f"world_mat_{number}": np.vstack([m, [0, 0, 0, 1]]) for number, m in cameras.world.items()}
            arrays |= {f"camera_mat_{number}": np.vstack([m, [0, 0, 0, 1]]) for number, m in cameras.camera.items()}
            arrays |= {f"scale_mat_{number}": placed.matrix for number in cameras.world}
            if self.perturb_rotation or self.perturb_translation:
                arrays |= self._perturbed(cameras.world, placed)
            with written_whole(self.output_path) as partial, partial.open("wb") as stream:
                np.savez(stream, **arrays)  # type: ignore[arg-type]
            print(f"Written to {self.output_path}")
        return placed

    def _perturbed(
        self, world: dict[int, Float[NDArray, "3 4"]], placed: Similarity
    ) -> dict[str, Float[NDArray, "4 4"]]:
        """world_mat of rough cameras: turned about their center and shifted."""
        rng = np.random.default_rng(self.seed)
        result = {}
        for number, matrix in sorted(world.items()):
            center = -np.linalg.solve(matrix[:, :3], matrix[:, 3])
            axis, direction = (v / np.linalg.norm(v) for v in rng.normal(size=(2, 3)))
            turn = rotation_about(axis, np.radians(self.perturb_rotation))
            moved = center + self.perturb_translation * np.linalg.norm(center - placed.center) * direction
            part = matrix[:, :3] @ turn
            result[f"world_mat_{number}"] = np.vstack(
                [np.column_stack([part, part @ (-1.0 * moved)]), [0.0, 0.0, 0.0, 1.0]]
            )
        return result

    def _transforms(self, file: Path) -> Similarity:
        """A nerfstudio transforms.json."""
        self._check_suffix(".json")
        for name in ("cameras_file", "perturb_rotation", "perturb_translation"):
            if getattr(self, name):
                option = f"--{name.replace('_', '-')}"
                raise InputError(f"{option} is for the IDR layout", f"Drop {option}", file)
        capture = TransformsCapture.read(file)
        extent = capture.extent(None if self.source == "auto" else self.source)
        self._print_diagnosis(extent, capture.poses, Similarity(np.zeros(3), 1.0))
        placed = self._sphere(extent, capture.poses)
        if self.output_path is not None:
            content, points = capture.normalized(placed, self.output_path)
            if points is not None:
                cloud = self.output_path.with_name(f"{self.output_path.stem}_points.ply")
                content["ply_file_path"] = cloud.name
                _write_points(points, cloud)
            with written_whole(self.output_path) as partial:
                partial.write_text(json.dumps(content, indent=2), encoding="utf-8")
            command = f"nerfstudio-data --data {shlex.quote(str(self.output_path))} {PLAIN_OPTIONS}"
            print(f"Written to {self.output_path}. Use it with {command}")
        return placed

    def _check_suffix(self, suffix: str) -> None:
        if self.output_path is not None and self.output_path.suffix != suffix:
            problem = f"the suffix is {self.output_path.suffix!r} instead of {suffix!r}"
            raise InputError(problem, f"Name a {suffix} file as --output-path", self.output_path)

    def _sphere(self, extent: Extent, poses: Float[NDArray, "n 3 4"]) -> Similarity:
        """The sphere with the margin that the user wants; prints it."""
        factor = 1.0 if extent.source == "cameras" else self.margin / MARGIN
        placed = Similarity(extent.sphere.center, extent.sphere.radius * factor)
        name = SOURCE_NAMES[extent.source]
        print(f"Found from the {name}: radius {placed.radius:.5g} about {_words(placed.center)}.")
        self._print_diagnosis(extent, poses, placed)
        return placed

    @staticmethod
    def _print_diagnosis(extent: Extent, poses: Float[NDArray, "n 3 4"], placed: Similarity) -> None:
        diagnosis = diagnose(extent, poses, placed)
        problem = diagnosis.problem()
        print(f"  {diagnosis.summary()}")
        if problem is not None:
            print(f"  Badly scaled: {problem}.")


def rotation_about(axis: Float[NDArray, "3"], angle: float) -> Float[NDArray, "3 3"]:
    """Rotation by an angle in radians about a unit axis (Rodrigues)."""
    cross = np.cross(np.eye(3), axis).T
    return np.eye(3) + np.sin(angle) * cross + (1.0 - np.cos(angle)) * cross @ cross


def _write_points(points: Float[NDArray, "n 3"], path: Path) -> None:
    """Write a point cloud as .ply."""
    import trimesh

    content = trimesh.PointCloud(points).export(file_type="ply")
    with written_whole(path) as partial:
        partial.write_bytes(content if isinstance(content, bytes) else str(content).encode())


def _words(point: Float[NDArray, "3"]) -> str:
    return f"({', '.join(f'{x:.5g}' for x in point)})"


def entrypoint() -> None:
    """Entry point of the console command."""
    report_input_errors()
    tyro.cli(IdrCamerasCommand, prog="ns-idr-cameras", description=inspect.getdoc(IdrCamerasCommand)).main()


if __name__ == "__main__":
    entrypoint()
