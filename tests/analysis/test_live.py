"""The page of a sweep that runs: what it may say before the end, and that a reload disturbs no reader."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import CHROMIUM, Browser
from synthetic import write_sweep

from ablate.analysis import live
from ablate.analysis.load import load_sweep
from ablate.analysis.report import number
from ablate.analysis.summary import judged
from ablate.config.choices import Until
from ablate.records.schema import REPORT
from ablate.records.study_file import read_study

EVIL = "<script>document.title='taken'</script>\"'&"
ARMS: dict[str, dict[str, Any]] = {
    "four": {"overrides": ["workers=4"], "label": f"4 workers {EVIL}"},
    "two": {"overrides": ["workers=2"], "level": -2.5},
    "one": {"overrides": ["workers=1"], "level": -0.5},
}
CLAIMS = (
    {"id": "B1", "words": f"Two workers end lower {EVIL}", "metric": "final_score", "inequality": "two < four"},
    {"id": "B2", "words": "One ends lower", "metric": "final_score", "inequality": "one < four"},
)
NOW = "2026-11-29T12:00:00+00:00"


def page(folder: Path, completed: int = 6, left: str = "3 min", ended: str = "", next_s: float = 5.0) -> str:
    """The page of a sweep of which so many seeds per arm are said to have completed, and one cell has failed."""
    study = read_study(folder)
    done, now = {"state": "completed", "share": 1.0}, {"state": "running", "share": 0.4}
    states: dict[str, list[dict[str, Any]]] = {
        arm: [{"seed": seed, **(done if seed < completed else now)} for seed in study.seeds] for arm in study.arms
    }
    states["two"][0]["state"] = "failed"
    failure = {"arm": "two", "seed": 0, "state": "failed", "reason": EVIL, "attempts": 1, "seconds": 3.5}
    return live.render(folder, study, states, [failure], live.known(folder), left, NOW, next_s, ended)


def test_a_study_of_fixed_size_shows_differences_and_no_verdict(tmp_path: Path) -> None:
    """Its data are clear enough for verdicts: to show one before the end would invite to stop at it."""
    folder = write_sweep(tmp_path / "fixed", ARMS, seeds=range(8), episodes=20, claims=CLAIMS, missing=(("one", 7),))
    verdicts = judged(load_sweep(folder))
    assert verdicts[0].verdict == "supported"
    text = page(folder)
    assert "No verdict before the last cell" in text
    assert text.count('<span class="badge">open</span>') == len(CLAIMS)
    for verdict in verdicts:
        assert f"<dd>{number(verdict.effect)}</dd>" in text
        assert verdict.reason not in text
        assert number(verdict.low) not in text
    body = text[text.index("<body>") :]
    assert not [word for word in ("supported", "contradicted", "undecided", "<svg") if word in body]


def test_a_study_that_grows_shows_the_claims_that_it_has_settled(tmp_path: Path) -> None:
    folder = write_sweep(tmp_path / "grows", ARMS, seeds=range(5), episodes=20, claims=CLAIMS,
                         until=Until.decided, block=5)  # fmt: skip
    study = (folder / "study.json").read_text()
    (folder / "study.json").write_text(study.replace("    4\n", "    4,\n    5,\n    6,\n    7,\n    8,\n    9\n"))
    settled, open_ = judged(load_sweep(folder))
    assert (settled.verdict, settled.wants_seeds, open_.wants_seeds) == ("supported", False, True)
    text = page(folder)
    assert "No verdict before the last cell" not in text
    assert "</span> supported</span>" in text
    assert settled.reason[1:] in text
    assert text.count('<span class="badge">open</span>') == 1


def test_the_page_reloads_only_while_the_sweep_runs_and_holds_text_as_text(tmp_path: Path) -> None:
    folder = write_sweep(tmp_path / "text", ARMS, seeds=range(2), episodes=5, claims=CLAIMS)
    running, ended = page(folder), page(folder, ended="It was stopped; its command continues it.")
    assert "location.reload" in running
    assert 'http-equiv="refresh"' in running
    assert "about 3 min left" in running
    assert NOW in running
    assert "<script>" not in ended
    assert "refresh" not in ended
    assert "It was stopped" in ended
    assert EVIL not in running + ended
    (tmp_path / "nothing").mkdir()
    nothing = write_sweep(tmp_path / "nothing", ARMS, seeds=range(1), missing=tuple((arm, 0) for arm in ARMS))
    known = live.known(nothing)
    assert (known.claims, known.means) == ([], {})


@pytest.fixture
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("no chromium or chromium-browser on PATH (Debian: apt-get install chromium)")
    opened = Browser(tmp_path_factory.mktemp("chromium"))  # a short path, for its socket
    try:
        yield opened
    finally:
        opened.close()


def until(browser: Browser, expression: str) -> None:
    """Wait until it is true on a page that has been loaded; between two pages there is no body."""
    deadline = time.monotonic() + 60
    while not browser.evaluate(f"document.readyState === 'complete' && ({expression})"):
        assert time.monotonic() < deadline, expression
        time.sleep(0.05)


@pytest.mark.slow
def test_a_reload_keeps_what_the_reader_has_done(
    tmp_path: Path, browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "RELOAD_S", 0.4)
    folder = write_sweep(tmp_path / "live", ARMS, seeds=range(3), episodes=5, claims=CLAIMS)
    (folder / REPORT).write_text(page(folder, 1))
    browser.open(folder / REPORT)
    reads = "details.open = false; document.querySelector('summary').focus(); scrollTo(0, 300);"
    mark = "document.body.dataset.before = 'a reload';"
    until(browser, f"(() => {{ const details = document.querySelector('details'); {reads} {mark} return true; }})()")
    (folder / REPORT).write_text(page(folder, 3))
    kept = "scrollY === 300 && !document.querySelector('details').open && document.activeElement.id === 'summary-0'"
    until(browser, f"document.title.startsWith('8/9') && !document.body.dataset.before && {kept}")

    # A pause, by keyboard.
    while not browser.evaluate("document.getElementById('pause')?.checked"):
        until(browser, "document.getElementById('pause').focus() === undefined")
        browser.call("Input.dispatchKeyEvent", type="keyDown", key=" ", code="Space", text=" ")
        browser.call("Input.dispatchKeyEvent", type="keyUp", key=" ", code="Space")
    until(browser, "document.body.dataset.before = 'a pause'")
    time.sleep(1.5)
    assert browser.evaluate("document.body.dataset.before") == "a pause"

    # The page of a sweep that was killed says so. The last page stays.
    assert browser.evaluate("document.getElementById('stale').hidden") is False
    (folder / REPORT).write_text(page(folder, 3, ended="It was stopped; its command continues it."))
    browser.evaluate("document.getElementById('pause').checked = false")
    until(browser, "document.body.innerText.includes('It was stopped')")
    browser.evaluate("document.body.dataset.before = 'the end'")
    time.sleep(1.5)
    assert browser.evaluate("document.body.dataset.before") == "the end"
    assert browser.of("Runtime.exceptionThrown") == []
    assert browser.of("Log.entryAdded") == []


@pytest.mark.slow
def test_the_page_fits_a_telephone_and_paper(tmp_path: Path, browser: Browser) -> None:
    folder = write_sweep(tmp_path / "live", ARMS, seeds=range(30), episodes=5, claims=CLAIMS)
    (folder / REPORT).write_text(page(folder, 7))
    browser.call("Emulation.setDeviceMetricsOverride", width=360, height=740, deviceScaleFactor=2, mobile=True)
    browser.open(folder / REPORT)
    assert browser.evaluate("[innerWidth, document.documentElement.scrollWidth]") == [360, 360]
    browser.call("Emulation.setEmulatedMedia", media="print")
    assert browser.evaluate("document.querySelector('nav').offsetParent") is None
    assert browser.evaluate("document.querySelectorAll('.claim').length") == len(CLAIMS)
    assert browser.evaluate("document.documentElement.scrollWidth <= innerWidth")
