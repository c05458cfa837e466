"""Writes what the authors' code of eight models computes on a tiny shop.

    python tests/models/make_release_numbers.py CLONES

CLONES holds clones of tsinghua-fib-lab/MBGCN, weiwei1206/CML, GuShuyun/MBRec, MingshiYan/CRGCN,
HKUDS/RCL, MingshiYan/BIPN, MingshiYan/UIPL (commit 8276bc7) and Scofield666/MBSSL in folders MBGCN,
CML, MBRec, CRGCN, RCL, BIPN, UIPL and MBSSL; models named after it are computed alone and the
others kept. Their classes are called as they are, on a
CPU, in float32; what they read from files or the command line is handed to them. Graphs of items of
MBGCN, whose making its release does not show, are those of the model here. Both maps of items of
S-MBRec are one. What CRGCN imports from PyTorch Geometric, a sum over the edges of a node, is stood
in for. Rows for padding of CRGCN, BIPN and UIPL are zeros. What CML, UIPL and MBSSL draw at random
is given. The ranking losses of CML and RCL, which stand in their loops, are made here from the
scores of their methods. MBSSL's contrasts get the items without the row for padding, which would
add 1 to every denominator, and its users' lists are not cut.

NMTR, MB-CGCN, PKEF and COPF are absent: their releases are graphs of TensorFlow 1.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import scipy.sparse as sp
import torch
import torch.nn.functional as F
from release_shop import (
    BASKETS,
    BATCHES,
    PAIRS,
    PLACES,
    RECORDS,
    SHAPE,
    THINNED,
    TRIPLES,
    matrix,
    similarity,
    wave,
)
from torch import Tensor

from funnelrec.data.interactions import Interactions
from funnelrec.models.mbgcn import alike_items

TARGET = Path(__file__).with_name("release_numbers.json")
STAND_INS: list[ModuleType] = []


def of(folder: Path, module: str) -> Any:
    """Return a module of a clone, with its neighbors in reach."""
    sys.path.insert(0, str(folder))
    try:
        return importlib.import_module(module)
    finally:
        sys.path.remove(str(folder))


def forget(clones: Path) -> None:
    """Take modules of clones and stand-ins out of the cache: others may have their names."""
    for name, module in list(sys.modules.items()):
        places = [vars(module).get("__file__"), *vars(module).get("__path__", [])]
        if module in STAND_INS or any(
            place and Path(place).is_relative_to(clones) for place in places
        ):
            del sys.modules[name]


def stand_in(**modules: dict[str, Any]) -> None:
    """Put modules of this content in reach of imports; two underscores in a name are a dot."""
    for name, content in modules.items():
        module = ModuleType(name.replace("__", "."))
        vars(module).update(content)
        sys.modules[module.__name__] = module
        STAND_INS.append(module)


@contextlib.contextmanager
def on_cpu() -> Iterator[None]:
    """Let tensors stay where they are when they are sent to a GPU."""
    with mock.patch.object(torch.Tensor, "cuda", lambda self, *_: self):
        yield


def heard(parts: dict[str, torch.nn.Module]) -> dict[str, float]:
    """Return what these modules give, once they were called."""
    found: dict[str, float] = {}

    def listen(name: str) -> Any:
        return lambda module, inputs, output: found.update({name: output.item()})

    for name, part in parts.items():
        part.register_forward_hook(listen(name))
    return found


@contextlib.contextmanager
def files_of_pairs(*, start: int) -> Iterator[Path]:
    """Give a folder with a file of each behavior's pairs, counted from ``start``."""
    with tempfile.TemporaryDirectory() as folder:
        for name, pairs in BASKETS.items():
            lines = [f"{user + start} {item + start}" for user, item in pairs]
            (Path(folder) / f"{name}.txt").write_text("\n".join(lines))
        yield Path(folder)


def fill(parameter: Any, seed: int) -> None:
    """Set a parameter to its wave."""
    with torch.no_grad():
        parameter.copy_(wave(seed, *parameter.shape))


