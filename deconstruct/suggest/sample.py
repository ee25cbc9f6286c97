"""Some rows of a source with all of their columns, and how many rows there are."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa

from deconstruct.common.errors import DataError
from deconstruct.config import CorpusConfig
from deconstruct.corpus import hub, sources
from deconstruct.corpus.folders import FolderReader
from deconstruct.corpus.reading import located, parquet
from deconstruct.corpus.reading.forms import Kind
from deconstruct.corpus.textfiles import CsvReader, JsonLinesReader, Reader, Row
from deconstruct.corpus.values import class_names, label_name, labels_in, value_type

ROWS = 2000
"""Rows that are looked at, if there are so many; of lines twice as many, or somewhat fewer."""
HEAD_BYTES = 32_000_000
"""Of a CSV or JSONL file: rows are drawn from its beginning of so many bytes."""

T = TypeVar("T")


@dataclass(frozen=True)
class Column:
    """One column's values in the sample, None where there is none; labels: as labels, None if it
    can't hold any."""

    name: str
    values: Sequence[Any]
    labels: Sequence[str | None] | None

    @cached_property
    def filled(self) -> list[Any]:
        """The values that are there."""
        return [v for v in self.values if v is not None and not (isinstance(v, str) and not v)]

    @cached_property
    def counts(self) -> Counter[str]:
        """How often each label is there."""
        return Counter(label for label in self.labels or () if label is not None)

    @cached_property
    def is_text(self) -> bool:
        """Whether all values are strings."""
        return bool(self.filled) and all(isinstance(value, str) for value in self.filled)


@dataclass(frozen=True)
class Sample:
    """Rows drawn evenly from a source.

    documents: rows of the whole source; an estimate unless ``counted``. head: whether they were
    drawn from the source's beginning alone. folder: whether labels are folders. splits: those of a
    hub data set, with their rows.
    """

    name: str
    columns: Sequence[Column]
    documents: int
    counted: bool = True
    head: bool = False
    folder: bool = False
    splits: Mapping[str, int] | None = None

    @property
    def rows(self) -> int:
        """How many were drawn."""
        return len(self.columns[0].values) if self.columns else 0


def draw(config: CorpusConfig) -> Sample:
    """A sample of ``config.place``, whose columns need not be known.

    Raises what `sources.resolve` and `sources.read` raise for a source that is not there or does
    not read.
    """
    if config.place.startswith(hub.PREFIX):
        return _of_hub(config)
    found = located.locate(config)
    (kind, path), *others = found.parts()
    try:
        sample = _of_part(kind, path, config)
        if not found.files:
            return sample
        sizes = [file.stat().st_size for file in found.files]
        documents = round(sample.documents * sum(sizes) / max(1, sizes[0]))
        counted = sample.counted and not others
        told = replace(sample, name=config.place, documents=documents)
        return replace(told, counted=counted, head=bool(others))
    except OSError as error:
        raise DataError(
            f"corpus.source {config.place!r} can't be read: {error.strerror} ({error.filename})"
        ) from error


def _of_part(kind: Kind, path: Path, config: CorpusConfig) -> Sample:
    if kind == "parquet":
        return _of_parquet(path)
    reader = sources.reader_of(kind, path, config)
    if isinstance(reader, CsvReader | JsonLinesReader):
        return _of_lines(reader)
    name = located.NAME_OF_EMBEDDED if kind == "embedded" else path.name
    if isinstance(reader, FolderReader):
        return _of_folder(reader, name)
    return _of_rows(reader, name)


def _of_lines(reader: CsvReader | JsonLinesReader) -> Sample:
    size, read, seen = reader.path.stat().st_size, 0, 0
    names = reader.columns()

    def head() -> Iterator[dict[str, Any]]:
        nonlocal read, seen
        for read, record in reader.records():
            seen += 1
            yield record
            if read >= HEAD_BYTES:
                return

    records = thinned(head(), 2 * ROWS)
    whole = read < HEAD_BYTES or read >= size
    documents = seen if whole else round(seen * size / read)
    if isinstance(reader, JsonLinesReader):
        names = list(dict.fromkeys(name for record in records for name in record))
    once = [name for name in names if names.count(name) == 1]
    columns = [_plain(name, [record.get(name) for record in records]) for name in once]
    return Sample(reader.path.name, columns, documents, counted=whole, head=not whole)


