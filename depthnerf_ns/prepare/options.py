"""What `ns-depth-prepare` can be told. Nothing heavy is imported here: the command's --help shows it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from common_ns.checks import InputError

Source = Literal["sensor", "mono", "sfm", "composite"]


@dataclass(kw_only=True)
class PrepareOptions:
    """Options of `ns-depth-prepare`."""

    data: Annotated[Path | None, tyro.conf.Positional] = None
    """Data set: transforms.json or its folder (with or without depth), a folder with a COLMAP model (sparse/0), a
    MonoSDF, ScanNet or Matterport3D folder."""
    source: Source
    """Where depth comes from. sensor: the data set's depth, checked and given a σ; sfm: key points of structure from
    motion; mono: a monocular prediction, aligned; composite: the sensor where it has depth, the aligned prediction
    elsewhere."""
    output_path: Path
    """Folder to write to: transforms.json, depth/, depth_sigma/, overview.png, prepare.json. rgbd-data reads it."""
    photos: Path | None = None
    """Photographs without poses, instead of a data set: COLMAP (the program, or pycolmap) finds the poses first."""
    matching: Literal["exhaustive", "sequential"] = "exhaustive"
    """How COLMAP pairs photographs: all with all, or, for videos, each with the next ones."""

    reference: Literal["auto", "sensor", "colmap", "ply", "features", "none"] = "auto"
    """Known depth that predictions are aligned to, and where sfm has its points from. sensor: the frame's depth map;
    colmap: the points of the COLMAP model; ply: the data set's point cloud; features: key points that are matched and
    triangulated now, at the given poses; none: metric predictions as they are. auto: for composite the frame's sensor,
    then the first of colmap, ply, features that is there (sfm: colmap or features)."""
    colmap_path: Path | None = None
    """Folder of the COLMAP model. None: colmap/sparse/0, sparse/0 or the like in the data set."""
    images: Path | None = None
    """Folder of the COLMAP model's images. None: the folder images near the model."""
    original_size: tuple[int, int] | None = None
    """Width and height of the images that a MonoSDF folder's cameras belong to. None: judged by the principal point."""

    model: str | None = None
    """Monocular depth model of the transformers library: folder, or name in the local cache."""
    download: bool = False
    """Fetch the model if it is not on this machine."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the model runs."""
    predictions: Path | None = None
    """Folder of predictions instead of a model: NAME.npy, NAME_depth.npz, NAME.png, .exr or .tif for each image."""
    mono_kind: Literal["auto", "depth", "inverse-depth", "metric"] = "auto"
    """What the prediction is: depth or inverse depth up to scale and shift, or metric depth (aligned by a scale only).
    auto: as the model's configuration says, where it does."""
    extrapolate: float = 2.0
    """Aligned depth that is nearer or farther than its reference by more than this factor is left out."""
    drop_poor: bool = False
    """Leave frames out whose alignment is poor (see the report), instead of giving them the large σ that it has. Of a
    composite, the sensor's depth stays."""
    mono_sigma: float = 0.1
    """σ of metric predictions that are not aligned (--reference none), as a share of depth."""

    sensor_sigma: tuple[float, ...] | None = None
    """σ of sensor depth as a polynomial, in the unit of the poses: 0.01 for one centimeter; 0.0012 0 0.0019 for a part
    that grows with the square of depth. None: the data set's own σ, else 0.01."""
    depth_unit: float | None = None
    """Meters (the unit of the poses) per step of the sensor's depth files. None: as the data set states it."""
    depth_kind: Literal["z", "ray"] | None = None
    """Sensor depth counts along the optical axis (z) or along the ray. None: as the data set states it, else z."""
    depth_min: float = 0.0
    """Smaller sensor depths, in meters, are taken for missing."""
    depth_max: float = math.inf
    """Larger sensor depths, in meters, are taken for missing."""
    depth_resize: bool = False
    """Accept sensor depth of another size than its image, of the same proportions."""

    min_points: int = 10
    """Frames with fewer reference points are left out."""
    min_views: int | None = None
    """Points that fewer views see are not used. None: 3 for sfm; 2 where a prediction is aligned, as the fit leaves
    wrong points out."""
    max_error: float = 2.0
    """Points with a larger reprojection error, in pixels, are not used."""
    point_size: int = 1
    """Side in pixels of the square that sfm paints around each key point."""

    depth_format: Literal["png", "npy"] = "png"
    """png: 16 bits, with a unit that fits the largest depth; npy: 32-bit floats."""
    copy_images: bool = False
    """Copy images, masks and the like into the output, which then stands alone. Otherwise they are named where they
    are."""
    overwrite: bool = False
    """Replace what this command wrote into the folder before."""

    def check(self) -> None:
        """Raises: InputError if options contradict each other or make no sense."""
        if (self.data is None) == (self.photos is None):
            raise InputError(
                "name either a data set or --photos, and not both" if self.data else "no data set is named",
                "Give the folder of a data set, or photographs without poses as --photos",
            )
        predicts = self.source in ("mono", "composite")
        if self.model is not None and self.predictions is not None:
            raise InputError("--model and --predictions are both given", "Choose one")
        if not predicts and (self.model is not None or self.predictions is not None):
            remedy = "Choose --source mono or composite, or leave --model and --predictions out"
            raise InputError(f"--source {self.source} uses no prediction", remedy)
        allowed = {
            "sensor": ("auto",),
            "sfm": ("auto", "colmap", "features"),
            "mono": ("auto", "sensor", "colmap", "ply", "features", "none"),
            "composite": ("auto", "sensor", "colmap", "ply", "features"),
        }[self.source]
        if self.reference not in allowed:
            problem = f"--reference {self.reference} does not go with --source {self.source}"
            if self.reference == "ply":
                problem += ", as a point cloud does not say which views see a point"
            raise InputError(problem, f"Choose {', '.join(allowed)}")
        for name, least in (("min_points", 3), ("point_size", 1), ("min_views", 2)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise InputError(f"--{name.replace('_', '-')} is {value}", f"Choose at least {least}")
        for name, least in (("extrapolate", 1.0), ("max_error", 0.0), ("mono_sigma", 0.0)):
            value = getattr(self, name)
            if not least < value < math.inf:
                raise InputError(f"--{name.replace('_', '-')} is {value}", f"Choose a number above {least:g}")
        if self.sensor_sigma is not None and not (
            self.sensor_sigma and all(math.isfinite(value) for value in self.sensor_sigma)
        ):
            raise InputError(f"--sensor-sigma is {self.sensor_sigma}", "Give the coefficients c0 c1 c2 of σ in meters")
