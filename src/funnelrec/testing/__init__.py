"""The conformance suite that any model can run on itself, and small data sets to test with.

A model of your own is held to the contract of :class:`funnelrec.models.Recommender` in three
lines; ``Popularity`` stands for your class here:

>>> from funnelrec.models.popularity import Popularity
>>> from funnelrec.testing import check_model
>>> results = check_model(Popularity)  # raises ConformanceError, saying what is broken and how
>>> all(result.passed for result in results)
True

In pytest, one test per rule::

    @pytest.mark.parametrize(("name", "check"), conformance_checks(MyModel))
    def test_conformance(name, check):
        check()

:func:`datasets` and :func:`sparse_matrices` are hypothesis strategies and need the package
``hypothesis``; nothing else here does.
"""

from __future__ import annotations

from funnelrec.testing.conformance import (
    CheckResult,
    ConformanceError,
    check_model,
    conformance_checks,
)
from funnelrec.testing.datasets import (
    datasets,
    make_dataset,
    planted_dataset,
    popular_dataset,
    relabel,
    sparse_matrices,
    tiny_dataset,
)

__all__ = [
    "CheckResult",
    "ConformanceError",
    "check_model",
    "conformance_checks",
    "datasets",
    "make_dataset",
    "planted_dataset",
    "popular_dataset",
    "relabel",
    "sparse_matrices",
    "tiny_dataset",
]
