"""How long the stages of a run take on this processor, before they have run.

Operations of each stage, over the rate of a product that is timed. What that leaves out (reading,
sorting, loading) is in the factors, which were fitted to the embedded default. It tells minutes
from hours, and nothing of what else the machine does.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

import torch

from deconstruct.artifacts import Artifact
from deconstruct.common.hardware import pick_device, pick_dtype
from deconstruct.common.site import Site
from deconstruct.config import RunConfig
from deconstruct.model.hooks import blocks
from deconstruct.model.resolve import ResolvedModel
from deconstruct.model.skeleton import skeleton
from deconstruct.reference.floors import FIT_ROWS
from deconstruct.sae.schedule import step_count

SIDE, TIMED_SECONDS = 1024, 0.1
FORWARD = 1.6
"""A forward pass takes so many times its products."""
JUDGED = 1.9
"""A forward pass whose logits are judged, likewise: softmax over the vocabulary."""
ABLATIONS = 5
"""Passes of the reference beside the clean one, which begin at the site."""
STEP = 2.0
"""A training step on a CPU, likewise the encoder's product; by a dense step it is `DENSE`."""
DENSE = 8.0
FIRINGS_A_SECOND = 700_000
"""Firings encoded, ordered and written, beside the product."""
SECONDS_A_DOCUMENT = 0.01
"""Of probe and cluster, which run beside the evaluation."""
SECONDS_A_LATENT = 0.002
"""Of the intruder trials of a latent."""
SECONDS_A_PLACE = 0.002
"""Of the map, for each document that is laid out and each latent."""
SECONDS_A_NUMBER = 2.5e-8
"""Likewise, for each number of the activations, which are read once."""
FIRING_BYTES = 32
"""On disk, in all orders."""


def rate(device: str, dtype: torch.dtype) -> float:
    """Floating-point operations per second of a product of two matrices, the best of some."""
    one = torch.ones(SIDE, SIDE, dtype=dtype, device=device)
    best, until = float("inf"), time.perf_counter() + TIMED_SECONDS
    while time.perf_counter() < until or best == float("inf"):
        started = time.perf_counter()
        (one @ one)[0, 0].item()  # .item() waits for a GPU
        best = min(best, time.perf_counter() - started)
    return 2 * SIDE**3 / best


def foreseen(
    config: RunConfig, model: ResolvedModel, corpus: Artifact, device: str
) -> Mapping[str, tuple[float, float]]:
    """Seconds and bytes on disk of each stage after the corpus, of one site and one SAE each."""
    where = pick_device(device)
    speed = rate(where, pick_dtype(config.model.dtype, where))
    bare = skeleton(model)
    layers = [sum(p.numel() for p in block.parameters()) for block in blocks(bare)]
    unembedding = bare.get_output_embeddings()  # type: ignore[operator]
    head = unembedding.weight.numel() if unembedding is not None else 0
    width = bare.get_input_embeddings().weight.shape[1]  # type: ignore[operator]
    last = max(Site.parse(site).layer for site in config.activations.sites)
    documents, tokens = (int(corpus.facts[name]) for name in ("documents", "tokens"))
    held_out = int(corpus.facts["test_documents"])
    judged = min(held_out, config.evaluation.max_documents or held_out) * tokens / documents
    encoded = 2 * width * config.sae.d_sae / speed
    trained = step_count(config.sae) * config.sae.batch_size
    firings = tokens * config.sae.k
    step = STEP if where == "cpu" else DENSE
    reading = FORWARD * 2 * sum(layers[: last + 1]) / speed
    streamed = 0
    if config.activations.keep == "window":
        streamed = config.sae.tokens + config.activations.window_moment_tokens
    whole, upper = sum(layers) + head, sum(layers[last + 1 :]) + head
    passes = JUDGED * 2 * judged / speed
    fitted = 2 * width**2 * min(tokens, FIT_ROWS) / speed
    placed = min(config.sae.d_sae, config.map.max_latents)
    return {
        "activations": (
            tokens * reading,
            tokens * width * (2.8 if config.activations.storage == "float32" else 2),
        ),
        "sae": (
            step * trained * encoded + streamed * reading,
            16 * width * config.sae.d_sae,
        ),
        "latents": (tokens * encoded + firings / FIRINGS_A_SECOND, FIRING_BYTES * firings),
        "reference": (passes * (whole + ABLATIONS * upper) + fitted, 0),
        "evaluation": (passes * (whole + upper) + held_out / documents * tokens * encoded, 0),
        "probe": (SECONDS_A_DOCUMENT * documents / 2, 0),
        "cluster": (SECONDS_A_DOCUMENT * documents / 2, 0),
        "interpretation": (SECONDS_A_LATENT * config.interpretation.latents, 0),
        "map": (
            SECONDS_A_PLACE * (2 * min(documents, config.map.max_documents) + placed)
            + SECONDS_A_NUMBER * tokens * width,
            0,
        ),
    }


def about(seconds: float) -> str:
    """A time as one says it."""
    if seconds < 90:
        return f"about {max(10, round(seconds, -1)):.0f} seconds"
    if seconds < 5400:
        return f"about {seconds / 60:.0f} minutes"
    return f"about {seconds / 3600:.0f} hours"
