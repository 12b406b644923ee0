"""First surfaces along rays, cast at the solids' meshes. Vectors are [3, n], see `vectors`."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import ndarray

from common_ns.sample_scene.layout import Part
from common_ns.sample_scene.vectors import norm, take

if TYPE_CHECKING:
    import trimesh


@dataclass(frozen=True)
class Crossings:
    """Where those rays that hit something first do so, sorted by part. Single precision."""

    ray: Int[ndarray, "m"]
    """Number of the ray."""
    part: Int[ndarray, "m"]
    """Number of the part that it hits."""
    distance: Float[ndarray, "m"]
    """Distance along the ray in scene units."""
    direction: Float[ndarray, "3 m"]
    """Of the ray."""
    point: Float[ndarray, "3 m"]
    """Where it hits."""
    normal: Float[ndarray, "3 m"]
    """The part's outward unit normal there."""

    def by_part(self) -> list[tuple[int, slice]]:
        """Parts that are hit, each with the slice that it takes."""
        starts = np.flatnonzero(np.diff(self.part, prepend=-1)).tolist()
        return [(int(self.part[a]), slice(a, b)) for a, b in pairwise([*starts, self.part.size])]


class Tracer:
    """Casts rays at the meshes of some parts, with the normals of the solids that they stand for."""

    def __init__(self, parts: list[Part]) -> None:
        import open3d

        self.parts = parts
        self._tensor = open3d.core.Tensor
        bodies = [(k, solid, solid.mesh()) for k, part in enumerate(parts) for solid in part.solids]
        self.vertices: Float[ndarray, "3 v"] = np.concatenate([mesh.vertices for *_, mesh in bodies]).T
        self._scene = self._casting([mesh for *_, mesh in bodies])
        blockers = [mesh for k, _, mesh in bodies if not parts[k].emissive]
        self._blockers = self._casting(blockers) if len(blockers) < len(bodies) else self._scene
        # What misses everything has the number that follows the last triangle's.
        owner = [np.full(len(mesh.faces), k) for k, _, mesh in bodies]
        self._owner = np.concatenate([*owner, [-1]]).astype(np.int16)
        normals = np.concatenate([solid.corner_normals(mesh) for _, solid, mesh in bodies])
        self._normals = normals.reshape(-1, 9).astype(np.float32)

    def _casting(self, meshes: list[trimesh.Trimesh]) -> Any:
        """open3d's scene of the meshes, their triangles numbered throughout."""
        import open3d
        import trimesh

        whole: Any = trimesh.util.concatenate(meshes)
        scene = open3d.t.geometry.RaycastingScene()
        vertices, faces = np.asarray(whole.vertices, dtype=np.float32), np.asarray(whole.faces, dtype=np.uint32)
        scene.add_triangles(self._tensor(vertices), self._tensor(faces))
        return scene

    def _rays(self, o: Float[ndarray, "3 *n"], d: Float[ndarray, "3 n"]) -> Any:
        """Rays as open3d takes them."""
        rays = np.empty((d.shape[1], 6), dtype=np.float32)
        # Row by row: several times as fast as all three at once.
        for column, row in enumerate((*o, *d)):
            rays[:, column] = row
        return self._tensor.from_numpy(rays)

    def first(self, o: Float[ndarray, "3 *n"], d: Float[ndarray, "3 n"]) -> Crossings:
        """First surfaces along rays from o (one point or one for each ray) with unit directions d."""
        found = {name: values.numpy() for name, values in self._scene.cast_rays(self._rays(o, d)).items()}
        owner = self._owner[np.minimum(found["primitive_ids"], self._owner.size - 1)]
        # 16-bit keys are sorted by radix, in linear time.
        ray = np.argsort(owner, kind="stable")[np.count_nonzero(owner < 0) :]
        t, d = found["t_hit"][ray], take(d.astype(np.float32), ray)
        u, v = take(found["primitive_uvs"].T, ray)
        corners = np.ascontiguousarray(self._normals.take(found["primitive_ids"][ray], axis=0).T)
        normal = (1 - u - v) * corners[:3] + u * corners[3:6] + v * corners[6:]
        start = o.astype(np.float32) if o.shape[1] == 1 else take(o.astype(np.float32), ray)
        return Crossings(ray, owner[ray], t, d, start + t * d, normal / norm(normal))

    def reaches(self, o: Float[ndarray, "3 n"], towards: Float[ndarray, "3 1"]) -> Bool[ndarray, "n"]:
        """Whether light from far away, in the direction `towards`, reaches points that are off the surfaces."""
        return ~self._blockers.test_occlusions(self._rays(o, np.broadcast_to(towards, o.shape))).numpy()