def mbgcn(folder: Path) -> dict[str, Any]:
    names = ["purchase", "view"]
    alike = {}
    for name in names:
        of_users, of_items = zip(*PAIRS[name], strict=True)
        pairs = Interactions.from_pairs(of_users, of_items, n_users=SHAPE[0], n_items=SHAPE[1])
        alike[name] = torch.from_numpy(alike_items(pairs, 2).toarray())
    trainset = SimpleNamespace(
        user_num=SHAPE[0],
        item_num=SHAPE[1],
        relation=names,
        relation_dict={name: matrix(name).to_sparse() for name in names},
        item_graph=dict(alike),
        item_graph_degree={name: part.sum(dim=1, keepdim=True) for name, part in alike.items()},
        train_matrix=matrix("purchase").to_sparse(),
        user_behaviour_degree=torch.stack([matrix(name).sum(dim=1) for name in names], dim=1),
    )
    flags = SimpleNamespace(
        embedding_size=3,
        L2_norm=1e-2,
        create_embeddings="True",
        mgnn_weight=[1.0, 1.0],
        lamb=1.0,
        message_dropout=0.2,
        node_dropout=0.2,
    )
    made = of(folder, "model").MBGCN(flags, trainset, torch.device("cpu")).eval()
    with torch.no_grad():
        made.mgnn_weight.copy_(torch.tensor([1.3, 0.7]))
    for seed, parameter in enumerate(
        [
            made.user_embedding,
            made.item_embedding,
            made.W,
            made.item_propagate_W[0],
            made.item_propagate_W[1],
            made.item_behaviour_W[0],
            made.item_behaviour_W[1],
        ]
    ):
        fill(parameter, seed)
    users, positives, negatives = TRIPLES
    items = torch.tensor([positives, [row[0] for row in negatives]]).T
    output = made(torch.tensor(users)[:, None], items)
    loss = of(folder, "loss").bprloss(output, len(users), "mean")
    return {"scores": made.evaluate(torch.arange(SHAPE[0])).tolist(), "loss": loss.item()}


def cml(folder: Path) -> dict[str, Any]:
    args = SimpleNamespace(
        hidden_dim=4, gnn_layer="[4,4]", head_num=4, drop_rate=0.0, drop_rate1=0.0, slope=0.1,
        inner_product_mult=1, SSL_batch=2,
    )  # fmt: skip
    stand_in(Params={"args": args}, tqdm={"tqdm": None})
    names = ["view", "purchase"]
    graphs = {
        place: {"A": matrix(name).to_sparse(), "AT": matrix(name).T.to_sparse()}
        for place, name in enumerate(names)
    }
    made = of(folder, "BGNN").myModel(*SHAPE, names, graphs).gcn
    weights = [made.user_embedding.weight, made.item_embedding.weight]
    for layer in made.layers:
        weights += [layer.u_w, layer.i_w]
    weights += [made.u_concatenation_w, made.i_concatenation_w]
    for seed, parameter in enumerate(weights):
        fill(parameter, seed)
    users, items, views, _ = made()

    # It moves a parameter that it does not use to a GPU.
    with on_cpu():
        meta = of(folder, "MV_Net").MetaWeightNet(len(names))
    for seed, name in enumerate(
        ["SSL_layer1", "SSL_layer2", "SSL_layer3", "RS_layer1", "RS_layer2", "RS_layer3"]
    ):
        fill(getattr(meta, name).weight, seed)
        fill(getattr(meta, name).bias, seed + 10)
    contrast, ranking = [list(wave(seed, 2, 4).abs()) for seed in (20, 21)]
    rows = torch.tensor([0, 2, 3, 4])
    of_contrast, of_ranking = meta(contrast, ranking, rows, [rows, rows], views, users)

    trainer = of(folder, "main").Model
    anchors, positives, negatives = TRIPLES
    one, other = trainer.innerProduct(
        None, users[anchors], items[positives], items[[row[0] for row in negatives]]
    )
    chosen = rows.numpy()
    with on_cpu(), mock.patch.object(np.random, "choice", return_value=chosen):
        contrasts, _ = trainer.SSL(
            SimpleNamespace(behaviors_SSL=names), views, None, users, items, rows
        )
    return {
        "ranking_losses": F.softplus(other - one).tolist(),
        "contrast_losses": [part.tolist() for part in contrasts],
        "users": users.tolist(),
        "items": items.tolist(),
        "views": views.tolist(),
        "contrast_weights": [part.tolist() for part in of_contrast],
        "ranking_weights": [part.tolist() for part in of_ranking],
    }


