"""What the pages are made with: formulas, docstrings, the family picture."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest

from docstrings import DocstringError, markdown, parts_of, plain
from family_picture import Member, members, picture
from mathml import MathError, mathml, with_mathml


def test_lines_of_a_formula_are_rows_that_are_aligned() -> None:
    drawn = ElementTree.fromstring(
        re.sub(r' xmlns="[^"]*"', "", mathml(r"a &= b \\ c &= d", block=True))
    )
    rows = [["".join(cell.itertext()) for cell in row] for row in drawn.iter("mtr")]
    assert rows == [["a", "=b"], ["c", "=d"]]


def test_marks_inside_braces_part_nothing() -> None:
    # The sign of equality at which the second line is aligned is the one outside the braces.
    first, second = (r"\text{a} = " + "b + " * 20 + "c", r"x_{i = 1} = d")
    rows = mathml(rf"{first}, \quad {second}", block=True).split("</mtr>")[:-1]
    assert [row.count("<mtd>") for row in rows] == [2, 2]
    assert (
        "<mo>&#61;</mo>" in rows[1].partition("</mtd>")[0]
        or "="
        in ElementTree.fromstring(rows[1].partition("</mtd>")[0].rpartition("<mtd>")[2]).itertext()
    )


def test_a_long_line_of_equations_is_broken_and_its_number_stays() -> None:
    line = r"a = \frac{1}{K + 1} \sum_k e^{(k)}, \quad b = \sum_{u} x_{u} y_{u} z_{u} \quad (2, 3)"
    assert len(line) > 80
    rows = mathml(line, block=True).split("</mtr>")[:-1]
    assert len(rows) == 2
    assert "(" in rows[1]


def test_names_of_several_letters_are_set_apart() -> None:
    assert '<mi>log</mi><mspace width="0.17em" /><mi>x</mi>' in mathml(r"\log x", block=False)


@pytest.mark.parametrize("source", [r"\fooled x", r"\frac{1}{", r"x_{"])
def test_a_formula_that_cannot_be_drawn_is_refused(source: str) -> None:
    with pytest.raises(MathError):
        mathml(source, block=False)


def test_formulas_of_a_page_are_replaced() -> None:
    page = r'<p><span class="arithmatex">\(a &lt; b\)</span></p><div class="arithmatex">\[c\]</div>'
    drawn = with_mathml(page)
    assert drawn.count("<math ") == 2
    assert "arithmatex" not in drawn
    assert "&lt;" in drawn


def test_parts_of_a_docstring() -> None:
    said = parts_of(
        r"""A model.

        .. math:: s = x

        with ``k`` and :math:`x_u`.

        Reference: Somebody, "Title", 2020.

        Departures: none of *them*; |B| and a * b stay.
        """
    )
    assert said.body == "A model.\n\n\n\\[ s = x \\]\n\nwith `k` and \\(x_u\\)."
    assert said.reference == 'Somebody, "Title", 2020.'
    assert said.departures == "None of *them*; &#124;B&#124; and a \\* b stay."


@pytest.mark.parametrize("text", [".. figure:: x.png", "see :doi:`10.1`"])
def test_what_a_page_cannot_show_is_refused(text: str) -> None:
    with pytest.raises(DocstringError):
        markdown(text)


def test_a_sentence_is_shown_letter_by_letter() -> None:
    assert plain("a_b * [c] <d> |e|") == "a\\_b \\* \\[c\\] &lt;d> &#124;e&#124;"


def test_the_picture_links_every_member_and_tells_of_the_path_alone() -> None:
    family = members({"a": ("", ""), "b": ("a", "one"), "c": ("b", "two"), "d": ("b", "three")})
    assert family == [
        Member("a", "", ""),
        *(Member(*m) for m in (("b", "a", "one"), ("c", "b", "two"), ("d", "b", "three"))),
    ]
    drawn = picture(family, here="c")
    assert re.findall(r'href="(\w+)\.html"', drawn) == ["a", "b", "c", "d"]
    assert ("+ one" in drawn, "+ two" in drawn, "+ three" in drawn) == (True, True, False)
    assert drawn.count('class="member here"') == 1
    assert "+ three" in picture(family)
