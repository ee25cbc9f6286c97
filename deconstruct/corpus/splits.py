"""Which documents are held out: a digest of their text decides, and no text is on both sides."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from deconstruct.common.parquet import GroupedWriter, opened


class Settled(NamedTuple):
    """What was decided. test: [documents]. moved: whether any is not as it was drawn. twins: how
    many were held out, but are no more."""

    test: NDArray[np.bool_]
    moved: bool
    twins: int

    def names_in(self, batch: pa.RecordBatch) -> pa.Array:
        """The splits of some rows of ``documents.parquet``."""
        return pa.array(_names(self.test[batch.column("doc_id").to_numpy()]))


class Splits:
    """Draws a split for each document of a corpus, then settles them all; 16 bytes per document.

    A document is held out by a digest of its text, unless a train document keeps the same
    tokens: then it is a train document too, as nothing in it would be new to what was trained.
    Texts that are alike but not equal may still lie on both sides.
    """

    def __init__(self, test_share: float, seed: int) -> None:
        self.test_share = test_share
        self.seed = seed
        self._drawn: list[NDArray[np.float64]] = []
        self._seen: list[NDArray[np.uint64]] = []
        self._settled: list[NDArray[np.bool_]] = []

    def draw(self, doc_keys: list[str], tokens: list[list[int]]) -> list[str]:
        """Splits of the next documents, by the digests of their texts alone: to be settled."""
        drawn = np.array([split_draw(key, self.seed) for key in doc_keys])
        self._drawn.append(drawn)
        self._seen.append(np.array([_digest(ids) for ids in tokens], np.uint64))
        return _names(drawn < self.test_share)

    def adopt(self, test: list[bool], tokens: list[list[int]]) -> None:
        """Documents whose split stands, before any is drawn: those that a corpus grows from."""
        self._settled.append(np.array(test, np.bool_))
        self._drawn.append(np.where(self._settled[-1], -1.0, 2.0))  # below, above any share
        self._seen.append(np.array([_digest(ids) for ids in tokens], np.uint64))

    def distinct(self) -> int:
        """How many documents differ in the tokens that are kept of them."""
        return len(np.unique(np.concatenate(self._seen)))

    def settle(self) -> Settled:
        """Decide.

        Held-out documents that keep the same tokens as a train document become train documents.
        Where a corpus is so small that chance leaves a split empty, the text nearest to it is
        moved over. Adopted documents stay where they are, and those with the same tokens follow
        them.
        """
        drawn, seen = np.concatenate(self._drawn), np.concatenate(self._seen)
        as_written = drawn < self.test_share
        held_out = as_written.copy()
        if self._settled:
            known = sum(map(len, self._settled))
            held_out[known:] |= np.isin(seen[known:], seen[:known][as_written[:known]])
        test = held_out & ~np.isin(seen, seen[~held_out])
        twins = int((as_written & ~test).sum())
        if not test.any():
            test = seen == seen[drawn.argmin()]
        elif test.all():
            test = seen != seen[drawn.argmax()]
        return Settled(test, bool((test != as_written).any()), twins)


def split_draw(doc_key: str, seed: int) -> float:
    """Where in [0, 1) a text falls; below ``test_share`` it is held out. Equal texts fall alike."""
    digest = hashlib.sha256(f"{seed}:{doc_key}".encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


def _digest(ids: list[int]) -> int:
    """64 bits that tell documents apart by the tokens that are kept of them."""
    digest = hashlib.blake2b(np.array(ids, np.uint32).tobytes(), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def _names(test: NDArray[np.bool_]) -> list[str]:
    return ["test" if tested else "train" for tested in test.tolist()]


def rewrite(path: Path, columns: Mapping[str, Callable[[pa.RecordBatch], pa.Array]]) -> None:
    """Put what is settled in the end in place of what ``documents.parquet`` was written with."""
    file = opened(path)
    schema, rows = file.schema_arrow, file.metadata.row_group(0).num_rows
    rewritten = path.with_name(f"{path.name}.split")
    with GroupedWriter(rewritten, schema, rows) as writer:
        for batch in file.iter_batches(batch_size=1024):
            table = pa.Table.from_batches([batch], schema)
            for name, settled in columns.items():
                place = schema.get_field_index(name)
                table = table.set_column(place, schema.field(place), settled(batch))
            writer.write(table)
    rewritten.replace(path)
