"""Columns that are kept of a source, for SQL: a JSON object per document."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import date, datetime, time
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from deconstruct.artifacts import Artifact, Draft
from deconstruct.common.parquet import GroupedWriter
from deconstruct.corpus.splits import rewrite
from deconstruct.corpus.tables import DOCUMENT_METADATA
from deconstruct.corpus.values import encodable

GROUP_ROWS = 8192


class Metadata:
    """Writes ``document_metadata.parquet``, some documents at a time.

    Of a corpus that grows, what has changed of the documents that were there waits in memory.
    """

    _writer: GroupedWriter

    def __init__(self, columns: Sequence[str]) -> None:
        self._columns = columns
        self._digests: list[bytes] = []
        self._changed: dict[int, str] = {}

    @contextmanager
    def writing(self, draft: Draft, base: Artifact | None) -> Iterator[None]:
        """The file, which is whole at the end of the block. base: what the corpus grows from."""
        name = DOCUMENT_METADATA.file
        with draft.writing(name) as path:
            with GroupedWriter(path, DOCUMENT_METADATA.arrow, GROUP_ROWS) as self._writer:
                for table in [] if base is None else base.rows(name):
                    self._digests += map(_digest, table["metadata"].to_pylist())
                    self._writer.write(table)
                yield
            if self._changed:
                rewrite(path, {"metadata": self._now})
            draft.rows[name] = self._writer.rows

    def note(self, documents: NDArray[np.uint32], rows: Sequence[Sequence[Any]]) -> None:
        """What the source says of some documents: a cell for each column."""
        said = [
            json.dumps(dict(zip(self._columns, map(plain, cells), strict=True)), ensure_ascii=False)
            for cells in rows
        ]
        known = documents < len(self._digests)
        for document, text in zip(documents[known].tolist(), _those(said, known), strict=True):
            if _digest(text) != self._digests[document]:
                self._changed[document] = text
        if not known.all():
            new = pa.array(_those(said, ~known), pa.string())
            self._writer.write(DOCUMENT_METADATA.of(documents[~known], new))

    def _now(self, batch: pa.RecordBatch) -> pa.Array:
        columns = (batch.column(name).to_pylist() for name in ("doc_id", "metadata"))
        return pa.array([self._changed.get(d, text) for d, text in zip(*columns, strict=True)])


def plain(cell: Any) -> Any:
    """A cell as JSON has it: booleans, numbers, strings, lists and objects stay what they are.

    Dates and times are in ISO 8601, decimals as strings, so that they lose no digit; NaN and
    infinities, which JSON has not, are null.
    """
    if isinstance(cell, np.floating):
        cell = float(str(cell))
    elif isinstance(cell, np.generic | np.ndarray):
        cell = cell.tolist()
    if cell is None or isinstance(cell, bool | int):
        return cell
    if isinstance(cell, float):
        return cell if math.isfinite(cell) else None
    if isinstance(cell, str):
        return encodable(cell)
    if isinstance(cell, dict):
        return {encodable(str(name)): plain(value) for name, value in cell.items()}
    if isinstance(cell, list | tuple):
        return [plain(value) for value in cell]
    if isinstance(cell, date | datetime | time):
        return cell.isoformat()
    if isinstance(cell, bytes):
        return cell.decode("utf-8", "backslashreplace")
    return str(cell)


def _those(texts: list[str], wanted: NDArray[np.bool_]) -> list[str]:
    return [text for text, one in zip(texts, wanted.tolist(), strict=True) if one]


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=8).digest()
