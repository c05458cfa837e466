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
    columns = ("--columns", "user_id=uid,item_id=sku")
    funnelrec("demo", "--data", "log.csv", "--behaviors", "pv=view,cart,buy=purchase", *columns)
    out, log = Path("demo-output"), Path("log.csv")
    mapped = {"pv": "view", "cart": "cart", "buy": "purchase"}
    named = {"user_id": "uid", "item_id": "sku"}
    assert stand_in.call_args_list == [
        call(out, data=None, seed=0, columns=None, behaviors=None),
        call(Path("x"), data=log, seed=4, columns=None, behaviors=["view", "buy"]),
        call(out, data=log, seed=0, columns=named, behaviors=mapped),
    ]


def test_mistakes(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    result = funnelrec("demo", "--out", tmp_path, code=2)
    assert "error: " in result.stderr
    assert (tmp_path / "thesis.txt").read_text() == "years of work"
    missing = funnelrec("demo", "--data", tmp_path / "no.csv", "--out", tmp_path / "x", code=2)
    assert "no such file or folder" in missing.stderr
    unnamed = funnelrec("demo", "--columns", "user_id=uid", "--out", tmp_path / "x", code=2)
    assert "name the log, or leave columns out" in unnamed.stderr
    pairs = funnelrec("demo", "--columns", "uid", "--out", tmp_path / "x", code=2)
    assert "--columns must be name=value pairs, got 'uid'" in pairs.stderr
