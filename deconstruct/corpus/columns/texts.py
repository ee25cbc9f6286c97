"""The column of texts: documents in batches, their keys, and columns that hold no texts."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import suppress

from deconstruct.common.errors import DataError
from deconstruct.corpus.textfiles import Row

BATCH_DOCUMENTS = 512
BATCH_CHARACTERS = 4_000_000


def doc_key(text: str) -> str:
    """16 hexadecimal digits of the SHA-256 of a text."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def refuse_numbers(column: str, source: str, texts: Sequence[str]) -> None:
    """Raise ``DataError`` if the first 100 texts are numbers."""
    if texts and all(_is_number(text) for text in texts[:100]):
        raise DataError(
            f"corpus.text_column {column!r} of {source} holds numbers (the first is "
            f"{texts[0].strip()!r}), not texts; name the column of texts"
        )


def _is_number(text: str) -> bool:
    with suppress(ValueError):
        float(text)
        return True
    return False


def batches(rows: Iterator[Row]) -> Iterator[list[Row]]:
    """Some hundred documents at a time, fewer if they are long."""
    batch: list[Row] = []
    characters = 0
    for row in rows:
        batch.append(row)
        characters += len(row.text or "")
        if len(batch) == BATCH_DOCUMENTS or characters >= BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch
