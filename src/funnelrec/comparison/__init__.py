"""Many models on one data set, side by side: results, plain findings, plots, a report, the demo."""

from __future__ import annotations

from funnelrec.comparison.demo import DemoResult, run_demo
from funnelrec.comparison.findings import findings
from funnelrec.comparison.report import write_report
from funnelrec.comparison.results import ModelResult, comparable_groups

__all__ = [
    "DemoResult",
    "ModelResult",
    "comparable_groups",
    "findings",
    "run_demo",
    "write_report",
]
