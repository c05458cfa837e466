from __future__ import annotations

from pathlib import Path

import pytest

from browser import WIDTHS, check_offline, needs_browser
from evidence_models import Closed
from funnelrec.common.errors import UsageError
from funnelrec.data.dataset import Dataset
from funnelrec.evaluation.conversion_calibration import ConversionCalibration, calibrate_conversion
from funnelrec.evaluation.plots import reliability_figure, save_reliability_plot


@pytest.fixture
def calibration(tiny_dataset: Dataset) -> ConversionCalibration:
    found = calibrate_conversion(Closed().fit(tiny_dataset), tiny_dataset.training)
    assert found is not None
    return found


def test_the_diagram_shows_the_bins(calibration: ConversionCalibration) -> None:
    curves = [trace for trace in reliability_figure(calibration).data if trace.mode != "lines"]
    scales = (calibration.confidence, calibration.weight)
    parts = [quality for scale in scales for quality in (scale.before, scale.after)]
    assert len(curves) == 4
    for curve, quality in zip(curves, parts, strict=True):
        assert list(curve.x) == [max(b.predicted, 1e-6) for b in quality.bins]
        assert list(curve.y) == [b.observed or b.high for b in quality.bins]
        top = [y + up for y, up in zip(curve.y, curve.error_y.array, strict=True)]
        assert top == pytest.approx([b.high for b in quality.bins])
        assert sum(curve.customdata) == calibration.pairs


def test_files_by_suffix(calibration: ConversionCalibration, tmp_path: Path) -> None:
    picture = save_reliability_plot(calibration, tmp_path / "r.png")
    assert picture.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    page = save_reliability_plot(calibration, tmp_path / "r.html").read_text(encoding="utf-8")
    assert f"{calibration.pairs:,} touched pairs" in page
    with pytest.raises(UsageError, match=r"written as \.png or \.html, got .*r\.pdf"):
        save_reliability_plot(calibration, tmp_path / "r.pdf")


@needs_browser
@pytest.mark.parametrize("width", WIDTHS)
def test_the_page_opens_without_a_network(
    calibration: ConversionCalibration, width: int, tmp_path: Path
) -> None:
    check_offline(save_reliability_plot(calibration, tmp_path / "r.html"), width=width, plots=1)
