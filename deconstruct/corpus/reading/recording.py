"""Chats on their way into a corpus: their texts, and which of their tokens are recorded."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deconstruct.corpus.reading.chats import Chats, Spans, recorded
from deconstruct.corpus.textfiles import Row
from deconstruct.corpus.values import encodable
from deconstruct.corpus.vocabulary import Cut


class Recording:
    """Rows of chats as rows of texts, and masks of their tokens: of some texts at a time.

    role: whose messages are recorded; "all": every token, and there are no masks.
    """

    def __init__(self, tokenizer: Any, role: str, model: str) -> None:
        self._chats = Chats(tokenizer, role, model)
        self.masks = role != "all"
        self._spans: dict[str, Spans] = {}
        self.tokens = 0
        """Tokens that are recorded, special ones among them."""

    def texts(self, rows: Iterator[Row]) -> Iterator[Row]:
        """The rows, each with its chat's text."""
        for row in rows:
            if row.text is None or not row.text.strip():
                yield row
                continue
            text = self._chats.text_of(row.text)
            if text is not None and self.masks:
                self._spans.setdefault(encodable(text), self._chats.spans_of(row.text))
            yield row._replace(text=text)

    def marked(self, texts: list[str], cuts: list[Cut]) -> list[Cut]:
        """The cuts of the texts that `texts` gave since this was last called, with their masks."""
        found = []
        for text, cut in zip(texts, cuts, strict=True):
            assert cut.starts is not None
            mask: NDArray[np.bool_] = recorded(cut.starts, self._spans[text])
            self.tokens += int(mask.sum())
            found.append(cut._replace(recorded=mask))
        self._spans.clear()
        return found
