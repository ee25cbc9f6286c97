"""The self-check of the fused GPU step in a process of its own.

After some errors of a kernel (an address that is not its own, a failed assertion) nothing on a
device runs any more in the process that had them, and the dense step, which is to train in such a
case, would fail of them too. So they happen elsewhere.
"""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from dataclasses import asdict
from functools import cache

from deconstruct.sae.engines.memory import give_back
from deconstruct.sae.spec import StepSpec

log = logging.getLogger(__name__)

SECONDS = 300
"""Compiling all kernels takes some tens of seconds on a slow host."""


@cache
def wrong_elsewhere(spec: StepSpec, device: str) -> str | None:
    """What `check.disagreement` finds in another process, or how that ended; None: all is well."""
    command = [sys.executable, "-m", __package__, device, json.dumps(asdict(spec))]
    give_back()
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=SECONDS)
    except subprocess.TimeoutExpired:
        return f"the fused GPU step did not end its check within {SECONDS} seconds"
    if done.returncode == 0 and done.stdout.strip():
        found: str | None = json.loads(done.stdout.splitlines()[-1])
        return found
    said = [line for line in done.stderr.splitlines() if line.strip()]
    log.debug("the check of the fused GPU step said:\n%s", done.stderr)
    last = said[-1].strip() if said else f"it ended with {done.returncode}"
    return f"the fused GPU step does not run here ({last})"
