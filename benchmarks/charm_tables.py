"""CHARM on taobao15k: search, full figures, Tables 3 and 4, figures over L and tau, ablation.

    python benchmarks/charm_tables.py run       # one training per row (FUNNELREC_DATA=folder)
    python benchmarks/charm_tables.py table     # rewrites docs/reproduction.md and the plots

The groups ``search`` and ``earlier`` (validation only, seed 0), ``full`` (three seeds) and
``penalty`` (CHARM's penalty on lightgcn and rmbrec, seed 0) train to the end. Every other row has
seed 0 and one budget: ``EPOCHS`` epochs at most, the epoch selected on validation. Each finished
training is one line in benchmarks/results/charm_tables.jsonl; a second call repeats none of them.
"""

from __future__ import annotations

import argparse
import resource
from dataclasses import dataclass, field
from statistics import mean, stdev
from typing import Any

import torch

from funnelrec.common.memory import prefer_huge_pages
from funnelrec.comparison.published import CHARM, published_figures
from funnelrec.evaluation import evaluate
from funnelrec.evaluation.masking import Split
from funnelrec.evaluation.protocol import current_versions
from funnelrec.models import create_model
from funnelrec.models.charm.settings import VARIANTS
from reproduction import (
    CHOSEN,
    PAGE,
    ROOT,
    SEEDS,
    SINGLE,
    append,
    as_now,
    between,
    finished,
    key_of,
    load,
    machine,
)
from reproduction import RESULTS as REPRODUCED

RESULTS = ROOT / "benchmarks/results/charm_tables.jsonl"
PLOTS = ROOT / "docs/images"
DATASET = "taobao15k"
EPOCHS = 10
BUDGET = {"epochs": EPOCHS, "evaluate_every": 5, "patience": EPOCHS}
FULL = "CHARM"

# Column Taobao of Tables 3 and 4: HR@10, NDCG@10. The row Backbone is LightGCN's.
PUBLISHED: dict[str, tuple[float, float]] = {
    "Backbone" if row.model == "lightgcn" else row.variant or FULL: (
        row.values["hr@10"],
        row.values["ndcg@10"],
    )
    for row in published_figures()
    if row.paper == CHARM and DATASET in row.datasets and row.model in ("charm", "lightgcn")
}
LAYERS = (1, 2, 3, 4, 5)
TAUS = (0.1, 0.3, 0.5, 0.7, 0.9)
# Weight of the penalty on another backbone (Fig. 5): CHARM's own; the paper prints none.
PENALTY = 0.2
PENALISED = {"lightgcn": CHOSEN["lightgcn"], "rmbrec": SINGLE}
# What is measured on validation alone.
UNTESTED = ("search", "earlier")


@dataclass(frozen=True)
class Row:
    """One training: where it is shown, its name there, and how the model is made."""

    group: str
    name: str
    arguments: dict[str, Any] = field(default_factory=dict)
    seed: int = 0
    model: str = "charm"

    @property
    def whole(self) -> bool:
        """Trained to the end instead of within the budget."""
        return self.group in ("search", "earlier", "full", "penalty")


