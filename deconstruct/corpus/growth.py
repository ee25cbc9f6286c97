"""A corpus read back: the documents that a growing one has already, or that another has too."""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from deconstruct.artifacts import Artifact

_WHOLE = re.compile(r"^(-?\d+)\.0+$")


class KnownDocuments:
    """Which texts a corpus holds, and what the source calls each now; 40 bytes per document.

    A text that occurs several times is matched in the order of both. Documents that left the
    source keep the label that they had.
    """

    def __init__(self, corpus: Artifact) -> None:
        keys: list[NDArray[np.uint64]] = []
        numbers: list[NDArray[np.int32]] = []
        self._number: dict[str | None, int] = {}
        for table in corpus.rows("documents.parquet", ["doc_key", "label"]):
            keys.append(np.array([int(key, 16) for key in table["doc_key"].to_pylist()], np.uint64))
            labels = map(self._numbered, table["label"].to_pylist())
            numbers.append(np.fromiter(labels, np.int32, len(table)))
        whole = np.concatenate(keys)
        self._order = np.argsort(whole, kind="stable")
        self._keys = whole[self._order]
        self._taken = np.zeros(len(whole), np.int32)
        self._before = np.concatenate(numbers)
        self._now = self._before.copy()
        self._names = {name: name for name in self._number if name is not None}
        self._by_form = {as_integer(name): name for name in self._names}

    def take(self, doc_key: str) -> int | None:
        """The doc_id of a text; None if it is there no more times than it was taken."""
        key = np.uint64(int(doc_key, 16))
        place = int(np.searchsorted(self._keys, key))
        nth = place if place == len(self._keys) else place + int(self._taken[place])
        if nth >= len(self._keys) or self._keys[nth] != key:
            return None
        self._taken[place] += 1
        return int(self._order[nth])

    def named(self, label: str | None) -> str | None:
        """A label of the source as the corpus calls it: ``1.0`` is its ``1``, and ``1`` its
        ``1.0``, so that a column which turned from integers to floats makes no new classes."""
        if label is None or label in self._names:
            return label
        return self._by_form.get(as_integer(label), label)

    def relabel(self, doc_id: int, label: str | None) -> None:
        """Note what the source says now of a document."""
        self._now[doc_id] = self._numbered(label)

    def labels(self) -> Iterator[str | None]:
        """The label of each document now, by doc_id."""
        names = list(self._number)
        return (names[number] for number in self._now)

    def changed(self) -> int:
        """How many documents have another label than they had."""
        return int((self._now != self._before).sum())

    def labels_in(self, batch: pa.RecordBatch) -> pa.Array:
        """The labels of some rows of ``documents.parquet``, with those of now."""
        doc_id, found = batch.column("doc_id").to_numpy(), batch.column("label").to_pylist()
        names, known = list(self._number), len(self._now)
        return pa.array(
            [
                names[self._now[d]] if d < known else label
                for d, label in zip(doc_id.tolist(), found, strict=True)
            ],
            pa.string(),
        )

    def _numbered(self, label: str | None) -> int:
        return self._number.setdefault(label, len(self._number))


def as_integer(label: str) -> str:
    """A whole number as an integer is written, any other label as it is."""
    return _WHOLE.sub(r"\1", label)


def documents_of(corpus: Artifact) -> Iterator[tuple[pa.Table, list[NDArray[np.uint32]]]]:
    """Rows of ``documents.parquet``, some at a time, each with the ids of its tokens."""
    waiting: list[NDArray[np.uint32]] = []
    there = 0
    tokens = corpus.rows("tokens.parquet", ["token_id"])
    for table in corpus.rows("documents.parquet"):
        lengths = table["n_tokens"].to_numpy().astype(np.int64)
        wanted = int(lengths.sum())
        while there < wanted:
            waiting.append(next(tokens)["token_id"].to_numpy())
            there += len(waiting[-1])
        found = np.concatenate(waiting)
        waiting, there = [found[wanted:]], there - wanted
        yield table, np.split(found[:wanted], np.cumsum(lengths)[:-1])


def segments(corpus: Artifact) -> list[int]:
    """How many documents each segment has: what it grew from, first and in order, then the new."""
    return [int(n) for n in corpus.facts.get("segments", [corpus.facts["documents"]])]


def held_out_but_known(corpus: Artifact, trained: Artifact) -> int:
    """How many held-out documents of ``corpus`` have a text that ``trained`` has in split train.

    Some 20 bytes for each held-out document.
    """
    ours, times = np.unique(
        np.concatenate([np.zeros(0, np.uint64), *_keys(corpus, "test")]), return_counts=True
    )
    known = np.zeros(len(ours), bool)
    if len(ours):
        for theirs in _keys(trained, "train"):
            place = np.minimum(np.searchsorted(ours, theirs), len(ours) - 1)
            known[place[ours[place] == theirs]] = True
    return int(times[known].sum())


def _keys(corpus: Artifact, split: str) -> Iterator[NDArray[np.uint64]]:
    """The doc_keys of a split, some at a time."""
    for table in corpus.rows("documents.parquet", ["doc_key", "split"]):
        both = zip(table["doc_key"].to_pylist(), table["split"].to_pylist(), strict=True)
        yield np.array([int(key, 16) for key, of in both if of == split], np.uint64)
