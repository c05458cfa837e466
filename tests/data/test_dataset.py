from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from funnelrec.common.errors import DataError, UsageError
from funnelrec.data import dataset as dataset_module
from funnelrec.data.dataset import Dataset, IdMap, TrainingData
from funnelrec.data.interactions import Interactions

Make = Callable[..., Dataset]

BEHAVIORS = {
    "view": [(0, 0), (0, 1), (1, 2), (2, 0)],
    "cart": [(0, 1), (2, 2)],
    "purchase": [(0, 1), (1, 0), (2, 3)],
}


@pytest.fixture
def dataset(make_dataset: Make) -> Dataset:
    return make_dataset(
        BEHAVIORS,
        n_users=4,
        n_items=5,
        validation=[(0, 2)],
        test=[(0, 3), (2, 4)],
        recent={"view": [(0, 4)]},
        dated=True,
    )


def arrays(part: Interactions) -> list[Any]:
    return [
        None if array is None else array.tolist()
        for array in (part.indptr, part.indices, part.counts, part.first, part.last)
    ]


class TestIdMap:
    def test_encode_and_decode_are_inverse(self) -> None:
        ids = IdMap(pl.Series(["ann", "bob", "cid"]))
        assert len(ids) == 3
        assert ids.encode(["cid", "ann", "cid"]).tolist() == [2, 0, 2]
        assert ids.decode([2, 0]).to_list() == ["cid", "ann"]

    @pytest.mark.parametrize(
        ("known", "asked", "numbers"),
        [
            ([10, 20], ["20", "x", "20.0"], [1, -1, -1]),
            ([10, 20], [10.0, 10.5], [0, -1]),
            ([10, 20], [None, 20], [-1, 1]),
            (["10", "20"], [20, 30], [1, -1]),
            (["10", "20"], [], []),
            ([10, 20], [], []),
        ],
    )
    def test_ids_of_another_type_are_known_only_if_they_read_as_one(
        self, known: list[Any], asked: list[Any], numbers: list[int]
    ) -> None:
        assert IdMap(pl.Series(known)).encode(asked).tolist() == numbers

    @pytest.mark.parametrize(
        ("values", "message"),
        [
            (["a", None], "identifiers must not be null."),
            (["a", "a"], "identifiers must be distinct."),
            ([1.5, 2.5], "identifiers must be integers or strings, got Float64."),
        ],
    )
    def test_bad_identifiers_are_refused(self, values: list[Any], message: str) -> None:
        with pytest.raises(DataError) as caught:
            IdMap(pl.Series(values))
        assert str(caught.value) == message


