"""An index of item vectors for approximate search, and what it misses."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from funnelrec.common.optional import require
from funnelrec.common.random import derived_seed, stream
from funnelrec.models.base import Recommender
from funnelrec.serving.vectors import EmbeddingModel, check_embeddings

ANN_FILE = "items.faiss"
DEPTH = 100
WANTED_RECALL = 0.99
_QUERIES = 1000
# Faiss warns of clusters that fewer vectors than this train.
_PER_LIST = 39


class IndexRecord(BaseModel):
    """What the index is and how much of the exact answer it finds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    library: Literal["faiss"] = "faiss"
    version: str
    kind: str = Field(description="Faiss's description; by inner product.")
    dim: int
    lists: int = Field(description="Clusters of items.")
    probes: int = Field(description="Clusters searched for the recall below.")
    depth: int = Field(description="Items asked for: 100, or all of a smaller catalogue.")
    queries: int = Field(description="Users asked for.")
    recall: float = Field(
        ge=0, le=1, description="Share of the exact best items among those found, over users."
    )


def check_ann(model: type[Recommender[Any]]) -> None:
    """Refuse a model without item vectors, or an installation without faiss.

    Raises
    ------
    CapabilityError, MissingExtraError
        Before any work.
    """
    check_embeddings(model, "index of item vectors")
    require("faiss", "ann")


def write_index(path: str | Path, model: Recommender[Any]) -> IndexRecord:
    """Write an inverted-file index over item embeddings; the user's embedding is the query.

    As many clusters are probed as it takes to find 99 % of the exact best 100 items; the number is
    stored in the index. Items are clustered from a seed, so equal models give equal indexes.

    Parameters
    ----------
    path
        File to write.
    model
        Fitted; its score is a product of embeddings.
    """
    faiss = require("faiss", "ann")
    users, items = (
        table.detach().cpu().float().contiguous().numpy()
        for table in cast(EmbeddingModel, model).embeddings()
    )
    lists = max(1, min(int(4 * len(items) ** 0.5), len(items) // _PER_LIST))
    kind = f"IVF{lists},Flat"
    index = faiss.index_factory(items.shape[1], kind, faiss.METRIC_INNER_PRODUCT)
    index.cp.seed = derived_seed(model.seed, "clusters") % 2**31
    index.train(items)
    index.add(items)
    drawn = stream(model.seed, "queries").permutation(len(users))[:_QUERIES]
    queries, depth = users[np.sort(drawn)], min(DEPTH, len(items))
    exact = faiss.IndexFlatIP(items.shape[1])
    exact.add(items)
    scores, _ = exact.search(queries, depth)
    # An item as good as the last exact one counts: which of two equals is listed is chance.
    least = scores[:, -1:] - 1e-6 * np.abs(scores[:, -1:])
    probes, recall = 1, 0.0
    while True:
        index.nprobe = probes
        found, places = index.search(queries, depth)
        recall = float(((places >= 0) & (found >= least)).mean())
        if recall >= WANTED_RECALL or probes >= lists:
            break
        probes = min(2 * probes, lists)
    faiss.write_index(index, str(path))
    return IndexRecord(
        version=faiss.__version__,
        kind=kind,
        dim=items.shape[1],
        lists=lists,
        probes=probes,
        depth=depth,
        queries=len(queries),
        recall=recall,
    )
