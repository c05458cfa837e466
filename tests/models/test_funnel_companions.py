from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from funnelrec.common.errors import ConfigError
from funnelrec.data.dataset import Dataset
from funnelrec.data.interactions import Interactions
from funnelrec.evaluation.evidence import EvidenceModel
from funnelrec.models import create_model
from funnelrec.models.funnel.alignment import user_alignments
from funnelrec.models.funnel.candidates import Candidates
from funnelrec.models.funnel.companions import Companions, as_data
from funnelrec.models.funnel.features import TouchedFeatures
from funnelrec.models.funnel.model import Funnel
from funnelrec.models.funnel.moments import moment
from funnelrec.models.funnel.preference import Preference
from funnelrec.testing import tiny_dataset

SMALL_MODELS = {
    "lightgcn": {"dim": 4, "layers": 1},
    "charm": {"dim": 4, "layers": 1, "batch_size": 64},
}


def pairs(users: npt.ArrayLike, items: npt.ArrayLike, n_users: int, n_items: int) -> Interactions:
    return Interactions.from_pairs(users, items, n_users=n_users, n_items=n_items)


# -- each user's own weight ----------------------------------------------------------------------


def test_a_user_with_many_pairs_has_his_own_share_and_one_with_few_that_of_all() -> None:
    rng = np.random.default_rng(0)
    n_users, n_items = 400, 500
    truth = np.where(np.arange(n_users) % 2, 0.4, 0.1)
    sizes = np.where(np.arange(n_users) < 200, 200, 2)
    users = np.repeat(np.arange(n_users), sizes)
    items = np.concatenate([rng.permutation(n_items)[:size] for size in sizes])
    hits = rng.random(len(users)) < truth[users]
    viewed = pairs(users, items, n_users, n_items)
    found = user_alignments(viewed, pairs(users[hits], items[hits], n_users, n_items))
    rate = hits.mean()
    busy = np.arange(n_users) < 200
    # 200 pairs tell a share to within a standard deviation of .035.
    assert np.abs(found * rate - truth)[busy].max() < 4 * 0.035
    assert np.abs(found * rate - truth)[busy].mean() < 0.035
    # Two pairs tell little: nobody is taken at his own 0, .5 or 1.
    assert (found[~busy] * rate).max() < 0.7
    assert (found[~busy] * rate).min() > 0.12


def test_users_who_do_not_differ_have_one_weight() -> None:
    rng = np.random.default_rng(1)
    users, items = np.divmod(np.arange(300 * 60), 60)
    hits = rng.random(len(users)) < 0.3
    viewed = pairs(users, items, 300, 60)
    found = user_alignments(viewed, pairs(users[hits], items[hits], 300, 60))
    # Their own shares spread by .2 of the mean; what is left of it is chance.
    own = np.bincount(users, hits, 300) / 60 / hits.mean()
    assert own.std() > 0.18
    assert found.std() < 0.08


@given(seed=st.integers(0, 10_000), wide=st.booleans())
@settings(max_examples=60)
def test_user_weights_are_those_of_the_dense_estimator(seed: int, wide: bool) -> None:
    def of(matrix: npt.NDArray[np.bool_]) -> Interactions:
        users, items = np.nonzero(matrix)
        return pairs(users, items, 7, 9)

    rng = np.random.default_rng(seed)
    viewed = rng.random((7, 9)) < (0.8 if wide else 0.3)
    bought = rng.random((7, 9)) < 0.4
    found = user_alignments(of(viewed), of(bought))
    # One number a pair, grouped by user: mean squares between and within.
    groups = [bought[user][viewed[user]].astype(float) for user in range(7)]
    some = [group for group in groups if len(group)]
    everything = np.concatenate([np.empty(0), *some])
    whole, n_groups = len(everything), len(some)
    wanted = np.ones(7)
    if n_groups > 1 and whole > n_groups and everything.any():
        rate = everything.mean()
        between = sum(len(g) * (g.mean() - rate) ** 2 for g in some) / (n_groups - 1)
        within = sum(((g - g.mean()) ** 2).sum() for g in some) / (whole - n_groups)
        typical = (whole - sum(len(g) ** 2 for g in some) / whole) / (n_groups - 1)
        spread = between + (typical - 1) * within
        correlation = (between - within) / spread if spread > 0 else 0.0
        if correlation > 0:
            strength = (1 - correlation) / correlation
            for user, group in enumerate(groups):
                if len(group):
                    own = (group.sum() + strength * rate) / (len(group) + strength)
                    wanted[user] = own / rate
    np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-9)


