"""A data root with a run of synthetic firings, as many as one likes, in the documented schema.

What is drawn: every document has one of five labels and a set of some hundred latents that may
fire in it; each of its tokens fires on l0 of those. How often a latent is drawn follows a
log-normal law over the dictionary (a few dense ones, a long rare tail), as densities of trained
SAEs do, and one latent in fifty is drawn ten times as often in one label's documents. Activations
are exponential. Firings pass through the two ordering passes of the latents stage itself.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import torch

from deconstruct.artifacts import Artifact, DataRoot, Draft, Recipe
from deconstruct.artifacts.table import Table
from deconstruct.cluster.tables import CLUSTER_CURVE, CLUSTER_METRICS, CLUSTER_SUMMARY, CLUSTERS
from deconstruct.cluster.tables import TABLES as CLUSTER
from deconstruct.common.parquet import GroupedWriter
from deconstruct.common.progress import track
from deconstruct.config import LatentsConfig, RunConfig, SaeConfig
from deconstruct.corpus.tables import DOCUMENTS, TOKENS
from deconstruct.evaluation.tables import DENSITY_HISTOGRAM, SAE_METRICS, TOKEN_ERRORS
from deconstruct.evaluation.tables import TABLES as EVALUATION
from deconstruct.features.counts import FeatureCounts
from deconstruct.features.geometry import Geometry, directions
from deconstruct.features.tables import DIRECTIONS, FEATURE_LOGITS, FEATURES
from deconstruct.interpretation.tables import INTERPRETATION_ITEMS, LATENT_SCORES
from deconstruct.interpretation.tables import TABLES as INTERPRETATION
from deconstruct.latents.buckets import FIRING, Buckets
from deconstruct.latents.stage import BUCKET_TOKENS, _Encoding
from deconstruct.map.contexts import Chosen
from deconstruct.map.tables import (
    DOCUMENT_MAP,
    LABEL_LATENTS,
    LATENT_CONTEXTS,
    LATENT_HISTOGRAM,
    LATENT_MAP,
    MASSIVE_LATENTS,
    MASSIVE_TOKENS,
)
from deconstruct.map.tables import TABLES as MAP
from deconstruct.probe.tables import PROBE_CURVE, PROBE_SCORES, PROBE_WEIGHTS, PROBES
from deconstruct.probe.tables import TABLES as PROBE
from deconstruct.reference.tables import TABLES as REFERENCE
from deconstruct.sae.tables import TRAINING_LOG
from deconstruct.store import RunRecord
from tests.support.planted import Contents, artifact_of, filled

LABELS = ("business", "entertainment", "politics", "sport", "tech")
D_IN = 64
VOCABULARY = 32_000
CHUNK = 512
"""Documents drawn at a time."""


@dataclass(frozen=True)
class Size:
    """tokens: of the corpus. document: tokens in each. l0: latents that fire on a token."""

    tokens: int
    document: int = 128
    d_sae: int = 32_768
    l0: int = 32
    latents_in_document: int = 400

    @property
    def documents(self) -> int:
        return -(-self.tokens // self.document)


@dataclass
class Synthetic:
    """A run to publish, and how fast its firings were ordered and written."""

    record: RunRecord
    artifacts: dict[str, Artifact]
    rows: int
    seconds: float


def make(home: Path, size: Size, seed: int = 0, name: str = "synthetic") -> Synthetic:
    """Draw and write a run's artifacts under ``home``."""
    root = DataRoot(home)
    draw = np.random.default_rng(seed)
    labels = draw.integers(0, len(LABELS), size.documents)
    spent: dict[str, float] = {}

    def recipe(stage: str) -> Recipe:
        config = {"seed": seed, "tokens": size.tokens, "d_sae": size.d_sae}
        return Recipe(stage, 1, config, {})

    corpus = root.make(recipe("corpus"), lambda draft: _corpus(draft, size, labels))
    log = {TRAINING_LOG: filled(TRAINING_LOG, step=[1, 2], fvu=[0.5, 0.3])}
    sae = {"architecture": "topk", "d_in": D_IN, "d_sae": size.d_sae, "k": size.l0}
    latents = root.make(
        recipe("latents"), lambda draft: _firings(draft, size, labels, corpus, seed, spent)
    )
    others = _small_tables(size, draw)
    others["map"] = {**others["map"], LATENT_CONTEXTS: _contexts(corpus, latents)}
    artifacts = {
        "corpus": corpus,
        "activations": artifact_of(root, recipe("activations"), {}, site="9.resid_post"),
        "sae": artifact_of(root, recipe("sae"), log, **sae),
        "latents": latents,
        **{stage: artifact_of(root, recipe(stage), own) for stage, own in others.items()},
    }
    now = datetime.now(UTC)
    config = RunConfig(name=name, sae=SaeConfig(d_sae=size.d_sae, k=size.l0))
    return Synthetic(
        RunRecord(config=config, started=now, finished=now),
        artifacts,
        int(artifacts["latents"].facts["rows"]),
        spent.get("seconds", float("nan")),
    )


