"""Key points of a capture whose poses are known, matched between views and triangulated: SIFT and linear algebra.

For captures that have poses but no points: rays through matching key points must meet. What does not meet to a few
pixels, at an angle that says where, is dropped, so that wrong matches rarely survive; points that three or more views
agree on hardly ever do.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from nerfstudio.cameras.cameras import Cameras
from numpy import ndarray
from rich.progress import track

from common_ns.cameras.views import views_to_compare
from common_ns.data.images import decode_image
from common_ns.errors import InputError
from depthnerf_ns.prepare.sparse import SparsePoints

NUM_OTHERS = 6
"""Views that each is matched with."""
MAX_KEYPOINTS = 4000
MAX_SIDE = 1600
"""Larger images are made smaller for the search for key points."""
RATIO = 0.8
"""Lowe's: a match has to be so much closer than the second best."""
MAX_ERROR = 2.0
"""Pixels between a key point and the image of its point."""
MIN_ANGLE = 1.5
"""Degrees between two rays that tell where they meet."""


def triangulate_features(
    images: Sequence[Path], cameras: Cameras, max_error: float = MAX_ERROR, progress: bool = False
) -> SparsePoints:
    """Find and triangulate key points of views with known poses.

    Args:
        images: files of the views.
        cameras: of the views; points come out in their world.
        max_error: in pixels; see MAX_ERROR.
        progress: show a progress bar.
    Raises: InputError if the views hardly share a point.
    """
    poses = cameras.camera_to_worlds.double().cpu().numpy()
    found = [
        _keypoints(image, cameras, view)
        for view, image in enumerate(track(images, description="Key points", disable=not progress))
    ]
    places, descriptors = [f[0] for f in found], [f[1] for f in found]
    rays = [_world_rays(cameras, view, place) for view, place in enumerate(places)]
    focal = (cameras.fx * cameras.fy).sqrt().double().cpu().numpy().reshape(-1)

    first = np.concatenate([[0], np.cumsum([len(place) for place in places])])
    links = []
    pairs = {(min(a, b), max(a, b)) for a, others in enumerate(views_to_compare(poses, NUM_OTHERS)) for b in others}
    for a, b in track(sorted(pairs), description="Matching", disable=not progress):
        i, j = _matches(descriptors[a], descriptors[b])
        keep = _rays_meet(poses[a, :, 3], rays[a][i], focal[a], poses[b, :, 3], rays[b][j], focal[b], max_error)
        links.append(np.stack([first[a] + i[keep], first[b] + j[keep]], axis=1))
    tracks = _tracks(np.concatenate([np.zeros((0, 2), int), *links]), int(first[-1]))

    view_of = np.repeat(np.arange(len(places)), np.diff(first))
    all_rays = np.concatenate([np.zeros((0, 3)), *rays])
    xyz, error, kept = [], [], []
    for some in tracks:
        views = view_of[some]
        if len(np.unique(views)) < len(views):
            continue  # two key points of one view cannot be the same point
        solved = _solve(poses[views, :, 3], all_rays[some], focal[views], max_error)
        if solved is not None:
            xyz.append(solved[0])
            error.append(solved[1])
            kept.append(some[solved[2]])
    if not xyz:
        problem = f"no key point of the {len(images)} images could be matched and triangulated at their poses"
        raise InputError(problem, "Check the poses, or give points by a COLMAP model (--colmap-path)", images[0].parent)
    member = np.concatenate(kept)
    point = np.repeat(np.arange(len(kept)), [len(some) for some in kept])
    masks = [view_of[member] == view for view in range(len(places))]
    return SparsePoints(
        np.array(xyz),
        np.array(error),
        [places[view][member[mask] - first[view]] for view, mask in enumerate(masks)],
        [point[mask] for mask in masks],
        "features",
    )


