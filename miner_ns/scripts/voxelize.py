"""`ns-voxelize`: the occupancy of a mesh, as a file that `miner-occupancy-data` and numpy read."""

from __future__ import annotations

import inspect
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from common_ns.data.files import require_writable
from common_ns.errors import InputError
from common_ns.nerfstudio_seam.last_words import report_input_errors
from miner_ns.volume_io import VOLUME_SUFFIXES, read_mesh, voxelize_file, write_volume
from miner_ns.voxelize import VoxelizeOptions, Voxels


@dataclass(kw_only=True)
class VoxelizeCommand(VoxelizeOptions):
    """Find which voxels of a cube around a mesh are inside of it.

    The mesh may be an .obj, .off, .ply, .stl or .glb file. If it is not closed, the command says so; more votes help.
    """

    mesh: Annotated[Path, tyro.conf.Positional]
    """Mesh file."""
    output_path: Path | None = None
    """File to write: .npz (one bit a voxel, compressed, with the grid's place) or .npy (one byte a voxel). Default: the
    mesh's name with .npz in the current folder."""

    def main(self) -> Path:
        """Voxelize, write the result, print what it is, and return where it is."""
        output_path = Path(f"{self.mesh.stem}.npz") if self.output_path is None else self.output_path
        if output_path.suffix.lower() not in VOLUME_SUFFIXES:
            problem = f"the suffix {output_path.suffix!r} is no volume format"
            raise InputError(problem, f"Use {' or '.join(VOLUME_SUFFIXES)}", output_path)
        require_writable(output_path)
        self.check()
        mesh = read_mesh(self.mesh)
        start = time.monotonic()
        voxels = voxelize_file(mesh, self.mesh, self, use_cache=False, progress=True)
        seconds = time.monotonic() - start
        write_volume(voxels, output_path)
        print(describe(voxels, seconds))
        print(f"Written to {output_path}")
        return output_path


def describe(voxels: Voxels, seconds: float) -> str:
    """What a volume is, in a few lines for people."""
    grid, signal = voxels.grid, voxels.signal
    occupied = sum(
        float(signal.read((x, 0, 0), (x + 1, *grid.shape[1:])).sum(dtype=float)) for x in range(grid.shape[0])
    )
    origin = ", ".join(f"{value:.6g}" for value in grid.origin)
    return (
        f"Occupancy of {'×'.join(map(str, grid.shape))} voxels in {seconds:.1f} s\n"
        f"  inside      {occupied:,.0f} voxels ({occupied / signal.num_samples:.2%})\n"
        f"  volume      {occupied * grid.voxel_size**3:.6g} cubic units of the mesh\n"
        f"  voxel size  {grid.voxel_size:.6g} units\n"
        f"  origin      ({origin})"
    )


def entrypoint() -> None:
    """Entry point of the console command."""
    report_input_errors()
    tyro.cli(VoxelizeCommand, prog="ns-voxelize", description=inspect.getdoc(VoxelizeCommand)).main()


if __name__ == "__main__":
    entrypoint()
