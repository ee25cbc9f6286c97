"""SAEs of every kind that the stage trains on the device, and the same training on the CPU."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from types import MappingProxyType
from typing import Any

from benchmarks.gpu_check.machine.versions import why_not
from benchmarks.gpu_check.pipeline.bench import Bench
from benchmarks.gpu_check.running.job import Missing, attempt
from deconstruct.artifacts import Artifact, DataRoot
from deconstruct.config import SaeConfig
from deconstruct.sae import stage

_TIMED = "sae, topk, device"
NO_CHANGES: Mapping[str, object] = MappingProxyType({})


def train_saes(bench: Bench, root: DataRoot, activations: Artifact) -> Artifact:
    """TopK by the default engine; then short trainings. Returns the first."""
    record, steps = bench.record, 10 if bench.job.smoke else 300
    record["train_rows"] = int(activations.facts["train_rows"])
    config = _config(bench, steps)
    found = bench.clock(
        _TIMED, lambda: stage.train(root, config, activations=activations, device=bench.device)
    )
    record["sae"] = dict(found.facts)
    record.note("sae_tokens_s", bench.rate(_TIMED, config.tokens))
    short = 5 if bench.job.smoke else 40
    for architecture in ("batchtopk", "jumprelu", "gated"):
        other = _config(bench, short, {"architecture": architecture})
        facts = attempt(bench.job, partial(_facts, root, other, activations, bench.device))
        record.note(f"sae, {architecture}, device", facts)
    patient = _config(bench, 20, {"patience": 5})
    work = partial(_facts, root, patient, activations, bench.device)
    facts = attempt(bench.job, partial(bench.clock, "sae, patience, device", work))
    record.note("sae, patience, device", facts.get("train_fvu", facts))
    _beside_cpu(bench, activations, _config(bench, short))
    return found


def _config(bench: Bench, steps: int, changes: Mapping[str, object] = NO_CHANGES) -> SaeConfig:
    """Of so many steps, at sizes that the activations allow."""
    d_sae, k, batch = (64, 4, 64) if bench.job.smoke else (8192, 32, 4096)
    settings = {"d_sae": d_sae, "k": k, "batch_size": batch, "tokens": steps * batch}
    return SaeConfig.model_validate({**settings, **changes})


def _facts(root: DataRoot, config: SaeConfig, activations: Artifact, device: str) -> dict[str, Any]:
    return dict(stage.train(root, config, activations=activations, device=device).facts)


def _beside_cpu(bench: Bench, activations: Artifact, config: SaeConfig) -> None:
    """The FVU that the same training ends with on the CPU and on the device."""

    def train(device: str) -> float:
        if device == "cpu" and (reason := why_not("numba")):
            raise Missing(reason)
        name = f"sae, 40 steps, {device}"
        root = bench.root(f"sae-{device.replace(':', '')}")
        facts = bench.clock(name, lambda: _facts(root, config, activations, device))
        return float(facts["train_fvu"])

    for device in dict.fromkeys(("cpu", bench.device)):
        found = attempt(bench.job, partial(train, device))
        bench.record.note(f"fvu after 40 steps, {device}", found)
