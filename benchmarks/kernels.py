"""Propagation, sampling and ranking against the machine's limit and against other products.

Run from the repository, with the benchmark files in FUNNELREC_DATA for ``taobao15k``::

    python benchmarks/kernels.py                              # taobao15k, every part
    python benchmarks/kernels.py --graphs 1M 10M --dims 32 64 128
    python benchmarks/kernels.py --graphs 60M --alone --only propagation  # without peers
    python benchmarks/kernels.py --device cuda --graphs taobao15k 60M --out measured

Each line of OUT/kernels.jsonl is one measurement with the machine it was made on. The peers
(torch's COO and CSR products, scipy, PyG's LightGCN on an edge index) are measured in the same run.
Times are the best of several calls; forward and backward are timed apart, the backward over a
forward that is not timed. ``limit_ms`` is what the bytes that must move would take at the measured
bandwidth: every edge reads its number, its weight and a row of d floats (at the bandwidth of
gathering such rows from a table of this size), and every row is written once (at that of a stream).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import Any, cast

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from funnelrec.common.capacity import available_memory
from funnelrec.common.memory import prefer_huge_pages
from funnelrec.data.interactions import Interactions
from funnelrec.evaluation.ranking import rank_held_out, top_k
from funnelrec.graph import Adjacency, propagate
from funnelrec.graph.adjacency import CsrMatrix, Kernel
from funnelrec.graph.products import KERNELS, fastest
from funnelrec.training.sampling import PairSampler, UserSampler
from machine import SIZES, Lines, described, random_pairs, seconds, wait
from reproduction import load

OUT = Path(__file__).resolve().parent / "results"
LAYERS = 3
PARTS = ("bandwidth", "propagation", "samplers", "ranking")
# Above so many numbers in a table of edges times d, 4 GiB, a peer that makes several is left out.
_EDGE_NUMBERS = 2**30
_STREAM_BYTES = 2**28
_GATHERED = 2**20
# Batches that are looked at for excluded pairs.
_CHECKED = 16


# -- the limit -----------------------------------------------------------------------------


def stream_bandwidth(device: torch.device) -> float:
    """Return the bytes a second of reading one large array and writing another."""
    source = torch.ones(_STREAM_BYTES // 4, device=device)
    target = torch.empty_like(source)
    return 2 * _STREAM_BYTES / seconds(lambda: target.copy_(source), device)


def gather_bandwidth(rows: int, dim: int, device: torch.device) -> float:
    """Return the bytes a second of reading random rows of a table, in bags of 64 added up.

    One bag in 64 is written, so nearly all of the traffic is the reading.
    """
    generator = torch.Generator(device).manual_seed(1)
    table = torch.ones(rows, dim, device=device)
    number = _GATHERED * max(1, 64 // dim)
    chosen = torch.randint(rows, (number // 64, 64), generator=generator, device=device)
    chosen = chosen.to(torch.int32)

    def gathered() -> Tensor:
        return torch.nn.functional.embedding_bag(chosen, table, mode="sum")

    return number * (4 * dim + 4) / seconds(gathered, device)


def moved(matrices: Sequence[CsrMatrix], dim: int) -> tuple[int, int]:
    """Return the bytes gathered and the bytes streamed by one product with each matrix."""
    gathered = sum(part.nnz * (4 * dim + 8) for part in matrices)
    return gathered, sum(part.shape[0] * (4 * dim + 4) for part in matrices)


# -- the peers -----------------------------------------------------------------------------

Pass = Callable[[], Any]


def tables(graph: Adjacency, dim: int, device: torch.device) -> tuple[list[Tensor], list[Tensor]]:
    """Return layer 0 as leaves, and gradients of the result."""
    generator = torch.Generator(device).manual_seed(2)

    def drawn() -> list[Tensor]:
        sizes = (graph.n_users, graph.n_items)
        return [torch.randn(n, dim, generator=generator, device=device) for n in sizes]

    return [part.requires_grad_() for part in drawn()], drawn()


def ours(graph: Adjacency, leaves: list[Tensor]) -> tuple[Pass, Pass]:
    """Return forward, and backward over what the last forward gave."""
    held: list[tuple[Tensor, Tensor]] = []

    def forward() -> None:
        held[:] = [propagate([graph], *leaves, layers=LAYERS)]

    return forward, lambda: held[0]


def ours_by(kernel: Kernel, graph: Adjacency, leaves: list[Tensor]) -> tuple[Pass, Pass]:
    """Return the same by one kernel."""
    return ours(graph.by(kernel), leaves)


def whole(graph: Adjacency) -> tuple[Tensor, Tensor, Tensor]:
    """Return rows, columns and values of the (M + N) x (M + N) matrix."""
    half = graph.to_users
    users = torch.repeat_interleave(
        torch.arange(graph.n_users, device=half.indices.device), half.indptr.diff().long()
    )
    items = half.indices.long() + graph.n_users
    return (
        torch.cat([users, items]),
        torch.cat([items, users]),
        torch.cat([half.values, half.values]),
    )


def torch_coo(graph: Adjacency, leaves: list[Tensor]) -> tuple[Pass, Pass]:
    """As RecBole and the releases of the papers: one COO matrix, layers stacked and averaged."""
    rows, columns, values = whole(graph)
    size = graph.n_users + graph.n_items
    matrix = torch.sparse_coo_tensor(torch.stack([rows, columns]), values, (size, size))
    return _stacked(matrix.coalesce(), leaves)


def torch_csr(graph: Adjacency, leaves: list[Tensor]) -> tuple[Pass, Pass]:
    """Return the same through torch's CSR layout and its own autograd."""
    rows, columns, values = whole(graph)
    size = graph.n_users + graph.n_items
    matrix = torch.sparse_coo_tensor(torch.stack([rows, columns]), values, (size, size))
    return _stacked(matrix.coalesce().to_sparse_csr(), leaves)


