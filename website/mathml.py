"""TeX to MathML, at build time: a browser draws it without a script, a font or a network."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html import unescape
from xml.etree import ElementTree

from latex2mathml.converter import convert

# What arithmatex leaves in a page: the source in an element, \(...\) inline and \[...\] alone.
_FOUND = re.compile(
    r'<(?P<tag>span|div) class="arithmatex">\s*\\[(\[](?P<source>.*?)\\[)\]]\s*</(?P=tag)>',
    re.DOTALL,
)
_COMMAND = re.compile(r"\\[a-zA-Z]+")
_TOKENS = re.compile(r"\\(?:begin|end)\{\w+\*?\}|\\[a-zA-Z]+|\\.|.", re.DOTALL)
_LONG = 80  # letters of TeX that fit into a line, about
# The converter knows these as letters of a formula, not as what \big makes larger.
_LARGE_NORM = re.compile(r"(\\[bB]igg?[lrm]?)\s*(?:\\[lr]?Vert|\\\|)")
_NAMESPACE = re.compile(r' xmlns="[^"]*"')


class MathError(ValueError):
    """A formula that cannot be drawn."""


def mathml(source: str, *, block: bool) -> str:
    r"""Return a formula as MathML.

    Parameters
    ----------
    source
        TeX. A block may have several lines, separated by ``\\`` and aligned at ``&``.
    block
        Whether it stands alone.

    Raises
    ------
    MathError
        If a command is unknown, or the formula is not whole.

    Examples
    --------
    >>> mathml("x_u", block=False).count("<msub>")
    1
    >>> mathml(r"a &= b \\ c &= d", block=True).count("<mtr>")
    2
    """
    text = _LARGE_NORM.sub("\\1\N{DOUBLE VERTICAL LINE}", " ".join(source.split()))
    display = "block" if block else "inline"
    rows = [row for line in _split(text, r"\\") for row in _lines(line)] if block else [text]
    if len(rows) == 1 and "&" not in _top(rows[0]):
        inner = _inner(text, display, source)
    else:
        lines = []
        for row in rows:
            parts = _split(row, "&")
            # A line that is aligned at nothing goes across.
            mtd = "<mtd>" if len(parts) > 1 else '<mtd columnspan="2" class="across">'
            cells = (f"{mtd}{_inner(cell, display, source)}</mtd>" for cell in parts)
            lines.append(f"<mtr>{''.join(cells)}</mtr>")
        inner = f'<mtable displaystyle="true" class="aligned">{"".join(lines)}</mtable>'
    return f'<math xmlns="http://www.w3.org/1998/Math/MathML" display="{display}">{inner}</math>'


def _lines(row: str) -> list[str]:
    """Return a line with several equations as several lines, if it is long."""
    parts: list[str] = []
    for part in _split(row, r"\quad", r"\qquad"):
        if parts and (len(row) <= _LONG or "=" not in _top(part)):
            parts[-1] += rf"\quad {part}"  # the number of an equation, say
        else:
            parts.append(part)
    return parts if len(parts) == 1 else [_aligned(part) for part in parts]


def _aligned(part: str) -> str:
    """Return a line that is aligned at its first equals sign, if at nothing else."""
    head, *rest = _split(part, "=")
    return part if "&" in _top(part) or not rest else f"{head}&={'='.join(rest)}"


def _tokens(text: str) -> Iterator[tuple[str, int]]:
    """Yield every token with the number of braces and environments around it."""
    depth = 0
    for token in _TOKENS.findall(text):
        depth -= token == "}" or token.startswith(r"\end{")
        yield token, depth
        depth += token == "{" or token.startswith(r"\begin{")


def _top(text: str) -> list[str]:
    """Return the tokens that stand in no braces and no environment."""
    return [token for token, depth in _tokens(text) if depth == 0]


def _split(text: str, *marks: str) -> list[str]:
    """Return the parts of a formula between marks that stand in no braces and no environment."""
    parts = [""]
    for token, depth in _tokens(text):
        if token in marks and depth == 0:
            parts.append("")
        else:
            parts[-1] += token
    return parts


def _inner(text: str, display: str, source: str) -> str:
    """Return what stands between the tags of a drawing."""
    if not text.strip():
        return ""
    try:
        drawn = ElementTree.fromstring(_NAMESPACE.sub("", convert(text, display=display)))
    except Exception as error:
        raise MathError(f"cannot draw {text!r} in the formula {source!r}: {error!r}.") from error
    unknown = _COMMAND.search("".join(drawn.itertext()))
    if unknown:
        raise MathError(f"the formula {source!r} has the unknown command {unknown[0]}.")
    for part in drawn.iter():
        if part.tag in ("math", "mrow", "mstyle"):
            _set_apart(part)
    return "".join(ElementTree.tostring(part, encoding="unicode") for part in drawn)


def _set_apart(row: ElementTree.Element) -> None:
    """Put a little space between a name of several letters and what stands beside it."""
    parts = list(row)
    for place in range(len(parts) - 1, 0, -1):
        beside = parts[place - 1 : place + 1]
        if any(map(_is_name, beside)) and not any(one.tag in ("mo", "mspace") for one in beside):
            row.insert(place, ElementTree.Element("mspace", width="0.17em"))


def _is_name(part: ElementTree.Element) -> bool:
    if part.tag in ("msub", "msup", "msubsup", "munder", "mover", "munderover"):
        return _is_name(part[0])
    return part.tag in ("mi", "mtext") and len((part.text or "").strip("\N{NO-BREAK SPACE}")) > 1


def with_mathml(page: str) -> str:
    """Return an HTML page with the source of every formula replaced by its drawing."""

    def drawn(found: re.Match[str]) -> str:
        source, block = unescape(found["source"]), found["tag"] == "div"
        formula = mathml(source, block=block)
        return f'<div class="formula">{formula}</div>' if block else formula

    return _FOUND.sub(drawn, page)