class TestTrainingData:
    def test_derived_pairs(self, dataset: Dataset) -> None:
        training = dataset.training
        assert training.shape == (4, 5)
        assert training.auxiliary == ("view", "cart")
        assert training.purchases is training.interactions["purchase"]
        touched = {*BEHAVIORS["view"], *BEHAVIORS["cart"]}
        assert training.touched.keys.tolist() == sorted(u * 5 + i for u, i in touched)
        seen = {*touched, *BEHAVIORS["purchase"]}
        assert training.seen.keys.tolist() == sorted(u * 5 + i for u, i in seen)

    def test_the_order_of_behaviors_is_theirs_and_the_target_need_not_be_last(
        self, dataset: Dataset
    ) -> None:
        parts = dict(reversed(list(dataset.training.interactions.items())))
        training = replace(
            dataset.training,
            behaviors=("purchase", "cart", "view"),
            target="cart",
            interactions=parts,
        )
        assert list(training.interactions) == ["purchase", "cart", "view"]
        assert training.auxiliary == ("purchase", "view")
        assert training.chain == ("purchase", "view", "cart")

    def test_dates_are_there_only_if_every_behavior_is_dated(
        self, dataset: Dataset, make_dataset: Make
    ) -> None:
        assert dataset.training.has_timestamps
        undated = make_dataset(BEHAVIORS, n_users=4, n_items=5).training
        assert not undated.has_timestamps
        mixed = {**dataset.training.interactions, "cart": undated.interactions["cart"]}
        assert not replace(dataset.training, interactions=mixed).has_timestamps

    def test_without_removes_a_behavior_everywhere(self, dataset: Dataset) -> None:
        training = dataset.training.without("view")
        assert training.behaviors == ("cart", "purchase")
        assert list(training.interactions) == ["cart", "purchase"]
        assert not training.recent
        assert training.touched.nnz == 2
        assert training.shape == dataset.training.shape
        assert dataset.training.without("view", "cart").auxiliary == ()
        assert dataset.training.without().fingerprint == dataset.training.fingerprint

    @pytest.mark.parametrize(
        ("name", "message"),
        [
            (
                "vew",
                "unknown behavior 'vew': did you mean 'view'? Known: cart, purchase, view.",
            ),
            ("purchase", "the target behavior 'purchase' cannot be left out."),
        ],
    )
    def test_without_refuses(self, dataset: Dataset, name: str, message: str) -> None:
        with pytest.raises(DataError) as caught:
            dataset.training.without(name)
        assert str(caught.value) == message

    def test_with_validation_adds_held_out_purchases_and_what_came_after(
        self, dataset: Dataset
    ) -> None:
        refit = dataset.training.with_validation()
        assert refit.purchases.row(0).tolist() == [1, 2]
        assert refit.interactions["view"].row(0).tolist() == [0, 1, 4]
        assert arrays(refit.interactions["cart"]) == arrays(dataset.training.interactions["cart"])
        assert refit.validation.nnz == 0
        assert not refit.recent
        assert refit.has_timestamps
        assert dataset.training.validation.nnz == 1

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (
                {"target": "buy"},
                "target behavior 'buy' is not among the behaviors. Known: cart, purchase, view.",
            ),
            (
                {"behaviors": ("view", "purchase")},
                "interactions must hold exactly the behaviors ['view', 'purchase'], "
                "got ['view', 'cart', 'purchase'].",
            ),
            (
                {"validation": Interactions.empty(4, 6)},
                "every matrix must have shape (4, 5), got (4, 6).",
            ),
            (
                {"recent": {"view": Interactions.empty(3, 5)}},
                "every matrix must have shape (4, 5), got (3, 5).",
            ),
        ],
    )
    def test_parts_that_do_not_fit_are_refused(
        self, dataset: Dataset, change: dict[str, Any], message: str
    ) -> None:
        with pytest.raises(DataError) as caught:
            replace(dataset.training, **change)
        assert str(caught.value) == message


class TestImmutability:
    def test_nothing_can_be_assigned_or_written(self, dataset: Dataset) -> None:
        with pytest.raises(AttributeError):
            dataset.test = dataset.training.validation  # type: ignore[misc]  # what is tested
        with pytest.raises(AttributeError):
            dataset.training.target = "view"  # type: ignore[misc]  # what is tested
        with pytest.raises(TypeError):
            dataset.training.interactions["view"] = dataset.test  # type: ignore[index]  # same
        with pytest.raises(TypeError):
            dataset.training.recent["cart"] = dataset.test  # type: ignore[index]  # same
        for part in (*dataset.training.interactions.values(), dataset.test):
            assert not part.indices.flags.writeable

    def test_the_mapping_given_is_copied(self, dataset: Dataset) -> None:
        given = dict(dataset.training.interactions)
        training = replace(dataset.training, interactions=given)
        given.clear()
        assert list(training.interactions) == ["view", "cart", "purchase"]

    def test_training_has_no_path_to_test_pairs(self, dataset: Dataset) -> None:
        seen: list[Any] = []
        waiting: list[Any] = [dataset.training]
        while waiting:
            thing = waiting.pop()
            if any(thing is known for known in seen):
                continue
            seen.append(thing)
            if isinstance(thing, np.ndarray | pl.Series | str | int | None):
                continue
            if hasattr(thing, "values") and hasattr(thing, "keys") and callable(thing.keys):
                waiting += thing.values()
            elif isinstance(thing, tuple):
                waiting += thing
            else:
                waiting += vars(thing).values()
        assert any(thing is dataset.training.validation for thing in seen)
        assert not any(thing is dataset or thing is dataset.test for thing in seen)


