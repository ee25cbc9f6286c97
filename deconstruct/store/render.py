"""Results of queries as people and programs read them: an aligned table, CSV, JSON, Parquet."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, TextIO

import duckdb
from rich.console import Console
from rich.table import Table
from rich.text import Text

CELL_WIDTH = 60
CHUNK = 10_000


def printable(text: str) -> str:
    """``text`` on one line, with control characters spelled out: corpora hold anything."""
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() else {"\n": "⏎", "\t": "⇥"}.get(c, f"\\x{ord(c):02x}") for c in text
    )


def cell(value: Any) -> str:
    """A value as a table shows it."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1e4 or not math.isfinite(value) else f"{value:.0f}"
    if isinstance(value, datetime):
        return value.strftime("%Y-%m-%d %H:%M:%S")
    if isinstance(value, list | tuple):
        return "[" + ", ".join(cell(part) for part in value) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {cell(part)}" for key, part in value.items()) + "}"
    return printable(str(value))


def table(names: Sequence[str], rows: Iterable[Sequence[Any]], title: str | None = None) -> Table:
    """A rich table with numbers to the right and text to the left."""
    rows = list(rows)
    view = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    for place, heading in enumerate(names):
        numeric = any(_is_number(row[place]) for row in rows)
        view.add_column(
            Text(heading), justify="right" if numeric else "left", overflow="fold", no_wrap=numeric
        )
    for row in rows:
        view.add_row(*(v if isinstance(v, Text) else Text(cell(v)) for v in row))
    return view


def write_table(
    result: duckdb.DuckDBPyConnection, console: Console, max_rows: int, full: bool
) -> None:
    """Print up to ``max_rows`` rows; long cells are cut unless ``full``. Says what it left out."""
    names = names_of(result)
    rows = result.fetchmany(max_rows + 1)
    more = len(rows) > max_rows
    shown = [
        [cell(value) if not _is_number(value) else value for value in r] for r in rows[:max_rows]
    ]
    cut = False
    if not full:
        for row in shown:
            for place, value in enumerate(row):
                if isinstance(value, str) and len(value) > CELL_WIDTH:
                    row[place] = value[: CELL_WIDTH - 1] + "…"
                    cut = True
    console.print(table(names, shown))
    count = f"{len(shown):,} row{'s' * (len(shown) != 1)}"
    hints = [f"first {count} of more; --rows N or --format csv gives them" if more else count]
    if cut:
        hints.append(f"texts are cut at {CELL_WIDTH} characters; --full shows all of them")
    console.print(Text("; ".join(hints), style="dim"))


def write_csv(result: duckdb.DuckDBPyConnection, stream: TextIO) -> None:
    """Every row as CSV with a header; nulls are empty, lists and structs are JSON."""
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(names_of(result))
    for row in _rows(result):
        writer.writerow(
            [json.dumps(v, default=str) if isinstance(v, list | dict) else v for v in row]
        )


def write_json(result: duckdb.DuckDBPyConnection, stream: TextIO) -> None:
    """Every row as an object of one JSON array, one a line; NaN and infinities are null."""
    names = names_of(result)
    separator = "[\n"
    for row in _rows(result):
        record = {name: _json(value) for name, value in zip(names, row, strict=True)}
        stream.write(separator + json.dumps(record, ensure_ascii=False, default=str))
        separator = ",\n"
    stream.write("[]\n" if separator == "[\n" else "\n]\n")


def write_parquet(connection: duckdb.DuckDBPyConnection, query: str, target: Path) -> int:
    """Every row of a query's result into a new Parquet file; returns how many."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    relation = connection.sql(query)
    if relation is None:
        return 0
    reader: pa.RecordBatchReader = relation.to_arrow_reader(100_000)
    rows = 0
    with pq.ParquetWriter(target, reader.schema, compression="zstd") as writer:
        for batch in reader:
            writer.write_batch(batch)
            rows += batch.num_rows
    return rows


def names_of(result: duckdb.DuckDBPyConnection) -> list[str]:
    """The names of a result's columns."""
    return [str(column[0]) for column in result.description or []]


def _rows(result: duckdb.DuckDBPyConnection) -> Iterator[tuple[Any, ...]]:
    while chunk := result.fetchmany(CHUNK):
        yield from chunk


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _json(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, list):
        return [_json(part) for part in value]
    if isinstance(value, dict):
        return {key: _json(part) for key, part in value.items()}
    return value
