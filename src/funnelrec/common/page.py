"""A figure as a page of its own that opens without a network, in a wide window and in a narrow."""

from __future__ import annotations

import copy
from html import escape
from pathlib import Path
from typing import Any

from funnelrec.common.files import atomic_path
from funnelrec.common.optional import require

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{
  margin: 0 auto; padding: 1rem clamp(0.5rem, 3vw, 2rem) 2rem; max-width: 68rem;
  color: #333333; background: #ffffff; overflow-wrap: break-word;
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif;
}}
h1 {{ font-size: 1.15rem; line-height: 1.35; margin: 0.4rem 0; }}
</style>
</head>
<body>
<h1>{title}</h1>
{plot}
</body>
</html>
"""
_TOP = 60  # pixels that a figure without its title needs above it


def untitled(figure: Any) -> tuple[str, Any]:
    """Return the title of a plotly figure, empty where it has none, and a copy without it."""
    shown = copy.deepcopy(figure)
    title = str(shown.layout.title.text or "")
    shown.update_layout(title=None, margin={"t": min(_TOP, shown.layout.margin.t or _TOP)})
    return title, shown


def write_page(figure: Any, path: str | Path, *, library_beside: bool = False) -> None:
    """Write a plotly figure as one HTML file, atomically.

    The title of the figure becomes the heading of the page, which folds where the window is
    narrow; in the figure it would be cut.

    Parameters
    ----------
    figure
        With a title.
    path
        File to write.
    library_beside
        Plotly's script is written to ``plotly.min.js`` beside the page, for several pages of one
        folder, instead of into it.

    Raises
    ------
    UsageError
        If the file cannot be written.
    """
    path = Path(path)
    title, shown = untitled(figure)
    if library_beside:
        script = require("plotly.offline", "plots").get_plotlyjs()
        with atomic_path(path.parent / "plotly.min.js") as temporary:
            temporary.write_text(script, encoding="utf-8")
    plot = shown.to_html(full_html=False, include_plotlyjs="directory" if library_beside else True)
    with atomic_path(path) as temporary:
        temporary.write_text(_PAGE.format(title=escape(title), plot=plot), encoding="utf-8")
