"""Documents as vectors, by representation: latents, and what they are to be compared with.

What none of them knows more than: `majority` nothing, `length` how long and of what characters a
text is, `tfidf` its words, `token_embeddings` its tokens before any layer of the model,
`activations` the stream that the SAE takes apart. `pca` and `random_projection` are other axes of
that stream: the directions of most variance, and any.
"""

from __future__ import annotations

import re
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import linalg, sparse

from deconstruct.artifacts import Artifact
from deconstruct.config import ProbeConfig
from deconstruct.latents.pooling import activations_of, latents_of, texts_of
from deconstruct.model.embeddings import input_embeddings
from deconstruct.model.resolve import ResolvedModel
from deconstruct.probe.task import Sample, Task
from deconstruct.probe.vectors import Vectors, moments

MAJORITY, LATENTS, ACTIVATIONS, EMBEDDINGS = (
    "majority", "latents", "activations", "token_embeddings"
)  # fmt: skip
DIRECTIONS = 128
"""Principal components, and random directions, that a probe on all of them reads."""
LENGTHS = ("tokens", "words", "characters", "punctuation", "digits", "capitals", "word length")
"""The 7 numbers of a text that `length` knows; the last is characters per word."""


class Representations:
    """The vectors of a sample's documents, each read once, for however many columns of labels.

    model: whose token embeddings are a representation; None: they are left out.
    """

    def __init__(
        self, config: ProbeConfig, sample: Sample, corpus: Artifact, latents: Artifact,
        activations: Artifact, model: ResolvedModel | None,
    ) -> None:  # fmt: skip
        self._config, self._corpus, self._model = config, corpus, model
        self._latents, self._activations = latents, activations
        self._wanted = np.concatenate([sample.train, sample.test])
        self._documents = sample.documents
        self._place = np.full(sample.documents, -1)
        self._place[self._wanted] = np.arange(len(self._wanted))

    @property
    def names(self) -> list[str]:
        """All but the majority, which has no vectors."""
        found = ["length", "tfidf", EMBEDDINGS, ACTIVATIONS, "pca", "random_projection", LATENTS]
        return [name for name in found if name != EMBEDDINGS or self._model is not None]

    def of(self, name: str, task: Task) -> Vectors:
        """The vectors of the task's documents; what is fitted is fitted on its train ones."""
        if name == "tfidf":
            return Vectors(*self._words(task), standardised=False)
        if name in ("pca", "random_projection"):
            return self._projected(name, task)
        whole = {"length": "_lengths", EMBEDDINGS: "_embedded", ACTIVATIONS: "_recorded",
                 LATENTS: "_pooled"}  # fmt: skip
        return Vectors(*self._split(getattr(self, whole[name]), task))

    def _split(self, matrix: Any, task: Task) -> tuple[Any, Any]:
        return matrix[self._place[task.train]], matrix[self._place[task.test]]

    @cached_property
    def _texts(self) -> list[str]:
        return texts_of(self._corpus, self._documents, self._wanted)

    @cached_property
    def _pooled(self) -> sparse.csr_matrix:
        """Float32 [documents, d_sae]."""
        pooling = self._config.pooling
        return latents_of(self._latents, self._documents, self._wanted, pooling)

    @cached_property
    def _recorded(self) -> NDArray[np.float32]:
        """[documents, d_in]."""
        pooling = self._config.pooling
        found = activations_of(self._activations, self._documents, self._wanted, pooling)
        return found.astype(np.float32)

    @cached_property
    def _lengths(self) -> NDArray[np.float64]:
        """[documents, 7], as `LENGTHS` names them."""
        tokens = np.zeros(len(self._wanted))
        for block in self._corpus.rows("documents.parquet", ["doc_id", "n_tokens"]):
            place = self._place[block["doc_id"].to_numpy()]
            tokens[place[place >= 0]] = block["n_tokens"].to_numpy()[place >= 0]
        rows = []
        for text in self._texts:
            words = text.split()
            spelled = sum(map(len, words))
            marks = sum(not c.isalnum() and not c.isspace() for c in text)
            digits, capitals = len(re.findall(r"\d", text)), sum(c.isupper() for c in text)
            mean = spelled / max(1, len(words))
            rows.append((len(words), len(text), marks, digits, capitals, mean))
        return np.column_stack([tokens, np.array(rows).reshape(-1, 6)])

    @cached_property
    def _embedded(self) -> NDArray[np.float32]:
        """[documents, width]: mean (or max) of the input embeddings of a document's tokens, without
        special ones."""
        assert self._model is not None
        doc_id, token_id = [], []
        for block in self._corpus.rows("tokens.parquet", ["doc_id", "token_id", "special"]):
            place = self._place[block["doc_id"].to_numpy()]
            mine = (place >= 0) & ~block["special"].to_numpy(zero_copy_only=False)
            doc_id.append(place[mine])
            token_id.append(block["token_id"].to_numpy()[mine].astype(np.int64))
        rows = np.concatenate(doc_id)
        used, column = np.unique(np.concatenate(token_id), return_inverse=True)
        table = input_embeddings(self._model, used)
        if self._config.pooling == "max":
            found = np.full((len(self._wanted), table.shape[1]), -np.inf, np.float32)
            for first in range(0, len(rows), 1 << 16):
                at = slice(first, first + (1 << 16))
                np.maximum.at(found, rows[at], table[column[at]])
            return np.where(np.isfinite(found), found, np.float32(0))
        counts = sparse.csr_matrix(
            (np.ones(len(rows)), (rows, column)), shape=(len(self._wanted), len(used))
        )
        total = np.maximum(np.asarray(counts.sum(1)), 1)
        return np.asarray((counts @ table) / total, np.float32)

    def _words(self, task: Task) -> tuple[Any, Any]:
        """TF-IDF of the words and pairs of words that two train documents have."""
        from sklearn.feature_extraction.text import TfidfVectorizer

        words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=2, dtype=np.float32)
        train, test = ([self._texts[self._place[d]] for d in s] for s in (task.train, task.test))
        try:
            return words.fit_transform(train), words.transform(test)
        except ValueError:  # there is no such word: all texts look alike
            return np.zeros((len(train), 1)), np.zeros((len(test), 1))

    def _projected(self, name: str, task: Task) -> Vectors:
        """At most `DIRECTIONS` axes of the standardised activations, of the train rows' variance
        the largest first, or drawn at random."""
        train, test = (part.astype(np.float64) for part in self._split(self._recorded, task))
        mean, inverse = moments(train)
        train, test = (train - mean) * inverse, (test - mean) * inverse
        count = min(DIRECTIONS, *train.shape)
        if name == "pca":
            axes = principal_axes(train, count)
        else:
            draw = np.random.default_rng(self._config.seed)
            axes = draw.standard_normal((train.shape[1], count)) / np.sqrt(train.shape[1])
        return Vectors(train @ axes, test @ axes, standardised=False)


def principal_axes(x: NDArray[np.float64], count: int) -> NDArray[np.float64]:
    """Unit directions of most variance of centred rows, the largest first: [dimensions, count]."""
    rows, width = x.shape
    small = x.T @ x if width <= rows else x @ x.T
    last = len(small) - 1
    _, found = linalg.eigh(small, subset_by_index=(max(0, last + 1 - count), last))
    axes = found if width <= rows else x.T @ found
    length = np.linalg.norm(axes, axis=0)
    scaled = np.divide(axes, length, out=np.zeros_like(axes), where=length > 0)
    return np.ascontiguousarray(scaled[:, ::-1])