def _firings(
    draft: Draft,
    size: Size,
    labels: np.ndarray,
    corpus: Artifact,
    seed: int,
    spent: dict[str, float],
) -> None:
    """The files of the latents stage; notes the seconds that ordering and writing them took."""
    draw = np.random.default_rng([seed, 1])
    weight = draw.lognormal(0, 1.5, size.d_sae)
    tilt = np.where(draw.random((len(LABELS), size.d_sae)) < 0.02 / len(LABELS), 10, 1)
    odds = np.cumsum(weight * tilt, axis=1)
    scale = draw.lognormal(0, 0.5, size.d_sae).astype(np.float32)
    encoding = _Encoding(
        draft, LatentsConfig(), SimpleNamespace(W_dec=np.empty((size.d_sae, D_IN))), corpus
    )
    encoding.recorded = np.full(size.documents, size.document, np.int64)
    counts = FeatureCounts(size.d_sae)
    number = -(-size.tokens // BUCKET_TOKENS)
    scratch = draft.scratch
    with (
        Buckets(scratch / "by-document", size.documents, number) as by_document,
        Buckets(scratch / "by-latent", size.d_sae, number) as by_latent,
    ):
        for first in range(0, size.documents, CHUNK):
            documents = np.arange(first, min(first + CHUNK, size.documents))
            firings = _draw(draw, size, documents, labels[documents], odds, scale)
            started = time.perf_counter()
            by_document.add(firings["doc_id"], firings)
            spent["seconds"] = spent.get("seconds", 0) + time.perf_counter() - started
            encoding.rows += len(firings)
        started = time.perf_counter()
        with track("by token", encoding.rows, "firings") as advance:
            encoding._by_token(by_document, by_latent, counts, advance)
        with track("by latent", encoding.rows, "firings") as advance:
            encoding._by_latent(by_latent, counts, advance)
        spent["seconds"] += time.perf_counter() - started
    W_dec = torch.from_numpy(draw.normal(size=(size.d_sae, D_IN)).astype(np.float32))
    strings = {number: f" word{number}" for number in range(VOCABULARY)}
    table = counts.table(Geometry.of(W_dec.T, W_dec), size.tokens, strings)
    draft.write_table(FEATURES.file, table)
    draft.write_table(DIRECTIONS.file, directions(W_dec))
    draft.facts |= {"rows": encoding.rows, "tokens": size.tokens}


def _draw(
    draw: np.random.Generator,
    size: Size,
    documents: np.ndarray,
    label: np.ndarray,
    odds: np.ndarray,
    scale: np.ndarray,
) -> np.ndarray:
    """The firings of some documents, `FIRING` [n], by token."""
    sets = np.empty((len(documents), size.latents_in_document), np.uint32)
    for which in range(len(LABELS)):
        own = label == which
        points = draw.random((own.sum(), size.latents_in_document)) * odds[which, -1]
        sets[own] = np.searchsorted(odds[which], points)
    # l0 different places of the document's set for each token: a random start and step.
    tokens = len(documents) * size.document
    start, step = draw.integers(0, size.latents_in_document, (2, tokens, 1))
    place = (start + (step * 2 + 1) * np.arange(size.l0)) % size.latents_in_document
    latent = sets[np.repeat(np.arange(len(documents)), size.document)[:, None], place]
    latent.sort(axis=1)
    fires = np.ones(latent.shape, bool)
    fires[:, 1:] = latent[:, 1:] != latent[:, :-1]
    token = np.nonzero(fires)[0]
    firings = np.empty(len(token), FIRING)
    firings["latent"] = latent[fires]
    firings["token_index"] = documents[0] * size.document + token
    firings["doc_id"] = documents[0] + token // size.document
    firings["token_id"] = (firings["token_index"] * np.uint64(2654435761)) % np.uint64(VOCABULARY)
    strength = draw.exponential(1, len(token)).astype(np.float32)
    firings["activation"] = scale[firings["latent"]] * (strength + np.float32(0.1))
    return firings


def _corpus(draft: Draft, size: Size, labels: np.ndarray) -> None:
    """Documents and tokens; the token at index i is a fixed function of i."""
    total = size.documents * size.document
    index = np.arange(total, dtype=np.uint64)
    token_id = ((index * np.uint64(2654435761)) % np.uint64(VOCABULARY)).astype(np.uint32)
    words = pa.array([f" word{number}" for number in range(VOCABULARY)])
    tokens = filled(
        TOKENS,
        token_index=index,
        doc_id=np.repeat(np.arange(size.documents, dtype=np.uint32), size.document),
        position=np.tile(np.arange(size.document, dtype=np.uint32), size.documents),
        token_id=token_id,
        token=words.take(pa.array(token_id)),
    )
    documents = filled(
        DOCUMENTS,
        doc_key=[f"{number:016x}" for number in range(size.documents)],
        split=["test" if number % 5 == 0 else "train" for number in range(size.documents)],
        label=[LABELS[which] for which in labels],
        text="synthetic",
        n_tokens=size.document,
    )
    for table, rows, group_rows in ((TOKENS, tokens, 16_384), (DOCUMENTS, documents, 8192)):
        with (  # row groups as the corpus stage writes them
            draft.writing(table.file) as path,
            GroupedWriter(path, table.arrow, group_rows) as writer,
        ):
            writer.write(rows)
        draft.rows[table.file] = len(rows)
    draft.facts |= {"documents": size.documents, "tokens": total, "labels": list(LABELS)}


def _small_tables(size: Size, draw: np.random.Generator) -> dict[str, Contents]:
    """What is told of the firings: small beside the firings, so few rows do."""
    held_out = np.arange(0, size.tokens, 5, dtype=np.uint64)
    weights = draw.normal(size=(len(LABELS), size.d_sae))
    label, latent = np.indices(weights.shape, np.uint32).reshape(2, -1)
    rank = (np.argsort(np.argsort(-np.abs(weights), 1), 1) + 1).astype(np.uint32)
    ends = {"ci_low": 0.1, "ci_high": 0.3}
    errors = filled(
        TOKEN_ERRORS,
        token_index=held_out,
        squared_error=draw.random(len(held_out), np.float32),
        squared_norm=1 + draw.random(len(held_out), np.float32),
    )
    effects = filled(
        PROBE_WEIGHTS,
        label=[LABELS[which] for which in label],
        latent=latent,
        weight=weights.reshape(-1),
        effect=weights.reshape(-1),
        rank=rank.reshape(-1),
    )
    members = filled(
        CLUSTERS,
        cluster=draw.integers(0, 5, size.documents).astype(np.uint32),
        distance=draw.random(size.documents),
        support=0.9,
    )
    single = {  # a row each
        SAE_METRICS: {"metric": "fvu", "value": 0.2, **ends, "n": 1, "unit": "share"},
        FEATURE_LOGITS: {"direction": "promoted", "rank": 1, "token": " word0", "logit": 1.0},
        DENSITY_HISTOGRAM: {"low": -3.0, "high": -2.0, "latents": size.d_sae},
        PROBES: {"representation": "latents", "k": None, "label": None, "metric": "accuracy"}
        | {"target": None, "seed": 0}
        | {"value": 0.9, **ends, "n_train": 80, "n_test": 20},
        PROBE_SCORES: {"representation": "latents", "k": None, "target": LABELS[0]}
        | {"score": 0.8, "truth": 1.0},
        PROBE_CURVE: {"representation": "latents", "n": 2, "draw": 0, "value": 0.8},
        CLUSTER_SUMMARY: {"size": 1, "top_label": LABELS[0], "top_label_share": 0.5}
        | {"latents": [[1]], "keywords": [["word1"]], "exemplars": [[0]], "jaccard": 0.8},
        CLUSTER_METRICS: {"representation": "latents", "kind": "value", "metric": "nmi"}
        | {"value": 0.1},
        CLUSTER_CURVE: {"k": 5, "stability": 0.9, "standard_error": 0.02, "null_stability": 0.0}
        | {"silhouette": 0.1, "chosen": True},
        LATENT_SCORES: {"method": "intruder-tfidf", "value": 0.4, "n": 20, "floor": 0.2} | ends,
        INTERPRETATION_ITEMS: {"method": "intruder-tfidf", "truth": True, "answer": True},
    }
    rows = {table: filled(table, **own) for table, own in single.items()}
    rows |= {TOKEN_ERRORS: errors, PROBE_WEIGHTS: effects, CLUSTERS: members}
    rows |= _maps(size, draw)
    stages = {
        "evaluation": EVALUATION, "probe": PROBE, "cluster": CLUSTER,
        "interpretation": INTERPRETATION, "map": MAP, "reference": REFERENCE,
    }  # fmt: skip
    return {
        stage: {t: rows.get(t, t.empty()) for t in own if not t.optional}
        for stage, own in stages.items()
    }


def _maps(size: Size, draw: np.random.Generator) -> dict[Table, pa.Table]:
    """As many rows as a run of this size has."""
    latent, place = np.arange(size.d_sae), draw.normal(size=(4, size.documents))
    across, up = draw.normal(size=(2, size.d_sae))
    ranked = draw.integers(0, size.d_sae - 50, len(LABELS))[:, None] + np.arange(50)
    low = np.tile(np.arange(20) / 20, size.d_sae)
    return {
        DOCUMENT_MAP: filled(
            DOCUMENT_MAP, doc_id=np.arange(size.documents), x=place[0], y=place[1],
            pooled_x=place[2], pooled_y=place[3],
        ),
        LATENT_MAP: filled(LATENT_MAP, latent=latent, x=across, y=up),
        LATENT_HISTOGRAM: filled(
            LATENT_HISTOGRAM, latent=np.repeat(latent, 20), bin=np.tile(np.arange(20), size.d_sae),
            low=low, high=low + 0.05, n=draw.integers(1, 100, 20 * size.d_sae),
        ),
        LABEL_LATENTS: filled(
            LABEL_LATENTS, label=np.repeat(LABELS, 50), latent=ranked.reshape(-1),
            rank=np.tile(np.arange(1, 51), len(LABELS)), cohen_d_train=1.0, cohen_d=1.0, auroc=0.8,
        ),
        MASSIVE_TOKENS: filled(MASSIVE_TOKENS, token_id=[0], token=" word0", n=1, n_tokens=1),
        MASSIVE_LATENTS: filled(MASSIVE_LATENTS, latent=[1], n_massive=5, token=" word0"),
    }  # fmt: skip


def _contexts(corpus: Artifact, latents: Artifact) -> pa.Table:
    """As the stage map chooses them."""
    n_fires = latents.table("features.parquet", ["n_fires"])["n_fires"].to_numpy()
    chosen = Chosen(corpus, n_fires)
    for rows in latents.rows("latents.parquet"):
        names = ("latent", "token_index", "activation")
        latent, token_index, activation = (rows[name].to_numpy() for name in names)
        chosen.add(latent.astype(np.int64), token_index.astype(np.int64), activation)
    return chosen.table()
