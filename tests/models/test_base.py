from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import polars as pl
import pytest
import torch
from pydantic import Field
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from funnelrec.common.config import Config
from funnelrec.common.errors import (
    CapabilityError,
    CapacityError,
    ConfigError,
    DataError,
    NotFittedError,
    UsageError,
)
from funnelrec.data.dataset import Dataset, IdMap, TrainingData
from funnelrec.data.interactions import Interactions
from funnelrec.evaluation.evaluate import evaluate
from funnelrec.models import (
    Capabilities,
    FitOptions,
    Recommender,
    Registry,
    create_model,
    model_names,
    registry,
)
from funnelrec.models import base as base_module
from funnelrec.models.base import resolve_device
from funnelrec.testing.datasets import tiny_dataset as tiny_shop

Make = Callable[..., Dataset]

NAMES = ["charm", "conversion", "lightgcn", "mf_bpr", "popularity", "rmbrec"]
TINY = {"dim": 4, "epochs": 2, "batch_size": 32, "layers": 1}


def tiny_model(name: str, **arguments: Any) -> Recommender[Any]:
    """Return a model with those of the tiny settings that it has."""
    known = registry.get(name).Settings.model_fields
    settings = {key: value for key, value in TINY.items() if key in known}
    return create_model(name, device="cpu", **{**settings, **arguments})


class FixedSettings(Config):
    """Settings of Fixed."""

    shift: float = Field(0.0, description="Added to every score.")


class Fixed(Recommender[FixedSettings]):
    """Scores (user + 1) * item, but the last item -inf."""

    name = "fixed"
    Settings: ClassVar[type[Config]] = FixedSettings
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"high": {"shift": 10.0}}

    def _fit(self, data: TrainingData, options: FitOptions) -> None:
        self.saw = data

    def _score(self, users: Tensor) -> Tensor:
        block = (users + 1)[:, None] * torch.arange(self.n_items).float() + self.config.shift
        block[:, -1] = -torch.inf
        return block

    def _state(self) -> dict[str, Tensor]:
        return {}

    def _restore(self, state: Mapping[str, Tensor], data: TrainingData) -> None:
        self.saw = data


@pytest.fixture
def shop(make_dataset: Make) -> Dataset:
    """Give 3 users x 5 items; item numbers 100 to 104, users u0 to u2."""
    return make_dataset(
        {"view": [(0, 2), (1, 1)], "purchase": [(0, 3), (1, 0), (2, 0), (2, 1), (2, 2), (2, 3)]},
        n_users=3,
        n_items=5,
        test=[(0, 1)],
    )


