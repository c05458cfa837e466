from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
import polars as pl
import pytest
from comparison_helpers import Floats, made_result

from funnelrec.common.errors import UsageError
from funnelrec.comparison.document import sentences
from funnelrec.comparison.entries import Entry
from funnelrec.comparison.jobs import PER_USER, Job, JobRecord, Perturbation
from funnelrec.comparison.runner import Comparison, Outcome, Point
from funnelrec.comparison.summary import (
    Line,
    Spread,
    averaged,
    grids,
    groups,
    noise,
    results_frame,
    significance_frame,
    verdicts,
)
from funnelrec.evaluation.significance import bootstrap_interval, holm, paired_tests
from funnelrec.testing.datasets import planted_dataset

USERS = 40
LIGHT, RULE = Entry("light", "lightgcn"), Entry("conversion", "conversion")


def outcome(
    place: Path,
    entry: Entry,
    values: Floats,
    seed: int = 0,
    *,
    refit: bool = False,
    noise_on: Perturbation | None = None,
    point: Point | None = None,
    validation: float | None = None,
) -> Outcome:
    """Return a training whose NDCG@10 per user is ``values``."""
    made = made_result(entry.model, values, refit=refit)
    job = Job(
        fingerprint="0" * 64,
        model=entry.model,
        settings={},
        seed=seed,
        refit=refit,
        ks=(10,),
        perturbation=noise_on,
    )
    folder = place / f"{entry.label}-{seed}-{len(list(place.iterdir()))}"
    folder.mkdir()
    made.test.per_user.write_parquet(folder / PER_USER)
    measured: Any = {} if validation is None else {"overall": {"ndcg@10": validation}}
    record = JobRecord(
        key="k",
        job=job,
        protocol=made.test.protocol,
        test={name: dict(line) for name, line in made.test.slices.items()},
        validation=measured,
    )
    return Outcome(entry, record, folder, point)


def comparison(outcomes: Sequence[Outcome], *entries: Entry, **more: Any) -> Comparison:
    chosen: dict[str, Any] = {"unchanged": (), "seeds": 2, "trials": None, **more}
    return Comparison(
        out=Path("nowhere"),
        dataset=planted_dataset(),
        entries=entries,
        outcomes=tuple(outcomes),
        tuned={},
        metric="ndcg@10",
        ks=(10,),
        **chosen,
    )


def draws(seed: int, shift: float = 0.0) -> Floats:
    values = np.random.default_rng(seed).random(USERS) * 0.5 + shift
    return np.where(values < 0.2, 0.0, values)


@pytest.fixture
def lines(tmp_path: Path) -> list[Line]:
    return [
        Line(RULE, (outcome(tmp_path, RULE, draws(1)),)),
        Line(LIGHT, tuple(outcome(tmp_path, LIGHT, draws(2 + s, 0.3), s) for s in range(2))),
        Line(
            Entry("third", "mf_bpr"),
            (outcome(tmp_path, Entry("third", "mf_bpr"), draws(9, 0.05)),),
        ),
    ]


def test_means_and_deviations_are_over_seeds(lines: list[Line]) -> None:
    seeds = [draws(2, 0.3).mean(), draws(3, 0.3).mean()]
    spread = lines[1].spread("overall", "ndcg@10")
    assert spread is not None
    assert spread.mean == pytest.approx(mean(seeds))
    assert spread.sd == pytest.approx(stdev(seeds))
    assert str(Spread(0.25, 0.0125)) == "0.2500 ± 0.0125"
    alone = lines[0].spread("conversion", "ndcg@10")
    assert alone is not None
    assert alone.mean == pytest.approx(draws(1)[::2].mean())
    assert alone.sd is None
    assert lines[0].spread("overall", "ndcg@10", "validation") is None


def test_users_are_averaged_over_seeds(lines: list[Line]) -> None:
    frame = averaged(lines[1])
    wanted = (draws(2, 0.3) + draws(3, 0.3)) / 2
    np.testing.assert_allclose(frame["ndcg@10"].to_numpy(), wanted)
    inside = frame["conversion/ndcg@10"]
    assert inside.is_null().to_list() == [place % 2 == 1 for place in range(USERS)]
    np.testing.assert_allclose(inside.drop_nulls().to_numpy(), wanted[::2])


def test_each_stands_against_the_best_other_with_holm_over_all(lines: list[Line]) -> None:
    found = [
        v for v in verdicts(lines, draws=200) if (v.part, v.metric) == ("conversion", "ndcg@10")
    ]
    values = {
        "conversion": draws(1)[::2],
        "light": ((draws(2, 0.3) + draws(3, 0.3)) / 2)[::2],
        "third": draws(9, 0.05)[::2],
    }
    second = max(("conversion", "third"), key=lambda name: values[name].mean())
    rivals = {"conversion": "light", "light": second, "third": "light"}
    assert {v.entry: v.other for v in found} == rivals
    tests = [paired_tests(values[name], values[rival]) for name, rival in rivals.items()]
    assert [v.tests for v in found] == tests
    assert [v.t_p for v in found] == holm([test.t_p for test in tests])
    assert [v.wilcoxon_p for v in found] == holm([test.wilcoxon_p for test in tests])
    for verdict in found:
        own, rival = values[verdict.entry], values[rivals[verdict.entry]]
        assert verdict.mean == pytest.approx(own.mean())
        assert verdict.interval == bootstrap_interval(own, draws=200)
        assert verdict.difference == bootstrap_interval(own - rival, draws=200)


def test_one_entry_alone_has_an_interval_and_no_test(lines: list[Line]) -> None:
    (verdict, *_) = verdicts(lines[:1], draws=50)
    assert verdict.interval[0] < verdict.mean < verdict.interval[1]
    assert (verdict.other, verdict.tests, verdict.t_p) == (None, None, None)


