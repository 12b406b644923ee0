"""The picture of docs/architecture.md: packages as rows, their rooms as boxes, imports pointing down.

python docs/pictures/architecture.py
"""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.patches import FancyBboxPatch

matplotlib.rcParams["svg.fonttype"] = "none"
matplotlib.rcParams["svg.hashsalt"] = "architecture"

ROWS: list[tuple[str, str, list[str]]] = [
    ("method_configs", "#fde68a", ["mipnerf", "depthnerf", "hashnffb_sdf", "miner", "dataparsers"]),
    ("depthnerf_ns", "#bfdbfe", ["dataparser, dataset", "checks", "losses", "fields, models", "prepare"]),
    ("mipnerf_ns", "#bfdbfe", ["proposal sampler", "fields, networks", "models", "multi-scale Blender scenes"]),
    (
        "hashnffb_sdf_ns",
        "#bfdbfe",
        ["idr_data", "object_sphere", "encodings, SDF field", "NeuS and IDR", "mesh_evaluation"],
    ),
    ("miner_ns", "#bfdbfe", ["signals, files", "pyramid, fitting", "kernels", "hierarchy, rendering"]),
    (
        "common_ns",
        "#bbf7d0",
        [
            "nerfstudio_seam",
            "data",
            "cameras",
            "rays",
            "meshing",
            "hash_grid",
            "splats, baking",
            "sample_scene",
            "base_model",
        ],
    ),
    ("nerfstudio", "#e5e7eb", ["trainer, pipeline, datamanager, samplers, viewer, ns-* commands"]),
]
"""Name, color and rooms of each package, from what users type down to nerfstudio."""


def draw() -> plt.Figure:
    """The picture."""
    figure, axes = plt.subplots(figsize=(11.0, 5.6))
    axes.set(xlim=(0, 110), ylim=(0, 8 * len(ROWS) + 2))
    axes.axis("off")
    style = "round,pad=0.1,rounding_size=0.6"
    for number, (name, color, rooms) in enumerate(reversed(ROWS)):
        bottom = 8 * number + 2
        axes.add_patch(FancyBboxPatch((1, bottom), 105, 6, boxstyle=style, facecolor=color, edgecolor="#374151"))
        axes.text(2.5, bottom + 3, name, va="center", family="monospace", fontsize=10, weight="bold")
        letters = [len(room) + 4 for room in rooms]
        left = 21.0
        for room, count in zip(rooms, letters):
            width = 84.0 * count / sum(letters)
            box = FancyBboxPatch(
                (left, bottom + 1.2), width - 1.5, 3.6, boxstyle=style, facecolor="white", edgecolor="#9ca3af"
            )
            axes.add_patch(box)
            axes.text(left + 0.5 * (width - 1.5), bottom + 3, room, ha="center", va="center", fontsize=7.5)
            left += width
    arrow = {"arrowstyle": "-|>", "color": "#374151", "linewidth": 1.5}
    axes.annotate("", xy=(108.5, 3), xytext=(108.5, 8 * len(ROWS)), arrowprops=arrow)
    axes.text(109.3, 4 * len(ROWS), "imports", rotation=270, va="center", fontsize=8, color="#374151")
    return figure


if __name__ == "__main__":
    file = Path(__file__).with_name("architecture.svg")
    draw().savefig(file, bbox_inches="tight", metadata={"Date": None})
    print(file)
