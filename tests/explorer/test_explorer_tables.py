"""Every table of the pages against what the library computes, or against its definition."""

from __future__ import annotations

import io
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import polars as pl
import pytest
from explorer_helpers import Folders, folders_in, wanted
from polars.testing import assert_frame_equal

from funnelrec.common.errors import CapabilityError, UsageError
from funnelrec.evaluation.binary import wilson
from funnelrec.explorer.compared import (
    chance_table,
    cost_table,
    means_table,
    metrics_of,
    parts_of,
)
from funnelrec.explorer.dataset import (
    alignment_table,
    funnel_table,
    held_out_table,
    split_in_words,
)
from funnelrec.explorer.item import as_csv, conversion_table, hesitants, standing
from funnelrec.explorer.source import Explored, open_source
from funnelrec.explorer.training import (
    lists_table,
    settings_table,
    slices_table,
    training_facts,
)
from funnelrec.explorer.user import held_out_of, readable, recommendations, user_history
from funnelrec.models.runs import load_record
from funnelrec.serving import hesitations


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    return folders_in(tmp_path_factory)


@pytest.fixture(scope="module")
def charm(folders: Folders) -> Explored:
    return open_source(wanted(folders))


@pytest.fixture(scope="module")
def knn(folders: Folders) -> Explored:
    return open_source(wanted(folders, path=folders.refitted))


class TestDataset:
    def test_the_funnel_is_counted(self, charm: Explored) -> None:
        table = funnel_table(charm.diagnostics)
        data = charm.described.training
        assert table["behavior"].to_list() == ["view", "collect", "cart", "purchase (target)"]
        bought = set(zip(data.purchases.users, data.purchases.items, strict=True))
        for row, part in zip(table.iter_rows(named=True), data.interactions.values(), strict=True):
            pairs = set(zip(part.users, part.items, strict=True))
            assert row["pairs"] == len(pairs)
            assert row["events"] == part.counts.sum()
            assert row["users"] == len({user for user, _ in pairs})
            assert row["items"] == len({item for _, item in pairs})
            assert row["density"] == len(pairs) / (data.n_users * data.n_items)
            if part is data.purchases:
                assert row["bought"] is None
            else:
                assert row["bought"] == pytest.approx(len(pairs & bought) / len(pairs))

    def test_bar_dt_and_touched_are_the_diagnostics(self, charm: Explored) -> None:
        found = charm.diagnostics
        table = alignment_table(found)
        assert table["statistic"].to_list()[0] == "BAR view"
        for column, part in (("full set", found.full), ("training", found.training)):
            assert table[column].to_list() == [*part.bar.values(), part.direct]
        held_out = held_out_table(found)
        assert held_out["split"].to_list() == ["validation", "test"]
        for row, split in zip(
            held_out.iter_rows(named=True), (found.validation, found.test), strict=True
        ):
            assert (row["pairs"], row["users"]) == (split.pairs, split.users)
            assert row["touched"] == split.touched
            assert row["by cart"] == split.touched_by["cart"]
            assert row["touched at refit"] == split.touched_at_refit
        assert "Splits are disjoint" in split_in_words(found)

    def test_without_test_pairs_no_figure_claims_them(self, folders: Folders) -> None:
        found = open_source(wanted(folders, path=folders.artifact))
        assert alignment_table(found.diagnostics).columns == ["statistic", "training"]
        assert held_out_table(found.diagnostics)["split"].to_list() == ["validation"]
        figures = found.diagnostics.plots(found.described)
        assert [trace.name for trace in figures["alignment"].data] == ["training"]
        assert [label.split()[0] for label in figures["touched"].data[0].y] == ["validation"]


class TestTraining:
    def test_the_three_lines_are_those_of_the_evaluation(self, charm: Explored) -> None:
        measured = charm.measure("test")
        table = slices_table(measured)
        for row in table.iter_rows(named=True):
            name = row.pop("slice")
            assert row == {key: measured.slices[name][key] for key in row}
        assert {"users", "held_out", "unreachable", "hr@10", "ndcg@20"} <= set(table.columns)
        lists = dict(lists_table(measured).iter_rows())
        assert lists["coverage@10"] == measured.slices["overall"]["coverage@10"]
        assert not set(lists) & set(table.columns)

    def test_facts_and_settings_are_the_records(
        self, folders: Folders, charm: Explored, knn: Explored
    ) -> None:
        record = load_record(folders.run)
        facts = dict(training_facts(charm))
        assert facts["model"] == "charm"
        assert facts["epochs behind the model"] == str(record.epochs)
        assert facts["best validation"] == f"NDCG@10 {record.best_validation:.4f}"
        assert facts["refitted with validation purchases"] == "no"
        settings = dict(settings_table(charm).iter_rows())
        assert settings["dim"] == "8"
        assert set(settings) == set(record.config)
        other = dict(training_facts(knn))
        assert (other["epochs behind the model"], other["best validation"]) == ("-", "-")
        assert other["refitted with validation purchases"] == "yes"
        artifact = dict(training_facts(open_source(wanted(folders, path=folders.artifact))))
        assert artifact["preset"] == "practical"
        assert "training time" not in artifact


