"""The explorer end to end: the command, its server, a real browser in a wide and a narrow window.

Screenshots of every page are kept in the folder that ``FUNNELREC_SCREENSHOTS`` names, or among
pytest's temporary files.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from explorer_helpers import Folders, folders_in, serving, wanted

from browser import WIDTHS, Seen, needs_browser, visits
from funnelrec.common.errors import DataError, MissingExtraError, UsageError
from funnelrec.explorer import explore
from funnelrec.explorer.item import as_csv, hesitants
from funnelrec.explorer.server import settings
from funnelrec.explorer.source import opened

if TYPE_CHECKING:
    from playwright.sync_api import Page

USER, ITEM = "u00042", "i00011"
PAGES = {
    "data": "page=data",
    "training": "page=training",
    "models": "page=models",
    "user-search": "page=user&user=0001",
    "user-unknown": "page=user&user=nobody",
    "user": f"page=user&user={USER}",
    "item": f"page=item&item={ITEM}",
}
# Plots of each page that has any.
PLOTS = {"data": 5, "training": 2, "models": 2, "user": 1, "item": 1}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    return folders_in(tmp_path_factory)


def test_mistakes_are_told_before_anything_listens(folders: Folders, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no folder"):
        explore(tmp_path / "missing")
    with pytest.raises(DataError, match="is no comparison"):
        explore(folders.run, compare=tmp_path, port=0)
    with pytest.raises(UsageError, match="port must lie between 0 and 65535, got 70000"):
        explore(folders.run, port=70000)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UsageError, match=f"cannot listen on .*:{port}: .*--port"):
            explore(folders.run, port=port)


def test_a_missing_package_names_the_group(
    folders: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in list(sys.modules):
        if name.partition(".")[0] == "streamlit":
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "streamlit", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'funnelrec\[explorer\]'"):
        explore(folders.run)


def test_nothing_is_reported_to_anybody() -> None:
    chosen = settings(8501)
    assert chosen["browser_gatherUsageStats"] is False
    assert chosen["server_address"] == chosen["browser_serverAddress"] == "127.0.0.1"


@pytest.fixture(scope="module")
def address(folders: Folders, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    home = tmp_path_factory.mktemp("home")
    (home / ".streamlit").mkdir()
    # A file of the user that would have it otherwise.
    (home / ".streamlit" / "config.toml").write_text(
        '[server]\naddress = "0.0.0.0"\n[browser]\ngatherUsageStats = true\n'
    )
    source = str(Path(explore.__code__.co_filename).parents[2])
    environment = {"PYTHONPATH": source, "OMP_NUM_THREADS": "1", "HOME": str(home)}
    arguments = (folders.run, "--compare", folders.comparison, "--device", "cpu")
    with serving(*arguments, environment=environment) as (where, process):
        yield where
    # Told to stop, it stops as it should.
    assert process.returncode == 0


def test_it_listens_on_loopback_alone(address: str) -> None:
    port = int(address.rpartition(":")[2])
    listening = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        if not Path(table).is_file():
            pytest.skip("this system does not list its sockets")
        for line in Path(table).read_text().splitlines()[1:]:
            place, state = line.split()[1], line.split()[3]
            if state == "0A" and int(place.rpartition(":")[2], 16) == port:
                listening.add(place.rpartition(":")[0])
    assert listening == {"0100007F"}


@pytest.fixture(scope="module", params=WIDTHS)
def seen(request: pytest.FixtureRequest, address: str) -> Iterator[Seen]:
    with visits(address, request.param) as page:
        yield page


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    named = os.environ.get("FUNNELREC_SCREENSHOTS")
    folder = Path(named) if named else tmp_path_factory.getbasetemp() / "screenshots"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def settle(page: Page, plots: int = 0) -> None:
    """Wait until the page is drawn."""
    page.wait_for_selector("[data-testid=stApp][data-test-script-state=notRunning]")
    page.wait_for_selector("h2")
    page.wait_for_function(
        f"document.querySelectorAll('.js-plotly-plot .plot-container').length >= {plots}"
    )
    page.wait_for_function("!document.querySelector('[data-testid=stSkeleton]')")


@needs_browser
def test_a_way_through_the_pages(address: str, folders: Folders, tmp_path: Path) -> None:
    with visits(address, min(WIDTHS)) as seen:
        _walk(seen, address, folders, tmp_path)


def _walk(seen: Seen, address: str, folders: Folders, tmp_path: Path) -> None:
    page = seen.page
    page.set_default_timeout(90_000)
    page.goto(address)
    settle(page)
    page.get_by_text("User", exact=True).click()
    box = page.get_by_label("Find a user among 120")
    box.fill("0004")
    box.press("Enter")
    page.get_by_role("button", name=USER).or_(page.get_by_role("radio", name=USER)).click()
    page.get_by_role("heading", name=f"User {USER}").wait_for()
    page.get_by_text("What user").wait_for()
    settle(page, 1)
    assert f"user={USER}" in page.url
    assert "page=user" in page.url
    page.get_by_text("Item", exact=True).click()
    box = page.get_by_label("Find an item among 60")
    box.fill(ITEM)
    box.press("Enter")
    page.get_by_role("heading", name=f"Item {ITEM}").wait_for()
    button = page.get_by_role("button", name="Export as CSV")
    button.wait_for()
    settle(page, 1)
    with page.expect_download() as download:
        button.click()
    assert download.value.suggested_filename == f"hesitations-{ITEM}.csv"
    download.value.save_as(tmp_path / "item.csv")
    expected = as_csv(hesitants(opened(wanted(folders)), ITEM))
    assert (tmp_path / "item.csv").read_text() == expected
    assert len(expected.splitlines()) > 3
    assert seen.refused == []
    assert seen.complaints == []


@needs_browser
@pytest.mark.parametrize("name", PAGES)
def test_every_page_opens_without_a_network(
    name: str, seen: Seen, address: str, pictures: Path
) -> None:
    page = seen.page
    width = page.viewport_size["width"] if page.viewport_size else 0
    page.set_default_timeout(90_000)
    page.goto(f"{address}/?{PAGES[name]}")
    settle(page, PLOTS.get(name, 0))
    assert seen.refused == []
    assert seen.complaints == []
    assert page.get_by_test_id("stException").count() == 0
    assert seen.overflow() <= 0
    boxes = seen.drawn()
    assert (len(boxes) > 0) == (name in PLOTS)
    assert all(box["left"] >= 0 and box["right"] <= width for box in boxes)
    tables = page.get_by_test_id("stDataFrame")
    assert (tables.count() > 0) == (name in PLOTS)
    for place in range(tables.count()):
        box = tables.nth(place).bounding_box()
        if box is not None:
            assert box["x"] >= 0
            assert box["x"] + box["width"] <= width
    height = page.evaluate("document.querySelector('[data-testid=stMain]').scrollHeight")
    page.set_viewport_size({"width": width, "height": int(height)})
    page.wait_for_timeout(300)
    page.screenshot(path=pictures / f"{name}-{width}.png")
    page.set_viewport_size({"width": width, "height": 900})