# Full CHARM of Tables 3 and 4: 'practical' with the substitution evidence of Eqs. 12 and 13 as
# printed, so that every row has something to take away.
PRINTED_EVIDENCE: dict[str, Any] = {
    "sub_intent": True,
    "sub_projection": True,
    "pooling": "noisy_or",
}
PRINTED_ESTIMATOR: dict[str, Any] = {
    "estimator": "mlp",
    "permute": "vector",
    "mi_action": "plain",
    "center": False,
}
TABLES: dict[str, Any] = {"preset": "practical", **PRINTED_EVIDENCE, "virtual": "degree"}
# Where 'practical' leaves the printed method, each taken back by itself.
TAKEN_BACK: dict[str, dict[str, Any]] = {
    "f on z * x against swapped actions (Eqs. 7, 8 as printed)": PRINTED_ESTIMATOR,
    "f on z * x": {"estimator": "mlp"},
    "f against swapped actions": {"permute": "vector"},
    "f trained on plain actions": {"mi_action": "plain"},
    "the first term of Eq. 9 alone": {"virtual": "scale"},
    "Eq. 9 as printed": {"virtual": "degree"},
    "no virtual purchase": {"virtual": "none"},
    "substitution evidence of Eqs. 12, 13 as printed": PRINTED_EVIDENCE,
    "weights as they are, not scaled to mean 1": {"lower_weight": None},
    "uniform weights": {"weight": "uniform"},
    "views from purchases alone (item_view=target)": {"item_view": "target"},
    "plain LightGCN views": {"normalize_layers": False, "combine": "mean"},
    "the positive's own edge kept": {"own_edge": "keep"},
    "L_MI trains everything": {"mi_gradient": "all"},
    "one negative a purchase": {"negatives": 1},
    "one candidate a purchase": {"candidates": 1},
    "upper step at full weight": {"upper_weight": 1.0},
    "no direct step": {"direct_weight": 0.0},
    "W_V and W_P drawn by Xavier": {"intent_init": "xavier"},
    "tables drawn by Xavier": {"init": "xavier"},
    "no weight decay": {"weight_decay": 0.0},
    "no substitution penalty": {"lambda_sub": 0.0},
}


# What 'practical' was before f was trained on virtual actions.
BEFORE: dict[str, Any] = {
    "mi_action": "plain",
    "virtual": "degree",
    "lower_weight": 1.0,
    "upper_weight": 0.3,
    "learning_rate": 5e-3,
    "epochs": 150,
}
_FIRST: dict[str, Any] = {
    **BEFORE,
    **PRINTED_ESTIMATOR,
    "sub_intent": True,
    "sub_projection": True,
    "dated_evidence": False,
    "least_batches": 1,
}
_SLOWER: dict[str, Any] = {"lower_weight": 2.0, "learning_rate": 2.5e-3, "epochs": 200}
_VIRTUAL = {**BEFORE, "mi_action": "virtual"}
# What was tried to the end on the way to 'practical', each as a change of it.
SEARCH: dict[str, dict[str, Any]] = {
    "f as printed, 1,024 negatives, one candidate, uniform weights": {
        **_FIRST,
        "candidates": 1,
        "negatives": 1024,
        "direct_weight": 0.3,
        "pooling": "noisy_or",
        "weight": "uniform",
    },
    "f as printed, 2,048 negatives, 4 candidates, uniform weights": {**_FIRST, "weight": "uniform"},
    "f trained on plain actions": BEFORE,
    "f trained on virtual actions, candidates' step 2, half the learning rate": {
        **_VIRTUAL,
        **_SLOWER,
    },
    "the two-step walk, candidates' step 2": {
        **_VIRTUAL,
        "virtual": "two_hop",
        "lower_weight": 2.0,
    },
    "the same at half the learning rate, too": {**_VIRTUAL, **_SLOWER, "virtual": "two_hop"},
    "and candidates' step 4": {
        **_VIRTUAL,
        **_SLOWER,
        "virtual": "two_hop",
        "lower_weight": 4.0,
    },
}
# The round before, whose lines were lost: every point as a change of BEFORE with virtual actions.
EARLIER: dict[str, dict[str, Any]] = {
    "nothing else (Eq. 9 as printed)": {},
    "no virtual purchase": {"virtual": "none"},
    "the first term of Eq. 9": {"virtual": "scale"},
    "the two-step walk": {"virtual": "two_hop"},
    "first term, uniform weights": {"virtual": "scale", "weight": "uniform"},
    "first term, tau .1": {"virtual": "scale", "tau": 0.1},
    "first term, upper step .15": {"virtual": "scale", "upper_weight": 0.15},
    "first term, upper step .6": {"virtual": "scale", "upper_weight": 0.6},
    "first term, direct step 1": {"virtual": "scale", "direct_weight": 1.0},
    "first term, candidates' step 2": {"virtual": "scale", "lower_weight": 2.0},
    "first term, 8 candidates": {"virtual": "scale", "candidates": 8},
    "first term, 2 layers": {"virtual": "scale", "layers": 2},
    "first term, step 2.5e-3": {"virtual": "scale", "learning_rate": 2.5e-3},
}


