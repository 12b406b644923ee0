"""What `ns-depth-prepare` did, frame by frame: table, summary, JSON and a picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy import ndarray

from common_ns.data.images import decode_image
from common_ns.sample_scene.writers import write_json
from depthnerf_ns.prepare.sources import FrameStats
from depthnerf_ns.prepare.writer import GENERATOR

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHOWN = 4
"""Frames in the picture."""
ROWS = 40
"""Frames in the printed table; prepare.json has all."""
LEFT = (("frame", 22), ("status", 6), ("reference", 9))
RIGHT = (("points", 7), ("scale", 10), ("shift", 10), ("inliers", 7), ("residual", 8), ("invalid", 8), ("σ/depth", 8))
"""Columns of the table and their widths."""
SHOWN_SIDE = 480
"""Pixels of the longer side of a map in the picture."""


@dataclass
class Report:
    """The frames and how they went."""

    source: str
    """sensor, mono, sfm or composite."""
    frames: list[FrameStats] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """About the whole, for the user."""

    def of(self, status: str) -> list[FrameStats]:
        """The frames of a status."""
        return [frame for frame in self.frames if frame.status == status]

    def lines(self) -> list[str]:
        """A table of the frames and the summary."""
        shown = self.frames
        if len(shown) > ROWS:
            odd = [frame for frame in shown if frame.status != "ok"][:ROWS]
            rest = [frame for frame in shown if frame.status == "ok"]
            some = np.unique(np.linspace(0, len(rest) - 1, max(0, min(len(rest), ROWS - len(odd)))).astype(int))
            keep = {frame.name for frame in [*odd, *(rest[i] for i in some)]}
            shown = [frame for frame in shown if frame.name in keep]
        heads = " ".join(f"{name:<{width}}" for name, width in LEFT) + " "
        heads += " ".join(f"{name:>{width}}" for name, width in RIGHT)
        rows = [f"{heads}  note"]
        for s in shown:
            name = s.name if len(s.name) <= 22 else "…" + s.name[-21:]
            failed = s.status == "failed"
            left = f"{name:22} {s.status:6} {s.reference or '–':9}"
            cells = [str(s.points or "–"), _number(s.scale), _number(s.shift), _share(s.inliers, 0)]
            cells += [_share(s.residual, 2), "–" if failed else _share(1.0 - s.valid, 2), _share(s.sigma, 2)]
            right = " ".join(f"{cell:>{width}}" for cell, (_, width) in zip(cells, RIGHT))
            rows.append(f"{left} {right}  {s.note}".rstrip())
        if len(shown) < len(self.frames):
            rows.append(f"({len(self.frames) - len(shown)} more in prepare.json)")
        return [*rows, *self.summary()]

    def summary(self) -> list[str]:
        """What became of the frames, in a few lines."""
        done = [frame for frame in self.frames if frame.status != "failed"]
        failed, poor = self.of("failed"), self.of("poor")
        lines = [*self.notes]
        residual = [frame.residual for frame in done if math.isfinite(frame.residual)]
        text = f"{len(done)} of {len(self.frames)} frames have depth"
        if done and self.source == "sfm":
            text += f", the median frame at {np.median([frame.points for frame in done]):.0f} key points"
        elif done:
            text += (
                f", the median frame at {_share(float(np.median([frame.valid for frame in done])), 1)} of its pixels"
            )
        if residual:
            text += f"; aligned to {_share(float(np.median(residual)), 2)} of depth in the median"
        lines.append(text + ".")
        if poor:
            lines.append(f"Warning: the alignment of {len(poor)} frames is poor, and their σ is large: {_names(poor)}")
        bare = self.of("sensor")
        if bare:
            text = f"Warning: {len(bare)} frames have their sensor's depth only, as the prediction does not fit: "
            lines.append(text + _names(bare))
        if self.source in ("mono", "composite") and 2 * (len(poor) + len(failed) + len(bare)) > len(self.frames):
            lines.append("Warning: the prediction hardly fits the scene; training may do better without this depth.")
        if failed:
            lines.append(f"Warning: {len(failed)} frames are left out, images and all: {_names(failed)}")
        return lines

    def write(self, file: Path, options: dict[str, Any]) -> None:
        """Write everything as JSON."""
        frames = [
            {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in asdict(f).items()}
            for f in self.frames
        ]
        content = {"generator": GENERATOR, "options": options, "notes": self.notes, "frames": frames}
        write_json(file, content)


def _names(frames: Sequence[FrameStats]) -> str:
    """The first few names."""
    return ", ".join(frame.name for frame in frames[:8]) + (" …" if len(frames) > 8 else "") + "."


def _number(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.4g}"


def _share(value: float, digits: int) -> str:
    return "–" if math.isnan(value) else f"{100.0 * value:.{digits}f} %"


@dataclass(frozen=True)
class Shown:
    """A frame in the picture."""

    image: Path
    stats: FrameStats
    depth: ndarray
    """[h, w] in the unit of the poses."""
    sigma: ndarray
    """[h, w]."""


def draw(shown: Sequence[Shown], title: str) -> Figure:
    """Image, depth and σ of some frames, side by side."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 3.2 * len(shown) + 0.5), dpi=80, facecolor="white", layout="constrained")
    figure.suptitle(title, fontsize=11)
    axes = figure.subplots(len(shown), 3, squeeze=False)
    for row, one in zip(axes, shown):
        step = max(1, -(-max(one.depth.shape) // SHOWN_SIDE))
        height, width = one.depth.shape
        row[0].imshow(decode_image(one.image, (width, height))[::step, ::step, :3])
        row[0].set_title(f"{one.stats.name}: {one.stats.status}", fontsize=9)
        for axis, values, name, colors in ((row[1], one.depth, "depth", "viridis"), (row[2], one.sigma, "σ", "magma")):
            small = _thinned(values, step)
            seen = small[small > 0]
            low, high = np.percentile(seen, [1, 99]) if seen.size else (0.0, 1.0)
            picture = axis.imshow(np.where(small > 0, small, np.nan), cmap=colors, vmin=low, vmax=high)
            figure.colorbar(picture, ax=axis, shrink=0.85)
            axis.set_title(f"{name}, unit of the poses", fontsize=9)
        for axis in row:
            axis.set(xticks=[], yticks=[], facecolor="#e5e7eb")
    return figure


def _thinned(values: ndarray, step: int) -> ndarray:
    """Every so many-th pixel; of sparse maps with points made large enough to be seen."""
    if (values > 0).mean() < 0.05:
        from scipy.ndimage import maximum_filter

        values = maximum_filter(values, size=max(3, max(values.shape) // 100))
    return values[::step, ::step]
