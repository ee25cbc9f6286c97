"""Parquet files are read a row group at a time: what is read is not held to the end."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from deconstruct.corpus.reading.parquet import ParquetReader
from deconstruct.corpus.splits import rewrite
from deconstruct.corpus.textfiles import Wanted

GROUPS, ROWS = 32, 1024


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Texts that don't compress, some 10 MB."""
    path, draw = tmp_path / "documents.parquet", np.random.default_rng(0)
    texts = [draw.bytes(160).hex() for _ in range(GROUPS * ROWS)]
    table = pa.table({"doc_id": np.arange(len(texts), dtype=np.uint32), "text": texts})
    pq.write_table(table, path, row_group_size=ROWS)
    return path


def test_a_rewritten_file_is_not_held(file: Path) -> None:
    whole, held = pq.read_table(file), []
    before = pa.total_allocated_bytes()

    def noting(batch: pa.RecordBatch) -> pa.Array:
        held.append(pa.total_allocated_bytes() - before)
        return batch.column("doc_id")

    rewrite(file, {"doc_id": noting})
    assert max(held) < whole.nbytes / 3
    assert pq.read_table(file).equals(whole)


def test_a_source_is_not_held(file: Path) -> None:
    texts, held = pq.read_table(file)["text"].to_pylist(), []
    before = pa.total_allocated_bytes()
    for number, row in enumerate(ParquetReader(file, Wanted("text")).rows()):
        assert row.text == texts[number]
        if number % ROWS == 0:
            held.append(pa.total_allocated_bytes() - before)
    assert len(held) == GROUPS
    assert max(held) < file.stat().st_size / 3