def rows() -> list[Row]:
    """Return every row; one training may serve several of them."""
    practical = {"preset": "practical"}
    every = [Row("full", f"seed {seed}", practical, seed) for seed in SEEDS]
    every += [Row("search", name, {**practical, **tried}) for name, tried in SEARCH.items()]
    every += [
        Row("earlier", name, {**practical, **_VIRTUAL, **tried}) for name, tried in EARLIER.items()
    ]
    every += [Row("practical", "nothing else", practical)]
    every += [Row("practical", name, {**practical, **back}) for name, back in TAKEN_BACK.items()]
    literal = {"preset": "paper", "learning_rate": 1e-3}
    every.append(Row("practical", "all of it: the printed method at a step of 1e-3", literal))
    every.append(Row("variants", FULL, TABLES))
    # Exact insertion is refused at this size, and with normalised views.
    every += [
        Row("variants", name, {**TABLES, "variant": name})
        for name in VARIANTS
        if name != "VIM-Recompute"
    ]
    every += [Row("layers", str(depth), {**TABLES, "layers": depth}) for depth in LAYERS]
    every += [Row("tau", str(tau), {**TABLES, "tau": tau}) for tau in TAUS]
    every += [
        Row(
            "penalty",
            model,
            {**settings, "substitution_weight": PENALTY},
            0,
            model,
        )
        for model, settings in PENALISED.items()
    ]
    return every


def settings_of(row: Row) -> dict[str, Any]:
    """Return the settings of a row in full."""
    settings: dict[str, Any] = made(row).config.model_dump(mode="json")
    return settings


def recorded(row: Row, done: dict[str, dict[str, Any]]) -> dict[str, Any] | None:
    """Return the last training of a row's settings and seed, if there is one."""
    wanted, match = settings_of(row), None
    for line in done.values():
        same = line["settings"].keys() <= wanted.keys() and line["seed"] == row.seed
        if same and as_now(row.model, line["settings"]) == wanted:
            match = line
    return match


def made(row: Row, device: str = "cpu") -> Any:
    """Return the model of a row, not fitted; a variant goes before what is set by hand."""
    given = {**row.arguments, **({} if row.whole else BUDGET)}
    changed = VARIANTS.get(given.pop("variant", ""), {})
    return create_model(row.model, **{**given, **changed}, seed=row.seed, device=device)


def run(groups: set[str], part: int, parts: int, device: str) -> None:
    """Train every row that is missing; with several processes, each its part of them."""
    dataset = load(DATASET)
    if dataset is None:
        return
    waiting = [row for row in rows() if not groups or row.group in groups]
    for row in waiting[part::parts]:
        settings = settings_of(row)
        key = key_of(fingerprint=dataset.fingerprint, settings=settings, seed=row.seed)
        known = recorded(row, finished(RESULTS))
        # A training of the search was not tested; one of the three seeds is.
        if known is not None and ("test" in known or row.group in UNTESTED):
            continue
        model = made(row, device)
        model.fit(dataset)
        splits: tuple[Split, ...] = ("validation", "test")
        if row.group in UNTESTED:
            splits = ("validation",)
        found = {
            split: evaluate(model, dataset, split=split, beyond_accuracy=False).slices
            for split in splits
        }
        names = ("users", "hr@10", "ndcg@10")
        append(
            RESULTS,
            {
                "key": key,
                "dataset": DATASET,
                "name": row.name,
                "settings": settings,
                "seed": row.seed,
                "best_epoch": model.history.best_epoch,
                "stopped": model.history.stopped,
                "seconds": round(model.history.seconds, 1),
                "peak_memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
                "threads": torch.get_num_threads(),
                "versions": current_versions(),
                "machine": machine(device),
                **{
                    split: {
                        line: {name: values[name] for name in names}
                        for line, values in slices.items()
                    }
                    for split, slices in found.items()
                },
            },
        )
        overall = found["validation"]["overall"]
        print(
            f"{row.group} {row.name}: validation HR@10 {overall['hr@10']:.4f} NDCG@10 "
            f"{overall['ndcg@10']:.4f} in {model.history.seconds:.0f} s",
            flush=True,
        )


