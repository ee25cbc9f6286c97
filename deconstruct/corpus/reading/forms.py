"""Which forms of files are read, how a name tells them, and who reads each."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from deconstruct.common.errors import ConfigError
from deconstruct.corpus.folders import FolderReader
from deconstruct.corpus.reading.arrays import JsonReader
from deconstruct.corpus.reading.packed import PACKED, form_of
from deconstruct.corpus.reading.parquet import ParquetReader
from deconstruct.corpus.reading.plain import TextReader
from deconstruct.corpus.textfiles import CsvReader, JsonLinesReader, Reader, Wanted

Kind = Literal["embedded", "folder", "parquet", "csv", "jsonl", "json", "txt", "files", "hub"]

EMBEDDED = "embedded:bbc-news"
SUFFIXES: dict[str, Kind] = {
    ".parquet": "parquet",
    ".csv": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".txt": "txt",
}
FORMS = (
    "a .parquet, .csv, .jsonl, .json or .txt file (of text also .gz or .zst), a folder of them, "
    "a folder with one folder of .txt files per class, a pattern such as 'data/*.parquet', "
    f"'hub:<dataset id>', or {EMBEDDED!r}"
)


def kind_of(file: Path) -> Kind:
    """What a file is, by its name. Raises ``ConfigError`` for one of no known form."""
    kind = known(file)
    if kind is None:
        raise ConfigError(f"corpus.source: {str(file)!r} is of no form that we read; name {FORMS}")
    return kind


def known(file: Path) -> Kind | None:
    """The same; None for one of no known form."""
    kind = SUFFIXES.get(form_of(file))
    packed = file.suffix.lower() in PACKED
    return None if packed and kind == "parquet" else kind


def reader_of(kind: Kind, path: Path, wanted: Wanted, by_line: bool) -> Reader:
    """Who reads a file or folder of this kind. by_line: whether a line of a ``.txt`` file is a
    document."""
    if kind == "parquet":
        return ParquetReader(path, wanted)
    if kind == "csv":
        return CsvReader(path, wanted)
    if kind == "jsonl":
        return JsonLinesReader(path, wanted)
    if kind == "json":
        return JsonReader(path, wanted)
    if kind == "txt":
        return TextReader(path, wanted, by_line)
    # One of the articles, sports/199.txt, is in Windows-1252; a user's file gets no such guess.
    return FolderReader(path, wanted, "cp1252" if kind == "embedded" else None, by_line)
