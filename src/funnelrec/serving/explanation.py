"""Why one user hesitates: the best candidates before and after what the user already bought."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from funnelrec.common.columns import ITEM, USER
from funnelrec.common.errors import UsageError
from funnelrec.common.files import write_json
from funnelrec.data.dataset import Dataset
from funnelrec.evaluation.conversion_calibration import ConversionCalibration
from funnelrec.serving.hesitations import (
    EvidenceSource,
    Source,
    Thresholds,
    hesitations,
    plain_rows,
)
from funnelrec.serving.plots import evidence_figure, save_evidence_plot

SUFFIXES = (".json", ".png", ".html")


@dataclass(frozen=True, eq=False)
class Explanation:
    """A case study of one user, as in Fig. 6 of the CHARM paper.

    Parameters
    ----------
    user_id
        The user.
    candidates
        The best touched, not bought pairs: the columns of
        :func:`funnelrec.serving.hesitations.hesitations`.
    competitors
        One row for each candidate and purchase: ``item_id`` (the candidate), ``competitor_id``
        and ``evidence`` s, the strongest first.
    base_rate
        Conversion of a touched pair on average; None without a calibration.
    """

    user_id: Any
    candidates: pl.DataFrame
    competitors: pl.DataFrame
    base_rate: float | None

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON; dates in ISO 8601."""
        rows = []
        for row in plain_rows(self.candidates.drop(USER)):
            against = self.competitors.filter(pl.col(ITEM) == row[ITEM])
            rows.append(
                {**row, "competitors": against.select("competitor_id", "evidence").to_dicts()}
            )
        return {"user_id": self.user_id, "base_rate": self.base_rate, "candidates": rows}

    def summary(self) -> pl.DataFrame:
        """Return one row a candidate, with the competitors in words, strongest first."""
        evidence = pl.Series(
            "evidence", [f"{s:.2f}" for s in self.competitors["evidence"]], pl.String
        )
        against = (
            self.competitors.with_columns(evidence)
            .group_by(ITEM, maintain_order=True)
            .agg(
                pl.format("{} ({})", "competitor_id", "evidence")
                .str.join(", ")
                .alias("competitors")
            )
        )
        # The interest beside the conversion: it is what the label "weak interest" goes by.
        columns = ["confidence", "interest", "explained", "weight", "conversion", "label"]
        return self.candidates.select(ITEM, *columns).join(
            against, on=ITEM, how="left", maintain_order="left"
        )

    def figure(self) -> Any:
        """Return the plotly figure of :func:`funnelrec.serving.plots.evidence_figure`."""
        return evidence_figure(self.user_id, self.candidates, self.competitors)

    def save(self, path: str | Path) -> Path:
        """Write the explanation by the suffix of ``path``: ``.json``, ``.png`` or ``.html``.

        Raises
        ------
        UsageError
            For another suffix, or if the file cannot be written.
        MissingExtraError
            If a plot is asked for and its package is not installed.
        """
        path = Path(path)
        check_explanation_path(path)
        if path.suffix == ".json":
            write_json(path, self.to_dict())
        else:
            save_evidence_plot(self.user_id, self.candidates, self.competitors, path)
        return path


def explain_pair(
    source: Source,
    user: Any,
    item: Any,
    *,
    competitors: int = 6,
    thresholds: Thresholds | None = None,
) -> dict[str, Any] | None:
    """Return what the model says of one touched, not bought pair; None of any other.

    Parameters
    ----------
    source
        A run, an artifact, or a fitted model.
    user, item
        External identifiers.
    competitors
        Purchases shown at most, the strongest evidence first.
    thresholds
        Where the labels part.

    Returns
    -------
    dict or None
        The row of :func:`funnelrec.serving.hesitations.hesitations`, with ``competitors`` and
        ``base_rate``, as values for JSON.

    Raises
    ------
    CapabilityError, UsageError
        As :func:`explain` does.
    """
    table = hesitations(source, users=[user], thresholds=thresholds)
    table = table.filter(pl.col(ITEM) == item)
    if not table.height:
        return None
    where = EvidenceSource.of(source, None, None)
    data = where.data
    (number,) = data.user_ids.encode(pl.Series([user])).tolist()
    against = where.evidence.competitor_table(number, data.item_ids.encode(table[ITEM]))
    order = np.argsort(-against.evidence[0], kind="stable")[:competitors]
    names = data.item_ids.decode(against.competitors[order]).to_list()
    (row,) = plain_rows(table.drop(USER, ITEM))
    return {
        **row,
        "base_rate": None if where.calibration is None else where.calibration.base_rate,
        "competitors": [
            {"item_id": name, "evidence": float(evidence)}
            for name, evidence in zip(names, against.evidence[0][order], strict=True)
        ],
    }


def check_explanation_path(path: Path) -> None:
    """Refuse a file whose suffix says nothing.

    Raises
    ------
    UsageError
        With the suffixes that do.
    """
    if path.suffix not in SUFFIXES:
        raise UsageError(f"an explanation is written as {', '.join(SUFFIXES)}, got {str(path)!r}.")


def explain(
    source: Source,
    user: Any,
    dataset: Dataset | None = None,
    *,
    candidates: int = 8,
    competitors: int = 6,
    thresholds: Thresholds | None = None,
    calibration: ConversionCalibration | None = None,
) -> Explanation:
    """Return what one user hesitates over, and which purchases speak against it.

    Parameters
    ----------
    source, dataset, thresholds, calibration
        As in :func:`funnelrec.serving.hesitations.hesitations`.
    user
        External identifier.
    candidates
        Pairs shown at most, best first, at least 1.
    competitors
        Purchases shown for each of them at most, the strongest evidence first, at least 1.

    Raises
    ------
    CapabilityError
        If the model gives no evidence.
    UsageError
        If the user is unknown or has no touched, not bought item, or a number is below 1.

    Examples
    --------
    ``explain(load_run("runs/charm"), "u00042").save("u00042.html")``
    """
    for name, value in (("candidates", candidates), ("competitors", competitors)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise UsageError(f"{name} must be a whole number of at least 1, got {value!r}.")
    where = EvidenceSource.of(source, dataset, calibration)
    table = hesitations(
        source,
        dataset,
        users=[user],
        top=candidates,
        thresholds=thresholds,
        calibration=where.calibration,
    )
    if not table.height:
        raise UsageError(
            f"user {user!r} has no item that was touched in training and not bought: there is "
            "nothing to explain."
        )
    data = where.data
    number = int(data.user_ids.encode(pl.Series([user]))[0])
    items = data.item_ids.encode(table[ITEM])
    against = where.evidence.competitor_table(number, items)
    # Strongest first, the smaller number of two equals.
    order = np.argsort(-against.evidence, axis=1, kind="stable")[:, :competitors]
    row = np.repeat(np.arange(items.size), order.shape[1])
    rivals = pl.DataFrame(
        {
            ITEM: data.item_ids.decode(items[row]),
            "competitor_id": data.item_ids.decode(against.competitors[order.ravel()]),
            "evidence": pl.Series(
                np.take_along_axis(against.evidence, order, axis=1).ravel(), dtype=pl.Float32
            ),
        }
    )
    base = None if where.calibration is None else where.calibration.base_rate
    return Explanation(
        user_id=data.user_ids.decode([number])[0],
        candidates=table,
        competitors=rivals,
        base_rate=base,
    )
