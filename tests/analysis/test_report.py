"""The report shows the summary and the files, escapes all text, and works in a real browser."""

from __future__ import annotations

import html.parser
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from browser import CHROMIUM, Browser
from helpers import ROOT
from synthetic import write_sweep

from ablate.analysis.load import load_sweep
from ablate.analysis.markdown import title
from ablate.analysis.report import (
    LOG_LINES,
    LOGS,
    differences,
    failures,
    grouped,
    interval_marks,
    log_tail,
    number,
    render,
    table,
    tables,
    write_report,
)
from ablate.analysis.summary import summarise
from ablate.analysis.sweep_figures import Drawing, draw_staleness, drawings, encode
from ablate.config.schema import ConfigError
from ablate.records.schema import CELL_LOG, REPORT, STUDY

EVIL = "<script>document.title='taken'</script><img src=x onerror=alert(1)>\"'&"
ARMS: dict[str, dict[str, Any]] = {
    "four": {"overrides": ["workers=4"], "label": f"4 workers {EVIL}"},
    "two": {"overrides": ["workers=2"], "level": -2.5},
    "one": {"overrides": ["workers=1"], "level": -1.5},
}
CLAIMS = (
    {"id": "B1", "words": "Two workers end lower", "metric": "final_score", "inequality": "two < four"},
    {"id": "B1'", "words": "Two workers end higher", "metric": "final_score", "inequality": "two > four"},
    {"id": "B2", "words": "It takes longer", "metric": "speed", "inequality": "two > four", "real_time": True},
    {"id": "X", "words": f"Nobody measured this {EVIL}", "metric": "nothing", "inequality": "two > four"},
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sweeps") / "crews"
    write_sweep(path, ARMS, episodes=40, failed=(("two", 3),), missing=(("one", 5),), claims=CLAIMS, question=EVIL)
    log = [f"line {i}" for i in range(100)] + [f"\x1b[31m{EVIL}\x1b[0m", "worker-0 was killed by SIGKILL"]
    (path / "two" / "seed=3" / CELL_LOG).write_text("\n".join(log) + "\n")
    return path


class Page(html.parser.HTMLParser):
    """Collects the text, the elements with their attributes, and elements that are not closed."""

    VOID = frozenset({"meta", "link", "img", "br", "line", "circle", "rect"})

    def __init__(self, source: str) -> None:
        super().__init__()
        self.text, self.elements, self.open = [], [], []  # type: list[str], list[tuple[str, dict]], list[str]
        self.feed(source)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("script", "style"):
            self.text.append(data)

    def words(self) -> str:
        return " ".join(" ".join(self.text).split())

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def page(folder: Path) -> Page:
    """The report with only the first figures; the browser test has all."""
    summary = summarise(load_sweep(folder))
    return Page(render(summary, [(d, encode(d.draw())["png"]) for d in drawings(summary)[:3]]))


def test_every_element_is_closed_and_nothing_comes_from_elsewhere(page: Page) -> None:
    assert page.open == []
    assert len(page.all("script")) == 1  # ours
    assert all(str(image["src"]).startswith("data:image/png;base64,") for image in page.all("img"))
    assert all(image["alt"] for image in page.all("img"))
    references = [str(e[key]) for _, e in page.elements for key in ("src", "href", "srcset", "action") if e.get(key)]
    assert all(reference.startswith(("data:", "#")) for reference in references)
    assert "onerror" not in {key for _, attributes in page.elements for key in attributes}


def test_text_from_labels_claims_and_logs_is_escaped(page: Page) -> None:
    for place in (EVIL, f"4 workers {EVIL}", f"Nobody measured this {EVIL}"):
        assert place in page.words()
    assert page.words().count(EVIL) > 4  # the log's, too


def test_the_verdicts_come_first_with_their_numbers(folder: Path, page: Page) -> None:
    words = page.words()
    verdicts = {verdict.id: verdict for verdict in summarise(load_sweep(folder)).verdicts}
    assert [verdicts[claim["id"]].verdict for claim in CLAIMS] == [
        "supported", "contradicted", "not testable here", "not testable here",
    ]  # fmt: skip
    for verdict in verdicts.values():
        assert f"{title(verdict)} {verdict.id}: {verdict.words}" in words
        assert verdict.reason[1:] in words  # a sentence there
    b1 = verdicts["B1"]
    assert f"{number(b1.effect)} [{number(b1.low)}, {number(b1.high)}]" in words
    assert "n 5 of 6 (1 crashed), 6 " in words  # of two and four
    assert words.index("B1: Two workers") < words.index("Against the baseline") < words.index("Learning curves")


def test_metrics_with_the_same_label_have_a_table_each(folder: Path) -> None:
    sweep = load_sweep(folder)
    metrics = {name: replace(metric, label="return") for name, metric in sweep.study.metrics.items()}
    listed = tables(summarise(replace(sweep, study=replace(sweep.study, metrics=metrics))))["Arms"]
    assert {tab.removesuffix(" (primary)") for tab in listed} == {f"return ({name})" for name in metrics}


def test_failures_come_with_their_reason_and_the_end_of_the_log(page: Page) -> None:
    words = page.words()
    assert "two, seed 3: failed" in words
    assert "worker-0 was killed by SIGKILL" in words
    assert "line 99" in words
    assert f"line {100 - LOG_LINES}" not in words
    assert "\x1b" not in words
    assert "16 of 18 cells completed" in words
    assert "covers only the completed cells" in words


def test_provenance_names_command_machine_and_what_differs(folder: Path, page: Page) -> None:
    words = page.words()
    assert "python src/run.py sweep=crews" in words
    assert "cpu: invented" in words
    listed = differences(load_sweep(folder))
    assert [[entry.text for entry in row] for row in listed.rows] == [["workers", "4", "2", "1"]]


def test_tables_hold_the_summarys_numbers(folder: Path) -> None:
    summary = summarise(load_sweep(folder))
    own = summary.arms[summary.arms["metric"] == "final_score"]
    shown = table(own.drop(columns=["metric", "label"]))
    column = shown.headings.index("mean [95 % CI]")
    values = [pd.read_csv(folder / "two" / f"seed={seed}" / "evaluations.csv") for seed in (0, 1, 2, 4, 5)]
    last = [v[v["evaluation"] == v["evaluation"].max()]["episodic_return"].mean() / 200 for v in values]
    assert shown.rows[1][column].key == pytest.approx(np.mean(last))
    assert shown.rows[1][column].text.startswith(number(np.mean(last)) + " [")
    assert len(shown.headings) == len(shown.rows[0])


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"), (3, "3"), (-1.5, "−1.5"), (0.00123456, "0.001235"), (123.456, "123.5"), (1234567.8, "1,234,568"),
        (float("nan"), "–"), (None, "–"), (float("inf"), "inf"), ("an-arm", "an-arm"),
    ],
)  # fmt: skip
def test_numbers_are_short_and_exact_enough(value: Any, text: str) -> None:
    assert number(value) == text