def _stacked(matrix: Tensor, leaves: list[Tensor]) -> tuple[Pass, Pass]:
    held: list[tuple[Tensor, Tensor]] = []
    sizes = [len(part) for part in leaves]

    def forward() -> None:
        layer = torch.cat(leaves)
        layers = [layer]
        for _ in range(LAYERS):
            layer = torch.sparse.mm(matrix, layer)
            layers.append(layer)
        users, items = torch.split(torch.stack(layers, dim=1).mean(dim=1), sizes)
        held[:] = [(users[None], items[None])]

    return forward, lambda: held[0]


def pyg(graph: Adjacency, leaves: list[Tensor]) -> tuple[Pass, Pass] | None:
    """PyG's LightGCN as its documentation has it, on an edge index; None without PyG."""
    try:
        kind: Any = import_module("torch_geometric.nn.models").LightGCN
    except ImportError:
        return None
    rows, columns, _ = whole(graph)
    edges = torch.stack([rows, columns])
    sizes = [len(part) for part in leaves]
    model = kind(sum(sizes), leaves[0].shape[1], LAYERS).to(rows.device)
    with torch.no_grad():
        model.embedding.weight.copy_(torch.cat(leaves))
    held: list[tuple[Tensor, Tensor]] = []

    def forward() -> None:
        users, items = model.get_embedding(edges).split(sizes)
        held[:] = [(users[None], items[None])]

    def last() -> tuple[Tensor, Tensor]:
        return held[0]

    cast("Any", last).leaves = [model.embedding.weight]
    return forward, last


def backward(last: Pass, leaves: list[Tensor], gradients: list[Tensor]) -> None:
    """Take the gradient of what the last forward gave."""
    torch.autograd.grad(last(), leaves, gradients)


