"""Which documents are held out: a digest of their text decides, and no text is on both sides, nor
one that is like it.

Or a digest of their group, and no group is on both sides either; or the source says it."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from deconstruct.common.errors import DataError
from deconstruct.common.parquet import GroupedWriter, opened
from deconstruct.config import CorpusConfig
from deconstruct.corpus.alike.groups import joined
from deconstruct.corpus.alike.minhash import components, firsts
from deconstruct.corpus.alike.shingles import Kept

log = logging.getLogger(__name__)

Ids = list[int] | NDArray[np.uint32]
"""Of a document's tokens."""


class Settled(NamedTuple):
    """What was decided.

    test: [documents]. moved: whether any is not as it was drawn. part: [documents], the smallest
    doc_id of those that each hangs together with. twins: how many were held out, but are no more.
    across: how many are held out though they hang together with a train document. template:
    whether so many texts are alike that nothing is made of it.
    """

    test: NDArray[np.bool_]
    moved: bool
    part: NDArray[np.int64]
    twins: int
    across: int
    template: bool

    def names_in(self, batch: pa.RecordBatch) -> pa.Array:
        """The splits of some rows of ``documents.parquet``."""
        return pa.array(_names(self.test[batch.column("doc_id").to_numpy()]))

    def groups_in(self, batch: pa.RecordBatch) -> pa.Array:
        """Their ``group_id``: their parts."""
        return pa.array(self.part[batch.column("doc_id").to_numpy()], pa.uint32())

    def facts(self) -> dict[str, int]:
        """``groups``: into how many parts the documents fall. ``alike_documents``: how many hang
        together with others. ``twins_across``: how many are held out, with a like train text."""
        sizes = np.bincount(self.part)
        return {
            "groups": int((sizes > 0).sum()),
            "alike_documents": int(sizes[sizes > 1].sum()),
            "twins_across": self.across,
        }

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
        if self.template:
            log.warning(
                "%s: most texts are alike, as of one template, so that only equal ones, or those "
                "of a group, are kept on one side of the split; what is held out is nothing new "
                "to what is trained", source,
            )  # fmt: skip
        if config.split_column is not None:
            if self.across:
                log.warning(
                    "%s: %d held-out texts are like train texts, or begin as they do, and are held "
                    "out all the same, as column %r says; leave corpus.split_column out to keep "
                    "them on one side", source, self.across, config.split_column,
                )  # fmt: skip
            return
        if self.across:
            log.warning(
                "%s: %d held-out texts are like train texts, as both were there before a text "
                "that is like both came, or before likeness counted", source, self.across,
            )  # fmt: skip
        if config.group_column is not None:
            if not config.test_share / 2 <= share <= 2 * config.test_share:
                log.warning(
                    "%s: %.0f%% of the documents are held out where corpus.test_share asks for "
                    "%.0f%%, as groups of column %r are few or unlike in size",
                    source, 100 * share, 100 * config.test_share, config.group_column,
                )  # fmt: skip
        elif self.twins:
            log.info("%s: %d texts are like train texts, so are not held out", source, self.twins)


