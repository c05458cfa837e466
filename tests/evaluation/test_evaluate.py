from __future__ import annotations

import io
import json
import math
import sys
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import pytest
import torch
from evaluation_helpers import MatrixScorer, make_dataset, pairs_of, random_dataset
from rich.console import Console

from funnelrec.common.errors import ConfigError, UsageError
from funnelrec.data.dataset import Dataset, IdMap
from funnelrec.evaluation.candidates import SampledCandidates
from funnelrec.evaluation.evaluate import Evaluation, RankingValidator, evaluate
from funnelrec.evaluation.metrics import METRICS
from funnelrec.evaluation.sampled_users import SampledUsers
from funnelrec.evaluation.slices import SLICES
from funnelrec.models import create_model


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return random_dataset(7)


def tied_scores(dataset: Dataset, seed: int = 0, levels: int = 6) -> npt.NDArray[np.float64]:
    shape = dataset.training.shape
    return np.random.default_rng(seed).integers(0, levels, shape).astype(float)


def numbers(result: Evaluation) -> dict[str, dict[str, float | int | None]]:
    return {name: dict(result.slices[name]) for name in SLICES}


def close(
    a: dict[str, dict[str, float | int | None]], b: dict[str, dict[str, float | int | None]]
) -> bool:
    return all(a[name] == pytest.approx(b[name], abs=1e-12) for name in SLICES)


def test_hand_computed_example() -> None:
    # Three users, six items. Held out: ann 1 (viewed) and 2, bob 3, cat none.
    data = make_dataset(
        3,
        6,
        purchases=[(0, 0), (1, 0), (2, 5)],
        views=[(0, 1), (1, 2)],
        test=[(0, 1), (0, 2), (1, 3)],
        user_ids=["ann", "bob", "cat"],
    )
    scores = [[9, 4, 1, 4, 2, 0], [9, 5, 5, 5, 1, 0], [0, 0, 0, 0, 0, 0]]
    # ann: 0 is masked; 1 ties with 3: rank 2; 2: 3 and 4 and item 1 before it: rank 4.
    # bob: 0 is masked; 3 ties with 1 and 2: rank 3.
    result = evaluate(MatrixScorer(scores), data, k=(2, 3))
    assert result.slices["overall"]["users"] == 2
    assert result.slices["overall"]["held_out"] == 3
    assert result.slices["overall"]["unreachable"] == 0
    ideal = 1 + 1 / math.log2(3)
    expected = {
        "overall": {
            "hr@2": 1 / 2,
            "hr@3": 1,
            "recall@3": (1 / 2 + 1) / 2,
            "precision@3": (1 / 3 + 1 / 3) / 2,
            "mrr@3": (1 / 2 + 1 / 3) / 2,
            "map@3": (1 / 4 + 1 / 3) / 2,
            "ndcg@3": (1 / math.log2(3) / ideal + 1 / 2) / 2,
        },
        # Item 1 alone, item 2 no candidate: still behind 3.
        "conversion": {"hr@2": 1, "ndcg@2": 1 / math.log2(3), "mrr@2": 1 / 2},
        # ann: item 1 is no candidate, item 2 behind 3 and 4: rank 3. bob: rank 3.
        "discovery": {"hr@2": 0, "hr@3": 1, "ndcg@3": 1 / 2, "mrr@3": 1 / 3},
    }
    for name in SLICES:
        for metric, value in expected[name].items():
            assert result.slices[name][metric] == pytest.approx(value), (name, metric)
    assert result.slices["conversion"]["users"] == 1
    assert result.slices["discovery"]["users"] == 2
    frame = result.per_user
    assert frame["user_id"].to_list() == ["ann", "bob"]
    assert frame["best_rank"].to_list() == [2, 3]
    assert frame["held_out"].to_list() == [2, 1]
    assert frame["conversion"].to_list() == [True, False]
    assert frame["discovery"].to_list() == [True, True]
    assert frame["conversion/hr@2"].to_list() == [1.0, None]
    assert frame["discovery/mrr@3"].to_list() == pytest.approx([1 / 3, 1 / 3])


