"""The run of `ns-depth-prepare`: reads a capture, makes depth and σ for each frame, and writes what `rgbd-data` reads.

Frames that no depth can be made for are left out of the new data set, images and all, as its reader expects depth for
every frame; the report names them.
"""

from __future__ import annotations

import warnings
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import track

from common_ns.data.depth.contract import KIND_NAMES
from common_ns.data.files import require_writable
from common_ns.errors import InputError
from depthnerf_ns.prepare.alignment import AlignmentError
from depthnerf_ns.prepare.capture import Capture, DepthSettings, read_capture
from depthnerf_ns.prepare.options import PrepareOptions
from depthnerf_ns.prepare.predictions import FilePredictions, Predictor, kind_of_files
from depthnerf_ns.prepare.references import sparse_points
from depthnerf_ns.prepare.report import SHOWN, Report, Shown, draw
from depthnerf_ns.prepare.sources import (
    FrameDepth,
    FrameStats,
    align_prediction,
    as_predicted,
    composed,
    from_points,
    from_sensor,
    sensor_depth,
    sensor_reference,
)
from depthnerf_ns.prepare.sparse import PointDepth
from depthnerf_ns.prepare.writer import REPORT, DepthWriter, clear_output

SENSOR_SIGMA = (0.01,)
"""σ of sensor depth where nothing else is said: one centimeter."""


def prepare(options: PrepareOptions, progress: bool = False) -> Report:
    """Make depth for a data set.

    Args:
        options: what to do.
        progress: show progress bars.
    Returns: how it went; everything is in `options.output_path`.
    Raises: InputError if the options, the data set or what it needs is wrong, or no frame gets depth.
    """
    options.check()
    output = options.output_path
    require_writable(output, folder=True)  # before an earlier result goes
    clear_output(output, options.overwrite)
    report = Report(options.source)
    data = options.data
    if options.photos is not None:
        from depthnerf_ns.prepare.photos import list_photos, reconstruct

        reconstruct(options.photos, output, options.matching)
        data = output / "colmap"
    assert data is not None
    settings = DepthSettings(
        depth_unit=options.depth_unit,
        depth_kind=options.depth_kind,
        depth_min=options.depth_min,
        depth_max=options.depth_max,
        depth_resize=options.depth_resize,
        images=options.photos or options.images,
        original_size=options.original_size,
    )
    maker = _Maker(read_capture(data, settings), options, report, progress)
    if options.photos is not None:
        lost = sorted(set(list_photos(options.photos)) - set(maker.capture.names))
        if lost:
            names = ", ".join(lost[:8]) + (" …" if len(lost) > 8 else "")
            report.notes.append(f"COLMAP found no pose for {len(lost)} photographs: {names}.")
    maker.check()

    capture = maker.capture
    kind = capture.contract.kind if options.source == "sensor" and capture.contract is not None else "z"
    writer = DepthWriter(capture, output, kind, options.depth_format, options.copy_images)
    picked = set(np.unique(np.linspace(0, len(capture) - 1, min(SHOWN, len(capture))).round().astype(int)).tolist())
    shown: list[Shown] = []
    pending = 0  # frames for the picture that failed, and are replaced by the next ones
    for index in track(range(len(capture)), description="Depth", disable=not progress):
        pending += index in picked
        result = maker.make(index)
        if isinstance(result, FrameStats):
            report.frames.append(result)
            continue
        report.frames.append(result.stats)
        writer.add(index, result.depth, result.sigma)
        if pending:
            shown.append(Shown(capture.images[index], result.stats, result.depth, result.sigma))
            pending -= 1
    if not any(frame.status != "failed" for frame in report.frames):
        writer.discard()
        problem = f"no frame got depth; {report.frames[0].name}: {report.frames[0].note}"
        raise InputError(problem, "Choose another --source or --reference", capture.source)
    writer.finish()
    title = f"{options.source}: {report.summary()[-1] if not report.notes else report.summary()[len(report.notes)]}"
    draw(shown, title).savefig(output / "overview.png")
    plain = {k: str(v) if isinstance(v, Path) else v for k, v in asdict(options).items() if v is not None}
    plain["depth_max"] = None if np.isinf(options.depth_max) else options.depth_max
    report.write(output / REPORT, plain)
    return report


