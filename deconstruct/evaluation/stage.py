"""The stage evaluation: how faithful an SAE is, on held-out documents alone.

Definitions, as peers' differ. FVU: sum of squared errors over sum of squares about the
per-dimension mean of the tokens judged, in float64 (SAELens 6's explained variance is 1 - FVU).
Dead: fires on no recorded token of the whole corpus; a larger corpus would revive some. Loss
recovered: (ablated - spliced) / (ablated - clean); zero ablation is catastrophic on residual
streams and makes any SAE look good, so the mean ablation and the difference in nats stand beside
it. Intervals resample documents; they say nothing of other seeds, sites or kinds of text.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from deconstruct.activations.reader import ActivationReader
from deconstruct.artifacts import Artifact, DataRoot, Draft, Recipe, Stage, keys_of
from deconstruct.common import parquet
from deconstruct.common.errors import ConfigError
from deconstruct.common.hardware import pick_device
from deconstruct.common.intervals import Bootstrap, Estimate, Statistic, Sums
from deconstruct.common.progress import track
from deconstruct.common.site import Site
from deconstruct.common.threads import one_blas_thread
from deconstruct.config import EvaluationConfig
from deconstruct.corpus.tables import RECORDED
from deconstruct.corpus.vocabulary import token_strings
from deconstruct.evaluation.reconstruction import fidelity
from deconstruct.evaluation.splice import Text, spliced_losses
from deconstruct.evaluation.tables import (
    DENSITY_HISTOGRAM,
    SAE_METRICS,
    TOKEN_ERRORS,
)
from deconstruct.features.logit_lens import feature_logits
from deconstruct.features.tables import FEATURE_LOGITS
from deconstruct.model.loading import load
from deconstruct.model.resolve import ResolvedModel
from deconstruct.sae import files
from deconstruct.sae.autoencoder import SparseAutoencoder
from deconstruct.sae.stage import output_of

log = logging.getLogger(__name__)

VERSION = 7
HISTOGRAM_BINS = np.arange(-7, 0.01, 0.25)


def _fvu(sums: Sums) -> NDArray[np.float64]:
    return sums["error"] / sums["variance"]


_WITH_FIRST = (
    "fvu with the leading positions and special tokens that training left out, of the documents "
    "whose losses are judged; where the first token's activations are massive they hold most of "
    "the variance, and this tells of little else"
)
_RECONSTRUCTION: dict[str, tuple[Statistic, str, str]] = {
    "fvu": (
        _fvu,
        "share",
        "squared error over squares about the mean, held-out recorded tokens",
    ),
    "explained_variance": (lambda s: 1 - _fvu(s), "share", "1 - fvu"),
    "mse": (lambda s: s["error"] / s["elements"], "squared activation", "mean over elements"),
    "cosine": (lambda s: s["cosine"] / s["tokens"], "cosine", "of activation and reconstruction"),
    "relative_reconstruction_bias": (
        lambda s: s["squares_out"] / s["inner"],
        "ratio",
        "E|x'|^2 / E[x.x'], 1 is unbiased, below 1 shrinks (arXiv 2404.16014)",
    ),
    "l0": (lambda s: s["fires"] / s["tokens"], "latents", "latents that fire on a token"),
}

_LOSS: dict[str, tuple[Statistic, str, str]] = {
    "loss_clean": (lambda s: s["clean"] / s["predictions"], "nats", "next-token loss"),
    "loss_spliced": (
        lambda s: s["spliced"] / s["predictions"],
        "nats",
        "with the reconstruction in place; leading positions that training left out stay clean",
    ),
    "loss_zero": (lambda s: s["zero"] / s["predictions"], "nats", "with zeros in place"),
    "loss_mean": (lambda s: s["mean"] / s["predictions"], "nats", "with the train mean in place"),
    "delta_loss": (
        lambda s: (s["spliced"] - s["clean"]) / s["predictions"],
        "nats",
        "spliced - clean",
    ),
    "loss_recovered": (
        lambda s: (s["zero"] - s["spliced"]) / (s["zero"] - s["clean"]),
        "share",
        "against zero ablation",
    ),
    "loss_recovered_mean": (
        lambda s: (s["mean"] - s["spliced"]) / (s["mean"] - s["clean"]),
        "share",
        "against mean ablation",
    ),
    "kl": (lambda s: s["kl"] / s["predictions"], "nats", "KL(clean || spliced)"),
}


def recipe(
    config: EvaluationConfig,
    *,
    model: ResolvedModel,
    corpus: Artifact,
    activations: Artifact,
    sae: Artifact,
    latents: Artifact,
) -> Recipe:
    """All that decides the metrics."""
    upstream = keys_of(corpus=corpus, activations=activations, sae=sae, latents=latents)
    inputs = {"model": model.digest} | upstream
    return Recipe("evaluation", VERSION, config.key_fields(), inputs)


def evaluate(
    root: DataRoot,
    config: EvaluationConfig,
    *,
    model: ResolvedModel,
    corpus: Artifact,
    activations: Artifact,
    sae: Artifact,
    latents: Artifact,
    device: str = "auto",
) -> Artifact:
    """Judge an SAE: ``metrics``, ``density_histogram``, ``token_errors``, ``feature_logits``.

    Reconstruction is judged on every recorded token of the test split, the language model's
    losses on ``config.max_documents`` of its documents, drawn evenly. A transcoder is judged by
    what it reconstructs: its output site's activations, which it replaces in the model.

    The model runs as it ran when the activations were recorded. If it names another dtype than
    that, ``ConfigError``: the SAE would be spliced into another stream than it was made for.
    """

    @one_blas_thread()
    def write(draft: Draft) -> None:
        recorded_with = _as_recorded(model, activations)
        where = pick_device(device)
        dictionary = files.load(sae.path).to(where)
        output = output_of(root, sae, activations)
        rows: list[dict[str, Any]] = []
        rows += _reconstruction(dictionary, corpus, activations, output, config, draft, where)
        lm = load(recorded_with, where)
        rows += _losses(dictionary, lm, corpus, activations, output, config, where)
        rows += _density(latents, draft)
        _logits(dictionary, lm, corpus, draft)
        recorded_with.check_unchanged()
        _warn(rows)
        with draft.writing(SAE_METRICS.file) as path:
            parquet.write(path, SAE_METRICS.of_rows(rows))
        draft.facts.update({str(row["metric"]): row["value"] for row in rows})

    upstream = {"corpus": corpus, "activations": activations, "sae": sae, "latents": latents}
    return root.make(recipe(config, model=model, **upstream), write)


STAGE = Stage("evaluation", recipe, evaluate)


def _reconstruction(
    sae: SparseAutoencoder,
    corpus: Artifact,
    activations: Artifact,
    output: Artifact | None,
    config: EvaluationConfig,
    draft: Draft,
    device: str,
) -> list[dict[str, Any]]:
    """Metrics of x' against x over the test rows; writes ``token_errors.parquet``."""
    reader = ActivationReader(activations, "test")
    wanted = ActivationReader(output, "test") if output else None
    found = fidelity(reader, sae, int(corpus.facts["documents"]), device, wanted)
    draft.write_table(TOKEN_ERRORS.file, found.tokens)
    return _rows(_RECONSTRUCTION, found.documents, config, reader.rows)


