from __future__ import annotations

from pathlib import Path
from unittest.mock import call, create_autospec

import pytest
from cli_helpers import funnelrec

from funnelrec.comparison.demo import run_demo


def test_the_demo_is_the_librarys(monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in = create_autospec(run_demo)
    monkeypatch.setattr("funnelrec.comparison.demo.run_demo", stand_in)
    funnelrec("demo")
    funnelrec("demo", "--data", "log.csv", "--out", "x", "--seed", "4", "--behaviors", "view,buy")
    assert stand_in.call_args_list == [
        call(Path("demo-output"), data=None, seed=0, behaviors=None),
        call(Path("x"), data=Path("log.csv"), seed=4, behaviors=["view", "buy"]),
    ]


def test_mistakes(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    result = funnelrec("demo", "--out", tmp_path, code=2)
    assert "error: " in result.stderr
    assert (tmp_path / "thesis.txt").read_text() == "years of work"
    missing = funnelrec("demo", "--data", tmp_path / "no.csv", "--out", tmp_path / "x", code=2)
    assert "no such file or folder" in missing.stderr
