"""Tables of campaigns that nobody has run: what is in them was calculated by hand."""

from __future__ import annotations

import csv
import io
import math
from pathlib import Path

import pytest

from common_ns.campaigns.description import Budget, Campaign, Published
from common_ns.campaigns.record import Attempt, RunRecord, StageRecord
from common_ns.campaigns.table import (
    direction,
    entries_of,
    failures_of,
    is_timing,
    tables_of,
    without_timing,
    write_table,
)
from tests.common_ns.campaigns.made_up import campaign_of, fail, finish, run_of


def lines_of(campaign: Campaign, folder: Path) -> list[str]:
    return write_table(campaign, folder).read_text().splitlines()


def row(lines: list[str], name: str) -> list[str]:
    """Cells of the first row of a name."""
    line = next(line for line in lines if line.startswith(f"| {name}"))
    return line.strip("| ").split(" | ")


def test_one_scene_has_methods_by_figures_with_deviation_and_best(tmp_path):
    campaign = campaign_of(tmp_path, ["a"], ["one", "two"], [0, 1, 2], figures=("psnr", "lpips", "steps"))
    for seed, psnr, lpips in ((0, 30.0, 0.1), (1, 31.0, 0.2), (2, 32.0, 0.3)):
        finish(campaign, run_of(campaign, tmp_path, "a", "one", seed), {"psnr": psnr, "lpips": lpips, "steps": 2000})
        figures = {"psnr": psnr - 1.0, "lpips": 0.1, "steps": 1000}
        finish(campaign, run_of(campaign, tmp_path, "a", "two", seed), figures)
    lines = lines_of(campaign, tmp_path)
    assert row(lines, "method") == ["method", "psnr ↑", "lpips ↓", "steps"]
    assert row(lines, "one") == ["one", "**31.00 ± 1.00**", "0.200 ± 0.100", "2,000 ± 0"]
    assert row(lines, "two") == ["two", "30.00 ± 1.00", "**0.100 ± 0.000**", "1,000 ± 0"]
    worst = lines[lines.index("## Worst run of each method") :]
    assert row(worst, "one") == ["one", "30.00 (seed 0)", "0.300 (seed 2)"]


def test_one_seed_has_no_deviation_and_equal_figures_are_all_the_best(tmp_path):
    campaign = campaign_of(tmp_path, ["a"], ["one", "two", "three"], figures=("ssim",))
    for method, ssim in (("one", 0.93104), ("two", 0.93096), ("three", 0.9299)):
        finish(campaign, run_of(campaign, tmp_path, "a", method), {"ssim": ssim})
    lines = lines_of(campaign, tmp_path)
    cells = [row(lines, method)[1] for method in ("one", "two", "three")]
    assert cells == ["**0.931**", "**0.931**", "0.930"]
    assert "## Worst run of each method" not in lines


def test_missing_runs_are_said_with_their_reason_and_do_not_compete(tmp_path):
    campaign = campaign_of(tmp_path, ["a"], ["whole", "lacks", "died", "late", "nan"], [0, 1], figures=("psnr",))
    for seed in (0, 1):
        finish(campaign, run_of(campaign, tmp_path, "a", "whole", seed), {"psnr": 20.0})
        fail(run_of(campaign, tmp_path, "a", "died", seed), "eval", ["timed_out", "timed_out"], "too long")
        finish(campaign, run_of(campaign, tmp_path, "a", "nan", seed), {"psnr": [math.nan, 19.0][seed]})
    finish(campaign, run_of(campaign, tmp_path, "a", "lacks", 0), {"psnr": 30.0})
    fail(run_of(campaign, tmp_path, "a", "lacks", 1), "train", ["not_finite"])
    running = run_of(campaign, tmp_path, "a", "late", 0)
    RunRecord("a", "late", 0, "running", {"train": StageRecord("running")}).write(running.folder)
    lines = lines_of(campaign, tmp_path)
    assert row(lines, "whole")[1] == "20.00 ± 0.00"  # with nothing to compare, nothing is best
    assert row(lines, "lacks")[1] == "30.00 (1 of 2: not finite)"
    assert row(lines, "died")[1] == "timed out"
    assert row(lines, "late")[1] == "running, waiting"
    assert row(lines, "nan")[1] == "19.00 (1 of 2: not finite)"
    assert "- a, died, seed 1: eval: timed out (2 attempts). too long" in lines
    assert "- Runs: 10 runs: 5 done, 3 failed, 1 running, 1 waiting (1 scene, 5 methods, seeds 0, 1)" in lines


def test_what_a_whole_row_lacks_is_said_once(tmp_path):
    campaign = campaign_of(tmp_path, ["a"], ["one"], [0, 1], figures=("psnr", "ssim"))
    finish(campaign, run_of(campaign, tmp_path, "a", "one", 0), {"psnr": 30.0, "ssim": 0.9})
    assert row(lines_of(campaign, tmp_path), "one") == ["one (1 of 2: waiting)", "30.00", "0.900"]