class Splits:
    """Draws a split for each document of a corpus, then settles them all: 24 bytes per document
    while they are read, some 80 for a moment at the end.

    Documents hang together that keep the same tokens, that are alike (`alike.groups.alike`), or,
    with groups, that share one; and so do those that hang together with the same one. Such a part
    is held out if all of its documents, or groups, are drawn so: then nothing in it is known from
    training. A split that the source says (``held_out``) is kept, whatever hangs together.
    """

    def __init__(
        self, test_share: float, seed: int, said: bool = False, kept: Kept | None = None
    ) -> None:
        """said: whether the source says which documents are held out. kept: where the tokens go
        that decide which texts are alike."""
        self.test_share = test_share
        self.seed = seed
        self._said = said
        self._kept = Kept() if kept is None else kept
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
        self._keep(tokens)
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
        self._keep(tokens)

    def _keep(self, tokens: Sequence[Ids]) -> None:
        self._seen.append(np.array([_digest(ids) for ids in tokens], np.uint64))
        self._kept.add(tokens)

    def groups(self) -> NDArray[np.uint64] | None:
        """A digest of each document's group; None without groups."""
        return np.concatenate(self._groups) if self._groups else None

    def parts(self) -> int:
        """How many parts of the documents can be held out or not, whatever texts are alike."""
        return int(self._parts(self._by_tokens()).max()) + 1

    def distinct(self) -> int:
        """How many documents differ in the tokens that are kept of them."""
        return len(np.unique(np.concatenate(self._seen)))

    def settle(self) -> Settled:
        """Decide.

        Where a corpus is so small that chance leaves a split empty, the text nearest to it is
        moved over, with all that hangs together with it. Adopted documents stay where they are,
        and those that hang together with them follow: with the same tokens, or of the same group,
        first, with texts alike second; a text that is like some of both is a train document.
        Raises ``DataError`` for one that would have to follow its group, or its twin, both ways.
        """
        distinct = self._by_tokens()
        same = self._parts(distinct)
        found = joined(self._kept, distinct, same)
        del distinct
        part = same if found is None else found
        drawn = self._draws()
        as_written = drawn < self.test_share
        test = as_written if self._said else self._held_out(drawn, as_written, same, part)
        twins = int((as_written & ~test).sum())
        known_from_training = np.bincount(part, ~test) > 0
        across = int((test & known_from_training[part]).sum())
        first = firsts(part, int(part.max()) + 1)[part].astype(np.int64)
        return Settled(test, bool((test != as_written).any()), first, twins, across, found is None)

    def _held_out(
        self,
        drawn: NDArray[np.float64],
        as_written: NDArray[np.bool_],
        same: NDArray[np.int64],
        part: NDArray[np.int64],
    ) -> NDArray[np.bool_]:
        """[documents]. same: parts by tokens and groups; part: by likeness too."""
        test: NDArray[np.bool_] = (np.bincount(part, ~as_written) == 0)[part]
        known = sum(map(len, self._settled))
        for by in (part, same):  # the second decides
            held_out, train = (
                np.bincount(by[:known], as_written[:known] == side, by.max() + 1)[by] > 0
                for side in (True, False)
            )
            test = np.where(held_out | train, held_out & ~train, test)
        if self._groups and (held_out & train).any():
            raise DataError(
                "corpus.group_column: a document that is new has the text of one that is held out "
                "and the group of one that is not, or the other way round; take growth anew"
            )
        test[:known] = as_written[:known]
        if not test.any():
            test = part == part[drawn.argmin()]
        elif test.all():
            test = part != part[drawn.argmax()]
        return test

    def _draws(self) -> NDArray[np.float64]:
        """[documents]: where each falls; the pieces are put together once."""
        self._drawn = [np.concatenate(self._drawn)]
        return self._drawn[0]

    def _by_tokens(self) -> NDArray[np.int64]:
        """[documents], numbered from 0: equal where the same tokens are kept."""
        self._seen = [np.concatenate(self._seen)]
        return np.unique(self._seen[0], return_inverse=True)[1]

    def _parts(self, by_tokens: NDArray[np.int64]) -> NDArray[np.int64]:
        """Which part each document belongs to, numbered from 0: those that hang together by groups
        and tokens."""
        if not self._groups:
            return by_tokens
        by_group = np.unique(np.concatenate(self._groups), return_inverse=True)[1]
        texts = int(by_tokens.max()) + 1
        ends = np.stack([by_tokens, by_group + texts], 1)
        return components(ends, texts + int(by_group.max()) + 1)[by_tokens]


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


Columns = dict[str, Callable[[pa.RecordBatch], pa.Array]]
"""What makes a column's values for some rows of ``documents.parquet``."""


def rewrite(path: Path, columns: Columns, schema: pa.Schema | None = None) -> None:
    """Put what is settled in the end in place of what ``documents.parquet`` was written with, and
    beside it where ``schema`` has more."""
    file = opened(path)
    schema, rows = schema or file.schema_arrow, file.metadata.row_group(0).num_rows
    rewritten = path.with_name(f"{path.name}.split")
    with GroupedWriter(rewritten, schema, rows) as writer:
        for group in range(file.metadata.num_row_groups):  # a pass over all keeps all of it
            for batch in file.iter_batches(batch_size=1024, row_groups=[group]):
                arrays = [
                    columns[name](batch) if name in columns else batch.column(name)
                    for name in schema.names
                ]
                writer.write(pa.Table.from_arrays(arrays, schema=schema))
    rewritten.replace(path)
