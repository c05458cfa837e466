"""Reference pages made from the code: the Python interface and the command line."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from importlib import import_module
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from typer.main import get_command

from docstrings import markdown, plain
from funnelrec.cli.app import app

FOLDER = "reference"

# What a user calls, by what it is for; a class is followed by the methods named.
INTERFACE: dict[str, tuple[tuple[str, str, tuple[str, ...]], ...]] = {
    "Data": (
        ("funnelrec", "read_events", ()),
        ("funnelrec", "prepare", ()),
        ("funnelrec", "Dataset", ("with_validation_in_training", "save", "load")),
        ("funnelrec.data", "TrainingData", ()),
        ("funnelrec.data", "LeaveOneOut", ()),
        ("funnelrec.data", "GlobalTime", ()),
        ("funnelrec.data", "Given", ()),
        ("funnelrec", "diagnose", ()),
        ("funnelrec", "simulate_shop", ()),
        ("funnelrec.data", "ShopConfig", ()),
        ("funnelrec.data", "perturb", ()),
        ("funnelrec.data", "perturb_dataset", ()),
        ("funnelrec.data", "import_layout", ()),
        ("funnelrec.data", "load_named", ()),
        ("funnelrec.data", "named_datasets", ()),
    ),
    "Models": (
        ("funnelrec", "create_model", ()),
        ("funnelrec", "model_names", ()),
        (
            "funnelrec.models",
            "Recommender",
            ("fit", "score", "recommend", "recommend_blocks", "similar_items", "fold_in", "memory"),
        ),
        ("funnelrec.models", "FitOptions", ()),
        ("funnelrec.models.runs", "train_run", ()),
        ("funnelrec.models.runs", "load_run", ()),
    ),
    "Evaluation": (
        ("funnelrec", "evaluate", ()),
        ("funnelrec.evaluation", "Evaluation", ()),
        ("funnelrec.evaluation", "Protocol", ()),
        ("funnelrec.evaluation", "SampledCandidates", ()),
        ("funnelrec.evaluation", "SampledUsers", ()),
        ("funnelrec.evaluation", "resolve_masks", ()),
        ("funnelrec.evaluation", "top_k", ()),
        ("funnelrec.evaluation", "calibrate_conversion", ()),
    ),
    "Comparison": (
        ("funnelrec.comparison", "compare", ()),
        ("funnelrec.comparison", "parse_entries", ()),
        ("funnelrec.comparison", "tune", ()),
        ("funnelrec.comparison", "read_comparison", ()),
    ),
    "Hesitations and service": (
        ("funnelrec", "hesitations", ()),
        ("funnelrec.serving", "Thresholds", ()),
        ("funnelrec", "explain", ()),
        ("funnelrec.serving", "export", ()),
        ("funnelrec.serving", "load_artifact", ()),
    ),
}
_SECTION = re.compile(r"^(?P<title>[A-Z][a-z]+)\n-{3,}\n", re.MULTILINE)
_LISTED = ("Parameters", "Attributes", "Returns", "Yields", "Raises", "Warns")
_IMPLIED = ("self", "cls")
_KEYWORD = inspect.Parameter.KEYWORD_ONLY


def reference_pages() -> dict[str, str]:
    """Return the Markdown of the pages by their path in the site."""
    return {f"{FOLDER}/python.md": python_page(), f"{FOLDER}/command-line.md": command_page()}


def python_page() -> str:
    """Return what a user calls from Python, with signatures and docstrings."""
    parts = [
        "# Python interface",
        "What programs call. Everything else in the package may change with a minor version. The "
        "settings of a model are on [its page](../models/index.md).",
    ]
    for title, entries in INTERFACE.items():
        parts.append(f"## {title}")
        for module, name, methods in entries:
            found = getattr(import_module(module), name)
            parts += [f"### `{module}.{name}`", *_described(found, name)]
            for method in methods:
                parts += [f"#### `{name}.{method}`", *_described(getattr(found, method), method)]
    return "\n\n".join(parts) + "\n"


def _described(found: Callable[..., Any], name: str) -> list[str]:
    return [f"```python\n{signature(found, name)}\n```", section_by_section(found.__doc__ or "")]


def signature(found: Callable[..., Any], name: str) -> str:
    """Return a signature, one parameter a line where it is long."""
    taken = [
        one for one in inspect.signature(found).parameters.values() if one.name not in _IMPLIED
    ]
    kinds = [one.kind for one in taken]
    shown = [_parameter(one) for one in taken]
    if _KEYWORD in kinds and inspect.Parameter.VAR_POSITIONAL not in kinds:
        shown.insert(kinds.index(_KEYWORD), "*")
    short = f"{name}({', '.join(shown)})"
    if len(short) <= 90:
        return short
    return f"{name}(\n" + "".join(f"    {one},\n" for one in shown) + ")"


def _parameter(one: inspect.Parameter) -> str:
    text = one.name
    if one.kind is inspect.Parameter.VAR_POSITIONAL:
        text = f"*{text}"
    elif one.kind is inspect.Parameter.VAR_KEYWORD:
        text = f"**{text}"
    if one.annotation is not one.empty:
        kind = one.annotation
        if get_origin(kind) is Annotated:
            kind = get_args(kind)[0]
        told = kind if isinstance(kind, str) else inspect.formatannotation(kind)
        text += f": {told.replace('collections.abc.', '')}"
    if one.default is not one.empty:
        # A default that is made anew each time has no text of its own.
        default = repr(one.default)
        text += f" = {'...' if default.startswith('<') else default}"
    return text


def section_by_section(docstring: str) -> str:
    """Return a numpydoc docstring as Markdown: parameters as definitions, examples as code."""
    text = inspect.cleandoc(docstring)
    pieces = _SECTION.split(text)
    parts = [markdown(pieces[0])]
    for title, body in zip(pieces[1::2], pieces[2::2], strict=True):
        if title in _LISTED:
            parts.append(f"**{title}**\n\n{_definitions(body)}")
        elif title == "Examples":
            # A line that cannot be run alone stands between quotes.
            code = re.sub(r"^``(.+)``$", r"\1", body.strip(), flags=re.MULTILINE)
            parts.append(f"```python\n{code}\n```")
        else:
            parts.append(f"**{title}**\n\n{markdown(body.strip())}")
    return "\n\n".join(parts)


def _definitions(body: str) -> str:
    out: list[str] = []
    for block in re.split(r"\n(?=\S)", body.strip()):
        term, _, rest = block.partition("\n")
        told = markdown(inspect.cleandoc(rest)).replace("\n", "\n    ")
        out.append(f"`{term.strip()}`\n:   {told}")
    return "\n\n".join(out)


def command_page() -> str:
    """Return every command with its options, as ``--help`` has them."""
    parts = [
        "# Command line",
        "`funnelrec COMMAND --help` prints the same. Exit codes: 0 done, 2 a mistake in what was "
        "asked for, 130 interrupted with Ctrl-C, 1 anything else.",
    ]
    commands: dict[str, Any] = getattr(get_command(app), "commands")  # noqa: B009
    for name, command in commands.items():
        lines = [
            line.strip().replace("\\[", "[")
            for line in (command.epilog or "").removeprefix("Examples:").splitlines()
            if line.strip()
        ]
        calls = [line for line in lines if line.startswith("funnelrec ")]
        told = [plain((command.help or "").strip())]
        if calls:
            told.append("```text\n" + "\n".join(calls) + "\n```")
        told += [plain(line) for line in lines if line not in calls]
        parts += [f"## `funnelrec {name}`", *told, _options(command)]
    return "\n\n".join(parts) + "\n"


def _options(command: Any) -> str:
    hints = get_type_hints(inspect.unwrap(command.callback))
    lines = ["| | default | |", "|---|---|---|"]
    for one in command.params:
        is_option = one.param_type_name == "option"
        names = [*one.opts, *one.secondary_opts] if is_option else [one.metavar or one.name]
        shown = ", ".join(f"`{each}`" for each in names)
        unsaid = one.default is None or one.default is False or callable(one.default)
        default = "required" if one.required else "" if unsaid else f"`{one.default}`"
        told = plain(one.help or "")
        if choices := _choices(hints.get(one.name)):
            told += f" One of {', '.join(f'`{each}`' for each in choices)}."
        lines.append(f"| {shown} | {default} | {told} |")
    return "\n".join(lines)


def _choices(hint: Any) -> tuple[Any, ...]:
    """Return what a Literal allows, also one that may be left out."""
    if get_origin(hint) is Literal:
        return get_args(hint)
    return next((found for part in get_args(hint) if (found := _choices(part))), ())
