"""Reads volumes: arrays, and meshes, whose occupancy is found once and then kept in a cache.

Occupancy of a mesh is written as an .npz of

| key | is |
|---|---|
| bits | occupancy, uint8: numpy.packbits along the last axis. Or values: the share inside, uint8 |
| shape | voxels along x, y and z |
| origin | corner of the first voxel in the coordinates of the mesh |
| voxel_size | side of a voxel in the unit of the mesh |

Other .npz files of one array and .npy files are volumes as well.
"""

from __future__ import annotations

import hashlib
import math
import os
from dataclasses import fields
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int
from numpy.lib.npyio import NpzFile
from numpy.typing import NDArray

from common_ns.data.checks import require_path
from common_ns.data.damaged import damage_explained
from common_ns.data.files import require_file, written_whole
from common_ns.data.memory import require_memory
from common_ns.data.notes import note
from common_ns.errors import InputError
from common_ns.meshing.reading import load_geometry, require_finite
from miner_ns.arrays import array_header, load_array, load_member
from miner_ns.signal import Signal, chunks, find_extremes
from miner_ns.voxelize import Grid, VoxelizeOptions, Voxels, voxelize

MESH_SUFFIXES = (".obj", ".off", ".ply", ".stl", ".glb", ".gltf")
VOLUME_SUFFIXES = (".npz", ".npy")
VERSION = 3
"""Part of a cached file's name; to be raised when `voxelize` gives other voxels than before."""

MeshArrays = tuple[Float[NDArray, "v 3"], Int[NDArray, "f 3"]]


def read_mesh(path: Path | str) -> MeshArrays:
    """Vertices (float64) and triangles of a mesh file; the parts of a scene are put together as they are placed.

    Raises: InputError if it cannot be read, has no triangles, or a vertex is not finite.
    """
    path = require_path(path, "mesh")
    if path.is_dir():
        raise InputError("is a folder", "Name one mesh file", path)
    require_file(path, "mesh")
    if path.suffix.lower() not in MESH_SUFFIXES:
        raise InputError(f"the suffix {path.suffix!r} is no mesh format", f"Use {', '.join(MESH_SUFFIXES)}", path)
    # The file is read whole; vertices and triangles take at least as much again.
    require_memory(2 * path.stat().st_size, "reading the mesh", "Decimate the mesh", path)
    _, vertices, faces = load_geometry(path)
    if len(faces) == 0:
        raise InputError("the mesh has no triangles", "Give a surface; it may be cut off, or hold only points", path)
    require_finite(vertices, path)
    return vertices, faces


def voxelize_file(
    mesh: MeshArrays,
    path: Path,
    options: VoxelizeOptions,
    use_cache: bool = True,
    cache_dir: Path | None = None,
    progress: bool = False,
) -> Voxels:
    """Occupancy of a mesh, from the cache if the same mesh was voxelized with the same options before.

    Args:
        mesh: what `read_mesh` gave.
        path: the file it was read from. The cache is the folder "voxels" beside it, or one of the user where that
            cannot be written.
        options: the grid and what counts as inside.
        use_cache: whether to look into the cache and to write to it.
        cache_dir: another folder for the cache.
        progress: show a progress bar.
    Raises: InputError if an option cannot work, or the result would not fit into memory.
    """
    options.check()
    file = cache_file(mesh, path, options, cache_dir)
    if use_cache and file.exists():
        try:
            return read_volume(file, keep_values=options.fractions)
        except InputError as error:
            note(f"Voxelizing again: {error}")
    voxels = voxelize(*mesh, options, progress, path)
    for line in _remarks(voxels, options):
        note(f"{path}: {line}.")
    if use_cache:
        try:
            write_volume(voxels, file)
        except InputError as error:  # it works without, only slower the next time
            note(f"Not cached: {error}")
    return voxels


