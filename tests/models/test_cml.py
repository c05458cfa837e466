from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from model_oracles import assert_learns, dense, in_double, minus_log_sigmoid
from torch import Tensor

from funnelrec.data.dataset import Dataset, TrainingData
from funnelrec.models.cml import CML, CMLNetwork, CMLSettings, Losses, MetaBatch, MetaWeights
from funnelrec.training.sampling import BehaviorTriples
from funnelrec.training.seeded import Seeded

Vectors = tuple[Tensor, Tensor, Tensor]


def network(data: TrainingData, **given_settings: Any) -> CMLNetwork:
    """Return a network in float64."""
    config = CMLSettings.create(
        {"dim": 4, "layers": 2, "dropout": 0.0, "contrast_weight": 0.6, **given_settings}
    )
    return in_double(CMLNetwork(config, data, torch.Generator().manual_seed(1)))


def batch(data: TrainingData, **given_settings: Any) -> Seeded[MetaBatch]:
    settings: dict[str, Any] = {"batch_size": 24, "meta_batch_size": 9, **given_settings}
    return next(CML(seed=4, device="cpu", **settings).sampler(data).epoch(1))


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(7)


def order(data: TrainingData) -> list[str]:
    return [*data.auxiliary, data.target]


def slow_vectors(made: CMLNetwork, data: TrainingData) -> Vectors:
    matrices = []
    for name in order(data):
        part = dense(data.interactions[name])
        of_users = part.sum(dim=1).clamp_min(1).rsqrt()
        of_items = part.sum(dim=0).clamp_min(1).rsqrt()
        matrices.append(of_users[:, None] * part * of_items)
    users: Tensor = made.users
    items: Tensor = made.items
    fused_users: list[Tensor] = []
    fused_items: list[Tensor] = []
    views: list[list[Tensor]] = [[] for _ in matrices]
    for user_map, item_map in zip(made.user_maps, made.item_maps, strict=True):
        to_users = [matrix @ items for matrix in matrices]
        to_items = [matrix.T @ users for matrix in matrices]
        for view, heard in zip(views, to_users, strict=True):
            view.append(1 / (1 + torch.exp(-heard @ user_map)))
        users = 1 / (1 + torch.exp(-torch.stack(to_users).mean(dim=0) @ user_map))
        items = 1 / (1 + torch.exp(-torch.stack(to_items).mean(dim=0) @ item_map))
        fused_users.append(users)
        fused_items.append(items)
    return (
        torch.cat(fused_users, dim=1) @ made.user_out,
        torch.cat(fused_items, dim=1) @ made.item_out,
        torch.stack([torch.cat(view, dim=1) @ made.user_out for view in views]),
    )


def slow_weight(meta: MetaWeights, name: str, loss: Tensor, deep: Tensor, flat: Tensor) -> Tensor:
    """Return the two towers' sigmoids of every row of one behavior, added up."""

    part: dict[str, Tensor] = dict(meta.named_parameters())

    def prelu(x: Tensor) -> Tensor:
        return torch.where(x > 0, x, part["slope"] * x)

    def normalized(x: Tensor) -> Tensor:
        centred = x - x.mean()
        unit = centred / (centred.square().mean() + 1e-5).sqrt()
        return unit * part["gain"] + part["shift"]

    dim = deep.shape[1] // 2
    inputs = torch.cat([loss[:, None].repeat(1, dim), deep], dim=1)
    first = prelu(inputs @ part[f"{name}_1"] + part[f"{name}_bias_1"])
    second = math.sqrt(3 * dim) * (first @ part[f"{name}_2"] + part[f"{name}_bias_2"])
    third = prelu(loss[:, None] * flat @ part[f"{name}_3"] + part[f"{name}_bias_3"])
    sigmoids: list[Tensor] = [
        1 / (1 + torch.exp(-normalized(tower[:, 0]))) for tower in (second, third)
    ]
    return torch.stack(sigmoids).sum(dim=0)