def test_beyond_accuracy_of_a_hand_computed_example() -> None:
    # Popularity 2, 1, 1, 0; each user's list is its best item that was not bought.
    data = make_dataset(2, 4, purchases=[(0, 0), (1, 0), (0, 1), (1, 2)], test=[(0, 2), (1, 3)])
    scores = [[9, 8, 1, 0], [9, 2, 8, 3]]
    line = evaluate(MatrixScorer(scores), data, k=1).slices["overall"]
    # ann is shown 2 (popularity 1), bob 3 (popularity 0); both bought 2 and 1.
    assert line["coverage@1"] == pytest.approx(2 / 4)
    assert line["gini@1"] == pytest.approx((1 + 3) / (4 * 2))
    assert line["novelty@1"] == pytest.approx((-math.log2(2 / 8) - math.log2(1 / 8)) / 2)
    assert line["popularity_lift@1"] == pytest.approx(0.5 / 1.5)
    assert (
        "coverage@1"
        not in evaluate(MatrixScorer(scores), data, k=1, beyond_accuracy=False).slices["overall"]
    )


def test_perfect_scorer_gets_one(dataset: Dataset) -> None:
    scorer = MatrixScorer(dataset.test.matrix().toarray())
    result = evaluate(scorer, dataset, k=(5, 10))
    for name in SLICES:
        for metric in ("hr@5", "ndcg@5", "recall@5", "mrr@10", "map@10"):
            assert result.slices[name][metric] == 1.0, (name, metric)


def test_constant_scorer_finds_nothing(dataset: Dataset) -> None:
    result = evaluate(MatrixScorer(np.ones(dataset.training.shape)), dataset, k=(1, 10, 20))
    for name in SLICES:
        for metric in METRICS:
            for k in (1, 10, 20):
                assert result.slices[name][f"{metric}@{k}"] == 0.0


@pytest.mark.parametrize("sampled", [None, 9])
def test_random_scorer_is_at_chance(sampled: int | None) -> None:
    n_users, n_items, k = 4000, 50, 5
    rng = np.random.default_rng(11)
    test = [(user, int(rng.integers(n_items))) for user in range(n_users)]
    data = make_dataset(n_users, n_items, views=test[::3], test=test)
    result = evaluate(
        MatrixScorer(rng.random((n_users, n_items))),
        data,
        k=k,
        candidates=None if sampled is None else SampledCandidates(sampled),
    )
    chance = k / (n_items if sampled is None else sampled + 1)
    metric = f"hr@{k}" if sampled is None else f"sampled-9/hr@{k}"
    for name in SLICES:
        line = result.slices[name]
        users, value = line["users"], line[metric]
        assert users is not None
        assert value is not None
        assert abs(value - chance) < 4.5 * math.sqrt(chance * (1 - chance) / users), name


@pytest.mark.parametrize("candidates", [None, SampledCandidates(9)])
def test_score_budget_changes_nothing(
    dataset: Dataset, candidates: SampledCandidates | None
) -> None:
    scorer = MatrixScorer(np.random.default_rng(2).random(dataset.training.shape))
    results = [
        evaluate(scorer, dataset, candidates=candidates, score_budget=budget)
        for budget in (1, 333, 10**6)
    ]
    for other in results[1:]:
        assert other.to_dict() == results[0].to_dict()
        assert other.per_user.equals(results[0].per_user)


@pytest.mark.parametrize("change", ["exponential", "affine", "cubic"])
def test_only_the_order_of_scores_counts(dataset: Dataset, change: str) -> None:
    scores = tied_scores(dataset)
    moved = {"exponential": np.exp(scores), "affine": 3 * scores - 100, "cubic": scores**3}[change]
    first = evaluate(MatrixScorer(scores), dataset, beyond_accuracy=False)
    second = evaluate(MatrixScorer(moved), dataset, beyond_accuracy=False)
    assert numbers(first) == numbers(second)
    assert first.per_user.equals(second.per_user)


