"""The suite on every registered model, on correct models of a third party, and on broken ones."""

from __future__ import annotations

import functools
import random
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import polars as pl
import pytest
import torch
from pydantic import ConfigDict, Field, field_serializer
from torch import Tensor

from funnelrec.common.config import Config
from funnelrec.common.errors import CapabilityError, TrainingDivergedError
from funnelrec.common.random import stream
from funnelrec.data.dataset import Dataset, TrainingData
from funnelrec.data.histories import Histories
from funnelrec.models import model_names, registry
from funnelrec.models.base import Capabilities, FitOptions, Recommender
from funnelrec.models.gradient import EmbeddingNetwork, EmbeddingRecommender, GradientSettings
from funnelrec.objectives.bpr import bpr
from funnelrec.testing import ConformanceError, check_model, conformance_checks
from funnelrec.training.sampling import PairSampler, Sampler, Triples

# The thousand epochs before the first that a preset asks for would take most of the suite's time.
GIVEN: Mapping[str, Mapping[str, Any]] = {"mb_cgcn": {"pretrain_epochs": 2}}
REGISTERED = [
    pytest.param(check, id=f"{model}-{name}")
    for model in model_names()
    for name, check in conformance_checks(registry.get(model), GIVEN.get(model))
]


@pytest.mark.parametrize("check", REGISTERED)
def test_registered_model(check: Callable[[], None]) -> None:
    check()


# -- correct models of a third party ---------------------------------------------------------


class NeighborsSettings(Config):
    shrink: float = Field(5.0, ge=0, description="Added to the norms.")
    layers: str = Field("none", description="A name of ours with another meaning.")


class Neighbors(Recommender[NeighborsSettings]):
    """Items bought together with what the user bought, popular ones first among equals."""

    name = "neighbors"
    summary = "Items bought together."
    reference = "-"
    Settings: ClassVar[type[Config]] = NeighborsSettings
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"strict": {"shrink": 50.0}}

    bought: Tensor
    similar: Tensor
    popular: Tensor

    def _fit(self, data: TrainingData, options: FitOptions) -> None:
        bought = torch.zeros(data.shape)
        bought[data.purchases.users.tolist(), data.purchases.items.tolist()] = 1
        together = bought.T @ bought
        counts = together.diagonal()
        self.bought = bought
        self.popular = counts / counts.max()
        self.similar = together / (torch.outer(counts, counts).sqrt() + self.config.shrink + 1e-6)

    def _score(self, users: Tensor) -> Tensor:
        return self.bought[users] @ self.similar + 0.1 * self.popular

    def _state(self) -> dict[str, Tensor]:
        return {"bought": self.bought, "similar": self.similar, "popular": self.popular}

    def _restore(self, state: Mapping[str, Tensor], data: TrainingData) -> None:
        self.bought, self.similar = state["bought"], state["similar"]
        self.popular = state["popular"]


class FactorsNetwork(EmbeddingNetwork):
    def __init__(self, data: TrainingData, dim: int, generator: torch.Generator) -> None:
        super().__init__()
        self.users = torch.nn.Parameter(0.1 * torch.randn(data.n_users, dim, generator=generator))
        self.items = torch.nn.Parameter(0.1 * torch.randn(data.n_items, dim, generator=generator))

    def loss(self, batch: Triples) -> Mapping[str, Tensor]:
        users = self.users[batch.users]
        positives, negatives = self.items[batch.positives], self.items[batch.negatives]
        return {"bpr": bpr((users * positives).sum(1), (users * negatives).sum(1))}

    def embeddings(self) -> tuple[Tensor, Tensor]:
        return self.users, self.items


class Factors(EmbeddingRecommender[GradientSettings]):
    """Factors of users and items."""

    name = "factors"
    summary = "Factors of users and items."
    reference = "-"

    def network(self, data: TrainingData, generator: torch.Generator) -> FactorsNetwork:
        return FactorsNetwork(data, self.config.dim, generator)

    def sampler(self, data: TrainingData) -> Sampler:
        return PairSampler(data.purchases, batch_size=self.config.batch_size, seed=self.seed)