class TestFingerprint:
    def test_it_does_not_depend_on_the_order_of_rows(self, make_dataset: Make) -> None:
        reversed_rows = {name: list(reversed(pairs)) for name, pairs in BEHAVIORS.items()}
        one = make_dataset(BEHAVIORS, n_users=4, n_items=5, test=[(0, 3), (2, 4)])
        other = make_dataset(reversed_rows, n_users=4, n_items=5, test=[(2, 4), (0, 3)])
        assert one.fingerprint == other.fingerprint

    def test_it_does_not_depend_on_the_manifest(self, dataset: Dataset) -> None:
        renamed = replace(dataset, manifest=dataset.manifest.model_copy(update={"name": "other"}))
        assert renamed.fingerprint == dataset.fingerprint

    def test_every_change_that_could_change_a_result_changes_it(
        self, dataset: Dataset, make_dataset: Make
    ) -> None:
        training = dataset.training
        view = training.interactions["view"]
        assert view.first is not None
        assert view.last is not None
        more = [*BEHAVIORS["view"], (3, 3)]

        def with_view(part: Interactions) -> TrainingData:
            return replace(training, interactions={**training.interactions, "view": part})

        names = [f"u{user}" for user in range(4)]
        swapped_ids = IdMap(pl.Series([names[1], names[0], *names[2:]]))
        variants = {
            "pair": with_view(make_dataset({"v": more}, n_users=4, n_items=5).training.purchases),
            "count": with_view(replace(view, counts=view.counts + 1)),
            "first": with_view(replace(view, first=view.first - 1)),
            "last": with_view(replace(view, last=view.last + 1)),
            "undated": with_view(replace(view, first=None, last=None)),
            "validation": replace(training, validation=Interactions.empty(4, 5)),
            "recent": replace(training, recent={}),
            "the behavior of recent": replace(training, recent={"cart": training.recent["view"]}),
            "target": replace(training, target="cart"),
            "order": replace(training, behaviors=("cart", "view", "purchase")),
            "user ids": replace(training, user_ids=swapped_ids),
            "item ids": replace(training, item_ids=IdMap(pl.Series(range(5)))),
            "id type": replace(training, item_ids=IdMap(pl.Series([str(i) for i in range(5)]))),
            "without": training.without("view"),
        }
        fingerprints = {training.fingerprint, *(part.fingerprint for part in variants.values())}
        assert len(fingerprints) == len(variants) + 1

    def test_swapping_two_behaviors_pairs_changes_it(self, make_dataset: Make) -> None:
        swapped = {**BEHAVIORS, "view": BEHAVIORS["cart"], "cart": BEHAVIORS["view"]}
        one = make_dataset(BEHAVIORS, n_users=4, n_items=5)
        other = make_dataset(swapped, n_users=4, n_items=5)
        assert one.fingerprint != other.fingerprint

    def test_boundaries_between_words_count(self, make_dataset: Make) -> None:
        base = make_dataset(BEHAVIORS, n_users=4, n_items=5).training
        one = replace(base, user_ids=IdMap(pl.Series(["ab", "c", "d", "e"])))
        other = replace(base, user_ids=IdMap(pl.Series(["a", "bc", "d", "e"])))
        assert one.fingerprint != other.fingerprint

    def test_test_pairs_are_part_of_the_data_set_but_not_of_training(
        self, dataset: Dataset
    ) -> None:
        other = replace(dataset, test=Interactions.empty(4, 5))
        assert other.fingerprint != dataset.fingerprint
        assert other.training.fingerprint == dataset.training.fingerprint


class TestDataset:
    def test_what_it_says_of_itself(self, dataset: Dataset) -> None:
        assert dataset.behaviors == ("view", "cart", "purchase")
        assert (dataset.target, dataset.n_users, dataset.n_items) == ("purchase", 4, 5)
        assert dataset.held_out("test") is dataset.test
        assert dataset.held_out("validation") is dataset.training.validation

    def test_refitting_is_recorded_and_keeps_the_test_pairs(self, dataset: Dataset) -> None:
        refit = dataset.with_validation_in_training()
        assert refit.manifest.split.refitted
        assert not dataset.manifest.split.refitted
        assert refit.test is dataset.test
        assert refit.training.purchases.nnz == dataset.training.purchases.nnz + 1

    def test_test_pairs_of_another_shape_are_refused(self, dataset: Dataset) -> None:
        with pytest.raises(DataError, match=r"test must have shape \(4, 5\), got \(4, 4\)."):
            replace(dataset, test=Interactions.empty(4, 4))