def test_relabelling_users_and_items_changes_nothing(dataset: Dataset) -> None:
    rng = np.random.default_rng(5)
    n_users, n_items = dataset.training.shape
    # Distinct scores, because the lists of tied ones are arbitrary.
    scores = rng.permutation(n_users * n_items).reshape(n_users, n_items).astype(float)
    user_of, item_of = rng.permutation(n_users), rng.permutation(n_items)
    moved = np.empty_like(scores)
    moved[np.ix_(user_of, item_of)] = scores
    training = dataset.training
    relabelled = make_dataset(
        n_users,
        n_items,
        user_ids=IdMap(training.user_ids.decode(np.argsort(user_of))).values.to_list(),
        **{
            name: list(zip(user_of[p.users].tolist(), item_of[p.items].tolist(), strict=True))
            for name, p in {
                "purchases": training.purchases,
                "views": training.interactions["view"],
                "test": dataset.test,
                "validation": training.validation,
            }.items()
        },
    )
    for mask in ("train-target", "touched"):
        first = evaluate(MatrixScorer(scores), dataset, mask=mask)
        second = evaluate(MatrixScorer(moved), relabelled, mask=mask)
        assert close(numbers(first), numbers(second))
        assert second.per_user.sort("user_id").equals(first.per_user.sort("user_id"))


def test_per_user_means_are_the_slices(dataset: Dataset) -> None:
    result = evaluate(MatrixScorer(tied_scores(dataset)), dataset)
    frame = result.per_user
    held = dataset.test.user_degrees
    assert frame.height == int((held > 0).sum()) == result.slices["overall"]["users"]
    assert frame["held_out"].to_list() == held[held > 0].tolist()
    assert (frame["conversion"] | frame["discovery"]).all()
    for name in SLICES:
        prefix = "" if name == "overall" else f"{name}/"
        if prefix:
            assert frame[name].sum() == result.slices[name]["users"]
        for metric in ("hr@10", "ndcg@20", "map@10"):
            column = frame[f"{prefix}{metric}"]
            assert column.mean() == pytest.approx(result.slices[name][metric])
            assert not column.is_nan().any()


def test_touched_mask_makes_conversion_a_miss_and_says_so(dataset: Dataset) -> None:
    scorer = MatrixScorer(dataset.test.matrix().toarray())
    result = evaluate(scorer, dataset, mask="touched", k=10)
    assert result.protocol.masked == ("train-target", "touched")
    lost = int(dataset.training.touched.contains(dataset.test.users, dataset.test.items).sum())
    assert result.slices["overall"]["unreachable"] == lost > 0
    assert result.slices["conversion"]["unreachable"] == lost
    assert result.slices["conversion"]["hr@10"] == 0.0
    assert result.slices["discovery"]["unreachable"] == 0
    assert result.slices["discovery"]["hr@10"] == 1.0
    only_lost = result.per_user.filter(pl.col("conversion") & ~pl.col("discovery"))
    assert only_lost.height
    assert only_lost["best_rank"].null_count() == only_lost.height
    assert f"{lost} of {dataset.test.nnz} held-out pairs are masked" in str(result.table().caption)


def test_validation_mask_takes_validation_pairs_out_of_the_way() -> None:
    data = make_dataset(1, 4, purchases=[(0, 0)], validation=[(0, 1)], test=[(0, 2)])
    scorer = MatrixScorer([[9.0, 8.0, 7.0, 6.0]])

    def rank(**mask: tuple[str, ...]) -> int:
        return int(evaluate(scorer, data, **mask).per_user["best_rank"][0])  # type: ignore[arg-type]  # one keyword

    assert rank(mask=()) == 3
    assert rank() == 2
    assert rank(mask=("train-target", "validation")) == 1
    refitted = evaluate(scorer, data.with_validation_in_training())
    assert refitted.per_user["best_rank"].to_list() == [1]


def test_user_with_everything_masked_is_a_miss() -> None:
    data = make_dataset(2, 3, purchases=[(0, 0), (0, 1), (0, 2)], test=[(0, 1), (1, 0)])
    result = evaluate(MatrixScorer([[1.0, 2.0, 3.0], [3.0, 2.0, 1.0]]), data, k=3)
    assert result.slices["overall"]["users"] == 2
    assert result.slices["overall"]["hr@3"] == 0.5
    assert result.slices["overall"]["unreachable"] == 1
    assert result.per_user["best_rank"].to_list() == [None, 1]


