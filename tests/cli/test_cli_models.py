from __future__ import annotations

import io
import json

import pytest
from cli_helpers import funnelrec, refused
from rich.console import Console

from funnelrec.cli.models import _overview
from funnelrec.models import model_names, registry
from funnelrec.models.description import described_model


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


def test_an_extra_is_told() -> None:
    shown = funnelrec("models", "ials").stdout
    assert "needs: extra baselines\n" in shown
    assert "pip install 'funnelrec[baselines]'" in shown
    assert "extra baselines" in funnelrec("models").stdout


def test_the_overview_marks_what_is_reconstructed() -> None:
    marked = {name for name in model_names() if registry.get(name).reconstructed}
    assert {"mbgcn", "mbssl"} <= marked < set(model_names())
    *rows, note = funnelrec("models").stdout.splitlines()
    assert {row.split()[1] for row in rows if " * " in row} == marked
    assert note == "settings of one, and what of a * is reconstructed: funnelrec models NAME"
    shown = " ".join(funnelrec("models", "mbssl").stdout.split())
    assert f"reconstructed: {registry.get('mbssl').reconstructed}" in shown


def test_the_overview_fits_100_columns() -> None:
    described = [described_model(registry.get(name)) for name in model_names()]
    narrow = Console(file=io.StringIO(), width=100)
    with narrow.capture() as captured:
        narrow.print(_overview(described))
    lines = captured.get().splitlines()
    assert max(map(len, lines)) <= 100
    # No name is folded, and no mark is lost.
    assert {line.split()[1] for line in lines if line.startswith("│ ")} - {"│"} == set(
        model_names()
    )
    assert captured.get().count("*") == sum(bool(model["reconstructed"]) for model in described)


def test_what_a_model_reads_if_it_is_there() -> None:
    shown = " ".join(funnelrec("models", "funnel").stdout.split())
    assert f"reads if there: timestamps; without them {registry.get('funnel').undated}" in shown
    described = json.loads(funnelrec("models", "--json").stdout)
    found = {model["name"]: model["reads_if_there"] for model in described}
    assert (found["funnel"], found["lightgcn"]) == (["timestamps"], [])
