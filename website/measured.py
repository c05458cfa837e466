"""What has been measured of a model, from the records in benchmarks/results."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from statistics import mean
from typing import Any

import baselines
import charm_tables
import fold_in
import funnel
import reproduction
import simple_search
from funnelrec.common.numbers import counted
from funnelrec.comparison.published import published_figures
from funnelrec.models import create_model, registry
from funnelrec.models.propagated import OWN_LENGTH
from reproduction import COUNTED, SOURCES, finished, pair

Row = dict[str, Any]
MASKED = "discovery, touched masked"
LINES = ("overall", "conversion", "discovery")


def test_rows() -> Iterator[Row]:
    """Yield every recorded training that was measured on test pairs of a benchmark file, once.

    A row has dataset, model, settings (those that are not the model's defaults), seed, refit,
    HR@10 and NDCG@10 of each slice, and a note. What two scripts recorded is the first one's.
    """
    seen = set()
    for row in _recorded():
        training = (*(row[name] for name in ("dataset", "model", "seed", "refit")), _told(row))
        if training not in seen:
            seen.add(training)
            yield row


def _recorded() -> Iterator[Row]:
    for row in finished(reproduction.RESULTS).values():
        yield {**row, "settings": _own(row["model"], row["settings"])}
    done = finished(charm_tables.RESULTS)
    for trained in charm_tables.rows():
        # Those that went on to their end.
        line = charm_tables.recorded(trained, done) if trained.group == "full" else None
        if line is not None and "test" in line:
            yield {
                **line,
                "model": "charm",
                "refit": False,
                "slices": line["test"],
                "settings": {"preset": "practical"},
            }
    for row in finished(funnel.RESULTS).values():
        if row["step"] in ("run", "rivals"):
            model = row.get("model", "funnel")
            yield {
                **row,
                "model": model,
                "slices": row["test"],
                "settings": _own(model, row["settings"]),
                "note": _version(row),
            }
    for row in finished(baselines.RESULTS).values():
        yield {
            **row,
            "refit": False,
            "slices": row["test"],
            "settings": _preset(row["model"], row["preset"], row["settings"]),
            "note": f"ended by its budget after {counted(row['epochs'], 'epoch')}"
            if row["ended_by_budget"]
            else "",
        }


def _version(row: Row) -> str:
    """Return which earlier version of the flagship was trained; "" is today's, or a rival."""
    # Lines written before there was a second version do not name the model.
    if "model" not in row:
        return "first version"
    name = str(row.get("name", ""))
    return name if name.endswith("version") else ""


def _preset(model: str, preset: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Return a preset's name and what differs from it as it is now; epochs are said apart."""
    given = {} if preset == "default" else {"preset": preset}
    now = create_model(model, **given).config.model_dump(mode="json")
    return given | {
        key: value
        for key, value in settings.items()
        if key not in ("epochs", "evaluate_every") and now.get(key) != value
    }


def _own(model: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Return settings that are not the model's defaults."""
    default = registry.get(model).Settings().model_dump(mode="json")
    return {
        key: value
        for key, value in settings.items()
        if key != "evaluate_every" and default.get(key) != value
    }


def test_table(model: str) -> str:
    """Return a table of a model's test figures, one row a data set and choice of settings.

    Empty if nothing was recorded. Mean and spread are over seeds.
    """
    groups: dict[tuple[str, str, bool], list[Row]] = defaultdict(list)
    for row in test_rows():
        if row["model"] == model:
            groups[row["dataset"], _told(row), bool(row["refit"])].append(row)
    if not groups:
        return ""
    lines = [
        f"| data set | settings | seeds | {' | '.join(LINES)} |",
        "|---" * (len(LINES) + 3) + "|",
    ]
    order = list(SOURCES)
    for name, settings, refit in sorted(groups, key=lambda one: (order.index(one[0]), *one[1:])):
        rows = groups[name, settings, refit]
        cells = [pair(rows, line, 10) for line in LINES]
        lines.append(
            f"| {name} | {settings or 'defaults'}{', refitted' * refit} "
            f"| {'-' if model in COUNTED else len(rows)} | {' | '.join(cells)} |"
        )
    return "\n".join(lines)


def levels_table() -> str:
    """Return HR@10 of the refitted models side by side, one line a model.

    A cell holds all purchases, then discoveries with touched items masked; mean over seeds. Of
    a model that was fitted under several settings the newest version counts, then the best
    NDCG@10 of all purchases.
    """
    found: dict[tuple[str, str], dict[str, dict[int, Row]]] = defaultdict(lambda: defaultdict(dict))
    for row in _recorded():
        if row["refit"] and MASKED in row["slices"]:
            found[row["model"], row["dataset"]][_told(row)][row["seed"]] = row
    best = {
        key: max(
            (list(seeds.values()) for seeds in groups.values()),
            key=lambda rows: (not rows[0]["note"], _mean(rows, "overall", "ndcg@10")),
        )
        for key, groups in found.items()
    }
    datasets = [name for name in SOURCES if any(name == place for _, place in best)]
    models = sorted(
        {model for model, _ in best},
        key=lambda model: (
            -max(_mean(rows, "overall") for (own, _), rows in best.items() if own == model)
        ),
    )
    lines = [f"| model | {' | '.join(datasets)} |", "|---" * (len(datasets) + 1) + "|"]
    for model in models:
        cells = []
        for name in datasets:
            rows = best.get((model, name))
            cells.append(
                "-"
                if rows is None
                else f"{_mean(rows, 'overall'):.4f} / {_mean(rows, MASKED):.4f}"
                f"{f' ({note})' if (note := rows[0]['note']) else ''}"
            )
        lines.append(f"| [`{model}`](../models/{model}.md) | {' | '.join(cells)} |")
    return "\n".join(lines)


def fold_in_table() -> str:
    """Return HR@10 of users left out of training beside that of a refit, one line a training.

    Where several seeds drew several tenths of the users, the figures are over all of them.
    """
    groups: dict[tuple[str, str, str], list[Row]] = defaultdict(list)
    for line in fold_in.RESULTS.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        # Other lengths of layer 0 than today's are how it was chosen.
        if row["step"] == "compare" and row["own_length"] in (None, OWN_LENGTH):
            settings = _words(_own(row["model"], row["settings"]))
            groups[row["dataset"], row["model"], settings].append(row)
    lines = [
        "| data set | model | users left out | refitted | folded in | ratio | validation's ratio |",
        "|---" * 7 + "|",
    ]
    for (name, model, settings), rows in sorted(groups.items()):
        test, validation = ([row[split] for row in rows] for split in ("test", "validation"))
        users = sum(part["users"] for part in test)
        there, here = (_hits(test, side) for side in ("refitted", "folded"))
        seen = [_hits(validation, side) for side in ("folded", "refitted")]
        lines.append(
            f"| {name} | [`{model}`](../models/{model}.md){f', {settings}' * bool(settings)} "
            f"| {users:,} | {there / users:.4f} | {here / users:.4f} | {here / there:.3f} "
            f"| {seen[0] / seen[1]:.3f} |"
        )
    return "\n".join(lines)


def fold_in_times_table() -> str:
    """Return the milliseconds that one user folded in takes, one line a model, quickest first."""
    rows: dict[tuple[str, str], Row] = {}
    for line in fold_in.RESULTS.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        if row["step"] == "time":
            # What was measured last is what the model does now.
            rows[row["dataset"], row["model"]] = row["milliseconds_for_one_user"]
    lines = [
        "| data set | model | median | 95 of 100 within | 99 of 100 within |",
        "|---" * 5 + "|",
    ]
    for (name, model), found in sorted(rows.items(), key=lambda part: part[1]["median"]):
        numbers = " | ".join(f"{found[key]:.1f} ms" for key in ("median", "p95", "p99"))
        lines.append(f"| {name} | [`{model}`](../models/{model}.md) | {numbers} |")
    return "\n".join(lines)


def _hits(parts: list[dict[str, Any]], side: str) -> int:
    return int(sum(part["hit_by_both"] + part[f"hit_{side}_only"] for part in parts))


def _mean(rows: list[Row], part: str, metric: str = "hr@10") -> float:
    return float(mean(row["slices"][part][metric] for row in rows))


def _told(row: Row) -> str:
    """Return a row's settings, and what else is to be known of its training."""
    return ", ".join(part for part in (_words(row["settings"]), row.get("note", "")) if part)


def _words(settings: dict[str, Any]) -> str:
    return ", ".join(f"{key}={value}" for key, value in sorted(_rounded(settings).items()))


def validation_table(model: str) -> str:
    """Return what the best trial of a search on validation gave; empty if none was recorded."""
    trials = {name: rows for (name, of), rows in simple_search.trials().items() if of == model}
    if not trials:
        return ""
    lines = [
        f"| data set | trials | settings of the best | {' | '.join(LINES)} |",
        "|---" * (len(LINES) + 3) + "|",
    ]
    for name, rows in trials.items():
        best = rows[0]
        values = [best["metrics"][line] for line in LINES]
        cells = [f"{value['hr@10']:.4f} / {value['ndcg@10']:.4f}" for value in values]
        settings = _words(_own(model, best["settings"]))
        lines.append(f"| {name} | {len(rows)} | {settings or 'defaults'} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _rounded(settings: dict[str, Any]) -> dict[str, str]:
    """Return settings with the digits that a reader needs."""
    return {key: _shown(value, alone=True) for key, value in settings.items()}


def _shown(value: Any, *, alone: bool = False) -> str:
    """Return a value as text; text itself is quoted where it does not stand alone."""
    if isinstance(value, float):
        return f"{value:.3g}"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key!r}: {_shown(part)}' for key, part in value.items())}}}"
    return str(value) if alone else repr(value)


def printed_table(model: str) -> str:
    """Return what papers print of a model, without its ablations; empty if nothing."""
    rows = [row for row in published_figures() if row.model == model and row.variant is None]
    if not rows:
        return ""
    lines = ["| paper | data | HR@10 / NDCG@10 | note |", "|---|---|---|---|"]
    for row in rows:
        values = f"{row.values['hr@10']:.4f} / {row.values['ndcg@10']:.4f}"
        lines.append(f"| {row.source} | {', '.join(row.datasets)} | {values} | {row.note} |")
    return "\n".join(lines)