class PromisesFoldIn(Factors):
    """Declares what it does not do."""

    capabilities = Capabilities(trained_by_gradient=True, folds_in_new_users=True)


class FoldsInByPlace(PromisesFoldIn):
    """Scores a user by the row the user happens to have."""

    def _fold_in(self, histories: Histories) -> Tensor:
        return self._users[: len(histories)] @ self._items.T


class Recency(Neighbors):
    """Neighbors, and what was touched last."""

    name = "recency"
    capabilities = Capabilities(needs_auxiliary=True, needs_timestamps=True, uses_auxiliary=True)

    def _fit(self, data: TrainingData, options: FitOptions) -> None:
        super()._fit(data, options)
        for name in data.auxiliary:
            part = data.interactions[name]
            assert part.last is not None
            moments = torch.from_numpy(part.last / 2e6).float()
            self.bought[part.users.tolist(), part.items.tolist()] += 0.01 * moments


@pytest.mark.parametrize("model", [Neighbors, Factors, Recency])
def test_a_correct_model_passes(model: type[Recommender[Any]]) -> None:
    results = check_model(model)
    assert all(result.passed and not result.message and result.rule for result in results)
    assert [result.name for result in results] == [name for name, _ in conformance_checks(model)]


def test_settings_given_go_before_those_of_the_suite() -> None:
    seen = []

    class Watched(Factors):
        def _fit(self, data: TrainingData, options: FitOptions) -> None:
            seen.append((self.config.epochs, self.config.dim))
            super()._fit(data, options)

    checks = dict(conformance_checks(Watched, {"epochs": 2}))
    checks["score_block"]()
    assert seen == [(2, 8)]


def test_only_a_recommender_can_be_checked() -> None:
    with pytest.raises(ConformanceError, match=r"subclass of funnelrec.models.Recommender, got 3"):
        conformance_checks(3)  # type: ignore[arg-type] # the mistake under test


# -- broken models ---------------------------------------------------------------------------

# Any, since one of the classes is abstract, which the type checker would refuse.
Broken = tuple[Any, str, str]


def with_score(change: Callable[..., Tensor], base: type[Neighbors] = Neighbors) -> type[Neighbors]:
    """Return Neighbors whose scores are changed by ``change(model, users, block)``."""

    class Changed(base):  # type: ignore[misc, valid-type] # the base is an argument
        """Changed."""

        def _score(self, users: Tensor) -> Tensor:
            return change(self, users, super()._score(users))

    return Changed


def with_attributes(base: type[Recommender[Any]] = Neighbors, **attributes: Any) -> Any:
    """Return a documented subclass with some class attributes or methods replaced."""
    return type("Changed", (base,), {"__doc__": "Changed.", **attributes})


class NoDocstring(Neighbors):
    pass


class Unfinished(Neighbors):
    """A method is missing."""

    @abstractmethod
    def explain(self) -> str: ...


class LooseSettings(NeighborsSettings):
    model_config = ConfigDict(frozen=False)


class OpenSettings(NeighborsSettings):
    model_config = ConfigDict(extra="ignore")


class SilentSettings(NeighborsSettings):
    depth: int = 3


class DemandingSettings(NeighborsSettings):
    depth: int = Field(description="Must be given.")


class RoundedSettings(NeighborsSettings):
    step: float = Field(0.125, description="Written with one digit.")

    @field_serializer("step", when_used="json")
    def _rounded(self, value: float) -> float:
        return round(value, 1)


class Forgiving(Neighbors):
    """Drops settings it does not know."""

    def __init__(self, config: Any = None, **arguments: Any) -> None:
        if isinstance(config, Mapping):
            config = {key: value for key, value in config.items() if key in ("shrink", "layers")}
        super().__init__(config, **arguments)


class ForgetsSettings(Neighbors):
    """Reads keyword arguments only."""

    def __init__(self, config: Any = None, **arguments: Any) -> None:
        super().__init__(None, **arguments)


