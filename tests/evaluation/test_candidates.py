from __future__ import annotations

import itertools

import numpy as np
import pytest
from evaluation_helpers import from_dense, pairs_of

from funnelrec.common.errors import ConfigError, UsageError
from funnelrec.evaluation import candidates
from funnelrec.evaluation.candidates import SampledCandidates


@pytest.mark.parametrize("n", [1, 7, 15])
def test_draws_are_distinct_and_outside_the_excluded_pairs(n: int) -> None:
    rng = np.random.default_rng(0)
    excluded = from_dense(rng.random((200, 40)) < rng.random((200, 1)) * 0.45)
    users = np.arange(200)
    drawn = SampledCandidates(n, seed=1).draw(excluded, users)
    assert drawn.shape == (200, n)
    assert drawn.min() >= 0
    assert drawn.max() < 40
    assert all(len(set(row)) == n for row in drawn.tolist())
    assert not excluded.contains(np.repeat(users, n), drawn.ravel()).any()


def test_every_subset_of_the_free_items_is_equally_likely() -> None:
    # 6 items, 0 and 3 excluded: 6 subsets of two of the four free items.
    n_users = 12_000
    excluded = pairs_of([(u, i) for u in range(n_users) for i in (0, 3)], n_users, 6)
    drawn = np.sort(SampledCandidates(2, seed=0).draw(excluded, np.arange(n_users)), axis=1)
    expected = n_users / 6
    for subset in itertools.combinations((1, 2, 4, 5), 2):
        count = int((drawn == subset).all(axis=1).sum())
        assert abs(count - expected) < 4.5 * np.sqrt(expected * 5 / 6)


def test_a_draw_of_all_free_items_takes_them_all() -> None:
    excluded = pairs_of([(0, 1), (0, 2), (1, 0), (1, 4)], 2, 5)
    drawn = SampledCandidates(3).draw(excluded, np.array([1, 0]))
    assert [sorted(row) for row in drawn.tolist()] == [[1, 2, 3], [0, 3, 4]]


def test_draw_depends_on_seed_and_user_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(candidates, "_CHUNK", 16)
    excluded = from_dense(np.random.default_rng(3).random((50, 60)) < 0.2)
    everyone = SampledCandidates(10, seed=5).draw(excluded, np.arange(50))
    some = np.array([40, 3, 17])
    assert np.array_equal(SampledCandidates(10, seed=5).draw(excluded, some), everyone[some])
    assert not np.array_equal(SampledCandidates(10, seed=6).draw(excluded, some), everyone[some])
    # Users of different chunks have streams of their own.
    assert not np.array_equal(everyone[:16], everyone[16:32])


def test_too_few_free_items_are_named() -> None:
    excluded = pairs_of([(1, 0), (1, 1)], 3, 5)
    with pytest.raises(
        UsageError, match=r"n=4\) needs 4 items .*user number 1 has 3; lower n or rank the full"
    ):
        SampledCandidates(4).draw(excluded, np.array([0, 1, 2]))
    # A user who is not evaluated does not count.
    assert SampledCandidates(4).draw(excluded, np.array([0, 2])).shape == (2, 4)


@pytest.mark.parametrize("bad", [{"n": 0}, {"n": 2.0}, {"n": True}, {"seed": -1}])
def test_bad_settings_are_named(bad: dict[str, int]) -> None:
    name = next(iter(bad))
    what = {"n": "number", "seed": "seed"}[name]
    with pytest.raises(
        ConfigError, match=f"the {what} of .*drawn negatives must be a whole number"
    ):
        SampledCandidates(**bad)
