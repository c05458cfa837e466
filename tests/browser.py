"""A page opened in a real browser that reaches nothing but files of this machine."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import (
        Browser,
        BrowserContext,
        ConsoleMessage,
        Page,
        Route,
        WebSocket,
    )

NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next((path for name in NAMES if (path := shutil.which(name))), None)
needs_browser = pytest.mark.skipif(
    CHROMIUM is None, reason=f"no browser: none of {', '.join(NAMES)} is installed"
)
WIDTHS = (1280, 400)


@dataclass
class Seen:
    """What a page did while it was open.

    Parameters
    ----------
    page
        The page, after all its plots were drawn.
    files
        Names of the files it read, in order, itself first.
    refused
        Addresses it asked for that are no files.
    complaints
        Errors and warnings of its console, and exceptions of its scripts.
    """

    page: Page
    files: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def overflow(self) -> float:
        """Return by how many pixels the page is wider than its window."""
        return float(self.page.evaluate("document.documentElement.scrollWidth - window.innerWidth"))

    def drawn(self) -> list[dict[str, float]]:
        """Return left and right edge of every plot that has been drawn, in pixels."""
        found: Any = self.page.evaluate(
            "[...document.querySelectorAll('.main-svg')]"
            ".filter(one => one.parentElement.classList.contains('svg-container'))"
            ".map(one => one.getBoundingClientRect()).map(({left, right}) => ({left, right}))"
        )
        return list({(box["left"], box["right"]): box for box in found}.values())


@contextmanager
def windows(width: int) -> Iterator[Callable[[Path, int], Seen]]:
    """Give what opens a page in a window of some width and waits until it has drawn its plots."""
    with _browser() as browser:
        context = browser.new_context(viewport={"width": width, "height": 900}, offline=True)
        yield lambda path, plots: _open(context, path, plots)


@contextmanager
def visits(address: str, width: int) -> Iterator[Seen]:
    """Give an empty page in a window of some width that reaches one server and nothing else."""
    with _browser() as browser:
        context = browser.new_context(viewport={"width": width, "height": 900})
        seen = _watched(context, address)
        socket = address.replace("http", "ws", 1)

        def joined(joined: WebSocket) -> None:
            if not joined.url.startswith(f"{socket}/"):
                seen.refused.append(joined.url)

        seen.page.on("websocket", joined)
        yield seen


@contextmanager
def _browser() -> Iterator[Browser]:
    sync_playwright = pytest.importorskip("playwright.sync_api").sync_playwright
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"]
        )
        try:
            yield browser
        finally:
            browser.close()


def _watched(context: BrowserContext, allowed: str) -> Seen:
    """Return a new page that may ask for addresses below one, and what it says and asks for."""
    seen = Seen(context.new_page())

    def answer(route: Route) -> None:
        address = route.request.url
        if address.startswith(f"{allowed}/"):
            seen.files.append(address.rpartition("/")[2])
            route.continue_()
        else:
            seen.refused.append(address)
            route.abort()

    def note(said: ConsoleMessage) -> None:
        if said.type in ("error", "warning"):
            seen.complaints.append(f"{said.type}: {said.text}")

    seen.page.route("**/*", answer)
    seen.page.on("console", note)
    seen.page.on("pageerror", lambda error: seen.complaints.append(str(error)))
    return seen


def _open(context: BrowserContext, path: Path, plots: int) -> Seen:
    seen = _watched(context, "file:/")
    seen.page.goto(path.as_uri())
    seen.page.wait_for_function(
        f"document.querySelectorAll('.js-plotly-plot .main-svg').length >= {plots}",
        timeout=60_000,
    )
    return seen


def check_offline(*pages: Path, width: int, plots: int, beside: Sequence[str] = ()) -> None:
    """Hold pages to opening without a network, without complaints and without overflow.

    ``beside`` names the files that a page may read besides itself.
    """
    with windows(width) as opened:
        for path in pages:
            seen = opened(path, plots)
            assert seen.complaints == []
            assert seen.refused == []
            assert seen.files == [path.name, *beside]
            assert seen.overflow() <= 0
            boxes = seen.drawn()
            assert len(boxes) > 0
            assert all(box["left"] >= 0 and box["right"] <= width for box in boxes)