def table() -> None:
    """Rewrite the tables and the plots."""
    done = finished(RESULTS)
    found = {(row.group, row.name): recorded(row, done) for row in rows()}
    text = PAGE.read_text()
    text = between(text, "charm full", _full(found))
    text = between(text, "charm search", _search(found))
    text = between(text, "charm variants", _variants(found))
    text = between(text, "charm practical", _practical(found))
    text = between(text, "charm penalty", _penalty(found))
    PAGE.write_text(text)
    PLOTS.mkdir(parents=True, exist_ok=True)
    for group, label in (("layers", "layers L"), ("tau", "temperature tau")):
        _plot(group, label, found)


Found = dict[tuple[str, str], dict[str, Any] | None]


def _full(found: Found) -> str:
    done = [row for (group, _), row in found.items() if group == "full" and row is not None]
    lines = ["| line | published | measured HR@10 / NDCG@10 | seeds |", "|---|---|---|---|"]
    for line in ("overall", "conversion", "discovery"):
        if done:
            values = zip(*(_pair(row, line) for row in done), strict=True)
            shown = " / ".join(_spread(list(column)) for column in values)
            printed = "{:.4f} / {:.4f}".format(*PUBLISHED[FULL]) if line == "overall" else ""
            lines.append(f"| {line} | {printed} | {shown} | {len(done)} |")
    return "\n".join(lines)


def _spread(values: list[float]) -> str:
    return f"{mean(values):.4f}" + (f" ± {stdev(values):.4f}" if len(values) > 1 else "")


def _search(found: Found) -> str:
    lines = [
        "| tried | validation HR@10 / NDCG@10 | conversion HR@10 | discovery HR@10 | best epoch |",
        "|---|---|---|---|---|",
    ]
    for (group, name), row in found.items():
        if group == "search" and row is not None:
            lines.append(
                f"| {name} | {_shown(row, 'overall', 'validation')} "
                f"| {row['validation']['conversion']['hr@10']:.4f} "
                f"| {row['validation']['discovery']['hr@10']:.4f} | {row['best_epoch']} |"
            )
    return "\n".join(lines)


