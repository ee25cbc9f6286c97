"""The tests of `tests/sae/cuda` that compare steps and trainings; of encoding; of the feed."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec

from benchmarks.gpu_check.engine import unavailable
from benchmarks.gpu_check.inputs import device_of
from benchmarks.gpu_check.machine.versions import why_not
from benchmarks.gpu_check.running.job import Job, Missing, Record, skipped

_BESIDE_CPU = "tests/sae/cuda/test_topk.py"
"""Needs numba, too: the CPU's engine stands beside the GPU's in it."""
_FEED = "tests/activations/test_card.py"
_ALONE = tuple(
    f"tests/sae/cuda/test_{name}.py"
    for name in ("fused_product", "bits", "choice", "first_step", "found_out")
)
_ENCODING = "tests/sae/encoding/test_selected.py"
_NEEDED = ("pytest", "hypothesis")
_SMOKED = "nothing_fires or refusals or what_it_does_not_do or same_batches"
_WORKERS = "5"


def measure(job: Job, record: Record) -> None:
    """Run them; leaves ``tests.txt``."""
    if reason := unavailable(device_of(job)):
        raise Missing(reason)
    if reasons := [why for name in _NEEDED if (why := why_not(name))]:
        raise Missing("; ".join(reasons))
    # conftest.py wants Prefect and DuckDB; pyproject.toml's options are for a whole run
    options = ["--noconftest", "-p", "no:cacheprovider", "-o", "addopts="]
    options += ["-p", "benchmarks.gpu_check.own_tests.capped"]
    options += ["--most-examples", "2" if job.smoke else "10"]
    options += ["--import-mode=importlib", "-q", "-rfEs", "--tb=short", "--durations=12"]
    if job.smoke:
        options += ["-k", _SMOKED]
    elif find_spec("xdist"):
        options += ["-n", _WORKERS]
    files = [*_ALONE, _ENCODING, _FEED]
    if reason := why_not("numba"):
        record[_BESIDE_CPU] = skipped(reason)
    else:
        files.append(_BESIDE_CPU)
    log = job.out / "tests.txt"
    with log.open("w") as out:
        done = subprocess.run(
            [sys.executable, "-m", "pytest", *options, *files],
            stdout=out, stderr=subprocess.STDOUT, check=False,
        )  # fmt: skip
    lines = log.read_text().splitlines()
    wrong = [line for line in lines if line.startswith(("FAILED", "ERROR"))]
    record |= {"exit": done.returncode, "tail": wrong[:30] + lines[-1:]}
