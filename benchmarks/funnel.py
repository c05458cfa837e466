"""The flagship on the benchmark files: what was tried on validation, and the test figures.

    python benchmarks/funnel.py search --dataset NAME   # validation only, one line per attempt
    python benchmarks/funnel.py run --work FOLDER       # chosen settings, refitted, three seeds
    python benchmarks/funnel.py cost --threads 2        # seconds and memory of one quiet fit
    python benchmarks/funnel.py rivals --work FOLDER    # the other models, refitted, three seeds
    python benchmarks/funnel.py significance --work FOLDER  # paired tests against the second best
    python benchmarks/funnel.py robustness --work FOLDER  # takes over what funnelrec compare found
    python benchmarks/funnel.py shop                    # the simulated shop, beside single models
    python benchmarks/funnel.py table                   # rewrites docs/comparison.md

FUNNELREC_DATA names the folder of the files. Each finished training is one line in
benchmarks/results/funnel.jsonl; a second call repeats none of them.
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import polars as pl
import torch

import simple_search
from funnelrec.common.columns import USER
from funnelrec.comparison.jobs import read_record
from funnelrec.data import prepare, read_events, simulate_shop
from funnelrec.data.dataset import Dataset
from funnelrec.evaluation import evaluate
from funnelrec.evaluation.masking import Split
from funnelrec.evaluation.protocol import current_versions
from funnelrec.evaluation.significance import bootstrap_interval, holm, paired_tests
from funnelrec.models import create_model
from reproduction import OWN, ROOT, SEARCH, SEEDS, append, between, finished, key_of, load

RESULTS = ROOT / "benchmarks/results/funnel.jsonl"
REPRODUCED = ROOT / "benchmarks/results/reproduction.jsonl"
PAGE = ROOT / "docs/comparison.md"
DATASETS = ("taobao15k", "taobao48k_no_view", "tmall41k_no_view")
METRICS = ("users", "hr@10", "ndcg@10")
# What discoveries get when touched items are masked, so that only discoveries are ranked.
MASKED = "discovery, touched masked"
PARTS = ("overall", "conversion", "discovery", MASKED)

# Overall HR@10 and NDCG@10 to reach on test; for taobao15k also discovery with touched masked.
BARS = {
    "taobao15k": (0.40, 0.20),
    "taobao48k_no_view": (0.20, 0.125),
    "tmall41k_no_view": (0.14, 0.075),
}
DISCOVERY_BAR = 0.11
# Seconds and MiB that a fit of taobao15k may take.
COST_BAR = (600, 6 * 1024)

# On the simulated shop: accidents among its auxiliary events, and who is compared.
NOISES = (0.1, 0.3, 0.5)
SHOP_MODELS = (
    "funnel",
    "conversion",
    "rp3beta",
    "itemknn",
    "ease",
    "ials",
    "lightgcn",
    "simgcl",
    "rmbrec",
    "charm",
    "popularity",
)

# Shares of the auxiliary edges that are added, or dropped with a minus.
LEVELS = (-0.5, -0.3, -0.1, 0.0, 0.1, 0.3, 0.5)

# Who else is fitted on training plus validation pairs; ease takes no catalogue above 30,000 items.
STEPS = ("search", "run", "cost", "rivals", "significance", "robustness", "shop", "table")
# rmbrec, lightgcn, simgcl and charm may be asked for by name: they take minutes.
RIVALS = ("popularity", "conversion", "rp3beta", "itemknn", "ease", "ials")
# Rules and closed forms draw nothing, so one seed is all seeds.
COUNTED = ("popularity", "conversion", "rp3beta", "itemknn", "ease")
# Epochs that validation chose for seed 0 (benchmarks/results/charm_tables.jsonl).
CHARM = {"taobao15k": {"preset": "practical", "epochs": 85}}
TOO_LARGE = {("taobao48k_no_view", "ease")}

CHEAP = {"folds": 3, "committee": 1}
# What `search` tries, each a change of the defaults; the first row is the defaults.
TRIED: dict[str, dict[str, Any]] = {
    "defaults": {},
    "one ranker": {"committee": 1},
    "three folds": {"folds": 3},
    "narrow spectrum": {"dim": 256},
    "wide spectrum": {"dim": 1024},
    "weights of users": {"user_weights": True},
    "lightgcn": {"companions": ["lightgcn"]},
    "rmbrec": {"companions": ["rmbrec"]},
    "charm": {"companions": ["charm"]},
    "small steps": {"learning_rate": 0.03, "trees": 600},
    # A third of the time, to compare what does not touch the trees.
    "three folds and one ranker": dict(CHEAP),
    "three folds and one ranker: wide spectrum": {**CHEAP, "dim": 1024},
    "three folds and one ranker: rmbrec": {
        **CHEAP,
        "companions": ["rmbrec"],
        "companion_settings": {"rmbrec": {"epochs": 70}},
    },
    "three folds and one ranker: charm": {
        **CHEAP,
        "companions": ["charm"],
        "companion_settings": {"charm": {"preset": "practical", "epochs": 40}},
    },
    "three folds and one ranker: without cart": dict(CHEAP),
}
# Behaviors that an attempt leaves out of the log.
LEFT_OUT = {"three folds and one ranker: without cart": ("cart",)}


def per_user_file(work: Path, dataset: str, model: str, name: str, seed: int) -> Path:
    """Return where the figures of every user of one training are kept."""
    return work / "per_user" / f"{dataset}-{model}-{name.replace(' ', '_')}-{seed}.parquet"


def masked_file(per_user: Path) -> Path:
    """Return where those with touched items masked are kept, beside."""
    return per_user.with_name(f"{per_user.stem}-masked.parquet")


def fitted(
    name: str, dataset: Dataset, settings: dict[str, Any], seed: int
) -> tuple[Any, dict[str, Any]]:
    """Return a fitted model and what fitting cost."""
    began, spent = time.monotonic(), time.process_time()
    model = create_model(name, **settings, seed=seed, device="cpu").fit(dataset)
    return model, {
        "seconds": round(time.monotonic() - began, 1),
        "cpu_seconds": round(time.process_time() - spent, 1),
        "peak_memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "notes": list(getattr(model, "notes", ())),
    }


def measured(
    model: Any, dataset: Dataset, split: Split, per_user: Path | None = None
) -> dict[str, Any]:
    """Return the slices on one split, and discovery with touched items masked.

    With ``per_user``, every user's figures are written to that file, and those with touched items
    masked beside it.
    """
    found = evaluate(model, dataset, split=split, k=10, beyond_accuracy=False)
    masked = evaluate(model, dataset, split=split, k=10, mask=("touched",), beyond_accuracy=False)
    if per_user is not None:
        per_user.parent.mkdir(parents=True, exist_ok=True)
        found.per_user.write_parquet(per_user)
        masked.per_user.write_parquet(masked_file(per_user))
    lines: dict[str, Mapping[str, Any]] = {part: found.slices[part] for part in found.slices}
    lines[MASKED] = masked.slices["discovery"]
    return {line: {name: values[name] for name in METRICS} for line, values in lines.items()}


def record(
    dataset: Dataset,
    name: str,
    step: str,
    settings: dict[str, Any],
    seed: int,
    *,
    model: str = "funnel",
    work: Path | None = None,
) -> None:
    """Train, measure and write one line, unless it is there."""
    key = key_of(
        fingerprint=dataset.fingerprint,
        step=step,
        model=model,
        settings=create_model(model, **settings).config.model_dump(mode="json"),
        seed=seed,
    )
    if key in finished(RESULTS):
        return
    refitted = step in ("run", "rivals")
    data = dataset.with_validation_in_training() if refitted else dataset
    trained, cost = fitted(model, data, settings, seed)
    split: Split = "test" if refitted else "validation"
    kept = None
    if refitted and work is not None:
        kept = per_user_file(work, dataset.manifest.name, model, name, seed)
    found = measured(trained, data, split, kept)
    append(
        RESULTS,
        {
            "key": key,
            "dataset": dataset.manifest.name,
            "step": step,
            "model": model,
            "name": name,
            "settings": settings,
            "seed": seed,
            "refit": refitted,
            **cost,
            "threads": torch.get_num_threads(),
            "versions": dict(current_versions()),
            "machine": f"{platform.machine()}, {os.cpu_count()} cores",
            split: found,
        },
    )
    shown = {line: (round(v["hr@10"], 4), round(v["ndcg@10"], 4)) for line, v in found.items()}
    print(dataset.manifest.name, step, name, seed, shown, f"{cost['seconds']} s", flush=True)


def search(names: list[str], tried: list[str]) -> None:
    """Record every attempt on validation, one seed."""
    for name in names:
        dataset = load(name)
        if dataset is None:
            continue
        for label, settings in TRIED.items():
            training = dataset.training.without(*LEFT_OUT.get(label, ()))
            # Where nothing is left beside the target, there is nothing to try.
            if training.auxiliary and (not tried or label in tried):
                record(replace(dataset, training=training), label, "search", settings, 0)


def run(names: list[str], seeds: list[int], work: Path | None) -> None:
    """Record the defaults, fitted on training plus validation pairs, on test."""
    for name in names:
        dataset = load(name)
        if dataset is None:
            continue
        for seed in seeds:
            record(dataset, "defaults", "run", {}, seed, work=work)


def cost(names: list[str]) -> None:
    """Record what one fit with the defaults takes; asked for again, it is measured again.

    Nothing is evaluated, so nothing else is in the peak of the process.
    """
    for name in names:
        dataset = load(name)
        if dataset is None:
            continue
        measured_at = time.strftime("%Y-%m-%d %H:%M", time.gmtime())
        load_before = os.getloadavg()[0]
        _, taken = fitted("funnel", dataset.with_validation_in_training(), {}, 0)
        row = {
            "dataset": name,
            "step": "cost",
            "model": "funnel",
            "threads": torch.get_num_threads(),
            "measured_at": measured_at,
            "load_before": round(load_before, 2),
            **taken,
            "versions": dict(current_versions()),
            "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        }
        append(RESULTS, {"key": key_of(step="cost", dataset=name, at=measured_at), **row})
        print(name, taken, flush=True)


def tuned(dataset: str, model: str) -> dict[str, Any]:
    """Return the settings of the best trial on validation that the search of simple models made."""
    rows = simple_search.trials().get((dataset, model))
    return dict(rows[0]["settings"]) if rows else {}


def selected(dataset: str, model: str, seed: int) -> dict[str, Any]:
    """Return settings with the number of epochs that validation chose, for this seed if known."""
    if model == "charm" and dataset in CHARM:
        return dict(CHARM[dataset])
    for chosen in (seed, 0):
        for row in finished(REPRODUCED).values():
            asked = (row["dataset"], row["model"], row["seed"], row["refit"])
            if asked == (dataset, model, chosen, False) and row.get("epochs") and not _own(row):
                return {**row["settings"], "epochs": row["epochs"]}
    tried = [
        row
        for row in finished(SEARCH).values()
        if (row["dataset"], row["model"]) == (dataset, model) and row.get("epochs")
    ]
    if not tried:
        return {}
    best = max(tried, key=lambda row: row["ndcg@10"])
    return {**best["settings"], "epochs": best["epochs"]}


def rivals(names: list[str], models: list[str], seeds: list[int], work: Path | None) -> None:
    """Record the other models, under what validation chose for them, on test."""
    for name in names:
        dataset = load(name)
        if dataset is None:
            continue
        for model in models:
            if (name, model) in TOO_LARGE:
                continue
            for seed in seeds[:1] if model in COUNTED else seeds:
                settings = tuned(name, model)
                label = "tuned"
                if not settings:
                    settings = selected(name, model, seed)
                    label = "selected" if settings else "defaults"
                record(dataset, label, "rivals", settings, seed, model=model, work=work)


def significance(names: list[str], work: Path) -> None:
    """Record paired tests of the flagship, user by user.

    Each line is tested against the refitted model that is best after the flagship on that very
    line, the mean over seeds on both sides, where the figures of every user were kept of both.
    """
    rows = list(finished(RESULTS).values())
    for name in names:
        own = [row for row in rows if (row["dataset"], row["step"]) == (name, "run")]
        own = [row for row in own if row["name"] == "defaults"]
        others = [row for row in rows if (row["dataset"], row["step"]) == (name, "rivals")]
        if not own or not others:
            continue
        models = dict.fromkeys(row["model"] for row in others)
        trained = {model: [row for row in others if row["model"] == model] for model in models}
        tests = {}
        for part in PARTS:
            for metric in METRICS[1:]:
                level = {
                    model: mean(row["test"][part][metric] for row in found)
                    for model, found in trained.items()
                }
                rival = max(level, key=lambda model: level[model])
                first, second = _users(own, work, part), _users(trained[rival], work, part)
                if first is None or second is None:
                    print(f"{name}, {part}: no figures of every user in {work}")
                    continue
                column = metric if part == "overall" else f"{part.partition(',')[0]}/{metric}"
                joined = first.join(second.select(USER, other=column), on=USER)
                pair = joined.select(column, "other").drop_nulls()
                one, other = pair[column].to_numpy(), pair["other"].to_numpy()
                found = paired_tests(one, other)
                tests[f"{part}: {metric}"] = {
                    "second": rival,
                    "seeds": [row["seed"] for row in own],
                    "users": found.users,
                    "gain": found.mean,
                    "interval": bootstrap_interval(one - other),
                    "t_p": found.t_p,
                    "wilcoxon_p": found.wilcoxon_p,
                }
        seeds = [row["seed"] for row in own]
        keys = {"step": "significance", "dataset": name, "seeds": seeds, "lines": list(tests)}
        versions = [row["key"] for row in (own[0], *others)]
        key = key_of(**keys, versions=versions)
        if key not in finished(RESULTS):
            append(RESULTS, {"key": key, **keys, "tests": tests})


def robustness(folder: Path) -> None:
    """Record what ``funnelrec compare --robustness --out FOLDER`` found."""
    names = {dataset.fingerprint: name for name in DATASETS if (dataset := load(name)) is not None}
    for run_folder in sorted((folder / "runs").iterdir()):
        found = read_record(run_folder)
        if found is None or found.error is not None or found.job.fingerprint not in names:
            continue
        noise, values = found.job.perturbation, found.test
        key = key_of(step="robustness", job=found.key)
        if key not in finished(RESULTS):
            row = {
                "key": key,
                "step": "robustness",
                "dataset": names[found.job.fingerprint],
                "model": found.job.model,
                "settings": dict(found.job.settings),
                "seed": found.job.seed,
                "refit": found.job.refit,
                "level": 0.0 if noise is None else noise.level,
                "seconds": found.seconds,
                "device": found.device,
                "test": {part: {m: values[part][m] for m in METRICS} for part in values},
            }
            append(RESULTS, row)


def _users(rows: list[dict[str, Any]], work: Path, part: str) -> pl.DataFrame | None:
    """Return every user's figures, the mean over seeds, where all of them were kept."""
    files = [_file(row, work, part) for row in rows]
    if not files or not all(file.exists() for file in files):
        return None
    return pl.concat(pl.read_parquet(file) for file in files).group_by(USER).mean().sort(USER)