class TestCompared:
    def test_means_tests_and_cost(self, charm: Explored) -> None:
        assert charm.comparison is not None
        first, second = charm.comparison.groups
        assert [line.label for line in second.lines] == ["plain"]
        assert metrics_of(first) == ["hr@10", "ndcg@10"]
        for part in parts_of(first):
            table = means_table(first, part)
            spreads = {line.label: line.spread(part, "hr@10") for line in first.lines}
            assert {row[0]: row[2] for row in table.iter_rows()} == {
                label: str(spread) for label, spread in spreads.items()
            }
            means = [spreads[label].mean for label in table["model"]]  # type: ignore[union-attr]
            assert means == sorted(means, reverse=True)
            tested = chance_table(first, part, "ndcg@10")
            for row in tested.iter_rows(named=True):
                (verdict,) = (
                    v
                    for v in first.verdicts
                    if (v.part, v.metric, v.entry) == (part, "ndcg@10", row["model"])
                )
                assert row["mean"] == verdict.mean
                assert (row["low"], row["high"]) == verdict.interval
                assert row["best other"] == verdict.other
                assert row["t-test p"] == verdict.t_p
            assert tested["mean"].is_sorted(descending=True)
        assert cost_table(first)["seconds"].to_list() == [
            line.records[0].seconds for line in first.lines
        ]
        # Alone in its table, an entry has nobody to be tested against.
        (alone,) = chance_table(second, "overall", "hr@10").iter_rows(named=True)
        assert (alone["best other"], alone["difference"], alone["t-test p"]) == (None, None, None)


class TestUser:
    def test_the_history_is_the_log(self, charm: Explored) -> None:
        data = charm.data
        for user in range(0, data.n_users, 7):
            (name,) = data.user_ids.decode([user])
            table = user_history(charm, name)
            expected: dict[str, dict[str, Any]] = {}
            for behavior, part in data.interactions.items():
                assert part.first is not None
                assert part.last is not None
                for place in range(part.indptr[user], part.indptr[user + 1]):
                    item = data.item_ids.decode([part.indices[place]])[0]
                    row = expected.setdefault(item, {"first": [], "last": []})
                    row[behavior] = int(part.counts[place])
                    row["first"].append(int(part.first[place]))
                    row["last"].append(int(part.last[place]))
            assert table["item_id"].is_unique().all()
            assert set(table["item_id"]) == set(expected)
            for line in table.iter_rows(named=True):
                row = expected[line["item_id"]]
                assert [line[b] for b in data.behaviors] == [row.get(b, 0) for b in data.behaviors]
            first, last = (
                dict(table.select("item_id", pl.col(c).dt.epoch("us")).iter_rows())
                for c in ("first", "last")
            )
            assert first == {item: min(row["first"]) for item, row in expected.items()}
            assert last == {item: max(row["last"]) for item, row in expected.items()}
            strength = [
                tuple(line[b] > 0 for b in reversed(data.behaviors))
                for line in table.iter_rows(named=True)
            ]
            assert strength == sorted(strength, reverse=True)

    def test_recommendations_have_true_reasons(self, charm: Explored, knn: Explored) -> None:
        told = {"touched": 0, "like": 0}
        for explored in (charm, knn):
            data = explored.data
            for user in data.user_ids.values.to_list()[:60:6]:
                table = recommendations(explored, user, k=7)
                expected = explored.model.recommend([user], k=7)
                assert table.select("item_id", "score", "rank").equals(
                    expected.select("item_id", "score", "rank")
                )
                history = user_history(explored, user)
                did = {
                    row["item_id"]: [b for b in data.behaviors if row[b]]
                    for row in history.iter_rows(named=True)
                }
                for row in table.iter_rows(named=True):
                    mine = did.get(row["item_id"], [])
                    assert row["touched"] == [b for b in mine if b != data.target]
                    if mine:
                        assert row["reason"].startswith(f"touched before: {', '.join(mine)}")
                        told["touched"] += 1
                    if "like " in row["reason"]:
                        told["like"] += 1
                        alike = explored.model.similar_items(row["item_id"], k=data.n_items)
                        best = next(name for name in alike["item_id"] if name in did)
                        assert f"like {best} ({', '.join(did[best])})" in row["reason"]
        assert min(told.values()) > 10

    def test_only_new_items_and_what_was_held_out(self, charm: Explored) -> None:
        assert charm.dataset is not None
        user = "u00042"
        assert recommendations(charm, user, only_new=True)["touched"].list.len().sum() == 0
        everything = recommendations(charm, user, k=charm.data.n_items)
        hidden = [item for split, item in held_out_of(charm, user) if split == "test"]
        assert everything.filter("held out")["item_id"].to_list() == hidden
        assert len(hidden) == 1
        number = int(charm.data.user_ids.encode([user])[0])
        assert hidden == charm.data.item_ids.decode(charm.dataset.test.row(number)).to_list()

    def test_a_model_that_compares_nothing_tells_who_bought(self, folders: Folders) -> None:
        from funnelrec.models import create_model
        from funnelrec.models.runs import Run, load_run

        run = load_run(folders.run, device="cpu")
        popular = create_model("popularity").fit(run.dataset)
        explored = Explored(
            Run(run.path, run.record, popular, run.dataset, None), run.dataset, None
        )
        table = recommendations(explored, "u00042", only_new=True)
        for row in table.iter_rows(named=True):
            item = int(explored.data.item_ids.encode([row["item_id"]])[0])
            buyers = int((explored.data.purchases.items == item).sum())
            assert row["reason"] == f"bought by {buyers:,} users"

    def test_bare_numbers_are_dates_where_all_of_them_can_be(self) -> None:
        since = datetime(1970, 1, 1)
        frame = pl.DataFrame({"first": [1_000_000_000, None], "last": [1_700_000_001] * 2})
        shown = readable(frame)
        assert shown["last"].to_list() == [since + timedelta(seconds=1_700_000_001)] * 2
        assert shown["first"].to_list() == [since + timedelta(seconds=1_000_000_000), None]
        # Milliseconds, days and counts are left alone, and so is a table half of them.
        for other in (1_700_000_000_000, 19_000, 0, -5):
            mixed = frame.with_columns(first=pl.lit(other, pl.Int64))
            assert readable(mixed).equals(mixed)
        assert readable(frame.clear()).equals(frame.clear())

    def test_unknown_users(self, charm: Explored) -> None:
        for ask in (user_history, recommendations, held_out_of):
            with pytest.raises(UsageError, match="user 'eve' is not in the data set"):
                ask(charm, "eve")


