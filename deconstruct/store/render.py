"""Results of queries as people and programs read them: an aligned table, CSV, JSON, Parquet."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal, Self, TextIO

import duckdb
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

from deconstruct.common.showing import Plain, harmless, json_text, printable
from deconstruct.store.query import QueryError

CELL_WIDTH = 60
CHUNK = 10_000
WIDEST = 100_000
GAP = 2
"""Blanks between two columns."""
NARROW, WORD = 12, 20
"""Characters that a column of texts keeps, and that a word keeps before it is broken."""


class Format(StrEnum):
    """How ``sql`` writes its result."""

    table = "table"
    csv = "csv"
    json = "json"
    parquet = "parquet"


ENDINGS = {
    ".csv": Format.csv,
    ".json": Format.json,
    ".parquet": Format.parquet,
    ".txt": Format.table,
}
"""What a file holds whose name ends so."""
_NUMBER = re.compile(r"[-+]?\d[\d.,]*(?:e[-+]?\d+)?", re.IGNORECASE)


def cell(value: Any) -> str:
    """A value as a table shows it."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.0f}" if 1e4 <= abs(value) < 1e15 else f"{value:.4g}"
    if isinstance(value, datetime):
        return value.strftime("%Y-%m-%d %H:%M:%S")
    if isinstance(value, list | tuple):
        return "[" + ", ".join(cell(part) for part in value) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {cell(part)}" for key, part in value.items()) + "}"
    return printable(str(value))


def terminal() -> Console:
    """A console for results: as wide as the terminal, or as wide as the rows need if piped."""
    console = Plain()
    return console if console.is_terminal else Plain(width=WIDEST)


@dataclass(frozen=True)
class Listing:
    """A table, numbers to the right and text to the left, that loses nothing in a narrow place.

    Where it is too wide, long texts go on over several lines, but no number does. If that is not
    enough, columns of ``spare`` are left out, the first one first, and are named below; and if
    that is not enough either, or there are none, every column of a row has a line of its own.
    """

    names: Sequence[str]
    rows: Sequence[Sequence[Any]]
    title: str | None = None
    spare: Sequence[str] = ()

    def __rich_console__(self, _: Console, options: ConsoleOptions) -> RenderResult:
        if self.title is not None:
            yield Text(self.title, style="bold")
        columns = [
            _Column.of(name, [row[i] for row in self.rows]) for i, name in enumerate(self.names)
        ]
        shown, hidden = list(columns), []
        for name in self.spare:
            if _fits(shown, options.max_width):
                break
            hidden += [column.name for column in shown if column.name == name]
            shown = [column for column in shown if column.name != name]
        if _fits(shown, options.max_width) or not (self.rows and any(self.names)):
            yield _across(shown, options.max_width)
            if hidden:
                yield Text(f"left out, as the terminal is narrow: {', '.join(hidden)}", style="dim")
        else:
            yield from _down(columns, options.max_width)


def write_table(
    result: duckdb.DuckDBPyConnection, console: Console, max_rows: int, full: bool
) -> None:
    """Print up to ``max_rows`` rows; long cells are cut unless ``full``. Says what it left out.

    Of a context (a column of that name) the part is kept that has the token between « and ».
    """
    names = names_of(result)
    rows = result.fetchmany(max_rows + 1)
    more = len(rows) > max_rows
    peaks = names.index("token") if "context" in names and "token" in names else None
    shown, cut = [], False
    for row in rows[:max_rows]:
        cells = [v if v is None or _is_number(v) else cell(v) for v in row]
        for place, value in enumerate(cells):
            if not full and isinstance(value, str) and len(value) > CELL_WIDTH:
                peak = "" if peaks is None or row[peaks] is None else cell(row[peaks])
                middle = _peak(value, peak) if names[place] == "context" else 0
                cells[place], cut = _cut(value, CELL_WIDTH, middle), True
        shown.append(cells)
    console.print(Listing(names, shown))
    count = f"{len(shown):,} row{'s' * (len(shown) != 1)}"
    hints = [f"first {count} of more; --rows N or --format csv gives them" if more else count]
    if cut:
        hints.append(f"texts are cut at {CELL_WIDTH} characters; --full shows all of them")
    console.print(Text("; ".join(hints), style="dim"))


