from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from fold_helpers import log_of
from model_oracles import dense
from safetensors.torch import load_file, save_file

from funnelrec.common.errors import CapabilityError, DataError, UsageError
from funnelrec.data.dataset import Dataset, TrainingData
from funnelrec.data.interactions import Interactions
from funnelrec.models import Recommender, create_model
from funnelrec.models.ials import IALS
from funnelrec.models.lightgcn import LightGCN
from funnelrec.models.propagated import OWN_LENGTH

Make = Callable[..., Dataset]

TINY = {"dim": 8, "epochs": 3, "batch_size": 64}
GRAPH: list[tuple[str, dict[str, Any]]] = [
    ("lightgcn", {**TINY, "layers": 0}),
    ("lightgcn", {**TINY, "layers": 1}),
    ("lightgcn", {**TINY, "layers": 3}),
    ("simgcl", {**TINY, "layers": 2}),
    ("rmbrec", {**TINY}),
    ("rmbrec", {**TINY, "combine": "mean", "normalize_layers": False}),
    ("rmbrec", {**TINY, "combine": "last", "layers": 2}),
    ("rmbrec", {**TINY, "without": ["cart"], "layers": 0}),
]
COUNTED: list[tuple[str, dict[str, Any]]] = [
    ("popularity", {}),
    ("conversion", {}),
    ("conversion", {"combine": "sum"}),
    ("conversion", {"combine": "max"}),
    ("itemknn", {"neighbors": 5}),
    ("itemknn", {"weights": {"view": 0.0, "cart": 0.5}}),
    ("rp3beta", {"alpha": 0.7, "neighbors": 6}),
    ("ease", {"l2": 5.0, "own": 0.3}),
]
# What a history alone decides. Graph models know a training user by a row of layer 0, too, and give
# a new one a row of its own; in itemknn and ease a new user changes how its own items are alike.
BY_HISTORY_ALONE = [case for case in COUNTED if case[0] not in ("itemknn", "ease")]


def name_of(value: object) -> str:
    return value if isinstance(value, str) else "-".join(f"{k}={v}" for k, v in value.items())  # type: ignore[attr-defined]


def fitted(name: str, settings: dict[str, Any], dataset: Dataset) -> Recommender[Any]:
    return create_model(name, device="cpu", seed=3, **settings).fit(dataset)


def rows_of(folded: Any, data: TrainingData) -> list[int]:
    numbers: list[int] = data.user_ids.encode(folded.histories.user_ids).tolist()
    return numbers


@pytest.mark.parametrize(("name", "settings"), [*GRAPH, *COUNTED], ids=name_of)
def test_a_users_own_history_gives_the_trained_scores(
    tiny_dataset: Dataset, name: str, settings: dict[str, Any]
) -> None:
    model, data = fitted(name, settings, tiny_dataset), tiny_dataset.training
    folded = model.fold_in(log_of(data, list(range(1, data.n_users))))
    numbers = rows_of(folded, data)
    assert sorted(numbers) == list(range(1, data.n_users))
    found = folded.score(np.arange(len(numbers)))
    torch.testing.assert_close(found, model.score(numbers), rtol=1e-5, atol=1e-6)
    if name != "popularity":
        # Something of another user would not do.
        assert not torch.allclose(found, found.roll(1, 0), atol=1e-3)


@pytest.mark.parametrize(("name", "settings"), [*GRAPH, *COUNTED], ids=name_of)
def test_of_a_known_user_a_part_is_enough_and_new_events_count(
    tiny_dataset: Dataset, name: str, settings: dict[str, Any]
) -> None:
    model, data = fitted(name, settings, tiny_dataset), tiny_dataset.training
    whole = log_of(data, [7])
    wanted = model.score([7])
    part = model.fold_in(whole.head(1))
    torch.testing.assert_close(part.score([0]), wanted, rtol=1e-5, atol=1e-6)
    new = next(i for i in range(data.n_items) if not data.seen.contains([7], [i])[0])
    events = [("u7", data.item_ids.values[new], behavior) for behavior in data.behaviors]
    later = pl.DataFrame(events, schema=whole.schema, orient="row")
    more = model.fold_in(later).score([0])
    # The same as all of the log and the new events.
    both = model.fold_in(pl.concat([later, whole, later])).score([0])
    torch.testing.assert_close(more, both, rtol=1e-6, atol=1e-7)
    changes = name != "popularity" and settings.get("layers") != 0
    assert torch.allclose(more, wanted, atol=1e-4) is not changes


