"""Reader of a ``.txt`` file: one document, or one per line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from deconstruct.corpus.reading.packed import opened
from deconstruct.corpus.textfiles import Row, Wanted, decoded, undecodable


class TextReader:
    """A file of text in UTF-8, or what its mark says; its one column is ``text``.

    by_line: whether each line is a document, but for blank ones; else the whole file is one.
    """

    def __init__(self, path: Path, wanted: Wanted, by_line: bool) -> None:
        self.path, self.wanted, self.by_line = path, wanted, by_line

    def columns(self) -> list[str]:
        """Always ``text``."""
        return ["text"]

    def count(self) -> int:
        """Number of documents."""
        return sum(1 for _ in self.texts()) if self.by_line else 1

    def rows(self) -> Iterator[Row]:
        """Every document."""
        yield from (Row(text, None, (text,) * len(self.wanted.more)) for text in self.texts())

    def texts(self) -> Iterator[str]:
        """Every document's text, without the break that ends a line."""
        with opened(self.path) as found:
            text = decoded(self.path, found.content)
            try:
                if self.by_line:
                    yield from (line.rstrip("\r\n") for line in text if line.strip())
                else:
                    yield text.read()
            except UnicodeError as error:
                raise undecodable(self.path, error) from error
