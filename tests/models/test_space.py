from __future__ import annotations

from typing import Any

import pytest

from funnelrec.common.errors import ConfigError
from funnelrec.models import model_names, registry
from funnelrec.models.space import Choice, PerAuxiliary, Range


def test_what_a_range_holds() -> None:
    whole, real = Range(1, 4), Range(0.5, 2.0, log=True)
    assert [whole.holds(value) for value in (1, 4, 0, 5, 2.0, 2.5, True, "2", None)] == [
        *(True, True, False, False, True),
        *(False, False, False, False),
    ]
    assert [real.holds(value) for value in (0.5, 1, 2.0, 0.4)] == [True, True, True, False]
    assert [Choice("sum", 2).holds(value) for value in ("sum", 2, "max")] == [True, True, False]


@pytest.mark.parametrize(
    ("ends", "message"),
    [
        ({"low": 2, "high": 2}, "must run from a number to a larger one, got 2 to 2"),
        ({"low": 0.0, "high": float("inf")}, "to a larger one, got 0.0 to inf"),
        ({"low": 0, "high": 2, "log": True}, "on a log scale must begin above 0, got 0"),
    ],
)
def test_bad_ranges_are_refused(ends: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Range(**ends)


def test_a_choice_needs_an_alternative() -> None:
    with pytest.raises(ConfigError, match=r"at least two values, got \['sum'\]"):
        Choice("sum")


@pytest.mark.parametrize("name", model_names())
def test_every_corner_of_a_models_space_is_a_setting(name: str) -> None:
    model = registry.get(name)
    defaults = model.Settings().model_dump()
    for setting, dimension in model.search_space.items():
        if isinstance(dimension, PerAuxiliary):
            corners: list[Any] = [
                {"view": dimension.range.low},
                {"view": dimension.range.high, "cart": dimension.range.low},
            ]
            assert dimension.range.holds(dimension.default)
        else:
            corners = (
                list(dimension.values)
                if isinstance(dimension, Choice)
                else [dimension.low, dimension.high]
            )
        for corner in corners:
            made = model.Settings.create({setting: corner})
            assert made.model_dump()[setting] == corner
        assert setting in defaults
