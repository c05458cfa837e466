"""Sparse matrices in, propagated embeddings out. Knows no loss and no data set."""

from funnelrec.graph.adjacency import Adjacency
from funnelrec.graph.propagation import Combination, propagate, row_normalize, sparse_product

__all__ = ["Adjacency", "Combination", "propagate", "row_normalize", "sparse_product"]