def _losses(
    sae: SparseAutoencoder,
    lm: torch.nn.Module,
    corpus: Artifact,
    activations: Artifact,
    output: Artifact | None,
    config: EvaluationConfig,
    device: str,
) -> list[dict[str, Any]]:
    """The language model's losses, and the FVU with the skipped leading positions in it."""
    skip = int(activations.manifest.config["skip_positions"])
    texts = held_out_texts(corpus, config.max_documents, skip)
    if not texts:
        log.warning(
            "no held-out document is long enough to predict a token in, so there are no losses"
        )
        return []
    source = Site.parse(str(activations.facts["site"]))
    site = Site.parse(str((output or activations).facts["site"]))
    moments = ActivationReader(output or activations).moments
    mean = torch.from_numpy(moments.mean).float().to(device)
    total = sum(len(text.ids) for text in texts)
    with track("splicing", total, "tokens") as advance:
        sums = vars(spliced_losses(lm, site, texts, sae, mean, advance, source))
    whole = {"fvu_with_first": (_fvu, "share", _WITH_FIRST)}
    predictions, positions = int(sums["predictions"].sum()), int(sums["positions"].sum())
    return _rows(_LOSS, sums, config, predictions) + _rows(whole, sums, config, positions)


def _logits(sae: SparseAutoencoder, lm: torch.nn.Module, corpus: Artifact, draft: Draft) -> None:
    """Writes ``feature_logits.parquet``, over the corpus's own tokens; without rows, and with a
    warning, for a model whose end they can't be told of."""
    try:
        table = feature_logits(lm, sae.W_dec.float(), token_strings(corpus, special=False))
    except ConfigError as error:
        log.warning("%s; feature_logits stays empty", error)
        table = FEATURE_LOGITS.empty()
    draft.write_table(FEATURE_LOGITS.file, table)


def _as_recorded(model: ResolvedModel, activations: Artifact) -> ResolvedModel:
    """In what the activations were recorded in, so that equal keys stand for equal results."""
    recorded = str(activations.facts["dtype"])
    dtype = model.dtype
    if dtype not in ("auto", recorded):
        raise ConfigError(
            f"dtype = {dtype!r} is not what the activations were recorded in ({recorded}); leave "
            f"it at 'auto', or extract them with model.dtype = {dtype!r}"
        )
    return replace(model, dtype=recorded)


