"""Bounds on the figures of a run, before it is published."""

from __future__ import annotations

import pytest

from deconstruct.config import GatesConfig
from deconstruct.recurring import gates


def test_gates_say_each_figure_that_is_beyond_them() -> None:
    gates.check(GatesConfig(), {"fvu": 0.9})
    bounds = GatesConfig(max_fvu=0.2, min_probe_accuracy=0.9, max_fvu_ratio=1.5)
    gates.check(bounds, {"fvu": 0.2, "probe_accuracy": 0.95})
    with pytest.raises(gates.GateError) as caught:
        gates.check(bounds, {"fvu": 0.3, "probe_accuracy": None, "fvu_ratio": 1.25})
    said = str(caught.value)
    assert said.startswith("gates.max_fvu = 0.2, but fvu is 0.3; gates.min_probe_accuracy = 0.9, ")
    assert "this run has no probe_accuracy; the run is not published" in said


def test_a_figure_that_is_no_number_passes_no_gate() -> None:
    for bound in (GatesConfig(max_fvu=0.2), GatesConfig(min_probe_accuracy=0.2)):
        with pytest.raises(gates.GateError, match="is nan"):
            gates.check(bound, {"fvu": float("nan"), "probe_accuracy": float("nan")})
