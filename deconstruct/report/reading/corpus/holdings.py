"""What each document of a run holds, as arrays: its latents with their means, and its tokens.

A selection of documents is counted from these: hundreds of rows of each document, which no order of
a file makes few, but which arrays in memory count in a moment. Where they are too large to be kept
they are read again each time; what is counted is the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple, TypeVar

import duckdb
import numpy as np
from numpy.typing import NDArray

from deconstruct.report.chart import Missing
from deconstruct.report.reading.corpus.ruled import TIMES, usual_activation

MOST_BYTES = 300_000_000
"""Of arrays that are kept of a run."""
ROWS = 1 << 20
"""That are read at a time."""
THREADS = 2
"""That count what is kept."""
T = TypeVar("T")

_LATENTS = """
SELECT x.doc_id, x.latent, x.mean, x.max > $edge AS strong FROM document_latents AS x
WHERE x.run_id = $run AND x.doc_id BETWEEN $first AND $last
"""
_TOKENS = """
SELECT t.doc_id, t.token FROM tokens AS t
WHERE t.run_id = $run AND t.doc_id BETWEEN $first AND $last AND NOT t.special
"""

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]


class Block(NamedTuple):
    """What some documents hold, in their order. documents: uint32 [k]; ends: where the rows of
    each end, int64 [k]; held: latents, or places in `Holdings.words`, unsigned [n]; mean: of
    latents alone, float32 [n]. A document may go on in the next block of latents."""

    documents: NDArray[np.uint32]
    ends: NDArray[np.int64]
    held: NDArray[np.unsignedinteger]
    mean: NDArray[np.float32] | None = None
    strong: NDArray[np.uint8] | None = None

    def rows_of(self, inside: Bools) -> Bools | slice:
        """Which rows are of the documents ``inside`` (bool, by number): bool [n], or all."""
        chosen = inside[self.documents]
        return slice(None) if chosen.all() else np.repeat(chosen, np.diff(self.ends, prepend=0))

    def documents_of(self, rows: NDArray[np.int64]) -> NDArray[np.uint32]:
        """The documents of rows."""
        return np.asarray(self.documents[np.searchsorted(self.ends, rows, "right")])

    @property
    def size(self) -> int:
        """In bytes."""
        return sum(part.nbytes for part in self if part is not None)


class Values(NamedTuple):
    """Of a few latents, where they fire, [n] each. place: among those asked for; document: its
    number; mean: over its tokens; strong: whether it fires there as massive activations do."""

    place: NDArray[np.int64]
    document: NDArray[np.uint32]
    mean: NDArray[np.float32]
    strong: Bools


class Sums(NamedTuple):
    """Of some documents by latent, [latents] each: the sum of means, of their squares, and in how
    many it fires."""

    mean: Floats
    square: Floats
    documents: NDArray[np.int64]


@dataclass(frozen=True)
class Holdings:
    """What the documents of a run hold, and the sums over all of them.

    total: documents. edge: above it an activation is as strong as massive ones. words: the texts
    of tokens that occur. in_documents: in how many each of them does, [words]. sums: of all
    documents. kept_latents, kept_tokens: None where they are too large.
    """

    run_id: str
    total: int
    edge: float
    words: list[str]
    in_documents: NDArray[np.int64]
    sums: Sums
    kept_latents: list[Block] | None
    kept_tokens: list[Block] | None

    @property
    def size(self) -> int:
        """Of what is kept, in bytes."""
        return sum(one.size for kept in (self.kept_latents, self.kept_tokens) for one in kept or ())

    def latents(self, store: duckdb.DuckDBPyConnection) -> Iterable[Block]:
        """Latents of all documents, in the documents' order."""
        if self.kept_latents is not None:
            return self.kept_latents
        return _latents(store, self.run_id, self.edge)

    def tokens(self, store: duckdb.DuckDBPyConnection) -> Iterable[Block]:
        """The different tokens of all documents."""
        if self.kept_tokens is not None:
            return self.kept_tokens
        return _tokens(store, self.run_id, {word: at for at, word in enumerate(self.words)})

    def sums_of(self, store: duckdb.DuckDBPyConnection, inside: Bools) -> Sums:
        """Sums over the documents that are ``inside`` (bool, by number)."""
        return _sums(self.latents(store), inside, len(self.sums.mean))

    def tokens_of(self, store: duckdb.DuckDBPyConnection, inside: Bools) -> NDArray[np.int64]:
        """In how many of the documents ``inside`` each token stands: [words]."""
        return _counts(self.tokens(store), inside, len(self.words))

    def values_of(self, store: duckdb.DuckDBPyConnection, latents: NDArray[np.int64]) -> Values:
        """Of a few latents, in all documents in which they fire."""
        place = np.full(len(self.sums.mean), -1, np.int64)
        place[latents] = np.arange(len(latents))
        wanted = place >= 0

        def values(block: Block) -> Values:
            assert block.mean is not None
            assert block.strong is not None
            rows = np.flatnonzero(wanted.take(block.held))
            strong = block.strong[rows >> 3] >> (rows & 7).astype(np.uint8) & 1
            return Values(
                place[block.held[rows]], block.documents_of(rows), block.mean[rows],
                strong.astype(bool),
            )  # fmt: skip

        found = _each(values, self.latents(store))
        return Values(*(np.concatenate(parts) for parts in zip(*found, strict=True)))


