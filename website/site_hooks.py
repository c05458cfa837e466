"""Hooks of MkDocs: pages made from the code, and formulas as MathML."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
for _folder in ("benchmarks", "website"):
    if str(ROOT / _folder) not in sys.path:
        sys.path.insert(0, str(ROOT / _folder))

from mkdocs.config.defaults import MkDocsConfig  # noqa: E402
from mkdocs.structure.files import File, Files  # noqa: E402

from mathml import with_mathml  # noqa: E402
from measured import fold_in_table, fold_in_times_table, levels_table  # noqa: E402
from model_pages import FOLDER, own_models, pages  # noqa: E402
from reference_pages import reference_pages  # noqa: E402

# Files of the repository that are pages, too.
BORROWED = {"CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
# A figure and its spread, before and behind the slash of "HR / NDCG".
_FIGURE = r"[+-]?\d?\.\d{3,4}(?: ± \d?\.\d{3,4})?"
_PAIR = re.compile(rf"(?P<first>{_FIGURE}) / (?P<second>{_FIGURE})(?=</td>| \()")
# What stands in a page where a table of the records comes.
TABLES = {
    "<!-- measured levels -->": levels_table,
    "<!-- measured fold-in -->": fold_in_table,
    "<!-- measured fold-in times -->": fold_in_times_table,
}
_LINK = re.compile(r"\]\((?P<target>[^)#:]+)(?P<rest>#[^)]*)?\)")


def borrowed(text: str) -> str:
    """Return a page of the repository's root with its links as they are seen from docs/."""

    def seen(found: re.Match[str]) -> str:
        target, rest = found["target"], found["rest"] or ""
        if target.startswith("docs/"):
            target = target.removeprefix("docs/")
        elif target in BORROWED:
            target = BORROWED[target]
        return f"]({target}{rest})"

    return _LINK.sub(seen, text)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put the models into the navigation, where ``models/index.md`` stands alone."""
    for entry in config.nav or []:
        if isinstance(entry, dict) and "Models" in entry:
            entry["Models"] = [
                f"{FOLDER}/index.md",
                *({name: f"{FOLDER}/{name}.md"} for name in own_models()),
            ]
    return config


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add the pages of the models, the reference and those of the repository's root."""
    for path, text in {**pages(), **reference_pages()}.items():
        files.append(File.generated(config, path, content=text))
    for name, path in BORROWED.items():
        text = borrowed((ROOT / name).read_text(encoding="utf-8"))
        files.append(File.generated(config, path, content=text))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Fill in the tables that a page takes from the records."""
    for mark, table in TABLES.items():
        if mark in markdown:
            markdown = markdown.replace(mark, table())
    return markdown


def on_page_content(html: str, **_: Any) -> str:
    """Draw the formulas of a page, and let pairs of figures in tables break at the slash alone."""
    return with_mathml(_PAIR.sub(_kept_together, html))


def _kept_together(found: re.Match[str]) -> str:
    first, second = (found[name].replace(" ", "\N{NO-BREAK SPACE}") for name in found.groupdict())
    return f"{first}\N{NO-BREAK SPACE}/ {second}"
