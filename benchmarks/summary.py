"""The figures that README.md shows, from the records of the other scripts.

    python benchmarks/summary.py     # rewrites the two tables; trains nothing

One table for each protocol: trained on training pairs alone, as the papers do, and refitted on
training plus validation pairs.
"""

from __future__ import annotations

from statistics import mean
from typing import Any

import charm_tables
import funnel
import reproduction
from reproduction import CHOSEN, README, SOURCES, between, finished, label, pair

Row = dict[str, Any]


def papers(rows: list[Row], charm: list[Row]) -> str:
    """Return one line a model under the common settings, one column a data set."""
    lines = [f"| model | {' | '.join(SOURCES)} |", "|---" * (len(SOURCES) + 1) + "|"]
    for model in CHOSEN:
        cells = []
        for name in SOURCES:
            same = [
                row
                for row in rows
                if row["dataset"] == name and label(row) == (model, "") and not row["refit"]
            ]
            cells.append(pair(same, "overall", 10) if same else "-")
        lines.append(f"| `{model}` | {' | '.join(cells)} |")
    if charm:
        same = [{**row, "slices": row["test"]} for row in charm]
        cells = [
            pair(same, "overall", 10) if name == charm_tables.DATASET else "-" for name in SOURCES
        ]
        lines.append(f"| `charm`, practical | {' | '.join(cells)} |")
    return "\n".join(lines)


def refitted(rows: list[Row]) -> str:
    """Return one line a model, the best mean NDCG@10 first, one column a data set."""
    names = funnel.DATASETS
    found: dict[str, dict[str, list[Row]]] = {}
    for row in rows:
        if row["step"] in ("run", "rivals") and row["name"] in ("defaults", "tuned", "selected"):
            of_model = found.setdefault(row.get("model", "funnel"), {})
            of_model.setdefault(row["dataset"], []).append({**row, "slices": row["test"]})

    def strength(model: str) -> tuple[int, float]:
        here = found[model]
        return len(here), mean(
            mean(row["test"]["overall"]["ndcg@10"] for row in same) for same in here.values()
        )

    lines = [f"| model | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    for model in sorted(found, key=strength, reverse=True):
        here = found[model]
        cells = [pair(here[name], "overall", 10) if name in here else "-" for name in names]
        lines.append(f"| `{model}` | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Rewrite both tables."""
    done = finished(charm_tables.RESULTS)
    whole = [row for row in charm_tables.rows() if row.group == "full"]
    charm = [row for row in (charm_tables.recorded(one, done) for one in whole) if row is not None]
    text = README.read_text()
    text = between(text, "measured", papers(list(finished(reproduction.RESULTS).values()), charm))
    text = between(text, "refitted", refitted(list(finished(funnel.RESULTS).values())))
    README.write_text(text)


if __name__ == "__main__":
    main()