class TestRegistry:
    def test_the_models_of_the_package_are_known(self) -> None:
        assert set(NAMES) <= set(model_names())
        for name in NAMES:
            model = registry.get(name)
            assert model.name == name
            assert model.summary
            assert model.__doc__

    def test_a_name_can_be_taken_once(self) -> None:
        fresh = Registry()
        assert fresh.register(Fixed) is Fixed
        # The same class again is a reloaded module.
        fresh.register(Fixed)

        class Another(Fixed):
            """Takes the same name."""

        with pytest.raises(ConfigError) as caught:
            fresh.register(Another)
        assert str(caught.value) == (
            f"the model name 'fixed' is taken by {__name__}.Fixed; choose another."
        )
        assert fresh.get("fixed") is Fixed

    def test_a_class_of_the_same_name_in_another_module_is_another_class(self) -> None:
        fresh = Registry()
        fresh.register(Fixed)
        twin = type("Fixed", (Fixed,), {"__module__": "elsewhere", "__qualname__": "Fixed"})
        with pytest.raises(ConfigError, match="is taken by"):
            fresh.register(twin)

    def test_a_model_needs_a_name(self) -> None:
        nameless = type("Nameless", (Fixed,), {"name": ""})
        with pytest.raises(ConfigError, match="Nameless must set the class attribute 'name'"):
            Registry().register(nameless)

    def test_an_unknown_name_gets_a_suggestion(self) -> None:
        with pytest.raises(ConfigError) as caught:
            create_model("lightgnc")
        assert str(caught.value).startswith(
            "unknown model 'lightgnc': did you mean 'lightgcn'? Known: bcipm, charm, cml,"
        )

    @pytest.fixture
    def plugin(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "third_party_model.py").write_text(
            "from funnelrec.models.popularity import Popularity\n"
            "class Theirs(Popularity):\n"
            "    name = 'theirs'\n"
            "not_a_model = 3\n"
        )
        monkeypatch.syspath_prepend(str(tmp_path))
        group = "funnelrec.models"
        points = [
            EntryPoint("theirs", "third_party_model:Theirs", group),
            EntryPoint("broken", "third_party_model:not_a_model", group),
        ]
        asked: list[str] = []

        def entry_points(*, group: str) -> list[EntryPoint]:
            asked.append(group)
            return [point for point in points if point.group == group]

        monkeypatch.setattr(base_module, "entry_points", entry_points)

    @pytest.mark.usefixtures("plugin")
    def test_third_parties_register_by_entry_point(self, shop: Dataset) -> None:
        assert {"theirs", "broken", *NAMES} <= set(model_names())
        # Listing the names has not imported it.
        assert "third_party_model" not in sys.modules
        model = create_model("theirs").fit(shop)
        assert (type(model).__name__, model.name) == ("Theirs", "theirs")
        assert model.score([0]).shape == (1, 5)

    @pytest.mark.usefixtures("plugin")
    def test_an_entry_point_that_is_no_model_is_refused(self) -> None:
        with pytest.raises(ConfigError) as caught:
            create_model("broken")
        assert str(caught.value) == (
            "the entry point 'broken' in funnelrec.models is no Recommender class."
        )


