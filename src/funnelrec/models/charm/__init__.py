"""CHARM: hesitations found, calibrated by mutual information, and told from substitutions."""

from funnelrec.models.charm.model import Charm
from funnelrec.models.charm.network import CharmNetwork
from funnelrec.models.charm.settings import CharmSettings

__all__ = ["Charm", "CharmNetwork", "CharmSettings"]
