"""The stage evaluation: how faithful an SAE is, on held-out documents alone.

Definitions, as peers' differ. FVU: sum of squared errors over sum of squares about the
per-dimension mean of the tokens judged, in float64 (SAELens 6's explained variance is 1 - FVU).
Dead: fires on no recorded token of the whole corpus; a larger corpus would revive some. Loss
recovered: (ablated - spliced) / (ablated - clean); zero ablation is catastrophic on residual
streams and makes any SAE look good, so the mean ablation and the difference in nats stand beside
it. Intervals resample documents; they say nothing of other seeds, sites or kinds of text.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from torch import Tensor

from deconstruct.artifact import Artifact, ArtifactStore, Draft, Recipe
from deconstruct.bootstrap import Sums, interval, resample_counts
from deconstruct.config import EvaluationConfig
from deconstruct.model import ResolvedModel, load, pick_device, pick_dtype
from deconstruct.progress import track
from deconstruct.reader import ActivationReader
from deconstruct.sae import formats
from deconstruct.sae.model import SparseAutoencoder
from deconstruct.site import Site
from deconstruct.splice import Losses, Text, spliced_losses

VERSION = 1
HISTOGRAM_BINS = np.arange(-7, 0.01, 0.25)

METRICS = pa.schema(
    {
        "metric": pa.string(),
        "value": pa.float64(),
        "ci_low": pa.float64(),
        "ci_high": pa.float64(),
        "n": pa.uint64(),
        "unit": pa.string(),
        "note": pa.string(),
    }
)

Statistic = Callable[[Sums], NDArray[np.float64]]

_RECONSTRUCTION: dict[str, tuple[Statistic, str, str]] = {
    "fvu": (
        lambda s: s["error"] / s["variance"],
        "share",
        "squared error over squares about the mean, held-out recorded tokens",
    ),
    "explained_variance": (lambda s: 1 - s["error"] / s["variance"], "share", "1 - fvu"),
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
        "with the reconstruction in place",
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
    model: ResolvedModel,
    corpus: Artifact,
    activations: Artifact,
    sae: Artifact,
    latents: Artifact,
) -> Recipe:
    """All that decides the metrics."""
    upstream = {"corpus": corpus, "activations": activations, "sae": sae, "latents": latents}
    inputs = {"model": model.digest} | {name: a.key for name, a in upstream.items()}
    return Recipe("evaluation", VERSION, config.model_dump(mode="json"), inputs)


def evaluate(
    store: ArtifactStore,
    config: EvaluationConfig,
    model: ResolvedModel,
    corpus: Artifact,
    activations: Artifact,
    sae: Artifact,
    latents: Artifact,
    *,
    dtype: str = "auto",
    device: str = "auto",
) -> Artifact:
    """Judge an SAE: ``metrics``, ``density_histogram`` and ``token_errors``.

    Reconstruction is judged on every recorded token of the test split, the language model's
    losses on ``config.max_documents`` of its documents, drawn evenly.
    """

    def write(draft: Draft) -> None:
        where = pick_device(device)
        dictionary = formats.load(sae.path).to(where)
        rows: list[dict[str, Any]] = []
        rows += _reconstruction(dictionary, activations, config, draft, where)
        rows += _losses(dictionary, model, corpus, activations, config, dtype, where)
        rows += _density(latents, draft)
        with draft.writing("metrics.parquet") as path:
            _write(pa.Table.from_pylist(rows, METRICS), path)
        draft.facts.update({str(row["metric"]): row["value"] for row in rows})

    return store.make(recipe(config, model, corpus, activations, sae, latents), write)


def _reconstruction(
    sae: SparseAutoencoder,
    activations: Artifact,
    config: EvaluationConfig,
    draft: Draft,
    device: str,
) -> list[dict[str, Any]]:
    """Metrics of x' against x over the test rows; writes ``token_errors.parquet``."""
    reader = ActivationReader(activations, "test")
    parts: list[dict[str, NDArray[Any]]] = []
    sums = np.zeros(reader.d_in)
    with track("evaluation", reader.rows, "tokens") as advance:
        for block in reader.rows_in_order():
            x = block.activation.to(device)
            sparse = sae.encode_sparse(x)
            out = sae.decode(sparse)
            own = _per_token(x, out)
            own["fires"] = sparse.offsets.diff().cpu().numpy()
            own["sum"] = x.double().sum(0, keepdim=True).cpu().numpy()
            sums += own.pop("sum")[0]
            parts.append(own | {"doc_id": block.doc_id, "token_index": block.token_index})
            advance(len(block))
    mean = sums / reader.rows
    inner_mean = []
    for block in reader.rows_in_order():  # about the mean of these very tokens
        x64 = block.activation.double().numpy() - mean
        inner_mean.append(np.einsum("nd,nd->n", x64, x64))
    tokens = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    tokens["variance"] = np.concatenate(inner_mean)
    order = np.argsort(tokens["token_index"])
    errors = pa.table(
        {
            "token_index": tokens["token_index"][order],
            "squared_error": tokens["error"][order].astype(np.float32),
            "squared_norm": tokens["squares_in"][order].astype(np.float32),
        }
    )
    with draft.writing("token_errors.parquet") as path:
        _write(errors, path)
    draft.rows["token_errors.parquet"] = len(errors)
    documents, index = np.unique(tokens.pop("doc_id"), return_inverse=True)
    del tokens["token_index"]
    by_document = {
        name: np.bincount(index, weights=own, minlength=len(documents)).astype(np.float64)
        for name, own in tokens.items()
    }
    by_document["tokens"] = np.bincount(index).astype(float)
    by_document["elements"] = by_document["tokens"] * reader.d_in
    return _rows(_RECONSTRUCTION, by_document, config, reader.rows)