def test_sampled_results_are_labelled_and_draw_no_known_pair(dataset: Dataset) -> None:
    # Known pairs score high: a draw that held one would rank it before the held-out item.
    known = dataset.training.purchases.merged(dataset.training.validation, dataset.test)
    scores = known.matrix().toarray() * 2.0 - dataset.test.matrix().toarray()
    result = evaluate(MatrixScorer(scores), dataset, candidates=SampledCandidates(8), k=5)
    assert result.slices["overall"]["sampled-8/hr@5"] == 1.0
    assert result.slices["overall"]["sampled-8/map@5"] == 1.0
    for name in SLICES:
        metrics = [key for key in result.slices[name] if "@" in key]
        assert metrics
        assert all(key.startswith("sampled-8/") for key in metrics)
    assert result.protocol.candidates == "sampled-8 seed 0"
    assert "sampled-8/hr@5" in result.per_user.columns
    assert "conversion/sampled-8/hr@5" in result.per_user.columns


def test_a_validation_draw_does_not_know_the_test_pairs() -> None:
    rng = np.random.default_rng(0)
    validation = [(user, 0) for user in range(30)]
    scorer = MatrixScorer(rng.random((30, 12)))
    results = [
        evaluate(
            scorer,
            make_dataset(30, 12, validation=validation, test=test),
            split="validation",
            candidates=SampledCandidates(5),
        )
        for test in ([(0, 1)], [(user, 3) for user in range(30)])
    ]
    assert numbers(results[0]) == numbers(results[1])


def test_json_has_the_promised_shape() -> None:
    data = make_dataset(2, 3, test=[(0, 1)])
    result = evaluate(MatrixScorer(np.zeros((2, 3))), data, model="zero", seed=4)
    stored = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert list(stored) == ["protocol", "overall", "conversion", "discovery"]
    for name in SLICES:
        assert {"users", "hr@10", "ndcg@10", "hr@20", "ndcg@20"} <= set(stored[name])
    assert stored["conversion"]["users"] == 0
    assert stored["conversion"]["hr@10"] is None
    assert stored["discovery"]["users"] == 1
    # Nobody bought anything: the lift has no denominator.
    assert stored["overall"]["popularity_lift@10"] is None
    assert stored["protocol"]["model"] == "zero"
    assert stored["protocol"]["seed"] == 4


def rendered(result: Evaluation, metrics: list[str] | None = None) -> str:
    out = io.StringIO()
    Console(file=out, width=160).print(result.table(metrics))
    return out.getvalue()


def test_table_shows_three_lines(dataset: Dataset) -> None:
    result = evaluate(MatrixScorer(tied_scores(dataset)), dataset, model="tied [red]")
    text = rendered(result)
    title = "tied [red] on shop, test; candidates full; masked train-target"
    assert title in " ".join(text.split())
    assert "hr@10" in text
    assert "ndcg@20" in text
    assert "recall@10" not in text
    for name in SLICES:
        line = next(line for line in text.splitlines() if name in line)
        assert f"{result.slices[name]['hr@10']:.4f}" in line
        assert f" {result.slices[name]['users']} " in line
    assert "coverage@10" in rendered(result, ["coverage@10"])
    with pytest.raises(UsageError, match="no metric 'hr@11' in this result: did you mean"):
        result.table(["hr@11"])
    only = evaluate(MatrixScorer(tied_scores(dataset)), dataset, metrics="map", k=3)
    assert "map@3" in rendered(only)