def write_csv(result: duckdb.DuckDBPyConnection, stream: TextIO, safe: bool = False) -> None:
    """Every row as CSV with a header; nulls are empty, lists and structs are JSON.

    safe: a text that a spreadsheet would take for a formula begins with a quote; numbers stay as
    they are. On a terminal, characters that it would obey are spelled out.
    """
    writer = csv.writer(stream, lineterminator="\n")
    shown = stream.isatty()

    def written(value: Any) -> Any:
        if isinstance(value, list | dict):
            value = json.dumps(value, default=str)
        value = harmless(value) if safe else value
        return printable(value) if shown and isinstance(value, str) else value

    writer.writerow(map(written, names_of(result)))
    for row in _rows(result):
        writer.writerow(map(written, row))


def write_json(result: duckdb.DuckDBPyConnection, stream: TextIO) -> None:
    """Every row as an object of one JSON array, one per line; NaN and infinities are null."""
    names = names_of(result)
    separator = "[\n"
    encoding = getattr(stream, "encoding", None) or "utf-8"
    for row in _rows(result):
        record = json_text(dict(zip(names, row, strict=True)), encoding=encoding)
        stream.write(separator + record)
        separator = ",\n"
    stream.write("[]\n" if separator == "[\n" else "\n]\n")


def write_parquet(relation: duckdb.DuckDBPyRelation, target: Path | io.BufferedIOBase) -> int:
    """Every row of a query into a Parquet file; returns how many."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    reader: pa.RecordBatchReader = relation.to_arrow_reader(100_000)
    rows = 0
    with pq.ParquetWriter(target, reader.schema, compression="zstd") as writer:
        for batch in reader:
            writer.write_batch(batch)
            rows += batch.num_rows
    return rows


@contextmanager
def whole(target: Path) -> Iterator[Path]:
    """Where to write what takes the name ``target`` once the block has ended without an error.

    Into what is no file (a pipe, a terminal) is written at once.
    """
    if target.exists() and not target.is_file():
        yield target
        return
    target = target.resolve()
    draft = target.with_name(f".{target.name}.{os.getpid()}.draft")
    draft.unlink(missing_ok=True)
    try:
        draft.touch(exist_ok=False)  # a link that somebody has put there would be followed
        yield draft
        draft.replace(target)
    finally:
        draft.unlink(missing_ok=True)


@contextmanager
def opened(output: Path | None, format_: Format) -> Iterator[tuple[Path | None, TextIO]]:
    """Where an answer goes: the path to write, if it is a file's, and a stream."""
    if output is None:
        yield None, sys.stdout
        return
    try:
        with whole(output) as path:
            if format_ is Format.parquet:
                yield path, sys.stdout
            else:
                with open(path, "w", encoding="utf-8") as stream:
                    yield path, stream
    except BrokenPipeError:
        raise
    except OSError as error:
        raise QueryError(
            f"--output {str(output)!r} can't be written: {error.strerror or error}; name a file "
            "in a folder that is there and can be written to"
        ) from error


def format_of(format_: Format | None, output: Path | None) -> Format:
    """What ``--format`` or the ending of ``--output`` says, where they agree."""
    if output is None:
        if format_ is Format.parquet:
            raise QueryError("--format parquet writes bytes; name a file with --output")
        return format_ or Format.table
    told = ENDINGS.get(output.suffix.lower())
    if told is None and (format_ is None or output.is_file()):
        raise QueryError(
            f"--output {str(output)!r} has no ending that tells what it holds; end it in "
            f"{', '.join(ENDINGS)}"
        )
    if told is not None and format_ not in (None, told):
        raise QueryError(
            f"--format {format_} does not fit --output {str(output)!r}; leave --format out, or "
            "name a file that ends in it"
        )
    return told or format_ or Format.table


def names_of(result: duckdb.DuckDBPyConnection) -> list[str]:
    """The names of a result's columns."""
    return [str(column[0]) for column in result.description or []]


def records_of(result: duckdb.DuckDBPyConnection) -> list[dict[str, Any]]:
    """The rows of a result, each by the names of its columns."""
    names = names_of(result)
    return [dict(zip(names, row, strict=True)) for row in result.fetchall()]