def slow_terms(
    made: CMLNetwork, vectors: Vectors, triples: BehaviorTriples, chosen: Tensor
) -> dict[str, Tensor]:
    """Return ranking and contrast under weights, with gradients into everything."""
    users, items, views = vectors
    behaviors, rows = len(views), len(triples.users)
    ranking, contrast = (torch.zeros((), dtype=torch.float64) for _ in range(2))
    for b in range(behaviors):
        there = [row for row in range(rows) if triples.present[b, row]]
        if there:
            u = triples.users[there]
            i, j = triples.positives[b, there], triples.negatives[b, there]
            losses = torch.stack(
                [
                    minus_log_sigmoid(users[x] @ items[y] - users[x] @ items[z])
                    for x, y, z in zip(u.tolist(), i.tolist(), j.tolist(), strict=True)
                ]
            )
            w = slow_weight(
                made.meta, "ranking", losses, torch.cat([users[u], views[b, u]], dim=1), users[u]
            )
            ranking = ranking + (w * losses).sum() / behaviors
        dim = users.shape[1]
        losses_c = []
        for place, user in enumerate(chosen.tolist()):
            chunk = made.config.chunk if made.config.chunk < len(chosen) else 1
            powers = [
                torch.exp(views[-1, user] @ views[b, other] / (dim + 1e-8))
                for at, other in enumerate(chosen.tolist())
                if at // chunk != place // chunk
            ]
            own = torch.exp(views[-1, user] @ views[b, user] / (dim + 1e-8))
            losses_c.append(-torch.log(own / torch.stack(powers).sum()))
        c = torch.stack(losses_c)
        beside = torch.cat([views[b, chosen], users[chosen]], dim=1)
        w = slow_weight(made.meta, "contrast", c, beside, beside) / 2
        contrast = contrast + (w * c).sum() / behaviors
    return {"ranking": ranking / rows, "contrast": made.config.contrast_weight * contrast / rows}


def drawn_users(made: CMLNetwork, triples: BehaviorTriples, source: torch.Generator) -> Tensor:
    """Return whom the loss contrasts, drawing what the loss draws."""
    distinct: Tensor = torch.unique(triples.users)
    number = max(2, round(made.config.contrast_share * len(distinct)))
    return distinct[torch.randperm(len(distinct), generator=source)[:number]]


def total_of(terms: dict[str, Tensor]) -> Tensor:
    return torch.stack(list(terms.values())).sum()


def test_vectors_are_their_definition_with_gradients(tiny_dataset: Dataset) -> None:
    data = tiny_dataset.training
    made = network(data, layers=3)
    found, expected = made(), slow_vectors(made, data)
    leaves = [made.users, made.items, *made.user_maps, *made.item_maps, made.user_out]
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-14)
        weight = torch.linspace(-1, 1, mine.numel(), dtype=torch.float64).view_as(mine)
        options: dict[str, Any] = {"allow_unused": True, "materialize_grads": True}
        torch.testing.assert_close(
            torch.autograd.grad((mine * weight).sum(), leaves, **options, retain_graph=True),
            torch.autograd.grad((theirs * weight).sum(), leaves, **options, retain_graph=True),
            rtol=1e-9,
            atol=1e-12,
        )


@pytest.mark.parametrize("chunk", [2, 100])
@pytest.mark.parametrize("lookahead", ["step", "none"])
def test_every_term_and_gradient_is_its_definition(
    tiny_dataset: Dataset, chunk: int, lookahead: str
) -> None:
    data = tiny_dataset.training
    made = network(data, chunk=chunk, contrast_share=0.5, lookahead=lookahead, lookahead_rate=0.01)
    seeded = batch(data)
    train, meta = seeded.batch.train, seeded.batch.meta
    found = made.loss(seeded)
    source = seeded.generator(torch.device("cpu"))
    chosen = drawn_users(made, train, source)

    # The model learns under weights that are held.
    vectors = slow_vectors(made, data)
    held = slow_terms(made, vectors, train, chosen)
    for name in ("ranking", "contrast"):
        torch.testing.assert_close(found[name], held[name], rtol=1e-9, atol=1e-12)
    model = {n: p for n, p in made.named_parameters() if not n.startswith("meta.")}
    size = torch.zeros((), dtype=torch.float64)
    for u, i, j in zip(
        train.users.tolist(),
        train.positives[-1].tolist(),
        train.negatives[-1].tolist(),
        strict=True,
    ):
        rows = (vectors[0][u], vectors[1][i], vectors[1][j])
        size = size + sum(row.square().sum() for row in rows)
    l2 = made.config.l2 * size / len(train.users)
    torch.testing.assert_close(found["l2"], l2, rtol=1e-9, atol=1e-12)

    main = total_of({name: found[name] for name in ("ranking", "contrast", "l2")})
    gradients = torch.autograd.grad(main, list(model.values()), retain_graph=True)
    nudged = slow_gradients(made, data, train, chosen)
    for mine, name in zip(gradients, model, strict=True):
        torch.testing.assert_close(mine, nudged[name], rtol=1e-6, atol=1e-9)

    # The weights learn on the meta users, under a model one step ahead that stands still.
    ahead = network(data, **made.config.model_dump())
    ahead.load_state_dict(made.state_dict())
    if lookahead == "step":
        with torch.no_grad():
            for name, parameter in ahead.named_parameters():
                if name in model:
                    step = nudged[name] / (nudged[name].abs() + 1e-8)
                    parameter.mul_(1 - 0.01 * 1e-4).sub_(0.01 * step)
    frozen = tuple(part.detach() for part in slow_vectors(ahead, data))
    tried = slow_terms(ahead, frozen, meta, drawn_users(made, meta, source))  # type: ignore[arg-type]
    torch.testing.assert_close(found["meta"], 0.5 * total_of(tried), rtol=1e-6, atol=1e-9)
    leaves, twins = list(made.meta.parameters()), list(ahead.meta.parameters())
    torch.testing.assert_close(
        torch.autograd.grad(found["meta"], leaves),
        torch.autograd.grad(0.5 * total_of(tried), twins),
        rtol=1e-5,
        atol=1e-9,
    )