def test_faults_are_named(dataset: Dataset) -> None:
    scorer = MatrixScorer(np.zeros(dataset.training.shape))
    with pytest.raises(UsageError, match="unknown split 'tests': did you mean 'test'"):
        evaluate(scorer, dataset, split="tests")  # type: ignore[arg-type]  # the fault
    with pytest.raises(UsageError, match="unknown mask 'touch'"):
        evaluate(scorer, dataset, mask="touch")
    with pytest.raises(UsageError, match="unknown metric 'auc'"):
        evaluate(scorer, dataset, metrics=["auc"])
    for k in (0, (10, -1), (True,)):
        with pytest.raises(UsageError, match="k must be a whole number of at least 1"):
            evaluate(scorer, dataset, k=k)
    with pytest.raises(UsageError, match="at least one list length"):
        evaluate(scorer, dataset, k=())
    with pytest.raises(UsageError, match=r"data set 'shop' has 60 users and 40 items"):
        evaluate(MatrixScorer(np.zeros((60, 39))), dataset)
    with pytest.raises(UsageError, match="no test pairs to evaluate on; prepare the data"):
        evaluate(MatrixScorer(np.zeros((2, 2))), make_dataset(2, 2, purchases=[(0, 0)]))
    with pytest.raises(UsageError, match=r"no validation pairs .*added to training\); evaluate"):
        evaluate(scorer, dataset.with_validation_in_training(), split="validation")
    broken = np.zeros(dataset.training.shape)
    broken[dataset.test.users[0], 3] = np.nan
    with pytest.raises(UsageError, match="hold NaN"):
        evaluate(MatrixScorer(broken), dataset)


@pytest.mark.parametrize("mask", ["train-target", "touched", ()])
def test_validator_gives_the_values_of_evaluate(dataset: Dataset, mask: str) -> None:
    scorer = MatrixScorer(tied_scores(dataset, levels=30))
    result = evaluate(scorer, dataset, split="validation", k=7, mask=mask).slices["overall"]
    validator = RankingValidator(dataset.training, "map@7", mask=mask, score_budget=99)
    assert validator.metric == "map@7"
    for _ in range(2):
        assert validator(scorer) == pytest.approx(
            {name: result[name] for name in ("hr@7", "ndcg@7", "map@7")}
        )


def test_drawn_users_are_some_of_all_with_their_own_values(dataset: Dataset) -> None:
    scorer = MatrixScorer(tied_scores(dataset, levels=30))
    whole = evaluate(scorer, dataset, k=7)
    drawn = evaluate(scorer, dataset, k=7, users=SampledUsers(5, seed=2))
    assert drawn.slices["overall"]["users"] == drawn.per_user.height == 5
    same = whole.per_user.join(drawn.per_user.select("user_id"), on="user_id", how="semi")
    assert drawn.per_user.sort("user_id").equals(same.sort("user_id"))
    assert drawn.slices["overall"]["ndcg@7"] == pytest.approx(same["ndcg@7"].mean())
    assert drawn.protocol.users == "drawn-5 seed 2"
    assert drawn.protocol.differences(whole.protocol) == ("users",)
    other = evaluate(scorer, dataset, k=7, users=SampledUsers(5, seed=3))
    assert set(other.per_user["user_id"]) != set(drawn.per_user["user_id"])
    everybody = evaluate(scorer, dataset, k=7, users=SampledUsers(10**6))
    assert everybody.per_user.equals(whole.per_user)
    assert everybody.protocol == whole.protocol
    printed = repr(everybody)
    assert f"{whole.slices['overall']['users']} users: hr@7 " in printed
    assert len(printed) < 1000


@pytest.mark.parametrize("count", [0, -1, True, 2.0])
def test_a_number_of_users_that_is_none_is_refused(count: Any) -> None:
    with pytest.raises(ConfigError, match="number of users must be a whole number of at least 1"):
        SampledUsers(count)


def test_validator_ranks_drawn_users_alone(dataset: Dataset) -> None:
    scorer = MatrixScorer(tied_scores(dataset, levels=30))
    users = SampledUsers(4, seed=1)
    result = evaluate(scorer, dataset, split="validation", k=10, users=users).slices["overall"]
    found = RankingValidator(dataset.training, users=users)(scorer)
    assert found == pytest.approx({name: result[name] for name in ("hr@10", "ndcg@10")})


