"""Processes of parts: started, stopped, and what they left."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.gpu_check.running.job import DONE, FAILED, OUT_OF_TIME, SKIPPED, Job

_LOG_TAIL = 2500
"""Characters of a log that stand in the results of a part that did not end well."""


def command(job: Job) -> list[str]:
    """What runs the job, in the root of a checkout."""
    return [sys.executable, "-m", "benchmarks.gpu_check.running.child", job.words()]


class Running:
    """A part at work.

    apart: in a process group of its own, so that all it starts ends with it; what a part itself
    starts stays in the part's group.
    """

    def __init__(self, job: Job, apart: bool = False) -> None:
        self.job, self._apart, self._began = job, apart, time.monotonic()
        self.log = job.results.with_suffix(".log")
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                command(job), stdout=log, stderr=subprocess.STDOUT, start_new_session=apart
            )

    def ended(self) -> bool:
        """Whether it has ended by itself."""
        return self._process.poll() is not None

    def late(self) -> bool:
        """Whether its time is up."""
        return self.job.left() < 0

    def stop(self) -> None:
        """Kill it, if it still runs."""
        if self._apart:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
        else:
            self._process.kill()
        self._process.wait()

    def outcome(self) -> dict[str, Any]:
        """What it found, its state and the seconds it took; with the end of its log if it failed.

        Stops it where it still runs: its time is up.
        """
        stopped = not self.ended()
        self.stop()
        found, code = _read(self.job.results), self._process.returncode
        seconds = time.monotonic() - self._began
        well = code == 0 and found.get("state") in (DONE, SKIPPED)
        if stopped:
            found |= {"state": OUT_OF_TIME, "reason": f"stopped after {seconds:.0f} s"}
        elif not well and found.get("state") != FAILED:
            found |= {"state": FAILED, "reason": f"exit {code}"}
        if found["state"] in (FAILED, OUT_OF_TIME):
            found["log"] = self.log.read_text(errors="replace")[-_LOG_TAIL:]
        return found | {"seconds": round(seconds, 1)}


def _read(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return found