def _remarks(voxels: Voxels, options: VoxelizeOptions) -> list[str]:
    """What a user should know about a mesh that was voxelized, in a line each."""
    mending, lines = voxels.mending, []
    assert mending is not None
    if mending.dropped:
        lines.append(f"{mending.dropped:,} triangles that are there more than once were left out")
    if mending.turned:
        lines.append(f"{mending.turned:,} triangles that faced another way than their part, or inwards, were turned")
    if not mending.is_settled:
        lines.append("parts that face inwards were left as they are: there are too many to see which are hollows")
    if mending.open_edges:
        remedy = "" if options.votes > 1 else "; --votes 9 lets columns along x, y and z and beside the center decide"
        lines.append(f"the mesh is not closed: it has {mending.open_edges:,} open edges{remedy}")
    if mending.twisted_edges:
        effect = {"auto": "parts that overlap become hollow there", "winding": "set --fill auto to mend them"}
        what = effect.get(options.fill, "without effect on --fill parity")
        lines.append(f"at {mending.twisted_edges:,} edges, triangles face opposite ways: {what}")
    if voxels.undecided:
        share = voxels.undecided / voxels.signal.num_samples
        lines.append(f"{voxels.undecided:,} voxels ({share:.2%}) follow their neighbors: no majority")
    return lines


def cache_file(mesh: MeshArrays, path: Path, options: VoxelizeOptions, cache_dir: Path | None = None) -> Path:
    """Where the occupancy of a mesh is kept. The name follows from the mesh's content and the options."""
    chosen = {field.name: getattr(options, field.name) for field in fields(VoxelizeOptions)}
    digest = hashlib.sha256(repr((VERSION, sorted(chosen.items()))).encode())
    for array in mesh:
        digest.update(np.ascontiguousarray(array).data)
    name = f"{path.stem}-{options.resolution}-{digest.hexdigest()[:16]}.npz"
    if cache_dir is not None:
        return cache_dir / name
    beside = path.absolute().parent / "voxels"
    user = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "fieldsuite" / "voxels"
    can_write = os.access(beside if beside.is_dir() else beside.parent, os.W_OK)
    return beside / name if can_write or (beside / name).exists() else user / name


def write_volume(voxels: Voxels, path: Path) -> Path:
    """Write a volume, whole or not at all: .npz as described above, or .npy of one value a voxel.

    Raises: InputError if the suffix is another or the file cannot be written.
    """
    if path.suffix.lower() not in VOLUME_SUFFIXES:
        raise InputError(f"the suffix {path.suffix!r} is no volume format", f"Use {', '.join(VOLUME_SUFFIXES)}", path)
    signal, grid = voxels.signal, voxels.grid
    with written_whole(path) as partial:
        if path.suffix.lower() == ".npz":
            samples = {"bits": signal.array} if signal.packed else {"values": signal.array[..., 0]}
            place = {"shape": grid.shape, "origin": grid.origin, "voxel_size": grid.voxel_size}
            np.savez_compressed(partial, **samples, **place)
        else:
            target = np.lib.format.open_memmap(partial, mode="w+", dtype=signal.dtype, shape=grid.shape)
            for rows in chunks(grid.shape):
                box = signal.read_stored((rows.start, 0, 0), (rows.stop, *grid.shape[1:]))
                target[rows] = box[..., 0]
            target.flush()
    return path


def read_grid(path: Path) -> Grid:
    """The size and place of a volume, without reading its samples.

    Raises: InputError if the file cannot be read or holds no volume.
    """
    _require_volume(path)
    with damage_explained(path, "volume"):
        if path.suffix.lower() == ".npz":
            with np.load(path) as content:
                if _has_grid(content):
                    return _stored_grid(content, path)
        return Grid(_volume_shape(array_header(path)[0], path))


