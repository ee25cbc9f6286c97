"""What is here, and what the card copies and multiplies at."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib import import_module, metadata
from typing import Any

import torch

from benchmarks.gpu.clock import ceilings, ms_of
from benchmarks.gpu_check.engine import unavailable
from benchmarks.gpu_check.inputs import device_of
from benchmarks.gpu_check.running.job import Job, Record

_PACKAGES = (
    "torch triton numpy numba llvmlite transformers safetensors pyarrow scikit-learn pydantic "
    "pydantic_core pytest hypothesis eai-sparsify sae-lens datasets"
).split()


def measure(job: Job, record: Record) -> None:
    """Versions, the card, and its ceilings."""
    device = device_of(job)
    record["python"] = platform.python_version()
    record |= {name: _version(name) for name in _PACKAGES}
    record["numba does not import"] = why_not("numba")
    if device == "cuda":
        record |= _card()
    record["cores"] = os.cpu_count()
    record["gcc"] = _said_by("gcc", "--version").split("\n")[0]
    record["fused step is unavailable"] = unavailable(device)
    record.keep()
    record["ceilings"] = roof(device) | _host_copies(device)


def roof(device: str) -> dict[str, float]:
    """`ceilings`, over a handful of numbers on a CPU, where they tell nothing."""
    return ceilings(device) if device == "cuda" else ceilings(device, 2**10, 64)


def why_not(module: str) -> str | None:
    """Why a module does not import, beside a numpy that is too new for it, say; None: it does."""
    try:
        import_module(module)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _card() -> dict[str, Any]:
    card = torch.cuda.get_device_properties(0)
    asked = "driver_version,clocks.sm,clocks.mem,power.limit,persistence_mode,compute_mode"
    query = f"--query-gpu={asked},ecc.mode.current"
    return {
        "card": card.name,
        "sms": card.multi_processor_count,
        "capability": torch.cuda.get_device_capability(0),
        "memory_gib": card.total_memory / 2**30,
        "l2_mib": getattr(card, "L2_cache_size", 0) / 2**20,
        "cuda": torch.version.cuda,
        "smi": _said_by("nvidia-smi", query, "--format=csv,noheader"),
    }


def _said_by(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{type(error).__name__}: {error}"
    return (done.stdout or done.stderr).strip()


def _host_copies(device: str) -> dict[str, float]:
    """What a batch of 12 MB takes from the host: [4096, 768] of float32."""
    host = torch.randn(4096, 768)
    there = torch.empty(4096, 768, device=device)

    def copy(rows: torch.Tensor) -> float:
        return ms_of(lambda: there.copy_(rows, non_blocking=True), 20, device)

    found = {"pageable_12mb_ms": copy(host)}
    if device == "cuda":
        found["pinned_12mb_ms"] = copy(host.pin_memory())
    return found
