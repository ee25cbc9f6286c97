"""compute-sanitizer over a small step: memory that is not the step's, and races."""

from __future__ import annotations

import os
import shutil
import subprocess
from functools import partial
from typing import Any

from benchmarks.gpu_check.engine import unavailable
from benchmarks.gpu_check.inputs import device_of
from benchmarks.gpu_check.machine import SANITIZER_FOUND, plain_step
from benchmarks.gpu_check.running.job import Job, Missing, Record, attempt, skipped
from benchmarks.gpu_check.running.processes import command

TOOLS = ("memcheck", "racecheck")


def measure(job: Job, record: Record) -> None:
    """Each tool, while there is time; in a smoke test the step alone."""
    if reason := unavailable(device_of(job)):
        raise Missing(reason)
    if job.smoke:
        plain_step.measure(job, record)
        raise Missing("compute-sanitizer, which needs a CUDA device; the step ran without it")
    if shutil.which("compute-sanitizer") is None:
        raise Missing("compute-sanitizer, which comes with CUDA's toolkit, is not on the PATH")
    for tool in TOOLS:
        record.note(tool, attempt(job, partial(_run, tool, job)))


def _run(tool: str, job: Job) -> dict[str, Any]:
    """What a tool says of `plain_step`."""
    seconds = job.left() - 4
    if seconds < 15:
        return skipped("no time left")
    step = Job(plain_step.__name__, job.results.with_name(f"{tool}.json"), job.out, job.deadline,
               job.smoke)  # fmt: skip
    options = ["--tool", tool, "--print-limit", "20", "--error-exitcode", str(SANITIZER_FOUND)]
    done = subprocess.run(
        ["compute-sanitizer", *options, *command(step)],
        env={**os.environ, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"},
        capture_output=True, text=True, timeout=seconds, check=False,
    )  # fmt: skip
    lines = [line for line in (done.stdout + done.stderr).splitlines() if line.startswith("=====")]
    return {"exit": done.returncode, "said": lines[-12:]}