def normalised(name: str) -> sp.coo_matrix:
    part = matrix(name).numpy()
    whole = np.zeros((sum(SHAPE), sum(SHAPE)))
    whole[: SHAPE[0], SHAPE[0] :], whole[SHAPE[0] :, : SHAPE[0]] = part, part.T
    sums = whole.sum(axis=1)
    scale = np.where(sums > 0, 1 / np.sqrt(np.maximum(sums, 1)), 0)
    return sp.coo_matrix(scale[:, None] * whole * scale)


def s_mbrec(folder: Path) -> dict[str, Any]:
    dim, kept = 4, {}
    users, positives, negatives = TRIPLES
    batch: dict[str, Tensor] = {
        "users": torch.tensor(users),
        "type_n": torch.stack(
            [matrix(name).sum(dim=1)[users] for name in ("purchase", "cart", "view")]
        ),
        "pos_items": torch.tensor(positives),
        "neg_items": torch.tensor(negatives),
    }
    for weight in (0.0, 0.2):
        args = SimpleNamespace(
            l2=1e-2, dim=dim, context_hops=2, mess_dropout=False, mess_dropout_rate=0.1,
            edge_dropout=False, edge_dropout_rate=0.1, pool="mean", n_negs=1, ns="rns", K=2,
            tua0=1.0, tua1=0.5, tua2=0.2, tua3=0.2, lamda=weight, cuda=False,
        )  # fmt: skip
        made = of(folder, "modules.LightGCN").LightGCN(
            {"n_users": SHAPE[0], "n_items": SHAPE[1]},
            args,
            *(normalised(name) for name in ("purchase", "cart", "view")),
        )
        parameters = (made.user_embed, made.item_embed, made.weightu, made.weighti)
        for seed, parameter in enumerate(parameters):
            fill(parameter, seed)
        fill(made.weightin, 3)
        kept[f"loss_{weight}"] = made(batch).item()
        kept["scores"] = made.rating(*made.generate()).tolist()
    return kept


class Messages(torch.nn.Module):
    """Adds up what the edges of a node bring, as PyTorch Geometric's class of this use does."""

    def __init__(self, aggr: str) -> None:
        super().__init__()
        self.node_dim = -2

    def propagate(self, edges: Tensor, *, x: Tensor, edge_weight: Tensor, size: None) -> Tensor:
        """Return the sums, one row a node."""
        messages: Any = self
        return torch.zeros_like(x).index_add(
            0, edges[1], messages.message(x[edges[0]], edge_weight)
        )


def sums(weights: Tensor, to: Tensor, *, dim: int, dim_size: int) -> Tensor:
    """Return the weights of each node's edges added up."""
    return weights.new_zeros(dim_size).index_add(dim, to, weights)