class TestItem:
    def test_rates_are_counted(self, charm: Explored) -> None:
        data = charm.data
        bought = set(zip(data.purchases.users, data.purchases.items, strict=True))
        everything: set[Any] = set()
        for name in data.auxiliary:
            part = data.interactions[name]
            everything |= set(zip(part.users, part.items, strict=True))
        for item in range(0, data.n_items, 11):
            (name,) = data.item_ids.decode([item])
            table = conversion_table(charm, name)
            assert table["behavior"].to_list() == [*data.auxiliary, "any of them"]
            for row in table.iter_rows(named=True):
                if row["behavior"] == "any of them":
                    pairs = everything
                else:
                    part = data.interactions[row["behavior"]]
                    pairs = set(zip(part.users, part.items, strict=True))
                mine = {pair for pair in pairs if pair[1] == item}
                both = len(mine & bought)
                assert (row["users"], row["bought"]) == (len(mine), both)
                assert row["all items"] == pytest.approx(len(pairs & bought) / len(pairs))
                if not mine:
                    assert (row["rate"], row["low"], row["high"]) == (None, None, None)
                    continue
                low, high = wilson(np.array([both / len(mine)]), np.array([len(mine)]))
                assert row["rate"] == both / len(mine)
                assert (row["low"], row["high"]) == (pytest.approx(low[0]), pytest.approx(high[0]))
            buyers = [int((data.purchases.items == other).sum()) for other in range(data.n_items)]
            place = standing(charm, name)
            assert place["buyers"] == buyers[item]
            assert place["touched by"] == len({p for p in everything if p[1] == item})
            assert place["rank by buyers"] == 1 + sum(b > buyers[item] for b in buyers)

    def test_who_hesitates_and_the_file_of_them(self, charm: Explored, knn: Explored) -> None:
        whole = hesitations(charm.source)
        item = whole["item_id"].mode()[0]
        found = hesitants(charm, item)
        expected = whole.filter(item_id=item).drop("item_id")
        # In another order the model's sums round in another way.
        assert_frame_equal(found.sort("user_id"), expected.sort("user_id"), rel_tol=1e-4)
        assert found.height > 5
        read = pl.read_csv(io.StringIO(as_csv(found)), try_parse_dates=True)
        assert read.columns == found.columns
        for name in ("user_id", "label", "competitor_id", "events"):
            assert read[name].to_list() == found[name].to_list()
        for name in ("confidence", "weight", "conversion"):
            np.testing.assert_allclose(read[name], found[name], rtol=1e-6)
        assert read["behaviors"].str.split("+").to_list() == found["behaviors"].to_list()
        assert read["last"].dt.epoch("s").to_list() == found["last"].dt.epoch("s").to_list()
        with pytest.raises(CapabilityError, match="itemknn gives no evidence"):
            hesitants(knn, item)

    def test_unknown_items(self, charm: Explored) -> None:
        for ask in (conversion_table, standing, hesitants):
            with pytest.raises(UsageError, match="item 'ale' is not in the data set"):
                ask(charm, "ale")