def _file(row: dict[str, Any], work: Path, part: str) -> Path:
    path = per_user_file(work, row["dataset"], row["model"], row["name"], row["seed"])
    return masked_file(path) if part == MASKED else path


def shop(noises: tuple[float, ...], seeds: list[int], models: tuple[str, ...]) -> None:
    """Record every model on the simulated shop, and the flagship with a useless behavior, too."""
    for seed in seeds:
        for noise in noises:
            for useless in (None, "wave"):
                made = simulate_shop({"noise": noise, "useless_behavior": useless}, seed=seed)
                dataset = prepare(read_events(made.events, behaviors=made.behaviors), name="shop")
                for model in models if not useless else ("funnel",) * ("funnel" in models):
                    _on_shop(dataset, model, noise, useless, seed)


def _on_shop(dataset: Dataset, model: str, noise: float, useless: str | None, seed: int) -> None:
    key = key_of(fingerprint=dataset.fingerprint, step="shop", model=model, seed=seed)
    if key in finished(RESULTS):
        return
    began = time.monotonic()
    fitted = create_model(model, seed=seed, device="cpu").fit(dataset)
    row: dict[str, Any] = {
        "key": key,
        "dataset": "shop",
        "step": "shop",
        "name": model,
        "noise": noise,
        "useless": useless is not None,
        "seed": seed,
        "seconds": round(time.monotonic() - began, 1),
        "notes": list(getattr(fitted, "notes", ())),
        "test": measured(fitted, dataset, "test"),
    }
    append(RESULTS, row)
    values = row["test"]["overall"]
    print("shop", noise, useless, model, seed, values["hr@10"], values["ndcg@10"], flush=True)


