"""Many models on one data set: results, findings, plots, a report, the demo, the search."""

from __future__ import annotations

from funnelrec.comparison.demo import DemoResult, run_demo
from funnelrec.comparison.findings import findings
from funnelrec.comparison.hesitation_study import hesitation_study
from funnelrec.comparison.report import write_report
from funnelrec.comparison.results import ModelResult, comparable_groups
from funnelrec.comparison.search import Search, Trial, tune

__all__ = [
    "DemoResult",
    "ModelResult",
    "Search",
    "Trial",
    "comparable_groups",
    "findings",
    "hesitation_study",
    "run_demo",
    "tune",
    "write_report",
]
