"""What a model class says of itself, as plain data: for the command line and the documentation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from funnelrec.models.base import Recommender

_BOUNDS = {
    "minimum": ">= {}",
    "exclusiveMinimum": "> {}",
    "maximum": "<= {}",
    "exclusiveMaximum": "< {}",
    "pattern": "{}",
}


def described_model(model: type[Recommender[Any]]) -> dict[str, Any]:
    """Return name, summary, reference, what it builds on and needs, presets and variants.

    Examples
    --------
    >>> from funnelrec.models import registry
    >>> described_model(registry.get("rmbrec"))["needs"]
    ['auxiliary behaviors']
    """
    needs = model.capabilities
    return {
        "name": model.name,
        "summary": model.summary,
        "reference": model.reference,
        "builds_on": model.builds_on,
        "adds": model.adds,
        "reconstructed": model.reconstructed,
        "needs": [
            word
            for word, needed in (
                ("auxiliary behaviors", needs.needs_auxiliary),
                ("timestamps", needs.needs_timestamps),
            )
            if needed
        ],
        "extra": model.extra or None,
        "reads_if_there": ["timestamps"] if needs.uses_timestamps else [],
        "without_timestamps": model.undated,
        "trained_by_gradient": needs.trained_by_gradient,
        "presets": {name: dict(values) for name, values in model.presets.items()},
        "variants": {name: dict(values) for name, values in model.variants.items()},
    }


def described_settings(model: type[Recommender[Any]]) -> list[dict[str, Any]]:
    """Return name, default, allowed values and meaning of every setting.

    Examples
    --------
    >>> from funnelrec.models import registry
    >>> described_settings(registry.get("lightgcn"))[-1]["range"]
    'normal, xavier, small'
    """
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
