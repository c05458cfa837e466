from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from funnelrec.common.errors import UsageError
from funnelrec.common.page import write_page

objects = pytest.importorskip("plotly.graph_objects")


@pytest.fixture
def figure() -> Any:
    made = objects.Figure(objects.Bar(x=[1, 2], y=[3, 4]))
    return made.update_layout(title={"text": "pens & <b>ink</b>"}, margin={"t": 90})


def test_the_title_is_the_heading_and_nothing_else(figure: Any, tmp_path: Path) -> None:
    write_page(figure, tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "<title>pens &amp; &lt;b&gt;ink&lt;/b&gt;</title>" in text
    assert "<h1>pens &amp; &lt;b&gt;ink&lt;/b&gt;</h1>" in text
    assert "ink" not in text.partition("</h1>")[2].rpartition("</script>")[0][-4000:]
    assert 'name="viewport"' in text
    # The figure that was handed in is as it was.
    assert figure.layout.title.text == "pens & <b>ink</b>"
    assert figure.layout.margin.t == 90


def test_the_script_is_in_the_page_or_beside_it(figure: Any, tmp_path: Path) -> None:
    write_page(figure, tmp_path / "whole.html")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["whole.html"]
    write_page(figure, tmp_path / "part.html", library_beside=True)
    assert (tmp_path / "plotly.min.js").stat().st_size > 10**6
    part = (tmp_path / "part.html").read_text(encoding="utf-8")
    assert len(part) < 20_000
    assert 'src="plotly.min.js"' in part


def test_a_folder_is_no_file(figure: Any, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="a folder of that name exists"):
        write_page(figure, tmp_path)