def test_views_of_preference_follow_each_users_weights() -> None:
    data = tiny_dataset(3, n_users=40, n_items=30, dated=False).training
    now = moment(data, 0, seed=0)
    weights = dict.fromkeys(data.auxiliary, 0.5)
    plain, own = (
        Preference(now, weights, neighbors=30, dim=4, seed=0, by_user=flag).views["walks"][0]
        for flag in (False, True)
    )
    bought = now.purchases.matrix().toarray()
    wanted = bought.copy()
    for name, part in now.auxiliary.items():
        factors = user_alignments(part, now.purchases)
        wanted += 0.5 * factors[:, None] * part.matrix().toarray()
        assert len(set(factors.tolist())) > 1, name
    np.testing.assert_allclose(own.toarray(), wanted, rtol=1e-5)
    assert not np.allclose(plain.toarray(), wanted)


# -- other models as witnesses -------------------------------------------------------------------


@pytest.fixture(scope="module")
def data() -> Dataset:
    return tiny_dataset(5, n_users=50, n_items=40, dated=False)


def test_opinions_are_those_of_models_fitted_on_what_was_known(data: Dataset) -> None:
    training = data.training
    now = moment(training, 0, seed=0)
    touched = TouchedFeatures(now, smoothing=5.0, budget=2**30).candidates
    others = Candidates.from_keys(np.arange(0, 50 * 40, 7), (50, 40))
    names = ("lightgcn", "charm", "itemknn")
    companions = Companions(names, SMALL_MODELS, epochs=2, seed=1, device="cpu")
    first, second = companions.opinions(now, training, (touched, others))
    known = as_data(now, training)
    assert known.validation.nnz == 0
    assert not known.purchases.contains(now.hidden.users, now.hidden.indices).any()
    assert set(first) == {*names, "charm weight", "charm substitution"}
    assert set(second) == set(names)
    for name, model in companions._models.items():
        alone = create_model(name, config=model.config, seed=model.seed, device="cpu").fit(known)
        scores = alone.score(np.arange(50)).numpy()
        for found, lists in ((first, touched), (second, others)):
            wanted = scores[lists.users, lists.items]
            np.testing.assert_allclose(found[name], wanted, rtol=1e-5, atol=1e-7)
        if isinstance(alone, EvidenceModel):
            evidence = alone.pair_evidence(touched.users, touched.items)
            np.testing.assert_allclose(
                np.exp(first["charm weight"]), evidence.weight, rtol=1e-4, atol=1e-8
            )
            np.testing.assert_allclose(
                np.exp(first["charm substitution"]), evidence.explained, rtol=1e-4, atol=1e-8
            )
    assert companions._models["lightgcn"].config.epochs == 2


def test_what_is_hidden_decides_no_opinion(data: Dataset) -> None:
    training = data.training
    now = moment(training, 0, seed=0)
    touched = TouchedFeatures(now, smoothing=5.0, budget=2**30).candidates
    other = replace(now, hidden=Interactions.empty(50, 40))
    found = [
        Companions(("lightgcn",), SMALL_MODELS, epochs=2, seed=1, device="cpu").opinions(
            one, training, (touched,)
        )[0]["lightgcn"]
        for one in (now, other)
    ]
    assert np.array_equal(found[0], found[1])


def test_a_funnel_with_companions_uses_and_stores_what_they_say(data: Dataset) -> None:
    settings = {"trees": 30, "leaves": 4, "dim": 4, "committee": 1, "folds": 1}
    plain = Funnel(settings).fit(data)
    model = Funnel({**settings, "companions": ["itemknn"], "user_weights": True}).fit(data)
    names = {name for part in model.gains().values() for name in part}
    assert {"itemknn", "itemknn, place", "itemknn, distance"} <= names
    assert not any("itemknn" in name for part in plain.gains().values() for name in part)
    assert not model.score(np.arange(50)).equal(plain.score(np.arange(50)))


def test_a_companion_may_have_a_preset_and_changes_of_it() -> None:
    wanted = {"rmbrec": {"preset": "single", "dim": 8}}
    config = Companions(["rmbrec"], wanted, epochs=2, seed=0, device="cpu")._models["rmbrec"].config
    assert config == create_model("rmbrec", preset="single", dim=8, epochs=2).config
    assert wanted == {"rmbrec": {"preset": "single", "dim": 8}}


def test_companions_that_cannot_be_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"other models than funnel, each once, got \['funnel'\]"):
        Funnel(companions=["funnel"])
    with pytest.raises(ConfigError, match="unknown preset 'fsat' of rmbrec"):
        Companions(["rmbrec"], {"rmbrec": {"preset": "fsat"}}, epochs=2, seed=0, device="cpu")
    with pytest.raises(ConfigError, match="name the model in companions, too"):
        Funnel(companion_settings={"charm": {"dim": 8}})
    data = tiny_dataset(0)
    with pytest.raises(ConfigError, match="unknown model 'lightgnc'"):
        Funnel(companions=["lightgnc"]).fit(data)
