"""Which documents are held out: a digest of their text decides, and no text is on both sides.

Or a digest of their group, and no group is on both sides either; or the source says it."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from deconstruct.common.errors import DataError
from deconstruct.common.parquet import GroupedWriter, opened
from deconstruct.config import CorpusConfig

log = logging.getLogger(__name__)

Ids = list[int] | NDArray[np.uint32]
"""Of a document's tokens."""


class Settled(NamedTuple):
    """What was decided. test: [documents]. moved: whether any is not as it was drawn. twins: how
    many were held out, but are no more; of a split that the source says: how many are held out all
    the same."""

    test: NDArray[np.bool_]
    moved: bool
    twins: int

    def names_in(self, batch: pa.RecordBatch) -> pa.Array:
        """The splits of some rows of ``documents.parquet``."""
        return pa.array(_names(self.test[batch.column("doc_id").to_numpy()]))

    def check(self, source: str, config: CorpusConfig) -> None:
        """Raise ``DataError`` if the source's own split leaves one side empty."""
        if config.split_column is not None and len(np.unique(self.test)) < 2:
            side = "train" if self.test.all() else "held-out"
            raise DataError(
                f"corpus.split_column {config.split_column!r} of {source} says of no document that "
                f"it is a {side} one; name another column, or leave it out"
            )

    def say(self, source: str, config: CorpusConfig) -> None:
        """Log what may surprise: texts on both sides of a split, or a side larger than wanted."""
        share = float(self.test.mean())
        if config.split_column is not None:
            if self.twins:
                log.warning(
                    "%s: %d held-out texts begin as train texts do, and are held out all the same, "
                    "as column %r says", source, self.twins, config.split_column,
                )  # fmt: skip
        elif config.group_column is not None:
            if not config.test_share / 2 <= share <= 2 * config.test_share:
                log.warning(
                    "%s: %.0f%% of the documents are held out where corpus.test_share asks for "
                    "%.0f%%, as groups of column %r are few or unlike in size",
                    source, 100 * share, 100 * config.test_share, config.group_column,
                )  # fmt: skip
        elif self.twins:
            log.info(
                "%s: %d texts begin as train texts do, so are not held out", source, self.twins
            )


