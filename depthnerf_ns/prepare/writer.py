"""Writes prepared depth as a data set that `rgbd-data` reads: transforms.json, depth/, depth_sigma/."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy import ndarray
from PIL import Image

from common_ns.data.checks import read_json
from common_ns.data.depth.contract import SATURATED, DepthKind
from common_ns.errors import InputError
from common_ns.sample_scene.writers import write_json
from depthnerf_ns.prepare.capture import Capture

GENERATOR = "ns-depth-prepare"
REPORT = "prepare.json"
OWN = (
    "colmap",
    "depth",
    "depth_sigma",
    "normals",
    "images",
    "transforms.json",
    "sparse_pc.ply",
    "overview.png",
    REPORT,
)
"""What the command writes into its output folder, and what --overwrite may remove from it."""
INTERNAL = ("prediction_path", "normal_cue_path", "depth_file_path", "depth_sigma_file_path")
"""Fields of frames that are not passed on."""


def clear_output(folder: Path, overwrite: bool) -> None:
    """Make the output folder, and take an earlier result out of it if that is allowed.

    Raises: InputError if there is something in it that this command did not write.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError("is a file", "Name a folder as --output-path", folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        present = [folder / name for name in OWN if (folder / name).exists()]
        if not present:
            return
        report = folder / REPORT
        if not (report.is_file() and read_json(report).get("generator") == GENERATOR):
            names = ", ".join(path.name for path in present)
            remedy = "Choose another --output-path; it may lie inside of the data set, such as DATA/prepared"
            raise InputError(f"the folder holds {names}, which this command did not write", remedy, folder)
        if not overwrite:
            remedy = "Choose another --output-path, or replace it with --overwrite"
            raise InputError("the folder holds an earlier result", remedy, folder)
        for path in sorted(present, key=lambda path: path == report):  # the marker goes last
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    except OSError as error:
        problem = f"cannot be written: {error.strerror or error}"
        raise InputError(problem, "Choose another --output-path", folder) from error


def tidy_step(largest: float) -> float:
    """The least of 1, 2 and 5 times a power of ten that 16-bit steps reach the largest depth with."""
    exact = largest / (SATURATED - 1)
    power = 10.0 ** np.floor(np.log10(exact))
    return float(f"{next(step for step in (1, 2, 5, 10) if step * power >= exact * (1 - 1e-9)) * power:.0e}")


@dataclass
class DepthWriter:
    """Writes maps frame by frame, and at the end the file that lists them.

    Maps are floats until all are there: 16-bit files have one unit, which has to fit the largest depth.
    """

    capture: Capture
    folder: Path
    kind: DepthKind
    depth_format: Literal["png", "npy"] = "png"
    copy_images: bool = False
    _written: dict[int, str] = field(default_factory=dict)
    _largest: float = 0.0

    def __post_init__(self) -> None:
        stems = [image.stem for image in self.capture.images]
        twice = len(set(stems)) < len(stems)  # images of several folders may have the same names
        self._stems = [f"{i:05d}_{stem}" if twice else stem for i, stem in enumerate(stems)]
        for name in ("depth", "depth_sigma"):
            (self.folder / name).mkdir(exist_ok=True)

    def add(self, index: int, depth: ndarray, sigma: ndarray) -> None:
        """Write the maps of a frame, [h, w] in the unit of the poses."""
        for name, values in (("depth", depth), ("depth_sigma", sigma)):
            np.save(self.folder / name / f"{self._stems[index]}.npy", values.astype(np.float32))
        self._written[index] = self._stems[index]
        self._largest = max(self._largest, float(depth.max()))

    def discard(self) -> None:
        """Remove the maps."""
        for name in ("depth", "depth_sigma"):
            shutil.rmtree(self.folder / name, ignore_errors=True)

    def finish(self) -> Path:
        """Convert the maps and write transforms.json. Returns: its path."""
        unit = 1.0
        if self.depth_format == "png":
            unit = tidy_step(self._largest)
            for stem in self._written.values():
                has = self._to_png(self.folder / "depth" / f"{stem}.npy", unit, None)
                self._to_png(self.folder / "depth_sigma" / f"{stem}.npy", unit, has)
        header = {k: v for k, v in self.capture.header.items() if not k.endswith("_filenames")}
        header = {key: self._relative(value) if key.endswith("_path") else value for key, value in header.items()}
        header.update(depth_unit_scale_factor=unit, depth_kind=self.kind)
        cues = [self.capture.frames[index].get("normal_cue_path") for index in self._written]
        if all(cues) and cues:
            header["normal_space"] = "opencv"
        self._write_points(header)
        frames, places = [], {}
        for index, stem in self._written.items():
            frame = self._frame(index, stem, normals="normal_space" in header)
            places[self.capture.frames[index]["file_path"]] = frame["file_path"]
            frames.append(frame)
        for key, names in self.capture.header.items():
            if key.endswith("_filenames"):
                header[key] = [places[name] for name in names if name in places]
        write_json(self.folder / "transforms.json", {**header, "frames": frames})
        return self.folder / "transforms.json"

    def _to_png(self, file: Path, unit: float, has: ndarray | None) -> ndarray:
        """Turn a file of floats into 16-bit steps: at least 1, where there is depth. Returns: where there is depth."""
        values = np.load(file)
        present = values > 0 if has is None else has
        steps = np.where(present, np.clip(np.rint(values / unit), 1, SATURATED - 1), 0).astype(np.uint16)
        Image.fromarray(steps).save(file.with_suffix(".png"), compress_level=4)
        file.unlink()
        return present

    def _frame(self, index: int, stem: str, normals: bool) -> dict[str, Any]:
        """A frame of the transforms.json."""
        record = self.capture.frames[index]
        frame: dict[str, Any] = {}
        for key, value in record.items():
            if key in INTERNAL:
                continue
            frame[key] = self._relative(value, stem, key) if key.endswith("_path") else value
        frame["depth_file_path"] = f"depth/{stem}.{self.depth_format}"
        frame["depth_sigma_file_path"] = f"depth_sigma/{stem}.{self.depth_format}"
        if normals and "normal_cue_path" in record:
            from depthnerf_ns.prepare.monosdf import write_normals

            (self.folder / "normals").mkdir(exist_ok=True)
            write_normals(Path(record["normal_cue_path"]), self.folder / "normals" / f"{stem}.png")
            frame["normal_file_path"] = f"normals/{stem}.png"
        return frame

    def _relative(self, value: str, stem: str = "", key: str = "") -> str:
        """A path as seen from the output folder, of the original or of a copy in it."""
        path = Path(value)
        if self.copy_images and key and path.is_file():
            name = "images" if key == "file_path" else f"images/{key.removesuffix('_path').removesuffix('_file')}"
            (self.folder / name).mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, self.folder / name / (stem + path.suffix))
            return f"{name}/{stem}{path.suffix}"
        try:
            return Path(os.path.relpath(path, self.folder.absolute())).as_posix()
        except ValueError:  # another drive
            return str(path)

    def _write_points(self, header: dict[str, Any]) -> None:
        """Write the points of a COLMAP model as `ns-process-data` does, for data sets that name no point cloud."""
        folder = self.capture.model_folder()
        if self.capture.kind != "colmap" or folder is None:
            return
        import trimesh

        from depthnerf_ns.prepare.colmap_model import APPLIED, ColmapModel

        points = ColmapModel.read(folder).points
        if len(points):
            xyz = points.xyz @ APPLIED[:, :3].T
            cloud = trimesh.PointCloud(xyz.astype(np.float32), colors=points.rgb)
            (self.folder / "sparse_pc.ply").write_bytes(cloud.export(file_type="ply"))  # type: ignore[arg-type]
            header["ply_file_path"] = "sparse_pc.ply"