class IgnoresPreset(Neighbors):
    """Checks the name of a preset and goes on without it."""

    def __init__(self, config: Any = None, *, preset: str | None = None, **arguments: Any) -> None:
        super().__init__(preset=preset, **arguments)
        super().__init__(config, **arguments)


class EagerWeights(Neighbors):
    """Draws weights in the constructor."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.weights = torch.zeros(3)


class DrawsInConstructor(Neighbors):
    """Moves the state of random."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.lucky = random.random()


class DrawsGlobally(Neighbors):
    """Adds noise from torch's own generator."""

    def _fit(self, data: TrainingData, options: FitOptions) -> None:
        super()._fit(data, options)
        self.popular = self.popular + torch.rand(data.n_items)


class SetsThreads(Neighbors):
    """Changes torch for everybody."""

    def _fit(self, data: TrainingData, options: FitOptions) -> None:
        super()._fit(data, options)
        torch.set_grad_enabled(False)


class ReadsGlobalSeed(Neighbors):
    """Depends on torch's seed without drawing."""

    def _fit(self, data: TrainingData, options: FitOptions) -> None:
        super()._fit(data, options)
        self.popular = self.popular + torch.initial_seed() % 1009


class NoisyFit(Neighbors):
    """Noise from no seed at all."""

    def _fit(self, data: TrainingData, options: FitOptions) -> None:
        super()._fit(data, options)
        noise = np.random.default_rng().random(data.n_items)
        self.popular = self.popular + torch.from_numpy(noise).float()


class NeedsViews(Neighbors):
    """Needs an auxiliary behavior and does not say so."""

    def _fit(self, data: TrainingData, options: FitOptions) -> None:
        super()._fit(data, options)
        self.popular = self.popular + 0 * len(data.auxiliary[0])


class RefusesNothing(Recency):
    """Declares needs and never checks them."""

    def check(self, data: TrainingData) -> None:
        pass


class RefusesLate(Recency):
    """Checks when the work has begun."""

    def check(self, data: TrainingData) -> None:
        pass

    def _fit(self, data: TrainingData, options: FitOptions) -> None:
        super().check(data)
        super()._fit(data, options)


class RefusesWithoutReason(Recency):
    """Says no and nothing else."""

    def check(self, data: TrainingData) -> None:
        if not data.auxiliary:
            raise CapabilityError("no")


class UsesViewsSecretly(Recency):
    """Uses touches and declares that it does not."""

    capabilities = Capabilities(needs_timestamps=True)


class AtMostThree(Neighbors):
    """Cannot do with more than two auxiliary behaviors."""

    def _fit(self, data: TrainingData, options: FitOptions) -> None:
        super()._fit(data, options)
        weights = (1.0, 2.0)
        self.popular = self.popular + 0 * sum(weights[n] for n in range(len(data.auxiliary)))


class TargetLast(Neighbors):
    """Takes the last behavior for the target."""

    def _fit(self, data: TrainingData, options: FitOptions) -> None:
        super()._fit(data, options)
        if data.interactions[data.behaviors[-1]] is not data.purchases:
            self.popular = self.popular * torch.nan


class ReturnsNothing(Neighbors):
    """Fit gives nothing back."""

    def fit(self, data: Any, options: FitOptions | None = None) -> Any:
        super().fit(data, options)


class Accumulates(Neighbors):
    """Keeps counts of the first fit."""

    def _fit(self, data: TrainingData, options: FitOptions) -> None:
        before = float(self.popular.sum()) if hasattr(self, "popular") else 0.0
        super()._fit(data, options)
        self.popular = self.popular + before


class ChangesCounts(Neighbors):
    """Writes into the counts of the data."""

    def _fit(self, data: TrainingData, options: FitOptions) -> None:
        super()._fit(data, options)
        counts = data.interactions["cart" if "cart" in data.behaviors else data.target].counts
        counts.setflags(write=True)
        counts += 1


class ChangesDegrees(Neighbors):
    """Normalises the cached item degrees in place, which no fingerprint covers."""

    def _fit(self, data: TrainingData, options: FitOptions) -> None:
        super()._fit(data, options)
        degrees = data.purchases.item_degrees
        degrees.setflags(write=True)
        degrees += 1


