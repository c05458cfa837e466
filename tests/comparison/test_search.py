from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from funnelrec.common import capacity
from funnelrec.common.errors import (
    CapabilityError,
    CapacityError,
    ConfigError,
    DataError,
    TrainingDivergedError,
    UsageError,
)
from funnelrec.comparison import search
from funnelrec.comparison.search import Search, Trial, tune
from funnelrec.data.dataset import Dataset, TrainingData
from funnelrec.data.sizes import Sizes
from funnelrec.evaluation.evaluate import evaluate
from funnelrec.models import create_model
from funnelrec.models.base import FitOptions
from funnelrec.models.itemknn import ItemKNN
from funnelrec.models.memory import training_need
from funnelrec.models.space import Choice, PerAuxiliary, Range, SearchSpace
from funnelrec.testing.datasets import planted_dataset

Make = Callable[..., Dataset]
# Few dimensions: the sampler's own cost grows with them.
SPACE: SearchSpace = {
    "shrinkage": Range(0.1, 100.0, log=True),
    "neighbors": Range(1, 40),
    "weights": PerAuxiliary(Range(0.01, 3.0, log=True)),
}


def found(data: Dataset | TrainingData, out: Path, trials: int = 3, **options: Any) -> Search:
    return tune("itemknn", data, out, **{"trials": trials, "space": SPACE, **options})


def told(result: Search) -> list[dict[str, Any]]:
    """Return what a second run must repeat."""
    return [trial.model_dump(exclude={"seconds"}) for trial in result.trials]


def test_every_trial_is_kept_with_what_it_reached(tiny_dataset: Dataset, tmp_path: Path) -> None:
    result = found(tiny_dataset, tmp_path / "search", seed=4, settings={"own": 0.5})
    lines = (tmp_path / "search" / "trials.jsonl").read_text().splitlines()
    assert [Trial.model_validate_json(line) for line in lines] == list(result.trials)
    first, *others = result.trials
    assert first.settings == ItemKNN(own=0.5).config.model_dump(mode="json")
    assert first.searched == {
        "shrinkage": 10.0,
        "neighbors": 200,
        "weights.view": 1.0,
        "weights.cart": 1.0,
    }
    for number, trial in enumerate(others, start=1):
        assert (trial.number, trial.seed, trial.settings["own"]) == (number, 4, 0.5)
        assert trial.settings["weights"] == {
            "view": trial.searched["weights.view"],
            "cart": trial.searched["weights.cart"],
        }
        assert 0.01 <= trial.settings["weights"]["view"] <= 3
        assert trial.settings["neighbors"] in range(1, 41)
    # Whoever trains with the settings of a trial gets its figures.
    for trial in result.trials:
        model = create_model("itemknn", config=trial.settings, seed=trial.seed).fit(tiny_dataset)
        slices = evaluate(model, tiny_dataset, split="validation").slices
        for part, values in trial.metrics.items():
            assert values == {m: pytest.approx(slices[part][m]) for m in ("hr@10", "ndcg@10")}
        assert trial.value == trial.metrics["overall"]["ndcg@10"]


def test_the_best_is_the_first_of_the_largest(tiny_dataset: Dataset, tmp_path: Path) -> None:
    result = found(tiny_dataset, tmp_path, trials=1)
    values = (0.2, None, 0.4, 0.4, 0.1)
    trials = [
        result.trials[0].model_copy(update={"number": number, "value": value})
        for number, value in enumerate(values)
    ]
    assert Search("itemknn", "ndcg@10", "overall", tuple(trials), tmp_path).best.number == 2


def test_a_search_finds_what_defaults_miss(tmp_path: Path) -> None:
    # A fifth behavior that is noise and outweighs the rest by its sheer number of pairs.
    planted = planted_dataset()
    training = planted.training
    rng = np.random.default_rng(1)
    pairs = rng.integers(0, [training.n_users, training.n_items], (4000, 2))
    noise = type(training.purchases).from_pairs(
        pairs[:, 0], pairs[:, 1], n_users=training.n_users, n_items=training.n_items
    )
    noisy = TrainingData(
        behaviors=("noise", *training.behaviors),
        target=training.target,
        interactions={"noise": noise, **training.interactions},
        validation=training.validation,
        user_ids=training.user_ids,
        item_ids=training.item_ids,
    )
    space = {"weights": PerAuxiliary(Range(0.001, 2.0, log=True))}
    result = found(noisy, tmp_path, trials=12, space=space)
    assert result.best.value is not None
    assert result.trials[0].value is not None
    assert result.best.value > 1.5 * result.trials[0].value
    weights = result.best.settings["weights"]
    assert weights["noise"] < weights["view"]


