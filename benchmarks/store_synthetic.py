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

from benchmarks.scale.findings import LABELS, findings, is_held_out
from deconstruct.artifacts import Artifact, DataRoot, Draft, Recipe
from deconstruct.common.parquet import GroupedWriter
from deconstruct.common.progress import track
from deconstruct.config import LatentsConfig, RunConfig, SaeConfig
from deconstruct.corpus.tables import DOCUMENTS, TOKENS
from deconstruct.features.counts import FeatureCounts
from deconstruct.features.geometry import Geometry, directions
from deconstruct.features.tables import DIRECTIONS, FEATURES
from deconstruct.latents.buckets import FIRING, Buckets
from deconstruct.latents.stage import BUCKET_TOKENS, _Encoding
from deconstruct.map.contexts import Chosen
from deconstruct.map.tables import LATENT_CONTEXTS
from deconstruct.sae.tables import TRAINING_LOG
from deconstruct.store import RunRecord
from tests.support.planted import artifact_of, fill, filled

D_IN = 64
VOCABULARY = 32_000
FINDINGS = 2
"""Of `scale.findings`: raised when what it draws is another."""
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


def make(
    home: Path, size: Size, seed: int = 0, name: str = "synthetic", judged: int = 0
) -> Synthetic:
    """Draw and write a run's artifacts under ``home``, those that are not there. judged: a number
    for each run of the same firings, whose losses are others."""
    root = DataRoot(home)
    draw = np.random.default_rng(seed)
    labels = draw.integers(0, len(LABELS), size.documents)
    spent: dict[str, float] = {}

    def recipe(stage: str, version: int = 1, **more: int) -> Recipe:
        config = {"seed": seed, "tokens": size.tokens, "d_sae": size.d_sae} | more
        return Recipe(stage, version, config, {})

    corpus = root.make(recipe("corpus"), lambda draft: _corpus(draft, size, labels))
    log = {TRAINING_LOG: filled(TRAINING_LOG, step=[1, 2], fvu=[0.5, 0.3])}
    sae = {"architecture": "topk", "d_in": D_IN, "d_sae": size.d_sae, "k": size.l0}
    latents = root.make(
        recipe("latents"), lambda draft: _firings(draft, size, labels, corpus, seed, spent)
    )
    told = findings(labels, size.document, size.d_sae, np.random.default_rng([seed, 2, judged]))
    since = size.documents // 10
    facts = {"drift": {"documents": since, "reference_documents": size.documents - since}}

    def tell(stage: str) -> Artifact:
        def write(draft: Draft) -> None:
            own = told[stage]
            if stage == "map":  # of all firings: minutes, where there are many
                own = {**own, LATENT_CONTEXTS: _contexts(corpus, latents)}
            fill(draft, own, **facts.get(stage, {}))

        another = {"judged": judged} if judged and stage == "evaluation" else {}
        return root.make(recipe(stage, FINDINGS, **another), write)

    artifacts = {
        "corpus": corpus,
        "activations": artifact_of(root, recipe("activations"), {}, site="9.resid_post"),
        "sae": artifact_of(root, recipe("sae"), log, **sae),
        "latents": latents,
        **{stage: tell(stage) for stage in told},
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
        split=np.where(is_held_out(size.documents), "test", "train").tolist(),
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


def _contexts(corpus: Artifact, latents: Artifact) -> pa.Table:
    """As the stage map chooses them."""
    n_fires = latents.table("features.parquet", ["n_fires"])["n_fires"].to_numpy()
    chosen = Chosen(corpus, n_fires)
    for rows in latents.rows("latents.parquet"):
        names = ("latent", "token_index", "activation")
        latent, token_index, activation = (rows[name].to_numpy() for name in names)
        chosen.add(latent.astype(np.int64), token_index.astype(np.int64), activation)
    return chosen.table()
