"""What models say of themselves."""

from __future__ import annotations

import pytest

from funnelrec.models import model_names, registry
from funnelrec.models.description import described_model, described_settings


@pytest.mark.parametrize("name", model_names())
def test_what_a_model_builds_on_is_a_model_and_ends_somewhere(name: str) -> None:
    path = [name]
    while base := registry.get(path[-1]).builds_on:
        assert base in model_names()
        assert base not in path
        path.append(base)
    for step in path[:-1]:
        added = registry.get(step).adds
        assert 10 <= len(added) <= 90, step
        assert not added.endswith("."), step
    assert not registry.get(path[-1]).adds


def test_a_description_repeats_what_the_class_says() -> None:
    model = registry.get("rmbrec")
    described = described_model(model)
    assert (described["builds_on"], described["adds"]) == ("lightgcn", model.adds)
    assert described["presets"]["release"] == dict(model.presets["release"])
    settings = {setting["name"]: setting for setting in described_settings(model)}
    assert list(settings) == list(model.Settings.model_fields)
    assert settings["rrm"]["default"] == "official"
    assert settings["rrm"]["range"] == "official, eq3"
