"""What the pages are made with: formulas, docstrings, the family picture."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

import baselines
import fold_in
import funnel
from docstrings import DocstringError, markdown, parts_of, plain
from family_picture import Member, members, picture
from funnelrec.models import create_model
from funnelrec.models.propagated import OWN_LENGTH
from mathml import MathError, mathml, with_mathml
from measured import MASKED, _words, fold_in_table, fold_in_times_table, levels_table
from measured import test_table as table_of_tests
from model_pages import model_page
from site_hooks import on_page_content


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


def test_figures_break_at_the_slash_alone() -> None:
    page = "<td>0.1210 ± 0.0006 / 0.0724 ± 0.0002</td><td>.40 / 3</td><td>0.05 (a / b)</td>"
    made = on_page_content(page)
    assert made.replace("\N{NO-BREAK SPACE}", " ") == page
    first, second = re.split(" (?!/)", made.partition("</td>")[0], maxsplit=1)
    assert (first, second) == (
        "<td>0.1210\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}0.0006\N{NO-BREAK SPACE}/",
        "0.0724\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}0.0002",
    )


def test_a_preset_that_changes_nothing_is_said_to_be_the_defaults() -> None:
    page = model_page("nmtr")
    assert "`paper`\n:   the defaults" in page
    assert re.search(r"`release`\n:   `interaction=", page)


def test_pages_that_a_description_names_are_links() -> None:
    page = model_page("rmbrec")
    assert "([reproduction](../reproduction.md))" in page
    assert "docs/" not in page


def test_settings_of_behaviors_are_numbers() -> None:
    assert _words({"weights": {"cart": 0.01171, "view": 2.0}, "step": 0.00123, "kind": "a"}) == (
        "kind=a, step=0.00123, weights={'cart': 0.0117, 'view': 2}"
    )


def _baseline(**changes: Any) -> str:
    """Return a line of benchmarks/baselines.py."""
    settings = create_model("cml", preset="practical").config.model_dump(mode="json")
    figures = {
        part: {"hr@10": value, "ndcg@10": value / 2}
        for part, value in (("overall", 0.125), ("conversion", 0.25), ("discovery", 0.0625))
    }
    row = {
        "key": json.dumps(changes, default=str),
        "dataset": "taobao15k",
        "model": "cml",
        "preset": "practical",
        "settings": {**settings, **changes.pop("settings", {})},
        "seed": 0,
        "epochs": 7,
        "ended_by_budget": False,
        "test": figures,
        **changes,
    }
    return json.dumps(row)


def test_baselines_are_among_the_measured_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded = tmp_path / "baselines.jsonl"
    monkeypatch.setattr(baselines, "RESULTS", recorded)
    recorded.write_text(
        "\n".join(
            (
                _baseline(),
                _baseline(dataset="tmall41k_no_view", ended_by_budget=True),
                _baseline(settings={"epochs": 3, "substitution_weight": 0.2}),
                # Another epoch's end is no other training.
                _baseline(settings={"epochs": 5}),
            )
        )
    )
    figures = "1 | 0.1250 / 0.0625 | 0.2500 / 0.1250 | 0.0625 / 0.0312 |"
    assert table_of_tests("cml").splitlines()[2:] == [
        f"| taobao15k | preset=practical | {figures}",
        f"| taobao15k | preset=practical, substitution_weight=0.2 | {figures}",
        f"| tmall41k_no_view | preset=practical, ended by its budget after 7 epochs | {figures}",
    ]


def test_levels_are_those_of_one_protocol(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recorded = tmp_path / "funnel.jsonl"
    monkeypatch.setattr(funnel, "RESULTS", recorded)

    def line(key: int, overall: float, masked: float, **more: Any) -> str:
        parts = {"overall": overall, MASKED: masked, "conversion": 0.5, "discovery": 0.5}
        test = {part: {"hr@10": value, "ndcg@10": value} for part, value in parts.items()}
        return json.dumps(
            {
                "key": str(key),
                "step": "rivals",
                "dataset": "taobao15k",
                "settings": {},
                "seed": 0,
                "refit": True,
                "test": test,
                **more,
            }
        )

    recorded.write_text(
        "\n".join(
            (
                # An earlier version that was better does not stand for the one of today.
                line(0, 0.9, 0.9, step="run"),
                line(7, 0.8, 0.8, step="run", model="funnel", name="second version"),
                line(1, 0.2, 0.1, step="run", model="funnel"),
                line(2, 0.4, 0.3, step="run", model="funnel", seed=1),
                line(3, 0.5, 0.05, model="itemknn"),
                line(4, 0.6, 0.04, model="itemknn", settings={"neighbors": 7}),
                line(5, 0.7, 0.7, model="ease", refit=False),
                line(6, 0.1, 0.1, dataset="tmall41k_no_view", step="run"),
            )
        )
    )
    assert levels_table().splitlines() == [
        "| model | taobao15k | tmall41k_no_view |",
        "|---|---|---|",
        "| [`itemknn`](../models/itemknn.md) | 0.6000 / 0.0400 | - |",
        "| [`funnel`](../models/funnel.md) | 0.3000 / 0.2000 | 0.1000 / 0.1000 (first version) |",
    ]


def test_users_left_out_are_counted_over_seeds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded = tmp_path / "fold_in.jsonl"
    monkeypatch.setattr(fold_in, "RESULTS", recorded)

    def part(users: int, both: int, refitted: int, folded: int) -> dict[str, int]:
        return {
            "users": users,
            "hit_by_both": both,
            "hit_refitted_only": refitted,
            "hit_folded_only": folded,
        }

    row: dict[str, Any] = {"step": "compare", "dataset": "taobao15k", "model": "rmbrec"}
    row |= {"settings": {}, "own_length": OWN_LENGTH}
    first = {**row, "seed": 0, "test": part(100, 30, 10, 5), "validation": part(80, 9, 1, 0)}
    second = {**row, "seed": 1, "test": part(60, 20, 0, 1), "validation": part(80, 10, 0, 0)}
    timed: dict[str, Any] = {"step": "time", "model": "rmbrec", "dataset": "taobao15k"}
    timed |= {"milliseconds_for_one_user": {"median": 9.0, "p95": 9.0, "p99": 9.0}}
    later = timed | {"milliseconds_for_one_user": {"median": 2.449, "p95": 3.0, "p99": 4.0}}
    quick: dict[str, Any] = {"milliseconds_for_one_user": {"median": 0.5, "p95": 1.0, "p99": 1.0}}
    quick = {**timed, "model": "ease", **quick}
    tried = {**first, "own_length": OWN_LENGTH + 1}
    rows = (first, timed, tried, second, later, quick)
    recorded.write_text("\n".join(json.dumps(line) for line in rows))
    assert fold_in_table().splitlines()[2:] == [
        "| taobao15k | [`rmbrec`](../models/rmbrec.md) | 160 | 0.3750 | 0.3500 | 0.933 | 0.950 |"
    ]
    # The last measurement of a model, and the quickest first.
    assert fold_in_times_table().splitlines()[2:] == [
        "| taobao15k | [`ease`](../models/ease.md) | 0.5 ms | 1.0 ms | 1.0 ms |",
        "| taobao15k | [`rmbrec`](../models/rmbrec.md) | 2.4 ms | 3.0 ms | 4.0 ms |",
    ]