def slow_gradients(
    made: CMLNetwork, data: TrainingData, train: BehaviorTriples, chosen: Tensor
) -> dict[str, Tensor]:
    """Return the gradients of the model under weights that were computed first and held."""
    vectors = slow_vectors(made, data)
    users, items, views = vectors
    with torch.no_grad():
        losses = losses_of(made, vectors, train, chosen)
        w_l, w_c = made.meta(losses, generator())
    losses = losses_of(made, vectors, train, chosen)
    rows = len(train.users)
    total = (w_l * losses.ranking * train.present).sum() / len(views) / rows
    total = total + made.config.contrast_weight * (w_c * losses.contrast).sum() / len(views) / rows
    parts = (
        users[train.users],
        items[train.positives[-1]],
        items[train.negatives[-1]],
    )
    total = total + made.config.l2 * sum(part.square().sum() for part in parts) / rows
    own = {n: p for n, p in made.named_parameters() if not n.startswith("meta.")}
    return dict(zip(own, torch.autograd.grad(total, list(own.values())), strict=True))


def losses_of(
    made: CMLNetwork, vectors: Vectors, triples: BehaviorTriples, chosen: Tensor
) -> Losses:
    users, items, views = vectors
    gaps = (users[triples.users] * (items[triples.positives] - items[triples.negatives])).sum(-1)
    return Losses(
        ranking=torch.log(1 + torch.exp(-gaps)),
        present=triples.present,
        row_users=users[triples.users],
        row_views=views[:, triples.users],
        contrast=made.contrast(views[:, chosen]),
        users=users[chosen],
        views=views[:, chosen],
    )


def test_weights_stay_in_their_ranges(tiny_dataset: Dataset) -> None:
    source = torch.Generator().manual_seed(3)
    meta = MetaWeights(4, 0.8, source)

    def rows(*shape: int) -> Tensor:
        return 30 * torch.randn(*shape, generator=source)

    ranking, contrast = meta(
        Losses(
            ranking=rows(3, 9).abs(),
            present=rows(3, 9) > 0,
            row_users=rows(9, 4),
            row_views=rows(3, 9, 4),
            contrast=rows(3, 5),
            users=rows(5, 4),
            views=rows(3, 5, 4),
        ),
        source,
    )
    assert ((ranking > 0) & (ranking < 2)).all()
    assert ((contrast > 0) & (contrast < 1)).all()
    assert ranking.std() > 0


def test_a_single_row_is_weighed_by_the_shift_alone() -> None:
    source = torch.Generator().manual_seed(3)
    meta = MetaWeights(4, 0.0, source)
    one = torch.ones(1, 1)
    losses = Losses(
        ranking=one,
        present=one > 0,
        row_users=torch.ones(1, 4),
        row_views=torch.ones(1, 1, 4),
        contrast=one,
        users=torch.ones(1, 4),
        views=torch.ones(1, 1, 4),
    )
    ranking, contrast = meta(losses, source)
    assert (ranking.item(), contrast.item()) == (1.0, 0.5)


def test_embeddings_of_zero_have_the_known_losses(tiny_dataset: Dataset) -> None:
    data = tiny_dataset.training
    made, triples = network(data, contrast_share=1.0, chunk=1), batch(data).batch.train
    zeros = (
        torch.zeros(60, 4, dtype=torch.float64),
        torch.zeros(40, 4, dtype=torch.float64),
        torch.zeros(3, 60, 4, dtype=torch.float64),
    )
    losses = made.losses(zeros, triples, generator())
    torch.testing.assert_close(losses.ranking, torch.full_like(losses.ranking, math.log(2)))
    negatives = len(set(triples.users.tolist())) - 1
    torch.testing.assert_close(
        losses.contrast, torch.full_like(losses.contrast, math.log(negatives))
    )


def test_with_one_behavior_the_view_is_the_fused_vector(tiny_dataset: Dataset) -> None:
    data = tiny_dataset.training
    users, _, views = network(data.without(*data.auxiliary), layers=3)()
    torch.testing.assert_close(views[0], users)


