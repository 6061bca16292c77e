"""The documentation as a site: built strictly without a network, asks for nothing, can be searched from a folder."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from nc_strategies import api

ROOT = Path(__file__).resolve().parents[2]
DEAD = "http://127.0.0.1:9"


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT,
        text=True,
        capture_output=True,
        check=False,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1", "http_proxy": DEAD, "https_proxy": DEAD, "all_proxy": DEAD},
    )
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.slow
def test_no_page_loads_anything_from_elsewhere(site):
    pages = list(site.rglob("*.html"))
    assert {page.stem for page in (ROOT / "docs").glob("*.md")} <= {page.stem for page in pages}
    for page in pages:
        tags = re.findall(r"<(?:link|script|img|iframe|source)\b[^>]*>", page.read_text())
        assert tags
        for tag in tags:
            assert not re.search(r"(?:src|href)=[\"']?(?:https?:)?//", tag), (page.name, tag)
        assert 'class="mermaid"' not in page.read_text(), "a diagram would be drawn by a script from elsewhere"


@pytest.mark.slow
def test_a_link_out_of_the_documentation_becomes_a_path(site):
    assert "page (<code>plugins/nc-strategies-sigopt/README.md</code>)" in (site / "sigopt.html").read_text()


@pytest.mark.slow
def test_lists_and_tables_are_drawn_as_such(site):
    for page in site.rglob("*.html"):
        text = re.sub(r"<(pre|script|code)\b.*?</\1>", "", page.read_text(), flags=re.DOTALL)
        assert not re.search(r"\n *(?:[-*] |\d\. |\| )[^\n]*", text), page.name


@pytest.mark.slow
def test_the_reference_has_every_name_that_plugins_import(site):
    text = (site / "api.html").read_text()
    assert [name for name in api.__all__ if f'id="nc_strategies.api.{name}"' not in text] == []


@pytest.mark.slow
def test_the_site_is_searched_from_a_folder(site):
    where = shutil.which("chromium")
    if where is None:
        if os.environ.get("CI") == "true":
            pytest.fail("chromium is not installed (apt-get install chromium)")
        pytest.skip("chromium is not installed (apt-get install chromium)")
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=where, args=["--no-sandbox"])
        page = browser.new_page()
        asked, trouble = [], []
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: trouble.append(str(error)))
        page.goto((site / "index.html").as_uri())
        page.locator("input.md-search__input").click()
        page.locator("input.md-search__input").press_sequentially("saturation")
        found = page.locator(".md-search-result__item a").first
        found.wait_for()
        assert found.get_attribute("href").partition("?")[0].partition("#")[0].endswith(".html")
        assert trouble == []
        assert [url for url in asked if not url.startswith(("file:", "data:", "blob:"))] == []
        browser.close()