class LeaksTest(Neighbors):
    """Puts the test pairs on top."""

    def fit(self, data: Any, options: FitOptions | None = None) -> Any:
        super().fit(data, options)
        if isinstance(data, Dataset):
            self.bought[data.test.users.tolist(), data.test.items.tolist()] += 5
        return self


class LeaksQuietly(Neighbors):
    """Looks at the test pairs where it can."""

    def fit(self, data: Any, options: FitOptions | None = None) -> Any:
        super().fit(data, options)
        try:
            self.popular = self.popular + 0 * data.held_out("test").nnz
        except Exception:
            self.popular = self.popular + 0
        return self


class ReadsIdentifiers(Neighbors):
    """Scores by the type of the identifiers."""

    def _fit(self, data: TrainingData, options: FitOptions) -> None:
        super()._fit(data, options)
        self.popular = self.popular + float(data.item_ids.values.dtype == pl.String)


class WithGradient(Neighbors):
    """Scores that carry a gradient."""

    def score(self, users: Any) -> Tensor:
        return super().score(users).requires_grad_()


class Drifts(Neighbors):
    """Scores change each time they are asked for."""

    def _score(self, users: Tensor) -> Tensor:
        self.popular = self.popular * 1.01
        return super()._score(users)


class WrapsAround(Neighbors):
    """Takes users modulo their number."""

    def score(self, users: Any) -> Tensor:
        return super().score(np.asarray(users, dtype=np.int64) % self.n_users)


class Truncates(Neighbors):
    """Cuts off fractions of user numbers."""

    def score(self, users: Any) -> Tensor:
        return super().score(np.asarray(users).astype(np.int64))


class ScoresUnfitted(Neighbors):
    """Has scores before there is anything to score with."""

    def score(self, users: Any) -> Tensor:
        return super().score(users) if self._data is not None else torch.zeros(1, 1)


class KeepsOldFit(Neighbors):
    """Answers from the old fit when the new one failed."""

    def fit(self, data: Any, options: FitOptions | None = None) -> Any:
        before = self._data
        try:
            return super().fit(data, options)
        except Exception:
            self._data = before
            raise


class SwallowsErrors(Neighbors):
    """Hides the failure of a fit."""

    def fit(self, data: Any, options: FitOptions | None = None) -> Any:
        try:
            return super().fit(data, options)
        except ArithmeticError:
            raise
        except Exception as error:
            if isinstance(error, CapabilityError):
                raise
            return self


class ListsBought(Neighbors):
    """Recommends what the user has."""

    def recommend(self, users: Any = None, **options: Any) -> pl.DataFrame:
        return super().recommend(users, **{**options, "exclude": ()})


class ChangedList(Neighbors):
    """Changes the frame of recommendations."""

    change: ClassVar[Callable[[pl.DataFrame], pl.DataFrame]]

    def recommend(self, users: Any = None, **options: Any) -> pl.DataFrame:
        return type(self).change(super().recommend(users, **options))


def with_list(change: Callable[[pl.DataFrame], pl.DataFrame]) -> Any:
    return with_attributes(ChangedList, change=staticmethod(change))


class SkipsUnknown(Neighbors):
    """Leaves unknown users out without being asked to."""

    def recommend(self, users: Any = None, **options: Any) -> pl.DataFrame:
        return super().recommend(users, **{**options, "unknown_users": "skip"})


class AnyPolicy(Neighbors):
    """Reads every policy but error as skip."""

    def recommend(self, users: Any = None, **options: Any) -> pl.DataFrame:
        policy = options.pop("unknown_users", "error")
        known = "error" if policy == "error" else "skip"
        return super().recommend(users, unknown_users=known, **options)  # type: ignore[arg-type]


class RestoresHalf(Neighbors):
    """Leaves popularity out of what is stored."""

    def _state(self) -> dict[str, Tensor]:
        return {"bought": self.bought, "similar": self.similar}

    def _restore(self, state: Mapping[str, Tensor], data: TrainingData) -> None:
        self.bought, self.similar = state["bought"], state["similar"]
        self.popular = torch.zeros(data.n_items)


