"""A corpus' tokens on their way to its files: cut, and written some at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from deconstruct.artifacts import Artifact, Draft
from deconstruct.common.errors import ConfigError
from deconstruct.common.parquet import GroupedWriter
from deconstruct.config import CorpusConfig
from deconstruct.corpus.reading.recording import Recording
from deconstruct.corpus.tables import KEPT, RECORDED, TOKENS
from deconstruct.corpus.vocabulary import Cut, Vocabulary

GROUP_ROWS = 16_384
ROWS_AT_ONCE = 1 << 18
"""Rows that are made at a time: a document may have millions."""


class TokenWriter:
    """Writes ``tokens.parquet`` and the files beside it. rows, windows: how many there are so far;
    a document that is not split is one window."""

    def __init__(
        self, vocabulary: Vocabulary, config: CorpusConfig, chats: Recording | None
    ) -> None:
        self.vocabulary, self._config = vocabulary, config
        self._chats = chats if chats is not None and chats.masks else None
        self.rows = self.windows = 0
        self._kept: list[NDArray[np.uint32]] = []
        self._tokens: GroupedWriter
        self._recorded: GroupedWriter | None = None

    @contextmanager
    def writing(self, draft: Draft) -> Iterator[None]:
        """`write` and `adopt` work within this block; at its end the files are whole."""
        with (
            draft.writing(TOKENS.file) as path,
            self._recording(draft),
            GroupedWriter(path, TOKENS.arrow, GROUP_ROWS) as self._tokens,
        ):
            yield
        draft.rows[TOKENS.file] = self.rows
        if self._kept:
            draft.write_table(KEPT, pa.table({"characters": np.concatenate(self._kept)}))

    @contextmanager
    def _recording(self, draft: Draft) -> Iterator[None]:
        if self._chats is None:
            yield
            return
        with draft.writing(RECORDED) as path:
            schema = pa.schema([("recorded", pa.bool_())])
            with GroupedWriter(path, schema, GROUP_ROWS) as self._recorded:
                yield
        draft.rows[RECORDED] = self.rows

    def cut(self, texts: list[str]) -> list[Cut]:
        """The tokens of some texts; of chats, those that `Recording.texts` gave last."""
        split = self._config.long_documents == "split"
        cutting = self.vocabulary.windows if split else self.vocabulary.documents
        cuts = cutting(texts, self._config.max_tokens)
        return cuts if self._chats is None else self._chats.marked(texts, cuts)

    def write(self, doc_ids: NDArray[np.uint32], cuts: list[Cut]) -> None:
        """The rows of some documents, and how far they go in their texts."""
        length = self._config.max_tokens
        lengths = np.array([len(cut.ids) for cut in cuts], np.int64)
        ends = np.cumsum(lengths)
        token_ids = np.concatenate([np.asarray(cut.ids, np.uint32) for cut in cuts])
        spaced = None
        if not self.vocabulary.spaces_kept:
            spaced = np.concatenate([np.asarray(cut.spaced, np.bool_) for cut in cuts])
            self._kept.append(np.array([cut.characters for cut in cuts], np.uint32))
        for first in range(0, len(token_ids), ROWS_AT_ONCE):
            some = slice(first, first + ROWS_AT_ONCE)
            ids = token_ids[some]
            place = np.arange(first, first + len(ids))
            document = np.searchsorted(ends, place, side="right")
            within = place - (ends - lengths)[document]
            columns = [
                np.arange(self.rows, self.rows + len(ids), dtype=np.uint64),
                doc_ids[document],
                (within % length).astype(np.uint32),  # each window is whole, but for the last
                ids,
                self.vocabulary.texts_of(ids, None if spaced is None else spaced[some]),
                self.vocabulary.special[ids],
            ]
            self._tokens.write(TOKENS.of(*columns))
            self.rows += len(ids)
        if self._recorded is not None:
            masks = np.concatenate([cut.recorded for cut in cuts if cut.recorded is not None])
            self._recorded.write(pa.table({"recorded": masks}))
        self.windows += int((-(-lengths // length)).sum())

    def adopt(self, base: Artifact) -> None:
        """The rows of an earlier corpus as they are."""
        for batch in base.rows(TOKENS.file):
            self._tokens.write(batch)
            self.rows += len(batch)
            self.windows += int((batch["position"].to_numpy() == 0).sum())
        if self._recorded is not None:
            for batch in base.rows(RECORDED):
                self._recorded.write(batch)

    def check_growth(self) -> None:
        """Raise ``ConfigError`` where an earlier corpus can't be taken over."""
        if self._chats is not None and not self.vocabulary.spaces_kept:
            raise ConfigError(
                f"corpus.roles {self._config.roles!r}: chats whose tokenizer drops spaces do not "
                "grow; take growth anew"
            )
