"""`ns-mesh`: the surface of a trained field as a triangle mesh, on any device and at any resolution."""

from __future__ import annotations

import inspect
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import tyro
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from common_ns.data.checks import explained, read_json
from common_ns.data.files import require_writable
from common_ns.errors import InputError
from common_ns.meshing.culling import Views, keep_vertices, seen_vertices, within_masks
from common_ns.meshing.extraction import check_box, extract_mesh
from common_ns.meshing.iso_field import iso_field_of
from common_ns.meshing.mesh_io import Mesh, check_mesh_path
from common_ns.nerfstudio_seam.last_words import report_input_errors
from common_ns.nerfstudio_seam.runs import load_run

if TYPE_CHECKING:
    from nerfstudio.pipelines.base_pipeline import Pipeline

Corner = tuple[float, float, float]


def load_pipeline(load_config: Path) -> Pipeline:
    """The pipeline of a run with the weights of its last checkpoint, in evaluation mode.

    Raises: InputError if the config, the data or the checkpoint is missing or cannot be read.
    """
    with explained(load_config):
        return load_run(load_config)


def model_to_world(pipeline: Pipeline, load_config: Path) -> Float[NDArray, "3 4"]:
    """The affine map [A | b] from model coordinates to those of the data set.

    A dataparser puts a point x of the data set at scale · (R x + t) with [R | t] its transform. They are taken from the
    pipeline's dataparser, or else from the dataparser_transforms.json that ns-train writes beside the config.
    """
    outputs = getattr(pipeline.datamanager, "train_dataparser_outputs", None)
    if outputs is not None:
        transform, scale = outputs.dataparser_transform.double().cpu().numpy(), float(outputs.dataparser_scale)
    else:
        content = read_json(load_config.parent / "dataparser_transforms.json", required=["transform", "scale"])
        transform, scale = np.array(content["transform"], dtype=np.float64), float(content["scale"])
    inverse = np.linalg.inv(transform[:3, :3])
    return np.concatenate([inverse / scale, -inverse @ transform[:3, 3:]], axis=1)