class TestConstruction:
    def test_settings_come_from_preset_mapping_and_keywords_the_latter_winning(self) -> None:
        assert Fixed().config.shift == 0
        assert Fixed(preset="high").config.shift == 10
        assert Fixed({"shift": 2.0}, preset="high").config.shift == 2
        assert Fixed({"shift": 2.0}, preset="high", shift=3.0).config.shift == 3
        assert Fixed(FixedSettings(shift=4.0)).config.shift == 4

    def test_an_unknown_preset_is_refused(self) -> None:
        with pytest.raises(ConfigError, match="unknown preset 'hgh' of fixed: did you mean 'high'"):
            Fixed(preset="hgh")
        with pytest.raises(ConfigError, match="unknown preset 'x' of popularity: it has none"):
            create_model("popularity", preset="x")

    def test_an_unknown_setting_is_refused(self) -> None:
        with pytest.raises(ConfigError) as caught:
            create_model("mf_bpr", dims=3)
        assert str(caught.value).startswith("unknown setting 'dims': did you mean 'dim'? Known: ")

    @pytest.mark.parametrize("device", ["tpu", "meta", "gpu0"])
    def test_an_unknown_device_is_refused(self, device: str) -> None:
        with pytest.raises(ConfigError) as caught:
            Fixed(device=device)
        assert str(caught.value) == f"device must be auto, cpu or cuda, got {device!r}."

    def test_a_gpu_that_is_not_there_is_said(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        assert resolve_device("auto").type == "cpu"
        with pytest.raises(ConfigError, match="'cuda' was asked for, and there is no GPU; use cpu"):
            resolve_device("cuda")

    def test_gpus_are_counted(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
        assert resolve_device("cuda:1") == torch.device("cuda:1")
        with pytest.raises(ConfigError, match="'cuda:2' was asked for, and there are 2 GPUs"):
            resolve_device("cuda:2")


class TestFit:
    def test_a_model_is_handed_the_training_side_only(self, shop: Dataset) -> None:
        assert Fixed().fit(shop).saw is shop.training
        assert Fixed().fit(shop.training).saw is shop.training

    def test_needed_auxiliary_behaviors_are_checked(self, shop: Dataset) -> None:
        with pytest.raises(CapabilityError) as caught:
            create_model("conversion").fit(shop.training.without("view"))
        assert str(caught.value) == (
            "conversion learns from behaviors besides the target, and this data set has only "
            "'purchase'; add one, or use a model that needs none."
        )

    def test_needed_timestamps_are_checked(self, shop: Dataset, make_dataset: Make) -> None:
        class Dated(Fixed):
            """Needs dates."""

            name = "dated"
            capabilities: ClassVar[Capabilities] = Capabilities(needs_timestamps=True)

        with pytest.raises(CapabilityError) as caught:
            Dated().fit(shop)
        assert str(caught.value) == (
            "dated needs a timestamp on every event, and this data set has none; "
            "prepare it from a dated log, or use a model that needs none."
        )
        dated = make_dataset({"purchase": [(0, 0)]}, n_users=1, n_items=1, dated=True)
        Dated().fit(dated)

    @pytest.mark.parametrize("name", NAMES)
    def test_data_without_a_purchase_are_refused(self, name: str, make_dataset: Make) -> None:
        data = make_dataset({"view": [(0, 0)], "purchase": []}, n_users=1, n_items=2)
        with pytest.raises(CapabilityError) as caught:
            tiny_model(name).fit(data)
        assert str(caught.value) == (
            "there is no training pair of the target behavior 'purchase'; nothing can be learned."
        )

    def test_a_refused_fit_leaves_the_model_as_it_was(self, shop: Dataset) -> None:
        model = create_model("conversion").fit(shop)
        before = model.score([0])
        with pytest.raises(CapabilityError):
            model.fit(shop.training.without("view"))
        assert torch.equal(model.score([0]), before)

    @pytest.mark.parametrize("name", NAMES)
    def test_two_fits_equal_one_on_the_second_data(
        self, name: str, tiny_dataset: Dataset, shop: Dataset
    ) -> None:
        twice = tiny_model(name).fit(shop).fit(tiny_dataset)
        once = tiny_model(name).fit(tiny_dataset)
        assert torch.equal(twice.score(range(60)), once.score(range(60)))

    @pytest.mark.parametrize("name", NAMES)
    def test_other_test_pairs_change_no_learned_weight(
        self, name: str, tiny_dataset: Dataset, tmp_path: Path
    ) -> None:
        rng = np.random.default_rng(3)
        noise = Interactions.from_pairs(
            rng.integers(60, size=90), rng.integers(40, size=90), n_users=60, n_items=40
        )
        perturbed = replace(tiny_dataset, test=noise)
        assert perturbed.fingerprint != tiny_dataset.fingerprint
        files = [
            tiny_model(name).fit(data).save(tmp_path / str(place)).read_bytes()
            for place, data in enumerate((tiny_dataset, perturbed))
        ]
        assert files[0] == files[1]


class TestScore:
    def test_blocks_follow_the_order_of_users(self, shop: Dataset) -> None:
        block = Fixed().fit(shop).score([2, 0, 2])
        assert block[:, 1].tolist() == [3.0, 1.0, 3.0]
        assert not block.requires_grad

    @pytest.mark.parametrize("name", NAMES)
    def test_a_user_scores_the_same_alone_and_in_company(
        self, name: str, tiny_dataset: Dataset
    ) -> None:
        model = tiny_model(name).fit(tiny_dataset)
        block = model.score(torch.arange(60))
        assert (block.dtype, block.shape) == (torch.float32, (60, 40))
        for user in (0, 1, 2, 3, 59):
            torch.testing.assert_close(model.score(np.array([user]))[0], block[user])
        assert model.score([]).shape == (0, 40)

    @pytest.mark.parametrize(
        ("users", "message"),
        [
            ([0, 3], "user numbers must lie in 0..2, got 0..3."),
            ([-1], "user numbers must lie in 0..2, got -1..-1."),
            ([[0]], "users must be a flat array of user numbers, got int64 of shape (1, 1)."),
            ([0.5], "users must be a flat array of user numbers, got float64 of shape (1,)."),
        ],
    )
    def test_bad_users_are_refused(self, shop: Dataset, users: Any, message: str) -> None:
        with pytest.raises(UsageError) as caught:
            Fixed().fit(shop).score(users)
        assert str(caught.value) == message

    @pytest.mark.parametrize("name", NAMES)
    def test_nothing_works_before_fit(
        self, name: str, tmp_path: Path, tiny_dataset: Dataset
    ) -> None:
        model = create_model(name)
        for call in (
            lambda: model.score([0]),
            lambda: model.recommend(["u0"]),
            lambda: model.save(tmp_path / "m"),
            lambda: model.n_items,
        ):
            with pytest.raises(NotFittedError) as caught:
                call()
            assert str(caught.value) == f"this {name} is not fitted; call fit(dataset) first."
        assert not (tmp_path / "m").exists()


class TestRecommend:
    def test_external_ids_scores_and_ranks(self, shop: Dataset) -> None:
        found = Fixed().fit(shop).recommend(["u1", "u0"], k=2)
        assert found.rows() == [
            ("u1", 103, 6.0, 1),
            ("u1", 102, 4.0, 2),
            ("u0", 102, 2.0, 1),
            ("u0", 101, 1.0, 2),
        ]
        assert found.schema == {
            "user_id": pl.String,
            "item_id": pl.Int64,
            "score": pl.Float32,
            "rank": pl.Int32,
        }

    def test_everybody_and_fewer_rows_where_candidates_run_out(self, shop: Dataset) -> None:
        # User 2 bought four of five items, and the fifth is scored -inf.
        found = Fixed().fit(shop).recommend(k=50)
        assert found["user_id"].to_list() == ["u0"] * 3 + ["u1"] * 3
        assert found["rank"].to_list() == [1, 2, 3] * 2

    @pytest.mark.parametrize(
        ("exclude", "items"),
        [
            (("train-target",), [102, 101, 100]),
            (("touched",), [101, 100]),
            (("train-target", "touched"), [101, 100]),
            ((), [103, 102, 101, 100]),
            ("touched", [101, 100]),
        ],
    )
    def test_exclusions(self, shop: Dataset, exclude: Any, items: list[int]) -> None:
        found = Fixed().fit(shop).recommend(["u0"], exclude=exclude)
        assert found["item_id"].to_list() == items

    def test_users_may_be_a_series_or_come_twice(self, shop: Dataset) -> None:
        found = Fixed().fit(shop).recommend(pl.Series(["u0", "u0"]), k=1)
        assert found["item_id"].to_list() == [102, 102]
        assert Fixed().fit(shop).recommend([]).height == 0

    def test_integer_users(self, shop: Dataset) -> None:
        training = replace(shop.training, user_ids=IdMap(pl.Series([7, 8, 9])))
        model = Fixed().fit(training)
        assert model.recommend([8], k=1).rows() == [(8, 103, 6.0, 1)]
        # As a shell hands them over.
        assert model.recommend(["8"], k=1).rows() == [(8, 103, 6.0, 1)]

    def test_unknown_users_are_an_error_or_skipped(self, shop: Dataset) -> None:
        model = Fixed().fit(shop)
        with pytest.raises(UsageError) as caught:
            model.recommend(["u0", "eve", "mallory"])
        assert str(caught.value) == (
            "2 of the users asked for are not in the data set, for example ['eve', 'mallory']; "
            "leave them out, or ask with unknown_users='skip'."
        )
        found = model.recommend(["eve", "u1"], k=1, unknown_users="skip")
        assert found["user_id"].to_list() == ["u1"]

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"k": 0}, "k must be a whole number of at least 1, got 0."),
            ({"k": 2.5}, "k must be a whole number of at least 1, got 2.5."),
            ({"k": True}, "k must be a whole number of at least 1, got True."),
            (
                {"exclude": ["touchd"]},
                "unknown exclude 'touchd': did you mean 'touched'? Known: none, touched, "
                "train-target, validation.",
            ),
            (
                {"unknown_users": "ignore"},
                "unknown_users must be one of error, skip, got 'ignore'.",
            ),
        ],
    )
    def test_bad_arguments_are_refused(
        self, shop: Dataset, arguments: dict[str, Any], message: str
    ) -> None:
        with pytest.raises(UsageError) as caught:
            Fixed().fit(shop).recommend(["u0"], **arguments)
        assert str(caught.value) == message

    @pytest.mark.parametrize("name", NAMES)
    def test_a_list_is_the_best_of_the_scores(self, name: str, tiny_dataset: Dataset) -> None:
        model = tiny_model(name).fit(tiny_dataset)
        found = model.recommend(["u5"], k=5)
        scores = model.score([5])[0].numpy()
        scores[tiny_dataset.training.purchases.row(5)] = -np.inf
        scores[tiny_dataset.training.validation.row(5)] = -np.inf
        # One user alone is multiplied by another kernel than a block.
        best = np.sort(scores)[::-1][:5]
        np.testing.assert_allclose(found["score"].to_numpy(), best, rtol=1e-5)
        items = found["item_id"].to_numpy() - 100
        np.testing.assert_allclose(scores[items], found["score"].to_numpy(), rtol=1e-5)


