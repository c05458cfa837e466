from __future__ import annotations

import math
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
    half_square,
    in_double,
    minus_log_sigmoid,
)
from torch import Tensor

from funnelrec.common.errors import ConfigError
from funnelrec.data.dataset import Dataset, TrainingData
from funnelrec.data.interactions import Interactions
from funnelrec.evaluation.evaluate import evaluate
from funnelrec.models.rcl import RCL, RCLNetwork, RCLSettings, positions, sinusoids, slices_of
from funnelrec.training.sampling import PairSampler, Triples
from funnelrec.training.seeded import Seeded


def dated(data: TrainingData, seed: int = 3) -> TrainingData:
    """Return the data with a date of its own for every pair."""
    rng = np.random.default_rng(seed)

    def part(pairs: Interactions) -> Interactions:
        dates = rng.permutation(10_000)[: pairs.nnz].astype(np.int64)
        return replace(pairs, first=dates, last=dates)

    parts = {name: part(pairs) for name, pairs in data.interactions.items()}
    return replace(data, interactions=parts)


def network(data: TrainingData, **settings: Any) -> RCLNetwork:
    given = {
        "dim": 4,
        "heads": 2,
        "layers": 2,
        "slices": 3,
        "long_weight": 0.7,
        "short_weight": 0.3,
        "position_weight": 0.2,
        "l2": 0.4,
        **settings,
    }
    made = RCLNetwork(RCLSettings.create(given), data, torch.Generator().manual_seed(1))
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in made.parameters():
            # All slices and behaviors begin alike, which would hide a mix-up.
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    made = in_double(made)
    # Square roots in single precision would be all the difference.
    degrees = [
        part.user_degrees
        for found in slices_of({name: data.interactions[name] for name in data.chain}, made.slices)
        for part in found.values()
    ]
    made.roots = torch.from_numpy(np.sqrt(np.stack(degrees)))
    made.codes = sinusoids(int(made.positions.max()), made.config.dim).double()
    return made


def batch(data: TrainingData, size: int = 12) -> Triples:
    return next(PairSampler(data.purchases, batch_size=size, seed=4).epoch(1))


def power(degrees: Tensor) -> Tensor:
    return torch.where(degrees > 0, degrees.clamp_min(1).rsqrt(), 0.0)


def unit(row: Tensor) -> Tensor:
    return row / row.norm() if row.any() else row * 0


