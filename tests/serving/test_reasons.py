from __future__ import annotations

import numpy as np
import pytest

from funnelrec.data.dataset import Dataset
from funnelrec.models import create_model
from funnelrec.serving.reasons import reasons


@pytest.mark.parametrize("most", [1, 3, 50])
def test_they_are_what_was_done_by_similarity(tiny_dataset: Dataset, most: int) -> None:
    model = create_model("itemknn").fit(tiny_dataset)
    data = tiny_dataset.training
    told = 0
    for user in (1, 7, 20):
        done = {name: part.row(user) for name, part in data.interactions.items()}
        for item in range(0, data.n_items, 5):
            alike = model.similar_items(100 + item, k=data.n_items)
            value = {
                name - 100: score
                for name, score in alike.select("item_id", "similarity").iter_rows()
            }
            mine = set(np.concatenate(list(done.values())).tolist()) - {item}
            expected = sorted((other for other in mine if other in value), key=lambda o: -value[o])
            found = reasons(model, item, done, most=most)
            told += len(found)
            # Equals may come in any order.
            assert [reason.similarity for reason in found] == pytest.approx(
                [value[other] for other in expected[:most]]
            )
            for reason in found:
                assert reason.similarity == pytest.approx(value[reason.item])
                assert list(reason.behaviors) == [n for n in done if reason.item in done[n]]
    assert told > 10


def test_there_are_none_where_nothing_is_compared_or_done(tiny_dataset: Dataset) -> None:
    done = {"view": np.array([3, 5])}
    assert reasons(create_model("popularity").fit(tiny_dataset), 4, done) == []
    model = create_model("itemknn").fit(tiny_dataset)
    assert reasons(model, 4, {"view": np.empty(0, np.int64)}) == []
    assert reasons(model, 3, {"view": np.array([3])}) == []
    assert reasons(model, 4, done)
