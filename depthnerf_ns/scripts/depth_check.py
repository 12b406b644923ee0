"""`ns-depth-check`: does the depth of a data set fit its poses, in unit and kind?

    ns-depth-check DATA
    ns-depth-check DATA --depth-kind ray --output-path check.png

It ends with code 1 if the depth is evidently wrong. The last line says whether the images agree with the depth.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from common_ns.data.files import require_writable, written_whole
from common_ns.errors import InputError
from common_ns.nerfstudio_seam.last_words import report_input_errors


@dataclass
class DepthCheck:
    """Compare the depth maps of a data set's views with each other, and say whether unit and kind fit the poses."""

    data: tyro.conf.Positional[Path]
    """Folder of the data set (transforms.json with depth, ScanNet or Matterport3D), or its transforms.json."""
    layout: Literal["auto", "nerfstudio", "scannet", "matterport"] = "auto"
    """How the files are arranged; auto: judged by the folders that are there."""
    depth_unit: float | None = None
    """Meters (the unit of the poses) per step of the depth files. None: as the data set states it."""
    depth_kind: Literal["z", "ray"] | None = None
    """z: depth counts along the optical axis; ray: along the ray. None: as the data set states it, else z."""
    depth_min: float = 0.0
    """Smaller depths, in meters, are taken for missing."""
    depth_max: float = math.inf
    """Larger depths, in meters, are taken for missing."""
    depth_resize: bool = False
    """Accept depth of another size than its image, of the same proportions."""
    output_path: Path | None = None
    """Picture to write, such as check.png: depth, residuals, and the residual against the scale of depth."""

    def main(self) -> None:
        """Check, and print and draw the report.

        Raises: InputError if the depth is evidently wrong, or cannot be read.
        """
        from common_ns.data.depth.photo_check import photo_support
        from depthnerf_ns.checks.depth_check import all_outputs, check_depth
        from depthnerf_ns.dataparser import RgbdDataParserConfig, contract_in_words

        if self.output_path is not None:
            require_writable(self.output_path)
        names = ("data", "layout", "depth_unit", "depth_kind", "depth_min", "depth_max", "depth_resize")
        config = RgbdDataParserConfig(**{name: getattr(self, name) for name in names})
        outputs = all_outputs(config)
        print(contract_in_words(outputs[0].metadata))
        report = check_depth(*outputs)
        if self.output_path is not None:
            from depthnerf_ns.checks.depth_figure import draw_figure

            try:
                with written_whole(self.output_path) as partial:
                    draw_figure(report, *outputs).savefig(partial)
            except InputError:
                raise
            except ValueError as error:  # of a suffix that is no picture's
                problem = f"the picture cannot be written ({error})"
                raise InputError(problem, "Choose another --output-path", self.output_path) from error
            print(f"Written to {self.output_path}")
        if report.verdict == "wrong":
            *table, _ = report.lines()
            print("\n".join(table))
            raise InputError(report.problem, report.remedy, self.data)
        print("\n".join(report.lines()))
        print(photo_support(outputs[0]).words)


def entrypoint() -> None:
    """Entry point of the console command."""
    report_input_errors()
    # nerfstudio's cameras index by a list of tensors, which torch announces to change.
    warnings.filterwarnings("ignore", message="Using a non-tuple sequence")
    tyro.cli(DepthCheck, description=DepthCheck.__doc__).main()


if __name__ == "__main__":
    entrypoint()
