from __future__ import annotations

from typing import Any, Literal

import pytest
from pydantic import Field, ValidationError, model_validator

from funnelrec.common.config import Config, parse_assignments
from funnelrec.common.errors import ConfigError


class Settings(Config):
    layers: int = Field(3, ge=0, description="Layers.")
    mode: Literal["a", "b"] = Field("a", description="Mode.")
    rate: float = Field(0.5, gt=0, description="Rate.")

    @model_validator(mode="after")
    def _agree(self) -> Settings:
        if self.mode == "b" and self.layers == 0:
            raise ValueError("mode b needs layers")
        return self


def test_values_and_overrides_are_merged_the_latter_winning() -> None:
    settings = Settings.create({"layers": 1, "rate": 2.0}, layers=2)
    assert (settings.layers, settings.mode, settings.rate) == (2, "a", 2.0)


def test_plain_mapping_and_back_loses_nothing() -> None:
    settings = Settings.create(layers=7, mode="b")
    assert Settings.create(settings.model_dump()) == settings
    assert Settings.create(settings.model_dump(mode="json")) == settings


def test_settings_are_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Settings.create().layers = 2  # type: ignore[misc]  # what is tested


def test_replace_validates_and_leaves_the_original() -> None:
    settings = Settings.create(layers=1)
    assert settings.replace(layers=4).layers == 4
    assert settings.layers == 1
    with pytest.raises(ConfigError, match="unknown setting 'layer'"):
        settings.replace(layer=4)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"layer": 1},
            "unknown setting 'layer': did you mean 'layers'? Known: layers, mode, rate.",
        ),
        ({"layers": -1}, "layers: must be greater than or equal to 0, got -1."),
        ({"mode": "c"}, "mode: must be 'a' or 'b', got 'c'."),
        (
            {"rate": 0, "layers": -1},
            "layers: must be greater than or equal to 0, got -1; "
            "rate: must be greater than 0, got 0.",
        ),
        ({"mode": "b", "layers": 0}, "mode b needs layers."),
    ],
)
def test_bad_settings_give_one_sentence(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Settings.create(values)
    assert str(caught.value) == message


def test_assignments_are_read_as_json_where_they_are_json() -> None:
    given = ["a=1", "b=1e-3", "c=true", "d=null", "e=text", "f=[1, 2]", "g=x=y", " h =2", "i="]
    assert parse_assignments(given) == {
        "a": 1,
        "b": 1e-3,
        "c": True,
        "d": None,
        "e": "text",
        "f": [1, 2],
        "g": "x=y",
        "h": 2,
        "i": "",
    }


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["layers"], "a setting must be written key=value, got 'layers'."),
        (["=3"], "a setting must be written key=value, got '=3'."),
        (["a=1", "a=2"], "the setting 'a' is given twice; give it once."),
    ],
)
def test_bad_assignments_are_refused(given: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_assignments(given)
    assert str(caught.value) == message