class RestoresRounded(Neighbors):
    """Stores half precision."""

    def _state(self) -> dict[str, Tensor]:
        return {name: value.half() for name, value in super()._state().items()}

    def _restore(self, state: Mapping[str, Tensor], data: TrainingData) -> None:
        super()._restore({name: value.float() for name, value in state.items()}, data)


class Pickles(Neighbors):
    """Writes a file of its own kind."""

    def save(self, path: str | Path) -> Path:
        Path(path).write_text("neighbors")
        return Path(path)


class RestoresAnything(Neighbors):
    """Asks not where a file comes from."""

    def restore(self, path: str | Path, data: Any) -> Any:
        other = getattr(data, "training", data)
        self._restore({name: torch.zeros(1) for name in ("bought", "similar", "popular")}, other)
        self._data = other
        return self


class AntiPopular(Neighbors):
    """The wrong sign."""

    def _score(self, users: Tensor) -> Tensor:
        return -super()._score(users)


class PureChance(Neighbors):
    """Draws every score."""

    def _fit(self, data: TrainingData, options: FitOptions) -> None:
        super()._fit(data, options)
        drawn = stream(self.seed, "chance").random(data.shape)
        self.bought = torch.from_numpy(drawn).float()

    def _score(self, users: Tensor) -> Tensor:
        return self.bought[users]


