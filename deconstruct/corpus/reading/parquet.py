"""Reader of Parquet files, and of rows that come as Arrow's."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from deconstruct.common.errors import DataError
from deconstruct.corpus import values
from deconstruct.corpus.reading.chats import as_cell
from deconstruct.corpus.textfiles import Row, Wanted


class ParquetReader:
    """A Parquet file. Raises ``DataError`` if it is none."""

    def __init__(self, path: Path, wanted: Wanted) -> None:
        self.path, self.wanted = path, wanted
        with opened(path) as file:
            self.schema = file.schema_arrow
            self._count = file.metadata.num_rows

    def columns(self) -> list[str]:
        """Its schema's names."""
        return list(self.schema.names)

    def count(self) -> int:
        """Number of rows."""
        return int(self._count)

    def rows(self) -> Iterator[Row]:
        """Every row, some at a time."""
        return arrow_rows(self._batches(), self.wanted, self.schema)

    def _batches(self) -> Iterator[pa.RecordBatch]:
        with opened(self.path) as file:
            try:
                for group in range(file.metadata.num_row_groups):
                    # One by one: a pass over all keeps each of them, compressed, to its end.
                    yield from file.iter_batches(1024, [group], self.wanted.names())
            except (pa.ArrowException, OSError) as error:
                raise DataError(f"{self.path} is damaged: {error}") from error


def opened(path: Path) -> pq.ParquetFile:
    """A Parquet file, opened. Raises ``DataError`` if it is none."""
    try:
        return pq.ParquetFile(path, page_checksum_verification=True)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} does not read as Parquet: {error}") from error


def arrow_rows(
    batches: Iterator[pa.RecordBatch], columns: Wanted, schema: pa.Schema
) -> Iterator[Row]:
    """schema: of the whole source, with its metadata."""
    names = {name: values.class_names(schema, name) for name in columns.names()}
    for batch in batches:
        found = dict(zip(batch.schema.names, batch.columns, strict=True))
        texts = found[columns.text].to_pylist()
        if columns.chats:
            texts = list(map(as_cell, texts))
        labels: list[str | None] = [None] * len(texts)
        if columns.label is not None:
            labels = values.labels_in(found[columns.label], names[columns.label])
        more = [values.cells_in(found[name], names[name]) for name in columns.more]
        cells: Iterable[tuple[Any, ...]] = zip(*more, strict=True) if more else [()] * len(texts)
        yield from map(Row, texts, labels, cells)