def test_figures_of_a_stage_that_is_not_done_any_more_do_not_count(tmp_path):
    campaign = campaign_of(tmp_path, ["a"], ["one"], figures=("psnr", "steps"), stages=("train", "eval"))
    run = run_of(campaign, tmp_path, "a", "one")
    record = finish(campaign, run, {"psnr": 30.0, "steps": 100.0})
    record.state, record.stages["eval"].state = "running", "running"
    record.write(run.folder)
    assert row(lines_of(campaign, tmp_path), "one")[1:] == ["running", "100"]
    assert ",100.0" in (tmp_path / "table.csv").read_text() and "30.0" not in (tmp_path / "table.csv").read_text()


def test_several_scenes_have_a_table_for_each_figure_and_means(tmp_path):
    campaign = campaign_of(tmp_path, ["a", "b"], ["one", "two"], [0, 1], figures=("psnr", "seconds"))
    values = {"one": ((10.0, 12.0), (20.0, 26.0)), "two": ((11.0, 11.0), (21.0, None))}
    for method, scenes in values.items():
        for scene, seeds in zip("ab", scenes):
            for seed, psnr in enumerate(seeds):
                if psnr is not None:
                    finish(campaign, run_of(campaign, tmp_path, scene, method, seed), {"psnr": psnr, "seconds": 5.0})
    lines = lines_of(campaign, tmp_path)
    psnr = lines[lines.index("## psnr ↑") :]
    # Means over scenes are 15 and 19, so 17 ± 4/√2; of the scenes, 11 ± √2 and 23 ± 6/√2.
    assert row(psnr, "method") == ["method", "mean", "a", "b"]
    assert row(psnr, "one") == ["one", "17.00 ± 2.83", "**11.00 ± 1.41**", "23.00 ± 4.24"]
    assert row(psnr, "two") == ["two", "16.00 (3 of 4 runs)", "**11.00 ± 0.00**", "21.00 (1 of 2: waiting)"]
    assert "## seconds ↓" in lines
    worst = lines[lines.index("## Worst run of each method") :]
    assert row(worst, "method") == ["method", "psnr ↑"]  # the time that a machine takes by chance is left out
    assert row(worst, "two")[1] == "11.00 (a, seed 0)"


def test_a_method_of_some_scenes_says_so_in_its_mean(tmp_path):
    campaign = campaign_of(tmp_path, ["a", "b"], ["one", "two"], figures=("psnr",))
    finish(campaign, run_of(campaign, tmp_path, "a", "one"), {"psnr": 10.0})
    assert row(lines_of(campaign, tmp_path), "one") == ["one", "10.00 (1 of 2 scenes)", "10.00", "waiting"]
    assert row(lines_of(campaign, tmp_path), "two") == ["two", "–", "waiting", "waiting"]


def test_published_figures_stand_beside_ours_where_stated_and_do_not_compete(tmp_path):
    others = (Published("Paper", "its table 2", {"a": {"psnr": 40.5}}, {"psnr": 33.1}), Published("None", "elsewhere"))
    campaign = campaign_of(tmp_path, ["a", "b"], ["one", "two"], figures=("psnr", "ssim"), published=others)
    for method, psnr in (("one", 30.0), ("two", 31.0)):
        for scene in "ab":
            finish(campaign, run_of(campaign, tmp_path, scene, method), {"psnr": psnr, "ssim": 0.9})
    lines = lines_of(campaign, tmp_path)
    assert row(lines, "*Paper*") == ["*Paper* [1]", "*33.1*", "*40.5*", "–"]
    assert row(lines, "two") == ["two", "**31.00**", "**31.00**", "**31.00**"]
    assert sum(line.startswith("| *Paper*") for line in lines) == 1 and not any("None" in line for line in lines)
    assert "- [1] Paper: its table 2" in lines and any("do not compete" in line for line in lines)


def test_hardware_and_versions_that_differ_are_counted(tmp_path):
    campaign = campaign_of(tmp_path, ["a"], ["one"], [0, 1, 2], budget=Budget(core_seconds=300.0))
    for seed in (0, 1, 2):
        run = run_of(campaign, tmp_path, "a", "one", seed)
        record = finish(campaign, run, {"steps": 90.0 + seed}, day=f"2026-11-2{seed}")
        if seed == 2:
            record.machine = {"cpu": "A CPU", "cores": 16, "gpu": "A GPU", "threads": 4}
            record.write(run.folder)
    lines = lines_of(campaign, tmp_path)
    assert (
        "- Hardware: not the same for all runs; 2 runs: A CPU, 2 cores, no GPU, 1 thread each; "
        "1 run: A CPU, 16 cores, A GPU, 4 threads each" in lines
    )
    assert "- Versions: fieldsuite 0.2.0, torch 2.6.0" in lines
    assert "- Budget: 300 core-seconds of training each, which came to 90 to 92 steps" in lines
    assert "- Date: 2026-11-20 to 2026-11-22" in lines
    assert f"- Command: `ns-campaign run {tmp_path}/made-up.yaml`" in lines


