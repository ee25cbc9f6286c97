"""What the stage map reads, planted: documents in groups, and one massive token in some of each."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import torch
from support.planted import artifact_of, filled

from deconstruct.activations.shards import Moments, Rows, write
from deconstruct.artifacts import Artifact, DataRoot, Draft, Recipe
from deconstruct.config import MapConfig
from deconstruct.corpus.tables import DOCUMENTS, TOKENS
from deconstruct.features.tables import DIRECTIONS, FEATURES
from deconstruct.latents.tables import DOCUMENT_LATENTS, LATENTS
from deconstruct.map import stage

GROUPS, OWN, D_SAE, D_IN, LENGTH = 3, 4, 30, 16, 12
MASSIVE_LATENTS = (20, 21, 22)
WIDE = 23  # fires on the massive token, and as often elsewhere, a thousandth as strongly
DEAD = 29
QUOTE, WORDS = 7, 50
QUICK = MapConfig(iterations=150)


@dataclass(frozen=True)
class Planted:
    """Documents of `GROUPS` groups, [documents] each; which hold the massive token; and the dense
    activations, [tokens, D_SAE], of `LENGTH` tokens per document."""

    group: np.ndarray
    holds: np.ndarray
    dense: np.ndarray
    token_id: np.ndarray
    inputs: dict[str, Artifact]

    def made(self, root: DataRoot, config: MapConfig = QUICK) -> Artifact:
        """The stage's artifact."""
        return stage.lay_out(root, config, **self.inputs)


def plant(root: DataRoot, documents: int = 60, seed: int = 0) -> Planted:
    """Each group has `OWN` latents, that fire on most tokens of its documents; every fourth
    document has one massive token, a quotation mark that stands in all others too."""
    draw = np.random.default_rng(seed)
    group, holds = np.arange(documents) % GROUPS, np.arange(documents) % 4 == 1
    tokens = documents * LENGTH
    doc_id = np.repeat(np.arange(documents), LENGTH)
    dense = np.where(draw.random((tokens, D_SAE)) < 0.05, draw.gamma(2, 1, (tokens, D_SAE)), 0)
    for number in range(GROUPS):
        own = slice(number * OWN, number * OWN + OWN)
        mine = (group[doc_id] == number)[:, None]
        dense[:, own] += np.where(mine & (draw.random((tokens, OWN)) < 0.6), 3, 0)
    quotes = np.arange(documents) * LENGTH + 5
    massive = quotes[holds]
    dense[:, MASSIVE_LATENTS] = 0
    dense[quotes[::7][:, None], MASSIVE_LATENTS] = 2.0
    dense[massive[:, None], MASSIVE_LATENTS] = 2000 + 100 * draw.random((len(massive), 3))
    dense[:, WIDE] = np.where(draw.random(tokens) < 0.5, 2.0, 0)
    dense[massive, WIDE] = 2000
    dense[:, DEAD] = 0
    token_id = draw.integers(10, 10 + WORDS, tokens)
    token_id[quotes] = QUOTE
    x = draw.normal(size=(tokens, D_IN))
    x[massive] *= 100
    inputs = {
        "corpus": _corpus(root, doc_id, token_id, group),
        "latents": _latents(root, dense.astype(np.float32), doc_id),
        "activations": _activations(root, x, doc_id, token_id),
    }
    median = float(np.median(np.square(x).sum(1)))
    facts = {"median_distance": median}
    made = artifact_of(root, Recipe("reference", 1, facts, {}), {}, **facts)
    return Planted(group, holds, dense, token_id, inputs | {"reference": made})


def _recipe(stage: str, *arrays: np.ndarray) -> Recipe:
    digest = hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest()
    return Recipe(stage, 0, {"planted": True}, {"values": digest})


def _corpus(
    root: DataRoot, doc_id: np.ndarray, token_id: np.ndarray, group: np.ndarray
) -> Artifact:
    documents = len(group)
    texts = [hashlib.sha256(str(number).encode()).hexdigest() for number in range(documents)]
    rows = filled(
        DOCUMENTS, doc_key=[text[:16] for text in texts], label=[f"group {g}" for g in group],
        split=["test" if number % 5 == 0 else "train" for number in range(documents)],
        text=texts, n_tokens=LENGTH,
    )  # fmt: skip
    words = ["'" if token == QUOTE else f" w{token}" for token in token_id]
    cut = filled(
        TOKENS, token_index=np.arange(len(doc_id)), doc_id=doc_id, token=words, token_id=token_id,
        position=np.tile(np.arange(LENGTH), documents),
    )  # fmt: skip
    facts = {"documents": documents, "tokens": len(doc_id)}
    wanted = _recipe("corpus", doc_id, token_id)
    return artifact_of(root, wanted, {DOCUMENTS: rows, TOKENS: cut}, **facts)


def _latents(root: DataRoot, dense: np.ndarray, doc_id: np.ndarray) -> Artifact:
    latent, token = np.nonzero(dense.T)  # by latent
    strength = dense[token, latent]
    order = np.lexsort((token, -strength, latent))
    by_document = dense.reshape(-1, LENGTH, dense.shape[1])
    doc, own = np.nonzero(by_document.max(1))
    fires = (dense > 0).sum(0)
    decoder = np.random.default_rng(1).normal(size=(dense.shape[1], D_IN))
    tables = {
        LATENTS: filled(
            LATENTS, latent=latent[order], token_index=token[order], activation=strength[order]
        ),
        DOCUMENT_LATENTS: filled(
            DOCUMENT_LATENTS, doc_id=doc, latent=own, n_fires=(by_document > 0).sum(1)[doc, own],
            mean=by_document.mean(1)[doc, own], max=by_document.max(1)[doc, own],
        ),
        FEATURES: filled(
            FEATURES, density=np.minimum(fires / len(dense), 0.09), n_fires=fires,
            max_activation=dense.max(0), dead=fires == 0,
        ),
        DIRECTIONS: filled(DIRECTIONS, decoder=list(decoder.astype(np.float32))),
    }  # fmt: skip
    return artifact_of(root, _recipe("latents", dense), tables)


def _activations(
    root: DataRoot, x: np.ndarray, doc_id: np.ndarray, token_id: np.ndarray
) -> Artifact:
    index = np.arange(len(x))
    test = doc_id % 5 == 0

    def fill(draft: Draft) -> None:
        for split, mine in (("train", index[~test]), ("test", index[test])):
            columns = (mine.astype(np.uint64), doc_id[mine], mine % LENGTH, token_id[mine])
            first, *others = columns
            rows = Rows(first, *(one.astype(np.uint32) for one in others))
            with draft.writing(f"{split}-00000.parquet") as path:
                write(path, rows, torch.from_numpy(x[mine]).float(), "float32")
        with draft.writing("moments.safetensors") as path:
            Moments(int((~test).sum()), np.zeros(D_IN), np.ones(D_IN)).save(path)
        draft.facts |= {"d_in": D_IN, "train_rows": int((~test).sum())}

    return root.make(_recipe("activations", x), fill)
