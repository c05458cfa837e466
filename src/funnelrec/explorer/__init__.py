"""The analyst's pages: a data set, a training, models compared, a user, an item, in a browser."""

from __future__ import annotations

from funnelrec.explorer.server import explore
from funnelrec.explorer.source import Explored, open_source

__all__ = ["Explored", "explore", "open_source"]
