from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from cli_helpers import funnelrec, refused


def test_mistakes(tmp_path: Path) -> None:
    assert refused("explore", tmp_path / "missing").startswith("there is no folder")
    assert "is no finished run" in refused("explore", tmp_path)
    assert "port must lie between 0 and 65535" in refused("explore", tmp_path, "--port", "-1")


def test_what_is_asked_for_is_handed_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: dict[str, Any] = {}

    def explore(path: Path, **options: Any) -> None:
        asked.update(options, path=path)
        options["tell"]("http://127.0.0.1:1")

    monkeypatch.setattr("funnelrec.explorer.explore", explore)
    shown = funnelrec(
        "explore", tmp_path, "--compare", "c", "--dataset", "d", "--port", "7", "--browser"
    )
    assert shown.stdout == "explorer: http://127.0.0.1:1 (Ctrl-C ends it)\n"
    del asked["tell"], asked["tell_memory"]
    assert asked == {
        "path": tmp_path,
        "dataset": Path("d"),
        "compare": Path("c"),
        "port": 7,
        "browser": True,
        "device": "auto",
    }
