"""Writing results: one JSON per benchmark that keeps earlier sections, and a Markdown table made from it."""

from __future__ import annotations

import datetime
import json
import os
from collections.abc import Callable
from pathlib import Path

import torch

from common_ns.cores import cpu_name

RESULTS = Path(__file__).parent / "results"


def machine() -> dict[str, str | int]:
    """What the figures were measured on."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    return {
        "cpu": cpu_name(),
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


def all_columns(section: str, rows: list[dict]) -> list[str]:
    """One table with every column that a row of the section has; none where there are no columns."""
    del section
    columns = list(dict.fromkeys(column for row in rows for column in row))
    return [table(rows, columns)] if columns else []


def write_sections(
    name: str, title: str, note: str = "", tables: Callable[[str, list[dict]], list[str]] = all_columns
) -> None:
    """Turn results/NAME.json, whose sections have `settings` and `rows`, into a Markdown file.

    Args:
        name: of the benchmark's module and of its results.
        title: what was measured.
        note: what all tables need to be understood.
        tables: the tables of a section, given its name and rows.
    """
    results = json.loads((RESULTS / f"{name}.json").read_text())
    parts = [f"# {title}: measurements", f"Made by `python -m benchmarks.{name}`. {note}".rstrip()]
    for section, content in results.items():
        folder = "_" in section.partition(" ")[0]  # folders keep their names
        heading = section if folder else section[:1].upper() + section[1:]
        parts += [f"## {heading}", conditions(content), *tables(section, content["rows"])]
    (RESULTS / f"{name}.md").write_text("\n\n".join(parts) + "\n")


def conditions(content: dict) -> str:
    """How a section was measured, and on what."""
    where = content["machine"]
    settings = ", ".join(
        f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}"
        for key, value in content["settings"].items()
    )
    machine = f"{where['cpu']}, {where['cores']} cores, GPU {where['gpu']}, torch {where['torch']}, {where['date']}"
    return f"{settings}; {machine}."


def table(rows: list[dict], columns: list[str]) -> str:
    """A Markdown table of `columns` of `rows`; floats get three digits or two decimals."""

    def cell(value: object) -> str:
        if isinstance(value, float):
            return f"{value:.2f}" if abs(value) >= 1 else f"{value:.3f}"
        return str(value)

    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(cell(row.get(column, "")) for column in columns) + " |" for row in rows]
    return "\n".join(lines)
