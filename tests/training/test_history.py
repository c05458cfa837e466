from __future__ import annotations

import pytest
from pydantic import ValidationError

from funnelrec.training.history import EpochRecord, History

RECORDS = (
    EpochRecord(epoch=1, terms={"bpr": 0.7, "l2": 0.1}, seconds=1.5),
    EpochRecord(epoch=2, terms={"bpr": 0.5, "extra": 2.0}, validation={"hr@10": 0.25}, seconds=3.0),
)


def test_one_row_per_epoch_with_nulls_where_nothing_was_measured() -> None:
    frame = History(metric="hr@10", records=RECORDS, best_epoch=2, best_value=0.25).to_frame()
    assert frame.to_dicts() == [
        {
            "epoch": 1,
            "seconds": 1.5,
            "loss/bpr": 0.7,
            "loss/l2": 0.1,
            "loss/extra": None,
            "validation/hr@10": None,
        },
        {
            "epoch": 2,
            "seconds": 3.0,
            "loss/bpr": 0.5,
            "loss/l2": None,
            "loss/extra": 2.0,
            "validation/hr@10": 0.25,
        },
    ]


def test_an_empty_history() -> None:
    assert History().to_frame().height == 0
    assert History().seconds == 0.0
    assert (History().best_epoch, History().best_value, History().stopped) == (0, None, "")


def test_seconds() -> None:
    assert History(records=RECORDS).seconds == 3.0


def test_json_keeps_every_bit() -> None:
    record = EpochRecord(epoch=1, terms={"bpr": 0.1 + 0.2}, seconds=1 / 3)
    history = History(metric="hr@10", records=(record,), best_epoch=1, best_value=2 / 3)
    assert History.model_validate_json(history.model_dump_json()) == history


@pytest.mark.parametrize("change", [{"epoch": 0}, {"seconds": -1.0}, {"unknown": 1}])
def test_impossible_records_are_refused(change: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        EpochRecord.model_validate({"epoch": 1, "terms": {}, "seconds": 0.0, **change})
