"""How long commands take to start: what our packages add to nerfstudio's own imports, and `ns-train METHOD --help`.

python -m benchmarks.startup run

Each figure is the processor time of a fresh Python process, median over rounds in which all variants take turns. In the
variants "without ours", nerfstudio does not get to see this suite's entry points.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from dataclasses import dataclass

import tyro

from benchmarks.report import save_section, write_sections

PACKAGES = ("method_configs", "common_ns", "miner_ns", "mipnerf_ns", "depthnerf_ns", "hashnffb_sdf_ns")

HIDE = f"""
import importlib.metadata as metadata
everything = metadata.entry_points
def others(**chosen):
    if not chosen:
        return everything()
    return metadata.EntryPoints(p for p in everything(**chosen) if p.module.split(".")[0] not in {PACKAGES!r})
metadata.entry_points = others
"""
"""Lets nerfstudio find the entry points of others only."""

IMPORT = """
import json, time
import nerfstudio.engine.trainer, nerfstudio.configs.method_configs
print(json.dumps({"seconds": time.process_time()}))
"""

OURS = f"""
import importlib, importlib.metadata as metadata, json, sys, time
import nerfstudio.configs.method_configs
modules = sorted({{p.module for group in ("nerfstudio.method_configs", "nerfstudio.dataparser_configs")
                   for p in everything(group=group) if p.module.split(".")[0] in {PACKAGES!r}}})
start = time.process_time()
for module in modules:
    importlib.import_module(module)
print(json.dumps({{"seconds": time.process_time() - start}}))
"""
"""Imports what our entry points name, after all that nerfstudio imports by itself."""

HELP = """
import contextlib, io, json, sys, time
sys.argv = ["ns-train", "METHOD", "--help"]
from nerfstudio.scripts.train import entrypoint
text = io.StringIO()
with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
    entrypoint()
assert "METHOD" in text.getvalue()
print(json.dumps({"seconds": time.process_time()}))
"""

VARIANTS = {
    "import nerfstudio's methods, without ours": HIDE + IMPORT,
    "import nerfstudio's methods, with ours": IMPORT,
    "our packages, after nerfstudio": HIDE + OURS,
    "ns-train nerfacto --help, without ours": HIDE + HELP.replace("METHOD", "nerfacto"),
    "ns-train nerfacto --help, with ours": HELP.replace("METHOD", "nerfacto"),
    "ns-train mip-nerf-small --help": HELP.replace("METHOD", "mip-nerf-small"),
    "ns-train hash-neus-small --help": HELP.replace("METHOD", "hash-neus-small"),
}


@dataclass
class Run:
    """Measure, and write the table."""

    rounds: int = 5
    """Processes of each kind."""

    def main(self) -> None:
        """Measure all variants in turns."""
        seconds: dict[str, list[float]] = {name: [] for name in VARIANTS}
        for _ in range(self.rounds):
            for name, code in VARIANTS.items():
                seconds[name].append(measure(code))
                print(f"{name}: {seconds[name][-1]:.2f} s", flush=True)
        rows = [
            {
                "what": name,
                "seconds of processor time": round(statistics.median(values), 2),
                "least": round(min(values), 2),
                "most": round(max(values), 2),
            }
            for name, values in seconds.items()
        ]
        settings = {"rounds": self.rounds, "python": ".".join(map(str, sys.version_info[:3]))}
        save_section("startup", "processor time", {"settings": settings, "rows": rows})
        write_sections("startup", "Start-up")


def measure(code: str) -> float:
    """Processor time in seconds that a fresh process reports."""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])["seconds"]


@dataclass
class Table:
    """Write the table from the results again."""

    def main(self) -> None:
        """Write it."""
        write_sections("startup", "Start-up")


if __name__ == "__main__":
    tyro.extras.subcommand_cli_from_dict({"run": Run, "table": Table}).main()