class Splits:
    """Draws a split for each document of a corpus, then settles them all; 16 bytes per document.

    A document is held out by a digest of its text, unless a train document keeps the same
    tokens: then it is a train document too, as nothing in it would be new to what was trained.
    Texts that are alike but not equal may still lie on both sides.

    With groups, documents hang together that share a group or the same tokens, and so do those that
    hang together with the same one. Such a part is held out if all of its groups are drawn so. A
    split that the source says (``held_out``) is kept, whatever tokens documents share.
    """

    def __init__(self, test_share: float, seed: int, said: bool = False) -> None:
        """said: whether the source says which documents are held out."""
        self.test_share = test_share
        self.seed = seed
        self._said = said
        self._drawn: list[NDArray[np.float64]] = []
        self._seen: list[NDArray[np.uint64]] = []
        self._settled: list[NDArray[np.bool_]] = []
        self._groups: list[NDArray[np.uint64]] = []

    def draw(
        self,
        doc_keys: list[str],
        tokens: Sequence[Ids],
        groups: list[str] | None = None,
        held_out: list[bool] | None = None,
    ) -> list[str]:
        """Splits of the next documents, to be settled: by the digests of their texts alone, or of
        their groups, or as the source says (``held_out``)."""
        drawn = np.array([split_draw(key, self.seed) for key in groups or doc_keys])
        if groups is not None:
            self._groups.append(np.array([_digest_of(group.encode()) for group in groups]))
        if held_out is not None:
            drawn = np.where(held_out, -1.0, 2.0)
        self._drawn.append(drawn)
        self._seen.append(np.array([_digest(ids) for ids in tokens], np.uint64))
        return _names(drawn < self.test_share)

    def adopt(
        self, test: list[bool], tokens: Sequence[Ids], groups: NDArray[np.uint64] | None = None
    ) -> None:
        """Documents whose split stands, before any is drawn: those that a corpus grows from.

        groups: [documents], as `groups` had them.
        """
        if groups is not None:
            self._groups.append(groups)
        self._settled.append(np.array(test, np.bool_))
        self._drawn.append(np.where(self._settled[-1], -1.0, 2.0))  # below, above any share
        self._seen.append(np.array([_digest(ids) for ids in tokens], np.uint64))

    def groups(self) -> NDArray[np.uint64] | None:
        """A digest of each document's group; None without groups."""
        return np.concatenate(self._groups) if self._groups else None

    def parts(self) -> int:
        """How many parts of the documents can be held out or not."""
        return self.distinct() if not self._groups else int(self._parts().max()) + 1

    def distinct(self) -> int:
        """How many documents differ in the tokens that are kept of them."""
        return len(np.unique(np.concatenate(self._seen)))

    def settle(self) -> Settled:
        """Decide.

        Held-out documents that keep the same tokens as a train document become train documents.
        Where a corpus is so small that chance leaves a split empty, the text nearest to it is
        moved over. Adopted documents stay where they are, and those with the same tokens, or of
        the same group, follow them. Raises ``DataError`` for one that would have to follow both
        ways.
        """
        drawn, seen = np.concatenate(self._drawn), np.concatenate(self._seen)
        as_written = drawn < self.test_share
        if self._said:
            twins = int(np.isin(seen[as_written], seen[~as_written]).sum())
            return Settled(as_written, False, twins)
        if self._groups:
            return self._settled_by_parts(drawn, as_written)
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

    def _settled_by_parts(
        self, drawn: NDArray[np.float64], as_written: NDArray[np.bool_]
    ) -> Settled:
        part = self._parts()
        known = sum(map(len, self._settled))
        held_out = np.bincount(part, ~as_written) == 0
        stands = {
            side: np.bincount(part[:known][as_written[:known] == side], minlength=len(held_out)) > 0
            for side in (True, False)
        }
        if (stands[True] & stands[False]).any():
            raise DataError(
                "corpus.group_column: a document that is new has the text of one that is held out "
                "and the group of one that is not, or the other way round; take growth anew"
            )
        test = ((held_out | stands[True]) & ~stands[False])[part]
        twins = int((as_written & ~test).sum())
        if not test.any():
            test = part == part[drawn.argmin()]
        elif test.all():
            test = part != part[drawn.argmax()]
        return Settled(test, bool((test != as_written).any()), twins)

    def _parts(self) -> NDArray[np.int64]:
        """Which part each document belongs to, numbered from 0: those that hang together by groups
        and tokens."""
        from scipy.sparse import coo_matrix
        from scipy.sparse.csgraph import connected_components

        seen, groups = np.concatenate(self._seen), np.concatenate(self._groups)
        count = len(seen)
        by_tokens = np.unique(seen, return_inverse=True)[1]
        by_group = np.unique(groups, return_inverse=True)[1] + by_tokens.max() + 1
        size = count + int(by_group.max()) + 1
        ends = np.concatenate([by_tokens, by_group]) + count
        links = (np.ones(2 * count, np.int8), (np.tile(np.arange(count), 2), ends))
        _, found = connected_components(coo_matrix(links, (size, size)), directed=False)
        return np.unique(found[:count], return_inverse=True)[1].astype(np.int64)


def split_draw(doc_key: str, seed: int) -> float:
    """Where in [0, 1) a text falls; below ``test_share`` it is held out. Equal texts fall alike."""
    digest = hashlib.sha256(f"{seed}:{doc_key}".encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


def _digest(ids: Ids) -> int:
    """64 bits that tell documents apart by the tokens that are kept of them."""
    return int(_digest_of(np.array(ids, np.uint32).tobytes()))


def _digest_of(content: bytes) -> np.uint64:
    return np.uint64(int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little"))


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
