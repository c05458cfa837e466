"""Small made-up results and data for the tests of the comparison."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from funnelrec.comparison.results import ModelResult
from funnelrec.data.dataset import SplitRecord
from funnelrec.evaluation.evaluate import Evaluation
from funnelrec.evaluation.protocol import Protocol
from funnelrec.models.runs import RunRecord

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


def made_result(
    model: str,
    overall: Floats | None = None,
    conversion: Bools | None = None,
    *,
    masked: Sequence[str] = ("train-target",),
    refit: bool = False,
    validation: dict[str, float] | None = None,
) -> ModelResult:
    """Return a result whose NDCG@10 per user is ``overall``; the hit rate is whether it is > 0."""
    values = np.array([1.0, 0.5, 0.0, 0.0, 1.0]) if overall is None else overall
    converted = np.arange(len(values)) % 2 == 0 if conversion is None else conversion
    members = {
        "overall": np.ones(len(values), dtype=bool),
        "conversion": converted,
        "discovery": ~converted,
    }
    slices: dict[Any, dict[str, Any]] = {}
    frame: dict[str, Any] = {
        "user_id": [f"u{number}" for number in range(len(values))],
        "held_out": np.ones(len(values), dtype=np.int64),
        "conversion": converted,
        "discovery": ~converted,
    }
    for name, member in members.items():
        users = int(member.sum())
        slices[name] = {"users": users, "held_out": users, "unreachable": 0}
        for metric, per_user in {"hr@10": (values > 0).astype(float), "ndcg@10": values}.items():
            slices[name][metric] = float(per_user[member].mean()) if users else None
            column = metric if name == "overall" else f"{name}/{metric}"
            frame[column] = pl.Series(np.where(member, per_user, np.nan), nan_to_null=True)
    protocol = Protocol.model_validate(
        {
            "dataset": "made up",
            "fingerprint": "0" * 64,
            "split": SplitRecord(kind="leave-one-out", order="time", auxiliary="before"),
            "evaluated": "test",
            "masked": tuple(masked),
            "ks": (10,),
            "behaviors": ("view", "purchase"),
            "target": "purchase",
            "refit": refit,
            "model": model,
        }
    )
    record = RunRecord(
        model=model,
        config={"dim": 8},
        seed=0,
        device="cpu",
        refit=refit,
        dataset="/nowhere",
        fingerprint="0" * 64,
        versions={},
        seconds=1.0,
        peak_memory_bytes=None,
    )
    return ModelResult(
        record, Evaluation(protocol, slices, pl.DataFrame(frame)), validation or {}, None
    )
