"""Writing results: one JSON per benchmark that keeps earlier sections, and a Markdown table made from it."""

from __future__ import annotations

import datetime
import json
import os
import platform
from pathlib import Path

import torch

RESULTS = Path(__file__).parent / "results"


def machine() -> dict[str, str | int]:
    """What the figures were measured on."""
    cpu = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
        cpu = names[0] if names else cpu
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    return {
        "cpu": cpu,
        "cores": os.cpu_count() or 1,
        "gpu": device,
        "torch": torch.__version__,
        "date": datetime.date.today().isoformat(),
    }


def save_section(name: str, section: str, content: dict) -> Path:
    """Put one section into results/NAME.json; other sections stay as they are."""
    RESULTS.mkdir(exist_ok=True)
    file = RESULTS / f"{name}.json"
    results = json.loads(file.read_text()) if file.exists() else {}
    results[section] = {**content, "machine": machine()}
    file.write_text(json.dumps(results, indent=2) + "\n")
    return file


def write_sections(name: str, title: str) -> None:
    """Turn results/NAME.json, whose sections have `settings` and `rows`, into a Markdown file with a table for each."""
    results = json.loads((RESULTS / f"{name}.json").read_text())
    parts = [f"# {title}: measurements", "", f"Made by `python -m benchmarks.{name}`."]
    for section, content in results.items():
        where = content["machine"]
        settings = ", ".join(f"{key} {value}" for key, value in content["settings"].items())
        parts += ["", f"## {section}", "", f"{settings}; {where['cpu']}, {where['cores']} cores, GPU {where['gpu']}, "]
        parts[-1] += f"torch {where['torch']}, {where['date']}."
        columns = list(dict.fromkeys(column for row in content["rows"] for column in row))
        parts += ["", table(content["rows"], columns)]
    (RESULTS / f"{name}.md").write_text("\n".join(parts) + "\n")


def table(rows: list[dict], columns: list[str]) -> str:
    """A Markdown table of `columns` of `rows`; floats get three digits or two decimals."""

    def cell(value: object) -> str:
        if isinstance(value, float):
            return f"{value:.2f}" if abs(value) >= 1 else f"{value:.3f}"
        return str(value)

    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(cell(row.get(column, "")) for column in columns) + " |" for row in rows]
    return "\n".join(lines)
