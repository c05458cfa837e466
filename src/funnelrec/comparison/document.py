"""The pages of a comparison: one content, written as Markdown and as HTML, with its plots."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from funnelrec.common.files import atomic_path, make_folder
from funnelrec.comparison.charts import Chart, Curves, Dots, Heat, interactive, write_picture
from funnelrec.comparison.page import plot, table, text, write_page
from funnelrec.comparison.published import same_data
from funnelrec.comparison.results import protocol_in_words
from funnelrec.comparison.runner import Comparison, level_name
from funnelrec.comparison.summary import (
    GridPoint,
    Group,
    Line,
    Noise,
    Spread,
    Verdict,
    grids,
    groups,
    levels,
    main_metrics,
    noise,
    results_frame,
    significance_frame,
)
from funnelrec.evaluation.slices import SLICES, SliceName

RESULTS, SIGNIFICANCE = "results.parquet", "significance.parquet"
MARKDOWN, HTML, PLOTS = "comparison.md", "comparison.html", "plots"
_MEANING: Mapping[SliceName, str] = {
    "overall": "every held-out pair",
    "conversion": "the user had touched the item before",
    "discovery": "the user had never touched it",
}


@dataclass(frozen=True)
class Cell:
    """A cell of a table; the best of a column is bold."""

    content: str
    best: bool = False


@dataclass(frozen=True)
class Grid:
    """A table; the first cell of a row names it."""

    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    caption: str = ""
    words: Sequence[int] = ()


@dataclass(frozen=True)
class Items:
    """A list."""

    lines: Sequence[str]


@dataclass(frozen=True)
class Preformatted:
    """Text as it is; folded away under a title if it has one."""

    content: str
    title: str = ""


Block = str | Grid | Items | Preformatted | Chart


@dataclass(frozen=True)
class Section:
    """A part of the page."""

    name: str
    heading: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Written:
    """What :func:`write_comparison` made.

    Parameters
    ----------
    results, significance, markdown, html
        The files.
    plots
        The pictures.
    groups
        The results as the tables have them.
    sentences
        What they say, one sentence for each slice of each table.
    """

    results: Path
    significance: Path
    markdown: Path
    html: Path
    plots: tuple[Path, ...]
    groups: tuple[Group, ...]
    sentences: tuple[str, ...]


def write_comparison(
    comparison: Comparison, *, command: Sequence[str] = (), draws: int = 2000
) -> Written:
    """Write tables, tests and plots of a comparison into its folder, each file atomically.

    Parameters
    ----------
    comparison
        What :func:`funnelrec.comparison.compare` returned.
    command
        The command line, word by word, that made it.
    draws
        Resamples of each bootstrap interval.
    """
    out = comparison.out
    found = groups(comparison, same_data(comparison.dataset), draws=draws)
    said = [sentence for group in found for sentence in sentences(group, comparison.metric)]
    sections = [
        Section("about", "What was compared", _about(comparison, found)),
        Section("says", "What the numbers say", [Items(said) if said else "There are no figures."]),
        Section("results", "Results", _results(comparison, found)),
        Section("chance", "Differences and chance", _chance(comparison, found)),
        Section("cost", "Validation and cost", _cost(comparison, found)),
    ]
    under_noise, varied = noise(comparison), grids(comparison)
    if under_noise:
        sections.append(Section("noise", "Robustness", _robustness(comparison, under_noise)))
    if varied:
        sections.append(Section("grids", "Sensitivity", _sensitivity(comparison, varied)))
    missing = _missing(comparison)
    if missing:
        sections.append(Section("missing", "Without figures", [Items(missing)]))
    sections.append(Section("made", "How this was made", _made(comparison, found, command)))
    results_frame_path, tests_path = out / RESULTS, out / SIGNIFICANCE
    for path, frame in (
        (results_frame_path, results_frame(comparison)),
        (tests_path, significance_frame(found)),
    ):
        with atomic_path(path) as temporary:
            frame.write_parquet(temporary)
    charts = [block for section in sections for block in section.blocks if isinstance(block, Chart)]
    make_folder(out / PLOTS)
    pictures = tuple(write_picture(chart, out / PLOTS / f"{chart.name}.png") for chart in charts)
    title = f"Comparison on {comparison.dataset.manifest.name}"
    with atomic_path(out / MARKDOWN) as temporary:
        temporary.write_text(_markdown(title, sections), encoding="utf-8")
    data = comparison.dataset
    write_page(
        out / HTML,
        title=title,
        lead=f"{data.n_users:,} users, {data.n_items:,} items, behaviors "
        f"{' < '.join(data.behaviors)}",
        sections={s.name: (s.heading, "".join(map(_html, s.blocks))) for s in sections},
    )
    return Written(
        results_frame_path,
        tests_path,
        out / MARKDOWN,
        out / HTML,
        pictures,
        tuple(found),
        tuple(said),
    )


# --- sections ---------------------------------------------------------------------------------


def _about(comparison: Comparison, found: Sequence[Group]) -> list[Block]:
    data = comparison.dataset
    drawing = [entry for entry in comparison.entries if entry.draws]
    lines = [
        f"Task: the next {data.target} of each user, held out from the log; "
        f"{data.test.nnz:,} pairs of {len(set(data.test.users.tolist())):,} users for the test.",
        f"Each entry was trained with {_count(comparison.seeds, 'seed')}"
        + (
            "."
            if len(drawing) == len(comparison.entries)
            else "; one that draws nothing gives the same for every seed, and was trained once."
        ),
        "Settings, epochs and entries never saw a test pair. "
        + (
            "Settings are those given."
            if comparison.trials is None
            else f"Settings of every entry with something to search: the best of "
            f"{_count(comparison.trials, 'trial')} on validation, {_shown(comparison.metric)} "
            "overall, with seed 0; the same settings for all seeds."
        ),
    ]
    lines += [f"{name.capitalize()}: {meaning}." for name, meaning in _MEANING.items()]
    if not any(group.lines[0].protocol.refit for group in found):
        later = sum(part.nnz for part in data.training.recent.values())
        if later:
            lines.append(
                f"{later:,} pairs dated between the validation and the test purchases are not in "
                "training, so test purchases look less touched than they were; --refit uses them."
            )
    return [Items(lines)]


def sentences(group: Group, metric: str) -> list[str]:
    """Return who leads on each slice and whether that is more than chance over users."""
    said = []
    for part in SLICES:
        own = [v for v in group.verdicts if (v.part, v.metric) == (part, metric)]
        if not own:
            continue
        best = max(own, key=lambda verdict: verdict.mean)
        users = group.lines[0].users(part)
        head = f"{part.capitalize()}, {users:,} users: "
        if best.tests is None or best.difference is None or best.other is None:
            said.append(
                f"{head}{best.entry} reaches {_shown(metric)} {best.mean:.4f}; nothing else was "
                "measured."
            )
            continue
        second = next(verdict.mean for verdict in own if verdict.entry == best.other)
        said.append(
            f"{head}{best.entry} leads with {_shown(metric)} {best.mean:.4f}, then {best.other} "
            f"with {second:.4f}; the difference of {best.tests.mean:.4f} "
            f"({_interval(best.difference)}) is {_weight(best)}."
        )
    return said


def _weight(verdict: Verdict) -> str:
    """Return what the corrected tests say."""
    tests = [p for p in (verdict.t_p, verdict.wilcoxon_p) if p is not None]
    listed = f"t-test p {_p(verdict.t_p)}, Wilcoxon p {_p(verdict.wilcoxon_p)}"
    if len(tests) == 2 and max(tests) < 0.01:
        return f"more than chance over these users ({listed})"
    if len(tests) == 2 and max(tests) < 0.05:
        return f"probably more than chance over these users ({listed})"
    return f"not to be told from chance over these users ({listed})"


def _results(comparison: Comparison, found: Sequence[Group]) -> list[Block]:
    if not found:
        return ["Nothing has figures; the reasons are below."]
    blocks: list[Block] = []
    for number, group in enumerate(found, start=1):
        if len(found) > 1:
            differs = (
                f" Its protocol differs from that of table 1 in: {', '.join(group.differing)}."
                if group.differing
                else ""
            )
            blocks.append(
                f"Table {number} of {len(found)}; figures of different tables must not be "
                f"compared.{differs}"
            )
        blocks += [
            _slice_table(comparison, group, part) for part in SLICES if group.lines[0].users(part)
        ]
        blocks.append(
            f"{protocol_in_words(group.lines[0].protocol)}. Mean ± standard deviation over seeds. "
            "Bold: the best of a column."
        )
        notes = _published_notes(group)
        if notes:
            blocks.append(Items(notes))
        blocks.append(means_chart(group, comparison.metric, number, len(found)))
    return blocks


def _slice_table(comparison: Comparison, group: Group, part: SliceName) -> Grid:
    metrics = main_metrics(group.lines[0].protocol.ks)
    spreads = {
        line.label: [line.spread(part, metric) for metric in metrics] for line in group.lines
    }
    best = [
        max((spread.mean for spread in column if spread is not None), default=None)
        for column in zip(*spreads.values(), strict=True)
    ]
    printed = part == "overall" and any(line.published.shown for line in group.lines)
    rows = []
    for line in group.lines:
        cells = [Cell(line.label), Cell(_seeds(comparison, line))]
        cells += [
            Cell("-") if spread is None else Cell(str(spread), best=spread.mean == top)
            for spread, top in zip(spreads[line.label], best, strict=True)
        ]
        if printed:
            shown = "; ".join(
                " / ".join(f"{row.values[m]:.4f}" for m in ("hr@10", "ndcg@10"))
                for row in line.published.shown
            )
            cells.append(Cell(shown or "-"))
        rows.append(cells)
    head = ["model", "seeds", *map(_shown, metrics)]
    if printed:
        head.append("published HR@10 / NDCG@10")
    return Grid(head, rows, f"{part.capitalize()}, {group.lines[0].users(part):,} users")


def _published_notes(group: Group) -> list[str]:
    notes = []
    for line in group.lines:
        notes += [
            f"Published for {line.label}: {row.source}{f' ({row.note})' if row.note else ''}."
            for row in line.published.shown
        ]
        notes += [
            f"{row.source} prints {row.values['hr@10']:.4f} / {row.values['ndcg@10']:.4f} for "
            f"{line.label} on these data; not shown beside ours, because {reason}."
            for row, reason in line.published.withheld
        ]
    return notes


def _seeds(comparison: Comparison, line: Line) -> str:
    if not line.entry.draws:
        return "no draws"
    done = len(line.outcomes)
    return str(done) if done == comparison.seeds else f"{done} of {comparison.seeds}"


def means_chart(group: Group, metric: str, number: int = 1, of: int = 1) -> Chart:
    """Return a metric of every entry on each slice, with its interval over users.

    Parameters
    ----------
    group
        Entries of one protocol.
    metric
        What is drawn, as ``ndcg@10``.
    number, of
        Which table of how many this is.
    """
    panels = []
    for part in SLICES:
        own = [v for v in group.verdicts if (v.part, v.metric) == (part, metric)]
        if own:
            panels.append(
                Dots(
                    f"{part}, {group.lines[0].users(part):,} users",
                    [verdict.entry for verdict in own],
                    [verdict.mean for verdict in own],
                    [verdict.interval[0] for verdict in own],
                    [verdict.interval[1] for verdict in own],
                )
            )
    return Chart(
        name="means" if of == 1 else f"means-{number}",
        title=f"{_shown(metric)} on test with 95 % bootstrap intervals over users"
        + (f", table {number}" if of > 1 else ""),
        measure=_shown(metric),
        panels=panels,
    )


def _chance(comparison: Comparison, found: Sequence[Group]) -> list[Block]:
    blocks: list[Block] = [
        "Each entry against the best other one, over the same users; a user's value is the mean "
        "over the seeds. Intervals: 95 %, percentile bootstrap over users. p: two-sided paired "
        "t-test and Wilcoxon signed-rank test, corrected by Holm over the entries of a table. What "
        "they say holds for users like these; the spread over seeds is in the tables above, and "
        "another log or split is another question."
    ]
    wanted = [comparison.metric]
    wanted += [m for m in main_metrics([int(comparison.metric.split("@")[1])]) if m not in wanted]
    for number, group in enumerate(found, start=1):
        for part in SLICES:
            for metric in wanted:
                own = [v for v in group.verdicts if (v.part, v.metric) == (part, metric)]
                if own:
                    of = f", table {number}" if len(found) > 1 else ""
                    blocks.append(_test_table(own, f"{part.capitalize()}, {_shown(metric)}{of}"))
    return blocks


def _test_table(own: Sequence[Verdict], caption: str) -> Grid:
    top = max(verdict.mean for verdict in own)
    rows = []
    for verdict in own:
        cells = [
            Cell(verdict.entry),
            Cell(f"{verdict.mean:.4f}", best=verdict.mean == top),
            Cell(_interval(verdict.interval)),
        ]
        if verdict.tests is None or verdict.difference is None:
            cells += [Cell("-")] * 5
        else:
            cells += [
                Cell(verdict.other or "-"),
                Cell(f"{verdict.tests.mean + 0.0:+.4f}"),
                Cell(_interval(verdict.difference)),
                Cell(_p(verdict.t_p)),
                Cell(_p(verdict.wilcoxon_p)),
            ]
        rows.append(cells)
    head = [
        "model",
        "mean",
        "interval",
        "best other",
        "difference",
        "its interval",
        "t-test p",
        "Wilcoxon p",
    ]
    return Grid(head, rows, caption, words=(3,))


def _cost(comparison: Comparison, found: Sequence[Group]) -> list[Block]:
    validated = any(
        line.spread("overall", comparison.metric, "validation") for g in found for line in g.lines
    )
    rows = []
    for group in found:
        for line in group.lines:
            records = line.records
            epochs = sorted(record.epochs for record in records if record.epochs is not None)
            seconds = Spread.of([record.seconds for record in records])
            peaks = [r.peak_memory_bytes for r in records if r.peak_memory_bytes is not None]
            cells = [Cell(line.label)]
            if validated:
                value = line.spread("overall", comparison.metric, "validation")
                cells.append(Cell("-" if value is None else str(value)))
            cells += [
                Cell(_span(epochs)),
                Cell(_searched(comparison, line)),
                Cell(f"{seconds.mean:,.1f}"),
                Cell(f"{max(peaks) / 2**20:,.0f}" if peaks else "-"),
                Cell(", ".join(sorted({record.device for record in records}))),
            ]
            rows.append(cells)
    scopes = sorted(
        {
            record.memory_scope
            for group in found
            for line in group.lines
            for record in line.records
            if record.memory_scope is not None
        }
    )
    head = ["model", "epochs", "search", "seconds", "peak MiB", "device"]
    if validated:
        head.insert(1, f"validation {_shown(comparison.metric)}")
    notes = [
        "Validation: overall, before any refit. Seconds: wall clock of training, refit included, "
        "mean over seeds; search and evaluation are not in it. Peak: largest resident size of any "
        f"seed, the program and the data included ({'; '.join(scopes) or 'not known'})."
    ]
    notes += [
        f"{line.label}: {note}"
        for group in found
        for line in group.lines
        for note in dict.fromkeys(n for record in line.records for n in record.notes)
    ]
    return [Grid(head, rows), Items(notes) if len(notes) > 1 else notes[0]]


def _searched(comparison: Comparison, line: Line) -> str:
    found = comparison.tuned.get(line.label)
    if found is None:
        return "-"
    if found.search is None:
        return found.note
    spent = sum(trial.seconds for trial in found.search.trials)
    return f"{_count(len(found.search.trials), 'trial')}, {spent:,.0f} s"


def _robustness(comparison: Comparison, under_noise: Sequence[Noise]) -> list[Block]:
    blocks: list[Block] = [
        "Auxiliary edges of training added at random or dropped (RMBRec, section 4.4), in "
        "every auxiliary behavior alike; purchases and held-out pairs are the same at every level, "
        "and so are the settings. Overall, all users. In brackets the relative drop against no "
        "noise; a minus is a gain."
    ]
    unchanged = [one.entry for one in under_noise if one.unchanged]
    if unchanged:
        blocks.append(
            f"{', '.join(unchanged)}: reads purchases alone, so noise on other behaviors cannot "
            "reach it; not trained again."
        )
    known = [one for one in under_noise if not one.unchanged]
    metrics = list(under_noise[0].values)
    for metric in metrics:
        rows = []
        for one in under_noise:
            cells = [Cell(one.entry)]
            for level in levels():
                spread, drop = one.values[metric].get(level), one.drop(metric, level)
                shown = "-" if spread is None else f"{spread.mean:.4f}"
                if level and drop is not None:
                    shown += f" ({drop + 0.0:.1%})"
                cells.append(Cell(shown))
            rows.append(cells)
        head = ["model", *(level_name(level) if level else "none" for level in levels())]
        blocks.append(Grid(head, rows, f"{_shown(metric)} by share of auxiliary edges"))
    if known:
        places = [level_name(level) if level else "none" for level in levels()]
        panels = [
            Curves(
                _shown(metric),
                places,
                {
                    one.entry: [
                        None if (s := one.values[metric].get(level)) is None else s.mean
                        for level in levels()
                    ]
                    for one in under_noise
                },
                "auxiliary edges dropped or added",
            )
            for metric in metrics
        ]
        blocks.append(
            Chart("robustness", "Under noise on auxiliary edges, test, overall", "", panels)
        )
    return blocks


def _sensitivity(comparison: Comparison, varied: Mapping[str, list[GridPoint]]) -> list[Block]:
    metric = _shown(comparison.metric)
    blocks: list[Block] = [
        f"{metric} overall where single settings vary and all others stay. Not refitted. Settings "
        "are chosen on validation; the test column is for the record."
    ]
    for number, (label, points) in enumerate(varied.items()):
        names = list(points[0].values)
        rows = [
            [
                *(Cell(_plain(point.values[name])) for name in names),
                Cell("-" if point.validation is None else str(point.validation)),
                Cell("-" if point.test is None else str(point.test)),
            ]
            for point in points
        ]
        blocks.append(Grid([*names, f"validation {metric}", f"test {metric}"], rows, label))
        chart = _grid_chart(label, points, names, metric, f"sensitivity-{number + 1}")
        if chart is not None:
            blocks.append(chart)
    return blocks


def _grid_chart(
    label: str, points: Sequence[GridPoint], names: Sequence[str], metric: str, file: str
) -> Chart | None:
    validated = any(point.validation is not None for point in points)
    measured = [(point.values, point.validation if validated else point.test) for point in points]
    split = "validation" if validated else "test"
    title = f"{label}: {metric} on {split} by {' and '.join(names)}"
    if len(names) == 1:
        means = [None if spread is None else spread.mean for _, spread in measured]
        places = [_plain(values[names[0]]) for values, _ in measured]
        return Chart(file, title, metric, [Curves("", places, {label: means}, names[0])])
    if len(names) > 2:
        return None
    across, up = names
    found = {(_plain(values[across]), _plain(values[up])): spread for values, spread in measured}
    columns, rows = (list(dict.fromkeys(place[side] for place in found)) for side in (0, 1))
    heights = [
        [None if (s := found.get((column, row))) is None else s.mean for column in columns]
        for row in rows
    ]
    return Chart(file, title, metric, [Heat("", columns, rows, heights, across, up)])


def _missing(comparison: Comparison) -> list[str]:
    lines = [
        f"{label}: not trained, {found.note}"
        for label, found in comparison.tuned.items()
        if found.failed
    ]
    for outcome in comparison.failures:
        job = outcome.record.job
        what = [outcome.entry.label, f"seed {job.seed}"]
        if job.perturbation is not None:
            what.append(f"{level_name(job.perturbation.level)} auxiliary edges")
        if outcome.point is not None:
            what += [f"{key}={_plain(value)}" for key, value in outcome.point.values.items()]
        lines.append(f"{', '.join(what)}: {outcome.record.error}")
    return lines


def _made(comparison: Comparison, found: Sequence[Group], command: Sequence[str]) -> list[Block]:
    blocks: list[Block] = []
    if command:
        blocks += ["The same again, without repeating what is finished:"]
        blocks.append(Preformatted(shlex.join(command)))
    blocks.append(
        "One folder for each training under runs: record.json with settings, seed, protocol, "
        "versions, time and peak memory, and the metrics of every user. results.parquet has a row "
        "for each training, split and slice; significance.parquet every test and interval."
    )
    for number, group in enumerate(found, start=1):
        of = f" of table {number}" if len(found) > 1 else ""
        record = group.lines[0].protocol.model_dump(mode="json")
        for name in ("model", "settings", "seed"):
            record.pop(name)
        blocks.append(Preformatted(_json(record), f"Protocol record{of}"))
        blocks += [
            Preformatted(_json(dict(line.records[0].job.settings)), f"Settings of {line.label}")
            for line in group.lines
        ]
    return blocks


# --- words ------------------------------------------------------------------------------------


def _shown(metric: str) -> str:
    return metric.upper()


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _interval(ends: tuple[float, float]) -> str:
    return f"{ends[0]:.4f} to {ends[1]:.4f}"


def _p(value: float | None) -> str:
    if value is None:
        return "-"
    return "< 0.0001" if value < 0.0001 else f"{value:.4f}"


def _span(numbers: Sequence[int]) -> str:
    if not numbers:
        return "-"
    return str(numbers[0]) if numbers[0] == numbers[-1] else f"{numbers[0]} to {numbers[-1]}"


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False)


# --- writing ----------------------------------------------------------------------------------


def _html(block: Block) -> str:
    if isinstance(block, str):
        return f"<p>{text(block)}</p>"
    if isinstance(block, Items):
        return f"<ul>{''.join(f'<li>{text(line)}</li>' for line in block.lines)}</ul>"
    if isinstance(block, Preformatted):
        content = f"<pre>{text(block.content)}</pre>"
        if not block.title:
            return content
        return f"<details><summary>{text(block.title)}</summary>{content}</details>"
    if isinstance(block, Chart):
        return plot(interactive(block), block.title)
    rows = [
        [f'<b class="best">{text(c.content)}</b>' if c.best else text(c.content) for c in row]
        for row in block.rows
    ]
    head = [text(name) for name in block.head]
    return table(head, rows, caption=text(block.caption), text_columns=block.words)


def _markdown(title: str, sections: Sequence[Section]) -> str:
    parts = [f"# {_escaped(title)}"]
    for section in sections:
        parts.append(f"## {section.heading}")
        parts += [_markdown_block(block) for block in section.blocks]
    return "\n\n".join(parts) + "\n"


def _markdown_block(block: Block) -> str:
    if isinstance(block, str):
        return _escaped(block)
    if isinstance(block, Items):
        return "\n".join(f"- {_escaped(line)}" for line in block.lines)
    if isinstance(block, Preformatted):
        fence = "```"
        while fence in block.content:
            fence += "`"
        head = f"{_escaped(block.title)}:\n\n" if block.title else ""
        return f"{head}{fence}\n{block.content}\n{fence}"
    if isinstance(block, Chart):
        return f"![{_escaped(block.title)}]({PLOTS}/{block.name}.png)"
    rows = [
        [f"**{_escaped(c.content)}**" if c.best else _escaped(c.content) for c in row]
        for row in block.rows
    ]
    lines = [[_escaped(name) for name in block.head], ["---"] * len(block.head), *rows]
    head = f"**{_escaped(block.caption)}**\n\n" if block.caption else ""
    return head + "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _escaped(value: str) -> str:
    r"""Return text that Markdown reads as text, also in a cell of a table.

    >>> print(_escaped("w/o <b> | x*y_z"))
    w/o &lt;b&gt; \| x\*y\_z
    """
    for sign, harmless in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;")):
        value = value.replace(sign, harmless)
    for sign in "\\`*_|[]":
        value = value.replace(sign, f"\\{sign}")
    return " ".join(value.split())
