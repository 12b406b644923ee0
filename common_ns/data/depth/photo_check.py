"""Do the images agree with the depth? Patches carried into other images along the depth, and nearer and farther.

Where depth is right, the patch around a pixel looks the same in other images at the place that depth says, rather than
at places that nearer or farther depths say. That needs no field and no training, and asks the colors alone: depth maps
that agree with each other but not with the images, or belong to other frames, are found too.

Each pixel votes by plane sweep: its patch, parallel to the image plane, is put at its depth times a range of scales and
compared with other images by normalized cross-correlation. A pixel counts if it has a clear match at some scale. It
supports the depth if the match at scales close to 1 is as good as its best.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from jaxtyping import Float
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs
from numpy import ndarray
from PIL import Image

from common_ns.cameras.views import views_to_compare
from common_ns.data.depth.contract import DepthKind, contract_of
from common_ns.data.depth.reprojection import DepthView, depth_views
from common_ns.data.images import decode_image

LONGEST_SIDE = 320
"""Images are compared at this resolution: finer detail moves with errors of poses."""
MAX_VIEWS, NUM_OTHERS, PIXELS = 16, 3, 150
"""Views that are looked at, those that each is compared with, and its pixels: 1 to 2 s of one core in all."""
PATCH = np.stack(np.meshgrid(np.arange(-3.0, 4.0, 1.5), np.arange(-3.0, 4.0, 1.5), indexing="ij"), axis=-1).reshape(
    -1, 2
)
"""Rows and columns of a patch's 25 points, in pixels from its middle."""
LOG_SCALES = np.linspace(-0.7, 0.7, 41)
"""Log of the scales: from half to twice the depth."""
CLOSE = 0.08
"""Log of the scales that are as good as 1: sensors and poses err."""
MATCH, DISTINCT, AS_GOOD = 0.9, 0.3, 0.05
"""A match: least correlation; its least distance from the median over scales; loss that depth's own scale may have."""
MIN_CONTRAST = 6.0
"""Least standard deviation of a patch, of 255."""
MIN_PIXELS = 30
"""With fewer pixels that match anywhere, the images do not tell."""
SUPPORT = 0.45
"""Least share of them that must match at their depth. Measured on a room and on the sample scene, with 3 to 45 views:
0.64 and more for depth that is right, noisy or off by some per cent; below 0.22 for depth times 1.3 or 0.8."""


@dataclass(frozen=True)
class PhotoSupport:
    """How many pixels' depth is supported by the other images."""

    matched: int
    """Pixels that have a clear match along their ray."""
    supported: int
    """Those whose match is at their depth."""

    @property
    def share(self) -> float:
        """Share of the matched pixels that are supported; NaN where none is matched."""
        return self.supported / self.matched if self.matched else float("nan")

    @property
    def words(self) -> str:
        """What was found, in a sentence."""
        if self.matched < MIN_PIXELS:
            return f"The images do not tell whether the depth is right: {self.matched} pixels match another image."
        share = f"{self.share:.0%} of {self.matched} pixels that match another image do so at their depth"
        return f"The images {'speak against' if self.contradicts else 'agree with'} the depth: {share}."

    @property
    def contradicts(self) -> bool:
        """Whether the images speak against the depth. They may also not tell."""
        return self.matched >= MIN_PIXELS and self.share < SUPPORT


@dataclass(frozen=True)
class PhotoView:
    """A view with depth and its image in gray."""

    view: DepthView
    file: Path
    """The image."""

    @cached_property
    def stride(self) -> float:
        """Pixels of the view per pixel of the gray image."""
        return max(1.0, max(self.view.size) / LONGEST_SIDE)

    @cached_property
    def gray(self) -> Float[ndarray, "h w"]:
        """Gray levels from 0 to 255."""
        image = Image.fromarray(decode_image(self.file, self.view.size)[..., :3]).convert("L")
        width, height = (round(length / self.stride) for length in self.view.size)
        return np.asarray(image.resize((width, height), Image.Resampling.BOX), dtype=np.float64)

    def sample(self, rows: Float[ndarray, "*n"], columns: Float[ndarray, "*n"]) -> Float[ndarray, "*n"]:
        """Gray levels between pixels, bilinear; rows and columns count in pixels of the gray image's centers."""
        height, width = self.gray.shape
        rows, columns = np.clip(rows, 0.0, height - 1.001), np.clip(columns, 0.0, width - 1.001)
        top, left = rows.astype(int), columns.astype(int)
        down, right = rows - top, columns - left
        g = self.gray
        upper = g[top, left] * (1.0 - right) + g[top, left + 1] * right
        lower = g[top + 1, left] * (1.0 - right) + g[top + 1, left + 1] * right
        return upper * (1.0 - down) + lower * down