def test_the_intervals_marks_keep_their_order_and_distances(folder: Path) -> None:
    summary = summarise(load_sweep(folder))
    verdict = summary.verdicts[0]
    marks = interval_marks(summary, verdict)
    assert marks is not None
    values = {
        "low": verdict.low,
        "effect": verdict.effect,
        "high": verdict.high,
        "zero": 0,
        "worse": -0.2,
        "better": 0.2,
    }
    names = sorted(values, key=lambda name: values[name])
    assert sorted(marks, key=lambda name: marks[name]) == names
    scale = (marks["better"] - marks["low"]) / (0.2 - verdict.low)
    for name in names:
        assert marks[name] == pytest.approx(marks["zero"] + scale * values[name], abs=0.02)
    assert interval_marks(summary, summary.verdicts[3]) is None


def test_only_the_logs_of_the_first_failures_are_shown(tmp_path: Path) -> None:
    failed = tuple((arm, seed) for arm in ARMS for seed in range(10))
    sweep = load_sweep(write_sweep(tmp_path / "many", ARMS, seeds=range(10), episodes=2, failed=failed))
    rows = failures(sweep)
    assert len(rows) == 30
    assert [bool(cell["log"]) for cell in rows] == [True] * LOGS + [False] * 10
    assert all(cell["path"].is_file() for cell in rows)


def test_the_end_of_an_empty_unprintable_or_endless_log_is_shown(tmp_path: Path) -> None:
    log = tmp_path / CELL_LOG
    assert log_tail(log) == ""
    log.write_bytes(b"")
    assert log_tail(log) == ""
    log.write_bytes(b"10%\r20%\rdone \xff\x00\n\n")
    assert log_tail(log) == "10%\n20%\ndone �"
    log.write_bytes(b"x" * 10_000_000)
    assert 10_000 < len(log_tail(log)) < 20_000


def test_a_refused_figure_leaves_its_reason(folder: Path) -> None:
    summary = summarise(load_sweep(folder))
    drawing = Drawing("staleness", "Staleness", "by arm", lambda: draw_staleness(summary.sweep))
    page = Page(render(summary, [(drawing, ConfigError(f"horizon differs {EVIL}"))]))
    assert f"Not drawn. horizon differs {EVIL}" in page.words()
    assert page.all("img") == []
    assert grouped([(drawing, ConfigError("why"))])["Staleness"][0]["reason"] == "why"