BROKEN: list[Broken] = [
    (NoDocstring, "class_attributes", "no docstring"),
    (Unfinished, "class_attributes", r"not implemented: explain"),
    (with_attributes(name="Neighbors!"), "class_attributes", r"name must be .* 'Neighbors!'"),
    (with_attributes(name="popularity"), "class_attributes", "registered for .*Popularity"),
    (with_attributes(summary=" "), "class_attributes", "summary must be one line"),
    (with_attributes(reference="a\nb"), "class_attributes", "reference must be one line"),
    (with_attributes(capabilities={}), "class_attributes", "capabilities must be"),
    (
        with_attributes(capabilities=Capabilities(needs_auxiliary=True)),
        "class_attributes",
        "set uses_auxiliary=True",
    ),
    (
        with_attributes(Factors, capabilities=Capabilities()),
        "class_attributes",
        "set trained_by_gradient=True",
    ),
    (with_attributes(presets=[]), "class_attributes", "presets must be a mapping"),
    (with_attributes(Settings=LooseSettings), "settings", "LooseSettings is not frozen"),
    (with_attributes(Settings=OpenSettings), "settings", "takes unknown keys"),
    (with_attributes(Settings=SilentSettings), "settings", "'depth' has no description"),
    (with_attributes(Settings=DemandingSettings), "settings", "'depth' has no default"),
    (with_attributes(Settings=dict), "settings", "must be a subclass of .*Config"),
    (with_attributes(Settings=RoundedSettings), "settings_round_trip", "came back from JSON"),
    (ForgetsSettings, "settings_round_trip", "given as an object became"),
    (with_attributes(presets={"no": {"shrink": -1}}), "presets", "ConfigError: .*shrink"),
    (IgnoresPreset, "presets", "preset 'strict' gave"),
    (Forgiving, "unknown_setting", "'shrink_x' must raise ConfigError, and was accepted"),
    (EagerWeights, "constructor_does_no_work", "'weights' holds a Tensor before fit"),
    (DrawsInConstructor, "global_state", "the constructor changed the global state of random"),
    (DrawsGlobally, "global_state", "fit changed the global random state of torch"),
    (ReadsGlobalSeed, "global_state", "scores under other global random states"),
    (SetsThreads, "global_state", "fit changed torch's gradient mode"),
    (NeedsViews, "capabilities", "IndexError"),
    (RefusesNothing, "capabilities", "target behavior alone must raise CapabilityError"),
    (RefusesLate, "capabilities", "refused only after the work had begun"),
    (RefusesWithoutReason, "capabilities", "gives no reason: 'no'"),
    (
        with_attributes(capabilities=Capabilities(uses_timestamps=True)),
        "uses_timestamps",
        "other dates gave the same scores",
    ),
    (
        with_attributes(capabilities=Capabilities(uses_auxiliary=True)),
        "uses_auxiliary",
        "other auxiliary behaviors gave the same scores",
    ),
    (UsesViewsSecretly, "uses_auxiliary", "declares no uses_auxiliary"),
    (AtMostThree, "any_behaviors", "IndexError: tuple index out of range"),
    (TargetLast, "any_behaviors", "fitted on the target named first"),
    (ReturnsNothing, "fit_returns_self", "fit returned None"),
    (Accumulates, "second_fit", "scores after a second fit"),
    (NoisyFit, "same_seed", "scores of a second run of seed 5"),
    (
        with_attributes(PureChance, capabilities=Capabilities(deterministic=True)),
        "same_seed",
        "scores of seed 6, beside seed 5",
    ),
    (ChangesCounts, "data_not_changed", "fit changed the interactions 'cart'"),
    (ChangesDegrees, "data_not_changed", "fit changed the interactions 'purchase'"),
    (LeaksTest, "test_pairs_unread", "Dataset.test was read"),
    (LeaksQuietly, "test_pairs_unread", "Dataset.held_out was read"),
    (LeaksTest, "test_pairs_do_not_matter", "scores with other test pairs"),
    (ReadsIdentifiers, "identifiers_do_not_matter", "integer identifiers"),
    (
        with_score(lambda m, u, s: s[:1]),
        "score_block",
        r"shape \(1, 16\) and must return \(24, 16\)",
    ),
    (with_score(lambda m, u, s: s.T), "score_block", r"returned shape \(16, 24\)"),
    (with_score(lambda m, u, s: s[:, :-1]), "score_block", r"returned shape \(24, 15\)"),
    (with_score(lambda m, u, s: s.numpy()), "score_block", "returned a ndarray"),
    (with_score(lambda m, u, s: s.long()), "score_block", "must return a floating type"),
    (with_score(lambda m, u, s: s.to("meta")), "score_block", "the scores are on meta"),
    (with_score(lambda m, u, s: s / 0), "score_block", r"scores are (NaN|\+inf)"),
    (WithGradient, "score_block", "carry a gradient"),
    (
        with_score(lambda m, u, s: s / m.bought[u].sum(1, keepdim=True) * 0),
        "score_edge_cases",
        "scores are NaN, the first in row 2[0-3]",
    ),
    (
        with_score(lambda m, u, s: s + 1 / (1 - m.bought[u].mean(1, keepdim=True))),
        "score_edge_cases",
        r"users who bought everything, \d+ scores are \+inf",
    ),
    (with_score(lambda m, u, s: s - s.mean(0)), "score_any_users", "half of the users|single"),
    (
        with_score(lambda m, u, s: s + torch.arange(len(u))[:, None]),
        "score_any_users",
        "users in another order",
    ),
    (
        with_score(lambda m, u, s: s + float(len(u) == 1)),
        "score_any_users",
        "scores of single users",
    ),
    (Drifts, "score_any_users", "scores of users in another order|asked for again"),
    (WrapsAround, "score_out_of_range", r"score\(\[24\]\) must raise UsageError"),
    (Truncates, "score_out_of_range", "not whole must raise UsageError"),
    (ScoresUnfitted, "not_fitted", "score before fit must raise NotFittedError"),
    (KeepsOldFit, "not_fitted", "score after a fit that failed must raise NotFittedError"),
    (SwallowsErrors, "not_fitted", "did not reach the caller"),
    (ListsBought, "recommend", "items were listed that the user bought before"),
    (with_list(lambda f: f.with_columns(pl.col("rank") - 1)), "recommend", "ranks must run from 1"),
    (with_list(lambda f: f.sort("user_id")), "recommend", "in the order asked for"),
    (with_list(lambda f: f.drop("score")), "recommend", "columns must be"),
    (
        with_list(lambda f: f.with_columns(item_id=pl.int_range(pl.len()))),
        "recommend",
        r"item_id must hold external identifiers \(String\), got Int64",
    ),
    (
        with_list(lambda f: f.with_columns(pl.col("score") * 2)),
        "recommend",
        "not those that score returns",
    ),
    (
        with_list(lambda f: f.filter(pl.col("rank") > 1).with_columns(pl.col("rank") - 1)),
        "recommend",
        "each with its 5 best candidates",
    ),
    (
        with_list(lambda f: f.with_columns(pl.col("item_id", "score").reverse().over("user_id"))),
        "recommend",
        "not the best items by descending score",
    ),
    (SkipsUnknown, "recommend_users", "the unknown user 'nobody' must raise UsageError"),
    (AnyPolicy, "recommend_users", "the unknown policy 'ignore' must raise UsageError"),
    (RestoresHalf, "save_restore", "scores of the restored model"),
    (RestoresRounded, "save_restore", "scores of the restored model"),
    (Pickles, "save_restore", "no safetensors file"),
    (PromisesFoldIn, "fold_in", "NotImplementedError"),
    (FoldsInByPlace, "fold_in", "scores of the same events|a user folded in alone"),
    (RestoresAnything, "restore_refuses", "with other data must raise DataError"),
    (
        with_score(lambda m, u, s: s + 0.01 * torch.arange(s.shape[1])),
        "relabeling",
        "after renumbering",
    ),
    (AntiPopular, "beats_chance", r"area under the curve is 0\.\d+ and must exceed 0.6"),
    (PureChance, "beats_chance", "area under the curve is 0"),
]


