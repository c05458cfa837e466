from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from funnelrec.common.errors import CapabilityError, ConfigError
from funnelrec.data.dataset import Dataset
from funnelrec.models import create_model
from funnelrec.models.conversion import conversion_rates

Make = Callable[..., Dataset]

# Item 0: 3 viewers, 2 of them bought; item 1: 2 viewers, none bought; item 2: 1 cart, bought.
BEHAVIORS = {
    "view": [(0, 0), (1, 0), (2, 0), (0, 1), (3, 1)],
    "cart": [(0, 0), (3, 2), (3, 0)],
    "purchase": [(0, 0), (1, 0), (3, 2), (4, 3)],
}
VIEW = {0: (2 + 2 * 2 / 5) / (3 + 2), 1: (0 + 2 * 2 / 5) / (2 + 2)}
CART = {0: (1 + 2 * 2 / 3) / (2 + 2), 2: (1 + 2 * 2 / 3) / (1 + 2)}
TOUCHED: dict[tuple[int, int], list[float]] = {
    (0, 0): [VIEW[0], CART[0]],
    (1, 0): [VIEW[0]],
    (2, 0): [VIEW[0]],
    (0, 1): [VIEW[1]],
    (3, 1): [VIEW[1]],
    (3, 0): [CART[0]],
    (3, 2): [CART[2]],
}
COMBINED: dict[str, Callable[[list[float]], float]] = {
    "noisy-or": lambda rates: 1 - float(np.prod([1 - rate for rate in rates])),
    "sum": sum,
    "max": max,
}


@pytest.fixture
def dataset(make_dataset: Make) -> Dataset:
    return make_dataset(BEHAVIORS, n_users=5, n_items=5)


def test_rates_by_hand(dataset: Dataset) -> None:
    view = conversion_rates(dataset.training, "view", smoothing=2.0)
    cart = conversion_rates(dataset.training, "cart", smoothing=2.0)
    # An item nobody touched has the overall rate.
    assert view.tolist() == pytest.approx([VIEW[0], VIEW[1], 0.4, 0.4, 0.4])
    assert cart.tolist() == pytest.approx([CART[0], 2 / 3, CART[2], 2 / 3, 2 / 3])


@pytest.mark.parametrize("combine", ["noisy-or", "sum", "max"])
def test_scores_by_hand(dataset: Dataset, combine: str) -> None:
    model = create_model("conversion", smoothing=2.0, combine=combine).fit(dataset)
    # Bought once or twice, over the largest count plus one.
    popularity = [2 / 3, 0.0, 1 / 3, 1 / 3, 0.0]
    expected = [
        [
            1 + COMBINED[combine](TOUCHED[user, item])
            if (user, item) in TOUCHED
            else popularity[item]
            for item in range(5)
        ]
        for user in range(5)
    ]
    scores = model.score(range(5))
    assert scores.dtype == torch.float32
    np.testing.assert_allclose(scores.numpy(), expected, rtol=1e-6)
    # Any order of users, and repeated ones.
    np.testing.assert_allclose(
        model.score([3, 0, 3]).numpy(), [expected[3], expected[0], expected[3]], rtol=1e-6
    )


def test_two_signs_count_more_than_one(dataset: Dataset) -> None:
    scores = create_model("conversion").fit(dataset).score([0, 1])
    assert scores[0, 0] > scores[1, 0]


@pytest.mark.parametrize("combine", ["noisy-or", "sum", "max"])
def test_touched_items_come_first_also_where_no_touch_ever_converts(
    make_dataset: Make, combine: str
) -> None:
    data = make_dataset(
        {"view": [(0, 1)], "cart": [(1, 1), (0, 2)], "purchase": [(1, 1), (1, 0), (0, 0)]},
        n_users=2,
        n_items=3,
    )
    scores = create_model("conversion", combine=combine).fit(data).score([0])[0]
    assert scores[1] >= 1.0
    assert scores[2] > 1.0
    assert scores[0] < 1.0


def test_a_rate_of_one_is_finite(make_dataset: Make) -> None:
    data = make_dataset({"view": [(0, 0)], "purchase": [(0, 0)]}, n_users=1, n_items=2)
    assert create_model("conversion").fit(data).score([0]).tolist() == [[2.0, 0.0]]


def test_relabeling_permutes_the_scores(dataset: Dataset, make_dataset: Make) -> None:
    rng = np.random.default_rng(1)
    users, items = rng.permutation(5), rng.permutation(5)
    renamed = {
        name: [(int(users[user]), int(items[item])) for user, item in pairs]
        for name, pairs in BEHAVIORS.items()
    }
    plain = create_model("conversion").fit(dataset)
    other = create_model("conversion").fit(make_dataset(renamed, n_users=5, n_items=5))
    assert torch.equal(other.score(users)[:, items], plain.score(np.arange(5)))


def test_it_needs_an_auxiliary_behavior(make_dataset: Make) -> None:
    data = make_dataset({"purchase": [(0, 0)]}, n_users=1, n_items=1)
    with pytest.raises(CapabilityError, match="conversion learns from behaviors besides the targe"):
        create_model("conversion").fit(data)


@pytest.mark.parametrize("settings", [{"smoothing": 0}, {"combine": "mean"}])
def test_bad_settings_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"^{next(iter(settings))}: must be"):
        create_model("conversion", **settings)
