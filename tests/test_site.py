"""The site that `make docs` builds, in Chromium: every page opens, every link leads somewhere, nothing is loaded from
elsewhere, and search works."""

import shutil
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import unquote, urldefrag, urlparse

import pytest
from browser import CHROMIUM, Browser
from helpers import ROOT

pytestmark = pytest.mark.slow
LINKS = "[...document.querySelectorAll('a[href]')].map(a => a.href)"
IDS = "[...document.querySelectorAll('[id]')].map(e => e.id)"
BROKEN_IMAGES = "[...document.images].filter(i => !(i.complete && i.naturalWidth)).map(i => i.src)"
WIDTH_OF_PAGE = "[document.documentElement.scrollWidth, innerWidth]"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    bin = Path(sys.executable).parent
    if not (bin / "mkdocs").exists() or not shutil.which("make"):
        pytest.skip("needs make, and mkdocs (extra [docs])")
    folder = tmp_path_factory.mktemp("site")
    subprocess.run(["make", "site", f"BIN={bin}", f"BUILD={folder}"], cwd=ROOT, check=True, timeout=200)
    return folder / "site"


@pytest.mark.timeout(400)
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on PATH (Debian: apt-get install chromium)")
def test_every_page_opens_and_every_link_leads_somewhere(site: Path, tmp_path: Path) -> None:
    browser = Browser(tmp_path)
    linked: dict[str, set[str]] = {}  # by page that is linked to: the places in it
    ids: dict[str, set[str]] = {}
    try:
        for page in sorted(site.rglob("*.html")):
            if page.name == "404.html":  # its links begin at a server's root
                continue
            browser.open(page)
            ids[page.as_uri()] = set(browser.evaluate(IDS))
            for link in browser.evaluate(LINKS):
                target, place = urldefrag(link)
                if urlparse(target).scheme == "file":
                    linked.setdefault(target, set()).add(unquote(place))
            assert browser.evaluate(BROKEN_IMAGES) == [], page
            elsewhere = [r["request"]["url"] for r in browser.of("Network.requestWillBeSent")]
            assert [url for url in elsewhere if not url.startswith(("file:", "data:", "blob:"))] == [], page
        browser.call("Emulation.setDeviceMetricsOverride", width=360, height=740, deviceScaleFactor=1, mobile=True)
        for name in ("index.html", "README.html", "docs/runs.html", "docs/configuration.html"):
            if (site / name).exists():
                browser.open(site / name)
                whole, shown = browser.evaluate(WIDTH_OF_PAGE)
                assert whole <= shown, f"{name} is wider than a telephone"
    finally:
        browser.close()
    assert len(ids) > 20
    dead = [target for target in linked if not Path(unquote(urlparse(target).path)).exists()]
    assert dead == []
    lost = {
        f"{target}#{place}" for target, own in linked.items() if target in ids for place in own - ids[target] - {""}
    }
    assert lost == set()


SEARCH = """(() => {
    document.querySelector('[data-md-toggle=search]').click()
    const query = document.querySelector('[data-md-component=search-query]')
    query.focus()
    query.value = 'staleness'
    query.dispatchEvent(new KeyboardEvent('keyup', {bubbles: true}))
})()"""
RESULTS = "[...document.querySelectorAll('.md-search-result__link')].map(a => a.href)"


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on PATH (Debian: apt-get install chromium)")
def test_search_works_without_a_server(site: Path, tmp_path: Path) -> None:
    browser = Browser(tmp_path)
    try:
        browser.open(site / "docs/runs.html")
        browser.evaluate(SEARCH)
        end = time.monotonic() + 60
        while not (results := browser.evaluate(RESULTS)) and time.monotonic() < end:
            time.sleep(0.2)
        assert any("docs/design.html" in link for link in results)
        requests = [r["request"]["url"] for r in browser.of("Network.requestWillBeSent")]
        assert [url for url in requests if not url.startswith(("file:", "data:", "blob:"))] == []
    finally:
        browser.close()
