"""Parquet files as all stages write and read them: ZSTD, page checksums that are verified."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

SETTINGS: dict[str, Any] = {
    "compression": "zstd",
    "compression_level": 1,
    "write_page_checksum": True,
}


def write(path: Path, table: pa.Table) -> None:
    """Write a table that is in memory."""
    pq.write_table(table, path, **SETTINGS)


def opened(path: Path) -> pq.ParquetFile:
    """A file to read from; a page whose bytes have changed raises ``OSError`` when it is read."""
    return pq.ParquetFile(path, page_checksum_verification=True)


def rows(path: Path, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
    """The rows of a file, a row group at a time."""
    with opened(path) as file:
        for group in range(file.metadata.num_row_groups):
            yield file.read_row_group(group, columns=columns)


class GroupedWriter:
    """Writes tables of any length as row groups of exactly ``group_rows`` rows, the last but one.

    So a file's bytes depend on its rows alone, not on how they came. encoding: of columns for
    which a dictionary is wasteful, such as ``{"activation": "BYTE_STREAM_SPLIT"}``.
    """

    def __init__(
        self,
        path: Path,
        schema: pa.Schema,
        group_rows: int,
        encoding: Mapping[str, str] | None = None,
    ) -> None:
        encoding = dict(encoding or {})
        columns = {path.split(".")[0] for path in encoding}  # "name.list.element" of a list
        self.rows = 0
        self._group_rows = group_rows
        self._waiting: list[pa.Table] = []
        self._waiting_rows = 0
        self._file = pq.ParquetWriter(
            path,
            schema,
            use_dictionary=[name for name in schema.names if name not in columns],
            column_encoding=encoding or None,
            **SETTINGS,
        )

    def write(self, table: pa.Table) -> None:
        """Add rows; whole row groups among them are written at once."""
        self.rows += len(table)
        self._waiting.append(table)
        self._waiting_rows += len(table)
        whole = self._waiting_rows - self._waiting_rows % self._group_rows
        if whole:
            merged = pa.concat_tables(self._waiting).combine_chunks()
            self._file.write_table(merged.slice(0, whole), row_group_size=self._group_rows)
            rest = merged.slice(whole)
            # Copied, or the few rows left over would keep all the written ones in memory.
            self._waiting = [rest.take(pa.array(range(len(rest)), pa.int64()))] if len(rest) else []
            self._waiting_rows = len(rest)

    def __enter__(self) -> GroupedWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._waiting_rows and error is None:
            self._file.write_table(pa.concat_tables(self._waiting), row_group_size=self._group_rows)
        self._file.close()