def holdings(
    store: duckdb.DuckDBPyConnection, run_id: str, most_bytes: int = MOST_BYTES
) -> Holdings:
    """Read what the documents of a run hold; keep ``most_bytes`` of it at most. Raises ``Missing``
    if the run has no latents of documents."""
    run = store.execute("SELECT documents, d_sae FROM runs WHERE run_id = ?", [run_id]).fetchall()
    total, d_sae = run[0] if run else (0, 0)
    every = np.ones(total, bool)
    edge = TIMES * usual_activation(store, run_id)
    latents = _Kept(_latents(store, run_id, edge), most_bytes)
    sums = _sums(latents, every, d_sae)
    if not sums.documents.any():
        raise Missing(f"run {run_id} has no latents of documents: nothing can mark them")
    words: dict[str, int] = {}
    tokens = _Kept(_tokens(store, run_id, words), most_bytes - latents.size)
    in_documents = _counts(tokens, every, 0)
    return Holdings(
        run_id, total, edge, list(words), in_documents, sums, latents.blocks, tokens.blocks
    )


class _Kept:
    """Hands blocks on, and keeps them as long as they are no more than so many bytes."""

    def __init__(self, read: Iterator[Block], most: int) -> None:
        self._read, self._most = read, most
        self.size = 0
        self.blocks: list[Block] | None = []

    def __iter__(self) -> Iterator[Block]:
        for block in self._read:
            if self.blocks is not None:
                self.blocks.append(block)
                self.size += block.size
                if self.size > self._most:
                    self.blocks, self.size = None, 0
            yield block


def _sums(blocks: Iterable[Block], inside: Bools, d_sae: int) -> Sums:
    def of(block: Block) -> Sums:
        assert block.mean is not None
        rows = block.rows_of(inside)
        latent, mean = block.held[rows], block.mean[rows].astype(np.float64)
        return Sums(
            np.asarray(np.bincount(latent, mean, d_sae), np.float64),
            np.asarray(np.bincount(latent, mean * mean, d_sae), np.float64),
            np.bincount(latent, minlength=d_sae),
        )

    sums = Sums(np.zeros(d_sae), np.zeros(d_sae), np.zeros(d_sae, np.int64))
    for part in _each(of, blocks):  # in the blocks' order: equal to the last digit
        sums.mean[:] += part.mean
        sums.square[:] += part.square
        sums.documents[:] += part.documents
    return sums


def _each(work: Callable[[Block], T], blocks: Iterable[Block]) -> Iterator[T]:
    """What ``work`` gives of each block, in their order; of those in memory on several threads."""
    if not isinstance(blocks, list):
        yield from map(work, blocks)
        return
    with ThreadPoolExecutor(THREADS) as pool:
        yield from pool.map(work, blocks)