def crgcn(folder: Path) -> dict[str, Any]:
    stand_ins: dict[str, dict[str, Any]] = {
        "torch_geometric": {},
        "torch_geometric.typing": {"Adj": Any, "OptTensor": Any},
        "torch_geometric.utils": {"add_remaining_self_loops": None},
        "torch_geometric.utils.num_nodes": {"maybe_num_nodes": lambda edges, number: number},
        "torch_geometric.nn": {},
        "torch_geometric.nn.inits": {"zeros": torch.nn.init.zeros_},
        "torch_geometric.nn.dense": {},
        "torch_geometric.nn.dense.linear": {"Linear": None},
        "torch_geometric.nn.conv": {"MessagePassing": Messages},
        "torch_scatter": {"scatter_add": sums},
        "torch_sparse": {
            "SparseTensor": type(None), "matmul": None, "fill_diag": None, "sum": None, "mul": None,
        },
    }  # fmt: skip
    stand_in(**{name.replace(".", "__"): content for name, content in stand_ins.items()})
    names = ["view", "cart", "purchase"]
    edges = {}
    for name in names:
        # Row 0 of users and of items is for padding.
        pairs = torch.tensor(PAIRS[name]).T + torch.tensor([[1], [SHAPE[0] + 2]])
        edges[name] = torch.cat([pairs, pairs.flip(0)], dim=1)
    dataset = SimpleNamespace(user_count=SHAPE[0], item_count=SHAPE[1], edge_index=edges)
    args = SimpleNamespace(
        device=torch.device("cpu"), layers=[2, 1, 1], node_dropout=0.0, message_dropout=0.0,
        behaviors=names, embedding_size=4, reg_weight=0.3, model_path="", check_point="",
        if_load_model=False,
    )  # fmt: skip
    made = of(folder, "model_cascade").CRGCN(args, dataset)
    biases = [layer.bias for name in names for layer in made.Graph_encoder[name].gnn_layers]
    with torch.no_grad():
        for seed, table in enumerate([made.user_embedding.weight, made.item_embedding.weight]):
            table[0] = 0
            fill(table[1:], seed)
    for seed, bias in enumerate(biases, start=2):
        fill(bias, seed)
    users, positives, negatives = TRIPLES
    batch = torch.zeros(SHAPE[0], len(names), 3, dtype=torch.long)
    for place, (user, positive, others) in enumerate(zip(users, positives, negatives, strict=True)):
        # Of the first behavior the last user of the batch has nothing; of the last, nobody else.
        for behavior in range(len(names)):
            if (behavior, place) not in ((0, 3), (2, 0)):
                negative = others[behavior % 2]
                batch[place, behavior] = torch.tensor([user, positive, negative]) + 1
    loss = made(batch)
    scores = made.full_predict(torch.arange(SHAPE[0]) + 1)[:, 1:]
    return {"loss": loss.item(), "scores": scores.tolist()}


def rcl(folder: Path) -> dict[str, Any]:
    args = SimpleNamespace(hidden_dim=4, gnn_layer="[4,4]", head_num=2, drop_rate=0.0, tau=0.5)
    stand_in(params={"args": args}, dgl={})
    names = ["view", "purchase"]
    graphs = {}
    with on_cpu():
        for place, name in enumerate(names):
            incidence = sp.csr_matrix(matrix(name).T.numpy())
            both = of(folder, "hypergraph_utils").generate_G_from_H(incidence)
            graphs[place] = {0: dict(zip("GU", both, strict=True))}
    made = of(folder, "model").myModel(*SHAPE, 1, names, graphs)
    for place, name in enumerate(names):
        part = made.hgnns[0][name]
        weights = [part.item_embedding.weight, part.i_input_w]
        weights += [layer.i_w for layer in part.layers] + [layer.u_w for layer in part.layers]
        weights += [part.i_concatenation_w, part.u_concatenation_w]
        for seed, parameter in enumerate(weights):
            fill(parameter, seed + 10 * place)
        with torch.no_grad():
            for number, layer in enumerate(part.layers):
                layer.act.weight.fill_(0.1 + 0.2 * number + 0.3 * place)
    fill(made.weight_dict["w_d_d"], 30)
    fill(made.time_attention_weight_dict[0], 31)
    users, items, within, summaries, views = made(graphs)
    trainer = of(folder, "main").Model
    alone = SimpleNamespace(sim=lambda one, other: trainer.sim(None, one, other))

    def contrast(parts: Any, summary: Tensor) -> float:
        losses = [
            trainer.batched_contrastive_loss(alone, parts[name][TRIPLES[0]], summary[TRIPLES[0]])
            for name in names
        ]
        return torch.stack(losses).sum().item()

    anchors, positives, negatives = TRIPLES
    others = [row[0] for row in negatives]
    places = torch.zeros(SHAPE, dtype=torch.long)
    places[anchors, positives] = torch.tensor(PLACES)
    with on_cpu():
        codes = trainer.positional_encoding(None, 4, max(PLACES)).float()
    placed = SimpleNamespace(positional_mat=places, positional_embedding=codes)
    ranking = {}
    for rate in (0.0, 0.2):
        args.positional_rate = rate
        ahead, behind = trainer.innerProduct_positional(
            placed, users[anchors], items[positives], items[others], anchors, positives, others
        )
        ranking[f"bpr_{rate}"] = F.softplus(behind - ahead).sum().item()
    return {
        **ranking,
        "users": users.tolist(),
        "items": items.tolist(),
        "long": contrast(views, users),
        "short": contrast(within[0], summaries[0]),
    }