class TestStorage:
    def test_a_round_trip_loses_nothing(self, dataset: Dataset, tmp_path: Path) -> None:
        path = dataset.save(tmp_path / "data")
        loaded = Dataset.load(path)
        assert loaded.fingerprint == dataset.fingerprint
        assert loaded.manifest == dataset.manifest
        assert loaded.behaviors == dataset.behaviors
        assert loaded.target == dataset.target
        assert loaded.training.user_ids.values.equals(dataset.training.user_ids.values)
        assert loaded.training.item_ids.values.equals(dataset.training.item_ids.values)
        assert arrays(loaded.test) == arrays(dataset.test)
        assert arrays(loaded.training.validation) == arrays(dataset.training.validation)
        for name in dataset.behaviors:
            mine, theirs = loaded.training.interactions[name], dataset.training.interactions[name]
            assert arrays(mine) == arrays(theirs)
            assert not mine.indices.flags.writeable
        assert list(loaded.training.recent) == ["view"]
        assert arrays(loaded.training.recent["view"]) == arrays(dataset.training.recent["view"])

    def test_undated_data_empty_parts_and_odd_names_survive(
        self, make_dataset: Make, tmp_path: Path
    ) -> None:
        behaviors = {"add/to cart?": [], "köpa": [(0, 0)]}
        dataset = make_dataset(behaviors, n_users=1, n_items=2)
        loaded = Dataset.load(dataset.save(tmp_path / "data"))
        assert loaded.behaviors == ("add/to cart?", "köpa")
        assert loaded.training.interactions["add/to cart?"].nnz == 0
        assert not loaded.training.has_timestamps
        assert loaded.fingerprint == dataset.fingerprint

    def test_saving_again_replaces_the_old_one(
        self, dataset: Dataset, make_dataset: Make, tmp_path: Path
    ) -> None:
        path = dataset.save(tmp_path / "data")
        other = make_dataset({"purchase": [(0, 0)]}, n_users=1, n_items=1)
        other.save(path)
        assert Dataset.load(path).fingerprint == other.fingerprint
        assert not (path / "behavior-1.safetensors").exists()

    def test_it_is_printed_in_short(self, dataset: Dataset) -> None:
        assert repr(dataset.training) == (
            "TrainingData(4 users, 5 items; training pairs: view 4, cart 2, purchase 3; "
            f"validation {dataset.training.validation.nnz})"
        )
        assert repr(dataset).endswith(f", test {dataset.test.nnz} of 'purchase')")
        assert repr(dataset.training.purchases) == "Interactions(3 pairs, 4 x 5, dated)"

    @pytest.mark.skipif(sys.platform == "win32", reason="no such permissions")
    def test_every_file_follows_the_umask(self, dataset: Dataset, tmp_path: Path) -> None:
        before = os.umask(0o027)
        try:
            path = dataset.save(tmp_path / "data")
        finally:
            os.umask(before)
        assert {part.name: part.stat().st_mode & 0o777 for part in path.iterdir()} == {
            part.name: 0o640 for part in path.iterdir()
        }

    def test_a_folder_with_other_files_is_not_overwritten(
        self, dataset: Dataset, tmp_path: Path
    ) -> None:
        (tmp_path / "thesis.tex").touch()
        with pytest.raises(
            UsageError, match=r"holds other files \(no manifest.json of funnelrec in it\)"
        ):
            dataset.save(tmp_path)
        assert [part.name for part in tmp_path.iterdir()] == ["thesis.tex"]

    def test_a_folder_that_is_no_data_set_says_how_to_make_one(self, tmp_path: Path) -> None:
        with pytest.raises(DataError) as caught:
            Dataset.load(tmp_path)
        assert str(caught.value) == (
            f"{tmp_path} is no prepared data set (no manifest.json in it); "
            "make one with: funnelrec prepare EVENTS --out DATASET"
        )

    @pytest.mark.parametrize("value", ["[]", "{}", '{"schema_version": "one"}'])
    def test_a_foreign_manifest_is_refused(self, tmp_path: Path, value: str) -> None:
        (tmp_path / "manifest.json").write_text(value)
        with pytest.raises(DataError, match="is not the manifest of a data set"):
            Dataset.load(tmp_path)

    def test_a_newer_schema_asks_for_an_upgrade(self, dataset: Dataset, tmp_path: Path) -> None:
        path = dataset.save(tmp_path / "data")
        edit(path, schema_version=2, unheard_of=True)
        with pytest.raises(DataError) as caught:
            Dataset.load(path)
        assert str(caught.value) == (
            f"{path} was written with schema 2, this funnelrec reads up to 1; upgrade funnelrec."
        )

    @pytest.mark.parametrize(
        "name",
        ["users.parquet", "behavior-0.safetensors", "recent-0.safetensors", "test.safetensors"],
    )
    @pytest.mark.parametrize("damage", ["missing", "truncated", "empty", "noise"])
    def test_a_damaged_file_is_reported(
        self, dataset: Dataset, tmp_path: Path, name: str, damage: str
    ) -> None:
        path = dataset.save(tmp_path / "data")
        content = (path / name).read_bytes()
        if damage == "missing":
            (path / name).unlink()
        else:
            half = content[: len(content) // 2]
            harm = {"truncated": half, "empty": b"", "noise": b"\x01" * len(content)}
            (path / name).write_bytes(harm[damage])
        with pytest.raises(DataError, match=r"the data set .* is damaged: .*Prepare it again\."):
            Dataset.load(path)

    def test_a_changed_value_is_noticed(self, dataset: Dataset, tmp_path: Path) -> None:
        path = dataset.save(tmp_path / "data")
        file = path / "behavior-0.safetensors"
        content = bytearray(file.read_bytes())
        content[-1] ^= 1
        file.write_bytes(bytes(content))
        with pytest.raises(DataError, match="its content does not match the fingerprint"):
            Dataset.load(path)

    @pytest.mark.parametrize(
        "change",
        [
            {"users": 3},
            {"users": None},
            {"items": "many"},
            {"behaviors": ["view", "purchase"]},
            {"behaviors": 5},
            {"target": "other"},
            {"rows": {}},
            {"rows": None},
            {"split": {}},
            {"fingerprint": "0"},
            {"unheard_of": True},
        ],
    )
    def test_an_edited_manifest_is_noticed(
        self, dataset: Dataset, tmp_path: Path, change: dict[str, Any]
    ) -> None:
        path = dataset.save(tmp_path / "data")
        edit(path, **change)
        with pytest.raises(DataError, match=r"the data set .* is damaged"):
            Dataset.load(path)

    def test_no_file_of_it_is_a_pickle(self, dataset: Dataset, tmp_path: Path) -> None:
        path = dataset.save(tmp_path / "data")
        assert {part.suffix for part in path.iterdir()} == {".json", ".parquet", ".safetensors"}


def edit(path: Path, **change: Any) -> None:
    manifest = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps({**manifest, **change}))


