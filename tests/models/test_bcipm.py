from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from model_oracles import (
    assert_learns,
    assert_same_with_gradients,
    dense,
    in_double,
    minus_log_sigmoid,
)
from torch import Tensor

from funnelrec.common.errors import CapabilityError
from funnelrec.data.dataset import Dataset, TrainingData
from funnelrec.models.bcipm import BCIPM, BCIPMNetwork, BCIPMSettings, RecordBatch, RecordSampler

Make = Callable[..., Dataset]


def network(data: TrainingData, **settings: Any) -> BCIPMNetwork:
    given = {"dim": 4, "reg_weight": 0.3, **settings}
    made = BCIPMNetwork(BCIPMSettings.create(given), data, torch.Generator().manual_seed(1))
    with torch.no_grad():
        made.codes.add_(torch.linspace(-0.5, 0.5, made.codes.numel()).reshape(made.codes.shape))
    return in_double(made)


def batch(data: TrainingData) -> RecordBatch:
    """Return records of users without a purchase (3), with nothing else (2), and of others."""
    sampler = RecordSampler(data, negatives=2, batch_size=10_000, seed=4)
    whole = next(sampler.epoch(1))
    order = torch.argsort(whole.users, stable=True)[:25]
    rows = ("users", "behaviors", "items", "positives", "negatives", "present", "places")
    return replace(whole, **{name: getattr(whole, name)[order] for name in rows})


def slow_convolution(matrix: Tensor, users: Tensor, items: Tensor, config: Any) -> Tensor:
    """Return all nodes after the graph convolution, from the dense matrix."""
    n_users = len(users)
    whole = torch.zeros(sum(matrix.shape), sum(matrix.shape), dtype=torch.float64)
    whole[:n_users, n_users:] = matrix
    whole[n_users:, :n_users] = matrix.T
    degrees = whole.sum(dim=1)
    scale = torch.where(degrees > 0, degrees.clamp_min(1).rsqrt(), 0.0)
    whole = scale[:, None] * whole * scale[None, :]
    layer = total = torch.cat([users, items])
    for number in range(1, config.layers + 1):
        layer = whole @ layer
        lengths = layer.square().sum(dim=1, keepdim=True)
        layer = layer / torch.where(lengths > 0, lengths, 1.0).sqrt()
        total = total + (1 / number + 1 if config.layer_weights == "harmonic" else 1) * layer
    return total


class Slow:
    """The equations of the docstring of BCIPM, one pair at a time."""

    def __init__(self, made: BCIPMNetwork, data: TrainingData) -> None:
        self.made, self.data, self.config = made, data, made.config
        matrices = [dense(part) for part in data.interactions.values()]
        union = torch.stack(matrices).amax(dim=0)
        shift = data.n_users
        self.g = slow_convolution(union, made.users, made.items, self.config)
        self.t = slow_convolution(
            dense(data.purchases), self.g[:shift], self.g[shift:], self.config
        )

    def cell(self, user: int, item: int, behavior: int) -> Tensor:
        made, dim = self.made, self.config.dim
        g_u, g_i = self.g[user], self.g[self.data.n_users + item]
        code = made.codes[behavior]
        gates = torch.sigmoid(torch.cat([g_u, g_i, code]) @ made.gates)
        inner = torch.tanh(torch.cat([gates[:dim] * g_u, g_i, code]) @ made.candidate)
        return gates[dim:] * inner

    def score(self, user: int, item: int, without: int | None = None) -> Tensor:
        target, shift = len(self.data.behaviors) - 1, self.data.n_users
        basket = [one for one in self.data.purchases.row(user).tolist() if one != without]
        share = 1 / max(len(basket), 1)
        g_i = self.g[shift + item]
        heard = [self.cell(user, bought, target) @ g_i for bought in basket]
        first = torch.stack(heard).sum() if heard else g_i.sum() * 0
        both = (self.g[user] + self.t[user]) @ (g_i + self.t[shift + item])
        return (1 - share) * first + share * both

    def loss(self, drawn: RecordBatch) -> dict[str, Tensor]:
        config = self.config
        logs, gaps = [], []
        for row, user in enumerate(drawn.users.tolist()):
            for place, item in enumerate(drawn.items[row].tolist()):
                heard = self.cell(user, item, int(drawn.behaviors[row]))
                logit = heard @ self.g[self.data.n_users + item]
                logs.append(minus_log_sigmoid(logit if place == 0 else -logit))
            if drawn.present[row]:
                positive, negative = int(drawn.positives[row]), int(drawn.negatives[row])
                without = positive if config.exclude_self else None
                gaps.append(
                    minus_log_sigmoid(
                        self.score(user, positive, without) - self.score(user, negative, without)
                    )
                )
        lengths = self.made.users.square().sum().sqrt() / self.data.n_users
        lengths = lengths + self.made.items.square().sum().sqrt() / self.data.n_items
        return {
            "log": config.log_weight * torch.stack(logs).mean(),
            "bpr": (1 - config.log_weight) * torch.stack(gaps).mean(),
            "reg": config.reg_weight * lengths,
        }


