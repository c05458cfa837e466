"""From an event log to a data set: reading, checking, splitting, describing, simulating."""

from __future__ import annotations

from funnelrec.data.catalogue import (
    NamedDataset,
    compare_with_catalogue,
    load_named,
    named_dataset,
    named_datasets,
)
from funnelrec.data.dataset import Dataset, IdMap, Manifest, SplitRecord, TrainingData
from funnelrec.data.diagnostics import Diagnostics, diagnose
from funnelrec.data.events import Events, read_events
from funnelrec.data.filters import deduplicate, k_core
from funnelrec.data.importers import ImportedLog, import_layout
from funnelrec.data.interactions import Interactions
from funnelrec.data.perturbation import perturb, perturb_dataset
from funnelrec.data.preparation import prepare, prepare_imported
from funnelrec.data.simulation import ShopConfig, SimulatedShop, simulate_shop
from funnelrec.data.splits import Given, GlobalTime, LeaveOneOut, Split

__all__ = [
    "Dataset",
    "Diagnostics",
    "Events",
    "Given",
    "GlobalTime",
    "IdMap",
    "ImportedLog",
    "Interactions",
    "LeaveOneOut",
    "Manifest",
    "NamedDataset",
    "ShopConfig",
    "SimulatedShop",
    "Split",
    "SplitRecord",
    "TrainingData",
    "compare_with_catalogue",
    "deduplicate",
    "diagnose",
    "import_layout",
    "k_core",
    "load_named",
    "named_dataset",
    "named_datasets",
    "perturb",
    "perturb_dataset",
    "prepare",
    "prepare_imported",
    "read_events",
    "simulate_shop",
]
