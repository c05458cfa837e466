"""Sparse matrices in, propagated embeddings out. Knows no loss and no data set."""

from funnelrec.graph.adjacency import Adjacency
from funnelrec.graph.insertion import users_after_insertion
from funnelrec.graph.propagation import (
    Combination,
    propagate,
    propagate_users,
    row_normalize,
    sparse_product,
)

__all__ = [
    "Adjacency",
    "Combination",
    "propagate",
    "propagate_users",
    "row_normalize",
    "sparse_product",
    "users_after_insertion",
]
