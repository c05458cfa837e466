"""A report in one HTML file that needs no network: data, protocol, results, lists, findings."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from funnelrec.common.columns import ITEM, RANK, SCORE, USER
from funnelrec.common.optional import require
from funnelrec.common.random import stream
from funnelrec.comparison.findings import findings
from funnelrec.comparison.page import above, number, percent, plot, table, text, write_page
from funnelrec.comparison.plots import slices_figure, training_figure
from funnelrec.comparison.results import (
    ModelResult,
    comparable_groups,
    protocol_in_words,
    rank_metrics,
)
from funnelrec.data.dataset import Dataset
from funnelrec.data.diagnostics import Diagnostics
from funnelrec.data.plots import diagnostic_figures
from funnelrec.evaluation.slices import SLICES

SECTIONS = {
    "about": "What this is",
    "says": "What the numbers say",
    "data": "The data",
    "split": "Split and policy",
    "results": "Results",
    "training": "Training",
    "lists": "Sample recommendations",
    "made": "How this was made",
}

_SHOWN_HISTORY = 8
_POLICIES = {
    "keep": "auxiliary events of held-out pairs stay in training, as in the papers",
    "before": "a user's auxiliary events after the earliest held-out purchase are cut: they were "
    "not known when it was still to be predicted",
    "drop_pair": "auxiliary events of held-out pairs are removed, so every pair is a discovery",
}
_ORDERS = {"time": "the latest are held out", "random": "drawn at random", "given": "as given"}


@dataclass(frozen=True)
class SampledUser:
    """What one user did, got recommended, and bought next; identifiers are external.

    Parameters
    ----------
    user
        The user.
    history
        Items of each behavior of the training log, latest first where there are dates.
    held_out
        Items of the test.
    items, scores, seen
        The recommended items in order of rank, their scores, and the behaviors that the user
        had shown on each before.
    """

    user: Any
    history: Mapping[str, Sequence[Any]]
    held_out: Sequence[Any]
    items: Sequence[Any]
    scores: Sequence[float]
    seen: Sequence[Sequence[str]]


def sample_users(dataset: Dataset, n: int = 4, *, seed: int = 0) -> pl.Series:
    """Return the identifiers of ``n`` test users drawn at random; of all if there are fewer.

    Parameters
    ----------
    dataset
        The data set.
    n
        Users to draw.
    seed
        Decides the draw.
    """
    tested = np.unique(dataset.test.users)
    drawn = stream(seed, "report sample").permutation(tested)[:n]
    return dataset.training.user_ids.decode(np.sort(drawn))


def describe_users(
    dataset: Dataset, users: pl.Series, recommendations: pl.DataFrame
) -> list[SampledUser]:
    """Return these users with their histories and recommendations.

    Parameters
    ----------
    dataset
        The data set.
    users
        Identifiers, from :func:`sample_users`.
    recommendations
        Columns user_id, item_id, score, rank, as ``Recommender.recommend`` gives them.
    """
    training = dataset.training
    chosen = []
    for user, dense in zip(users, training.user_ids.encode(users).tolist(), strict=True):
        listed = recommendations.filter(pl.col(USER) == user).sort(RANK)
        numbers = training.item_ids.encode(listed[ITEM])
        history = {}
        seen: list[list[str]] = [[] for _ in range(listed.height)]
        for name, part in training.interactions.items():
            row = slice(part.indptr[dense], part.indptr[dense + 1])
            items = part.indices[row]
            if part.last is not None:
                items = items[np.argsort(-part.last[row], kind="stable")]
            history[name] = training.item_ids.decode(items).to_list()
            for place in np.flatnonzero(np.isin(numbers, items)):
                seen[place].append(name)
        chosen.append(
            SampledUser(
                user=user,
                history=history,
                held_out=training.item_ids.decode(dataset.test.row(dense)).to_list(),
                items=listed[ITEM].to_list(),
                scores=listed[SCORE].to_list(),
                seen=seen,
            )
        )
    return chosen


def write_report(
    path: str | Path,
    *,
    dataset: Dataset,
    diagnostics: Diagnostics,
    results: Sequence[ModelResult],
    samples: Sequence[SampledUser] = (),
    selected: str | None = None,
    skipped: Mapping[str, str] | None = None,
    commands: Sequence[Sequence[str]] = (),
    metric: str = "ndcg@10",
    summary: str = "",
) -> Path:
    """Write the report, atomically, and return its path.

    The page is one file of about 5 MB, plotly's script included; it loads nothing, fits narrow
    windows and follows the reader's light or dark scheme. Everything from the data is escaped.

    Parameters
    ----------
    path
        The HTML file.
    dataset, diagnostics
        The data set and what :func:`funnelrec.data.diagnose` said of it.
    results
        What each model reached. Results of different protocols get tables of their own.
    samples
        From :func:`describe_users`.
    selected
        Name of the model that validation chose; the samples are its lists.
    skipped
        Models that could not work on these data, with the reason.
    commands
        Command lines, word by word, that give the same figures again.
    metric
        What the findings compare.
    summary
        A sentence on where the log comes from.

    Raises
    ------
    MissingExtraError
        If plotly is not installed.
    """
    require("plotly.graph_objects", "plots")
    groups = comparable_groups(results)
    figures = diagnostic_figures(diagnostics, dataset)
    bodies = {
        "about": _about(dataset, summary),
        "says": _says(groups, dataset, metric, selected),
        "data": _data(dataset, diagnostics, figures),
        "split": _split(dataset, diagnostics, figures),
        "results": _results(groups, skipped or {}),
        "training": _training(results),
        "lists": _lists(samples, selected),
        "made": _made(groups, commands),
    }
    return write_page(
        path,
        title=f"funnelrec report: {dataset.manifest.name}",
        lead=f"{dataset.n_users:,} users, {dataset.n_items:,} items, behaviors "
        f"{' < '.join(dataset.behaviors)}",
        sections={name: (title, bodies[name]) for name, title in SECTIONS.items()},
    )


# --- sections ---------------------------------------------------------------------------------


def _about(dataset: Dataset, summary: str) -> str:
    target = text(dataset.target)
    return (
        (f"<p>{text(summary)}</p>" if summary else "")
        + f"<p>Models learned from the log and ranked the whole catalogue for each user. The task: "
        f"the next {target} of each user, held out from the log. Beside the learned models stand "
        "simple rules, because a learned model is worth its cost only where it beats them.</p>"
        "<p>Three lines for every model, because they are different tasks:</p><ul>"
        "<li><b>overall</b>: every held-out pair;</li>"
        f"<li><b>conversion</b>: the user had touched the item before (some behavior weaker than "
        f"{target} in the training log);</li>"
        "<li><b>discovery</b>: the user had never touched it.</li></ul>"
        '<p class="soft">HR@K: share of users with a held-out item among the first K. NDCG@K: the '
        "same, worth less the lower it stands. Both lie between 0 and 1, more is better.</p>"
    )


def _says(
    groups: Sequence[Sequence[ModelResult]], dataset: Dataset, metric: str, selected: str | None
) -> str:
    sentences = [
        sentence
        for group in groups
        for sentence in findings(group, dataset, metric=metric, selected=selected)
    ]
    items = "".join(f"<li>{text(sentence)}</li>" for sentence in sentences)
    return (
        f'<ul class="says">{items}</ul><p class="soft">Intervals: 95 %, of the mean difference '
        "over the same users. The sentences follow from the tables by fixed rules.</p>"
    )


def _data(dataset: Dataset, diagnostics: Diagnostics, figures: Mapping[str, Any]) -> str:
    target = text(dataset.target)
    behaviors = table(
        ["behavior", "pairs", "events", "users", "items", f"with {target}"],
        [
            [
                text(name),
                *(f"{n:,}" for n in (size.pairs, size.events, size.users, size.items)),
                percent(size.conversion),
            ]
            for name, size in diagnostics.sizes.items()
        ],
        caption=f"Training log; {target} is the target. Last column: share of the pairs that are "
        f"also {target} pairs.",
    )
    full, train = diagnostics.full, diagnostics.training
    rows = [
        [f"BAR {text(name)}", percent(full.bar[name]), percent(train.bar[name])]
        for name in diagnostics.auxiliary
    ]
    rows.append(["DT", percent(full.direct), percent(train.direct)])
    rows.append([f"{target} pairs", f"{full.pairs:,}", f"{train.pairs:,}"])
    rows.append(["users without any", f"{full.users_without:,}", f"{train.users_without:,}"])
    rows.append(["items without any", f"{full.items_without:,}", f"{train.items_without:,}"])
    alignment = table(
        ["statistic", "full set", "training"],
        rows,
        caption=f"BAR: share of {target} pairs that also have the behavior. "
        "DT: share without any other behavior (RMBRec, Eq. 12).",
    )
    notes = [*dataset.manifest.filters, *dataset.manifest.notes]
    listed = "".join(f"<li>{text(note)}</li>" for note in notes)
    return (
        f"<p>Source: {text(dataset.manifest.source or 'not recorded')}.</p>"
        + behaviors
        + _figure(figures, "funnel")
        + alignment
        + _figure(figures, "alignment")
        + _figure(figures, "users")
        + _figure(figures, "items")
        + (f"<h3>What preparing reported</h3><ul>{listed}</ul>" if notes else "")
    )


def _split(dataset: Dataset, diagnostics: Diagnostics, figures: Mapping[str, Any]) -> str:
    record = dataset.manifest.split
    parts = (diagnostics.validation, diagnostics.test)
    rows = [
        ["pairs", *(f"{part.pairs:,}" for part in parts)],
        ["users", *(f"{part.users:,}" for part in parts)],
        ["touched before in training", *(percent(part.touched) for part in parts)],
    ]
    rows += [
        [f"&nbsp; by {text(name)}", *(percent(part.touched_by[name]) for part in parts)]
        for name in diagnostics.auxiliary
    ]
    if diagnostics.test.touched_at_refit != diagnostics.test.touched:
        rows.append(["touched at refit", *(percent(part.touched_at_refit) for part in parts)])
    shared = [f"{name}: {count:,}" for name, count in diagnostics.overlaps.items() if count]
    overlap = (
        f"<p><b>Warning: splits share pairs</b> ({text('; '.join(shared))}).</p>"
        if shared
        else "<p>Training, validation and test share no pair.</p>"
    )
    return (
        f"<p>Split <b>{record.kind}</b>: {_ORDERS[record.order]}. Auxiliary policy "
        f"<b>{record.auxiliary}</b>: {_POLICIES[record.auxiliary]}. Validation pairs selected "
        "epochs and models; the test was opened once, for the tables below.</p>"
        + overlap
        + table(
            ["held-out pairs", "validation", "test"],
            rows,
            caption="At refit: with the auxiliary events between the validation and the test "
            "purchase, which models get back when they are refitted.",
        )
        + _figure(figures, "touched")
    )


def _results(groups: Sequence[Sequence[ModelResult]], skipped: Mapping[str, str]) -> str:
    parts = []
    if len(groups) > 1:
        parts.append(
            f"<p>There are {len(groups)} tables because the results have different protocols: "
            "their figures must not be compared with each other.</p>"
        )
    for group in groups:
        metrics = rank_metrics(group)
        parts.append(_result_table(group, metrics))
        figure = slices_figure(group, metrics[0])
        parts.append(plot(figure, f"{metrics[0].upper()} on test"))
    if skipped:
        listed = "".join(
            f"<li><b>{text(name)}</b>: {text(reason)}</li>" for name, reason in skipped.items()
        )
        parts.append(f"<h3>Not trained</h3><ul>{listed}</ul>")
    return "".join(parts)


def _result_table(group: Sequence[ModelResult], metrics: Sequence[str]) -> str:
    body = []
    for name in SLICES:
        lines = {result.name: result.test.slices[name] for result in group}
        users = int(group[0].test.slices[name]["users"] or 0)
        body.append(
            f'<tr class="group"><th colspan="{len(metrics) + 1}" scope="rowgroup">'
            f"{name}, {users:,} users</th></tr>"
        )
        if not users:
            continue
        best = {m: max(float(line[m] or 0.0) for line in lines.values()) for m in metrics}
        for model, line in lines.items():
            cells = "".join(
                f"<td{' class=best' if line[m] == best[m] else ''}>{number(line[m])}</td>"
                for m in metrics
            )
            body.append(f'<tr><th scope="row">{text(model)}</th>{cells}</tr>')
    head = "".join(f'<th scope="col">{text(metric.upper())}</th>' for metric in metrics)
    protocol = text(protocol_in_words(group[0].test.protocol))
    return (
        above(f"{protocol}. Bold: the best of the slice.")
        + '<div class="scroll"><table class="results">'
        f'<thead><tr><th scope="col">model</th>{head}</tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table></div>"
    )


def _training(results: Sequence[ModelResult]) -> str:
    metrics = list(dict.fromkeys(name for result in results for name in result.validation))
    rows = []
    for result in results:
        history = result.history
        kept = "-" if history is None else f"{history.best_epoch} of {len(history.records)}"
        values = (number(result.validation.get(name)) for name in metrics)
        chose = "a rule, no epochs" if history is None else history.stopped
        seconds = f"{result.record.seconds:,.1f}"
        rows.append([text(result.name), *values, kept, seconds, text(chose)])
    head = [*(text(f"validation {name.upper()}") for name in metrics), "kept epoch", "seconds"]
    trained = table(["model", *head, "ended"], rows, text_columns=(len(head) + 1,))
    refit = (
        "<p>Validation selected the epoch; then each model was trained once more on training plus "
        "validation pairs, with that number of epochs. Models of the test tables are the "
        "refitted ones: they know what happened up to the test purchase.</p>"
        if any(result.record.refit for result in results)
        else ""
    )
    plots = "".join(
        plot(training_figure(result.history), f"{result.name}: loss terms and validation")
        for result in results
        if result.history is not None and result.history.records
    )
    note = '<p class="soft">The dotted line marks the epoch that was kept.</p>' if plots else ""
    return refit + trained + note + plots


def _lists(samples: Sequence[SampledUser], selected: str | None) -> str:
    if not samples:
        return "<p>No sample was drawn.</p>"
    cards = []
    for sample in samples:
        past = "".join(
            f"<dt>{text(name)} ({len(items):,})</dt><dd>{_some(items)}</dd>"
            for name, items in sample.history.items()
        )
        rows = "".join(_list_row(sample, place) for place in range(len(sample.items)))
        cards.append(
            f'<div class="card"><h3>User {text(sample.user)}</h3><dl>{past}'
            f"<dt>held out</dt><dd>{_some(sample.held_out)}</dd></dl>"
            '<div class="scroll"><table><thead><tr><th>rank</th><th class="text">item</th>'
            '<th>score</th><th class="text">before</th></tr></thead>'
            f"<tbody>{rows}</tbody></table></div></div>"
        )
    of = f" of <b>{text(selected)}</b>" if selected else ""
    return (
        f"<p>Lists{of} for {len(samples)} test users drawn at random, with what each had done "
        "before (latest first where the log is dated) and the purchase held out from the model."
        "</p>" + "".join(cards)
    )


def _list_row(sample: SampledUser, place: int) -> str:
    hit = sample.items[place] in sample.held_out
    before = text(", ".join(sample.seen[place])) or "new"
    return (
        f"<tr{' class=hit' if hit else ''}><th>{place + 1}</th>"
        f'<td class="text">{text(sample.items[place])}</td><td>{sample.scores[place]:.4g}</td>'
        f'<td class="text">{before}{", <b>bought next</b>" if hit else ""}</td></tr>'
    )


def _made(groups: Sequence[Sequence[ModelResult]], commands: Sequence[Sequence[str]]) -> str:
    parts = []
    if commands:
        lines = "\n".join(text(shlex.join(words)) for words in commands)
        parts.append(f"<p>The same again:</p><pre>{lines}</pre>")
    for group in groups:
        protocol = group[0].test.protocol.model_dump(mode="json")
        for field in ("model", "settings", "seed"):
            protocol.pop(field)
        parts.append(
            "<h3>Protocol record</h3><p>Figures may be compared only where this record agrees, "
            "versions and device apart.</p>"
            f"<pre>{text(json.dumps(protocol, indent=2, ensure_ascii=False))}</pre>"
        )
        for result in group:
            config = json.dumps(dict(result.record.config), indent=2, ensure_ascii=False)
            parts.append(
                f"<details><summary>Settings of {text(result.name)} (seed {result.record.seed}, "
                f"{text(result.record.device)})</summary><pre>{text(config)}</pre></details>"
            )
    return "".join(parts)


# --- pieces -----------------------------------------------------------------------------------


def _some(items: Sequence[Any]) -> str:
    shown = ", ".join(text(item) for item in items[:_SHOWN_HISTORY])
    more = len(items) - _SHOWN_HISTORY
    return (f"{shown} and {more:,} more" if more > 0 else shown) or "nothing"


def _figure(figures: Mapping[str, Any], name: str) -> str:
    return plot(figures[name], str(figures[name].layout.title.text)) if name in figures else ""
