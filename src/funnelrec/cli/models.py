"""``funnelrec models``: what can be trained, and with which settings."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from funnelrec.cli.output import examples, listed, print_json, say, show

if TYPE_CHECKING:
    from funnelrec.models import Recommender

NAME = "models"
EXAMPLES = examples(
    "funnelrec models",
    "funnelrec models rmbrec",
    "funnelrec models rmbrec --json",
)

_BOUNDS = {
    "minimum": ">= {}",
    "exclusiveMinimum": "> {}",
    "maximum": "<= {}",
    "exclusiveMaximum": "< {}",
    "pattern": "{}",
}


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

    if name is None:
        described = [_model(registry.get(known)) for known in model_names()]
        if as_json:
            print_json(described)
        else:
            show(_overview(described))
            say("settings of one: funnelrec models NAME")
        return
    model = registry.get(name)
    described_one = {**_model(model), "settings": _settings(model)}
    if as_json:
        print_json(described_one)
    else:
        _print_one(described_one)


def _model(model: type[Recommender[Any]]) -> dict[str, Any]:
    needs = model.capabilities
    return {
        "name": model.name,
        "summary": model.summary,
        "reference": model.reference,
        "needs": [
            word
            for word, needed in (
                ("auxiliary behaviors", needs.needs_auxiliary),
                ("timestamps", needs.needs_timestamps),
            )
            if needed
        ],
        "trained_by_gradient": needs.trained_by_gradient,
        "presets": {name: dict(values) for name, values in model.presets.items()},
        "variants": {name: dict(values) for name, values in model.variants.items()},
    }


def _settings(model: type[Recommender[Any]]) -> list[dict[str, Any]]:
    properties = model.Settings.model_json_schema()["properties"]
    defaults = model.Settings().model_dump(mode="json")
    return [
        {
            "name": name,
            "default": defaults[name],
            "range": _range(properties[name]),
            "description": field.description or "",
        }
        for name, field in model.Settings.model_fields.items()
    ]


def _range(schema: dict[str, Any]) -> str:
    """Return the allowed values in words, from the JSON schema of a field.

    >>> _range({"type": "integer", "minimum": 1}), _range({"enum": ["rex", "v1"]})
    ('integer >= 1', 'rex, v1')
    >>> _range({"type": "object", "additionalProperties": {"type": "number", "minimum": 0}})
    'name to number >= 0'
    """
    if "enum" in schema:
        return ", ".join(map(str, schema["enum"]))
    if isinstance(schema.get("additionalProperties"), dict):
        return f"name to {_range(schema['additionalProperties'])}"
    if "anyOf" in schema:
        return " or ".join(_range(part) for part in schema["anyOf"])
    bounds = [text.format(schema[key]) for key, text in _BOUNDS.items() if key in schema]
    return " ".join([str(schema.get("type", "any")), *bounds])


def _overview(described: list[dict[str, Any]]) -> Table:
    table = Table()
    for heading in ("name", "summary", "reference", "needs", "presets"):
        table.add_column(heading, overflow="fold")
    for model in described:
        cells = (
            model["name"],
            model["summary"],
            model["reference"],
            listed(model["needs"]),
            listed(model["presets"]),
        )
        table.add_row(*map(Text, cells))
    return table


def _print_one(model: dict[str, Any]) -> None:
    say(f"{model['name']}: {model['summary']}")
    say(f"reference: {model['reference']}")
    say(f"needs: {listed(model['needs'])}")
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