SCORE_ELSEWHERE = """
import sys
from pathlib import Path
import numpy as np
from funnelrec.data.dataset import Dataset
from funnelrec.models import create_model

data, folder, *names = sys.argv[1:]
dataset = Dataset.load(data)
for name in names:
    model = create_model(name, device="cpu").restore(Path(folder) / name, dataset)
    np.save(Path(folder) / f"{name}.npy", model.score(np.arange(model.n_users)).numpy())
"""


class TestStorage:
    def test_another_process_gives_the_same_scores(
        self, tiny_dataset: Dataset, tmp_path: Path, python_environment: dict[str, str]
    ) -> None:
        data = tiny_dataset.save(tmp_path / "data")
        expected = {}
        for name in NAMES:
            model = tiny_model(name).fit(tiny_dataset)
            model.save(tmp_path / name)
            expected[name] = model.score(range(60)).numpy()
        subprocess.run(
            [sys.executable, "-c", SCORE_ELSEWHERE, str(data), str(tmp_path), *NAMES],
            env=python_environment,
            check=True,
        )
        for name in NAMES:
            assert np.array_equal(np.load(tmp_path / f"{name}.npy"), expected[name]), name

    @pytest.mark.parametrize("name", NAMES)
    def test_a_restored_model_is_whole(
        self, name: str, tiny_dataset: Dataset, tmp_path: Path
    ) -> None:
        model = tiny_model(name).fit(tiny_dataset)
        path = model.save(tmp_path / "model")
        restored = create_model(name, device="cpu").restore(path, tiny_dataset.training)
        assert restored.data is tiny_dataset.training
        assert restored.recommend(k=3).equals(model.recommend(k=3))
        assert restored.save(tmp_path / "again").read_bytes() == path.read_bytes()

    def test_another_model_is_refused(self, tiny_dataset: Dataset, tmp_path: Path) -> None:
        path = tiny_model("popularity").fit(tiny_dataset).save(tmp_path / "m")
        with pytest.raises(DataError) as caught:
            create_model("conversion").restore(path, tiny_dataset)
        assert str(caught.value) == f"{path} holds the model 'popularity', not 'conversion'."

    def test_other_data_are_refused(self, tiny_dataset: Dataset, tmp_path: Path) -> None:
        path = tiny_model("popularity").fit(tiny_dataset).save(tmp_path / "m")
        other = tiny_dataset.with_validation_in_training()
        model = create_model("popularity")
        with pytest.raises(DataError) as caught:
            model.restore(path, other)
        mine, theirs = tiny_dataset.training.fingerprint, other.training.fingerprint
        assert str(caught.value) == (
            f"{path} was learned from other data than given (fingerprint {mine[:12]} there, "
            f"{theirs[:12]} here)."
        )
        with pytest.raises(NotFittedError):
            model.score([0])

    @pytest.mark.parametrize("kind", ["missing", "noise", "truncated", "folder"])
    def test_a_damaged_file_is_reported(
        self, kind: str, tiny_dataset: Dataset, tmp_path: Path
    ) -> None:
        path = tiny_model("popularity").fit(tiny_dataset).save(tmp_path / "m")
        content = path.read_bytes()
        path.unlink()
        if kind == "folder":
            path.mkdir()
        elif kind != "missing":
            path.write_bytes(content[:-3] if kind == "truncated" else b"no tensors here")
        with pytest.raises(DataError, match=f"cannot read the model file {path}"):
            create_model("popularity").restore(path, tiny_dataset)

    def test_a_foreign_tensor_file_is_refused(self, tiny_dataset: Dataset, tmp_path: Path) -> None:
        path = tmp_path / "m"
        save_file({"items": torch.ones(40)}, path)
        with pytest.raises(DataError, match="holds the model None, not 'popularity'"):
            create_model("popularity").restore(path, tiny_dataset)

    def test_saving_over_an_old_file_replaces_it(
        self, tiny_dataset: Dataset, tmp_path: Path
    ) -> None:
        path = tmp_path / "m"
        path.write_text("old")
        model = tiny_model("popularity").fit(tiny_dataset)
        assert model.save(path) == path
        create_model("popularity").restore(path, tiny_dataset)