def held_out_texts(corpus: Artifact, limit: int | None, skip_positions: int) -> list[Text]:
    """Test documents of at least two tokens, at most ``limit``, drawn evenly over the corpus.

    Of documents that are split it is windows that are drawn.
    """
    documents = corpus.table("documents.parquet", ["split", "n_tokens"])
    length = int(corpus.manifest.config["max_tokens"])
    lengths = documents["n_tokens"].to_numpy().astype(np.int64)
    test = np.flatnonzero(documents["split"].to_numpy(zero_copy_only=False) == "test")
    windows = -(-lengths[test] // length)
    document = np.repeat(test, windows)
    number = np.arange(len(document)) - np.repeat(np.cumsum(windows) - windows, windows)
    if limit is not None and len(document) > limit:
        drawn = np.linspace(0, len(document) - 1, limit).round().astype(int)
        document, number = document[drawn], number[drawn]
    starts = (np.cumsum(lengths) - lengths)[document] + number * length
    sizes = np.minimum(lengths[document] - number * length, length)
    columns = ["position", "token_id", "special"]
    tables = _token_rows(corpus, "tokens.parquet", columns, starts, sizes)
    masks: Iterator[pa.Table | None] = itertools.repeat(None)
    if RECORDED in corpus.manifest.files:
        masks = _token_rows(corpus, RECORDED, ["recorded"], starts, sizes)
    texts = []
    for doc_id, table, role in zip(document, tables, masks, strict=False):
        ids = table["token_id"].to_numpy().astype(np.int64)
        special = table["special"].to_numpy(zero_copy_only=False)
        recorded = (table["position"].to_numpy() >= skip_positions) & ~special
        if role is not None:
            recorded &= role["recorded"].to_numpy(zero_copy_only=False)
        if recorded[:-1].any():
            texts.append(Text(int(doc_id), ids, recorded))
    return texts


def _token_rows(
    corpus: Artifact,
    name: str,
    columns: list[str],
    starts: NDArray[np.int64],
    sizes: NDArray[np.int64],
) -> Iterator[pa.Table]:
    """Rows of a file that has one per token: so many from each start, in ascending order of starts.
    Only the row groups that hold any are read, one after another."""
    with parquet.opened(corpus.file(name)) as file:
        metadata = file.metadata
        groups = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
        ends = np.cumsum(groups)
        held: dict[int, pa.Table] = {}
        for start, size in zip(starts.tolist(), sizes.tolist(), strict=True):
            first, last = np.searchsorted(ends, [start, start + size - 1], side="right").tolist()
            held = {
                group: held[group] if group in held else file.read_row_group(group, columns)
                for group in range(first, last + 1)
            }
            offset = start - int(ends[first]) + groups[first]
            yield pa.concat_tables(list(held.values())).slice(offset, size)


def _density(latents: Artifact, draft: Draft) -> list[dict[str, Any]]:
    """Dead share, and the histogram of log10 densities; dead latents are in none of its bins."""
    values = latents.table("features.parquet", ["density"])["density"].to_numpy()
    alive = values[values > 0]
    counts, edges = np.histogram(np.log10(alive).clip(HISTOGRAM_BINS[0]), bins=HISTOGRAM_BINS)
    with draft.writing(DENSITY_HISTOGRAM.file) as path:
        parquet.write(path, DENSITY_HISTOGRAM.of(edges[:-1], edges[1:], counts))
    dead, n = len(values) - len(alive), len(values)
    note = "fire on no recorded token of the corpus, train and test"
    return [
        _row("dead_share", Estimate(dead / n), n, "share", note),
        _row("dead_latents", Estimate(float(dead)), n, "latents", note),
    ]


def _rows(
    metrics: Mapping[str, tuple[Statistic, str, str]],
    sums: Sums,
    config: EvaluationConfig,
    n: int,
) -> list[dict[str, Any]]:
    documents = len(next(iter(sums.values())))
    bootstrap = Bootstrap(documents, config.bootstrap, config.seed)
    found = bootstrap.estimates(sums, {name: told[0] for name, told in metrics.items()})
    return [_row(name, found[name], n, *told[1:]) for name, told in metrics.items()]


def _warn(rows: list[dict[str, Any]]) -> None:
    """Say which metrics are no numbers: a ratio to something that does not vary, or is zero."""
    undefined = [str(row["metric"]) for row in rows if not np.isfinite(row["value"])]
    if undefined:
        log.warning("evaluation: %s undefined, as what they are measured against is zero",
                    ", ".join(undefined) + (" is" if len(undefined) == 1 else " are"))  # fmt: skip


def _row(metric: str, found: Estimate, n: int, unit: str, note: str) -> dict[str, Any]:
    return {
        "metric": metric, "value": found.value, "ci_low": found.low, "ci_high": found.high,
        "n": n, "unit": unit, "note": note,
    }  # fmt: skip
