"""``funnelrec models``: what can be trained, and with which settings."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from funnelrec.cli.output import examples, listed, print_json, say, show

NAME = "models"
# Behind the reference of a model of which something had to be reconstructed.
_MARK = "*"
EXAMPLES = examples(
    "funnelrec models",
    "funnelrec models rmbrec",
    "funnelrec models rmbrec --json",
)


def command(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME", help="A model; all of them if not given.", show_default=False
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")] = False,
) -> None:
    """List the models, or the settings of one with defaults, ranges and meanings."""
    from funnelrec.models import model_names, registry
    from funnelrec.models.description import described_model, described_settings

    if name is None:
        described = [described_model(registry.get(known)) for known in model_names()]
        if as_json:
            print_json(described)
        else:
            show(_overview(described))
            say(f"settings of one, and what of a {_MARK} is reconstructed: funnelrec models NAME")
        return
    model = registry.get(name)
    described_one = {**described_model(model), "settings": described_settings(model)}
    if as_json:
        print_json(described_one)
    else:
        _print_one(described_one)


def _overview(described: list[dict[str, Any]]) -> Table:
    table = Table()
    for heading in ("name", "summary", "reference", "needs", "presets"):
        table.add_column(heading, overflow="fold")
    for model in described:
        cells = (
            model["name"],
            model["summary"],
            f"{model['reference']} {_MARK}" if model["reconstructed"] else model["reference"],
            listed(_needs(model)),
            listed(model["presets"]),
        )
        table.add_row(*map(Text, cells))
    return table


def _needs(model: dict[str, Any]) -> list[str]:
    """Return what a model needs, of the data and of the installation."""
    return [*model["needs"], *([f"extra {model['extra']}"] if model["extra"] else [])]


def _print_one(model: dict[str, Any]) -> None:
    say(f"{model['name']}: {model['summary']}")
    say(f"reference: {model['reference']}")
    if model["reconstructed"]:
        say(f"reconstructed: {model['reconstructed']}")
    say(f"needs: {listed(_needs(model))}")
    if model["extra"]:
        say(f"install it with: pip install 'funnelrec[{model['extra']}]'")
    if model["reads_if_there"]:
        say(f"reads if there: timestamps; without them {model['without_timestamps']}")
    for kind in ("preset", "variant"):
        for name, values in model[f"{kind}s"].items():
            chosen = (f"{key}={json.dumps(value)}" for key, value in values.items())
            say(f"{kind} {name}: {listed(chosen)}")
    if not model["settings"]:
        say("settings: none")
        return
    table = Table()
    for heading in ("setting", "default", "allowed", "meaning"):
        table.add_column(heading, overflow="fold")
    for setting in model["settings"]:
        cells = (
            setting["name"],
            json.dumps(setting["default"]),
            setting["range"],
            setting["description"],
        )
        table.add_row(*map(Text, cells))
    show(table)