def test_a_step_of_zero_tries_the_weights_on_the_model_itself(tiny_dataset: Dataset) -> None:
    data = tiny_dataset.training
    still = network(data, lookahead_rate=0.0)
    plain = network(data, lookahead="none")
    drawn = batch(data)
    torch.testing.assert_close(still.loss(drawn)["meta"], plain.loss(drawn)["meta"])
    moved = network(data, lookahead_rate=0.1)
    assert not torch.allclose(moved.loss(drawn)["meta"], plain.loss(drawn)["meta"], rtol=1e-3)


@pytest.mark.parametrize("meta_steps", ["held-out", "both"])
def test_model_and_weights_learn_from_their_own_terms(
    tiny_dataset: Dataset, meta_steps: str
) -> None:
    data = tiny_dataset.training
    made = network(data, meta_steps=meta_steps)
    terms = made.loss(batch(data))
    assert set(terms) == {"ranking", "contrast", "l2", "meta"} | (
        {"meta_batch"} if meta_steps == "both" else set()
    )
    for name, term in terms.items():
        made.zero_grad()
        torch.autograd.backward(term, retain_graph=True)
        for part, parameter in made.named_parameters():
            of_weights = part.startswith("meta.")
            if of_weights is name.startswith("meta"):
                if name != "contrast" and name != "meta":
                    assert parameter.grad is not None, (name, part)
                    reached = parameter.grad.abs().max() > 0
                    assert reached or "contrast" in part or "item" in part, (name, part)
            else:
                assert parameter.grad is None or not parameter.grad.any(), (name, part)


@pytest.mark.parametrize("meta_steps", ["held-out", "both"])
def test_every_parameter_learns(tiny_dataset: Dataset, meta_steps: str) -> None:
    data = tiny_dataset.training
    made = network(data, meta_steps=meta_steps, contrast_share=1.0)
    draws = torch.Generator().manual_seed(2)
    with torch.no_grad():
        made.users.mul_(20)
        made.items.mul_(20)
        for parameter in made.parameters():
            # Rows have to lie on both sides of every kink, or a bias is the same for all of them.
            parameter.add_(torch.randn(parameter.shape, generator=draws))
    torch.autograd.backward(total_of(dict(made.loss(batch(data)))))
    for name, parameter in made.named_parameters():
        assert parameter.grad is not None, name
        slope = parameter.grad.abs().max().item()
        # What all rows have in common is taken out by the batch normalisation that follows.
        assert slope < 1e-12 if name.endswith("_bias_2") else slope > 1e-8, name
    # Dropout leaves it to some of them.
    made = network(data, meta_steps=meta_steps, contrast_share=1.0, dropout=0.5)
    assert_learns(made, total_of(dict(made.loss(batch(data)))))


def test_meta_users_are_buyers_and_never_run_out(tiny_dataset: Dataset) -> None:
    data = tiny_dataset.training
    model = CML(batch_size=10, meta_batch_size=20, seed=1, device="cpu")
    batches = [seeded.batch for seeded in model.sampler(data).epoch(2)]
    assert len(batches) == model.sampler(data).n_batches
    degrees = data.purchases.user_degrees
    for drawn in batches:
        assert (degrees[drawn.meta.users.numpy()] > 0).all()
    users = torch.cat([drawn.meta.users for drawn in batches])
    counts = torch.bincount(users)
    # One round after another: nobody comes much oftener than somebody else.
    assert counts[counts > 0].max() - counts[counts > 0].min() <= 1


def test_the_targets_triples_may_stand_for_all(tiny_dataset: Dataset) -> None:
    data = tiny_dataset.training
    meta = batch(data).batch.meta
    same = network(data, meta_behaviors="target")._meta_triples(meta)
    for part in (same.positives, same.negatives, same.present):
        assert torch.equal(part[0], part[-1])
    assert torch.equal(same.positives[-1], meta.positives[-1])
    assert network(data)._meta_triples(meta) is meta


def test_step_sizes_are_triangles() -> None:
    config = CMLSettings()
    sizes = [config.step_size(epoch) for epoch in range(1, 17)]
    assert sizes[0] == sizes[15] == pytest.approx(1e-3)
    assert sizes[5] == pytest.approx(5e-3)
    assert sizes[10] == pytest.approx(3e-3)
    meta = [config.step_size(epoch, "meta") for epoch in (1, 4, 11)]
    assert meta == pytest.approx([1e-4, 2e-3, 1e-4])
    flat = CMLSettings(learning_rate=0.01, max_learning_rate=0.001)
    assert {flat.step_size(epoch) for epoch in range(1, 20)} == {0.01}


def test_without_normalisation_neighbors_are_added_up(tiny_dataset: Dataset) -> None:
    data = tiny_dataset.training
    raw = CMLNetwork(
        CMLSettings(dim=4, normalize=False), data, torch.Generator().manual_seed(1)
    ).graphs.all
    assert all(set(graph.to_users.values.tolist()) == {1.0} for graph in raw)