def with_loss(change: Callable[[Any, Mapping[str, Tensor]], Any]) -> Any:
    """Return Factors whose loss terms are changed by ``change(network, terms)``."""

    class Network(FactorsNetwork):
        def __init__(self, data: TrainingData, dim: int, generator: torch.Generator) -> None:
            super().__init__(data, dim, generator)
            self.spare = torch.nn.Parameter(torch.ones(()))
            self.calls = 0

        def loss(self, batch: Triples) -> Mapping[str, Tensor]:
            self.calls += 1
            terms = super().loss(batch)
            changed: Mapping[str, Tensor] = change(self, {"spare": self.spare.square(), **terms})
            return changed

    def network(self: Any, data: TrainingData, generator: torch.Generator) -> Network:
        return Network(data, self.config.dim, generator)

    return with_attributes(Factors, network=network)


class GlobalWeights(Factors):
    """Draws weights from torch's own generator."""

    def network(self, data: TrainingData, generator: torch.Generator) -> FactorsNetwork:
        return FactorsNetwork(data, self.config.dim, torch.default_generator)


class IgnoresSeed(Factors):
    """Trains with one seed whatever was asked for."""

    def network(self, data: TrainingData, generator: torch.Generator) -> FactorsNetwork:
        return super().network(data, torch.Generator().manual_seed(1))

    def sampler(self, data: TrainingData) -> PairSampler:
        return PairSampler(data.purchases, batch_size=64, seed=1)


class StatefulSampler(Factors):
    """Draws each epoch from where the last one ended, so a resumed run draws other numbers."""

    def sampler(self, data: TrainingData) -> Sampler:
        inner = PairSampler(data.purchases, batch_size=64, seed=self.seed)

        class Stateful:
            def __init__(self) -> None:
                self.asked = 0

            @property
            def n_batches(self) -> int:
                return inner.n_batches

            @property
            def notes(self) -> tuple[str, ...]:
                return inner.notes

            def epoch(self, number: int) -> Iterator[Triples]:
                self.asked += 1
                return inner.epoch(self.asked)

        return Stateful()


class NoCheckpoint(Factors):
    """Takes no notice of the options of a fit."""

    def _fit(self, data: TrainingData, options: FitOptions) -> None:
        super()._fit(data, FitOptions())


class LiesAboutBatches(Factors):
    """Announces one batch too many."""

    def sampler(self, data: TrainingData) -> Sampler:
        class Longer(PairSampler):
            @property
            def n_batches(self) -> int:
                return super().n_batches + 1

        return Longer(data.purchases, batch_size=64, seed=self.seed)


