"""Docstrings as Markdown: paragraphs, lists, formulas and references of a model's class."""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass

_ROLE = re.compile(r":(?P<role>[a-z]+):`(?P<content>[^`]*)`", re.DOTALL)
_CODE = re.compile(r"``(?P<code>[^`]+)``", re.DOTALL)
_MATH = re.compile(r"^\.\. math::[ ]?(?P<first>.*)$")
# A formula, a formula alone, or code: nothing in them is Markdown.
_KEPT = re.compile(r"\\\(.*?\\\)|\\\[.*?\\\]|`[^`]*`", re.DOTALL)


class DocstringError(ValueError):
    """A docstring with something that the pages cannot show."""


@dataclass(frozen=True)
class Parts:
    """What a model's docstring says, as Markdown.

    Parameters
    ----------
    body
        What the model does, with its equations.
    reference
        The citation, empty if there is none.
    departures
        Where it departs from paper or authors' code.
    """

    body: str
    reference: str
    departures: str


def parts_of(docstring: str) -> Parts:
    """Return the parts of a docstring.

    The citation is the paragraph that begins with ``Reference:``. What stands behind it, or from
    ``Departures:`` on where there is no citation, are the departures.
    """
    body: list[str] = []
    reference: list[str] = []
    departures: list[str] = []
    place = body
    for block in _blocks(inspect.cleandoc(docstring)):
        if block.startswith(("Reference:", "References:")):
            place = departures
            reference.append(block.partition(":")[2].strip())
        elif block.startswith("Departures"):
            place = departures
            place.append(_upper(block.partition(":")[2].strip()))
        else:
            place.append(block)
    return Parts(*(markdown("\n\n".join(part)) for part in (body, reference, departures)))


def _upper(text: str) -> str:
    return text[:1].upper() + text[1:] if text[:1].isalpha() else text


def _blocks(text: str) -> list[str]:
    """Return paragraphs; what is indented belongs to the paragraph above."""
    blocks: list[str] = []
    for part in re.split(r"\n\s*\n", text):
        if part.startswith(" ") and blocks:
            blocks[-1] += f"\n\n{part}"
        else:
            blocks.append(part)
    return blocks


def markdown(text: str) -> str:
    r"""Return the reStructuredText of our docstrings as Markdown.

    Examples
    --------
    >>> markdown("With ``own`` and :math:`x_u`, see :class:`~a.b.Thing`.")
    'With `own` and \\(x_u\\), see `Thing`.'

    Raises
    ------
    DocstringError
        If it has a role or a directive that is not known here.
    """
    lines = text.split("\n")
    out: list[str] = []
    place = 0
    while place < len(lines):
        line = lines[place]
        place += 1
        found = _MATH.match(line)
        if found:
            formula = [found["first"]]
            while place < len(lines) and (not lines[place].strip() or lines[place][0] == " "):
                formula.append(lines[place].strip())
                place += 1
            out += ["", f"\\[ {' '.join(part for part in formula if part)} \\]", ""]
        elif line.startswith(".. "):
            raise DocstringError(f"unknown directive {line!r}.")
        elif line.rstrip().endswith("::"):
            code = []
            while place < len(lines) and (not lines[place].strip() or lines[place][0] == " "):
                code.append(lines[place])
                place += 1
            shown = inspect.cleandoc("\n".join(code))
            out += [line.rstrip()[:-1], "", "```text", shown, "```", ""]
        elif place < len(lines) and re.fullmatch(r"-{3,}", lines[place].strip()):
            out += ["", f"**{line.strip()}**", ""]
            place += 1
        else:
            out.append(line)
    return _inline("\n".join(out)).strip()


def _inline(text: str) -> str:
    def role(found: re.Match[str]) -> str:
        content = " ".join(found["content"].split())
        if found["role"] == "math":
            return f"\\({content}\\)"
        if found["role"] in ("class", "func", "meth", "mod", "attr", "data"):
            return f"`{content.rpartition('.')[2] if content[0] == '~' else content}`"
        raise DocstringError(f"unknown role {found['role']!r} in {found[0]!r}.")

    shown = _CODE.sub(lambda found: f"`{found['code']}`", _ROLE.sub(role, text))
    out, end = [], 0
    for kept in _KEPT.finditer(shown):
        out += [_escaped(shown[end : kept.start()]), kept[0]]
        end = kept.end()
    return "".join([*out, _escaped(shown[end:])])


def _escaped(text: str) -> str:
    """Return words with what Markdown or HTML would take for markup made harmless."""
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace("|", "&#124;")
    # A star between spaces is a product, one at a word is emphasis.
    return re.sub(r"(?<=\s)\*(?=\s)|_", lambda found: f"\\{found[0]}", text)


def plain(text: str) -> str:
    """Return a sentence of a description as Markdown that shows it letter by letter."""
    escaped = text.replace("&", "&amp;").replace("<", "&lt;").replace("|", "&#124;")
    return re.sub(r"([*_\[\]\\])", r"\\\1", escaped).replace("``", "`")
