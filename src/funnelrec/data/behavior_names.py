"""The usual names of behaviors, in event logs and in published files, and what each stands for."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

FUNNEL = ("view", "collect", "cart", "purchase")
"""The behaviors of a shop's funnel, weak to strong; the last is a purchase."""

COMMON_NAMES: Mapping[str, str] = MappingProxyType(
    {
        **dict.fromkeys(("view", "pv", "ipv", "click"), "view"),
        **dict.fromkeys(("collect", "fav", "favorite", "wishlist"), "collect"),
        **dict.fromkeys(("cart", "add_to_cart", "addtocart"), "cart"),
        **dict.fromkeys(("purchase", "buy", "order", "transaction"), "purchase"),
    }
)
"""The behavior of the funnel that each usual name, in lower case, stands for."""


def common_name(name: str) -> str | None:
    """Return the behavior of the funnel that a name stands for, case aside; None if unusual.

    >>> common_name("PV"), common_name("buy"), common_name("share")
    ('view', 'purchase', None)
    """
    return COMMON_NAMES.get(name.lower())


def level(name: str) -> int | None:
    """Return the place in :data:`FUNNEL` of what a name stands for; None if it is unusual.

    >>> level("fav"), level("share")
    (1, None)
    """
    common = common_name(name)
    return None if common is None else FUNNEL.index(common)
