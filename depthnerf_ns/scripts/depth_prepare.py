"""`ns-depth-prepare`: depth and σ for a capture, from its sensor, key points, a monocular network, or both.

    ns-depth-prepare DATA --source sfm --output-path DATA/prepared
    ns-depth-prepare DATA --source mono --model MODEL --output-path DATA/prepared
    ns-depth-prepare DATA --source composite --predictions FOLDER --mono-kind inverse-depth --output-path DATA/prepared
    ns-depth-prepare --photos FOLDER --source sfm --output-path OUT

Then train with `ns-train METHOD rgbd-data --data DATA/prepared`.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import tyro

from common_ns.nerfstudio_seam.last_words import report_input_errors
from depthnerf_ns.prepare.options import PrepareOptions


@dataclass(kw_only=True)
class DepthPrepare(PrepareOptions):
    """Give a capture depth with a standard deviation for each pixel, as a data set that rgbd-data reads.

    Monocular predictions are aligned to each frame's known depth by a robust scale and shift. Frames that get no depth
    are left out of the new data set and named in the report.
    """

    def main(self) -> None:
        """Prepare, and print the report.

        Raises: InputError if the data set or the options are wrong, or no frame gets depth.
        """
        from depthnerf_ns.prepare.run import prepare

        report = prepare(self, progress=True)
        print("\n".join(report.lines()))
        print(f"Written to {self.output_path}; look at {self.output_path / 'overview.png'}")


def entrypoint() -> None:
    """Entry point of the console command."""
    report_input_errors()
    # nerfstudio's cameras index by a list of tensors, which torch announces to change.
    warnings.filterwarnings("ignore", message="Using a non-tuple sequence")
    tyro.cli(DepthPrepare, description=DepthPrepare.__doc__).main()


if __name__ == "__main__":
    entrypoint()