@dataclass
class _Maker:
    """Makes the depth of one frame after the other; what all frames share is made when it is first needed."""

    capture: Capture
    options: PrepareOptions
    report: Report
    progress: bool

    def check(self) -> None:
        """Find out before the first frame whether the source can work, and note what the user should know.

        Raises: InputError if it cannot.
        """
        capture, options, notes = self.capture, self.options, self.report.notes
        if capture.note:
            notes.append(capture.note)
        uses_sensor = options.source in ("sensor", "composite") or options.reference == "sensor"
        if uses_sensor and capture.contract is not None:
            words = f"Sensor depth: {KIND_NAMES[capture.contract.kind]} in steps of {capture.contract.unit:g} m"
            notes.append(f"{words} ({capture.assumed} assumed)." if capture.assumed else f"{words}.")
            if options.sensor_sigma is None and not any(capture.sigma_files):
                notes.append(f"σ of sensor depth is taken for {SENSOR_SIGMA[0]:g} m (--sensor-sigma).")
        elif uses_sensor and options.source == "composite" and options.reference != "sensor":
            notes.append("No frame has sensor depth: the composite is the aligned prediction everywhere.")
        elif uses_sensor:
            remedy = "Name depth maps as depth_file_path in transforms.json, or choose --source mono or sfm"
            raise InputError("no frame has sensor depth", remedy, capture.source)
        if options.source in ("mono", "composite"):
            kind = self.predictor.kind
            if options.reference == "none" and kind != "metric":
                problem = f"--reference none is for metric depth, and the prediction is {kind} without a scale"
                raise InputError(problem, "Choose another --reference, or --mono-kind metric")
        if options.source == "sfm":
            _ = self.points

    @cached_property
    def predictor(self) -> Predictor:
        """The model, or the files."""
        options = self.options
        if options.model is not None:
            import torch

            from depthnerf_ns.prepare.model import ModelPredictions

            device = options.device
            if device == "auto":
                device = "cuda" if torch.cuda.is_available() else "cpu"
            return ModelPredictions(options.model, options.mono_kind, options.download, device)
        cues = any("prediction_path" in frame for frame in self.capture.frames)
        if options.predictions is None and not cues:
            remedy = "Give a depth model as --model, or a folder of predictions as --predictions"
            raise InputError(f"--source {options.source} needs monocular predictions", remedy)
        kind = kind_of_files(options.mono_kind, monosdf=options.predictions in (None, self.capture.source) and cues)
        own = options.predictions is None or (cues and options.predictions == self.capture.source)
        return FilePredictions(None if own else options.predictions, kind)

    @cached_property
    def points(self) -> list[PointDepth]:
        """Depth of key points for each frame."""
        options, capture = self.options, self.capture
        which = options.reference if options.reference in ("colmap", "ply", "features") else None
        if options.source == "sfm" and which is None:
            has_model = options.colmap_path is not None or capture.model_folder() is not None
            which = "colmap" if has_model else "features"
        found = sparse_points(capture, which, options.colmap_path, self.progress)
        if found.origin == "features":
            self.report.notes.append(f"{len(found.xyz)} key points were triangulated at the given poses.")
        least = options.min_views if options.min_views is not None else (3 if options.source == "sfm" else 2)
        return found.depths(capture.cameras, least, options.max_error)

    def make(self, index: int) -> FrameDepth | FrameStats:
        """Depth of a frame, or why there is none."""
        name = self.capture.names[index]
        try:
            result = getattr(self, f"_{self.options.source}")(index, name)
        except AlignmentError as error:
            return FrameStats(name, "failed", str(error))
        except InputError as error:
            return FrameStats(name, "failed", str(error))
        if self.options.drop_poor and result.stats.status == "poor":
            return replace(result.stats, status="failed", note=f"poor: {result.stats.note}")
        return result

    def _sensor_maps(self, index: int, name: str, as_z: bool) -> FrameDepth:
        options = self.options
        coefficients = options.sensor_sigma
        if coefficients is None and self.capture.sigma_files[index] is None:
            coefficients = SENSOR_SIGMA
        return from_sensor(*sensor_depth(self.capture, index, coefficients, as_z), name)

    def _sensor(self, index: int, name: str) -> FrameDepth:
        result = self._sensor_maps(index, name, as_z=False)
        return replace(result, stats=replace(result.stats, note=largest_hole(result.depth)))

    def _sfm(self, index: int, name: str) -> FrameDepth:
        size = self.capture.sizes[index]
        return from_points(self.points[index], size, name, self.options.point_size, self.options.min_points)

    def _mono(self, index: int, name: str) -> FrameDepth:
        options = self.options
        prediction = self.predictor(self.capture.frames[index], self.capture.sizes[index])
        if options.reference == "none":
            return as_predicted(prediction, options.mono_sigma, self.predictor, name)
        if options.reference == "sensor":
            reference = sensor_reference(self._sensor_maps(index, name, as_z=True))
        else:
            reference = self.points[index]
        return self._aligned(prediction, reference, name)

    def _composite(self, index: int, name: str) -> FrameDepth:
        options, sensor, trouble = self.options, None, ""
        if self.capture.depth_files[index] is not None:
            try:
                sensor = self._sensor_maps(index, name, as_z=True)
            except InputError as error:
                trouble = error.problem  # such as a map without any depth
        prediction = self.predictor(self.capture.frames[index], self.capture.sizes[index])
        reference = sensor_reference(sensor) if sensor is not None else None
        if options.reference not in ("auto", "sensor"):
            reference = self.points[index]
        elif reference is None or (len(reference) < options.min_points and options.reference == "auto"):
            if options.reference == "sensor":
                raise AlignmentError(trouble or "the frame has no sensor depth")
            reference = self.points[index]
        try:
            mono = self._aligned(prediction, reference, name)
            if options.drop_poor and mono.stats.status == "poor" and sensor is not None:
                raise AlignmentError(mono.stats.note)
        except AlignmentError as error:
            if sensor is None:
                raise
            return replace(sensor, stats=replace(sensor.stats, status="sensor", note=str(error)))
        result = mono if sensor is None else composed(sensor, mono)
        note = "; ".join(filter(None, [trouble, result.stats.note]))
        return replace(result, stats=replace(result.stats, note=note))

    def _aligned(self, prediction: Any, reference: PointDepth, name: str) -> FrameDepth:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # NaN where there is no prediction
            return align_prediction(
                prediction, self.predictor.kind, reference, name, self.options.extrapolate, self.options.min_points
            )


def largest_hole(depth: np.ndarray) -> str:
    """The largest connected region without depth, in words; empty if there is none."""
    from scipy.ndimage import label

    regions, count = label(depth <= 0)  # type: ignore[misc]
    if count == 0:
        return ""
    largest = int(np.bincount(regions.ravel())[1:].max())
    return f"{count} holes, the largest {largest / depth.size:.1%} of the image"
