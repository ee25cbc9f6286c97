"""Which engine trains: the first that serves, fastest first, and why not those before it."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from torch import Tensor

from deconstruct.sae.engines.cuda.topk import FusedTopK
from deconstruct.sae.engines.dense import DenseEngine
from deconstruct.sae.engines.engine import Engine, UnfitError
from deconstruct.sae.engines.memory import within_memory
from deconstruct.sae.engines.ranks import ranks
from deconstruct.sae.engines.still import StillEngine
from deconstruct.sae.spec import ALL, StepSpec

log = logging.getLogger(__name__)


def build_engine(
    spec: StepSpec, weights: dict[str, Tensor], rates: Tensor, device: str, dtype: str
) -> Engine:
    """The fastest engine that can make the step on this device.

    weights, rates, dtype: see `Engine.begin`. Logs which, and why the faster ones can't: of GPUs
    for people to see, with a warning where one failed that should have served. Raises
    ``ConfigError`` where the device's memory is too small.
    """
    return first_that_serves(_kinds(spec, device), spec, weights, rates, device, dtype)


def another_engine(
    wrong: type[Engine],
    spec: StepSpec,
    weights: dict[str, Tensor],
    rates: Tensor,
    device: str,
    dtype: str,
) -> Engine:
    """As `build_engine`, without one that was found out."""
    kinds = [kind for kind in _kinds(spec, device) if kind is not wrong]
    return first_that_serves(kinds, spec, weights, rates, device, dtype)


def _kinds(spec: StepSpec, device: str) -> tuple[type[Engine], ...]:
    if spec.frozen == ALL:
        return (StillEngine,)
    return on_cpu() if device == "cpu" else on_gpu()


def on_cpu() -> tuple[type[Engine], ...]:
    """The engines for a CPU, fastest first."""
    from deconstruct.sae.engines.cpu.sparse import SparseEngine  # loads numba
    from deconstruct.sae.engines.cpu.topk import CpuTopK

    return CpuTopK, SparseEngine, DenseEngine


def on_gpu() -> tuple[type[Engine], ...]:
    """The engines for any other device, fastest first."""
    return FusedTopK, DenseEngine


def first_that_serves(
    kinds: Iterable[type[Engine]],
    spec: StepSpec,
    weights: dict[str, Tensor],
    rates: Tensor,
    device: str,
    dtype: str,
) -> Engine:
    """Of ``kinds``, of which the last serves always."""
    reasons: list[str] = []
    level = logging.DEBUG if device == "cpu" else logging.INFO
    for kind in kinds:
        reason = kind.refuses(spec, device, dtype, ranks())
        if reason is None:
            try:
                with within_memory(spec, device):
                    engine = kind.begin(spec, weights, rates, device, dtype)
            except UnfitError as error:
                reason, level = str(error), logging.WARNING
            else:
                why = f": {'; '.join(reasons)}" if reasons else ""
                log.log(level, "sae          trains by %s%s", kind.title, why)
                return engine
        reasons.append(reason)
    raise AssertionError(f"no engine trains this: {'; '.join(reasons)}")