def _of_folder(reader: FolderReader, name: str) -> Sample:
    files = reader.found.files
    chosen = evenly(files, ROWS)
    size = sum(file.stat().st_size for file in chosen)
    chosen = evenly(chosen, max(2, int(len(chosen) * min(1.0, HEAD_BYTES / max(1, size)))))
    columns = _of_texts(list(reader.rows_of(chosen)))
    return Sample(name, columns, len(files), folder=True)


def _of_rows(reader: Reader, name: str) -> Sample:
    """Of a source whose reader gives texts and labels alone; it is read whole."""
    return Sample(name, _of_texts(thinned(reader.rows(), 2 * ROWS)), reader.count())


def _of_texts(rows: list[Row]) -> list[Column]:
    return [_plain("text", [row.text for row in rows]), _plain("label", [r.label for r in rows])]


def _of_parquet(path: Any) -> Sample:
    file = parquet.opened(path)
    names = file.schema_arrow.names
    flat = [field.name for field in file.schema_arrow if not pa.types.is_nested(field.type)]
    once = [name for name in flat if names.count(name) == 1]
    groups = evenly(range(file.num_row_groups), 8)
    tables: list[pa.Table] = []
    try:
        for group in groups:
            table = next(iter(_batches(file, group, once, ROWS // len(groups))), None)
            tables += [] if table is None else [table]
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} is damaged: {error}") from error
    drawn = pa.concat_tables(tables) if tables else file.schema_arrow.empty_table()
    nested = [Column(name, [None] * len(drawn), None) for name in names if name not in flat]
    columns = [*_of_arrow(drawn.select(once)), *nested]
    return Sample(path.name, columns, file.metadata.num_rows)


def _batches(file: Any, group: int, names: list[str], rows: int) -> Iterator[pa.Table]:
    for batch in file.iter_batches(max(1, rows), row_groups=[group], columns=names):
        yield pa.Table.from_batches([batch])


def _of_hub(config: CorpusConfig) -> Sample:
    commit, cached = hub.resolve(config)
    splits, drawn = hub.look(config, commit, cached, ROWS)
    if not drawn:  # none is called train
        config = config.model_copy(update={"splits": (next(iter(splits)),)})
        splits, drawn = hub.look(config, commit, cached, ROWS)
    table = pa.concat_tables(drawn)
    documents = sum(splits.get(split, 0) for split in config.splits)
    ordered = {s: splits[s] for s in sorted(splits, key=lambda s: s not in config.splits)}
    name = config.place.removeprefix(hub.PREFIX)
    return Sample(name, _of_arrow(table), documents, splits=ordered)


def _of_arrow(table: pa.Table) -> list[Column]:
    columns = []
    for name in table.column_names:
        kind = value_type(table.schema.field(name).type)
        if pa.types.is_nested(kind) or pa.types.is_null(kind):
            columns.append(Column(name, [None] * len(table), None))
            continue
        array = table[name].combine_chunks()
        array = array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array
        labels = labels_in(array, class_names(table.schema, name))
        columns.append(Column(name, array.to_pylist(), labels))
    return columns


def _plain(name: str, values: list[Any]) -> Column:
    if any(isinstance(value, list | dict) for value in values):
        return Column(name, values, None)
    return Column(name, values, [label_name(value) for value in values])


def evenly(things: Sequence[T], most: int) -> list[T]:
    """At most so many of them, from the first on, at equal distances."""
    count = min(len(things), most)
    return [things[i * len(things) // count] for i in range(count)]


def thinned(things: Iterable[T], most: int) -> list[T]:
    """The same of what is not known to its end: ``most / 2`` of them or more, if there are."""
    kept: list[T] = []
    step = 1
    for number, thing in enumerate(things):
        if number % step == 0:
            kept.append(thing)
            if len(kept) > most:
                kept, step = kept[::2], 2 * step
    return kept


def characters(column: Column) -> float:
    """Mean length of a column of texts."""
    return math.fsum(map(len, column.filled)) / max(1, len(column.filled))
