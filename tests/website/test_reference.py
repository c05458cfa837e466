"""The reference pages say what the code says, in full."""

from __future__ import annotations

import re
from collections.abc import Sequence

import pytest
from typer.main import get_command

import funnelrec
from funnelrec.cli.app import app
from reference_pages import INTERFACE, command_page, python_page, section_by_section, signature


def test_every_public_name_is_on_the_page() -> None:
    named = {name for entries in INTERFACE.values() for _, name, _ in entries}
    # Events are what read_events returns; nobody makes them.
    assert set(funnelrec.__all__) - named == {"Events", "__version__"}
    page = python_page()
    for module, name, methods in (entry for entries in INTERFACE.values() for entry in entries):
        assert f"### `{module}.{name}`\n" in page
        for method in methods:
            assert f"#### `{name}.{method}`\n" in page


def test_nothing_of_the_markup_of_docstrings_is_left() -> None:
    words = re.sub(
        r"```.*?```|`[^`\n]*`|\\\(.*?\\\)|\\\[.*?\\\]", "", python_page(), flags=re.DOTALL
    )
    assert not re.findall(r":[a-z]+:`|``|^-{3,}$|\.\. [a-z]+::", words, flags=re.MULTILINE)
    page = python_page()
    assert "<factory>" not in page
    assert "Annotated[" not in page
    assert "\nhesitations(load_run(" in page
    assert "``hesitations" not in page


def test_a_signature_keeps_defaults_and_tells_what_goes_by_name() -> None:
    def small(first: int, *rest: str, third: str = "a", **more: float) -> None: ...

    assert signature(small, "small") == (
        "small(first: int, *rest: str, third: str = 'a', **more: float)"
    )

    def large(
        one: Sequence[int], *, behaviors: str | None = None, timestamps: str = "as the log has them"
    ) -> None: ...

    assert signature(large, "large").splitlines() == [
        "large(",
        "    one: Sequence[int],",
        "    *,",
        "    behaviors: str | None = None,",
        "    timestamps: str = 'as the log has them',",
        ")",
    ]


def test_parameters_are_definitions_and_examples_are_code() -> None:
    docstring = """Return :math:`x^2`.

    Parameters
    ----------
    x, y
        A number,
        or ``None``.

    Examples
    --------
    >>> 2**2
    4
    """
    assert section_by_section(docstring) == (
        "Return \\(x^2\\).\n\n**Parameters**\n\n`x, y`\n:   A number,\n    or `None`.\n\n"
        "```python\n>>> 2**2\n4\n```"
    )


@pytest.mark.parametrize("name", sorted(get_command(app).commands))  # type: ignore[attr-defined]
def test_every_option_of_a_command_is_on_the_page(name: str) -> None:
    command = get_command(app).commands[name]  # type: ignore[attr-defined]
    chapter = command_page().partition(f"## `funnelrec {name}`\n")[2].partition("\n## ")[0]
    for parameter in command.params:
        for option in parameter.opts if parameter.param_type_name == "option" else ():
            assert f"`{option}`" in chapter
    if name == "prepare":
        assert "One of `leave-one-out`, `time`, `given`." in chapter
        assert "funnelrec prepare events.parquet --out DATASET" in chapter
