"""`ns-show-poses`: shows the cameras of a data set, in the viser web viewer or as a picture.

It works with every data parser that nerfstudio knows, and shows what training would see: the poses after the parser has
oriented, centered and scaled them, and the scene box.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from common_ns.cameras.pose_figure import draw_figure
from common_ns.cameras.pose_set import load_poses, summary
from common_ns.cameras.pose_viewer import show_in_viewer
from common_ns.data.checks import require_path
from common_ns.data.files import require_writable, written_whole
from common_ns.data.formats import formats_of
from common_ns.errors import InputError
from common_ns.nerfstudio_seam.last_words import report_input_errors

if TYPE_CHECKING:
    from nerfstudio.data.dataparsers.base_dataparser import DataParserConfig


def guess_dataparser(folder: Path) -> str:
    """Name of the data parser for a folder, judged by the files in it."""
    if folder.suffix.lower() == ".json":
        return "nerfstudio-data"
    found = [each.dataparser for each in formats_of(folder) if each.dataparser and "miner" not in each.dataparser]
    if found:
        return found[0]
    problem = "holds no transforms_train.json, transforms.json, metadata.json, cameras.npz or COLMAP model"
    raise InputError(problem, "Name the data parser: ns-show-poses NAME --data FOLDER (--help lists the names)", folder)


@dataclass
class ShowPoses:
    """Show the cameras of a data set in the web viewer, or as a picture with --output-path."""

    data: Path | None = None
    """Folder of the data set. Default: that of the data parser."""
    output_path: Path | None = None
    """Picture to write, such as poses.png."""
    viewer: bool = True
    """Open the web viewer and keep it running. On the command line, --output-path alone turns it off."""
    thumbnails: int = 150
    """How many cameras carry their image; the picture has them only if it has no more cameras than that."""
    host: str = "127.0.0.1"
    """Address that the web viewer listens on: this machine only; 0.0.0.0 for all that can reach it."""
    port: int = 7007
    """Port of the web viewer; the next free one if it is taken."""

    def main(self, dataparser: DataParserConfig | None = None) -> None:
        """Show the cameras.

        Args:
            dataparser: how to read the data set; None to judge by the files in it.
        """
        if self.output_path is not None:
            require_writable(self.output_path)
        name, config = self.named_dataparser(dataparser)
        require_path(config.data, "data set")
        poses = load_poses(config, f"{config.data.resolve().name}  ({name})")
        if self.output_path is not None:
            with written_whole(self.output_path) as partial:
                draw_figure(poses, self.thumbnails).savefig(partial)
            print(f"Written to {self.output_path}")
        for heading, value in summary(poses):
            print(f"  {heading:16}{value}")
        if self.viewer:
            server = show_in_viewer(poses, self.host, self.port, self.thumbnails)
            print(f"Open http://localhost:{server.get_port()} in a browser; ctrl+c ends.", flush=True)
            try:
                while True:
                    time.sleep(1.0)
            except KeyboardInterrupt:
                server.stop()

    def named_dataparser(self, dataparser: DataParserConfig | None) -> tuple[str, DataParserConfig]:
        """The data parser to use with --data filled in, and its name on the command line."""
        from copy import deepcopy

        from nerfstudio.configs.dataparser_configs import all_dataparsers

        if dataparser is not None:
            names = [name for name, config in all_dataparsers.items() if type(config) is type(dataparser)]
            dataparser.data = self.data or dataparser.data
            return (names or [type(dataparser).__name__])[0], dataparser
        if self.data is None:
            raise InputError("no data set is named", "Give its folder: ns-show-poses --data FOLDER")
        require_path(self.data, "data set")
        name = guess_dataparser(self.data)
        if name not in all_dataparsers:
            remedy = "Install the package that provides it, or name another data parser"
            raise InputError(f"looks like a data set for {name}, which is not installed", remedy, self.data)
        config = deepcopy(all_dataparsers[name])
        config.data = self.data
        return name, config


def parse_arguments(arguments: list[str]) -> tuple[ShowPoses, DataParserConfig | None]:
    """Read the command line: this command's options, and optionally a data parser's name followed by its options.

    The two are read one after the other, so that --data and --output-path may stand before or after the name.
    """
    from nerfstudio.configs.dataparser_configs import AnnotatedDataParserUnion, all_dataparsers

    named = next((argument for argument in arguments if argument in all_dataparsers), None)
    if named is not None and {"-h", "--help"} & set(arguments):
        arguments = [argument for argument in arguments if argument not in ("-h", "--help")]
        tyro.cli(AnnotatedDataParserUnion, args=[named, "--help"], prog="ns-show-poses")
    description = (
        f"{ShowPoses.__doc__}\n\nThe data set is read as its files suggest, or by the data parser that is named: "
        f"ns-show-poses NAME --data FOLDER [options of the data parser], with NAME one of {', '.join(all_dataparsers)}."
    )
    writes_picture = any(argument.split("=")[0].replace("_", "-") == "--output-path" for argument in arguments)
    command, rest = tyro.cli(
        ShowPoses,
        args=arguments,
        default=ShowPoses(viewer=not writes_picture),
        description=description,
        return_unknown_args=True,
    )
    if not rest:
        return command, None
    return command, tyro.cli(AnnotatedDataParserUnion, args=rest, prog="ns-show-poses")


def entrypoint() -> None:
    """Entry point of the console command."""
    report_input_errors()
    command, dataparser = parse_arguments(sys.argv[1:])
    command.main(dataparser)


if __name__ == "__main__":
    entrypoint()