def scipy_seconds(graph: Adjacency, dim: int) -> float:
    """Return the time of the products of a forward pass by scipy, on one core."""
    halves = []
    for part in (graph.to_users, graph.to_items):
        arrays = (part.values.numpy(), part.indices.numpy(), part.indptr.numpy())
        halves.append((sp.csr_array(arrays, shape=part.shape), np.ones((part.shape[1], dim), "f4")))
    return LAYERS * seconds(
        lambda: [matrix @ table for matrix, table in halves], torch.device("cpu"), repeats=3
    )


def held_by_peers(graph: Adjacency, dim: int) -> int:
    """Return the bytes that a peer takes at most: coordinates, thrice while they are sorted.

    Beside them come a dozen tables of all rows: layers, their stack and mean, and gradients.
    """
    coordinates = 2 * graph.to_users.nnz * (8 + 8 + 4)
    return 3 * coordinates + 12 * 4 * dim * (graph.n_users + graph.n_items)


# -- the parts -----------------------------------------------------------------------------


def pairs_of(name: str, device: torch.device) -> Interactions | None:
    """Return the views of taobao15k or a synthetic graph; None where the files are absent."""
    if name in SIZES:
        return random_pairs(name, 1, device)
    dataset = load(name)
    return None if dataset is None else dataset.training.interactions["view"]


def measured_kernels(
    graph: Adjacency, dim: int, device: torch.device, alone: bool
) -> tuple[Kernel, ...]:
    """Return the kernels that run on a device, or the one that it takes by itself."""
    cuda = device.type == "cuda"
    if alone:
        return (fastest(graph.to_users.nnz, dim, cuda=cuda),)
    return ("bag", "csr", "triton") if cuda else ("bag", "csr")


def measured_propagation(
    graph: Adjacency, dim: int, device: torch.device, peers: bool, alone: bool
) -> Iterator[dict[str, Any]]:
    """Yield a line for each kernel and each peer, or for the device's own kernel alone."""
    stream = stream_bandwidth(device)
    rows = [graph.n_items, graph.n_users]
    gathers = [gather_bandwidth(number, dim, device) for number in rows]
    limit = 0.0
    for half, bandwidth in zip((graph.to_users, graph.to_items), gathers, strict=True):
        gathered, streamed = moved([half], dim)
        limit += LAYERS * (gathered / bandwidth + streamed / stream)
    bytes_moved = LAYERS * sum(moved([graph.to_users, graph.to_items], dim))
    ways: list[tuple[str, Callable[..., Any]]] = [
        (f"ours, {kernel}", partial(ours_by, kernel))
        for kernel in measured_kernels(graph, dim, device, alone)
    ]
    edges = graph.to_users.nnz
    free = available_memory() if device.type == "cpu" else None
    if peers and free is not None and held_by_peers(graph, dim) > free:
        need = held_by_peers(graph, dim) / 2**30
        print(f"The peers are skipped: they take {need:.0f} GiB of {free / 2**30:.0f}.", flush=True)
        peers = False
    if peers:
        ways += [("torch COO", torch_coo), ("torch CSR", torch_csr)]
        if 2 * edges * dim < _EDGE_NUMBERS:
            ways.append(("PyG", pyg))
    expected: tuple[Tensor, Tensor] | None = None
    for name, way in ways:
        leaves, gradients = tables(graph, dim, device)
        try:
            made = way(graph, leaves)
            if made is None:
                print(f"{name} is skipped: it is not installed.", flush=True)
                continue
            forward, last = made
            forward()
            result = tuple(part.detach() for part in last())
            expected = result if expected is None else expected
            # How far another order of the sums takes the result.
            gap = max(float((a - b).abs().max()) for a, b in zip(result, expected, strict=True))
            wanted = getattr(last, "leaves", leaves)
            upstream = [part[None] for part in gradients]
            ahead = seconds(forward, device)
            back = seconds(
                partial(backward, last, wanted, upstream),
                device,
                before=forward,
            )
        except (RuntimeError, NotImplementedError) as error:
            print(f"{name} failed: {error}", flush=True)
            continue
        yield {
            "way": name,
            "forward_ms": 1000 * ahead,
            "backward_ms": 1000 * back,
            "both_ms": 1000 * (ahead + back),
            "limit_ms": 2000 * limit,
            "of_limit": 2 * limit / (ahead + back),
            "gigabytes_a_second": 2e-9 * bytes_moved / (ahead + back),
            "stream_gigabytes_a_second": 1e-9 * stream,
            "gather_gigabytes_a_second": [round(1e-9 * part, 1) for part in gathers],
            "largest_difference": gap,
        }
    if peers and device.type == "cpu":
        one_way = scipy_seconds(graph, dim)
        yield {
            "way": "scipy",
            "forward_ms": 1000 * one_way,
            # The matrix is symmetric: a backward pass is the same products once more.
            "backward_ms": 1000 * one_way,
            "both_ms": 2000 * one_way,
            "limit_ms": 2000 * limit,
            "of_limit": limit / one_way,
        }


