"""Parts in rounds, each within its limit and all within the budget; results after every part."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.gpu_check.running.job import Job, say, skipped, write_json
from benchmarks.gpu_check.running.processes import Running

LEAST_S = 10
"""A part that has fewer seconds left is not begun."""


@dataclass(frozen=True)
class Part:
    """name: in the report. module: has ``measure(job, record)``. limit_s: seconds it may take."""

    name: str
    module: str
    limit_s: float


@dataclass(frozen=True)
class Budget:
    """Seconds for all parts, counted from now."""

    seconds: float
    began: float = field(default_factory=time.monotonic)

    def left(self) -> float:
        return self.began + self.seconds - time.monotonic()


def drive(
    rounds: Sequence[Sequence[Part]], out: Path, budget: Budget, smoke: bool
) -> dict[str, dict[str, Any]]:
    """Run the parts of a round side by side, one round after another.

    Leaves ``report.json`` in ``out`` after every part, and all logs in ``logs.txt`` at the end.
    """
    scratch = out / "logs"
    scratch.mkdir(parents=True, exist_ok=True)
    report: dict[str, dict[str, Any]] = {}
    for together in rounds:
        running: dict[str, Running] = {}
        try:
            for part in together:
                seconds = min(part.limit_s, budget.left())
                if seconds < LEAST_S:
                    report[part.name] = skipped(f"no time left of {budget.seconds:g} s")
                    continue
                deadline = time.monotonic() + seconds
                job = Job(part.module, scratch / f"{part.name}.json", out, deadline, smoke)
                running[part.name] = Running(job, apart=True)
            _collect(running, report, out)
        finally:
            for one in running.values():
                one.stop()
    report = {part.name: report[part.name] for together in rounds for part in together}
    write_json(out / "report.json", report)
    _pack(scratch, out)
    return report


def _collect(running: dict[str, Running], report: dict[str, dict[str, Any]], out: Path) -> None:
    """Wait for the parts of a round, or until their time is up."""
    while running:
        for name in [n for n, one in running.items() if one.ended() or one.late()]:
            found = report[name] = running.pop(name).outcome()
            say(name, found["state"], "after", found["seconds"], "s")
            write_json(out / "report.json", report)
        time.sleep(0.1)


def _pack(scratch: Path, out: Path) -> None:
    """All logs in one file: results may come back from a card's machine as few files."""
    with (out / "logs.txt").open("w") as whole:
        for log in sorted(scratch.glob("*.log")):
            text = log.read_text(errors="replace")[-200_000:]
            whole.write(f"==== {log.name}\n{text}\n")
    for path in scratch.iterdir():
        path.unlink()
    scratch.rmdir()