def test_validator_follows_the_scores(dataset: Dataset) -> None:
    validator = RankingValidator(dataset.training)
    assert validator(MatrixScorer(np.zeros(dataset.training.shape)))["ndcg@10"] == 0.0
    perfect = MatrixScorer(dataset.training.validation.matrix().toarray())
    assert validator(perfect) == {"hr@10": 1.0, "ndcg@10": 1.0}


def test_validator_names_its_faults(dataset: Dataset) -> None:
    training = make_dataset(2, 2, purchases=[(0, 0)], test=[(0, 1)]).training
    with pytest.raises(UsageError, match="no validation pairs to evaluate on; prepare"):
        RankingValidator(training)
    with pytest.raises(UsageError, match="written NAME@K, for example ndcg@10, got 'ndcg'"):
        RankingValidator(dataset.training, "ndcg")
    with pytest.raises(UsageError, match="would hide the very pairs"):
        RankingValidator(dataset.training, mask=["validation"])


def test_helpers_hold_what_the_tests_assume(dataset: Dataset) -> None:
    # Users with several, one and no test item, and both kinds of pairs among them.
    assert set(dataset.test.user_degrees.tolist()) == {0, 1, 2}
    touched = dataset.training.touched.contains(dataset.test.users, dataset.test.items)
    assert 0 < touched.sum() < touched.size
    assert pairs_of([], 2, 2).nnz == 0


def test_a_model_fitted_on_other_data_is_refused(tiny_dataset: Dataset) -> None:
    refitted = tiny_dataset.with_validation_in_training()
    model = create_model("conversion", device="cpu").fit(refitted)
    with pytest.raises(UsageError, match="fitted on other training data"):
        evaluate(model, tiny_dataset, split="validation")
    assert evaluate(model, refitted).protocol.refit


def test_the_protocol_takes_what_the_model_says_of_itself(tiny_dataset: Dataset) -> None:
    model = create_model("conversion", smoothing=3.0, seed=8, device="cpu").fit(tiny_dataset)
    protocol = evaluate(model, tiny_dataset).protocol
    assert (protocol.model, protocol.seed) == ("conversion", 8)
    assert protocol.settings == {"smoothing": 3.0, "combine": "noisy-or"}
    assert evaluate(model, tiny_dataset, model="mine").protocol.model == "mine"


def test_ties_hold_in_blocks_of_every_size(tiny_dataset: Dataset) -> None:
    class Twins:
        """Products in which every item has a twin with the same embedding."""

        n_users, n_items = 60, 40

        def __init__(self) -> None:
            generator = torch.Generator().manual_seed(2)
            self._users = torch.randn(60, 64, generator=generator)
            self._items = torch.randn(20, 64, generator=generator).repeat_interleave(2, dim=0)

        def score(self, users: Any) -> torch.Tensor:
            return self._users[torch.as_tensor(users)] @ self._items.T

    results = [
        evaluate(Twins(), tiny_dataset, score_budget=budget).per_user
        for budget in (1, 40, 80, 120, 59 * 40, 2**20)
    ]
    assert all(result.equals(results[0]) for result in results[1:])


def test_no_list_is_longer_than_the_catalogue(monkeypatch: pytest.MonkeyPatch) -> None:
    data = make_dataset(2, 4, purchases=[(0, 0), (1, 0), (0, 1), (1, 2)], test=[(0, 2), (1, 3)])
    scorer = MatrixScorer([[9, 8, 1, 0], [9, 2, 8, 3]])
    evaluation = sys.modules["funnelrec.evaluation.evaluate"]
    plain, asked = vars(evaluation)["block_top_k"], list[int]()

    def watched(block: Any, users: Any, k: int, removed: Any) -> Any:
        asked.append(k)
        return plain(block, users, k, removed)

    monkeypatch.setattr(evaluation, "block_top_k", watched)
    whole = evaluate(scorer, data, k=4).slices["overall"]
    more = evaluate(scorer, data, k=10**9).slices["overall"]
    assert asked == [4, 4]
    for name in ("coverage", "gini", "novelty", "popularity_lift"):
        assert more[f"{name}@{10**9}"] == whole[f"{name}@4"]
