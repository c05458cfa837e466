from __future__ import annotations

import json
from pathlib import Path

import pytest

from funnelrec.common.errors import MissingExtraError
from funnelrec.common.optional import require


def test_an_installed_module_is_returned() -> None:
    assert require("json", "plots") is json


def test_a_missing_package_names_the_group_to_install() -> None:
    with pytest.raises(MissingExtraError) as caught:
        require("no_such_package.part", "plots")
    assert str(caught.value) == (
        "this needs the package 'no_such_package' (No module named 'no_such_package'). "
        "Install it with: pip install 'funnelrec[plots]' (in a clone: pip install '.[plots]')"
    )


def test_a_package_whose_own_import_fails_says_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "half_installed.py").write_text("import missing_below")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(MissingExtraError, match=r"'half_installed' \(No module named 'missing_b"):
        require("half_installed", "plots")
