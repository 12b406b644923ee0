"""`ns-eval-mesh`: how far a mesh is from a reference, by distances between surfaces or by DTU's protocol.

ns-eval-mesh mesh.ply reference.ply
ns-eval-mesh mesh.ply stl065_total.ply --protocol dtu --obs-mask ObsMask65_10.mat --plane Plane65.mat
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console
from rich.progress import Progress as RichProgress
from rich.table import Table

from common_ns.data.files import require_writable, written_whole
from common_ns.errors import InputError
from common_ns.nerfstudio_seam.last_words import report_input_errors
from hashnffb_sdf_ns.mesh_evaluation.dtu_protocol import MAX_DISTANCE, DtuMetrics, Observability
from hashnffb_sdf_ns.mesh_evaluation.dtu_protocol import evaluate as evaluate_dtu
from hashnffb_sdf_ns.mesh_evaluation.mesh_metrics import DEFAULT_SAMPLES, MeshMetrics, compare
from hashnffb_sdf_ns.mesh_evaluation.surface_points import Progress, read_geometry


@dataclass
class EvalMeshCommand:
    """Measure a mesh against a reference: accuracy, completeness, Chamfer distance, F-score, normal consistency.

    Both have to be in the same coordinates: ns-mesh --world-coordinates writes a mesh in those of its data set.
    """

    prediction: Annotated[Path, tyro.conf.Positional]
    """Mesh (or point cloud) to measure."""
    reference: Annotated[Path, tyro.conf.Positional]
    """Reference mesh or point cloud."""
    protocol: Literal["surface", "dtu"] = "surface"
    """surface: distances between points on both. dtu: the evaluation of the DTU data set, in millimeters; the reference
    is stl<scan>_total.ply."""
    threshold: float | None = None
    """surface: distance within which a point counts as right for the F-score, in the unit of the files. Default: 1 % of
    the diagonal of the reference's bounding box."""
    samples: int | None = None
    """surface: points on each mesh. Default: 200,000."""
    obs_mask: Path | None = None
    """dtu: ObsMask<scan>_10.mat, the voxels that the scanner observed."""
    plane: Path | None = None
    """dtu: Plane<scan>.mat, the ground plane."""
    seed: int = 0
    """Of the random choices: the same seed gives the same figures."""
    output_path: Path | None = None
    """JSON file to write the figures to."""

    def check(self) -> None:
        """Raises: InputError about options that do not belong to the protocol, or are missing."""
        others = ("threshold", "samples") if self.protocol == "dtu" else ("obs_mask", "plane")
        for name in others:
            if getattr(self, name) is not None:
                option = f"--{name.replace('_', '-')}"
                raise InputError(f"{option} does not belong to --protocol {self.protocol}", f"Drop {option}")
        for name, file in (("obs-mask", self.obs_mask), ("plane", self.plane)):
            if self.protocol == "dtu" and file is None:
                problem = f"--protocol dtu needs --{name}"
                raise InputError(problem, "Give the .mat file of the scan, from DTU's SampleSet")

    def main(self) -> MeshMetrics | DtuMetrics:
        """Measure, print a table, and write the JSON file if one is named."""
        self.check()
        if self.output_path is not None and self.output_path.suffix.lower() != ".json":
            raise InputError("the file for the figures is JSON", "Give it the suffix .json", self.output_path)
        if self.output_path is not None:
            require_writable(self.output_path)
        prediction, reference = read_geometry(self.prediction), read_geometry(self.reference)
        result: MeshMetrics | DtuMetrics
        if self.protocol == "dtu":
            assert self.obs_mask is not None and self.plane is not None
            observability = Observability.read(self.obs_mask, self.plane)
            with progress_bar() as progress:
                result = evaluate_dtu(prediction, reference.vertices, observability, self.seed, progress)
            rows = dtu_rows(result)
        else:
            samples = DEFAULT_SAMPLES if self.samples is None else self.samples
            with progress_bar() as progress:
                result = compare(prediction, reference, samples, self.threshold, self.seed, progress)
            rows = surface_rows(result)
        table = Table("", "figure", "meaning", title=f"{self.prediction} against {self.reference}")
        table.columns[1].justify = "right"
        for row in rows:
            table.add_row(*row)
        Console().print(table)
        if self.output_path is not None:
            content = {
                "prediction": str(self.prediction),
                "reference": str(self.reference),
                "protocol": self.protocol,
                "seed": self.seed,
                **result.as_dict(),
            }
            with written_whole(self.output_path) as partial:
                partial.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
            print(f"Written to {self.output_path}")
        return result


def surface_rows(result: MeshMetrics) -> list[tuple[str, str, str]]:
    """Lines of the table: name, figure, meaning."""
    percent = f"{100 * result.threshold / result.diagonal:.3g} % of the reference's diagonal"
    normals = "–" if result.normal_consistency is None else f"{result.normal_consistency:.4f}"
    return [
        ("accuracy", f"{result.accuracy:.4g}", "mean distance from the mesh to the reference"),
        ("completeness", f"{result.completeness:.4g}", "mean distance from the reference to the mesh"),
        ("Chamfer", f"{result.chamfer:.4g}", f"mean of both; {result.chamfer_relative:.3%} of the diagonal"),
        ("precision", f"{result.precision:.2%}", f"of the mesh within {result.threshold:.4g} ({percent})"),
        ("recall", f"{result.recall:.2%}", "of the reference within the same"),
        ("F-score", f"{result.f_score:.2%}", "harmonic mean of both"),
        ("normals", normals, "mean |cosine| between normals of nearest points"),
    ]


def dtu_rows(result: DtuMetrics) -> list[tuple[str, str, str]]:
    """Lines of the table: name, figure in mm, meaning."""
    outliers = f"{{:.2%}} of {{:,}} points are {MAX_DISTANCE:g} mm or more away and left out"
    accurate = outliers.format(result.accuracy_outliers, result.accuracy_points)
    complete = outliers.format(result.completeness_outliers, result.completeness_points)
    return [
        ("accuracy", f"{result.accuracy:.4f} mm", f"from the mesh to the scan; {accurate}"),
        ("completeness", f"{result.completeness:.4f} mm", f"from the scan to the mesh; {complete}"),
        ("overall", f"{result.overall:.4f} mm", "mean of both"),
    ]


@contextmanager
def progress_bar() -> Iterator[Progress]:
    """A bar for each stage."""
    with RichProgress(transient=True) as bars:
        tasks = {}

        def advance(stage: str, share: float) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=1.0)
            bars.advance(tasks[stage], share)

        yield advance


def entrypoint() -> None:
    """Entry point of the console command."""
    report_input_errors()
    tyro.cli(EvalMeshCommand, prog="ns-eval-mesh", description=inspect.getdoc(EvalMeshCommand)).main()


if __name__ == "__main__":
    entrypoint()
