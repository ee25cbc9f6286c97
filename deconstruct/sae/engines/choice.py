"""Which engine trains: the fastest that can make the step."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from torch import Tensor

from deconstruct.common.hardware import pick_dtype
from deconstruct.sae.engines.cuda.check import check_spec, disagreement
from deconstruct.sae.engines.cuda.options import unavailable, unsuited
from deconstruct.sae.engines.cuda.topk import FusedTopK
from deconstruct.sae.engines.dense import DenseEngine
from deconstruct.sae.engines.engine import Engine
from deconstruct.sae.engines.ranks import ranks
from deconstruct.sae.spec import StepSpec


def build_engine(
    spec: StepSpec, weights: dict[str, Tensor], rates: Tensor, device: str, dtype: str
) -> Engine:
    """The fastest engine that can run the step on this device."""
    if spec.architecture == "topk" and device == "cpu" and not spec.transcoder and ranks() == 1:
        from deconstruct.sae.engines.cpu.topk import CpuTopK

        return CpuTopK(spec, weights, rates)
    if device == "cpu" and dtype != "float32":
        from deconstruct.sae.engines.cpu.sparse import SparseEngine

        return SparseEngine(spec, weights, rates)
    if device != "cpu":
        return gpu_engine(spec, weights, rates, device, dtype)
    return DenseEngine(spec, weights, rates, device, pick_dtype(dtype, device))


log = logging.getLogger(__name__)


def gpu_engine(
    spec: StepSpec, weights: Mapping[str, Tensor], rates: Tensor, device: str, dtype: str
) -> Engine:
    """`FusedTopK` where it can make the step and passes `disagreement`, else `DenseEngine`.

    Logs which, and why. dtype: "auto", "bfloat16" or "float32", which the fused step does not do.
    """
    several = f"the fused GPU step is for one process, not {ranks()}" if ranks() > 1 else None
    exact = "the fused GPU step multiplies in bfloat16" if dtype == "float32" else None
    reason = unavailable(device) or unsuited(spec) or several or exact
    if reason is not None:
        log.info("sae          trains by the dense step: %s", reason)
        return DenseEngine(spec, weights, rates, device, pick_dtype(dtype, device))
    try:
        wrong = disagreement(check_spec(spec), device)
        if wrong is None:
            engine = FusedTopK(spec, weights, rates, device)
            engine.prepare()
            log.info("sae          trains by the fused GPU step, which agrees with the dense one")
            return engine
    except Exception as error:  # compilers and drivers raise what they like
        wrong = f"the fused GPU step does not run here ({type(error).__name__}: {error})"
    log.warning("sae          trains by the dense step, which is slower: %s", wrong)
    return DenseEngine(spec, weights, rates, device, pick_dtype(dtype, device))
