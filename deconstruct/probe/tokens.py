"""What single tokens are probed for: how they are written, on latents and on activations.

A task is a property of the token's own text, so that it says whether a representation keeps what it
was given, and little of what the model makes of it. Documents are split as ever, and intervals
resample documents: tokens of one are no independent draws. A token's identity is not held out: the
same words stand on both sides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from deconstruct.activations.layout import SPLITS
from deconstruct.activations.reader import ActivationReader
from deconstruct.artifacts import Artifact
from deconstruct.config import ProbeConfig
from deconstruct.probe.fitting import on_all, on_few
from deconstruct.probe.representations import ACTIVATIONS, LATENTS, MAJORITY
from deconstruct.probe.scores import Probe, Scores, prior
from deconstruct.probe.task import Sample, Task
from deconstruct.probe.vectors import Ints, Vectors

PER_DOCUMENT = 50
DOCUMENTS = 200
"""Of each split, whose tokens are read."""
PROPERTIES: dict[str, Callable[[str, bool], bool]] = {
    "capitalised": lambda token, _: token.strip()[:1].isupper(),
    "number": lambda token, _: any(c.isdigit() for c in token),
    "punctuation": lambda token, _: (
        bool(token.strip()) and not any(c.isalnum() or c.isspace() for c in token.strip())
    ),
    "word_start": lambda token, apart: apart and token.strip()[:1].isalnum(),
}
"""Of a token's text, and whether a space or nothing is before its first character."""


def token_rows(
    config: ProbeConfig, sample: Sample, corpus: Artifact, latents: Artifact, activations: Artifact
) -> list[dict[str, Any]]:
    """Rows of ``probes.parquet`` of the tasks that ``config.token_tasks`` names.

    On k dimensions of latents and of activations, and on all activations.
    """
    draw = np.random.default_rng(config.seed)
    sides = []
    for split, doc_ids in zip(SPLITS, (sample.train, sample.test), strict=True):
        chosen = np.zeros(sample.documents, np.bool_)
        chosen[draw.permutation(doc_ids)[:DOCUMENTS]] = True
        sides.append(_drawn_tokens(ActivationReader(activations, split), chosen, draw))
    token_index = np.concatenate([side[0] for side in sides])
    document = np.concatenate([side[1] for side in sides])
    labels = dict(enumerate(_labels(corpus, token_index, config.token_tasks)))
    count = len(sides[0][0])
    groups = sample.groups[document]
    rows = Sample(len(document), np.arange(count), np.arange(count, len(document)), groups)
    task = Task.of("multilabel", labels, rows)
    if task.reason is not None:
        return []
    if config.shuffle_labels:
        task = task.dealt(config.seed)
    read = {
        ACTIVATIONS: _activations_at(activations, token_index),
        LATENTS: _latents_at(latents, token_index),
    }
    scores = Scores(task)
    scores.add(Probe(MAJORITY, None), prior(task))
    folds = task.folds(config.seed)
    for name, matrix in read.items():
        vectors = Vectors(matrix[task.train], matrix[task.test])
        if name == ACTIVATIONS:
            scores.add(Probe(name, None), on_all(vectors, task, folds).scores)
        if ks := [k for k in config.ks if k < vectors.dimensions]:
            for k, told in on_few(vectors, task, folds, ks):
                scores.add(Probe(name, k), told)
    return [
        row | {"task": row["label"], "target": None, "label": None}
        for row in scores.table(config.bootstrap, config.seed).to_pylist()
        if row["label"] is not None
    ]


def _drawn_tokens(
    reader: ActivationReader, chosen: NDArray[np.bool_], draw: np.random.Generator
) -> tuple[Ints, Ints]:
    """token_index and doc_id of at most `PER_DOCUMENT` recorded tokens of each chosen document, in
    the order of token_index."""
    indices, documents = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for part in reader.groups:
        of = part.doc_id().astype(np.int64)
        documents.append(of[chosen[of]])
        indices.append(part.token_index().astype(np.int64)[chosen[of]])
    index, document = np.concatenate(indices), np.concatenate(documents)
    mine = np.argsort(index)
    mine = mine[draw.permutation(len(mine))]
    order = np.argsort(document[mine], kind="stable")
    own = document[mine][order]
    place = np.arange(len(own)) - np.searchsorted(own, own)
    kept = mine[order[place < PER_DOCUMENT]]
    kept = kept[np.argsort(index[kept])]
    return index[kept], document[kept]


def _labels(corpus: Artifact, token_index: Ints, tasks: Sequence[str]) -> Iterator[list[str]]:
    """Which of the tasks' properties each of the tokens has, in their order."""
    text: dict[int, tuple[str, bool]] = {}
    wanted = np.sort(token_index)
    last = ("", -1)  # of the block before: its last token and that one's document
    for block in corpus.rows("tokens.parquet", ["token_index", "doc_id", "token", "special"]):
        index = block["token_index"].to_numpy().astype(np.int64)
        tokens, special = block["token"].to_pylist(), block["special"].to_pylist()
        document = block["doc_id"].to_numpy()
        for place in np.flatnonzero(_among(index, wanted)).tolist():
            before, its_document = (tokens[place - 1], document[place - 1]) if place else last
            if (place and special[place - 1]) or its_document != document[place]:
                before = ""
            token = tokens[place]
            apart = before == "" or before[-1:].isspace() or token[:1].isspace()
            text[int(index[place])] = (token, apart)
        if tokens:
            last = ("" if special[-1] else tokens[-1], int(document[-1]))
    for one in token_index.tolist():
        yield [name for name in tasks if PROPERTIES[name](*text[one])]


def _activations_at(activations: Artifact, token_index: Ints) -> NDArray[np.float32]:
    """[tokens, d_in], in their order."""
    found = np.zeros((len(token_index), int(activations.facts["d_in"])), np.float32)
    order = np.argsort(token_index)
    wanted = token_index[order]
    for split in SPLITS:
        for part in ActivationReader(activations, split).groups:
            index = part.token_index().astype(np.int64)
            mine = np.flatnonzero(_among(index, wanted))
            if len(mine):
                rows = part.activation().float().numpy()[mine]
                found[order[np.searchsorted(wanted, index[mine])]] = rows
    return found


def _latents_at(latents: Artifact, token_index: Ints) -> sparse.csr_matrix:
    """[tokens, d_sae], in their order."""
    d_sae = len(latents.table("features.parquet", ["latent"]))
    order = np.argsort(token_index)
    wanted = token_index[order]
    parts: list[list[NDArray[Any]]] = [[], [], []]
    for block in latents.rows("latents_by_token.parquet", ["token_index", "latent", "activation"]):
        index = block["token_index"].to_numpy().astype(np.int64)
        mine = np.flatnonzero(_among(index, wanted))
        parts[0].append(order[np.searchsorted(wanted, index[mine])])
        parts[1].append(block["latent"].to_numpy()[mine].astype(np.int64))
        parts[2].append(block["activation"].to_numpy()[mine])
    row, latent, value = (np.concatenate(part) if part else np.empty(0) for part in parts)
    return sparse.csr_matrix((value, (row, latent)), shape=(len(token_index), d_sae))


def _among(index: Ints, wanted: Ints) -> NDArray[np.bool_]:
    """Whether each is one of the wanted, which are sorted and not none."""
    place = np.minimum(np.searchsorted(wanted, index), len(wanted) - 1)
    return np.asarray(wanted[place] == index)
