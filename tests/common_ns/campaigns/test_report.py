"""The page about campaigns that nobody has run: what it holds, and that it holds all of it itself."""

from __future__ import annotations

import base64
import io
import json
import math
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common_ns.campaigns import report
from common_ns.campaigns.record import LOG, PROGRESS
from common_ns.campaigns.report import last_lines, read_curve, thinned, write_report
from common_ns.pages import data_uri
from tests.common_ns.campaigns.made_up import campaign_of, draw, fail, finish, log_progress, run_of

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
BLACK, GRAY, WHITE = ([value] * 3 for value in (0, 128, 255))


def panel(color: list[int], width: int = 8, height: int = 6) -> np.ndarray:
    return np.full((height, width, 3), color, dtype=np.uint8)


def beside(*colors: list[int]) -> np.ndarray:
    return np.concatenate([panel(color) for color in colors], axis=1)


class Page(HTMLParser):
    """Its pictures by the caption below, its text, and what it would load."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text, self.loaded = "", []
        self.pictures: list[tuple[str, np.ndarray]] = []
        self.feed(file.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        given = dict(attrs)
        self.loaded += [value for name in ("src", "href") if (value := given.get(name)) and value[0] != "#"]
        if tag == "img" and given.get("src"):
            data = base64.b64decode((given["src"] or "").partition(",")[2])
            self.pictures.append((given["alt"] or "", np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))))

    def handle_data(self, data: str) -> None:
        self.text += data


def test_pictures_are_the_truth_and_the_last_panel_of_each_method(tmp_path):
    campaign = campaign_of(tmp_path, ["a"], ["two panels", "three panels", "late"], figures=("psnr",))
    two, three = (run_of(campaign, tmp_path, "a", name) for name in ("two panels", "three panels"))
    finish(campaign, two, {"psnr": 30.0})
    finish(campaign, three, {"psnr": 31.0})
    for view in (0, 1):
        draw(two, "img", view, beside(BLACK, GRAY))
        draw(two, "accumulation", view, panel(WHITE))
        draw(three, "img", view, beside(BLACK, GRAY, WHITE))
    draw(three, "depth", 0, beside(GRAY, WHITE))
    page = Page(write_report(campaign, tmp_path))
    shown = [(name, int(picture.mean()), picture.shape) for name, picture in page.pictures]
    view = [("ground truth", 0, (6, 8, 3)), ("two panels", 128, (6, 8, 3)), ("three panels", 255, (6, 8, 3))]
    assert shown == [*view, *view, ("three panels", 255, (6, 8, 3))]
    assert "held-out view 0" in page.text and "held-out view 0: depth" in page.text and "psnr 31.00" in page.text
    assert re.search(r"waiting\s+late", page.text)  # in the place of a picture


def test_a_picture_that_may_hold_anything_is_shown_whole(tmp_path):
    campaign = campaign_of(tmp_path, ["a"], ["one"])
    run = run_of(campaign, tmp_path, "a", "one")
    finish(campaign, run, {})
    draw(run, "img", 0, beside(BLACK, WHITE))
    assert [(name, picture.shape) for name, picture in Page(write_report(campaign, tmp_path)).pictures] == [
        ("one", (6, 16, 3))
    ]


def test_a_scene_that_is_an_image_is_the_truth_itself(tmp_path):
    campaign = campaign_of(tmp_path, ["a"], ["one"])
    campaign = replace(campaign, scenes=(replace(campaign.scenes[0], path=tmp_path / "photograph.png"),))
    Image.fromarray(panel(GRAY)).save(tmp_path / "photograph.png")
    run = run_of(campaign, tmp_path, "a", "one")
    finish(campaign, run, {})
    draw(run, "img", 0, panel(WHITE))
    shown = [(name, int(picture.mean())) for name, picture in Page(write_report(campaign, tmp_path)).pictures]
    assert shown == [("ground truth", 128), ("one", 255)]


def test_a_damaged_picture_leaves_the_others(tmp_path):
    campaign = campaign_of(tmp_path, ["a"], ["one", "two"], figures=("psnr",))
    for name in ("one", "two"):
        run = run_of(campaign, tmp_path, "a", name)
        finish(campaign, run, {"psnr": 30.0})
        draw(run, "img", 0, panel(GRAY))
    file = run.folder / "renders" / "eval_img_0000.png"
    file.write_bytes(file.read_bytes()[:40])
    page = Page(write_report(campaign, tmp_path))
    assert [name for name, _ in page.pictures] == ["one"] and "no picture of this view" in page.text


def test_the_page_loads_nothing_and_escapes_everything(tmp_path):
    odd = "</script><script>alert(1)</script>&\"'"
    campaign = campaign_of(tmp_path, [f"a{odd}", "b"], [f"one{odd}", "two"], about=odd, name=odd)
    failed = run_of(campaign, tmp_path, f"a{odd}", f"one{odd}")
    fail(failed, "train", ["killed", "failed"], odd)
    (failed.folder / LOG).write_text(odd)
    done = run_of(campaign, tmp_path, f"a{odd}", "two")
    finish(campaign, done, {"psnr": 1.0})
    draw(done, "img", 0, panel(GRAY))
    log_progress(done, [(0, 1.0, 1.0), (1, 2.0, 0.1)])
    page = Page(write_report(campaign, tmp_path))
    assert page.tags.count("script") == 1 and page.text.count("alert(1)") > 8
    assert page.loaded and all(each.startswith("data:") for each in page.loaded)
    assert f"train: failed after 2 attempts. {odd}" in page.text


def test_failures_show_the_end_of_the_log_and_continued_runs_are_named(tmp_path):
    campaign = campaign_of(tmp_path, ["a"], ["one", "two"])
    failed, again = (run_of(campaign, tmp_path, "a", name) for name in ("one", "two"))
    fail(failed, "eval", ["failed"])
    (failed.folder / LOG).write_text("".join(f"line {number}\n" for number in range(100)))
    record = finish(campaign, again, {})
    attempts = record.stages["train"].attempts
    attempts.insert(0, replace(attempts[0], end="out_of_memory"))
    record.write(again.folder)
    page = Page(write_report(campaign, tmp_path))
    assert "line 80\n" in page.text and "line 99" in page.text and "line 79" not in page.text
    assert "runs/a/one/seed-0/log.txt" in page.text and "out of memory, done" in page.text


def test_last_lines_are_those_of_a_terminal(tmp_path):
    (tmp_path / LOG).write_text("\x1b[31mred\x1b[0m\n10 %\r50 %\r100 %\n\nend\n")
    assert last_lines(tmp_path / LOG) == "red\n100 %\nend"
    (tmp_path / LOG).write_bytes(b"\xff" * 100_000)
    assert len(last_lines(tmp_path / LOG)) == report.LOG_BYTES
    assert last_lines(tmp_path / "none.txt") == ""


def test_curves_leave_out_what_has_no_logarithm_and_what_a_killed_process_left(tmp_path):
    run = run_of(campaign_of(tmp_path, ["a"], ["one"]), tmp_path, "a", "one")
    log_progress(run, [(0, 1.0, 10.0), (5, 2.0, math.nan), (9, 3.0, 0.0), (12, 4.0, 0.1)])
    with (run.folder / PROGRESS).open("a") as file:
        file.write(json.dumps({"step": 13, "core_seconds": 5.0, "loss": "nan"}) + '\n{"step": 14, "lo')
    assert read_curve(run.folder / PROGRESS) == [(0, 1.0, 10.0), (12, 4.0, 0.1)]


def test_thinned_curves_keep_both_axes_and_geometric_means(monkeypatch):
    monkeypatch.setattr(report, "CURVE_POINTS", 2)
    points = [(1, 0.1, 1.0), (2, 0.2, 100.0), (3, 0.3, 2.0), (4, 0.4, 8.0)]
    assert thinned(points) == [(2, 0.2, pytest.approx(10.0)), (4, 0.4, pytest.approx(4.0))]
    assert thinned(points[:1]) == [(1, 0.1, pytest.approx(1.0))] and thinned([]) == []


def test_charts_place_points_on_their_axes(tmp_path):
    campaign = campaign_of(tmp_path, ["a"], ["one"])
    run = run_of(campaign, tmp_path, "a", "one")
    finish(campaign, run, {})
    log_progress(run, [(0, 1.0, 100.0), (500, 5.0, 1.0), (1000, 20.0, 0.1)])
    text = write_report(campaign, tmp_path).read_text()
    over_steps, over_time = (
        [tuple(map(float, point.split(","))) for point in found.split()]
        for found in re.findall(r'<polyline class="m0" points="([^"]*)"><title>', text)
    )
    left, right, bottom = report.LEFT, report.WIDTH - report.RIGHT, report.HEIGHT - report.BOTTOM
    assert [x for x, _ in over_steps] == [left, (left + right) / 2, right]
    assert [x for x, _ in over_time] == pytest.approx(
        [left + (right - left) / 20, left + (right - left) / 4, right], abs=0.1
    )
    for points in (over_steps, over_time):  # a decade takes a third of the height
        assert [y for _, y in points] == pytest.approx([10, 10 + (bottom - 10) * 2 / 3, bottom], abs=0.1)
    ticks = re.findall(r'text-anchor="(?:end|middle)">([^<]+)<', text)
    assert {"0.1", "100", "1,000", "step", "core_seconds"} <= set(ticks)


@pytest.mark.parametrize("loss", [1.0, 0.25, 3e-7])
def test_a_flat_curve_has_axes_too(tmp_path, loss):
    campaign = campaign_of(tmp_path, ["a"], ["one"])
    log_progress(run_of(campaign, tmp_path, "a", "one"), [(0, 0.0, loss), (1, 0.0, loss)])
    assert Page(write_report(campaign, tmp_path)).tags.count("polyline") == 3  # two curves and the legend


def test_the_size_of_the_page_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "PICTURE_BYTES", 60_000)
    monkeypatch.setattr(report, "MOST_PICTURES", 6)
    campaign = campaign_of(tmp_path, ["a", "b"], ["one", "two"])
    noise = np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8)
    for scene in "ab":
        for method in ("one", "two"):
            run = run_of(campaign, tmp_path, scene, method)
            finish(campaign, run, {})
            for view in range(3):
                draw(run, "img", view, np.concatenate([noise, noise], axis=1))
                draw(run, "normals", view, noise)
    file = write_report(campaign, tmp_path)
    assert len(Page(file).pictures) == 6  # a truth and two methods for each scene, of one view
    assert 40_000 < sum(len(each) for each in re.findall(r'src="data:[^"]*', file.read_text())) < 60_000 * 4 / 3 + 600


def test_a_campaign_that_has_not_begun_has_a_page(tmp_path):
    page = Page(write_report(campaign_of(tmp_path, ["a"], ["one"]), tmp_path))
    assert "1 run: 1 waiting" in page.text and "No pictures yet." in page.text and "svg" not in page.tags


@pytest.mark.skipif(BROWSER is None, reason="needs chromium on PATH")
def test_a_picture_is_enlarged_by_a_click_and_the_keys_change_it(tmp_path):
    campaign = campaign_of(tmp_path, ["a"], ["one", "two"], figures=("psnr",))
    for name, color in (("one", GRAY), ("two", WHITE)):
        run = run_of(campaign, tmp_path, "a", name)
        finish(campaign, run, {"psnr": 30.0})
        draw(run, "img", 0, panel(color))
    file = write_report(campaign, tmp_path)
    does = """<script>
    document.querySelectorAll(".side button")[1].click();
    const first = [box.open, words.textContent, large.src === row[1].src];
    box.dispatchEvent(new KeyboardEvent("keydown", {key: "ArrowRight"}));
    const second = [words.textContent, large.src === row[0].src];
    large.click();
    document.title = [...first, ...second, box.open].join("; ");
    </script></body>"""
    file.write_text(file.read_text().replace("</body>", does))
    command = [str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}", "--dump-dom"]
    page = subprocess.run([*command, file.as_uri()], capture_output=True, text=True, timeout=120, check=True).stdout
    assert "<title>true; two: psnr 30.00; true; one: psnr 30.00; true; false</title>" in page


@pytest.mark.parametrize("side", [200, 600])
def test_pictures_are_made_smaller_until_they_fit(side):
    noise = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    whole, small = (base64.b64decode(data_uri(noise, most).partition(",")[2]) for most in (None, 20_000))
    assert len(whole) > 100_000 and 10_000 < len(small) <= 20_000
    assert Image.open(io.BytesIO(whole)).size == (side, side)