def _rows(result: duckdb.DuckDBPyConnection) -> Iterator[tuple[Any, ...]]:
    while chunk := result.fetchmany(CHUNK):
        yield from chunk


@dataclass(frozen=True)
class _Column:
    """least, natural: the width it can do with, and the one at which each text has one line."""

    name: str
    cells: list[Text]
    numeric: bool
    least: int
    natural: int

    @classmethod
    def of(cls, name: str, values: Sequence[Any]) -> Self:
        cells = [value if isinstance(value, Text) else Text(cell(value)) for value in values]
        firm = [c.cell_len for c, value in zip(cells, values, strict=True) if _is_number(value)]
        texts = [c for c, value in zip(cells, values, strict=True) if not _is_number(value)]
        natural = max([cell_len(name), *(c.cell_len for c in cells)])
        words = [cell_len(word) for text in [name, *texts] for word in str(text).split()]
        least = max(min(max(words, default=0), WORD), min(natural, NARROW), *firm, 1)
        there = sum(value is not None for value in values)
        return cls(name, cells, 0 < there == len(firm), least, max(natural, 1))


def _fits(columns: Sequence[_Column], width: int) -> bool:
    return sum(column.least for column in columns) + GAP * (len(columns) - 1) <= width


def _across(columns: Sequence[_Column], width: int) -> Table:
    """A line per row. Columns share the width: none is below another unless it needs no more."""
    left = width - GAP * (len(columns) - 1)
    least = [c.least if _fits(columns, width) else min(c.least, NARROW) for c in columns]

    def widths(most: int) -> list[int]:
        return [max(low, min(c.natural, most)) for low, c in zip(least, columns, strict=True)]

    most = max(c.natural for c in columns)
    while most > 1 and sum(widths(most)) > left:
        most -= 1
    headed = any(column.name for column in columns)
    view = Table(box=None, pad_edge=False, show_header=headed)
    for column, own in zip(columns, widths(most), strict=True):
        justify: Literal["left", "right"] = "right" if column.numeric else "left"
        view.add_column(Text(column.name), justify=justify, overflow="fold", width=own)
    for row in zip(*(column.cells for column in columns), strict=True):
        view.add_row(*row)
    return view


def _down(columns: Sequence[_Column], width: int) -> Iterator[Table | str]:
    """A line per column, and an empty one between rows."""
    firm = max((c.least for c in columns), default=1)
    heading = max(1, min(max(cell_len(c.name) for c in columns), width - GAP - firm))
    for number, row in enumerate(zip(*(column.cells for column in columns), strict=True)):
        view = Table(box=None, pad_edge=False, show_header=False)
        view.add_column(overflow="fold", width=heading)
        view.add_column(overflow="fold", width=max(1, width - GAP - heading))
        for column, value in zip(columns, row, strict=True):
            view.add_row(Text(column.name), value)
        if number:
            yield ""
        yield view


def _peak(context: str, token: str) -> int:
    """Where in a context the token between « and » stands; texts may hold such marks as well."""
    marked = context.find(f"«{token.lstrip(' ') or token}»")
    return marked + len(token) // 2 if marked >= 0 else max(context.find("«"), 0)


def clipped(text: Any, width: int) -> str:
    """The beginning of a value as a table shows it, on ``width`` characters."""
    shown = cell(text)
    return shown if len(shown) <= width else _cut(shown, max(width, 3), 0)


def clipped_context(context: str, token: str, width: int) -> str:
    """A context on ``width`` characters, round the token that is between « and »."""
    shown = cell(context)
    return shown if len(shown) <= width else _cut(shown, width, _peak(shown, cell(token)))


def _cut(text: str, width: int, middle: int) -> str:
    """``width`` characters of a text, or a few less, round a place in it; numbers stay whole."""
    size = width - 2
    start, end = middle - size // 2, middle - size // 2 + size
    if start <= 1:
        start, end = 0, size + 1
    elif end >= len(text) - 1:
        start, end = len(text) - size - 1, len(text)
    for number in _NUMBER.finditer(text):
        if number.start() < start < number.end():
            start = number.end()
        if number.start() < end < number.end():
            end = number.start()
    return "…" * (start > 0) + text[start:end] + "…" * (end < len(text))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | Decimal) and not isinstance(value, bool)