@given(
    known=st.one_of(
        st.lists(st.integers(-(2**63), 2**63 - 1), unique=True, max_size=30),
        st.lists(st.text(max_size=3), unique=True, max_size=30),
    ),
    others=st.lists(st.one_of(st.none(), st.integers(-5, 5)), max_size=10),
    limit=st.sampled_from([0, 10_000]),
)
def test_identifiers_are_found_by_search_as_by_a_join(
    known: list[int | str], others: list[int | None], limit: int
) -> None:
    textual = bool(known) and isinstance(known[0], str)
    values = pl.Series(known, dtype=pl.String if textual else pl.Int64)
    asked = [*known[::-1], *(str(o) if textual and o is not None else o for o in others)]
    numbers = {name: number for number, name in enumerate(known)}
    wanted = [-1 if name is None else numbers.get(name, -1) for name in asked]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dataset_module, "_FEW", limit)
        found = IdMap(values).encode(pl.Series(asked, dtype=values.dtype))
    assert found.tolist() == wanted


def test_identifiers_count_only_as_they_are_written() -> None:
    numbers = IdMap(pl.Series([1, 7, 20]))
    assert numbers.encode(["7", "07", "+7", "7.0", " 7", "x"]).tolist() == [1, -1, -1, -1, -1, -1]
    assert numbers.encode([True, False]).tolist() == [-1, -1]
    assert numbers.encode([7.0, 7.5]).tolist() == [1, -1]
    words = IdMap(pl.Series(["1", "7"]))
    assert words.encode([7, 1, 2]).tolist() == [1, 0, -1]


@pytest.mark.parametrize("mixed", [["u1", 1], [1, "7"], [b"u", "u"]])
def test_identifiers_of_several_types_are_refused(mixed: list[Any]) -> None:
    with pytest.raises(UsageError, match="identifiers must be all integers or all text, got"):
        IdMap(pl.Series(["u1"])).encode(mixed)