def fill_padded(*tables: Any) -> None:
    """Set tables to their waves, after a first row of zeros."""
    with torch.no_grad():
        for seed, rows in enumerate(tables):
            rows[0] = 0
            fill(rows[1:], seed)


@contextlib.contextmanager
def dictionaries() -> Iterator[None]:
    """Give matrices of keys the update that later versions of SciPy took from them."""

    def update(self: Any, entries: dict[tuple[int, int], float]) -> None:
        for (row, column), value in entries.items():
            self[row, column] = value

    with mock.patch.object(sp.dok_matrix, "_update", update, create=True):
        yield


def of_pairs(folder: Path, names: list[str]) -> SimpleNamespace:
    """Return what the data set of BIPN or UIPL makes of the pairs."""
    dataset = SimpleNamespace(behaviors=names, user_count=SHAPE[0], item_count=SHAPE[1])
    dataset.test_interacts = {str(user + 1): [] for user in range(SHAPE[0])}
    with files_of_pairs(start=1) as dataset.path:
        of(folder, "data_set").DataSet._DataSet__get_sparse_interact_dict(dataset)
    return dataset


def bcipm(folder: Path) -> dict[str, Any]:
    names = ["view", "cart", "purchase"]
    args = SimpleNamespace(
        device=torch.device("cpu"), layers=2, reg_weight=0.3, log_reg=0.4, node_dropout=0.0,
        message_dropout=0.0, behaviors=names, embedding_size=4, model_path="", check_point="",
        if_load_model=False,
    )  # fmt: skip
    with dictionaries():
        made = of(folder, "model").BIPN(args, of_pairs(folder, names))
    fill_padded(made.user_embedding.weight, made.item_embedding.weight)
    fill(made.bhv_embs, 2)
    fill(made.RZ.weight, 3)
    fill(made.U.weight, 4)
    batch = torch.zeros(SHAPE[0], 4, 4, dtype=torch.long)
    for place, (user, item, behavior, others) in enumerate(
        zip(*(RECORDS[part] for part in ("users", "items", "behaviors", "unseen")), strict=True)
    ):
        for row, number in enumerate([item, *others]):
            batch[place, row] = torch.tensor([user + 1, number + 1, behavior, int(row == 0)])
    pairs = zip(*(RECORDS[part] for part in ("positives", "negatives")), strict=True)
    for place, (positive, negative) in enumerate(pairs):
        batch[place, -1, :3] = torch.tensor([place, positive, negative]) + 1
    terms = heard({"log": made.cross_loss, "bpr": made.bpr_loss, "reg": made.emb_loss})
    loss = made(batch)
    scores = made.full_predict(torch.arange(SHAPE[0]) + 1)[:, 1:]
    return {**terms, "loss": loss.item(), "scores": scores.tolist()}


