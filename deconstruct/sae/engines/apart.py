"""A check of kernels in a process of its own.

After some errors of a kernel (an address that is not its own, a failed assertion) nothing on a
device runs any more in the process that had them, and what is to serve in such a case would fail of
them too. So they happen elsewhere.
"""

from __future__ import annotations

import json
import logging
import subprocess
import sys

import torch

log = logging.getLogger(__name__)

SECONDS = 300
"""Compiling all kernels of a step takes some tens of seconds on a slow host."""


def found_apart(subject: str, package: str, *arguments: str) -> str | None:
    """What ``python -m package`` finds wrong with the ``subject``, which it prints as JSON, or how
    it ended; None: all is well."""
    _give_back()
    command = [sys.executable, "-m", package, *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=SECONDS)
    except subprocess.TimeoutExpired:
        return f"{subject} did not end its check within {SECONDS} seconds"
    if done.returncode == 0 and done.stdout.strip():
        found: str | None = json.loads(done.stdout.splitlines()[-1])
        return found
    said = [line for line in done.stderr.splitlines() if line.strip()]
    log.debug("the check of %s said:\n%s", subject, done.stderr)
    last = said[-1].strip() if said else f"it ended with {done.returncode}"
    return f"{subject} does not run here ({last})"


def _give_back() -> None:
    """What torch keeps of a GPU's memory for later goes back to the GPU, for the other process: it
    needs room beside the stages that this one has run."""
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.empty_cache()