class Slow:
    """The equations of the docstring of RCL with the matrices G and U written out."""

    def __init__(self, made: RCLNetwork, data: TrainingData) -> None:
        self.made, self.data, self.config = made, data, made.config
        parts = {name: data.interactions[name] for name in data.chain}
        self.matrices = [
            [dense(part) for part in found.values()] for found in slices_of(parts, made.slices)
        ]

    def encode(self, s: int, b: int, before: Tensor | None) -> tuple[Tensor, Tensor]:
        made, h = self.made, self.matrices[s][b].T
        d_v, d_e = power(h.sum(dim=1)), power(h.sum(dim=0))
        u = d_e[:, None] * h.T * d_v[None, :]
        g = d_v[:, None] * (h * d_e[None, :]) @ h.T * d_v[None, :]
        items = made.items[s, b]
        if before is not None:
            gate = 1 / (1 + torch.exp(-made.gates[s - 1, b]))
            items = gate * before + (1 - gate) * items
        items = items @ made.inputs[s, b]
        of_items, of_users = [], []
        for layer in range(self.config.layers):
            slope = made.slopes[s, b, layer]
            items = g @ items @ made.of_items[s, b, layer]
            items = items.clamp(min=0) + slope * items.clamp(max=0)
            users = u @ items @ made.of_users[s, b, layer]
            users = users.clamp(min=0) + slope * users.clamp(max=0)
            of_items.append(torch.stack([unit(row) for row in items]))
            of_users.append(torch.stack([unit(row) for row in users]))
        return (
            torch.cat(of_users, dim=1) @ made.joined_users[s, b],
            torch.cat(of_items, dim=1) @ made.joined_items[s, b],
        )

    def sliced(self) -> tuple[list[list[Tensor]], list[list[Tensor]]]:
        users: list[list[Tensor]] = []
        items: list[list[Tensor]] = []
        for s in range(self.made.slices):
            found = [
                self.encode(s, b, items[s - 1][b] if s else None) for b in range(self.made.kinds)
            ]
            users.append([part[0] for part in found])
            items.append([part[1] for part in found])
        return users, items

    def recall(self, now: list[Tensor], before: list[Tensor], b: int, node: int) -> Tensor:
        made, heads = self.made, self.config.heads
        width = self.config.dim // heads
        parts = []
        for head in range(heads):
            at = slice(head * width, (head + 1) * width)
            query = (now[b][node] @ made.query)[at]
            logits = [query @ (old[node] @ made.key)[at] / width**0.5 for old in before]
            shares = torch.softmax(torch.stack(logits), dim=0)
            values = [
                share * (old[node] @ made.value) for share, old in zip(shares, before, strict=True)
            ]
            parts.append(torch.stack(values).sum(dim=0))
        return torch.cat(parts) @ made.joined_heads

    def remembered(self, views: list[list[Tensor]]) -> list[Tensor]:
        before = views[0]
        for now in views[1:]:
            before = [
                torch.stack(
                    [
                        (row + self.recall(now, before, b, node)) / 2
                        for node, row in enumerate(now[b])
                    ]
                )
                for b in range(len(now))
            ]
        return before

    def summary(self, views: list[Tensor], query: Tensor) -> Tensor:
        rows = []
        for node in range(len(views[0])):
            powers = [torch.exp((view[node] @ query)[0]) for view in views]
            total = torch.stack(powers).sum()
            shares = [2.5 * share / total for share in powers]
            parts = [share * view[node] for share, view in zip(shares, views, strict=True)]
            rows.append(torch.stack(parts).sum(dim=0))
        return torch.stack(rows)

    def embeddings(self) -> tuple[Tensor, Tensor]:
        users, items = self.sliced()
        query = self.made.fusion
        return (
            self.summary(self.remembered(users), query),
            self.summary(self.remembered(items), query),
        )

    def contrast(self, view: Tensor, other: Tensor, people: list[int]) -> Tensor:
        total = torch.zeros((), dtype=torch.float64)

        def similar(one: Tensor, two: Tensor) -> Tensor:
            return torch.exp(unit(one) @ unit(two) / self.config.temperature)

        for user in people:
            against = [similar(view[user], other[one]) for one in people]
            against += [similar(view[user], view[one]) for one in people if one != user]
            total = total - torch.log(similar(view[user], other[user]) / torch.stack(against).sum())
        return total / len(people)

    def loss(self, drawn: Triples) -> dict[str, Tensor]:
        config, made = self.config, self.made
        users, items = self.embeddings()
        sliced, _ = self.sliced()
        last = self.remembered(sliced)
        gaps, squares = [], []
        for user, positive, negative in zip(
            drawn.users.tolist(), drawn.positives.tolist(), drawn.negatives.tolist(), strict=True
        ):
            shift = torch.zeros(config.dim, dtype=torch.float64)
            if self.data.has_timestamps:
                (place,) = self.data.purchases.places([user], [positive])
                shift = config.position_weight * made.codes[made.positions[place]]
            ahead = (users[user] + shift) @ (items[positive] + shift)
            gaps.append(minus_log_sigmoid(ahead - users[user] @ items[negative]))
            rows = (users[user], items[positive], items[negative])
            squares.append(torch.stack([half_square(row) for row in rows]).sum())
        people = sorted(set(drawn.users.tolist()))
        long = [self.contrast(view, users, people) for view in last]
        short = [
            self.contrast(view, self.summary(views, made.summaries[s]), people)
            for s, views in enumerate(sliced)
            for view in views
        ]
        return {
            "bpr": torch.stack(gaps).mean() / 2,
            "l2": config.l2 * torch.stack(squares).mean(),
            "long": config.long_weight * torch.stack(long).sum(),
            "short": config.short_weight * torch.stack(short).sum(),
        }


@pytest.mark.parametrize("with_dates", [True, False])
def test_the_loss_is_its_definition_with_gradients(tiny_dataset: Dataset, with_dates: bool) -> None:
    data = tiny_dataset.training
    data = dated(data) if with_dates else data
    made, drawn = network(data), batch(data, size=7)
    assert made.slices == (3 if with_dates else 1)
    found, expected = made.loss(Seeded(drawn, seed=0)), Slow(made, data).loss(drawn)
    assert_same_with_gradients(made, found, expected, values=(1e-6, 1e-9), rtol=1e-5, atol=1e-7)


