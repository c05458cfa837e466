"""The documentation as it is built: without a warning, whole, and readable without a network."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

import funnelrec
from browser import needs_browser, windows
from funnelrec.models import model_names, registry

ROOT = Path(__file__).resolve().parent.parent.parent
SHOWN = ("index.html", "models/index.html", "models/charm.html", "guide/data.html")


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the built site."""
    folder = tmp_path_factory.mktemp("site")
    source = str(Path(funnelrec.__file__).parent.parent)
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "-d", str(folder)],
        cwd=ROOT,
        env={
            **os.environ,
            "PYTHONPATH": source,
            "OMP_NUM_THREADS": "1",
            "NO_MKDOCS_2_WARNING": "1",
            "NO_COLOR": "1",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    return folder


class Fetched(HTMLParser):
    """Collects what a page makes a browser fetch by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag == "link" and "canonical" not in (given.get("rel") or ""):
            self.addresses.append(given.get("href") or "")
        if tag in ("script", "img", "iframe", "source"):
            self.addresses.append(given.get("src") or "")


def test_nothing_is_fetched_from_elsewhere(site: Path) -> None:
    pages = [page for page in site.rglob("*.html") if page.name != "404.html"]
    assert len(pages) > 30
    for page in pages:
        reader = Fetched()
        reader.feed(page.read_text(encoding="utf-8"))
        asked = [address for address in reader.addresses if address]
        assert asked
        for address in asked:
            assert not re.match(r"\w+:|//", address), f"{page.name}: {address}"
            assert (page.parent / address.partition("?")[0]).exists(), f"{page.name}: {address}"
    for style in (site / "assets").rglob("*.css"):
        assert not re.search(r"url\(['\"]?(?:https?:)?//", style.read_text(encoding="utf-8")), style


def test_no_formula_is_left_as_tex(site: Path) -> None:
    drawn = 0
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        assert "arithmatex" not in text, page.name
        drawn += text.count("<math ")
    assert drawn > 60


@pytest.mark.parametrize("name", model_names())
def test_every_model_has_a_page_that_is_whole(name: str, site: Path) -> None:
    text = (site / f"models/{name}.html").read_text(encoding="utf-8")
    model = registry.get(name)
    for setting in model.Settings.model_fields:
        assert f"<code>{setting}</code> = " in text, setting
    headings = re.findall(r"<h2[^>]*>(.*?)<a", text)
    assert ("Reference" in headings) == (model.reference != "-")
    if model.reference != "-":
        assert "Where it departs from its source" in headings
    assert ("Presets" in headings, "Variants" in headings) == (
        bool(model.presets),
        bool(model.variants),
    )
    assert "Measured" in headings
    if model.builds_on:
        assert text.count('<g class="member here">') == 1


def test_a_measured_figure_of_the_records_is_on_the_page(site: Path) -> None:
    # The same figure, from the same record, stands in the reproduction tables.
    figure = "0.3462 / 0.1719"
    assert figure in (ROOT / "docs/reproduction.md").read_text(encoding="utf-8")
    page = (site / "models/conversion.html").read_text(encoding="utf-8")
    assert figure in page.replace("\N{NO-BREAK SPACE}", " ")


@needs_browser
@pytest.mark.parametrize("width", [1280, 400])
def test_pages_open_from_the_disk(width: int, site: Path) -> None:
    with windows(width) as opened:
        for name in SHOWN:
            seen = opened(site / name, 0)
            assert (seen.complaints, seen.refused) == ([], []), name
            assert seen.overflow() <= 0, name
            formulas = seen.page.locator("math").all()
            for formula in formulas[:5]:
                box = formula.bounding_box()
                assert box is not None
                assert box["width"] > 5
                assert box["height"] > 5
        assert len(formulas) == 0  # of the last page, which has none


@needs_browser
def test_search_works_from_the_disk(site: Path) -> None:
    with windows(1280) as opened:
        seen = opened(site / "index.html", 0)
        page = seen.page
        page.locator(".md-search__input").click()
        page.locator(".md-search__input").press_sequentially("hesitation")
        # The list is made anew with every letter, so it is waited for and not read item by item.
        link = page.locator(".md-search-result__link[href*='guide/hesitations.html']")
        link.first.wait_for(timeout=30_000)
        assert (seen.complaints, seen.refused) == ([], [])
