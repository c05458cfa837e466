from __future__ import annotations

import polars as pl
import pytest

from funnelrec.data.behavior_names import COMMON_NAMES, FUNNEL, common_name, level
from funnelrec.data.events import read_events


def test_every_name_stands_for_a_behavior_of_the_funnel() -> None:
    assert set(COMMON_NAMES.values()) == set(FUNNEL)
    assert all(common_name(name) == name for name in FUNNEL)
    assert [level(name) for name in FUNNEL] == [0, 1, 2, 3]
    assert common_name("share") is None
    assert level("share") is None


@pytest.mark.parametrize("name", sorted(set(COMMON_NAMES) - {"purchase"}))
def test_a_log_may_use_any_of_them(name: str) -> None:
    strong = "purchase" if level(name) != 3 else name
    weak = name if level(name) != 3 else "view"
    log = pl.DataFrame({"user_id": [1, 1], "item_id": [1, 2], "behavior": [strong, weak.upper()]})
    assert read_events(log).behaviors == (weak.upper(), strong)
