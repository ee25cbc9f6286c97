"""How much of the bare forward pass's rate extraction to published Parquet reaches.

    .venv/bin/python -m benchmarks.extract [--home data] [--site 9.resid_post] [--repeats 3]

Bare: the model runs over the same batches, stopped at the same layer, and throws its activations
away. Extraction: the whole stage as the pipeline runs it (loading excluded from both), up to the
published, hashed artifact. The two alternate; medians are compared.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from deconstruct.activations import layout
from deconstruct.activations import stage as activations
from deconstruct.artifacts import Artifact, DataRoot
from deconstruct.common.hardware import pick_device, pick_dtype
from deconstruct.common.site import Site
from deconstruct.config import ActivationsConfig, RunConfig
from deconstruct.corpus import sources
from deconstruct.corpus import stage as corpus
from deconstruct.model.hooks import capture
from deconstruct.model.loading import load
from deconstruct.model.resolve import ResolvedModel, resolve


def bare(model: torch.nn.Module, texts: Artifact, site: Site, device: str) -> float:
    """Tokens per second of forward passes alone."""
    with tempfile.TemporaryDirectory() as folder:
        tokens = layout.Tokens.read(texts, 1, Path(folder))
        documents = np.arange(len(tokens.lengths))
        started = time.perf_counter()
        most = layout.CPU_BATCH_TOKENS if device == "cpu" else layout.GPU_BATCH_TOKENS
        for batch in layout.batches(documents, tokens.lengths, most):
            capture(model, torch.from_numpy(tokens.of(batch)).to(device), [site])
        if device != "cpu":
            torch.cuda.synchronize()
        return float(tokens.lengths.sum()) / (time.perf_counter() - started)


def extraction(
    root: DataRoot, resolved: ResolvedModel, texts: Artifact, site: Site, load_seconds: float
) -> float:
    """Tokens per second of the whole stage, published; the time to load the model left out."""
    config = ActivationsConfig(sites=(str(site),))
    (recipe,) = activations.recipes(config, model=resolved, corpus=texts)
    shutil.rmtree(root.folder(recipe.stage, recipe.key), ignore_errors=True)
    started = time.perf_counter()
    activations.extract(root, config, model=resolved, corpus=texts)
    return int(texts.facts["tokens"]) / (time.perf_counter() - started - load_seconds)


def main() -> None:
    """Measure and print; leaves ``benchmarks/results/extract.json``."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--home", default="data")
    parser.add_argument("--site", default="9.resid_post")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--limit", type=int, default=None, help="documents")
    options = parser.parse_args()

    root = DataRoot(options.home)
    run = RunConfig()
    resolved = resolve(root, run.model)
    settings = run.corpus.model_copy(update={"limit": options.limit})
    texts = corpus.tokenise(root, settings, source=sources.resolve(settings), model=resolved)
    site, device = Site.parse(options.site), pick_device()
    load(resolved, device)
    started = time.perf_counter()
    model = load(resolved, device)
    load_seconds = time.perf_counter() - started
    capture(model, torch.ones(8, 128, dtype=torch.long, device=device), [site])

    rates: dict[str, list[float]] = {"bare": [], "extraction": []}
    with tempfile.TemporaryDirectory(dir=root.path) as scratch:
        for _ in range(options.repeats):
            rates["bare"].append(bare(model, texts, site, device))
            rates["extraction"].append(
                extraction(DataRoot(scratch), resolved, texts, site, load_seconds)
            )
    medians = {name: statistics.median(values) for name, values in rates.items()}
    result = {
        "model": resolved.name,
        "site": str(site),
        "tokens": texts.facts["tokens"],
        "dtype": str(pick_dtype("auto", device)),
        "device": device,
        "machine": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "tokens_per_second": medians,
        "raw": rates,
        "extraction_over_bare": medians["extraction"] / medians["bare"],
    }
    path = Path(__file__).parent / "results" / "extract.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(f"bare forward pass  {medians['bare']:8.0f} tokens/s")
    print(f"published Parquet  {medians['extraction']:8.0f} tokens/s")
    print(f"ratio              {result['extraction_over_bare']:8.2f}")


if __name__ == "__main__":
    main()