def read_volume(path: Path, threshold: float | None = None, keep_values: bool = False) -> Voxels:
    """Read an occupancy volume, or make one from a volume of numbers.

    Args:
        path: .npz or .npy file; axes are x, y and z (and optionally one channel).
        threshold: voxels of greater value are inside. Default: the middle between the least and the greatest value.
        keep_values: keep numbers as they are stored instead.
    Raises: InputError if the file cannot be read, has another shape, holds NaN or infinity, or is larger than the
        memory.
    """
    grid = read_grid(path)
    with damage_explained(path, "volume"):
        array = None
        if path.suffix.lower() == ".npz":
            with np.load(path) as content:
                if _has_grid(content) and "bits" in content:
                    return Voxels(Signal.from_bits(load_member(content, "bits", path), grid.shape, path), grid)
                if _has_grid(content):
                    array = load_member(content, "values", path)
        if array is None:
            array = load_array(path)
    if _volume_shape(array.shape, path) != grid.shape:
        raise InputError(f"the values have shape {array.shape}, the grid {grid.shape}", "Write it again", path)
    array = array.reshape(grid.shape)
    if array.dtype.kind not in "buif":
        raise InputError(f"the values have type {array.dtype}", "Store them as bool, integers or floats", path)
    if keep_values and array.dtype.kind != "b":
        return Voxels(Signal(array, ndim=3, source=path), grid)
    require_memory(array.size // 8, f"an occupancy of {array.size:,} voxels", "Use fewer voxels", path)
    if array.dtype.kind == "b":
        return Voxels(Signal.from_occupancy(array, path), grid)
    low, high = find_extremes(array[..., None], path)
    level = threshold if threshold is not None else 0.5 * (low + high) if high > low else 0.0
    bits = np.empty((*grid.shape[:2], -(-grid.shape[2] // 8)), dtype=np.uint8)
    for rows in chunks(grid.shape):
        bits[rows] = np.packbits(array[rows] > level, axis=-1)
    return Voxels(Signal.from_bits(bits, grid.shape, path), grid)


def kept_as(path: Path, keep_values: bool = False) -> tuple[np.dtype, int]:
    """Type of the samples of a volume as `read_volume` gives them, and the main memory they take, without reading them.

    Raises: InputError if the file cannot be read or holds no volume.
    """
    grid = read_grid(path)
    packed = grid.shape[0] * grid.shape[1] * -(-grid.shape[2] // 8)
    if not keep_values:
        return np.dtype(bool), packed
    voxels = math.prod(grid.shape)
    with damage_explained(path, "volume"):
        if path.suffix.lower() == ".npz":
            with np.load(path) as content:
                if _has_grid(content):
                    return (np.dtype(bool), packed) if "bits" in content else (np.dtype(np.uint8), voxels)
        dtype = array_header(path)[1]
    if dtype.kind == "b":
        return dtype, packed
    return dtype, voxels * dtype.itemsize if path.suffix.lower() == ".npz" else 0


def _require_volume(path: Path) -> None:
    if require_path(path, "volume").is_dir():
        raise InputError("is a folder", "Name one volume file", path)
    require_file(path, "volume")
    if path.suffix.lower() not in VOLUME_SUFFIXES:
        raise InputError(f"the suffix {path.suffix!r} is no volume format", f"Use {', '.join(VOLUME_SUFFIXES)}", path)


def _has_grid(content: NpzFile) -> bool:
    return all(name in content for name in ("shape", "origin", "voxel_size"))


def _stored_grid(content: NpzFile, path: Path) -> Grid:
    x, y, z = (float(value) for value in content["origin"])
    voxel_size = float(content["voxel_size"])
    if not (np.isfinite([x, y, z]).all() and 0.0 < voxel_size < np.inf):
        raise InputError(f"origin {(x, y, z)} and voxel size {voxel_size} place no grid", "Write it again", path)
    return Grid(_volume_shape(tuple(content["shape"].tolist()), path), (x, y, z), voxel_size)


def _volume_shape(shape: tuple[int, ...], path: Path) -> tuple[int, int, int]:
    """The three axes of a volume's shape."""
    if len(shape) not in (3, 4) or shape[3:] not in ((), (1,)) or min(shape) < 1:
        raise InputError(f"the volume has shape {tuple(shape)}", "It must have three axes: voxels along x, y, z", path)
    x, y, z = (int(n) for n in shape[:3])
    return x, y, z