def propagation(
    lines: Lines,
    name: str,
    graph: Adjacency,
    dims: Sequence[int],
    device: torch.device,
    alone: bool,
) -> None:
    """Measure every way at every dimension and print ratios to the first of our own."""
    edges = graph.to_users.nnz
    for dim in dims:
        first = 0.0
        for row in measured_propagation(graph, dim, device, not alone, alone):
            first = first or row["both_ms"]
            lines.add(
                {
                    "part": "propagation",
                    "graph": name,
                    "edges": edges,
                    "users": graph.n_users,
                    "items": graph.n_items,
                    "layers": LAYERS,
                    "dim": dim,
                    **row,
                    "ratio_to_first": row["both_ms"] / first,
                }
            )


def products(
    lines: Lines,
    name: str,
    graph: Adjacency,
    dims: Sequence[int],
    device: torch.device,
    alone: bool,
) -> None:
    """Measure one product in each direction by each kernel."""
    for dim in dims:
        for toward, half in (("users", graph.to_users), ("items", graph.to_items)):
            dense = torch.ones(half.shape[1], dim, device=device)
            gathered, streamed = moved([half], dim)
            for kernel in measured_kernels(graph, dim, device, alone):
                multiply = KERNELS[kernel]
                try:
                    took = seconds(partial(multiply, half, dense), device)
                except RuntimeError as error:
                    print(f"{kernel} failed: {error}", flush=True)
                    continue
                lines.add(
                    {
                        "part": "product",
                        "graph": name,
                        "toward": toward,
                        "kernel": kernel,
                        "dim": dim,
                        "ms": 1000 * took,
                        "gigabytes_a_second": 1e-9 * (gathered + streamed) / took,
                    }
                )


def drained(sampler: Any) -> None:
    """Draw an epoch."""
    for _ in sampler.epoch(2):
        pass


def samplers(lines: Lines, name: str, pairs: Interactions, device: torch.device) -> None:
    """Measure triples a second of an epoch, and check that nothing excluded is drawn."""
    drawn: list[tuple[str, Any]] = [
        ("pairs", PairSampler(pairs, batch_size=2**16, seed=1)),
        ("users, one behavior", UserSampler([pairs], pairs, batch_size=2**16, seed=1)),
    ]
    for kind, host in drawn:
        sampler = host.on(device) if device.type == "cuda" else host
        for batch in islice(sampler.epoch(1), _CHECKED):
            users, negatives = (
                part.reshape(-1).cpu().numpy() for part in (batch.users, batch.negatives)
            )
            if pairs.contains(users, negatives).any():
                raise SystemExit("an excluded pair was drawn: the measurement is void.")
        triples = sum(batch.users.numel() for batch in sampler.epoch(2))
        took = seconds(partial(drained, sampler), device, repeats=5)
        lines.add(
            {
                "part": "samplers",
                "graph": name,
                "sampler": kind,
                "triples": triples,
                "seconds": took,
                "million_triples_a_second": 1e-6 * triples / took,
            }
        )