def test_a_sweep_without_a_completed_cell_still_has_a_report(tmp_path: Path) -> None:
    failed = tuple((arm, seed) for arm in ARMS for seed in range(2))
    sweep = write_sweep(tmp_path / "none", ARMS, seeds=range(2), episodes=5, failed=failed, claims=CLAIMS)
    assert write_report(summarise(load_sweep(sweep))) == [sweep / REPORT]
    words = Page((sweep / REPORT).read_text()).words()
    assert "0 of 6 cells completed" in words
    assert words.count("Not drawn.") == words.count("of a completed cell yet") > 10
    assert words.count("was killed by SIGKILL") >= 6


def test_the_report_is_replaced_whole(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = tmp_path / "copy"
    subprocess.run(["cp", "-r", str(folder), str(copy)], check=True)
    before = b"the whole of another day's"
    (copy / REPORT).write_bytes(before)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    monkeypatch.setattr("ablate.analysis.report.write_tables", lambda summary: None)
    monkeypatch.setattr("ablate.analysis.report.write_figures", lambda summary: [])
    with pytest.raises(OSError, match="No space"):
        write_report(summarise(load_sweep(copy)))
    assert (copy / REPORT).read_bytes() == before
    assert not list(copy.glob(".*"))


def plot(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, timeout=240, env=environment)


@pytest.fixture(scope="module")
def reported(folder: Path) -> Path:
    """The sweep's folder with its report and all its figures."""
    written = write_report(summarise(load_sweep(folder)))
    assert written[0] == folder / REPORT
    return folder


@pytest.mark.slow
def test_figures_are_png_and_pdf(reported: Path) -> None:
    drawn = {path.name: path.read_bytes() for path in (reported / "figures").iterdir()}
    names = {name.rpartition(".")[0] for name in drawn}
    assert set(drawn) == {f"{name}.{kind}" for name in names for kind in ("png", "pdf")}
    assert {
        "arms_training",
        "curves_evaluation_episode",
        "curves_training_wall_time_s",
        "scores_auc",
        "staleness",
    } <= names
    assert all(content.startswith(b"\x89PNG" if name.endswith("png") else b"%PDF") for name, content in drawn.items())


@pytest.mark.slow
def test_plot_redraws_the_same_figures_from_the_csvs_without_torch(reported: Path, tmp_path: Path) -> None:
    sweep = shutil.copytree(reported, tmp_path / reported.name)
    shutil.rmtree(sweep / "figures")
    for name in (REPORT, "summary.csv", "verdict.md", "export.npz"):
        (sweep / name).unlink()
    code = f"""
import runpy, sys
try:
    runpy.run_path({str(ROOT / "src/plot.py")!r}, run_name="__main__")
finally:
    assert "torch" not in sys.modules
"""
    done = plot("-c", code, str(sweep), str(tmp_path))
    assert done.returncode == 2  # tmp_path is neither a run's nor a sweep's folder
    assert len(done.stderr.splitlines()) == 1
    assert str(tmp_path) in done.stderr
    printed = [Path(line) for line in done.stdout.splitlines()]
    assert printed[0] == sweep / REPORT
    assert set(printed[1:]) == set((sweep / "figures").glob("*.png"))
    for name in (REPORT, "summary.csv", "verdict.md", "export.npz"):
        assert (sweep / name).stat().st_size > 0
    before, after = (
        {path.name: path.read_bytes() for path in (one / "figures").iterdir()} for one in (reported, sweep)
    )
    assert before.keys() == after.keys()
    assert [name for name, content in before.items() if after[name] != content] == []


def test_plot_reports_a_damaged_study_in_one_line(tmp_path: Path) -> None:
    (tmp_path / STUDY).write_text('{"name": "half a study"}')
    done = plot(str(ROOT / "src/plot.py"), str(tmp_path))
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1
    assert STUDY in done.stderr


@pytest.fixture(scope="module")
def browser(reported: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("no chromium or chromium-browser on PATH (Debian: apt-get install chromium)")
    opened = Browser(tmp_path_factory.mktemp("chromium"))
    try:
        opened.open(reported / REPORT)
        yield opened
    finally:
        opened.close()


def column(browser: Browser, table: str, index: int) -> list[str]:
    return browser.evaluate(
        f"[...document.querySelectorAll({table!r} + ' tbody tr')].map(r => r.cells[{index}].innerText)"
    )


ARMS_TABLE = "#tables .switch:first-of-type .panel:not([hidden]) table"


@pytest.mark.slow
def test_chromium_opens_the_page_without_a_complaint_or_a_request(browser: Browser) -> None:
    assert browser.of("Runtime.exceptionThrown") == []
    assert browser.of("Runtime.consoleAPICalled") == []
    assert browser.of("Log.entryAdded") == []  # the policy's violations would be here
    requested = [event["request"]["url"] for event in browser.of("Network.requestWillBeSent")]
    assert [url for url in requested if not url.startswith("data:")] == [requested[0]]
    assert requested[0].startswith("file://")
    assert browser.evaluate("document.title") == "crews · Ablate"
    assert browser.evaluate("[...document.images].every(i => i.complete && i.naturalWidth > 500)")
    assert browser.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


@pytest.mark.slow
def test_a_click_on_a_header_sorts_and_another_reverses_the_order(browser: Browser) -> None:
    headings = browser.evaluate(f"[...document.querySelectorAll({ARMS_TABLE!r} + ' th')].map(h => h.innerText.trim())")
    index = next(i for i, heading in enumerate(headings) if heading.startswith("mean"))
    button = f"{ARMS_TABLE} th:nth-child({index + 1}) button"

    def means() -> list[float]:
        return [float(text.split(" [")[0].replace("−", "-")) for text in column(browser, ARMS_TABLE, index)]

    before = means()
    assert before != sorted(before)  # four, two, one: -0.5, -2.5, -1.5
    browser.click(button)
    assert means() == sorted(before)
    assert browser.evaluate(f"document.querySelector({button!r}).parentElement.ariaSort") == "ascending"
    browser.click(button)
    assert means() == sorted(before, reverse=True)
    browser.click(f"{ARMS_TABLE} th:nth-child(1) button")
    names = column(browser, ARMS_TABLE, 0)
    assert [name.split()[0] for name in names] == ["4", "one", "two"]


@pytest.mark.slow
def test_tabs_switch_the_figure_by_mouse_and_keyboard(browser: Browser) -> None:
    shown = "[...document.querySelectorAll('#figures figure')].filter(f => f.offsetParent).map(f => f.id)"
    first = browser.evaluate(shown)
    assert "curves_evaluation_global_step" in first
    assert "curves_evaluation_wall_time_s" not in first
    tab = browser.evaluate(
        "[...document.querySelectorAll('#figures [role=tab]')].find(t => t.innerText === 'wall time').id"
    )
    browser.click(f"#{tab}")
    second = browser.evaluate(shown)
    assert "curves_evaluation_wall_time_s" in second
    assert "curves_evaluation_global_step" not in second
    assert len(second) == len(first)
    browser.press("ArrowRight")
    assert "curves_evaluation_ideal_parallel_time" in browser.evaluate(shown)
    assert browser.evaluate("document.activeElement.innerText") == "ideal parallel time"
    browser.press("Home")
    assert browser.evaluate(shown) == first


@pytest.mark.slow
def test_the_page_is_readable_on_dark_screens_and_on_paper(browser: Browser, tmp_path: Path) -> None:
    background = "getComputedStyle(document.body).backgroundColor"
    light = browser.evaluate(background)
    browser.emulate(prefers_color_scheme="dark")
    dark = browser.evaluate(background)
    assert sum(map(int, re.findall(r"\d+", dark))) < 150 < 600 < sum(map(int, re.findall(r"\d+", light)))
    browser.screenshot(tmp_path / "dark.png")
    assert (tmp_path / "dark.png").stat().st_size > 20_000
    browser.emulate(prefers_color_scheme="light")
    figures = browser.evaluate("document.querySelectorAll('#figures figure').length")
    browser.call("Emulation.setEmulatedMedia", media="print")
    visible = "[...document.querySelectorAll('#figures figure')].filter(f => f.offsetParent).length"
    assert browser.evaluate(visible) == figures  # paper has no tabs
    browser.call("Emulation.setEmulatedMedia", media="")
    assert browser.evaluate(visible) < figures


@pytest.mark.slow
def test_a_telephone_scrolls_only_vertically(browser: Browser) -> None:
    browser.call("Emulation.setDeviceMetricsOverride", width=360, height=740, deviceScaleFactor=2, mobile=True)
    assert browser.evaluate("[innerWidth, document.documentElement.scrollWidth]") == [360, 360]
    browser.call("Emulation.clearDeviceMetricsOverride")


@pytest.mark.slow
def test_clicking_makes_no_network_requests(browser: Browser) -> None:
    assert all(e["request"]["url"].startswith(("data:", "file:")) for e in browser.of("Network.requestWillBeSent"))
    assert browser.of("Runtime.exceptionThrown") == []
    assert browser.of("Log.entryAdded") == []


def test_an_environments_name_may_end_as_the_columns_of_an_interval() -> None:
    columns = {"arm": ["a"], "mean in flow": [1.0], "mean in flow_low": [0.5], "mean in flow_high": [1.5]}
    made = table(pd.DataFrame(columns))
    assert made.headings == ["arm", "mean in flow [95 % CI]"]
    assert made.rows[0][1].text == "1 [0.5, 1.5]"
