"""One HTML file that needs no network: the frame of a page, its tables and its plots."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

from funnelrec.common.files import atomic_path
from funnelrec.common.optional import require

# Whatever a file may say, this page loads nothing: neither from the network nor from disk.
_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"
)


def write_page(
    path: str | Path, *, title: str, lead: str, sections: Mapping[str, tuple[str, str]]
) -> Path:
    """Write a page, atomically, and return its path.

    One file of about 5 MB, plotly's script included; it loads nothing, fits narrow windows and
    follows the reader's light or dark scheme.

    Parameters
    ----------
    path
        The HTML file.
    title, lead
        Plain text; escaped here.
    sections
        Heading (plain text) and body (HTML, escaped already) by name of the anchor.

    Raises
    ------
    MissingExtraError
        If plotly is not installed.
    """
    offline = require("plotly.offline", "plots")
    bodies = "\n".join(
        f'<section id="{name}">\n<h2>{text(heading)}</h2>\n{body}\n</section>'
        for name, (heading, body) in sections.items()
    )
    links = " ".join(
        f'<a href="#{name}">{text(heading)}</a>' for name, (heading, _) in sections.items()
    )
    content = f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<title>{text(title)}</title>
<style>{_resource("_report.css")}</style>
</head>
<body>
<header>
<h1>{text(title)}</h1>
<p class="soft">{text(lead)}</p>
<nav>{links}</nav>
</header>
<main>
{bodies}
</main>
<script>{offline.get_plotlyjs()}</script>
<script>{_resource("_report.js")}</script>
</body>
</html>
"""
    path = Path(path)
    with atomic_path(path) as temporary:
        temporary.write_text(content, encoding="utf-8")
    return path


def text(value: Any) -> str:
    """Return a value as text that HTML reads as text."""
    return escape(str(value))


def number(value: float | None) -> str:
    """Return a metric with four decimals."""
    return "-" if value is None else f"{value:.4f}"


def percent(share: float | None) -> str:
    """Return a share with one decimal."""
    return "-" if share is None else f"{share:.1%}"


def table(
    head: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    caption: str = "",
    text_columns: Sequence[int] = (),
) -> str:
    """Return a table; cells are HTML already.

    Parameters
    ----------
    head
        Headings.
    rows
        Cells; the first of each is the row's heading.
    caption
        A line above.
    text_columns
        Numbers of the columns that hold words.
    """

    def kind(place: int) -> str:
        return ' class="text"' if place in text_columns else ""

    top = "".join(f'<th scope="col"{kind(place)}>{name}</th>' for place, name in enumerate(head))
    body = "".join(
        f'<tr><th scope="row">{row[0]}</th>'
        + "".join(f"<td{kind(place)}>{cell}</td>" for place, cell in enumerate(row[1:], start=1))
        + "</tr>"
        for row in rows
    )
    return (
        (above(caption) if caption else "")
        + f'<div class="scroll"><table><thead><tr>{top}</tr></thead>'
        + f"<tbody>{body}</tbody></table></div>"
    )


def above(line: str) -> str:
    """Return the line above a table."""
    # Not a caption element: that is as wide as its table, and a wide table scrolls.
    return f'<p class="caption">{line}</p>'


def plot(figure: Any, title: str) -> str:
    """Return a figure as data that the page's script draws; the title folds in narrow windows."""
    content = json.loads(figure.to_json())
    layout = content["layout"]
    layout.pop("title", None)
    layout["margin"] = {**layout.get("margin", {}), "t": 40}
    # As data, a plot can end no script element: there is no "<" in it.
    data = json.dumps(content, ensure_ascii=True).replace("<", "\\u003c")
    return (
        f'<figure><figcaption>{text(title)}</figcaption><div class="plot"></div>'
        f'<script type="application/json">{data}</script></figure>'
    )


def _resource(name: str) -> str:
    return (files("funnelrec.comparison") / name).read_text(encoding="utf-8")