class Embeddings:
    """Scores that are products, as every embedding model has."""

    def __init__(self, users: Tensor, items: Tensor) -> None:
        self._users, self._items = users, items
        self.n_users, self.n_items = len(users), len(items)

    def score(self, users: Any) -> Tensor:
        return self._users[torch.as_tensor(users, device=self._users.device)] @ self._items.T


def ranking(lines: Lines, n_items: int, n_users: int, device: torch.device) -> None:
    """Measure users a second of lists and of ranks, masks applied, and compare with sorting."""
    generator = torch.Generator(device).manual_seed(3)
    scorer = Embeddings(
        *(torch.randn(n, 64, generator=generator, device=device) for n in (n_users, n_items))
    )
    rng = np.random.default_rng(4)

    def drawn(each: int) -> Interactions:
        users = np.repeat(np.arange(n_users), each)
        items = rng.integers(0, n_items, users.size)
        return Interactions.from_pairs(users, items, n_users=n_users, n_items=n_items)

    mask, held_out = drawn(30), drawn(1)
    users = np.arange(n_users)
    some = users[:64]
    items, _ = top_k(scorer, some, 20, masks=[mask])
    scores = scorer.score(some).clone().cpu()
    for row in some:
        scores[row, mask.row(row).astype(np.int64)] = -torch.inf
    if not np.array_equal(items, scores.argsort(dim=1, descending=True)[:, :20].numpy()):
        raise SystemExit("the lists are not those of a full sort: the measurement is void.")
    ways: dict[str, Callable[[], object]] = {
        "lists of 20": lambda: top_k(scorer, users, 20, masks=[mask]),
        "ranks": lambda: rank_held_out(scorer, held_out, masks=[mask]),
        "scores alone": lambda: [
            scorer.score(users[start : start + 512]) for start in range(0, n_users, 512)
        ],
    }
    for what, way in ways.items():
        took = seconds(way, device, repeats=3, limit=10)
        lines.add(
            {
                "part": "ranking",
                "what": what,
                "items": n_items,
                "users": n_users,
                "seconds": took,
                "users_a_second": n_users / took,
            }
        )


def bandwidth(lines: Lines, dims: Sequence[int], device: torch.device) -> None:
    """Measure streams, and gathers from tables of several sizes."""
    lines.add(
        {
            "part": "bandwidth",
            "what": "stream",
            "gigabytes_a_second": 1e-9 * stream_bandwidth(device),
        }
    )
    for dim in dims:
        for rows in (12_000, 100_000, 1_000_000):
            lines.add(
                {
                    "part": "bandwidth",
                    "what": f"rows of {dim} floats from a table of {rows:,}",
                    "gigabytes_a_second": 1e-9 * gather_bandwidth(rows, dim, device),
                }
            )


def main() -> None:
    """Measure what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--graphs", nargs="*", default=["taobao15k"])
    parser.add_argument("--dims", nargs="*", type=int, default=[64])
    parser.add_argument("--only", nargs="*", choices=PARTS, default=PARTS)
    parser.add_argument("--alone", action="store_true", help="Our own kernel, without any other.")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args()
    prefer_huge_pages()
    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    device = torch.device(arguments.device)
    graphs: dict[str, Interactions] = {}
    for name in arguments.graphs:
        pairs = pairs_of(name, device)
        if pairs is not None:
            graphs[name] = pairs
    if not graphs:
        return
    lines = Lines(arguments.out / "kernels.jsonl", described(device))
    if "bandwidth" in arguments.only:
        bandwidth(lines, arguments.dims, device)
    for name, pairs in graphs.items():
        if "propagation" in arguments.only:
            graph = Adjacency.from_matrix(pairs.matrix()).to(device)
            given = (lines, name, graph, arguments.dims, device, arguments.alone)
            products(*given)
            propagation(*given)
            del graph
        if "samplers" in arguments.only:
            samplers(lines, name, pairs, device)
        wait(device)
    if "ranking" in arguments.only:
        ranking(lines, 12_000, 20_000, device)
        ranking(lines, 120_000, 4_000, device)


if __name__ == "__main__":
    main()