def _keypoints(image: Path, cameras: Cameras, view: int) -> tuple[Float[ndarray, "n 2"], Float[ndarray, "n 128"]]:
    """Places (x, y) in pixels of the camera from the upper left corner, and root-SIFT descriptors of unit length."""
    import cv2

    width, height = int(cameras.width[view]), int(cameras.height[view])
    pixels = cv2.cvtColor(decode_image(image, (width, height))[..., :3], cv2.COLOR_RGB2GRAY)
    factor = min(1.0, MAX_SIDE / max(pixels.shape))
    if factor < 1.0:
        pixels = cv2.resize(pixels, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
    # The lower threshold finds points in plain and dark images as well; wrong ones do not survive.
    search = cv2.SIFT.create(nfeatures=MAX_KEYPOINTS, contrastThreshold=0.02)
    keypoints, descriptors = search.detectAndCompute(pixels, np.full_like(pixels, 255))
    if not keypoints:
        return np.zeros((0, 2)), np.zeros((0, 128), np.float32)
    # OpenCV counts from the center of the first pixel.
    places = np.array([keypoint.pt for keypoint in keypoints]) + 0.5
    descriptors = np.sqrt(descriptors / np.maximum(descriptors.sum(axis=1, keepdims=True), 1e-9))
    return places * [width / pixels.shape[1], height / pixels.shape[0]], descriptors


def _world_rays(cameras: Cameras, view: int, places: Float[ndarray, "n 2"]) -> Float[ndarray, "n 3"]:
    """Unit directions through places (x, y) in an image, lens distortion taken out."""
    if len(places) == 0:
        return np.zeros((0, 3))
    coords = torch.from_numpy(places[:, ::-1].copy()).float()
    rays = cameras.generate_rays(camera_indices=torch.full((len(places), 1), view), coords=coords)
    return rays.directions.double().cpu().numpy()


def _matches(a: Float[ndarray, "n 128"], b: Float[ndarray, "m 128"]) -> tuple[Int[ndarray, " k"], Int[ndarray, " k"]]:
    """Indices of descriptors that are each other's nearest, and clearly so."""
    if len(a) < 2 or len(b) < 2:
        return np.zeros(0, int), np.zeros(0, int)
    similar = torch.from_numpy(a) @ torch.from_numpy(b).T
    top, best = similar.topk(2, dim=1)
    back = similar.argmax(dim=0)
    distance = (2.0 - 2.0 * top).clamp_min(0.0).sqrt()
    index = torch.arange(len(a))
    keep = (back[best[:, 0]] == index) & (distance[:, 0] < RATIO * distance[:, 1])
    return index[keep].numpy(), best[keep, 0].numpy()


def _rays_meet(
    center_a: Float[ndarray, " 3"],
    rays_a: Float[ndarray, "n 3"],
    focal_a: float,
    center_b: Float[ndarray, " 3"],
    rays_b: Float[ndarray, "n 3"],
    focal_b: float,
    max_error: float,
) -> ndarray:
    """Whether pairs of rays pass each other in front of both cameras, at less than `max_error` pixels in either, and at
    an angle of at least MIN_ANGLE."""
    offset = center_b - center_a
    cosine = np.sum(rays_a * rays_b, axis=1)
    sine2 = np.maximum(1.0 - cosine**2, 1e-12)
    along_a, along_b = rays_a @ offset, rays_b @ offset
    t_a = (along_a - cosine * along_b) / sine2
    t_b = (cosine * along_a - along_b) / sine2
    gap = np.linalg.norm(center_a + t_a[:, None] * rays_a - center_b - t_b[:, None] * rays_b, axis=1)
    ahead = (t_a > 0) & (t_b > 0)
    # Half of the gap is what each key point is off.
    pixels = 0.5 * gap * np.maximum(focal_a / np.maximum(t_a, 1e-12), focal_b / np.maximum(t_b, 1e-12))
    return ahead & (pixels <= max_error) & (np.sqrt(sine2) >= np.sin(np.radians(MIN_ANGLE)))


def _tracks(links: Int[ndarray, "k 2"], count: int) -> list[Int[ndarray, " m"]]:
    """The connected sets of at least two key points."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    graph = coo_matrix((np.ones(len(links), dtype=bool), (links[:, 0], links[:, 1])), shape=(count, count))
    _, label = connected_components(graph, directed=False)
    order = np.argsort(label, kind="stable")
    ends = np.flatnonzero(np.diff(label[order])) + 1
    return [some for some in np.split(order, ends) if len(some) >= 2]


def _solve(
    centers: Float[ndarray, "m 3"], rays: Float[ndarray, "m 3"], focals: Float[ndarray, " m"], max_error: float
) -> tuple[Float[ndarray, " 3"], float, Int[ndarray, " k"]] | None:
    """The point nearest to some rays, its mean error in pixels and the rays that agree; None if fewer than two do.

    Each ray weighs by (focal / distance)², which makes its distance from the point one in pixels; the ray that is
    farthest off is left out until all agree.
    """
    keep = np.arange(len(rays))
    weight = np.ones(len(rays))
    while len(keep) >= 2:
        across = np.eye(3) - rays[keep, :, None] * rays[keep, None, :]
        for _ in range(2):
            normal = np.einsum("n,nij->ij", weight[keep], across)
            point = np.linalg.solve(normal, np.einsum("n,nij,nj->i", weight[keep], across, centers[keep]))
            offset = point - centers[keep]
            distance = np.einsum("ni,ni->n", offset, rays[keep])
            weight[keep] = (focals[keep] / np.maximum(distance, 1e-9)) ** 2
        squares = weight[keep] * np.einsum("ni,nij,nj->n", offset, across, offset)
        pixels = np.sqrt(np.maximum(squares, 0.0))  # rounding may leave less than 0
        pixels[distance <= 0] = np.inf
        if pixels.max() <= max_error:
            return point, float(pixels.mean()), keep
        keep = np.delete(keep, int(pixels.argmax()))
    return None
