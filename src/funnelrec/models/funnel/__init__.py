"""The flagship: conversions ranked by evidence, discoveries by preference, on one scale."""

from funnelrec.models.funnel.model import Funnel
from funnelrec.models.funnel.settings import FunnelSettings

__all__ = ["Funnel", "FunnelSettings"]