def _counts(blocks: Iterable[Block], inside: Bools, words: int) -> NDArray[np.int64]:
    """Of documents by word; as many words as there are, ``words`` at least."""
    counts = np.zeros(words, np.int64)
    for block in blocks:
        found = np.bincount(block.held[block.rows_of(inside)], minlength=len(counts))
        found[: len(counts)] += counts
        counts = found
    return counts


def _latents(store: duckdb.DuckDBPyConnection, run_id: str, edge: float) -> Iterator[Block]:
    for given in _ranges(store, run_id, "document_latents"):
        rows = store.sql(_LATENTS, params=given | {"edge": edge}).to_arrow_table()
        doc_id, latent, mean, strong = _in_order(*(column.to_numpy() for column in rows.columns))
        yield _block(doc_id, latent, mean, np.packbits(strong, bitorder="little"))


def _tokens(
    store: duckdb.DuckDBPyConnection, run_id: str, words: dict[str, int]
) -> Iterator[Block]:
    """Different tokens of each document. words: their texts -> numbers; new ones are put in."""
    for given in _ranges(store, run_id, "tokens"):
        rows = store.sql(_TOKENS, params=given).to_arrow_table()
        texts = rows["token"].combine_chunks().dictionary_encode()
        number = [words.setdefault(text, len(words)) for text in texts.dictionary.to_pylist()]
        word = np.array(number, np.uint64)[texts.indices.to_numpy()]
        key = np.sort(rows["doc_id"].to_numpy().astype(np.uint64) << np.uint64(32) | word)
        key = key[np.append(True, key[1:] != key[:-1])[: len(key)]]
        yield _block((key >> np.uint64(32)).astype(np.uint32), key.astype(np.uint32))


def _ranges(
    store: duckdb.DuckDBPyConnection, run_id: str, view: str
) -> Iterator[dict[str, str | int]]:
    """Documents by the number, some `ROWS` of the view's rows at a time."""
    [(documents, rows)] = store.execute(
        f"SELECT (SELECT r.documents FROM runs AS r WHERE r.run_id = $run), "
        f"(SELECT count(*) FROM {view} AS x WHERE x.run_id = $run)",
        {"run": run_id},
    ).fetchall()
    step = max(1, math.ceil((documents or 0) * ROWS / max(rows, 1)))
    for first in range(0, documents or 0, step):
        yield {"run": run_id, "first": first, "last": first + step - 1}


def _in_order(doc_id: NDArray[np.uint32], *columns: np.ndarray) -> list[np.ndarray]:
    """Rows in the order of documents: ``doc_id`` and the other columns. They come from the file in
    that order, but of several parts of it at once, so that whole stretches change places."""
    every = [doc_id, *columns]
    if _ascends(doc_id):
        return every
    bounds = np.flatnonzero(doc_id[1:] - doc_id[:-1] > 1) + 1  # unsigned: backwards is far
    stretches = sorted(
        pairwise([0, *bounds.tolist(), len(doc_id)]), key=lambda stretch: doc_id[stretch[0]]
    )
    every = [np.concatenate([one[slice(*at)] for at in stretches]) for one in every]
    if _ascends(every[0]):
        return every
    order = np.argsort(doc_id, kind="stable")
    return [doc_id[order], *(one[order] for one in columns)]


def _ascends(doc_id: NDArray[np.uint32]) -> bool:
    return bool((doc_id[1:] >= doc_id[:-1]).all())


def _block(
    doc_id: NDArray[np.uint32],
    held: np.ndarray,
    mean: NDArray[np.float32] | None = None,
    strong: NDArray[np.uint8] | None = None,
) -> Block:
    """Arrays of its own, as narrow as they may be."""
    ends = np.flatnonzero(np.diff(doc_id)) + 1
    if len(doc_id):
        ends = np.append(ends, len(doc_id))
    narrow = np.min_scalar_type(int(held.max(initial=0)))
    return Block(doc_id[ends - 1], ends, held.astype(narrow), mean, strong)
