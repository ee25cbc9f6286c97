"""Where labelled texts come from: the embedded articles, local files, the hub.

`resolve` turns the configured source into one with a digest of its contents; `read` yields its
documents one by one, so that memory does not grow with the corpus, and digests the source again at
their end: what was read is what its key says.
"""

from __future__ import annotations

import difflib
import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import pyarrow as pa

from deconstruct.artifacts import sha256_of
from deconstruct.common.errors import DataError
from deconstruct.config import CorpusConfig, LabelColumn
from deconstruct.corpus import folders, hub, textfiles, values
from deconstruct.corpus.reading import forms, several, streamed
from deconstruct.corpus.reading.forms import Kind, kind_of
from deconstruct.corpus.reading.located import NAME_OF_EMBEDDED, locate, readable
from deconstruct.corpus.reading.parquet import ParquetReader, arrow_rows
from deconstruct.corpus.textfiles import Row


@dataclass(frozen=True)
class ResolvedSource:
    """A source whose contents are known.

    digest: SHA-256 of the file (of a folder: of its files' names and contents; of several files: of
    their contents in order), or the hub's commit. path: the file or folder; of a hub data set,
    where it is cached if the hub is out of reach, else None; of several files None. files: those
    of several.
    """

    kind: Kind
    name: str
    digest: str
    path: Path | None = None
    files: tuple[Path, ...] = ()


def resolve(config: CorpusConfig) -> ResolvedSource:
    """Find ``config.source``, see that it has the columns that are asked for, and digest it.

    Raises ``ConfigError`` for a source that is not there or of no known form,
    ``SourceUnreachable`` for one that would have to be downloaded first and can't be,
    ``DataError`` for one without any document or without such columns. What is on the hub is not
    looked into before `read`.
    """
    source = config.place
    if source.startswith(hub.PREFIX):
        commit, cached = hub.resolve(config)
        return ResolvedSource("hub", source.removeprefix(hub.PREFIX), commit, cached)
    found = locate(config)
    kind, path, files = found
    name = NAME_OF_EMBEDDED if kind == "embedded" else source if kind == "files" else path.name
    with readable(source):
        for part in found.parts():
            _checked(*part, config)
        digest = _digest(kind, path, files)
        return ResolvedSource(kind, name, digest, None if files else path, files)


def read(source: ResolvedSource, config: CorpusConfig) -> tuple[int, Iterator[Row]]:
    """The number of documents that are read, and an iterator over them in the source's order.

    With ``config.limit`` they are drawn evenly over the source, or they are its first ones: then
    the number is at most so many. Raises ``DataError`` (at once or on the way) for missing columns,
    for what does not parse or decode, and at the end if the source is no more what was digested.
    """
    limit = config.limit
    if limit is not None and config.limit_from == "beginning":
        return limit, _to_the_end(source, islice(_rows(source, config), limit))
    with _said_if_changed(source):
        total, rows = _opened(source, config)
    rows = _to_the_end(source, rows)
    if limit is None or limit >= total:
        return total, rows
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
    return textfiles.Wanted(config.text_column, label, tuple(more), config.roles is not None)


def _opened(source: ResolvedSource, config: CorpusConfig) -> tuple[int, Iterator[Row]]:
    if source.kind == "hub":
        columns = wanted(config)
        found = hub.read(config, source.digest, source.path, columns.names())
        check_columns(source.name, config, found.schema.names)
        _check_types(source.name, config, found.schema)
        return found.count, arrow_rows(found.batches, columns, found.schema)
    count = 0
    for kind, path in _parts(source):
        count += _checked(kind, path, config).count()
    return count, _rows(source, config)


def _rows(source: ResolvedSource, config: CorpusConfig) -> Iterator[Row]:
    """Every row, one file after another: those that are not reached are not opened."""
    if source.kind != "hub":
        for kind, path in _parts(source):
            yield from _checked(kind, path, config).rows()
    elif source.path is not None:  # the hub is out of reach, and the data set here
        yield from _opened(source, config)[1]
    else:
        found = streamed.shards(config, source.digest)
        for path in streamed.fetched(config, source.digest, found.paths):
            reader = _checked(kind_of(path), path, config)
            if isinstance(reader, ParquetReader) and found.schema is not None:
                reader.schema = found.schema
            yield from reader.rows()


def _checked(kind: Kind, path: Path, config: CorpusConfig) -> textfiles.Reader:
    """Who reads a file or folder, which has the columns that are asked for."""
    name = NAME_OF_EMBEDDED if kind == "embedded" else path.name
    reader = reader_of(kind, path, config)
    check_columns(name, config, reader.columns())
    if isinstance(reader, ParquetReader):
        _check_types(name, config, reader.schema)
    return reader


def _parts(source: ResolvedSource) -> list[tuple[Kind, Path]]:
    if source.files:
        return [(kind_of(file), file) for file in source.files]
    assert source.path is not None
    return [(source.kind, source.path)]


def _digest(kind: Kind, path: Path, files: Sequence[Path] = (), *, again: bool = False) -> str:
    if files:
        return several.digest(files, again=again)
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
    try:
        path = source.path or Path()
        return _digest(source.kind, path, source.files, again=True) != source.digest
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
    labels = [LabelColumn.of(text).name for text in config.label_columns]
    yield from (("label_columns", name) for name in labels)
    if config.label_column is not None and config.label_column not in labels:
        yield "label_column", config.label_column
    for field in ("group_column", "split_column"):
        if (name := getattr(config, field)) is not None:
            yield field, name
    yield from (("keep_columns", name) for name in config.keep_columns)


def reader_of(kind: Kind, path: Path, config: CorpusConfig) -> textfiles.Reader:
    """Who reads a file or folder of this kind as it is configured."""
    return forms.reader_of(kind, path, wanted(config), config.txt_documents == "line")


def _check_types(source: str, config: CorpusConfig, schema: pa.Schema) -> None:
    """Raise ``DataError`` unless the text column holds strings (or chats, if asked for) and the
    label column scalars."""
    types = pa.types
    text = values.value_type(schema.field(config.text_column).type)
    if values.is_chat(text):
        if config.roles is None:
            raise DataError(
                f"corpus.text_column {config.text_column!r} of {source} holds chats; say whose "
                "messages are recorded: corpus.roles = 'all', or one role"
            )
    elif not (types.is_string(text) or types.is_large_string(text) or types.is_string_view(text)):
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
