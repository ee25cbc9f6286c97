"""The self-check of the fused GPU step in a process of its own."""

from __future__ import annotations

import json
from dataclasses import asdict
from functools import cache

from deconstruct.sae.engines.apart import found_apart
from deconstruct.sae.spec import StepSpec


@cache
def wrong_elsewhere(spec: StepSpec, device: str) -> str | None:
    """What `check.disagreement` finds in another process, or how that ended; None: all is well."""
    return found_apart("the fused GPU step", __package__, device, json.dumps(asdict(spec)))