def test_a_killed_search_goes_on_to_the_same_result(
    tiny_dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # More trials than are random: later ones depend on what was reached before.
    trials = search._STARTUP + 3
    whole = found(tiny_dataset, tmp_path / "whole", trials=trials)
    assert len({json.dumps(dict(trial.searched)) for trial in whole.trials}) == trials

    fitted: list[int] = []
    plain = ItemKNN._fit

    def counted(self: ItemKNN, data: TrainingData, options: FitOptions) -> None:
        if len(fitted) == search._STARTUP + 1:
            raise KeyboardInterrupt
        fitted.append(self.config.neighbors)
        plain(self, data, options)

    monkeypatch.setattr(ItemKNN, "_fit", counted)
    with pytest.raises(KeyboardInterrupt):
        found(tiny_dataset, tmp_path / "killed", trials=trials)
    # A line that was being written when the power went.
    lines = tmp_path / "killed" / "trials.jsonl"
    with lines.open("ab") as file:
        file.write(b'{"number": 9, "sett')
    monkeypatch.setattr(ItemKNN, "_fit", plain)
    resumed = found(tiny_dataset, tmp_path / "killed", trials=trials)
    assert told(resumed) == told(whole)
    assert [trial.settings["neighbors"] for trial in resumed.trials[: len(fitted)]] == fitted
    assert len(lines.read_text().splitlines()) == trials


def test_more_trials_go_on_from_fewer_and_none_is_repeated(
    tiny_dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = found(tiny_dataset, tmp_path / "whole", trials=4)
    found(tiny_dataset, tmp_path / "grown", trials=2)
    assert told(found(tiny_dataset, tmp_path / "grown", trials=4)) == told(whole)

    def never(*arguments: object) -> None:
        raise AssertionError("a finished search trains nothing")

    monkeypatch.setattr(ItemKNN, "_fit", never)
    assert told(found(tiny_dataset, tmp_path / "grown", trials=3)) == told(whole)


def test_another_seed_tries_other_settings(tiny_dataset: Dataset, tmp_path: Path) -> None:
    one, two = (told(found(tiny_dataset, tmp_path / f"{seed}", 2, seed=seed)) for seed in (0, 1))
    assert one[0]["searched"] == two[0]["searched"]
    assert one[1]["searched"] != two[1]["searched"]


def test_test_pairs_are_never_seen(tiny_dataset: Dataset, tmp_path: Path) -> None:
    class Sealed(Dataset):
        def __post_init__(self) -> None:
            """Accept anything as test pairs."""

        def __getattribute__(self, name: str) -> Any:
            if name in ("test", "held_out", "fingerprint", "with_validation_in_training"):
                raise AssertionError(f"Dataset.{name} was read")
            return super().__getattribute__(name)

    sealed = Sealed(tiny_dataset.training, tiny_dataset.test, tiny_dataset.manifest)
    by_dataset = found(sealed, tmp_path / "dataset")
    assert told(by_dataset) == told(found(tiny_dataset.training, tmp_path / "training"))


def test_a_slice_and_a_metric_are_searched_for(tiny_dataset: Dataset, tmp_path: Path) -> None:
    result = found(tiny_dataset, tmp_path, metric="recall@5", slice_name="conversion")
    assert [trial.value for trial in result.trials] == [
        trial.metrics["conversion"]["recall@5"] for trial in result.trials
    ]
    assert set(result.trials[0].metrics["overall"]) == {"hr@5", "ndcg@5", "recall@5"}


def test_what_fails_is_a_trial_and_the_search_goes_on(
    tiny_dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = ItemKNN._fit
    broken = True

    def failing(self: ItemKNN, data: TrainingData, options: FitOptions) -> None:
        if self.config.neighbors != 200 or broken:
            raise TrainingDivergedError("the loss became NaN")
        plain(self, data, options)

    monkeypatch.setattr(ItemKNN, "_fit", failing)
    none = found(tiny_dataset, tmp_path / "none", trials=2)
    assert [trial.error for trial in none.trials] == ["the loss became NaN"] * 2
    with pytest.raises(UsageError, match="every trial of itemknn failed, the first with: the los"):
        _ = none.best
    broken = False
    some = found(tiny_dataset, tmp_path / "some", trials=search._STARTUP + 2)
    assert [trial.value is None for trial in some.trials] == [False] + [True] * 9
    assert some.best.number == 0


def test_a_trial_without_memory_for_it_fails_and_the_search_goes_on(
    tiny_dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"epochs": 1, "layers": 1}
    sizes = Sizes.of(tiny_dataset.training)
    small, large = (
        training_need(create_model("lightgcn", dim=dim, **settings), sizes, loaded=True).total
        for dim in (64, 2**20)
    )
    monkeypatch.setattr(capacity, "_machine", lambda: (small + large) // 2)
    options: dict[str, Any] = {"space": {"dim": Choice(8, 2**20)}, "device": "cpu"}
    result = tune(
        "lightgcn", tiny_dataset, tmp_path / "search", trials=8, settings=settings, **options
    )
    tried = {trial.searched["dim"] for trial in result.trials[1:]}
    assert tried == {8, 2**20}
    for trial in result.trials:
        assert (trial.value is None) == (trial.searched["dim"] == 2**20)
        assert trial.value is not None or "are free; set dim=524288 or less" in str(trial.error)
    # Settings that the search starts from must fit: nothing is begun otherwise.
    monkeypatch.setattr(capacity, "_machine", lambda: small - 1)
    with pytest.raises(CapacityError, match="training lightgcn on"):
        tune("lightgcn", tiny_dataset, tmp_path / "none", trials=2, settings=settings, **options)
    assert not (tmp_path / "none").exists()


def test_another_search_in_the_folder_is_refused(tiny_dataset: Dataset, tmp_path: Path) -> None:
    found(tiny_dataset, tmp_path, trials=1)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    others: list[tuple[Mapping[str, Any], str]] = [
        ({"seed": 1}, "seed"),
        ({"metric": "hr@10"}, "metric"),
        ({"slice_name": "conversion"}, "slice"),
        ({"settings": {"own": 0.0}}, "settings"),
        ({"space": {"neighbors": Range(1, 9)}}, "space"),
    ]
    for options, name in others:
        with pytest.raises(UsageError, match=rf"holds another search \({name} differ\)"):
            found(tiny_dataset, tmp_path, **options)
    with pytest.raises(UsageError, match=r"\(data, space differ\)"):
        found(tiny_dataset.training.without("cart"), tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_folder_with_other_files_is_no_place_for_a_search(
    tiny_dataset: Dataset, tmp_path: Path
) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(UsageError, match=r"holds other files \(no search\.json of funnelrec"):
        found(tiny_dataset, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_damaged_records_are_refused(tiny_dataset: Dataset, tmp_path: Path) -> None:
    found(tiny_dataset, tmp_path, trials=2)
    lines = tmp_path / "trials.jsonl"
    whole = lines.read_bytes()
    lines.write_bytes(b"".join(whole.splitlines(keepends=True)[1:]))
    with pytest.raises(DataError, match="line 1 holds the trial 1; lines were lost or added"):
        found(tiny_dataset, tmp_path)
    lines.write_bytes(b"{}\n" + whole)
    with pytest.raises(DataError, match="line 1 is no trial"):
        found(tiny_dataset, tmp_path)
    (tmp_path / "search.json").write_text("[]")
    with pytest.raises(DataError, match="is no record of a search"):
        found(tiny_dataset, tmp_path)


def test_mistakes_are_refused_before_anything_is_written(
    tiny_dataset: Dataset, make_dataset: Make, tmp_path: Path
) -> None:
    out = tmp_path / "search"
    with pytest.raises(UsageError, match="trials must be a whole number of at least 1, got 0"):
        found(tiny_dataset, out, trials=0)
    with pytest.raises(UsageError, match="unknown slice 'discover': did you mean 'discovery'"):
        found(tiny_dataset, out, slice_name="discover")
    with pytest.raises(UsageError, match="unknown metric"):
        found(tiny_dataset, out, metric="hitrate@10")
    with pytest.raises(UsageError, match=r"does not have: 'shrink': did you mean 'shrinkage'"):
        found(tiny_dataset, out, space={"shrink": Choice(1, 2)})
    with pytest.raises(UsageError, match=r"nothing to search for popularity \(it declares none"):
        tune("popularity", tiny_dataset, out, trials=1)
    with pytest.raises(UsageError, match=r"nothing to search for itemknn \(every setting of"):
        found(tiny_dataset, out, space={"own": Range(0.0, 1.0)}, settings={"own": 1.0})
    with pytest.raises(ConfigError, match="did you mean 'own'"):
        found(tiny_dataset, out, settings={"owm": 1.0})
    alone = make_dataset({"purchase": [(0, 0)]}, n_users=1, n_items=2, validation=[(0, 1)])
    with pytest.raises(CapabilityError, match="conversion learns from behaviors besides"):
        tune("conversion", alone, out, trials=1)
    with pytest.raises(UsageError, match="no validation pair is in the slice 'conversion'"):
        tune("itemknn", alone, out, trials=1, slice_name="conversion")
    refitted = tiny_dataset.with_validation_in_training()
    with pytest.raises(UsageError, match="a search needs validation pairs"):
        found(refitted, out)
    assert not out.exists()


def test_the_models_own_settings_may_lie_outside(tiny_dataset: Dataset, tmp_path: Path) -> None:
    space = {"neighbors": Range(1, 8), "own": Range(2.0, 3.0)}
    result = found(tiny_dataset, tmp_path, trials=search._STARTUP + 2, space=space)
    assert dict(result.trials[0].searched) == {"neighbors": 200, "own": 1.0}
    assert all(2 <= trial.settings["own"] <= 3 for trial in result.trials[1:])


def test_epochs_of_gradient_models_are_told(tiny_dataset: Dataset, tmp_path: Path) -> None:
    settings = {"dim": 4, "epochs": 2, "batch_size": 64}
    result = tune("mf_bpr", tiny_dataset, tmp_path, trials=2, settings=settings, device="cpu")
    assert all(trial.epochs in (1, 2) for trial in result.trials)
    assert result.trials[1].settings["learning_rate"] != result.trials[0].settings["learning_rate"]
