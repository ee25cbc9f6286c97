"""The parts of the check, in the order they run, and how long each may take."""

from __future__ import annotations

import math

from benchmarks.gpu_check.running.driver import Part

_HERE = "benchmarks.gpu_check"

ROUNDS = (
    (Part("versions", f"{_HERE}.machine.versions", 60),),
    # side by side: what only compiles and compares; alone: what is timed
    (
        Part("tests", f"{_HERE}.own_tests.part", 150),
        Part("kernels", f"{_HERE}.kernels.part", 150),
    ),
    (Part("speed", f"{_HERE}.speed.part", 170),),
    (Part("pipeline", f"{_HERE}.pipeline.part", 95),),
    (Part("sanitize", f"{_HERE}.machine.sanitize", 70),),
)
NAMES = tuple(part.name for together in ROUNDS for part in together)


def rounds_of(names: list[str], smoke: bool) -> list[list[Part]]:
    """The rounds, with the parts that are named alone.

    In a smoke test nothing is timed, so that all parts run side by side, bound by the budget only.
    """
    rounds = [[part for part in together if part.name in names] for together in ROUNDS]
    if smoke:
        return [[Part(p.name, p.module, math.inf) for together in rounds for p in together]]
    return rounds
