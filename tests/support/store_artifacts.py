"""A small complete set of artifacts in the documented schema, with what was planted in it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from deconstruct.artifacts import Artifact, DataRoot, Draft, Recipe
from deconstruct.config import RunConfig, SaeConfig
from deconstruct.store import RunRecord

LABELS = ("business", "sp'ort; DROP TABLE runs", "tech")
D_SAE = 24
D_IN = 16
DEAD = 23
SPORT_LATENT = 7  # fires on " goal", which only the second label's documents hold
TWINS = (4, 5)  # 5 fires wherever 4 does, half as strongly
WORDS = ("the", " market", " goal", " chip", ' "quoted"', "\n", " naïve", " 100%", " of", " a")
TOKEN_IDS = {word: number for number, word in enumerate(("<bos>", *WORDS))}


@dataclass
class Planted:
    """Artifacts of a run, and the dense arrays behind them."""

    record: RunRecord
    artifacts: dict[str, Artifact]
    activations: np.ndarray  # [n_tokens, D_SAE] float32, zero where silent
    tokens: list[str]
    special: np.ndarray  # [n_tokens] bool
    doc_of: np.ndarray  # [n_tokens]
    positions: np.ndarray  # [n_tokens]
    labels: list[str]  # of each document
    errors: np.ndarray  # [n_tokens, 2] squared_error, squared_norm
    predictions: list[tuple[int, str, str]]  # doc_id, label, predicted
    weights: np.ndarray  # [3 labels, D_SAE]
    clusters: np.ndarray  # of each document
    decoder: np.ndarray  # [D_SAE, D_IN]


def plant(
    home: Path,
    name: str = "demo",
    seed: int = 0,
    documents: int = 30,
    corpus_seed: int = 0,
    names: tuple[str, str, str] = LABELS,
) -> Planted:
    """Write (or find) the artifacts of a run under ``home``. names: of the three labels."""
    root = DataRoot(home)
    text = np.random.default_rng(corpus_seed)
    labels = [names[i % 3] for i in range(documents)]
    tokens: list[str] = []
    doc_of: list[int] = []
    positions: list[int] = []
    for doc, label in enumerate(labels):
        words = ["<bos>", *text.choice([w for w in WORDS if w != " goal"], 14 + doc % 5)]
        if label == names[1]:
            words[3] = words[9] = " goal"
        tokens += words
        doc_of += [doc] * len(words)
        positions += range(len(words))
    special = np.array([token == "<bos>" for token in tokens])
    n = len(tokens)

    draw = np.random.default_rng(seed)
    dense = np.where(draw.random((n, D_SAE)) < 0.12, 0.5 + draw.random((n, D_SAE)), 0)
    dense[:, SPORT_LATENT] = np.where([t == " goal" for t in tokens], 2 + draw.random(n), 0)
    dense[:, TWINS[1]] = dense[:, TWINS[0]] / 2
    dense[:, DEAD] = 0
    dense[special] = 0
    dense = dense.astype(np.float32)
    errors = draw.random((n, 2)).astype(np.float32) * [1, 4] + [0, 4]
    weights = draw.normal(size=(3, D_SAE))
    weights[1, SPORT_LATENT] = 9
    decoder = draw.normal(size=(D_SAE, D_IN)).astype(np.float32)
    clusters = np.array([i % 3 if i % 7 else 0 for i in range(documents)])
    test_docs = [d for d in range(documents) if d % 5 == 0]
    predictions = [(d, labels[d], names[(d // 5) % 3] if d % 2 else labels[d]) for d in test_docs]

    def make(stage: str, facts: dict[str, Any], **files: pa.Table) -> Artifact:
        config = {"seed": seed if stage != "corpus" else corpus_seed, "names": list(names)}
        recipe = Recipe(stage, 1, config, {})
        return root.make(recipe, _writer(facts, files))

    artifacts = {
        "corpus": make(
            "corpus",
            {"documents": documents, "tokens": n, "labels": sorted(set(labels))},
            documents=pa.table(
                {
                    "doc_id": pa.array(range(documents), pa.uint32()),
                    "doc_key": [_digest(doc, doc_of, tokens) for doc in range(documents)],
                    "split": ["test" if d in test_docs else "train" for d in range(documents)],
                    "label": labels,
                    "text": [_text(doc, doc_of, tokens) for doc in range(documents)],
                    "n_tokens": pa.array(np.bincount(doc_of), pa.uint32()),
                }
            ),
            tokens=pa.table(
                {
                    "token_index": pa.array(range(n), pa.uint64()),
                    "doc_id": pa.array(doc_of, pa.uint32()),
                    "position": pa.array(positions, pa.uint32()),
                    "token_id": pa.array([TOKEN_IDS[t] for t in tokens], pa.uint32()),
                    "token": tokens,
                    "special": special,
                }
            ),
        ),
        "activations": make(
            "activations",
            {"site": "9.resid_post", "d_in": D_IN, "model": "tiny", "model_digest": "ab" * 16},
        ),
        "sae": make(
            "sae",
            {"architecture": "topk", "d_in": D_IN, "d_sae": D_SAE, "k": 4, "tokens": 1000},
            training_log=pa.table({"step": [10, 20], "fvu": [0.5, 0.3], "loss": [2.0, 1.0]}),
        ),
        "latents": make(
            "latents",
            {"rows": int((dense > 0).sum())},
            **_latents(dense, doc_of),
            directions=_directions(decoder),
        ),
        "evaluation": make("evaluation", {}, **_evaluation(errors, seed)),
        "probe": make("probe", {}, **_probe(weights, predictions, names)),
        "cluster": make("cluster", {}, **_cluster(clusters, names)),
        "drift": make("drift", {}, **_drift(dense)),
    }
    now = datetime.now(UTC)
    return Planted(
        RunRecord(
            config=RunConfig(name=name, sae=SaeConfig(d_sae=D_SAE, k=4)),
            started=now,
            finished=now,
            cached=frozenset({"corpus"}),
        ),
        artifacts,
        dense,
        tokens,
        special,
        np.array(doc_of),
        np.array(positions),
        labels,
        errors,
        predictions,
        weights,
        clusters,
        decoder,
    )


def _writer(facts: dict[str, Any], files: dict[str, pa.Table]) -> Callable[[Draft], None]:
    def write(draft: Draft) -> None:
        for name, table in files.items():
            with draft.writing(f"{name}.parquet") as path:
                pq.write_table(table, path, compression="zstd", write_page_checksum=True)
            draft.rows[f"{name}.parquet"] = table.num_rows
        draft.facts.update(facts)

    return write


def _text(doc: int, doc_of: list[int], tokens: list[str]) -> str:
    return "".join(t for t, d in zip(tokens, doc_of, strict=True) if d == doc and t != "<bos>")


def _digest(doc: int, doc_of: list[int], tokens: list[str]) -> str:
    return hashlib.sha256(_text(doc, doc_of, tokens).encode()).hexdigest()[:16]


def _latents(dense: np.ndarray, doc_of: list[int]) -> dict[str, pa.Table]:
    token, latent = np.nonzero(dense)
    strength = dense[token, latent]
    schema = {"latent": pa.uint32(), "token_index": pa.uint64(), "activation": pa.float32()}

    def firings(order: np.ndarray) -> pa.Table:
        columns = (latent[order], token[order], strength[order])
        return pa.table(
            [pa.array(c, t) for c, t in zip(columns, schema.values(), strict=True)],
            names=list(schema),
        )

    docs = np.array(doc_of)
    pooled = []
    for doc in range(docs.max() + 1):
        inside = dense[docs == doc][1:]  # BOS is not recorded
        pooled += [
            (
                doc,
                which,
                (inside[:, which] > 0).sum(),
                inside[:, which].mean(),
                inside.max(0)[which],
            )
            for which in np.nonzero(inside.max(0))[0]
        ]
    fires = (dense > 0).sum(0)
    alive = np.maximum(fires, 1)
    by_doc = list(zip(*pooled, strict=True))
    return {
        "latents": firings(np.lexsort((token, -strength, latent))),
        "latents_by_token": firings(np.lexsort((latent, token))),
        "document_latents": pa.table(
            {
                "doc_id": pa.array(by_doc[0], pa.uint32()),
                "latent": pa.array(by_doc[1], pa.uint32()),
                "n_fires": pa.array(by_doc[2], pa.uint32()),
                "mean": pa.array(by_doc[3], pa.float32()),
                "max": pa.array(by_doc[4], pa.float32()),
            }
        ),
        "features": pa.table(
            {
                "latent": pa.array(range(D_SAE), pa.uint32()),
                "n_fires": pa.array(fires, pa.uint64()),
                "density": fires / (len(docs) - docs.max() - 1),
                "n_documents": pa.array(
                    [len(set(docs[dense[:, i] > 0])) for i in range(D_SAE)], pa.uint32()
                ),
                "mean_activation": pa.array(dense.sum(0) / alive, pa.float32()),
                "max_activation": pa.array(dense.max(0), pa.float32()),
                "top_token": [" goal" if i == SPORT_LATENT else " of" for i in range(D_SAE)],
                "top_token_share": pa.array([0.5] * D_SAE, pa.float32()),
                "dead": fires == 0,
                "decoder_norm": pa.array([1.0] * D_SAE, pa.float32()),
                "encoder_decoder_cosine": pa.array([0.9] * D_SAE, pa.float32()),
                "nearest_latent": pa.array([(i + 1) % D_SAE for i in range(D_SAE)], pa.uint32()),
                "nearest_cosine": pa.array([0.1] * D_SAE, pa.float32()),
            }
        ),
    }


def _directions(decoder: np.ndarray) -> pa.Table:
    rows = pa.array(list(decoder), pa.list_(pa.float32()))
    return pa.table({"latent": pa.array(range(D_SAE), pa.uint32()), "decoder": rows})


def _evaluation(errors: np.ndarray, seed: int) -> dict[str, pa.Table]:
    names = ["fvu", "l0", "dead_share", "loss_recovered"]
    values = [0.2 + seed / 100, 3.5, 1 / D_SAE, 0.95]
    return {
        "metrics": pa.table(
            {
                "metric": names,
                "value": values,
                "ci_low": [value - 0.01 for value in values],
                "ci_high": [value + 0.01 for value in values],
                "n": pa.array([100] * 4, pa.uint64()),
                "unit": ["share", "latents", "share", "share"],
                "note": [""] * 4,
            }
        ),
        "feature_logits": pa.table(
            {
                "latent": pa.array([SPORT_LATENT] * 2, pa.uint32()),
                "direction": ["promoted", "suppressed"],
                "rank": pa.array([1, 1], pa.uint32()),
                "token_id": pa.array([TOKEN_IDS[" goal"], TOKEN_IDS[" of"]], pa.uint32()),
                "token": [" goal", " of"],
                "logit": pa.array([2.0, -1.0], pa.float32()),
            }
        ),
        "density_histogram": pa.table(
            {"low": [-2.0, -1.0], "high": [-1.0, 0.0], "latents": pa.array([3, 20], pa.uint64())}
        ),
        "token_errors": pa.table(
            {
                "token_index": pa.array(range(len(errors)), pa.uint64()),
                "squared_error": pa.array(errors[:, 0], pa.float32()),
                "squared_norm": pa.array(errors[:, 1], pa.float32()),
            }
        ),
    }


def _probe(
    weights: np.ndarray, predictions: list[tuple[int, str, str]], names: tuple[str, str, str]
) -> dict[str, pa.Table]:
    rows = [
        ("latents", None, None, "accuracy", 0.96),
        ("latents", 5, None, "accuracy", 0.9),
        ("latents", None, names[1], "f1", 0.97),
        ("activations", None, None, "accuracy", 0.97),
        ("majority", None, None, "accuracy", 0.33),
    ]
    which, k, label, metric, value = zip(*rows, strict=True)
    labels, latents = np.indices(weights.shape).reshape(2, -1)
    docs, truths, guesses = zip(*predictions, strict=True)
    return {
        "probes": pa.table(
            {
                "representation": which,
                "k": pa.array(k, pa.uint32()),
                "label": label,
                "metric": metric,
                "value": value,
                "ci_low": [v - 0.02 for v in value],
                "ci_high": [v + 0.02 for v in value],
                "n_train": pa.array([24] * len(rows), pa.uint32()),
                "n_test": pa.array([6] * len(rows), pa.uint32()),
            }
        ),
        "probe_weights": pa.table(
            {
                "label": [names[i] for i in labels],
                "latent": pa.array(latents, pa.uint32()),
                "weight": weights.reshape(-1),
                "effect": weights.reshape(-1) / 2,
                "rank": pa.array(
                    (np.argsort(np.argsort(-np.abs(weights), 1), 1) + 1).reshape(-1), pa.uint32()
                ),
            }
        ),
        "probe_predictions": pa.table(
            {
                "representation": [r for r in ("latents", "tfidf") for _ in docs],
                "k": pa.array([None] * 2 * len(docs), pa.uint32()),
                "doc_id": pa.array(docs * 2, pa.uint32()),
                "label": truths * 2,
                "predicted": guesses + truths,
                "probability": [0.8] * 2 * len(docs),
            }
        ),
    }


def _cluster(clusters: np.ndarray, names: tuple[str, str, str]) -> dict[str, pa.Table]:
    sizes = np.bincount(clusters)
    count = len(sizes)
    return {
        "clusters": pa.table(
            {
                "doc_id": pa.array(range(len(clusters)), pa.uint32()),
                "cluster": pa.array(clusters, pa.uint32()),
                "distance": [(doc * 7 % 11) / 11 for doc in range(len(clusters))],
            }
        ),
        "cluster_summary": pa.table(
            {
                "cluster": pa.array(range(count), pa.uint32()),
                "size": pa.array(sizes, pa.uint32()),
                "top_label": list(names),
                "top_label_share": [0.8] * count,
                "latents": pa.array([[SPORT_LATENT, 1]] * count, pa.list_(pa.uint32())),
                "keywords": [["match", "goal"]] * count,
                "exemplars": pa.array([[0, 3]] * count, pa.list_(pa.uint32())),
            }
        ),
        "cluster_metrics": pa.table(
            {"metric": ["silhouette", "nmi", "ari", "purity"], "value": [0.1, 0.6, 0.5, 0.8]}
        ),
    }


def _drift(dense: np.ndarray) -> dict[str, pa.Table]:
    density = (dense > 0).mean(0)
    metrics = [("reconstruction", "fvu", 0.2, 0.3), ("label share", LABELS[1], 0.4, 0.1)]
    return {
        "drift": pa.table(
            {
                "subject": [row[0] for row in metrics],
                "metric": [row[1] for row in metrics],
                "reference": [row[2] for row in metrics],
                "current": [row[3] for row in metrics],
                "difference": [row[3] - row[2] for row in metrics],
                "ci_low": pa.array([0.05, None], pa.float64()),
                "ci_high": pa.array([0.15, None], pa.float64()),
                "n_reference": pa.array([100, 6], pa.uint64()),
                "n_current": pa.array([20, 2], pa.uint64()),
            }
        ),
        "latent_drift": pa.table(
            {
                "latent": pa.array(range(len(density)), pa.uint32()),
                "reference_density": density,
                "current_density": density / 2,
                "log2_ratio": np.full(len(density), -1.0),
            }
        ),
    }