def uipl(folder: Path) -> dict[str, Any]:
    names = ["view", "cart", "purchase"]
    args = SimpleNamespace(
        device=torch.device("cpu"), layers=2, reg_weight=0.3, kl_reg=0.2, ort_reg=0.1, log_reg=0.4,
        nce_reg=0.5, bpr_reg=1.0, nce_temperature=1.0, behaviors=names, embedding_size=8,
        model_path="", check_point="", if_load_model=False,
    )  # fmt: skip
    with dictionaries():
        made = of(folder, "model").UIPL(args, of_pairs(folder, names))
    fill_padded(made.user_embedding.weight, made.item_embedding.weight)
    layers = ("input_2hidden", "hidden_2mu", "hidden_2sigma", "z_2hidden", "hidden_2output")
    for seed, layer in enumerate(layers, 2):
        fill(getattr(made.M, layer).weight, seed)
        fill(getattr(made.M, layer).bias, seed + 10)
    batch = torch.zeros(SHAPE[0], 2, 4, dtype=torch.long)
    for place, (user, item, others) in enumerate(
        zip(*(RECORDS[part] for part in ("users", "items", "unseen")), strict=True)
    ):
        batch[place, 0] = torch.tensor([user, item, *others]) + 1
        batch[place, 1, 0] = user + 1
    pairs = zip(*(RECORDS[part] for part in ("positives", "negatives")), strict=True)
    for place, pair in enumerate(pairs):
        batch[place, 1, 1:3] = torch.tensor(pair) + 1
    terms = heard(
        {
            "bpr": made.bpr_loss, "log": made.cross_loss, "kl": made.kl_loss, "ort": made.ort_loss,
            "reg": made.emb_loss, "nce": made.nce_loss,
        }
    )  # fmt: skip
    # Noise by environment, user and entry; theirs has users first in training.
    noise = wave(30, 7, SHAPE[0], 2)
    drawn = mock.patch.object(torch, "randn_like", return_value=noise.transpose(0, 1))
    other = mock.patch.object(of(folder, "utils"), "random", SimpleNamespace(sample=lambda *_: [3]))
    with drawn, other:
        loss = made(batch)
    kept: dict[str, Any] = {**terms, "loss": loss.item()}
    padded = F.pad(noise, (0, 0, 1, 0))
    for name, latent in (("drawn", padded), ("mean", 0 * padded)):
        made.storage_user_embeddings = None
        with mock.patch.object(torch, "randn_like", return_value=latent):
            kept[f"scores_{name}"] = made.full_predict(torch.arange(SHAPE[0]) + 1)[:, 1:].tolist()
    return kept


def lines_of(pairs: Iterable[tuple[int, int]]) -> str:
    """Return a line for each user, with the items."""
    baskets: dict[int, list[int]] = {}
    for user, item in pairs:
        baskets.setdefault(user, []).append(item)
    return "\n".join(" ".join(map(str, [user, *items])) for user, items in baskets.items())


