"""From texts to probes by the project's stages, on the device."""

from __future__ import annotations

import logging
import sys
import tempfile
from pathlib import Path

from benchmarks.gpu_check.inputs import device_of
from benchmarks.gpu_check.pipeline.bench import Bench, make_corpus
from benchmarks.gpu_check.pipeline.extraction import record_activations
from benchmarks.gpu_check.pipeline.judging import Trained, judge
from benchmarks.gpu_check.pipeline.training import train_saes
from benchmarks.gpu_check.running.job import Job, Record


def measure(job: Job, record: Record) -> None:
    """Run every stage once, in the order of a run."""
    device = device_of(job)
    logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(message)s")
    with tempfile.TemporaryDirectory(prefix="gpu-check-") as folder:
        bench = Bench(job, record, Path(folder), "cuda:0" if device == "cuda" else device)
        corpus = make_corpus(bench)
        activations = record_activations(bench, corpus)
        sae = train_saes(bench, corpus.root, activations)
        judge(bench, Trained(corpus, activations, sae))