class HidesDivergence(Factors):
    """Goes on with broken weights."""

    def _fit(self, data: TrainingData, options: FitOptions) -> None:
        try:
            super()._fit(data, options)
        except TrainingDivergedError:
            self._users, self._items = torch.zeros(data.n_users, 1), torch.zeros(data.n_items, 1)


BROKEN += [
    (GlobalWeights, "global_state", "fit changed the global random state of torch"),
    (IgnoresSeed, "same_seed", "seeds 5 and 6 gave the same scores"),
    (with_loss(lambda n, t: list(t.values())), "loss_terms", "mapping of terms, got list"),
    (with_loss(lambda n, t: {}), "loss_terms", "mapping of terms, got dict"),
    (with_loss(lambda n, t: {"bpr": t["bpr"][None]}), "loss_terms", "'bpr' must be a scalar"),
    (with_loss(lambda n, t: {**t, "log": -n.spare.detach() / 0}), "loss_terms", "'log' .* is -inf"),
    (LiesAboutBatches, "loss_terms", "the sampler announces 2 batches and yields 1"),
    (with_loss(lambda n, t: {"bpr": t["bpr"]}), "gradients", "no gradient but zero reaches spare"),
    (
        with_loss(lambda n, t: {**t, "root": (n.spare - n.spare.detach()).sqrt()}),
        "gradients",
        "gradient of 'spare' is not finite",
    ),
    (
        with_loss(lambda n, t: {name: 10 * n.calls - value for name, value in t.items()}),
        "training_lowers_loss",
        "at first and .* at the end",
    ),
    (
        with_loss(lambda n, t: t if n.calls % 2 else {"bpr": t["bpr"]}),
        "training_lowers_loss",
        "the terms change",
    ),
    (StatefulSampler, "resume", "scores of the resumed run"),
    (NoCheckpoint, "resume", "no checkpoint was written"),
    (HidesDivergence, "divergence", "a loss of NaN must raise TrainingDivergedError"),
]


@pytest.fixture(autouse=True)
def _global_states() -> Iterable[None]:
    """Put back what a broken model may have moved."""
    python, numbers, gradients = random.getstate(), torch.get_rng_state(), torch.is_grad_enabled()
    yield
    random.setstate(python)
    torch.set_rng_state(numbers)
    torch.set_grad_enabled(gradients)


@pytest.mark.parametrize(
    ("model", "name", "pattern"),
    BROKEN,
    ids=[f"{number}-{name}" for number, (_, name, _) in enumerate(BROKEN)],
)
def test_a_broken_model_fails_the_right_check(
    model: type[Recommender[Any]], name: str, pattern: str
) -> None:
    check = dict(conformance_checks(model))[name]
    with pytest.raises(
        ConformanceError, match=rf"(?s)breaks the rule {name} .*({pattern})"
    ) as found:
        check()
    assert str(found.value).startswith(model.__name__)


def test_every_check_has_a_model_that_fails_it() -> None:
    names = {name for name, _ in conformance_checks(Factors)}
    assert names == {name for _, name, _ in BROKEN}


def test_all_broken_rules_are_reported_together() -> None:
    with pytest.raises(ConformanceError) as found:
        check_model(with_attributes(LeaksTest, summary=""))
    failed = [result.name for result in found.value.results if not result.passed]
    assert failed == [
        "class_attributes",
        "fit_returns_self",
        "test_pairs_unread",
        "test_pairs_do_not_matter",
    ]
    passed = [result for result in found.value.results if result.passed]
    assert f"breaks 4 of {4 + len(passed)} rules" in str(found.value)
    assert all(
        result.message in str(found.value) for result in found.value.results if not result.passed
    )


def test_a_conformance_error_is_an_assertion() -> None:
    assert issubclass(ConformanceError, AssertionError)
    check = functools.partial(check_model, ReturnsNothing)
    with pytest.raises(AssertionError, match="fit returned None"):
        check()
