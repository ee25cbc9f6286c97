"""Bootstrap intervals: they cover what they should, and depend on the seed alone."""

from __future__ import annotations

import numpy as np
import pytest

from deconstruct.common.intervals import Bootstrap


def test_intervals_cover_what_they_should() -> None:
    """Of 95% intervals of a ratio of means, about 95% hold the true one, which is 2."""
    draw = np.random.default_rng(0)
    inside = 0
    for seed in range(300):
        below = draw.gamma(4, 1, 80)
        sums = {"above": 2 * below + draw.normal(0, 1, 80), "below": below}
        found = Bootstrap(80, 300, seed).estimates(
            sums, {"ratio": lambda s: s["above"] / s["below"]}
        )["ratio"]
        assert found.value == pytest.approx(sums["above"].sum() / below.sum())
        inside += found.low <= 2 <= found.high
    assert 270 <= inside <= 297


def test_resamples_do_not_depend_on_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = np.concatenate(list(Bootstrap(7, 50, 3).counts()))
    assert whole.shape == (50, 7)
    assert (whole.sum(1) == 7).all()
    assert len(np.unique(whole, axis=0)) > 40
    monkeypatch.setattr("deconstruct.common.intervals.BLOCK_COUNTS", 20)
    blocks = list(Bootstrap(7, 50, 3).counts())
    assert len(blocks) == 25
    np.testing.assert_array_equal(np.concatenate(blocks), whole)
    nothing = Bootstrap(7, 50, 3).estimates(
        {"zero": np.zeros(7)}, {"ratio": lambda s: s["zero"] / s["zero"]}
    )["ratio"]
    assert np.isnan(nothing.value)
    assert nothing[1:] == (None, None)


def test_one_document_has_no_interval() -> None:
    found = Bootstrap(1, 50, 0).estimates({"x": np.array([3.0])}, {"x": lambda s: s["x"]})["x"]
    assert found == (3, None, None)
    two = Bootstrap(2, 50, 0).estimates({"x": np.array([3.0, 4])}, {"x": lambda s: s["x"]})["x"]
    assert two == (7, 6, 8)
