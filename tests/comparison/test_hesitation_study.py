from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import polars as pl

from funnelrec.comparison.hesitation_study import (
    TASKS,
    hesitation_study,
    labelled_pairs,
    rule_scores,
)
from funnelrec.data import Dataset, SimulatedShop, prepare, read_events, simulate_shop
from funnelrec.evaluation.evidence import CompetitorTable, PairEvidence
from funnelrec.models import create_model


@cache
def shop() -> tuple[SimulatedShop, Dataset]:
    simulated = simulate_shop(n_users=150, n_items=120, n_categories=10, seed=2)
    return simulated, prepare(read_events(simulated.events, behaviors=simulated.behaviors))


class Oracle:
    """Says of each pair what the truth says; mistakes nothing, or everything if turned."""

    def __init__(self, turned: bool = False) -> None:
        simulated, self.dataset = shop()
        self.truth = dict(zip(*simulated.truth.select(KEY, "label"), strict=True))
        self.turned = turned

    def pair_evidence(self, users: Any, items: Any) -> PairEvidence:
        data = self.dataset.training
        names = zip(data.user_ids.decode(users), data.item_ids.decode(items), strict=True)
        labels = np.array([self.truth["/".join(pair)] for pair in names])
        wanted = np.isin(labels, ["hesitation", "substituted"]) ^ self.turned
        gone = (labels == "substituted") ^ self.turned
        left = wanted & ~gone
        w, r, weight = (part.astype(np.float32) for part in (wanted, gone, left))
        return PairEvidence(w, w, r, weight, np.full(len(users), 0), r)

    def competitor_table(self, user: int, items: Any) -> CompetitorTable:
        raise NotImplementedError


KEY = pl.concat_str("user_id", "item_id", separator="/")


def value(table: pl.DataFrame, scorer: str, signal: str, task: str) -> tuple[Any, Any]:
    row = table.filter(scorer=scorer, signal=signal, task=task)
    return row["auc"].item(), row["average_precision"].item()


def test_an_oracle_is_perfect_and_a_turned_one_the_reverse() -> None:
    simulated, dataset = shop()
    table = hesitation_study(simulated, dataset, {"oracle": Oracle(), "turned": Oracle(True)})
    assert value(table, "oracle", "confidence", "hesitation") == (1.0, 1.0)
    assert value(table, "turned", "confidence", "hesitation")[0] == 0.0
    for task in TASKS[1:]:
        assert value(table, "oracle", "evidence", task) == (1.0, 1.0)
        assert value(table, "oracle", "explained", task) == (1.0, 1.0)
        assert value(table, "oracle", "weight", task) == (1.0, 1.0)
        assert value(table, "turned", "evidence", task)[0] == 0.0
    # The main signal of each task comes first.
    first = table.filter(scorer="oracle").group_by("task", maintain_order=True).first()
    assert first["signal"].to_list() == ["confidence", "evidence", "evidence"]


def test_pairs_are_those_of_the_truth_and_of_training() -> None:
    simulated, dataset = shop()
    data = dataset.training
    pairs = labelled_pairs(simulated, data)
    truth = {
        (user, item): (label, rival)
        for user, item, label, rival in simulated.truth.select(
            "user_id", "item_id", "label", "competitor_id"
        ).iter_rows()
    }
    bought = set(zip(data.purchases.users, data.purchases.items, strict=True))
    touched = set(zip(data.touched.users, data.touched.items, strict=True)) - bought
    user_ids, item_ids = data.user_ids.values.to_list(), data.item_ids.values.to_list()
    names = {(user, item): (user_ids[user], item_ids[item]) for user, item in touched}
    kept = sorted(pair for pair in touched if truth[names[pair]][0] != "purchased")
    assert list(zip(pairs.users, pairs.items, strict=True)) == kept
    assert pairs.left_out == len(touched) - len(kept) > 0
    for place, pair in enumerate(kept):
        label, rival = truth[names[pair]]
        assert pairs.hesitation[place] == (label == "hesitation")
        assert pairs.substituted[place] == (label == "substituted")
        assert pairs.not_interested[place] == (label in ("weak_interest", "noise"))
        known = rival in item_ids and (pair[0], item_ids.index(rival)) in bought
        assert pairs.competitor_known[place] == known
    assert 0 < (pairs.competitor_known & pairs.substituted).sum() < pairs.substituted.sum()


def test_rules_are_what_they_are_called() -> None:
    simulated, dataset = shop()
    data = dataset.training
    pairs = labelled_pairs(simulated, data)
    scores = rule_scores(pairs, data)
    conversion = create_model("conversion").fit(dataset).score(np.arange(data.n_users)).numpy()
    for place in range(0, len(pairs.users), 37):
        user, item = int(pairs.users[place]), int(pairs.items[place])
        parts = [data.interactions[name] for name in data.auxiliary]
        events = [
            int(p.counts[p.indptr[user] : p.indptr[user + 1]][p.row(user) == item].sum())
            for p in parts
        ]
        assert scores["events"][place] == sum(events)
        assert scores["behavior types"][place] == sum(count > 0 for count in events)
        assert scores["conversion"][place] == conversion[user, item]
        assert scores["few purchases"][place] == -len(data.purchases.row(user))


def test_rules_stand_in_the_table_once_per_task() -> None:
    simulated, dataset = shop()
    table = hesitation_study(simulated, dataset)
    assert table.height == 4 * 3
    hes, sub = (table.filter(scorer="behavior types", task=task) for task in TASKS[:2])
    assert hes["true"].item() == sub["false"].item()
    assert hes["auc"].item() > 0.55
    assert table["auc"].is_between(0.3, 0.9).all()


def test_no_hesitation_gives_no_figure() -> None:
    simulated = simulate_shop(n_users=60, n_items=60, hesitation_share=0.0, seed=1)
    dataset = prepare(read_events(simulated.events, behaviors=simulated.behaviors))
    table = hesitation_study(simulated, dataset)
    assert table["auc"].null_count() == table.height
    assert table.filter(task="hesitation")["true"].max() == 0