def _per_token(x: Tensor, out: Tensor) -> dict[str, NDArray[Any]]:
    """Sums over d_in of each token, float64 [n]."""
    a, b = x.double(), out.double()
    inner = (a * b).sum(1)
    squares_in, squares_out = a.square().sum(1), b.square().sum(1)
    values = {
        "error": (a - b).square().sum(1),
        "inner": inner,
        "squares_in": squares_in,
        "squares_out": squares_out,
        "cosine": inner / (squares_in * squares_out).sqrt().clamp(min=1e-30),
    }
    return {name: value.cpu().numpy() for name, value in values.items()}


def _losses(
    sae: SparseAutoencoder,
    model: ResolvedModel,
    corpus: Artifact,
    activations: Artifact,
    config: EvaluationConfig,
    dtype: str,
    device: str,
) -> list[dict[str, Any]]:
    """The language model's losses, and the FVU with the skipped leading positions in it."""
    skip = int(activations.manifest.config["skip_positions"])
    texts = held_out_texts(corpus, config.max_documents, skip)
    site = Site.parse(str(activations.facts["site"]))
    mean = torch.from_numpy(ActivationReader(activations).moments.mean).float().to(device)
    total = sum(len(text.ids) for text in texts)
    with track("evaluation", total, "tokens spliced") as advance:
        lm = load(model, pick_dtype(dtype, device), device)
        losses, streams = spliced_losses(lm, site, texts, sae, mean, advance)
    sums = {name: getattr(losses, name) for name in _names(losses)}
    rows = _rows(_LOSS, sums, config, int(losses.predictions.sum()))
    x = torch.cat(streams).to(device)
    squares = (x.double() - x.double().mean(0)).square().sum(1).cpu().numpy()
    lengths = [len(stream) for stream in streams]
    document = np.repeat(np.arange(len(lengths)), lengths)
    error = _per_token(x, sae(x))["error"]
    whole = {
        "error": np.bincount(document, weights=error).astype(np.float64),
        "variance": np.bincount(document, weights=squares).astype(np.float64),
    }
    note = "fvu with the leading positions and special tokens that training left out"
    statistic = {"fvu_with_first": (_RECONSTRUCTION["fvu"][0], "share", note)}
    return rows + _rows(statistic, whole, config, len(x))


def _names(losses: Losses) -> list[str]:
    return [name for name in vars(losses) if name != "doc_id"]


def held_out_texts(corpus: Artifact, limit: int | None, skip_positions: int) -> list[Text]:
    """Test documents of at least two tokens, at most ``limit``, drawn evenly over the corpus."""
    documents = pq.read_table(corpus.file("documents.parquet"), columns=["doc_id", "split"])
    test = documents["doc_id"].to_numpy()[
        documents["split"].to_numpy(zero_copy_only=False) == "test"
    ]
    if limit is not None and len(test) > limit:
        test = test[np.linspace(0, len(test) - 1, limit).round().astype(int)]
    columns = ["doc_id", "position", "token_id", "special"]
    table = pq.read_table(
        corpus.file("tokens.parquet"),
        columns=columns,
        filters=[("doc_id", "in", test.tolist())],
        page_checksum_verification=True,
    )
    doc, position, token, special = (table[name].to_numpy(zero_copy_only=False) for name in columns)
    texts = []
    for doc_id in test:
        mine = doc == doc_id
        recorded = (position[mine] >= skip_positions) & ~special[mine]
        if recorded[:-1].any():
            texts.append(Text(int(doc_id), token[mine].astype(np.int64), recorded))
    return texts


def _density(latents: Artifact, draft: Draft) -> list[dict[str, Any]]:
    """Dead share, and the histogram of log10 densities; dead latents are in none of its bins."""
    density = pq.read_table(latents.file("features.parquet"), columns=["density"])["density"]
    values = density.to_numpy()
    alive = values[values > 0]
    counts, edges = np.histogram(np.log10(alive).clip(HISTOGRAM_BINS[0]), bins=HISTOGRAM_BINS)
    table = pa.table({"low": edges[:-1], "high": edges[1:], "latents": counts.astype(np.uint32)})
    with draft.writing("density_histogram.parquet") as path:
        _write(table, path)
    dead, n = len(values) - len(alive), len(values)
    note = "fire on no recorded token of the corpus, train and test"
    return [
        _row("dead_share", dead / n, n, "share", note),
        _row("dead_latents", float(dead), n, "latents", note),
    ]


def _rows(
    statistics: dict[str, tuple[Statistic, str, str]],
    sums: Sums,
    config: EvaluationConfig,
    n: int,
) -> list[dict[str, Any]]:
    documents = len(next(iter(sums.values())))
    counts = resample_counts(documents, config.bootstrap, config.seed)
    rows = []
    for metric, (statistic, unit, note) in statistics.items():
        value, low, high = interval(sums, statistic, counts)
        rows.append(_row(metric, value, n, unit, note) | {"ci_low": low, "ci_high": high})
    return rows


def _row(metric: str, value: float, n: int, unit: str, note: str) -> dict[str, Any]:
    return {
        "metric": metric, "value": value, "ci_low": None, "ci_high": None, "n": n, "unit": unit,
        "note": note,
    }  # fmt: skip


def _write(table: pa.Table, path: Any) -> None:
    pq.write_table(table, path, compression="zstd", compression_level=1, write_page_checksum=True)