def photo_support(outputs: DataparserOutputs) -> PhotoSupport:
    """Ask the images of a split about its depth.

    Args:
        outputs: with the depth contract in the metadata.
    """
    files = {Path(d): Path(image) for d, image in zip(outputs.metadata["depth_filenames"], outputs.image_filenames)}
    kind = contract_of(outputs.metadata).kind
    views = [PhotoView(view, files[view.file]) for view in depth_views([outputs])]
    if len(views) < 2:
        return PhotoSupport(0, 0)
    others = views_to_compare(np.stack([v.view.pose for v in views]), NUM_OTHERS)
    matched = supported = 0
    for index in np.unique(np.linspace(0, len(views) - 1, min(len(views), MAX_VIEWS)).round().astype(int)):
        if others[index]:
            scores = match_scores(views[index], [views[other] for other in others[index]], kind)
            has_match, at_depth = votes(scores)
            matched, supported = matched + int(has_match.sum()), supported + int(at_depth.sum())
    return PhotoSupport(matched, supported)


def votes(scores: Float[ndarray, "n s"]) -> tuple[ndarray, ndarray]:
    """Which pixels have a clear match at some scale, and which of these have it at their depth.

    Args:
        scores: correlation of each pixel at each of LOG_SCALES; −1 where nothing can be compared.
    """
    best = scores.max(axis=1)
    has_match = (best >= MATCH) & (best - np.median(scores, axis=1) >= DISTINCT)
    close = scores[:, np.abs(LOG_SCALES) <= CLOSE].max(axis=1)
    return has_match, has_match & (close >= best - AS_GOOD)


def match_scores(view: PhotoView, others: Sequence[PhotoView], kind: DepthKind) -> Float[ndarray, "n s"]:
    """Best correlation over the other images of some pixels' patches, at their depth times each of exp(LOG_SCALES).

    Args:
        view: where the pixels are; those with contrast count, spread over the image.
        others: views to compare with.
        kind: what the depth files hold.
    """
    rows, columns = textured_pixels(view)
    patch_rows, patch_columns = rows[:, None] + PATCH[:, 0], columns[:, None] + PATCH[:, 1]
    patches = _normalized(view.sample(patch_rows, patch_columns))
    # Directions of all points of a patch reach its plane, parallel to the image's.
    to_view = view.stride
    flat = view.view.directions(
        (patch_rows.ravel() + 0.5) * to_view - 0.5, (patch_columns.ravel() + 0.5) * to_view - 0.5
    )
    flat = flat.reshape(*patch_rows.shape, 3)
    middle = flat[:, len(PATCH) // 2]
    depth = _depth_at(view, rows, columns)
    if kind == "ray":
        depth = depth * -middle[:, 2]
    reach = depth[:, None] / np.maximum(-flat[..., 2], 1e-3)
    points = (reach[..., None] * flat) @ view.view.pose[:, :3].T  # from the camera's center, in world axes
    scales = np.exp(LOG_SCALES)
    result = np.full((len(rows), len(scales)), -1.0)
    for other in others:
        offset = view.view.pose[:, 3] - other.view.pose[:, 3]
        local = (scales[:, None, None, None] * points + offset) @ other.view.pose[:, :3]
        row, column, inside = other.view.place(local)
        inside = inside.all(axis=-1)
        seen = _normalized(other.sample((row + 0.5) / other.stride - 0.5, (column + 0.5) / other.stride - 0.5))
        score = np.where(inside, (seen * patches).mean(axis=-1), -1.0)
        result = np.maximum(result, score.T)
    return result


def textured_pixels(view: PhotoView) -> tuple[ndarray, ndarray]:
    """Rows and columns, in the gray image, of pixels with depth and contrast, spread over the image."""
    height, width = view.gray.shape
    step = max(1.0, np.sqrt(height * width / (4.0 * PIXELS)))
    grid = np.meshgrid(np.arange(4.0, height - 4.0, step), np.arange(4.0, width - 4.0, step), indexing="ij")
    rows, columns = (places.ravel().round() for places in grid)
    contrast = view.sample(rows[:, None] + PATCH[:, 0], columns[:, None] + PATCH[:, 1]).std(axis=-1)
    contrast = np.where(_depth_at(view, rows, columns) > 0, contrast, 0.0)
    best = np.argsort(-contrast, kind="stable")[:PIXELS]
    best = best[contrast[best] >= MIN_CONTRAST]
    return rows[best], columns[best]


def _depth_at(view: PhotoView, rows: ndarray, columns: ndarray) -> Float[ndarray, " n"]:
    """Depth in scene units, as the file's kind has it, at pixels of the gray image; 0 where there is none."""
    stored = view.view.stored
    place = [
        np.clip(((index + 0.5) * view.stride / view.view.stride).astype(int), 0, limit - 1)
        for index, limit in ((rows, stored.shape[0]), (columns, stored.shape[1]))
    ]
    return stored[place[0], place[1]] * (view.view.contract.unit * view.view.scale)


def _normalized(patches: Float[ndarray, "*n p"]) -> Float[ndarray, "*n p"]:
    """Patches with mean 0 and mean square 1, so that brightness and contrast do not count; flat ones are 0."""
    patches = patches - patches.mean(axis=-1, keepdims=True)
    spread = np.sqrt((patches**2).mean(axis=-1, keepdims=True))
    return np.where(spread > 1.0, patches / np.maximum(spread, 1.0), 0.0)