def _variants(found: Found) -> str:
    lines = [
        "| row | published HR@10 / NDCG@10 | its sign | test HR@10 / NDCG@10 | sign "
        "| conversion HR@10 | discovery HR@10 | validation NDCG@10 | epoch |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    full = found["variants", FULL]
    for name, (hr, ndcg) in PUBLISHED.items():
        printed = f"{hr:.4f} / {ndcg:.4f}"
        sign = _signs((hr, ndcg), PUBLISHED[FULL]) if name != FULL else ""
        row = found.get(("variants", name))
        if row is None or full is None:
            why = "refused: too large" if name == "VIM-Recompute" else "-"
            lines.append(f"| {name} | {printed} | {sign} | {why} | | | | | |")
            continue
        mine = "" if name == FULL else _signs(_pair(row), _pair(full))
        lines.append(
            f"| {name} | {printed} | {sign} | {_shown(row, 'overall')} | {mine} "
            f"| {row['test']['conversion']['hr@10']:.4f} | {row['test']['discovery']['hr@10']:.4f} "
            f"| {row['validation']['overall']['ndcg@10']:.4f} | {row['best_epoch']} |"
        )
    return "\n".join(lines)


def _practical(found: Found) -> str:
    lines = [
        "| `practical`, but with | validation HR@10 / NDCG@10 | test HR@10 / NDCG@10 "
        "| conversion HR@10 | discovery HR@10 | epoch |",
        "|---|---|---|---|---|---|",
    ]
    for (group, name), row in found.items():
        if group == "practical" and row is not None:
            lines.append(_line(name, row))
    return "\n".join(lines)


def _penalty(found: Found) -> str:
    lines = [
        "| model, weight of the penalty | test HR@10 / NDCG@10 | conversion HR@10 "
        "| discovery HR@10 | epoch |",
        "|---|---|---|---|---|",
    ]
    for model, settings in PENALISED.items():
        # Without the penalty the training is that of the other tables.
        plain = [
            row
            for row in finished(REPRODUCED).values()
            if (row["dataset"], row["model"], row["seed"]) == (DATASET, model, 0)
            and row["settings"].items() >= settings.items()
            and not row["refit"]
        ]
        row = found["penalty", model]
        if row is None or not plain:
            continue
        for weight, slices, epoch in (
            (0.0, plain[0]["slices"], plain[0]["epochs"]),
            (PENALTY, row["test"], row["best_epoch"]),
        ):
            overall = slices["overall"]
            lines.append(
                f"| {model}, {weight:g} | {overall['hr@10']:.4f} / {overall['ndcg@10']:.4f} "
                f"| {slices['conversion']['hr@10']:.4f} | {slices['discovery']['hr@10']:.4f} "
                f"| {epoch} |"
            )
    return "\n".join(lines)


def _line(name: str, row: dict[str, Any]) -> str:
    return (
        f"| {name} | {_shown(row, 'overall', 'validation')} | {_shown(row, 'overall')} "
        f"| {row['test']['conversion']['hr@10']:.4f} "
        f"| {row['test']['discovery']['hr@10']:.4f} | {row['best_epoch']} |"
    )


def _pair(row: dict[str, Any], line: str = "overall", split: str = "test") -> tuple[float, float]:
    values = row[split][line]
    return values["hr@10"], values["ndcg@10"]


def _shown(row: dict[str, Any], line: str, split: str = "test") -> str:
    return " / ".join(f"{value:.4f}" for value in _pair(row, line, split))


def _signs(mine: tuple[float, float], full: tuple[float, float]) -> str:
    pairs = zip(mine, full, strict=True)
    return " / ".join("+" if one > other else "-" if one < other else "=" for one, other in pairs)


def _plot(group: str, label: str, found: Found) -> None:
    import matplotlib

    matplotlib.use("Agg")
    # Without it every drawing names its parts anew, and the file changes with no change in it.
    matplotlib.rcParams["svg.hashsalt"] = "funnelrec"
    from matplotlib import pyplot

    known = [
        (float(name), row) for (of, name), row in found.items() if of == group and row is not None
    ]
    if len(known) < 2:
        return
    figure, axes = pyplot.subplots(1, 2, figsize=(8, 3), layout="constrained")
    for axis, metric, title in zip(axes, (0, 1), ("HR@10", "NDCG@10"), strict=True):
        for split, style in (("validation", "o--"), ("test", "o-")):
            values = [_pair(row, split=split)[metric] for _, row in known]
            axis.plot([value for value, _ in known], values, style, label=split)
        axis.set(xlabel=label, ylabel=title, ylim=(0, None))
        axis.grid(alpha=0.3)
    axes[0].legend()
    figure.suptitle(f"CHARM on {DATASET}, one seed, {EPOCHS} epochs at most")
    figure.savefig(PLOTS / f"charm_{group}.svg", metadata={"Date": None})
    pyplot.close(figure)


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("step", choices=["run", "table"])
    parser.add_argument(
        "--groups",
        default="",
        help="of full,search,earlier,practical,variants,layers,tau,penalty; all",
    )
    parser.add_argument("--part", default="0/1", help="k/n: every n-th row from the k-th on")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    prefer_huge_pages()
    if arguments.step == "table":
        table()
        return
    part, parts = (int(number) for number in arguments.part.split("/"))
    run({name for name in arguments.groups.split(",") if name}, part, parts, arguments.device)


if __name__ == "__main__":
    main()
