"""Intervals of the evaluation draw groups of documents."""

from __future__ import annotations

import numpy as np
import pytest

from deconstruct.config import EvaluationConfig
from deconstruct.evaluation.metrics import RECONSTRUCTION, median_row, rows


def test_copies_of_documents_make_no_interval_narrower() -> None:
    draw = np.random.default_rng(0)
    names = (
        "error", "variance", "error_typical", "variance_typical", "tokens", "tokens_typical",
        "variance_outliers", "elements", "cosine", "squares_out", "inner", "fires",
    )  # fmt: skip
    once = {name: draw.uniform(1, 2, 40) for name in names}
    thrice = {name: np.repeat(of, 3) / 3 for name, of in once.items()}
    config, group = EvaluationConfig(), np.repeat(np.arange(40), 3)
    expected = rows(RECONSTRUCTION, once, config, 40)
    for told, other in zip(
        rows(RECONSTRUCTION, thrice, config, 40, groups=group), expected, strict=True
    ):
        for name in ("value", "ci_low", "ci_high"):
            assert told[name] == pytest.approx(other[name])
    ratios = draw.uniform(size=400)
    places = np.repeat(np.arange(40), 10)
    wide, narrow = (median_row(np.tile(ratios, 3), np.concatenate([places + n for n in by]))
                    for by in ((0, 0, 0), (0, 40, 80)))  # fmt: skip
    assert wide["ci_high"] - wide["ci_low"] > 1.5 * (narrow["ci_high"] - narrow["ci_low"])
