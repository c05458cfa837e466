"""The family of models as a picture: what each adds to the one it builds on."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from html import escape

WIDTH = 400
_INDENT = 22
_LINE = 17
_GAP = 9
_LETTERS = 7.1  # pixels of a letter, on the wide side, for breaking lines


@dataclass(frozen=True)
class Member:
    """A model and its place.

    Parameters
    ----------
    name
        Of the model.
    base
        Name of the model it builds on, empty if it stands for itself.
    adds
        What it adds, in a few words.
    """

    name: str
    base: str
    adds: str


def members(described: Mapping[str, tuple[str, str]]) -> list[Member]:
    """Return every model that builds on another or is built on, each behind its base.

    Parameters
    ----------
    described
        Base and addition by name.

    Examples
    --------
    >>> [one.name for one in members({"b": ("a", "x"), "a": ("", ""), "c": ("", "")})]
    ['a', 'b']
    """
    bases = {base for base, _ in described.values() if base}
    roots = sorted(name for name in bases if not described[name][0])

    def below(name: str) -> Iterator[Member]:
        yield Member(name, *described[name])
        for other in sorted(other for other, (base, _) in described.items() if base == name):
            yield from below(other)

    return [member for root in roots for member in below(root)]


def picture(family: list[Member], *, here: str = "", folder: str = "") -> str:
    """Return the family as an SVG that takes its colors from the page.

    Parameters
    ----------
    family
        From :func:`members`.
    here
        The model to mark; the others then stand with their names alone, save those it builds on.
    folder
        In front of the links to the pages of the models.
    """
    by_name = {member.name: member for member in family}
    path = []
    step = here
    while step:
        path.append(step)
        step = by_name[step].base
    shapes: list[str] = []
    places: dict[str, tuple[float, float]] = {}
    top = 4.0
    for member in family:
        depth = _depth(member, by_name)
        left = 2 + depth * _INDENT
        told = member.adds if not here or member.name in path else ""
        room = int((WIDTH - left - 14) / _LETTERS)
        words = textwrap.wrap(f"+ {told}", room) if told else []
        height = _LINE * (1 + len(words)) + 7
        chosen = " here" if member.name == here else ""
        if member.base:
            x, y = places[member.base]
            middle = top + 12
            shapes.append(f'<path class="branch" d="M{x:g} {y:g}V{middle:g}H{left:g}"/>')
            places[member.base] = (x, middle)  # the next one goes on from here
        places[member.name] = (left + _INDENT / 2, top + height)
        texts = "".join(
            f'<tspan x="{left + 8:g}" dy="{_LINE}">{escape(line)}</tspan>' for line in words
        )
        shapes.append(
            f'<a href="{folder}{member.name}.html"><g class="member{chosen}">'
            f'<rect x="{left:g}" y="{top:g}" width="{WIDTH - left - 2:g}" height="{height:g}" '
            f'rx="3"/><text x="{left + 8:g}" y="{top + 16:g}">'
            f'<tspan class="name">{escape(member.name)}</tspan>{texts}</text></g></a>'
        )
        top += height + _GAP
    label = f"The family of models{f', {here} marked' if here else ''}"
    return (
        f'<svg class="family" xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {top:g}" '
        f'role="img" aria-label="{label}">{"".join(shapes)}</svg>'
    )


def _depth(member: Member, by_name: Mapping[str, Member]) -> int:
    return 1 + _depth(by_name[member.base], by_name) if member.base else 0
