from __future__ import annotations

from typing import Any

import pytest

from funnelrec.common.errors import ConfigError
from funnelrec.data.dataset import Dataset
from funnelrec.models import create_model
from funnelrec.models.weighted import WeightedSettings


def test_weights_cannot_be_changed_from_outside() -> None:
    given = {"view": 0.5}
    settings = WeightedSettings.create(weights=given)
    given["view"] = 2.0
    assert settings.weights == {"view": 0.5}
    with pytest.raises(TypeError):
        settings.weights["view"] = 3.0  # type: ignore[index]


def test_weights_survive_json() -> None:
    settings = WeightedSettings.create(weights={"view": 0.5, "cart": 2})
    dumped = settings.model_dump(mode="json")
    assert dumped == {"weights": {"view": 0.5, "cart": 2.0}}
    assert WeightedSettings.create(dumped) == settings
    assert settings.replace(weights={}).weights == {}


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"view": -0.5}, "weights.view: must be greater than or equal to 0, got -0.5"),
        ({"view": float("inf")}, "weights.view: must be a finite number"),
        (0.5, "weights: must be a mapping|weights: must be a valid"),
    ],
)
def test_bad_weights_are_refused_at_once(weights: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        WeightedSettings.create(weights=weights)


def test_an_unknown_behavior_is_refused_before_any_work(tiny_dataset: Dataset) -> None:
    model = create_model("itemknn", weights={"veiw": 1.0})
    with pytest.raises(ConfigError, match="unknown behavior 'veiw': did you mean 'view'"):
        model.check(tiny_dataset.training)
