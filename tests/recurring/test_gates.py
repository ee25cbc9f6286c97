"""Bounds on the figures of a run, before it is published."""

from __future__ import annotations

import pytest

from deconstruct.config import TRAINING, GatesConfig
from deconstruct.recurring import gates


def test_gates_say_each_figure_that_is_beyond_them() -> None:
    gates.check(GatesConfig(), {TRAINING: {"fvu": 0.9}})
    bounds = GatesConfig(max_fvu=0.2, min_probe_accuracy=0.9, max_fvu_ratio=1.5)
    gates.check(bounds, {TRAINING: {"fvu": 0.2, "probe_accuracy": 0.95}})
    figures = {"fvu": 0.3, "probe_accuracy": None, "fvu_ratio": 1.25}
    with pytest.raises(gates.GateError) as caught:
        gates.check(bounds, {TRAINING: figures})
    said = str(caught.value)
    assert said.startswith("gates.max_fvu = 0.2, but fvu is 0.3; gates.min_probe_accuracy = 0.9, ")
    assert "this run has no probe_accuracy; the run is not published" in said


def test_a_figure_that_is_no_number_passes_no_gate() -> None:
    for bound in (GatesConfig(max_fvu=0.2), GatesConfig(min_probe_accuracy=0.2)):
        with pytest.raises(gates.GateError, match="is nan"):
            gates.check(bound, {TRAINING: {"fvu": float("nan"), "probe_accuracy": float("nan")}})


def test_each_analysis_passes_the_gates_of_the_figures_that_it_has() -> None:
    bounds = GatesConfig(max_fvu=0.2, min_probe_accuracy=0.9)
    found = {
        "corpus": {"fvu": 0.1, "probe_accuracy": None},  # it has no labels
        "reviews": {"fvu": 0.2, "probe_accuracy": 0.95},
    }
    gates.check(bounds, found)
    found["reviews"]["fvu"] = 0.3
    with pytest.raises(gates.GateError, match=r"max_fvu = 0.2, but fvu of 'reviews' is 0.3; the"):
        gates.check(bounds, found)
    found["reviews"] = {"fvu": 0.2, "probe_accuracy": None}
    with pytest.raises(gates.GateError, match="but this run has no probe_accuracy"):
        gates.check(bounds, found)