def table() -> None:
    """Rewrite the tables of the page."""
    rows = list(finished(RESULTS).values())
    text = PAGE.read_text()
    text = between(text, "funnel test", _test([row for row in rows if row["step"] == "run"]))
    text = between(text, "funnel cost", _cost([row for row in rows if row["step"] == "cost"]))
    text = between(text, "funnel models", _models(rows))
    tests = [row for row in rows if row["step"] == "significance"]
    text = between(text, "funnel significance", _significance(tests))
    noisy = [row for row in rows if row["step"] == "robustness"]
    text = between(text, "funnel robustness", _robustness(noisy))
    searched = [row for row in rows if row["step"] == "search"]
    text = between(text, "funnel search", _search(searched))
    shops = [row for row in rows if row["step"] == "shop"]
    PAGE.write_text(between(text, "funnel shop", _shop(shops)))


def _test(rows: list[dict[str, Any]]) -> str:
    lines = [
        "| data set | settings | line | bar | HR@10 | NDCG@10 | seeds | processor s | peak MiB |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    labels = list(dict.fromkeys(row["name"] for row in rows))
    for name, label in ((name, label) for name in DATASETS for label in labels):
        here = [row for row in rows if (row["dataset"], row["name"]) == (name, label)]
        if not here:
            continue
        for line in here[0]["test"]:
            bar = ""
            if line == "overall":
                bar = " / ".join(f"{value:.3f}" for value in BARS[name])
            elif line.startswith("discovery,") and name == "taobao15k":
                bar = f"{DISCOVERY_BAR:.2f}"
            values = [
                _spread([row["test"][line][metric] for row in here])
                for metric in ("hr@10", "ndcg@10")
            ]
            seconds = f"{mean(row['cpu_seconds'] for row in here):.0f}"
            memory = f"{max(row['peak_memory_mib'] for row in here):,}"
            lines.append(
                f"| {name} | {label} | {line} | {bar} | {values[0]} | {values[1]} | {len(here)} "
                f"| {seconds} | {memory} |"
            )
    return "\n".join(lines)


def _cost(rows: list[dict[str, Any]]) -> str:
    seconds, memory = COST_BAR
    lines = [
        f"| data set | threads | seconds (bar {seconds}) | processor s | peak MiB (bar {memory:,}) "
        "| load before | measured |",
        "|---" * 7 + "|",
    ]
    lines += [
        f"| {row['dataset']} | {row['threads']} | {row['seconds']:.0f} | {row['cpu_seconds']:.0f} "
        f"| {row['peak_memory_mib']:,} | {row['load_before']} | {row['measured_at']} |"
        for row in rows
    ]
    return "\n".join(lines)


def _models(rows: list[dict[str, Any]]) -> str:
    """Return every model on every slice; what is not refitted comes from the reproduction."""
    lines = [
        f"| data set | model | refitted | {' | '.join(PARTS)} | seeds |",
        "|---" * (len(PARTS) + 4) + "|",
    ]
    trained = list(finished(REPRODUCED).values())
    for name in DATASETS:
        groups: dict[tuple[str, bool], list[dict[str, Any]]] = {}
        for row in rows:
            if row["dataset"] == name and row["step"] in ("run", "rivals"):
                model = row.get("model", "funnel")
                if row["name"] not in ("defaults", "tuned", "selected"):
                    model += f", {row['name']}"
                groups.setdefault((model, True), []).append(row["test"])
        for row in trained:
            # Settings of a data set's own are rows of the reproduction alone.
            if (row["dataset"], row["refit"]) == (name, False) and not _own(row):
                groups.setdefault((row["model"], False), []).append(row["slices"])
        for (model, refitted), found in sorted(
            groups.items(), key=lambda group: -mean(one["overall"]["ndcg@10"] for one in group[1])
        ):
            cells = [
                " / ".join(_spread([one[part][metric] for one in found]) for metric in METRICS[1:])
                if part in found[0]
                else "-"
                for part in PARTS
            ]
            lines.append(
                f"| {name} | {model} | {'yes' if refitted else 'no'} | {' | '.join(cells)} "
                f"| {len(found)} |"
            )
    return "\n".join(lines)


def _own(row: dict[str, Any]) -> bool:
    return any(
        model == row["model"] and settings.items() <= row["settings"].items()
        for model, settings in OWN.get(row["dataset"], [])
    )


def _significance(rows: list[dict[str, Any]]) -> str:
    lines = [
        "| data set | line | second best | seeds | users | gain | 95 % interval | t-test "
        "| Wilcoxon |",
        "|---" * 9 + "|",
    ]
    for row in {row["dataset"]: row for row in rows}.values():
        tests = row["tests"]
        adjusted = {
            kind: dict(zip(tests, holm([test[kind] for test in tests.values()]), strict=True))
            for kind in ("t_p", "wilcoxon_p")
        }
        for line, test in tests.items():
            low, high = test["interval"]
            values = [f"{adjusted[kind][line]:.2g}" for kind in ("t_p", "wilcoxon_p")]
            lines.append(
                f"| {row['dataset']} | {line} | {test['second']} "
                f"| {len(test.get('seeds', row['seeds']))} | {test['users']:,} "
                f"| {test['gain']:+.4f} | {low:+.4f} to {high:+.4f} | {' | '.join(values)} |"
            )
    return "\n".join(lines)


def _robustness(rows: list[dict[str, Any]]) -> str:
    lines = [
        f"| data set | model | {' | '.join(f'{100 * level:+.0f} %' for level in LEVELS)} |",
        "|---" * (len(LEVELS) + 2) + "|",
    ]
    for name, model in dict.fromkeys((row["dataset"], row["model"]) for row in rows):
        figures = {
            row["level"]: [row["test"]["overall"][metric] for metric in METRICS[1:]]
            for row in rows
            if (row["dataset"], row["model"]) == (name, model)
        }
        whole = figures.get(0.0)
        cells = []
        for level in LEVELS:
            here = figures.get(level)
            cell = "-" if here is None else " / ".join(f"{value:.4f}" for value in here)
            if here is not None and whole is not None and level:
                lost = [one / other - 1 for one, other in zip(here, whole, strict=True)]
                cell += " (" + " / ".join(f"{100 * value:+.1f} %" for value in lost) + ")"
            cells.append(cell)
        lines.append(f"| {name} | {model} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _shop(rows: list[dict[str, Any]]) -> str:
    lines = [
        f"| model | {' | '.join(f'noise {noise}' for noise in NOISES)} |",
        "|---" * (len(NOISES) + 1) + "|",
    ]
    # A model may have been run under a preset, too.
    names = sorted(
        {row["name"] for row in rows}, key=lambda name: SHOP_MODELS.index(name.split(",")[0])
    )
    for model, useless in [(name, False) for name in names] + [("funnel", True)]:
        cells = []
        for noise in NOISES:
            here = [
                row["test"]["overall"]
                for row in rows
                if (row["name"], row["useless"], row["noise"]) == (model, useless, noise)
            ]
            pair = [_spread([values[m] for values in here]) for m in ("hr@10", "ndcg@10") if here]
            cells.append(" / ".join(pair) or "-")
        label = f"{model}, a random behavior added" if useless else model
        lines.append(f"| {label} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _spread(values: list[float]) -> str:
    return f"{mean(values):.4f}" + (f" ± {stdev(values):.4f}" if len(values) > 1 else "")


def _search(rows: list[dict[str, Any]]) -> str:
    parts = ("overall", "conversion", MASKED)
    lines = [
        f"| data set | tried | {' | '.join(parts)} | seconds |",
        "|---" * (len(parts) + 3) + "|",
    ]
    for row in rows:
        cells = ["{hr@10:.4f} / {ndcg@10:.4f}".format(**row["validation"][part]) for part in parts]
        lines.append(
            f"| {row['dataset']} | {row['name']} | {' | '.join(cells)} | {row['seconds']:.0f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("step", choices=[*STEPS])
    parser.add_argument("--dataset", default=",".join(DATASETS), help="comma-separated")
    parser.add_argument("--tried", default="", help="names of attempts, comma-separated; all")
    parser.add_argument("--models", default="", help="of rivals and the shop, comma-separated")
    parser.add_argument("--seeds", default=",".join(map(str, SEEDS)), help="comma-separated")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--work", type=Path, help="keeps the figures of every user of test runs")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    names = [name for name in arguments.dataset.split(",") if name]
    models = [name for name in arguments.models.split(",") if name]
    if arguments.step == "table":
        table()
    elif arguments.step == "rivals":
        seeds = [int(seed) for seed in arguments.seeds.split(",")]
        rivals(names, models or list(RIVALS), seeds, arguments.work)
    elif arguments.step == "cost":
        cost(names)
    elif arguments.step == "significance":
        if arguments.work is None:
            parser.error("significance reads the figures of every user: give the --work of run")
        significance(names, arguments.work)
    elif arguments.step == "robustness":
        if arguments.work is None:
            parser.error("robustness reads a comparison: give its folder as --work")
        robustness(arguments.work)
    elif arguments.step == "search":
        search(names, [name for name in arguments.tried.split(",") if name])
    else:
        seeds = [int(seed) for seed in arguments.seeds.split(",")]
        if arguments.step == "shop":
            shop(NOISES, seeds, tuple(models) or SHOP_MODELS)
        else:
            run(names, seeds, arguments.work)


if __name__ == "__main__":
    main()
