"""A page for each registered model, from its class and from what was measured of it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from docstrings import parts_of, plain
from family_picture import Member, members, picture
from funnelrec.models import Recommender, model_names, registry
from funnelrec.models.description import described_model, described_settings
from funnelrec.models.space import Choice, PerAuxiliary, Range
from measured import printed_table, test_table, validation_table

FOLDER = "models"
_YES = (
    ("needs_auxiliary", "needs a behavior besides the target"),
    ("needs_timestamps", "needs timestamps"),
    ("uses_auxiliary", "learns from all behaviors"),
    ("folds_in_new_users", "recommends to users that training never saw"),
    ("trained_by_gradient", "trained by gradient"),
    ("deterministic", "the same for every seed"),
)


def own_models() -> list[str]:
    """Return the names of the models of this package, not those of others that are installed."""
    own = [name for name in model_names() if registry.get(name).__module__.startswith("funnelrec.")]
    # Simple rules first, then by what builds on what.
    order = {member.name: place for place, member in enumerate(family())}
    return sorted(own, key=lambda name: (order.get(name, -1), name))


def family() -> list[Member]:
    """Return the family of the models of this package."""
    models = (registry.get(name) for name in model_names())
    return members(
        {
            model.name: (model.builds_on, model.adds)
            for model in models
            if model.__module__.startswith("funnelrec.")
        }
    )


def pages() -> dict[str, str]:
    """Return the Markdown of every page by its path."""
    names = own_models()
    made = {f"{FOLDER}/{name}.md": model_page(name) for name in names}
    return {f"{FOLDER}/index.md": overview(names), **made}


def overview(names: list[str]) -> str:
    """Return the page that lists the models."""
    lines = [
        "# Models",
        "",
        "Every model has the same contract: settings in, `fit`, scores and recommendations out. "
        "`funnelrec models` lists them on the command line. Which one to begin with is said in "
        "[choosing a model](../guide/choosing.md).",
        "",
        "| model | what it does | learns from | source |",
        "|---|---|---|---|",
    ]
    for name in sorted(names):
        model = registry.get(name)
        source = "all behaviors" if model.capabilities.uses_auxiliary else "purchases"
        lines.append(
            f"| [`{name}`]({name}.md) | {plain(model.summary)} | {source} "
            f"| {plain(model.reference)} |"
        )
    lines += [
        "",
        "## The family",
        "",
        "What each model adds to the one it builds on. Those that are not here stand for "
        "themselves: counting rules, neighborhoods, linear models, trees.",
        "",
        picture(family()),
        "",
    ]
    return "\n".join(lines)


def model_page(name: str) -> str:
    """Return the page of one model."""
    model = registry.get(name)
    described = described_model(model)
    said = parts_of(model.__doc__ or "")
    chapters = [
        f"# {name}",
        _summary(model),
        said.body,
        _chapter("Reference", said.reference),
        _chapter(
            "Where it departs from its source",
            "\n\n".join(
                part
                for part in (said.departures, _reconstructed(described["reconstructed"]))
                if part
            ),
        ),
        _place(name),
        _chapter(
            "Presets", _presets(described["presets"], f'`create_model("{name}", preset=...)`')
        ),
        _chapter("Variants", _variants(described["variants"])),
        _settings(model),
        _space(model),
        _measured(name),
    ]
    return _linked("\n\n".join(part for part in chapters if part) + "\n")


def _linked(text: str) -> str:
    """Return a page of this folder with links to the pages of docs that it names."""
    return re.sub(r"\bdocs/(\w+)\.md\b", r"[\1](../\1.md)", text)


def _summary(model: type[Recommender[Any]]) -> str:
    facts = [words for attribute, words in _YES if getattr(model.capabilities, attribute)]
    if not model.capabilities.uses_auxiliary:
        facts.insert(0, "learns from the target behavior alone")
    return f"{plain(model.summary)}\n{{ .summary }}\n\n{_upper('; '.join(facts))}."


def _upper(text: str) -> str:
    return text[:1].upper() + text[1:]


def _chapter(heading: str, content: str) -> str:
    return f"## {heading}\n\n{content}" if content else ""


def _reconstructed(text: str) -> str:
    return f'!!! note "Reconstructed"\n\n    {plain(text)}' if text else ""


def _place(name: str) -> str:
    shown = family()
    if name not in {member.name for member in shown}:
        return ""
    return _chapter("Place in the family", picture(shown, here=name))


def _value(value: Any) -> str:
    return json.dumps(value) if not isinstance(value, str) else f'"{value}"'


def _changes(values: Mapping[str, Any]) -> str:
    return ", ".join(f"`{key}={_value(value)}`" for key, value in values.items())


def _presets(presets: Mapping[str, Mapping[str, Any]], how: str) -> str:
    if not presets:
        return ""
    lines = [
        f"`{name}`\n:   {_changes(values) or 'the defaults'}" for name, values in presets.items()
    ]
    return "\n\n".join([f"Settings to start from, {how}:", *lines])


def _variants(variants: Mapping[str, Mapping[str, Any]]) -> str:
    if not variants:
        return ""
    lines = ["What an ablation of the paper changes, on top of any preset:", ""]
    lines += ["| variant | changes |", "|---|---|"]
    lines += [f"| {plain(name)} | {_changes(values)} |" for name, values in variants.items()]
    return "\n".join(lines)


def _settings(model: type[Recommender[Any]]) -> str:
    own = set(vars(model.Settings).get("__annotations__", ()))
    settings = described_settings(model)
    if not settings:
        return _chapter("Settings", "None.")
    mine = [_setting(one) for one in settings if one["name"] in own]
    shared = [_setting(one) for one in settings if one["name"] not in own]
    parts = [*mine]
    if shared:
        body = "\n\n".join(shared)
        indented = "\n".join(f"    {line}" if line else "" for line in body.split("\n"))
        parts.append(f'??? note "Settings shared with other models"\n\n{indented}')
    return _chapter("Settings", "\n\n".join(parts))


def _setting(setting: Mapping[str, Any]) -> str:
    allowed = plain(setting["range"])
    if any(sign in setting["range"] for sign in "^(\\"):
        allowed = "string"
    return (
        f"`{setting['name']}` = `{json.dumps(setting['default'])}` ({allowed})\n"
        f":   {plain(setting['description'])}"
    )


def _space(model: type[Recommender[Any]]) -> str:
    if not model.search_space:
        return ""
    lines = ["What `funnelrec tune` tries:", "", "| setting | tried |", "|---|---|"]
    lines += [f"| `{name}` | {_dimension(one)} |" for name, one in model.search_space.items()]
    return _chapter("Search space", "\n".join(lines))


def _dimension(one: Range | Choice | PerAuxiliary) -> str:
    if isinstance(one, Choice):
        return ", ".join(f"`{_value(value)}`" for value in one.values)
    if isinstance(one, PerAuxiliary):
        return f"{_dimension(one.range)}, for each auxiliary behavior"
    return f"{one.low:g} to {one.high:g}{' (log scale)' if one.log else ''}"


def _measured(name: str) -> str:
    parts = []
    for kind, table, words in (
        (
            "figures",
            test_table(name),
            "HR@10 / NDCG@10 on test pairs, ranked against the whole catalogue, settings and "
            "epoch chosen on validation pairs (refitted: trained on both afterwards). What the "
            "three lines mean is said in [slices](../guide/slices.md), the protocol and the "
            "commands in [reproduction](../reproduction.md).",
        ),
        (
            "figures",
            validation_table(name),
            "HR@10 / NDCG@10 on validation pairs, with the best settings of a search on them: a "
            "choice, not a result.",
        ),
        (
            "printed",
            printed_table(name),
            "Printed in papers, under protocols of their own; when such a figure may stand beside "
            "one of ours is said in the [FAQ](../faq.md).",
        ),
    ):
        if table:
            parts += [words, f'<div class="{kind}" markdown>\n\n{table}\n\n</div>']
    text = "\n\n".join(parts)
    return _chapter("Measured", text or "Nothing has been recorded on the benchmark files yet.")
