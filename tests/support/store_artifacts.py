"""A small complete set of artifacts in the documented schema, with what was planted in it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
from support.document_sums import document_losses, document_metrics, ratios_of
from support.drawn import (
    D_IN,
    D_SAE,
    DEAD,
    LABELS,
    SPORT_LATENT,
    TOKEN_IDS,
    TWINS,
    WORDS,
    Drawn,
    Texts,
)
from support.findings import clusters, drift, explanation, interpretation
from support.looked_at import maps
from support.planted import Contents, artifact_of, filled

from deconstruct.artifacts import Artifact, DataRoot, Recipe
from deconstruct.config import RunConfig, SaeConfig
from deconstruct.corpus.tables import DOCUMENTS, TOKENS
from deconstruct.evaluation.tables import (
    DENSITY_HISTOGRAM,
    DOCUMENT_METRICS,
    SAE_METRICS,
    TOKEN_ERRORS,
)
from deconstruct.features.tables import DIRECTIONS, FEATURE_LOGITS, FEATURES
from deconstruct.latents.tables import DOCUMENT_LATENTS, LATENTS, LATENTS_BY_TOKEN
from deconstruct.probe.tables import PROBE_CURVE, PROBE_SCORES, PROBE_WEIGHTS, PROBES
from deconstruct.reference.tables import DOCUMENT_LOSSES
from deconstruct.sae.tables import TRAINING_LOG
from deconstruct.store import RunRecord


@dataclass(kw_only=True)
class Planted(Drawn):
    """Artifacts of a run, and the dense arrays behind them."""

    record: RunRecord
    artifacts: dict[str, Artifact]


def plant(
    home: Path,
    name: str = "demo",
    seed: int = 0,
    documents: int = 30,
    corpus_seed: int = 0,
    names: tuple[str, str, str] = LABELS,
    change: Callable[[Drawn], None] = lambda _: None,
) -> Planted:
    """Write (or find) the artifacts of a run under ``home``. names: of the three labels. change:
    what is done to what was drawn; one home knows one of them."""
    drawn = _drawn(_texts(documents, corpus_seed, names), seed)
    change(drawn)
    facts = {
        "corpus": {
            "documents": documents,
            "tokens": len(drawn.tokens),
            "labels": sorted({*drawn.labels} - {None}),
        },
        "activations": {
            "site": "9.resid_post", "d_in": D_IN, "model": "tiny", "model_digest": "ab" * 16
        },
        "sae": {"architecture": "topk", "d_in": D_IN, "d_sae": D_SAE, "k": 4, "tokens": 1000},
        "latents": {"rows": int((drawn.activations > 0).sum())},
    }  # fmt: skip
    contents = {
        "corpus": _corpus(drawn),
        "activations": {},
        "reference": {DOCUMENT_LOSSES: document_losses(drawn.test_docs, np.bincount(drawn.doc_of))},
        "sae": {TRAINING_LOG: filled(TRAINING_LOG, step=[10, 20], fvu=[0.5, 0.3], loss=[2.0, 1.0])},
        "latents": _latents(drawn),
        "evaluation": _evaluation(drawn, seed),
        "probe": _probe(drawn),
        "cluster": clusters(drawn),
        "interpretation": interpretation(drawn),
        "map": maps(drawn),
        "explanation": explanation(drawn),
        "drift": drift(drawn.activations),
    }
    artifacts = {}
    for stage, tables in contents.items():
        config = {"seed": corpus_seed if stage == "corpus" else seed, "names": list(names)}
        inputs = {"source": "51" * 16, "tokenizer": "70" * 16} if stage == "corpus" else {}
        recipe = Recipe(stage, 1, config, inputs)
        artifacts[stage] = artifact_of(DataRoot(home), recipe, tables, **facts.get(stage, {}))
    now = datetime.now(UTC)
    record = RunRecord(
        config=RunConfig(name=name, sae=SaeConfig(d_sae=D_SAE, k=4)),
        started=now,
        finished=now,
        cached=frozenset({"corpus"}),
    )
    return Planted(**vars(drawn), record=record, artifacts=artifacts)


def _texts(documents: int, seed: int, names: tuple[str, str, str]) -> Texts:
    draw = np.random.default_rng(seed)
    labels = [names[doc % 3] for doc in range(documents)]
    tokens: list[str] = []
    lengths = []
    for doc, label in enumerate(labels):
        words = ["<bos>", *draw.choice([w for w in WORDS if w != " goal"], 14 + doc % 5)]
        if label == names[1]:
            words[3] = words[9] = " goal"
        tokens += words
        lengths.append(len(words))
    return Texts(
        names=names,
        tokens=tokens,
        special=np.array([token == "<bos>" for token in tokens]),
        doc_of=np.repeat(np.arange(documents), lengths),
        positions=np.concatenate([np.arange(length) for length in lengths]),
        labels=labels,
    )


def _drawn(texts: Texts, seed: int) -> Drawn:
    draw = np.random.default_rng(seed)
    n, documents, names = len(texts.tokens), len(texts.labels), texts.names
    dense = np.where(draw.random((n, D_SAE)) < 0.12, 0.5 + draw.random((n, D_SAE)), 0)
    goals = [token == " goal" for token in texts.tokens]
    dense[:, SPORT_LATENT] = np.where(goals, 2 + draw.random(n), 0)
    dense[:, TWINS[1]] = dense[:, TWINS[0]] / 2
    dense[:, DEAD] = 0
    dense[texts.special] = 0
    errors = draw.random((n, 2)).astype(np.float32) * [1, 4] + [0, 4]
    weights = draw.normal(size=(3, D_SAE))
    weights[1, SPORT_LATENT] = 9
    return Drawn(
        **vars(texts),
        activations=dense.astype(np.float32),
        errors=errors,
        predictions=[
            (d, texts.labels[d], names[(d // 5) % 3] if d % 2 else texts.labels[d])
            for d in texts.test_docs
        ],
        weights=weights,
        clusters=np.array([i % 3 if i % 7 else 0 for i in range(documents)]),
        decoder=draw.normal(size=(D_SAE, D_IN)).astype(np.float32),
    )


def _corpus(drawn: Drawn) -> Contents:
    count = len(drawn.labels)
    words = np.where(drawn.special, "", drawn.tokens)
    texts = ["".join(words[drawn.doc_of == doc]) for doc in range(count)]
    return {
        DOCUMENTS: filled(
            DOCUMENTS,
            doc_key=[hashlib.sha256(text.encode()).hexdigest()[:16] for text in texts],
            split=["test" if doc in drawn.test_docs else "train" for doc in range(count)],
            label=drawn.labels,
            text=texts,
            n_tokens=np.bincount(drawn.doc_of),
        ),
        TOKENS: filled(
            TOKENS,
            doc_id=drawn.doc_of,
            position=drawn.positions,
            token_id=[TOKEN_IDS[token] for token in drawn.tokens],
            token=drawn.tokens,
            special=drawn.special,
        ),
    }


def _latents(drawn: Drawn) -> Contents:
    dense, docs = drawn.activations, drawn.doc_of
    token, latent = np.nonzero(dense)
    strength = dense[token, latent]
    columns = {"latent": latent, "token_index": token, "activation": strength}

    def firings(order: np.ndarray) -> dict[str, np.ndarray]:
        return {name: column[order] for name, column in columns.items()}

    fires = (dense > 0).sum(0)
    return {
        LATENTS: filled(LATENTS, **firings(np.lexsort((token, -strength, latent)))),
        LATENTS_BY_TOKEN: filled(LATENTS_BY_TOKEN, **firings(np.lexsort((latent, token)))),
        DOCUMENT_LATENTS: _pooled(dense, docs),
        FEATURES: filled(
            FEATURES,
            n_fires=fires,
            density=fires / (len(docs) - docs.max() - 1),
            n_documents=[len(set(docs[dense[:, i] > 0])) for i in range(D_SAE)],
            mean_activation=dense.sum(0) / np.maximum(fires, 1),
            max_activation=dense.max(0),
            top_token=[" goal" if i == SPORT_LATENT else " of" for i in range(D_SAE)],
            top_token_share=0.5,
            dead=fires == 0,
            decoder_norm=1.0,
            encoder_decoder_cosine=0.9,
            nearest_latent=(np.arange(D_SAE) + 1) % D_SAE,
            nearest_cosine=0.1,
        ),
        DIRECTIONS: filled(DIRECTIONS, decoder=list(drawn.decoder)),
    }


def _pooled(dense: np.ndarray, docs: np.ndarray) -> pa.Table:
    rows = []
    for doc in range(docs.max() + 1):
        inside = dense[docs == doc][1:]  # BOS is not recorded
        strongest = inside.max(0)
        rows += [
            (doc, i, (inside[:, i] > 0).sum(), inside[:, i].mean(), strongest[i])
            for i in np.nonzero(strongest)[0]
        ]
    doc_id, latent, n_fires, mean, most = zip(*rows, strict=True)
    return filled(
        DOCUMENT_LATENTS, doc_id=doc_id, latent=latent, n_fires=n_fires, mean=mean, max=most
    )


def _evaluation(drawn: Drawn, seed: int) -> Contents:
    ratios = ratios_of(seed)
    values = np.array([*ratios.values(), 1 / D_SAE, 2 / D_SAE, 0.95])
    return {
        SAE_METRICS: filled(
            SAE_METRICS,
            text="own",
            metric=[*ratios, "dead_share", "silent_share", "loss_recovered_bos_kept"],
            value=values,
            ci_low=values - 0.01,
            ci_high=values + 0.01,
            n=100,
            unit="share",
        ),
        DOCUMENT_METRICS: document_metrics(drawn.test_docs, np.bincount(drawn.doc_of), seed),
        FEATURE_LOGITS: filled(
            FEATURE_LOGITS,
            latent=SPORT_LATENT,
            direction=["promoted", "suppressed"],
            rank=1,
            token_id=[TOKEN_IDS[" goal"], TOKEN_IDS[" of"]],
            token=[" goal", " of"],
            logit=[2.0, -1.0],
        ),
        DENSITY_HISTOGRAM: filled(
            DENSITY_HISTOGRAM, low=[-2.0, -1.0], high=[-1.0, 0.0], latents=[3, 20]
        ),
        TOKEN_ERRORS: filled(
            TOKEN_ERRORS,
            squared_error=drawn.errors[:, 0].astype(np.float32),
            squared_norm=drawn.errors[:, 1].astype(np.float32),
        ),
    }


def _probe(drawn: Drawn) -> Contents:
    rows = [
        ("latents", None, None, "accuracy", 0.96),
        ("latents", 5, None, "accuracy", 0.9),
        ("latents", None, drawn.names[1], "auroc", 0.97),
        ("latents", None, None, "auroc", 0.95),
        ("latents", 5, None, "auroc", 0.9),
        ("activations", None, None, "accuracy", 0.97),
        ("activations", None, None, "auroc", 0.96),
        ("majority", None, None, "accuracy", 0.33),
        ("majority", None, None, "auroc", 0.5),
    ]
    which, k, label, metric, value = zip(*rows, strict=True)
    weights = drawn.weights
    labels, latents = np.indices(weights.shape).reshape(2, -1)
    return {
        PROBES: filled(
            PROBES,
            representation=which,
            k=k,
            target=label,
            label=label,
            seed=0,
            metric=metric,
            value=value,
            ci_low=np.array(value) - 0.02,
            ci_high=np.array(value) + 0.02,
            n_train=24,
            n_test=6,
        ),
        PROBE_WEIGHTS: filled(
            PROBE_WEIGHTS,
            label=[drawn.names[i] for i in labels],
            latent=latents,
            weight=weights.reshape(-1),
            effect=weights.reshape(-1) / 2,
            rank=(np.argsort(np.argsort(-np.abs(weights), 1), 1) + 1).reshape(-1),
        ),
        PROBE_SCORES: _scores(drawn),
        PROBE_CURVE: filled(
            PROBE_CURVE,
            representation=["latents", "latents", "activations", "activations"],
            n=[2, 5] * 2,
            draw=0,
            value=[0.6, 0.8, 0.7, 0.9],
        ),
    }


def _scores(drawn: Drawn) -> pa.Table:
    """On all latents what is predicted, by TF-IDF what is true; the former on one latent too."""
    given = [("latents", None, True), ("latents", 5, True), ("tfidf", None, False),
             ("activations", None, False)]  # fmt: skip
    rows = [
        (representation, k, name, doc, said, float(name == truth))
        for representation, k, guessed in given
        for doc, truth, guess in drawn.predictions
        for name in drawn.names
        for said in [(1.5 if name == (guess if guessed else truth) else -1.0) + 0.01 * (doc % 7)]
    ]
    rows += [
        ("majority", None, name, doc, float(np.log(0.5)), float(name == truth))
        for doc, truth, _ in drawn.predictions
        for name in drawn.names
    ]
    names = ("representation", "k", "target", "doc_id", "score", "truth")
    return filled(PROBE_SCORES, **dict(zip(names, map(list, zip(*rows, strict=True)), strict=True)))