@pytest.mark.parametrize(("name", "settings"), BY_HISTORY_ALONE, ids=name_of)
def test_a_new_user_with_the_history_of_a_known_one_has_its_scores(
    tiny_dataset: Dataset, name: str, settings: dict[str, Any]
) -> None:
    model, data = fitted(name, settings, tiny_dataset), tiny_dataset.training
    users = list(range(4, 20))
    folded = model.fold_in(log_of(data, users, lambda user: f"new {user}"))
    assert (folded.histories.known == -1).all()
    order = [int(user.removeprefix("new u")) for user in folded.histories.user_ids]
    torch.testing.assert_close(
        folded.score(np.arange(len(users))), model.score(order), rtol=1e-5, atol=1e-6
    )


def dense_new_user(
    model: Recommender[Any],
    data: TrainingData,
    history: Interactions,
    name: str,
    own: torch.Tensor,
    *,
    joins: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the view of one new user, and how far it moves each item, from dense float64."""
    state, config = model._state(), model.config
    users, items = state["ego_users"].double(), state["ego_items"].double()
    matrix = dense(data.interactions[name])
    of_users, of_items = matrix.sum(1).clamp_min(1), matrix.sum(0)
    matrix = matrix / (of_users[:, None] * of_items.clamp_min(1)[None, :]).sqrt()
    bought = dense(history)[0]
    now = (of_items + joins).clamp_min(1)
    weights = bought / (bought.sum().clamp_min(1) * now).sqrt()

    def unit(rows: torch.Tensor) -> torch.Tensor:
        length = rows.norm(dim=-1, keepdim=True).clamp_min(1e-300)
        return rows / length if getattr(config, "normalize_layers", False) else rows

    mine, seen, moves = [own], items, [torch.zeros_like(items)]
    for _ in range(config.layers):
        users, items, raw = unit(matrix @ items), matrix.T @ users, matrix.T @ users
        items = unit(items)
        heard = raw * (of_items / now).sqrt()[:, None] + joins * weights[:, None] * mine[-1]
        mine.append(unit(weights @ seen))
        seen = unit(heard)
        moves.append((seen - items) * bought[:, None] * joins)
    stack, moved = torch.stack(mine), torch.stack(moves)
    combine = getattr(config, "combine", "mean")
    if model.name == "simgcl":
        return stack[1:].mean(0), moved[1:].mean(0)
    if combine == "last":
        return stack[-1], moved[-1]
    if combine == "sum":
        return stack.sum(0), moved.sum(0)
    return stack.mean(0), moved.mean(0)


@pytest.mark.parametrize(("name", "settings"), GRAPH[1:-1], ids=name_of)
def test_a_new_user_is_propagated_against_the_items_as_they_stand(
    tiny_dataset: Dataset, name: str, settings: dict[str, Any]
) -> None:
    model, data = fitted(name, settings, tiny_dataset), tiny_dataset.training
    # Item 39 has no event in training, and is a known item nevertheless.
    items = [3, 6, 9, 39]
    log = pl.DataFrame(
        [
            ("new", data.item_ids.values[item], behavior)
            for item in items
            for behavior in ("view", "purchase")
        ],
        schema=["user_id", "item_id", "behavior"],
        orient="row",
    )
    folded = model.fold_in(log)
    behaviors = data.behaviors if name == "rmbrec" else (data.target,)

    def view(own: torch.Tensor, *, joins: bool) -> tuple[torch.Tensor, torch.Tensor]:
        done = folded.histories.interactions
        made = [
            dense_new_user(model, data, done[behavior], behavior, own, joins=joins)
            for behavior in behaviors
        ]
        user, moved = (torch.stack(part).mean(0) for part in zip(*made, strict=True))
        return user, moved

    state = model._state()
    nothing = torch.zeros(state["ego_users"].shape[1], dtype=torch.float64)
    user, moved = view(nothing, joins=False)
    assert not moved.any()
    # Layer 0 of a stranger points where the rest of it points.
    usual = state["ego_users"].double().norm(dim=1).median()
    user, moved = view(OWN_LENGTH * usual * user / user.norm(), joins=True)
    wanted = (state["items"].double() + moved) @ user
    assert wanted.abs().max() > 1e-4
    found = folded.score([0])[0].double()
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-6)


def test_ials_solves_the_ridge_regression_of_the_user(tiny_dataset: Dataset) -> None:
    pytest.importorskip("implicit")
    settings = {"dim": 4, "alpha": 3.0, "l2": 0.7, "weights": {"view": 0.5}}
    model, data = fitted("ials", settings, tiny_dataset), tiny_dataset.training
    assert isinstance(model, IALS)
    users = list(range(1, data.n_users))
    folded = model.fold_in(log_of(data, users))
    numbers = rows_of(folded, data)
    items = model.embeddings()[1].double()
    weight = {"view": 0.5, "cart": 1.0, "purchase": 1.0}
    done = sum(weight[name] * dense(part) for name, part in data.interactions.items())
    assert isinstance(done, torch.Tensor)
    wanted = torch.empty(len(users), 4, dtype=torch.float64)
    for row, user in enumerate(numbers):
        confidence = 1 + 3.0 * done[user]
        left = items.T @ torch.diag(confidence) @ items + 0.7 * torch.eye(4, dtype=torch.float64)
        right = items.T @ (confidence * (done[user] > 0))
        wanted[row] = torch.linalg.inv(left) @ right
    found = model.folded_users(folded.histories)
    torch.testing.assert_close(found.double(), wanted, rtol=1e-4, atol=1e-5)
    # Training stops before the items' last step is answered, and comes near.
    trained = model.embeddings()[0][numbers]
    assert torch.cosine_similarity(found, trained).min() > 0.9


def test_a_new_user_of_a_taste_gets_items_of_that_taste(tiny_dataset: Dataset) -> None:
    settings = {"dim": 16, "epochs": 60, "learning_rate": 0.02, "layers": 2}
    model, data = fitted("lightgcn", settings, tiny_dataset), tiny_dataset.training
    bought = [
        (f"taste {taste}", 100 + taste + 3 * step, "purchase")
        for taste in range(3)
        for step in range(3)
    ]
    history = pl.DataFrame(bought, schema=["user_id", "item_id", "behavior"], orient="row")
    found = model.recommend(history=history, k=8)
    hits = (found["item_id"] - 100) % 3 == found["user_id"].str.tail(1).cast(pl.Int64)
    # By chance a third.
    assert hits.mean() > 0.8  # type: ignore[operator]
    pairs = set(found.select("user_id", "item_id").iter_rows())
    assert not pairs & {(user, item) for user, item, _ in bought}
    assert data.user_ids.encode(["taste 0"]).tolist() == [-1]


def history(*events: tuple[str, int, str]) -> pl.DataFrame:
    return pl.DataFrame(list(events), schema=["user_id", "item_id", "behavior"], orient="row")


def test_exclusions_follow_the_history_and_what_training_knows(make_dataset: Make) -> None:
    dataset = make_dataset(
        {"view": [(0, 0), (1, 4)], "purchase": [(0, 1), (1, 3), (2, 3), (3, 4), (3, 3)]},
        n_users=4,
        n_items=6,
        validation=[(0, 2)],
    )
    model = create_model("popularity").fit(dataset)
    log = history(("new", 103, "purchase"), ("new", 104, "view"), ("u0", 105, "purchase"))

    def listed(*exclude: str) -> dict[str, list[int]]:
        found = model.recommend(history=log, k=6, exclude=exclude)
        return {user: sorted(found.filter(user_id=user)["item_id"]) for user in ("new", "u0")}

    every = list(range(100, 106))
    assert listed() == {"new": every, "u0": every}
    assert listed("train-target") == {"new": [100, 101, 102, 104, 105], "u0": [100, 102, 103, 104]}
    assert listed("touched") == {"new": [100, 101, 102, 105], "u0": [102, 103, 104]}
    assert listed("train-target", "validation")["u0"] == [100, 103, 104]


class TestReports:
    @pytest.fixture
    def model(self, tiny_dataset: Dataset) -> LightGCN:
        model = create_model("lightgcn", device="cpu", **TINY).fit(tiny_dataset)
        assert isinstance(model, LightGCN)
        return model

    def test_unknown_items_are_refused_or_said(self, model: LightGCN) -> None:
        log = history(("a", 100, "purchase"), ("a", 999, "view"), ("b", 998, "purchase"))
        with pytest.raises(UsageError) as caught:
            model.recommend(history=log)
        assert str(caught.value) == (
            "2 events of the history are on 2 items that were not in the data set, for example "
            "[999, 998]; leave them out, or ask with unknown_items='skip'."
        )
        with pytest.warns(UserWarning, match="history") as seen:
            found = model.recommend(history=log, unknown_items="skip", k=3)
        said = sorted(str(warning.message) for warning in seen)
        assert said[0].startswith("1 user of the history has no event that lightgcn learns from")
        assert said[1].endswith("[999, 998]; left out.")
        # Nothing is known of b, who gets what is bought most.
        popular = create_model("popularity").fit(model.data)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            best = popular.recommend(history=log, unknown_items="skip", k=3, exclude=())
        assert found.filter(user_id="b").equals(best.filter(user_id="b"))
        lost = model.fold_in(log).histories.unknown_items
        assert lost.rows() == [("a", 999, "view"), ("b", 998, "purchase")]

    def test_what_the_model_does_not_read_leaves_a_new_user_cold(self, model: LightGCN) -> None:
        folded = model.fold_in(
            history(("a", 100, "view"), ("b", 100, "purchase"), ("u1", 100, "view"))
        )
        assert folded.cold.tolist() == [True, False, False]

    def test_mistakes(self, model: LightGCN) -> None:
        log = history(("a", 100, "purchase"))
        for arguments, message in (
            ({"history": log, "users": ["u1"]}, "users and history must not be given both"),
            ({"history": log, "unknown_items": "no"}, "unknown_items must be one of error, skip"),
            ({"history": log, "k": 0}, "k must be a whole number of at least 1"),
        ):
            with pytest.raises(UsageError, match=message):
                model.recommend(**arguments)  # type: ignore[arg-type]
        with pytest.raises(
            DataError, match=r"unknown behavior 'buy'\. Known: cart, purchase, view"
        ):
            model.recommend(history=history(("a", 100, "buy")))
        with pytest.raises(DataError, match="has no column 'behavior'"):
            model.recommend(history=log.drop("behavior"))

    @pytest.mark.parametrize("name", ["mf_bpr", "charm"])
    def test_a_model_that_cannot_says_so_before_any_work(
        self, tiny_dataset: Dataset, name: str
    ) -> None:
        class Unread:
            def __getattr__(self, name: str) -> Any:
                raise AssertionError(name)

        model = fitted(name, {"dim": 4, "epochs": 1}, tiny_dataset)
        for call in (model.fold_in, lambda log: model.recommend(history=log)):
            with pytest.raises(CapabilityError, match=f"{name} cannot recommend by a history: it "):
                call(Unread())

    def test_a_file_without_layer_0_scores_and_does_not_fold_in(
        self, model: LightGCN, tmp_path: Path
    ) -> None:
        path = model.save(tmp_path / "model.safetensors")
        restored = create_model("lightgcn", **TINY).restore(path, model.data)
        log = history(("a", 100, "purchase"), ("a", 103, "purchase"))
        assert restored.recommend(history=log).equals(model.recommend(history=log))
        from safetensors import safe_open

        with safe_open(path, framework="pt") as stored:
            metadata = stored.metadata()
        kept = {name: part for name, part in load_file(path).items() if "ego" not in name}
        save_file(kept, path, metadata=metadata)
        older = create_model("lightgcn", **TINY).restore(path, model.data)
        assert torch.equal(older.score([0, 5]), model.score([0, 5]))
        with pytest.raises(CapabilityError, match="stored without its layer 0"):
            older.recommend(history=log)


def test_one_user_or_many_in_one_call(tiny_dataset: Dataset) -> None:
    for name, settings in (GRAPH[2], GRAPH[4], COUNTED[1], COUNTED[4]):
        model = fitted(name, settings, tiny_dataset)
        log = log_of(tiny_dataset.training, list(range(4, 30)), lambda user: f"new {user}")
        folded = model.fold_in(log)
        block = folded.score(np.arange(folded.n_users))
        for row in (0, 7, 25):
            torch.testing.assert_close(folded.score([row])[0], block[row])
            alone = log.filter(user_id=folded.histories.user_ids[row]).sample(
                fraction=1.0, shuffle=True, seed=1
            )
            torch.testing.assert_close(
                model.fold_in(pl.concat([alone, alone])).score([0])[0], block[row]
            )