def test_scores_are_products_of_the_summaries(tiny_dataset: Dataset) -> None:
    data = dated(tiny_dataset.training)
    made = network(data)
    torch.testing.assert_close(made.embeddings(), Slow(made, data).embeddings())


def test_weights_of_a_summary_add_up_to_its_scale(tiny_dataset: Dataset) -> None:
    made = network(tiny_dataset.training)
    row = torch.randn(1, 5, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    torch.testing.assert_close(made.summary(row.expand(3, -1, -1), made.fusion), 2.5 * row[0])


def test_orthonormal_rows_have_the_known_contrast(tiny_dataset: Dataset) -> None:
    made, rows = network(tiny_dataset.training, temperature=0.4), torch.eye(4, dtype=torch.float64)
    power = math.exp(1 / 0.4)
    one = -math.log(power / (power + 2 * 3))
    assert made._contrast(rows[None], rows).item() == pytest.approx(one, rel=1e-12)
    # One summand per behavior.
    assert made._contrast(rows.expand(3, 4, 4), rows).item() == pytest.approx(3 * one, rel=1e-12)


@pytest.mark.parametrize("with_dates", [True, False])
def test_in_one_slice_both_contrasts_differ_by_the_query_alone(
    tiny_dataset: Dataset, with_dates: bool
) -> None:
    data = tiny_dataset.training
    data = dated(data) if with_dates else data
    made = network(data, slices=1, long_weight=0.6, short_weight=0.6)
    seeded = Seeded(batch(data), seed=0)
    terms = made.loss(seeded)
    assert not torch.isclose(terms["long"], terms["short"], rtol=1e-4)
    with torch.no_grad():
        made.summaries[0].copy_(made.fusion)
    terms = made.loss(seeded)
    torch.testing.assert_close(terms["long"], terms["short"], rtol=1e-12, atol=0)


def test_without_dates_nothing_is_recalled_and_no_place_is_known(tiny_dataset: Dataset) -> None:
    data = tiny_dataset.training
    made = network(data)
    names = {name for name, _ in made.named_parameters()}
    assert not names & {"gates", "query", "key", "value", "joined_heads"}
    assert not made.positions.any()
    plain = network(data, position_weight=0.0)
    seeded = Seeded(batch(data), seed=0)
    assert torch.equal(made.loss(seeded)["bpr"], plain.loss(seeded)["bpr"])
    later = network(dated(data))
    assert {"gates", "query", "key", "value", "joined_heads"} <= {
        name for name, _ in later.named_parameters()
    }
    without = network(dated(data), position_weight=0.0)
    assert later.loss(seeded)["bpr"] != without.loss(seeded)["bpr"]


def test_the_protocol_says_whether_dates_were_read(tiny_dataset: Dataset) -> None:
    tiny: dict[str, Any] = {"dim": 4, "layers": 1, "epochs": 1, "device": "cpu"}
    without = evaluate(RCL(**tiny).fit(tiny_dataset), tiny_dataset).protocol
    assert without.inputs == (
        "timestamps: none, so it takes all events as one slice of time, without places in a "
        "sequence",
    )
    data = replace(tiny_dataset, training=dated(tiny_dataset.training))
    with_them = evaluate(RCL(**tiny).fit(data), data).protocol
    assert with_them.inputs == ("timestamps: read",)


def test_maps_that_begin_as_the_identity_leave_a_user_at_his_items(
    make_dataset: Callable[..., Dataset],
) -> None:
    pairs = [(0, 0), (1, 1), (1, 2), (2, 2)]
    data = make_dataset({"view": pairs, "purchase": pairs}, n_users=3, n_items=3).training
    found = []
    for init in ("identity", "xavier"):
        settings = RCLSettings(dim=8, layers=2, map_init=init)
        made = RCLNetwork(settings, data, torch.Generator().manual_seed(1))
        with torch.no_grad():
            # Users pass one PReLU more than items.
            made.slopes.fill_(1.0)
        ((users,), (items,)) = ([part[-1:] for part in side] for side in made.sliced())
        found.append(torch.cosine_similarity(users[0], items[0]).tolist())
    # User 0 and item 0 have nobody else; user 1 is between two items.
    assert found[0][0] == pytest.approx(1.0, abs=1e-6)
    assert found[0][1] < 0.9999
    assert abs(found[1][0]) < 0.9


@pytest.mark.parametrize("with_dates", [True, False])
def test_every_parameter_learns(tiny_dataset: Dataset, with_dates: bool) -> None:
    data = tiny_dataset.training
    made = network(dated(data) if with_dates else data)
    terms = made.loss(Seeded(batch(data, size=60), seed=0))
    assert_learns(made, torch.stack(list(terms.values())).sum())


def test_slices_are_equal_spans_of_all_behaviors(tiny_dataset: Dataset) -> None:
    data = dated(tiny_dataset.training)
    parts = {name: data.interactions[name] for name in data.chain}
    found = slices_of(parts, 4)
    dates = np.concatenate([part.last for part in parts.values() if part.last is not None])
    width = (dates.max() - dates.min() + 1) / 4
    for name, whole in parts.items():
        keys = np.concatenate([part[name].keys for part in found])
        assert sorted(keys) == whole.keys.tolist()
        for number, part in enumerate(found):
            last = part[name].last
            assert last is not None
            assert (np.abs((last - dates.min()) / width - number - 0.5) <= 0.51).all()
    # Dates in microseconds have more digits than a float holds.
    start = 1_700_000_000_000_000
    moments = [start, start + 1, start + 2, start + 3]
    late = Interactions.from_pairs([0, 0, 0, 0], [0, 1, 2, 3], n_users=1, n_items=4, first=moments)
    assert [part["buy"].nnz for part in slices_of({"buy": late}, 4)] == [1, 1, 1, 1]
    nothing = late.select(late.items < 0)
    assert [part["buy"].nnz for part in slices_of({"buy": nothing}, 2)] == [0, 0]


def test_places_follow_the_dates_of_a_user(tiny_dataset: Dataset) -> None:
    bought = dated(tiny_dataset.training).purchases
    assert bought.last is not None
    places = positions(bought)
    for user in (1, 2, 3, 7):
        row = slice(bought.indptr[user], bought.indptr[user + 1])
        assert places[row].tolist() == (np.argsort(np.argsort(bought.last[row])) + 1).tolist()


def test_codes_are_sines_and_cosines_of_length_one() -> None:
    codes = sinusoids(3, 4)
    assert not codes[0].any()
    wanted = torch.tensor([np.sin(2), np.cos(2), np.sin(2 / 100), np.cos(2 / 100)])
    torch.testing.assert_close(codes[3], (wanted / wanted.norm()).float())


def test_the_step_size_is_a_triangle_over_epochs() -> None:
    config = RCLSettings()
    sizes = [config.step_size(epoch) for epoch in (1, 6, 11, 16, 21)]
    assert sizes == pytest.approx([1e-4, 1e-3, 5.5e-4, 1e-4, 1e-3])
    assert config.decoupled_weight_decay
    # A step size below the lowest one is constant.
    flat = RCLSettings(learning_rate=1e-5)
    assert {flat.step_size(epoch) for epoch in range(1, 20)} == {1e-5}


def test_fewer_pairs_are_contrasted_if_asked(tiny_dataset: Dataset) -> None:
    data = tiny_dataset.training
    drawn = batch(data, size=20)
    first = Triples(drawn.users[:6], drawn.positives[:6], drawn.negatives[:6])
    cut = network(data, contrast_pairs=6).loss(Seeded(drawn, seed=0))
    alone = network(data).loss(Seeded(first, seed=0))
    for name in ("long", "short"):
        torch.testing.assert_close(cut[name], alone[name])
    assert cut["bpr"] != alone["bpr"]


def test_only_purchases_are_left_out_at_a_step(tiny_dataset: Dataset) -> None:
    data = dated(tiny_dataset.training)
    whole, thinned = network(data), network(data, target_dropout=0.6)
    torch.testing.assert_close(thinned.embeddings(), whole.embeddings())
    found = thinned.sliced(torch.Generator().manual_seed(5))
    for side, expected in zip(found, whole.sliced(), strict=True):
        # What a slice hears from the one before is the same behavior's, so it stays apart, too.
        for views, plain in zip(side, expected, strict=True):
            torch.testing.assert_close(views[:-1], plain[:-1])
            assert not torch.allclose(views[-1], plain[-1])
    drawn = batch(data)
    losses = [thinned.loss(Seeded(drawn, seed=seed))["bpr"] for seed in (1, 1, 2)]
    assert losses[0] == losses[1] != losses[2]


def test_heads_must_divide_the_length() -> None:
    with pytest.raises(ConfigError, match="dim must be a multiple of heads, got dim 6 and heads 4"):
        RCL(dim=6)
