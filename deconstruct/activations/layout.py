"""How a corpus is laid out over shards of activations, and in which batches a model reads it.

Documents of a split are put in an order drawn from the seed and cut into shards of about equal
size: each shard is a random sample of its split, so that a reader which mixes a few of them draws
close to uniformly from the whole store. A shard's batches depend on its own documents alone. They
hold documents of one length, so that no padding is computed, or, on a GPU, more of them, padded
(`padded_batches`).

Where long documents are split (``corpus.long_documents``), it is their windows that are laid out,
shuffled and read: what is called a document here is then a window of one, by number, as they lie in
``tokens.parquet``; `Tokens.document` has whose it is. Splits are those of whole documents.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from deconstruct.activations.shards import Rows
from deconstruct.artifacts import Artifact
from deconstruct.common.errors import DataError
from deconstruct.corpus.growth import segments
from deconstruct.corpus.tables import RECORDED

SPLITS = ("train", "test")
CPU_BATCH_TOKENS, GPU_BATCH_TOKENS = 1024, 4096
"""Tokens in one forward pass: what a core's caches like, what a GPU is busy with. Fixed: rounding
in bfloat16 may depend on the shape of a batch."""
PADDED_TOKENS = 32_768
"""Tokens in one forward pass over padded documents, padding among them. Fixed likewise."""
PASS_TOKENS = 2_048
"""What a padded pass costs beside its tokens, in tokens: some hundred kernels to be launched take a
GPU a millisecond or two. Arithmetic, not measured; it decides between passes and padding."""


@dataclass(frozen=True)
class Shard:
    """A file of a split: which documents it holds, in order, and how many rows they give."""

    name: str
    documents: NDArray[np.int64]
    rows: int


@dataclass(frozen=True)
class Tokens:
    """The corpus' tokens by document, in files that are mapped, not read.

    ids: int32 [tokens]. kept: bool [tokens], whether a token's activation is recorded. lengths,
    rows: int64 [documents], how many tokens a document has, and how many of them are recorded.
    starts: int64 [documents + 1], where a document's tokens begin. document: int64 [documents], its
    doc_id, which differs from its number where they are windows.
    """

    ids: NDArray[np.int32]
    kept: NDArray[np.bool_]
    lengths: NDArray[np.int64]
    rows: NDArray[np.int64]
    starts: NDArray[np.int64]
    document: NDArray[np.int64]

    @classmethod
    def read(cls, corpus: Artifact, skip_positions: int, folder: Path) -> Tokens:
        """Lay ``tokens.parquet`` out as flat files in ``folder``: special tokens and the first
        ``skip_positions`` of each document are not kept, nor, of chats, what is not of the role.

        Memory: 32 bytes per document and some thousand tokens at a time.
        """
        columns = ["doc_id", "position", "token_id", "special"]
        masks: Iterator[pa.Table | None] = itertools.repeat(None)
        if RECORDED in corpus.manifest.files:
            masks = corpus.rows(RECORDED)
        ids_path, kept_path = folder / "token_ids.i32", folder / "kept.u8"
        starts, documents, rows = [], [], [np.zeros(1, np.int64)]
        total = 0
        # Written, then mapped: a full disk is an error of writing, but kills who maps a hole.
        with ids_path.open("wb") as ids_file, kept_path.open("wb") as kept_file:
            for batch, role in zip(corpus.rows("tokens.parquet", columns), masks, strict=False):
                document, position, token, special = (column.to_numpy() for column in batch.columns)
                kept = (position >= skip_positions) & ~special
                if role is not None:
                    kept &= role["recorded"].to_numpy()
                token.astype(np.int32).tofile(ids_file)
                kept.tofile(kept_file)
                begins = position == 0
                starts.append(total + np.flatnonzero(begins))
                documents.append(document[begins].astype(np.int64))
                number = np.cumsum(begins)  # from the one that the batch before left off in
                found = np.bincount(number[kept], minlength=number[-1] + 1)
                rows[-1][-1] += found[0]
                if len(found) > 1:
                    rows.append(found[1:])
                total += len(token)
        ends = np.concatenate([*starts, [total]])
        return cls(
            np.memmap(ids_path, np.int32, "r"),
            np.memmap(kept_path, np.bool_, "r"),
            np.diff(ends),
            np.concatenate(rows)[1:],
            ends,
            np.concatenate(documents),
        )

    def of(self, documents: NDArray[np.int64]) -> NDArray[np.int64]:
        """Token ids of documents of one length: int64 [documents, length]."""
        return self.ids[self._places(documents)].astype(np.int64)

    def kept_of(self, documents: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which tokens of documents of one length are recorded: bool [documents, length]."""
        return self.kept[self._places(documents)]

    def padded(
        self, documents: NDArray[np.int64], fill: int | None = None
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Token ids of documents, with ``fill`` after the end of each (None: the corpus' first
        token), and which of them are recorded: int64 and bool [documents, longest]."""
        fill = int(self.ids[0]) if fill is None else fill
        position = np.arange(self.lengths[documents].max())
        real = position < self.lengths[documents][:, None]
        places = self.starts[documents][:, None] + np.where(real, position, 0)
        ids = np.where(real, self.ids[places], np.int64(fill))
        return ids, self.kept[places] & real

    def source(self, documents: NDArray[np.int64]) -> Rows:
        """Where the recorded rows of ``documents`` come from, in order."""
        lengths = self.lengths[documents]
        document = np.repeat(documents, lengths)
        position = np.arange(len(document)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        index = self.starts[document] + position
        recorded = self.kept[index]
        index = index[recorded]
        return Rows(
            token_index=index.astype(np.uint64),
            doc_id=self.document[document[recorded]].astype(np.uint32),
            position=position[recorded].astype(np.uint32),
            token_id=self.ids[index].astype(np.uint32),
        )

    def _places(self, documents: NDArray[np.int64]) -> NDArray[np.int64]:
        return self.starts[documents][:, None] + np.arange(self.lengths[documents[0]])


def shards(corpus: Artifact, tokens: Tokens, shard_tokens: int, seed: int) -> list[Shard]:
    """The shards of both splits, of about ``shard_tokens`` rows each.

    A corpus that grew is laid out segment by segment: the shards of what it grew from are those
    which that had, under the same names. Raises ``DataError`` if a split has no row.
    """
    split_of = corpus.table("documents.parquet", ["split"])["split"]
    ends = np.searchsorted(tokens.document, np.cumsum([0, *segments(corpus)]))
    found = []
    for number, split in enumerate(SPLITS):
        of_split = pc.equal(split_of, split).to_numpy()[tokens.document] & (tokens.rows > 0)
        if not of_split.any():
            raise DataError(
                f"split {split!r} has no document longer than activations.skip_positions tokens; "
                "add documents, or lower it"
            )
        parts: list[Shard] = []
        for segment, (first, last) in enumerate(pairwise(ends)):
            documents = first + np.flatnonzero(of_split[first:last])
            draw = np.random.default_rng([seed, number, *([segment] if segment else [])])
            parts += _cut(split, len(parts), documents, tokens.rows, shard_tokens, draw)
        found += parts
    return found


def _cut(
    split: str,
    first_number: int,
    documents: NDArray[np.int64],
    rows: NDArray[np.int64],
    shard_tokens: int,
    generator: np.random.Generator,
) -> Iterator[Shard]:
    if len(documents) == 0:
        return
    generator.shuffle(documents)
    ends = np.cumsum(rows[documents])
    cuts = np.searchsorted(ends, np.arange(0, ends[-1], shard_tokens) + 1)
    for index, (first, last) in enumerate(pairwise([*np.unique(cuts), len(documents)])):
        chosen = documents[first:last]
        name = f"{split}-{first_number + index:05d}.parquet"
        yield Shard(name, chosen, int(rows[chosen].sum()))


def batches(
    documents: NDArray[np.int64], lengths: NDArray[np.int64], most: int
) -> Iterator[NDArray[np.int64]]:
    """Places in ``documents``, grouped to batches of one length and at most ``most`` tokens."""
    sizes = lengths[documents]
    for length in np.unique(sizes):
        places = np.flatnonzero(sizes == length)
        size = max(1, most // int(length))
        yield from (places[first : first + size] for first in range(0, len(places), size))


def padded_batches(
    documents: NDArray[np.int64], lengths: NDArray[np.int64], most: int, a_pass: int = PASS_TOKENS
) -> list[NDArray[np.int64]]:
    """Places in ``documents``, by length and grouped to batches of at most ``most`` tokens, those
    that their documents are padded with among them (or of one document).

    Of all ways to cut documents in order of length, the one that costs least: a document costs the
    length of its batch's longest, and a batch ``a_pass`` tokens more.
    """
    order = np.argsort(lengths[documents], kind="stable")
    longest, counts = np.unique(lengths[documents], return_counts=True)
    ends = np.concatenate([[0], np.cumsum(counts)])
    size = np.maximum(1, most // longest)
    cost, before = np.zeros(len(ends)), np.zeros(len(ends), np.int64)
    for last in range(1, len(ends)):  # shortest path over the places where it may be cut
        several = ends[last] - ends[:last]
        passes = -(-several // size[last - 1])
        ways = cost[:last] + several * longest[last - 1] + passes * a_pass
        before[last] = int(ways.argmin())
        cost[last] = ways[before[last]]
    found: list[NDArray[np.int64]] = []
    last = len(ends) - 1
    while last > 0:  # the longest first: if any does not fit a GPU, it is the first
        group = order[ends[before[last]] : ends[last]][::-1]
        found += np.split(group, range(int(size[last - 1]), len(group), int(size[last - 1])))
        last = int(before[last])
    return found


def padding(shards: Iterable[Shard], lengths: NDArray[np.int64], most: int) -> float:
    """Which share of what is computed is padding, where `padded_batches` are."""
    real = computed = 0
    for shard in shards:
        for places in padded_batches(shard.documents, lengths, most):
            sizes = lengths[shard.documents[places]]
            real += int(sizes.sum())
            computed += len(sizes) * int(sizes.max())
    return 1 - real / max(computed, 1)