def test_lists_leave_out_every_known_purchase_unless_told_otherwise(tiny_dataset: Dataset) -> None:
    data = tiny_dataset.training
    model = create_model("popularity", device="cpu").fit(tiny_dataset)

    def listed(exclude: Any) -> set[tuple[str, int]]:
        return set(model.recommend(k=40, exclude=exclude).select("user_id", "item_id").iter_rows())

    def pairs(part: Interactions) -> set[tuple[str, int]]:
        users, items = data.user_ids.decode(part.users), data.item_ids.decode(part.items)
        return set(zip(users, items, strict=True))

    default = set(model.recommend(k=40).select("user_id", "item_id").iter_rows())
    assert not default & (pairs(data.purchases) | pairs(data.validation))
    assert default | pairs(data.validation) == listed("train-target")
    assert not listed("touched") & (pairs(data.touched) | pairs(data.purchases))
    assert len(listed(())) == data.n_users * data.n_items


def test_a_file_of_another_width_is_damaged(tiny_dataset: Dataset, tmp_path: Path) -> None:
    model = create_model("mf_bpr", config={"dim": 4, "epochs": 1}, device="cpu").fit(tiny_dataset)
    path = model.save(tmp_path / "model.safetensors")
    with safe_open(path, framework="pt") as stored:
        metadata = stored.metadata()
        tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
    save_file({**tensors, "items": tensors["items"][:3].clone()}, path, metadata=metadata)
    with pytest.raises(DataError, match="it scores 3 items of 40"):
        create_model("mf_bpr", config={"dim": 4, "epochs": 1}).restore(path, tiny_dataset)
    save_file({**tensors, "users": tensors["users"][:3].clone()}, path, metadata=metadata)
    with pytest.raises(DataError, match="is damaged"):
        create_model("mf_bpr", config={"dim": 4, "epochs": 1}).restore(path, tiny_dataset)


def test_what_became_of_timestamps_is_in_the_protocol() -> None:
    told = []
    for dated in (True, False):
        data = tiny_shop(dated=dated)
        model = create_model("funnel", trees=2, device="cpu").fit(data)
        told.append(evaluate(model, data).protocol.inputs)
    assert told[0] == ("timestamps: read",)
    assert told[1] == (f"timestamps: none, so {type(model).undated}",)
    plain = create_model("popularity", device="cpu").fit(data)
    assert evaluate(plain, data).protocol.inputs == ()


def test_too_little_memory_is_not_a_damaged_file(
    tiny_dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitted = create_model("popularity", device="cpu").fit(tiny_dataset)
    fitted.save(tmp_path / "model.safetensors")

    def full(*args: Any) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate")

    monkeypatch.setattr(type(fitted), "_restore", full)
    with pytest.raises(CapacityError, match="there is no memory to load"):
        create_model("popularity", device="cpu").restore(
            tmp_path / "model.safetensors", tiny_dataset.training
        )
