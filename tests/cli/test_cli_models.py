from __future__ import annotations

import json

import pytest
from cli_helpers import funnelrec, refused

from funnelrec.models import model_names, registry


def test_all_models() -> None:
    shown = funnelrec("models").stdout
    described = json.loads(funnelrec("models", "--json").stdout)
    assert [model["name"] for model in described] == model_names()
    for model in described:
        assert model["summary"] in shown
        known = registry.get(model["name"])
        assert set(model["presets"]) == set(known.presets)
        assert ("auxiliary behaviors" in model["needs"]) == known.capabilities.needs_auxiliary


@pytest.mark.parametrize("name", model_names())
def test_the_settings_of_a_model(name: str) -> None:
    settings = json.loads(funnelrec("models", name, "--json").stdout)["settings"]
    fields = registry.get(name).Settings.model_fields
    assert [setting["name"] for setting in settings] == list(fields)
    defaults = {setting["name"]: setting["default"] for setting in settings}
    # What is shown as a default can be given as a setting.
    assert registry.get(name).Settings.create(defaults) == registry.get(name).Settings()
    shown = " ".join(funnelrec("models", name).stdout.split())
    for field in fields:
        assert f"│ {field} " in shown


def test_ranges_in_words() -> None:
    described = json.loads(funnelrec("models", "rmbrec", "--json").stdout)
    settings = {setting["name"]: setting for setting in described["settings"]}
    assert settings["layers"]["range"] == "integer >= 0"
    assert settings["temperature"]["range"] == "number > 0"
    assert settings["rrm"]["range"] == "official, eq3"
    assert settings["normalize_layers"]["range"] == "boolean"
    assert settings["temperature"]["default"] == 0.07


def test_an_unknown_model() -> None:
    assert "unknown model 'rmbrek': did you mean 'rmbrec'?" in refused("models", "rmbrek")


def test_what_a_model_reads_if_it_is_there() -> None:
    shown = " ".join(funnelrec("models", "funnel").stdout.split())
    assert f"reads if there: timestamps; without them {registry.get('funnel').undated}" in shown
    described = json.loads(funnelrec("models", "--json").stdout)
    found = {model["name"]: model["reads_if_there"] for model in described}
    assert (found["funnel"], found["lightgcn"]) == (["timestamps"], [])