def test_csv_has_every_figure_of_every_run_in_full_and_is_the_same_but_for_timing(tmp_path):
    texts = []
    for index, seconds in enumerate((1.5, 2.5)):
        campaign = campaign_of(tmp_path, ["a", "b"], ["one, two"], figures=("psnr",))
        folder = tmp_path / str(index)
        figures = {"psnr": 0.1 + 0.2, "extra": 1.0, "seconds": seconds, "fps": 1 / seconds, "train_fps": seconds}
        finish(campaign, run_of(campaign, folder, "a", "one, two"), figures)
        fail(run_of(campaign, folder, "b", "one, two"), "train", ["killed"] * (1 + index))
        write_table(campaign, folder)
        texts.append((folder / "table.csv").read_text())
    header, first, second = csv.reader(io.StringIO(texts[0]))
    assert header[:7] == ["scene", "method", "seed", "state", "reason", "psnr", "extra"]
    assert set(header[-3:]) == {"seconds", "fps", "train_fps"} and is_timing("train_num_rays_per_sec")
    assert first[:7] == ["a", "one, two", "0", "done", "", "0.30000000000000004", "1.0"]
    assert second[:7] == ["b", "one, two", "0", "failed", "killed", "", ""]
    assert texts[0] != texts[1] and without_timing(texts[0]) == without_timing(texts[1])
    assert without_timing(texts[0]).splitlines()[0] == ",".join(header[:-3])


def test_failures_before_training_are_found(tmp_path):
    campaign = campaign_of(tmp_path, ["a"], ["timed", "unreadable"], figures=("psnr",))
    timed, unreadable = (run_of(campaign, tmp_path, "a", name) for name in ("timed", "unreadable"))
    attempt = Attempt("2026-11-29T01:00:00+00:00", 1.0, 1.0, "out_of_memory", "MemoryError")
    RunRecord("a", "timed", 0, "failed", {"timing": StageRecord("running", attempts=[attempt])}).write(timed.folder)
    RunRecord("a", "unreadable", 0, "failed").write(unreadable.folder)
    found = [(each.stage, each.end, each.detail) for each in failures_of(entries_of(campaign, tmp_path))]
    assert found == [("timing", "out of memory", "MemoryError"), ("start", "failed", "")]
    lines = lines_of(campaign, tmp_path)
    assert row(lines, "timed")[1] == "out of memory" and row(lines, "unreadable")[1] == "failed"


def test_interrupted_runs_are_no_failures(tmp_path):
    campaign = campaign_of(tmp_path, ["a"], ["one"], figures=("psnr",))
    run = run_of(campaign, tmp_path, "a", "one")
    attempt = Attempt("2026-11-29T01:00:00+00:00", 1.0, 1.0, "interrupted")
    RunRecord("a", "one", 0, "waiting", {"train": StageRecord("failed", attempts=[attempt])}).write(run.folder)
    assert row(lines_of(campaign, tmp_path), "one")[1] == "interrupted"
    assert failures_of(entries_of(campaign, tmp_path)) == []


def test_names_are_shown_as_they_are(tmp_path):
    campaign = campaign_of(tmp_path, ["a|b"], ["*x* <i> a_b _c_"], figures=("psnr",))
    lines = lines_of(campaign, tmp_path)
    assert r"## a\|b" in lines
    assert any(line.startswith(r"| \*x\* \<i\> a_b \_c\_ | waiting |") for line in lines)


HIGHER = ["psnr", "train_psnr_2x", "mask_iou", "mesh_f_score", "mesh_normal_consistency", "num_rays_per_sec", "fps"]
LOWER = ["lpips", "mesh_chamfer_relative", "mesh_overall", "depth_abs_rel", "seconds", "peak_memory_mb", "odd"]


@pytest.mark.parametrize(("figures", "best"), [(HIGHER, 1), (LOWER, -1), (["steps", "mesh_threshold"], 0)])
def test_the_direction_of_figures(tmp_path, figures, best):
    campaign = campaign_of(tmp_path, ["a"], ["one"], lower_is_better=("odd",))
    assert {figure: direction(campaign, figure) for figure in figures} == dict.fromkeys(figures, best)


def test_digits_are_those_of_papers_or_three(tmp_path):
    campaign = campaign_of(tmp_path, ["a"], ["one"], figures=("psnr", "ssim", "mesh_chamfer", "num_params", "tiny"))
    figures = {"psnr": 31.236, "ssim": 0.93127, "mesh_chamfer": 0.61049, "num_params": 1234567.0, "tiny": 0.00012349}
    finish(campaign, run_of(campaign, tmp_path, "a", "one"), figures | {"mesh_threshold": 1.0})
    table = tables_of(campaign, entries_of(campaign, tmp_path))[0]
    assert [cell.value for cell in table.rows[0].cells] == ["31.24", "0.931", "", "1,234,567", "0.000123"]
