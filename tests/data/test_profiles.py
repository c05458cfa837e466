from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from funnelrec.common.errors import ConfigError
from funnelrec.data.dataset import Dataset
from funnelrec.data.profiles import behavior_weights, weighted_profiles

Make = Callable[..., Dataset]
BEHAVIORS = {"view": [(0, 0), (0, 2), (1, 1)], "cart": [(0, 2)], "purchase": [(0, 2), (1, 0)]}


@pytest.fixture
def dataset(make_dataset: Make) -> Dataset:
    return make_dataset(BEHAVIORS, n_users=3, n_items=4, validation=[(0, 3)], test=[(1, 3)])


def test_a_profile_adds_up_what_was_done(dataset: Dataset) -> None:
    profiles = weighted_profiles(dataset.training, {"view": 0.25, "cart": 3})
    assert profiles.dtype == np.float32
    expected = [[0.25, 0, 4.25, 0], [1, 0.25, 0, 0], [0, 0, 0, 0]]
    np.testing.assert_array_equal(profiles.toarray(), np.array(expected, dtype=np.float32))


def test_weights_are_one_unless_given(dataset: Dataset) -> None:
    assert behavior_weights(dataset.training, {}) == {"view": 1, "cart": 1, "purchase": 1}
    assert weighted_profiles(dataset.training, {}).toarray()[0].tolist() == [1, 0, 3, 0]


def test_weight_zero_leaves_a_behavior_out(dataset: Dataset) -> None:
    profiles = weighted_profiles(dataset.training, {"view": 0, "cart": 0})
    bought = dataset.training.purchases
    assert profiles.indices.tolist() == bought.indices.tolist()
    assert profiles.indptr.tolist() == bought.indptr.tolist()
    assert profiles.data.tolist() == [1, 1]
    # Too small for float32: as good as zero, and no stored pair either.
    assert weighted_profiles(dataset.training, {"view": 1e-60, "cart": 0}).nnz == 2


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"veiw": 1.0}, "weights names the unknown behavior 'veiw': did you mean 'view'"),
        ({"view": -1.0}, "the weight of 'view' must be at least 0, got -1.0"),
        ({"view": float("nan")}, "the weight of 'view' must be at least 0, got nan"),
        ({"view": 0, "cart": 0, "purchase": 0}, "weights must be above 0 for a behavior that has"),
    ],
)
def test_bad_weights_are_refused(dataset: Dataset, weights: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        weighted_profiles(dataset.training, weights)


def test_weight_on_an_empty_behavior_alone_is_refused(make_dataset: Make) -> None:
    data = make_dataset({"view": [], "purchase": [(0, 0)]}, n_users=1, n_items=1).training
    with pytest.raises(ConfigError, match="give 'purchase' the weight 1"):
        weighted_profiles(data, {"purchase": 0.0})