@pytest.mark.parametrize(
    "settings",
    [{}, {"layers": 3, "layer_weights": "sum"}, {"exclude_self": True}, {"log_weight": 0.8}],
)
def test_the_loss_is_its_definition_with_gradients(
    tiny_dataset: Dataset, settings: dict[str, Any]
) -> None:
    data = tiny_dataset.training
    made, drawn = network(data, **settings), batch(data)
    assert 0 < drawn.present.sum() < len(drawn.present)
    assert set(drawn.behaviors.tolist()) == {0, 1, 2}
    found, expected = made.loss(drawn), Slow(made, data).loss(drawn)
    assert_same_with_gradients(made, found, expected, values=(1e-9, 1e-12), rtol=1e-7, atol=1e-11)


def test_the_two_vectors_give_the_score(tiny_dataset: Dataset) -> None:
    data = tiny_dataset.training
    made = network(data)
    users, items = made.embeddings()
    assert users.shape == (60, 8)
    slow, scores = Slow(made, data), users @ items.T
    # Nothing done, everything bought, only bought, only touched, and the ordinary.
    for user in (0, 1, 2, 3, 7, 30):
        for item in (0, 5, 39):
            torch.testing.assert_close(scores[user, item], slow.score(user, item))


def test_a_single_purchase_is_left_to_the_graphs(make_dataset: Make) -> None:
    behaviors = {"view": [(0, 1), (1, 2)], "purchase": [(0, 0), (1, 1), (1, 2)]}
    data = make_dataset(behaviors, n_users=2, n_items=3).training
    made = network(data)
    users, items = made.embeddings()
    encoded = made.encode()
    graphs = (encoded.users + encoded.target_users) @ (encoded.items + encoded.target_items).T
    torch.testing.assert_close((users @ items.T)[0], graphs[0])
    assert not torch.allclose((users @ items.T)[1], graphs[1])


def test_a_closed_or_empty_cell_says_nothing(tiny_dataset: Dataset) -> None:
    data = tiny_dataset.training
    made = network(data)
    pair = (torch.ones(1, 4).double(), torch.ones(1, 4).double(), made.codes[-1:])
    with torch.no_grad():
        made.gates.zero_()
        half = made.cell(*pair)
        context = torch.cat([pair[0] / 2, pair[1], pair[2]], dim=1)
        torch.testing.assert_close(half, torch.tanh(context @ made.candidate) / 2)
        made.gates[:, 4:] = -1e3
        assert made.cell(*pair).abs().max() < 1e-100
        made.candidate.zero_()
        made.gates.zero_()
    users, _ = made.embeddings()
    assert not users[:, :4].any()


def test_without_the_cross_entropy_records_of_auxiliaries_do_not_matter(
    tiny_dataset: Dataset,
) -> None:
    data = tiny_dataset.training
    made, drawn = network(data, log_weight=0.0), batch(data)
    other = replace(drawn, behaviors=torch.zeros_like(drawn.behaviors), items=drawn.items.flip(1))
    found, changed = made.loss(drawn), made.loss(other)
    assert set(found) == {"bpr", "reg"}
    assert torch.equal(found["bpr"], changed["bpr"])
    whole = network(data, log_weight=1.0).loss(drawn)
    assert set(whole) == {"log", "reg"}


