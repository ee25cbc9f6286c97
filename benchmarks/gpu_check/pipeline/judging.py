"""What follows from an SAE: latents, evaluation, probes; the CPU's beside them where it differs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from benchmarks.gpu_check.machine.versions import why_not
from benchmarks.gpu_check.pipeline.bench import Bench, Corpus
from benchmarks.gpu_check.pipeline.encoding import compare_encodings
from benchmarks.gpu_check.running.job import Missing, attempt
from deconstruct.artifacts import Artifact
from deconstruct.config import EvaluationConfig, LatentsConfig, ProbeConfig
from deconstruct.evaluation import stage as evaluation
from deconstruct.latents import stage as latents
from deconstruct.probe import stage as probe
from deconstruct.reference import stage as reference

_TIMED = "latents, device"


@dataclass(frozen=True)
class Trained:
    """A corpus, one site's activations over it, and the SAE of these."""

    corpus: Corpus
    activations: Artifact
    sae: Artifact


def judge(bench: Bench, made: Trained) -> None:
    """Latents, evaluation and probes, each a stage."""
    record, root, texts = bench.record, made.corpus.root, made.corpus.artifact
    firings = bench.clock(
        _TIMED,
        lambda: latents.encode(
            root,
            LatentsConfig(),
            sae=made.sae,
            activations=made.activations,
            corpus=texts,
            device=bench.device,
        ),
    )
    record["latents_tokens_s"] = bench.rate(_TIMED, made.corpus.tokens)
    compare_encodings(bench, made.sae.path, made.activations)
    judged = bench.clock(
        "evaluation, device", lambda: _evaluate(bench, made, firings, bench.device)
    )
    record.note("metrics", judged)
    probed = bench.clock(
        "probe",
        lambda: probe.fit_probes(
            root,
            ProbeConfig(ks=(1, 4), bootstrap=50),
            corpus=texts,
            latents=firings,
            activations=made.activations,
        ),
    )
    record.note("probe_accuracy", probed.facts.get("accuracy"))
    if not bench.job.smoke:
        record.note("metrics, CPU", attempt(bench.job, lambda: _on_cpu(bench, made, firings)))


def _evaluate(bench: Bench, made: Trained, firings: Artifact, device: str) -> dict[str, Any]:
    """The metrics' headlines."""
    seed = int(device == "cpu")  # of intervals alone, so that the CPU's are not found in the cache
    documents = 8 if bench.job.smoke else 48
    config = EvaluationConfig(max_documents=documents, bootstrap=50, seed=seed)
    root, model = made.corpus.root, made.corpus.model
    judged = evaluation.evaluate(
        root,
        config,
        model=model,
        reference=reference.measure(
            root,
            config,
            model=model,
            corpus=made.corpus.artifact,
            activations=made.activations,
            device=device,
        ),
        sae=made.sae,
        latents=firings,
        device=device,
    )
    return {name: v for name, v in judged.facts.items() if isinstance(v, int | float)}


def _on_cpu(bench: Bench, made: Trained, firings: Artifact) -> dict[str, Any]:
    if reason := why_not("numba"):
        raise Missing(reason)
    return _evaluate(bench, made, firings, "cpu")
