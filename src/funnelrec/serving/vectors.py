"""Which models score by a product of embeddings, and so leave Python."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from funnelrec.common.errors import CapabilityError
from funnelrec.models.base import Recommender


@runtime_checkable
class EmbeddingModel(Protocol):
    """A model whose score is the product of a user's and an item's embedding."""

    def embeddings(self) -> tuple[Tensor, Tensor]:
        """Return both tables, shapes ``(n_users, d)`` and ``(n_items, d)``."""
        ...


def check_embeddings(model: type[Recommender[Any]], what: str) -> None:
    """Refuse a model whose score is no product of embeddings.

    Parameters
    ----------
    model
        Its class: nothing has to be loaded.
    what
        What it was wanted for.

    Raises
    ------
    CapabilityError
        Naming models that can.
    """
    # A class that has the method is no instance of the protocol, which is about objects.
    if not callable(getattr(model, "embeddings", None)):
        raise CapabilityError(
            f"{model.name} has no {what}, because its score is no product of two embeddings; "
            "export it without, or take a model whose score is, such as lightgcn, rmbrec or ials."
        )
