"""What the measured figures say, in plain sentences, the unwelcome ones too."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from funnelrec.common.columns import USER
from funnelrec.comparison.results import ModelResult, paired_difference
from funnelrec.data.dataset import Dataset
from funnelrec.evaluation.slices import SLICES, SliceName

LEARNED, RULE = "rmbrec", "conversion"
_VERBS = {"ahead": "beats", "behind": "loses to", "undecided": "cannot be told from"}


def findings(
    results: Sequence[ModelResult],
    dataset: Dataset,
    *,
    metric: str = "ndcg@10",
    selected: str | None = None,
) -> list[str]:
    """Return one sentence for each thing that the test figures of comparable results show.

    Parameters
    ----------
    results
        Results under one protocol.
    dataset
        The data set behind them, as it was before any refit.
    metric
        What is compared.
    selected
        The model that validation chose, if any.

    Returns
    -------
    list of str
        Who leads on each slice and whether the lead exceeds chance over users; RMBRec against
        the conversion rule; what validation chose; what a random order would reach.
    """
    if not results:
        return []
    shown = metric.upper()
    sentences = [_sizes(results[0], dataset)]
    sentences += [_leader(results, name, metric, shown) for name in _present(results)]
    sentences += _against_the_rule(results, metric, shown)
    if selected is not None:
        sentences += _selection(results, selected, metric, shown)
    sentences += _chance(results, dataset)
    sentences.append(
        "Every figure is of one seed. The intervals cover chance over users, not over seeds: "
        "train learned models with several seeds before deciding between close ones."
    )
    return sentences


def _present(results: Sequence[ModelResult]) -> list[SliceName]:
    return [name for name in SLICES if results[0].test.slices[name]["users"]]


def _value(result: ModelResult, name: SliceName, metric: str) -> float:
    return float(result.test.slices[name][metric] or 0.0)


def _sizes(result: ModelResult, dataset: Dataset) -> str:
    held_out = {name: int(result.test.slices[name]["held_out"] or 0) for name in SLICES}
    share = held_out["conversion"] / held_out["overall"]
    larger = "conversion" if share >= 0.5 else "discovery"
    return (
        f"{share:.0%} of the {held_out['overall']:,} held-out {dataset.target} pairs were touched "
        f"before in the training log: the overall line is mostly about {larger}."
    )


def _leader(results: Sequence[ModelResult], name: SliceName, metric: str, shown: str) -> str:
    ranked = sorted(results, key=lambda result: _value(result, name, metric), reverse=True)
    best = ranked[0]
    users = int(best.test.slices[name]["users"] or 0)
    head = (
        f"{name.capitalize()}, {users:,} users: the best model is {best.name} with {shown} "
        f"{_value(best, name, metric):.4f}"
    )
    if len(ranked) == 1:
        return f"{head}, the only one."
    second = ranked[1]
    gap = paired_difference(best.test, second.test, name, metric)
    end = "a clear lead" if gap.verdict == "ahead" else "within chance over these users"
    return (
        f"{head}, then {second.name} with {_value(second, name, metric):.4f}; difference "
        f"{_with_margin(gap.mean, gap.margin)}, {end}."
    )


def _against_the_rule(results: Sequence[ModelResult], metric: str, shown: str) -> list[str]:
    by_name = {result.record.model: result for result in results}
    if not {LEARNED, RULE} <= set(by_name):
        return []
    learned, rule = by_name[LEARNED], by_name[RULE]
    parts = []
    for name in _present(results):
        gap = paired_difference(learned.test, rule.test, name, metric)
        parts.append(
            f"{name}: {learned.name} {_VERBS[gap.verdict]} the rule "
            f"({_value(learned, name, metric):.4f} against {_value(rule, name, metric):.4f}, "
            f"difference {_with_margin(gap.mean, gap.margin)})"
        )
    return [f"{learned.name} and the conversion rule, by {shown}. {_sentence('; '.join(parts))}."]


def _selection(results: Sequence[ModelResult], selected: str, metric: str, shown: str) -> list[str]:
    chosen = next((result for result in results if result.name == selected), None)
    if chosen is None or metric not in chosen.validation:
        return []
    head = (
        f"Validation chose {selected} ({shown} {chosen.validation[metric]:.4f} overall there, "
        f"{_value(chosen, 'overall', metric):.4f} on test)"
    )
    best = max(results, key=lambda result: _value(result, "overall", metric))
    if best is chosen:
        return [f"{head}, which leads on test as well."]
    return [
        f"{head}; on test {best.name} reached {_value(best, 'overall', metric):.4f}, which a "
        "choice that must not look at the test could not know."
    ]


def _chance(results: Sequence[ModelResult], dataset: Dataset) -> list[str]:
    protocol, per_user = results[0].test.protocol, results[0].test.per_user
    if protocol.candidates != "full" or protocol.masked != ("train-target",):
        return []
    if (per_user["held_out"] > 1).any():
        return []
    training = dataset.training
    known = training.with_validation() if protocol.refit else training
    k = protocol.ks[0]
    users = training.user_ids.encode(per_user[USER])
    candidates = dataset.n_items - known.purchases.user_degrees[users]
    expected = float(np.minimum(1.0, k / candidates).mean())
    return [f"A random order of the catalogue would reach about HR@{k} {expected:.4f} overall."]


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _with_margin(mean: float, margin: float | None) -> str:
    return f"{mean:+.4f}" if margin is None else f"{mean:+.4f} ± {margin:.4f}"