def test_other_users_are_refused(lines: list[Line], tmp_path: Path) -> None:
    path = lines[2].outcomes[0].folder / PER_USER
    pl.read_parquet(path).reverse().write_parquet(path)
    with pytest.raises(UsageError, match="third was measured on other users than conversion"):
        verdicts(lines, draws=10)
    path = lines[1].outcomes[1].folder / PER_USER
    pl.read_parquet(path).reverse().write_parquet(path)
    with pytest.raises(UsageError, match="two seeds of light were measured on different users"):
        averaged(lines[1])


def test_other_protocols_have_tables_of_their_own(tmp_path: Path) -> None:
    again = Entry("refitted", "lightgcn")
    result = comparison(
        [
            outcome(tmp_path, RULE, draws(1)),
            outcome(tmp_path, LIGHT, draws(2)),
            outcome(tmp_path, again, draws(3), refit=True),
        ],
        RULE,
        LIGHT,
        again,
    )
    first, second = groups(result, [], draws=50)
    assert [line.label for line in first.lines] == ["conversion", "light"]
    assert ([line.label for line in second.lines], second.differing) == (["refitted"], ("refit",))
    assert first.differing == ()
    # Nothing is tested across tables.
    assert {verdict.entry for verdict in first.verdicts} == {"conversion", "light"}
    frame = significance_frame([first, second])
    assert (
        frame.filter(pl.col("table") == 2)["other"].null_count()
        == frame.filter(pl.col("table") == 2).height
    )
    overall = frame.row(
        by_predicate=(pl.col("slice") == "overall")
        & (pl.col("metric") == "ndcg@10")
        & (pl.col("entry") == "light"),
        named=True,
    )
    assert overall["difference"] == pytest.approx((draws(2) - draws(1)).mean())
    assert overall["t_p_holm"] >= overall["t_p"]


def test_a_leader_is_told_with_the_next_as_it_stands_in_the_table(tmp_path: Path) -> None:
    # Not the leader's mean less the difference: rounding made that -0.0000.
    leading = np.full(USERS, 0.1) + np.arange(USERS) / 300
    result = comparison(
        [outcome(tmp_path, RULE, np.zeros(USERS)), outcome(tmp_path, LIGHT, leading)], RULE, LIGHT
    )
    (group,) = groups(result, [], draws=50)
    said = sentences(group, "ndcg@10")
    assert len(said) == 3
    assert said[0].startswith(
        f"Overall, {USERS} users: light leads with NDCG@10 {leading.mean():.4f}, then conversion "
        "with 0.0000; the difference of"
    )
    assert said[0].endswith("(t-test p < 0.0001, Wilcoxon p < 0.0001).")
    assert "is more than chance over these users" in said[0]


def test_noise_is_read_against_the_same_seeds(tmp_path: Path) -> None:
    clean = [
        outcome(tmp_path, LIGHT, np.full(USERS, value), s) for s, value in enumerate((0.4, 0.9))
    ]
    noisy = [
        outcome(tmp_path, LIGHT, np.full(USERS, 0.3), noise_on=Perturbation(drop=0.5)),
        outcome(tmp_path, LIGHT, np.full(USERS, 0.5), noise_on=Perturbation(add=0.1)),
    ]
    popular = Entry("popularity", "popularity")
    rule = [outcome(tmp_path, popular, np.full(USERS, 0.2))]
    result = comparison([*clean, *noisy, *rule], LIGHT, popular, unchanged=("popularity",))
    light, unchanged = noise(result)
    assert light.values["ndcg@10"][0.0] == Spread(0.4)
    assert light.drop("ndcg@10", -0.5) == pytest.approx(0.25)
    assert light.drop("ndcg@10", 0.1) == pytest.approx(-0.25)
    assert light.drop("ndcg@10", 0.3) is None
    assert unchanged.unchanged
    assert {unchanged.drop("ndcg@10", level) for level in (-0.5, -0.1, 0.3)} == {0.0}


def test_grids_keep_the_order_of_their_points(tmp_path: Path) -> None:
    outcomes = [
        outcome(
            tmp_path,
            LIGHT,
            np.full(USERS, 0.1 * dim),
            seed,
            point=Point("light", {"dim": dim}),
            validation=dim + seed / 2,
        )
        for seed in range(2)
        for dim in (4, 2)
    ]
    points = grids(comparison(outcomes, LIGHT))["light"]
    assert [point.values for point in points] == [{"dim": 4}, {"dim": 2}]
    assert points[0].validation == Spread(4.25, stdev([4.0, 4.5]))
    assert points[1].test is not None
    assert points[1].test.mean == pytest.approx(0.2)


def test_results_have_a_row_for_each_training_split_and_slice(tmp_path: Path) -> None:
    failed = JobRecord(
        key="f",
        job=Job(fingerprint="0", model="conversion", settings={}, seed=0, refit=True, ks=(10,)),
        error="why",
    )
    frame = results_frame(
        comparison(
            [
                outcome(tmp_path, LIGHT, draws(2), 1, validation=0.5),
                Outcome(RULE, failed, tmp_path / "none"),
            ],
            LIGHT,
            RULE,
        )
    )
    rows = frame.select("entry", "split", "slice", "seed", "ndcg@10", "error").rows()
    assert [row[:4] for row in rows] == [
        ("light", "test", "overall", 1),
        ("light", "test", "conversion", 1),
        ("light", "test", "discovery", 1),
        ("light", "validation", "overall", 1),
        ("conversion", None, None, 0),
    ]
    assert rows[0][4] == pytest.approx(draws(2).mean())
    assert (rows[3][4], rows[4][4], rows[4][5]) == (0.5, None, "why")
    assert json.loads(frame["protocol"][0])["dataset"] == "made up"