def test_every_parameter_learns(tiny_dataset: Dataset) -> None:
    data = tiny_dataset.training
    made, drawn = network(data), batch(data)
    terms = made.loss(drawn)
    for name in ("log", "bpr"):
        slopes = torch.autograd.grad(
            terms[name], [made.users, made.items, made.gates, made.candidate], retain_graph=True
        )
        assert all(slope.isfinite().all() and slope.abs().max() > 0 for slope in slopes)
    # The code of an auxiliary behavior is reached through its records alone.
    assert_learns(made, torch.stack(list(terms.values())).sum())


def test_an_epoch_has_every_record_once_with_what_belongs_to_it(tiny_dataset: Dataset) -> None:
    data = tiny_dataset.training
    sampler = RecordSampler(data, negatives=3, batch_size=64, seed=1)
    met = []
    for drawn in sampler.epoch(1):
        users, items = drawn.users.numpy(), drawn.items.numpy()
        met += list(zip(users, items[:, 0], drawn.behaviors.numpy(), strict=True))
        assert not data.seen.contains(np.repeat(users, 3), items[:, 1:].ravel()).any()
        assert not data.seen.contains(users, drawn.negatives.numpy()).any()
        bought = data.purchases.contains(users, drawn.positives.numpy())
        there = drawn.present.numpy()
        assert np.array_equal(there, data.purchases.user_degrees[users] > 0)
        assert (bought | ~there).all()
        buyers = drawn.buyers.numpy()
        assert np.array_equal(buyers[drawn.places.numpy()], users)
        assert np.array_equal(drawn.sizes.numpy(), data.purchases.user_degrees[buyers])
        baskets = [data.purchases.row(user).tolist() for user in buyers]
        assert drawn.bought.tolist() == [item for basket in baskets for item in basket]
        assert np.array_equal(np.bincount(drawn.rows, minlength=len(buyers)), drawn.sizes.numpy())
    # User 1 has every item, so nothing can be set against hers.
    wanted = [
        (user, item, place)
        for place, part in enumerate(data.interactions.values())
        for user, item in zip(part.users.tolist(), part.indices.tolist(), strict=True)
        if user != 1
    ]
    assert sorted(met) == sorted(wanted)
    assert sampler.notes


def test_an_epoch_can_be_cut_short(tiny_dataset: Dataset) -> None:
    data = tiny_dataset.training
    whole = BCIPM(batch_size=64).sampler(data)
    cut = BCIPM(batch_size=64, records_per_epoch=150).sampler(data)
    assert cut.n_batches == 3 < whole.n_batches
    epochs = [
        [
            record
            for drawn in cut.epoch(number)
            for record in zip(drawn.users.tolist(), drawn.items[:, 0].tolist(), strict=True)
        ]
        for number in (1, 2)
    ]
    assert [len(records) for records in epochs] == [150, 150]
    assert set(epochs[0]) != set(epochs[1])
    more = BCIPM(batch_size=64, records_per_epoch=10**6).sampler(data)
    assert more.n_batches == whole.n_batches


def test_the_release_is_the_default() -> None:
    assert BCIPM(preset="release").config == BCIPM().config
    config = BCIPM(preset="release").config
    assert (config.learning_rate, config.batch_size, config.log_weight) == (1e-4, 1024, 0.4)
    assert (config.layer_weights, config.exclude_self) == ("harmonic", False)


def test_without_a_user_to_learn_from_it_refuses(make_dataset: Make) -> None:
    data = make_dataset({"view": [(1, 0)], "purchase": [(0, 0), (0, 1)]}, n_users=2, n_items=2)
    with pytest.raises(CapabilityError, match="no user has both a training pair"):
        BCIPM(device="cpu").fit(data)
