from __future__ import annotations

import pytest

from funnelrec.common import errors
from funnelrec.common.errors import FunnelrecError, TrainingDivergedError, UsageError, suggestion


def test_a_near_name_is_suggested_and_all_are_listed_sorted() -> None:
    assert suggestion("vew", ["view", "cart"]) == ": did you mean 'view'? Known: cart, view."


def test_without_a_near_name_the_known_ones_are_listed() -> None:
    assert suggestion("xyz", ["view", "cart"]) == ". Known: cart, view."
    assert suggestion("xyz", []) == ". There are none."


@pytest.mark.parametrize(
    "kind",
    ["DataError", "ConfigError", "CapabilityError", "NotFittedError", "MissingExtraError"],
)
def test_mistakes_of_the_caller_are_usage_errors_and_value_errors(kind: str) -> None:
    error = getattr(errors, kind)
    assert issubclass(error, UsageError)
    assert issubclass(error, ValueError)
    assert issubclass(error, FunnelrecError)


def test_divergence_is_not_a_mistake_of_the_caller() -> None:
    assert issubclass(TrainingDivergedError, FunnelrecError)
    assert not issubclass(TrainingDivergedError, UsageError)
