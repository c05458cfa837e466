"""Many models on one data set: comparisons, findings, plots, a report, the demo, the search."""

from __future__ import annotations

from funnelrec.comparison.demo import DemoResult, run_demo
from funnelrec.comparison.document import write_comparison
from funnelrec.comparison.entries import Entry, parse_entries, read_spec
from funnelrec.comparison.findings import findings
from funnelrec.comparison.hesitation_study import hesitation_study
from funnelrec.comparison.report import write_report
from funnelrec.comparison.results import ModelResult, comparable_groups
from funnelrec.comparison.runner import Comparison, Listener, compare
from funnelrec.comparison.search import Search, Trial, tune
from funnelrec.comparison.stored import StoredComparison, read_comparison

__all__ = [
    "Comparison",
    "DemoResult",
    "Entry",
    "Listener",
    "ModelResult",
    "Search",
    "StoredComparison",
    "Trial",
    "comparable_groups",
    "compare",
    "findings",
    "hesitation_study",
    "parse_entries",
    "read_comparison",
    "read_spec",
    "run_demo",
    "tune",
    "write_comparison",
    "write_report",
]