def mbssl(folder: Path) -> dict[str, Any]:
    args = SimpleNamespace(
        coefficient="[1.0/6, 4.0/6, 1.0/6]", embed_size=4, batch_size=2, layer_size="[4,4]",
        mess_dropout="[0.0]", aug_type=0, nhead=1, att_dim=16, ssl_ratio=0.5, ssl_temp=0.2,
        ssl_reg=1, ssl_mode="both_side", ssl_reg_inter="[1,1]", ssl_inter_mode="both_side",
        topk1_user=3, topk1_item=3, wid="[0.01,0.01,0.01]", decay=0.01,
    )  # fmt: skip
    # This module of theirs reads their files when it is imported; of it the others need this.
    of_others = {"np": np, "sp": sp, "time": time.time}
    stand_in(utility__batch_test=of_others)
    release = of(folder, "MBSSL")
    with tempfile.TemporaryDirectory() as place, contextlib.chdir(place):
        Path("dataset/Taobao").mkdir(parents=True)
        named = {"pv": "view", "cart": "cart", "train": "purchase"}
        for file, name in named.items():
            Path(f"dataset/Taobao/{file}.txt").write_text(lines_of(BASKETS[name]))
        Path("dataset/Taobao/test.txt").write_text("0 2")
        data = of(folder, "utility.load_data").DataHandler("Taobao", 2)
        graphs = data.get_adj_mat()
    release.args, release.device = args, torch.device("cpu")
    release.n_items, release.n_behs = SHAPE[1], 3
    config = {
        "n_users": SHAPE[0], "n_items": SHAPE[1], "behs": data.behs, "trn_mat": data.trnMats[-1],
        "pre_adjs": graphs, "user_sim": similarity(60, SHAPE[0]).numpy(),
        "item_sim": similarity(61, SHAPE[1]).numpy(),
    }  # fmt: skip
    cut = [release.get_lables(baskets, k=1.0) for baskets in data.trnDicts]
    made = release.MBSSL([most for most, _ in cut], config, args)
    weights = made.all_weights
    layers = chain.from_iterable((f"W_gc_{layer}", f"W_rel_{layer}") for layer in range(2))
    order = [
        "user_embedding", "item_embedding", "relation_embedding", *layers, "trans_weights_s1",
        "trans_weights_s2",
    ]  # fmt: skip
    for seed, name in enumerate(order):
        fill(weights[name], seed)
    users, baskets = release.get_train_instances1(
        [most for most, _ in cut], [labels for _, labels in cut]
    )
    augmentor = release.Augmentor(config, args)
    lacking = [np.array(part) for part in THINNED]
    with mock.patch.object(np.random, "choice", side_effect=lacking):
        thinned = {
            name: made._convert_sp_mat_to_sp_tensor(augmentor.augment_adj_mat(0))
            for name in ("sub1", "sub2")
        }
    of_users, of_items = release.preprocess_sim(args, config)
    main, intra, inter = (
        kind(config, args) for kind in (release.RecLoss, release.SSLoss, release.SSLoss2)
    )
    gradient = release.HMG(made.parameters(), relax_factor=0.7, beta=0.9)
    kept: dict[str, Any] = {"steps": []}
    unshared = list(weights).index("W_rel_1")
    for batch in BATCHES:
        at = [list(users[:, 0]).index(user) for user in batch]
        anchors, bought = release.get_train_pairs(users[at], baskets[-1][at])
        views, items, *both, relations, _, _ = made(thinned, torch.device("cpu"))
        regression, l2 = main(
            torch.from_numpy(users[at]),
            [torch.from_numpy(part[at]) for part in baskets],
            views,
            items,
            relations,
        )
        one, one_items, other, other_items = (part[:, -1] for part in both)
        within = intra(anchors, bought, one, other, one_items[:-1], other_items[:-1])
        between = [
            inter(
                anchors,
                bought,
                views,
                items[:-1],
                auxiliary,
                of_users[anchors],
                of_items[bought][:, :-1],
            )
            for auxiliary in range(2)
        ]
        made.zero_grad()
        with on_cpu():
            gradient.step([regression, within, *between], unshared)
        l2.backward()
        step = {"main": regression, "intra": within, "l2": l2}
        step |= {f"inter {name}": part for name, part in zip(BASKETS, between, strict=False)}
        kept["steps"].append(
            {
                "terms": {name: part.item() for name, part in step.items()},
                "gradients": [weights[name].grad.tolist() for name in order[:-2]],
                "lengths": [weights[name].grad.norm().item() for name in order[-2:]],
            }
        )
    kept["users"] = views.transpose(0, 1).tolist()
    kept["items"] = items[:-1].transpose(0, 1).tolist()
    kept["relations"] = torch.cat(list(relations.values())).tolist()
    return kept


def main() -> None:
    """Write the numbers."""
    clones, named = Path(sys.argv[1]).resolve(), sys.argv[2:]
    numbers = json.loads(TARGET.read_text(encoding="utf-8")) if named else {}
    folders = {
        "mbgcn": (mbgcn, "MBGCN"),
        "cml": (cml, "CML"),
        "s_mbrec": (s_mbrec, "MBRec"),
        "crgcn": (crgcn, "CRGCN"),
        "rcl": (rcl, "RCL"),
        "bcipm": (bcipm, "BIPN"),
        "uipl": (uipl, "UIPL"),
        "mbssl": (mbssl, "MBSSL"),
    }
    for name in named or folders:
        compute, folder = folders[name]
        forget(clones)
        numbers[name] = compute(clones / folder)
    TARGET.write_text(json.dumps(numbers, indent=1) + "\n")


if __name__ == "__main__":
    main()