@dataclass
class MeshCommand:
    """Write the surface of a trained field as a triangle mesh.

    It is the zero set of a signed distance, a level of a density or occupancy 0.5, extracted without seams at any
    resolution, on the CPU as well as on a GPU.
    """

    load_config: Path
    """The run's config.yml."""
    output_path: Path = Path("mesh.ply")
    """File to write; its suffix decides the format: .ply, .obj or .glb."""
    resolution: int = 256
    """Number of voxels along the longest side of the box."""
    level: float | None = None
    """Value at the surface. Default: 0 for an SDF, 0.5 for an occupancy, and for a density ln 2 / (2.5 % of the box
    diagonal): a path of that length then absorbs half of the light."""
    bounding_box_min: Corner | None = None
    """Lower corner x y z of the crop box in the model's coordinates. Default: the model's scene box."""
    bounding_box_max: Corner | None = None
    """Upper corner x y z of the crop box in the model's coordinates. Default: the model's scene box."""
    chunk_size: int = 65536
    """Most points that are evaluated at once; it bounds the memory that the field needs."""
    vertex_colors: bool = True
    """Give vertices the field's color as seen head-on, if the field has colors."""
    normals: bool = True
    """Give vertices the normals of the field."""
    close: bool = True
    """Cap the mesh where the box cuts through the inside, so that it is watertight; else it stays open there."""
    refine: int = 4
    """Steps by which each vertex is moved along its grid edge to where the field itself crosses the level."""
    min_component_faces: int = 0
    """Drop connected pieces with fewer triangles than this: floaters."""
    keep_largest: int | None = None
    """Keep only so many connected pieces, the largest ones. Default: all."""
    lipschitz: float | None = None
    """Bound on how fast the field changes per scene unit, about 1 for an SDF; what the surface cannot reach is skipped.
    Too small a bound loses parts of the surface. Default: skip nothing."""
    cull_unseen: bool = False
    """Cut away what no training camera sees, such as the underside of things that stand; the mesh is open there."""
    cull_masks: int | None = None
    """Cut away what lies more than this many pixels outside of the object's mask in any training image."""
    world_coordinates: bool = False
    """Write the mesh in the coordinates of the data set: undo the dataparser's scale, rotation and shift."""

    def check(self) -> None:
        """Raises InputError about options that cannot work, before the run is loaded, which takes a while."""
        require_writable(check_mesh_path(self.output_path))
        for name in ("resolution", "chunk_size", "keep_largest", "lipschitz"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise InputError(f"--{name.replace('_', '-')} is {value}", "Give a number above 0")
        if self.cull_masks is not None and self.cull_masks < 0:
            raise InputError(f"--cull-masks is {self.cull_masks}", "Give a number of pixels, 0 or more")
        if self.bounding_box_min is not None and self.bounding_box_max is not None:
            check_box(torch.tensor([self.bounding_box_min, self.bounding_box_max]))

    def main(self) -> Path:
        """Extract and write the mesh, print what it is, and return where it is."""
        self.check()
        pipeline = load_pipeline(self.load_config)
        box = self.crop_box(iso_field_of(pipeline.model, self.level).aabb)
        size = check_box(box)
        voxel = float((size[1] - size[0]).max()) / self.resolution
        field = iso_field_of(pipeline.model, self.level, voxel_size=voxel)
        mesh = extract_mesh(
            field,
            resolution=self.resolution,
            chunk_size=self.chunk_size,
            aabb=box,
            progress=True,
            close=self.close,
            with_normals=self.normals,
            with_colors=self.vertex_colors,
            refine=self.refine,
            keep_largest=self.keep_largest,
            min_component_faces=self.min_component_faces,
            lipschitz=self.lipschitz,
        )
        mesh = self.culled(mesh, pipeline)
        if self.world_coordinates:
            mesh = mesh.transformed(model_to_world(pipeline, self.load_config))
        mesh.save(self.output_path)

        low, high = mesh.vertices.min(axis=0), mesh.vertices.max(axis=0)
        extent = " to ".join("(" + ", ".join(f"{x:.4g}" for x in corner) + ")" for corner in (low, high))
        kept = [name for name, part in (("normals", mesh.normals), ("colors", mesh.colors)) if part is not None]
        print(
            f"Surface at level {field.level:.4g}, voxels of {voxel:.4g} scene units\n"
            f"  vertices    {len(mesh.vertices):,}{' with ' + ' and '.join(kept) if kept else ''}\n"
            f"  faces       {len(mesh.faces):,}\n"
            f"  watertight  {'yes' if mesh.to_trimesh().is_watertight else 'no'}\n"
            f"  extent      {extent} in {'data set' if self.world_coordinates else 'model'} coordinates\n"
            f"Written to {self.output_path}"
        )
        return self.output_path

    def culled(self, mesh: Mesh, pipeline: Pipeline) -> Mesh:
        """The mesh without what the options cut away.

        Raises: InputError if there are no masks to cut by, or nothing is left.
        """
        if not self.cull_unseen and self.cull_masks is None:
            return mesh
        dataset = pipeline.datamanager.train_dataset
        assert dataset is not None
        views = Views.of(dataset.cameras)
        before = len(mesh.faces)
        if self.cull_masks is not None:
            object_mask: Any = getattr(dataset, "object_mask", None)
            if object_mask is None or object_mask(0) is None:
                raise InputError("--cull-masks is given, and the run's images have no masks", "Leave it out")
            kept = within_masks(
                mesh.vertices, views, lambda index: object_mask(index)[..., 0] > 127, margin=self.cull_masks
            )
            mesh = keep_vertices(mesh, kept)
        if self.cull_unseen and len(mesh.faces):
            mesh = keep_vertices(mesh, seen_vertices(mesh, views))
        if not len(mesh.faces):
            raise InputError("nothing is left of the mesh", "Leave out --cull-unseen and --cull-masks")
        print(f"Cut away {before - len(mesh.faces):,} of {before:,} triangles that no training image shows")
        return mesh

    def crop_box(self, default: Float[Tensor, "2 3"]) -> Float[Tensor, "2 3"]:
        """The box to mesh: the given corners, and the field's own where none is given."""
        given = (self.bounding_box_min, self.bounding_box_max)
        corners = [own.tolist() if corner is None else corner for own, corner in zip(default, given)]
        return torch.tensor(corners, dtype=torch.float64)


def entrypoint() -> None:
    """Entry point of the console command."""
    report_input_errors()
    tyro.cli(MeshCommand, prog="ns-mesh", description=inspect.getdoc(MeshCommand)).main()


if __name__ == "__main__":
    entrypoint()
