"""Readers of CSV and JSON lines, packed or not, one document at a time."""

from __future__ import annotations

import csv
import json
import sys
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Iterator
from io import TextIOWrapper
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Protocol

from deconstruct.common.errors import DataError
from deconstruct.corpus.reading.chats import as_cell
from deconstruct.corpus.reading.packed import opened
from deconstruct.corpus.values import label_name

COLUMNS_FROM = 100
"""JSON lines whose keys count as the file's columns: rows may leave some out."""


class Row(NamedTuple):
    """One document as its source has it; None where the source has nothing."""

    text: str | None
    label: str | None
    more: tuple[Any, ...] = ()
    """The cells of `Wanted.more`, in its order and as the file has them: strings of a CSV file
    (None where empty), values of JSON, of Parquet and the hub as Python's (names of a class column,
    numbers of short floats as NumPy's)."""


class Wanted(NamedTuple):
    """Which columns of a source are read. Those of ``more`` differ; text and label may be there.

    chats: whether the texts are chats: then rows have them as JSON, however the source has them.
    """

    text: str
    label: str | None = None
    more: tuple[str, ...] = ()
    chats: bool = False

    def names(self) -> list[str]:
        """Every column that is read, once."""
        columns = (self.text, self.label, *self.more)
        return list(dict.fromkeys(column for column in columns if column is not None))


class Reader(Protocol):
    """A file or folder of documents. Every method raises ``DataError`` for what does not read."""

    def columns(self) -> list[str]: ...

    def count(self) -> int: ...

    def rows(self) -> Iterator[Row]: ...


class CsvReader:
    """A CSV file in UTF-8, or what its mark says; a header line; fields may hold line breaks."""

    _handle: BinaryIO
    """The file's bytes as the last iteration reads them."""

    def __init__(self, path: Path, wanted: Wanted) -> None:
        self.path, self.wanted = path, wanted

    def columns(self) -> list[str]:
        """The header's names."""
        return next(self._records(), [])

    def count(self) -> int:
        """Number of records below the header."""
        return sum(1 for _ in islice(self._records(), 1, None))

    def rows(self) -> Iterator[Row]:
        """Every record's text, label and further cells; an empty one but of the text counts as
        none."""
        records = self._records()
        header = next(records, [])
        text = header.index(self.wanted.text)
        label = None if self.wanted.label is None else header.index(self.wanted.label)
        more = [header.index(name) for name in self.wanted.more]
        for record in records:
            yield Row(
                record[text],
                None if label is None else label_name(record[label]),
                tuple(record[place] or None for place in more),
            )

    def records(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Every record by column, and how many bytes of the file have been read for it."""
        records = self._records()
        header = next(records, [])
        for record in records:
            yield self._handle.tell(), dict(zip(header, record, strict=True))

    def _records(self) -> Iterator[list[str]]:
        csv.field_size_limit(sys.maxsize)  # the module's 128 KiB are less than many a text
        with opened(self.path) as found:
            self._handle = found.file
            handle = decoded(self.path, found.content)
            # strict: an unclosed quote is an error, not a text that swallows the rest of the file
            reader = csv.reader(handle, strict=True)
            width = None
            try:
                for record in reader:
                    if not record:
                        continue
                    width = width or len(record)
                    if len(record) != width:
                        raise DataError(
                            f"{self.path}, line {reader.line_num}: {len(record)} fields where the "
                            f"header has {width}; quote texts that hold commas or line breaks"
                        )
                    yield record
            except csv.Error as error:
                raise DataError(
                    f"{self.path}, line {reader.line_num}: {error}; the file is not well-formed CSV"
                ) from error
            except UnicodeError as error:
                raise undecodable(self.path, error) from error


class JsonLinesReader:
    """A file in UTF-8 with one JSON object per line; blank lines are passed over."""

    _handle: BinaryIO
    unit = "line"

    def __init__(self, path: Path, wanted: Wanted) -> None:
        self.path, self.wanted = path, wanted

    def columns(self) -> list[str]:
        """The keys of the first 100 objects, in order of appearance."""
        names: dict[str, None] = {}
        for _, record in islice(self._records(), COLUMNS_FROM):
            names.update(dict.fromkeys(record))
        return list(names)

    def count(self) -> int:
        """Number of lines that are not blank."""
        with opened(self.path) as found:
            return sum(1 for line in found.content if line.strip())

    def rows(self) -> Iterator[Row]:
        """Every object's text, label and further values; a key that is left out counts as null."""
        wanted = self.wanted
        for line, record in self._records():
            text = record.get(wanted.text)
            text = as_cell(text) if wanted.chats else text
            if text is not None and not isinstance(text, str):
                raise DataError(
                    f"{self.path}, {self.unit} {line}: corpus.text_column {wanted.text!r} holds "
                    f"{json.dumps(text)[:80]}, not a string; name a column of texts "
                    f"(here: {', '.join(map(repr, record))}){_of_chats(text)}"
                )
            label = None if wanted.label is None else record.get(wanted.label)
            if isinstance(label, list | dict):
                raise DataError(
                    f"{self.path}, {self.unit} {line}: corpus.label_column {wanted.label!r} holds "
                    f"{json.dumps(label)[:80]}, not one label per document; name another column, "
                    "or go without: corpus.label_column=none"
                )
            yield Row(text, label_name(label), tuple(map(record.get, wanted.more)))

    def records(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Every object, and how many bytes of the file have been read for it."""
        for _, record in self._records():
            yield self._handle.tell(), record

    def _records(self) -> Iterator[tuple[int, dict[str, Any]]]:
        decode = json.JSONDecoder(object_pairs_hook=self._record).decode
        with opened(self.path) as found:
            self._handle = found.file
            for line, raw in enumerate(found.content, 1):
                if not raw.strip():
                    continue
                try:
                    record = decode(raw.decode("utf-8-sig" if line == 1 else "utf-8"))
                except UnicodeDecodeError as error:
                    raise undecodable(self.path, error, f", line {line}") from error
                except (ValueError, RecursionError) as error:
                    raise DataError(
                        f"{self.path}, line {line}: not JSON ({error}); write one object per line"
                    ) from error
                if not isinstance(record, dict):
                    raise DataError(
                        f"{self.path}, line {line}: not a JSON object; write one object per line, "
                        'such as {"text": "...", "label": "..."}'
                    )
                yield line, record

    def _record(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        record = dict(pairs)
        if len(record) < len(pairs):
            for name in self.wanted.names():
                if sum(key == name for key, _ in pairs) > 1:
                    raise ValueError(f"an object has {name!r} twice")
        return record


def _of_chats(text: Any) -> str:
    is_chat = isinstance(text, list) and text and isinstance(text[0], dict) and "role" in text[0]
    return ", or say whose messages are recorded of chats: corpus.roles = 'all'" if is_chat else ""


def encoding_of(head: bytes) -> str:
    """The encoding of a text that begins so: UTF-8 unless its byte order mark says otherwise."""
    return "utf-16" if head.startswith((BOM_UTF16_LE, BOM_UTF16_BE)) else "utf-8-sig"


def decoded(path: Path, content: BinaryIO) -> TextIOWrapper:
    """A file's content as text, with its line breaks as they are."""
    with opened(path) as found:
        encoding = encoding_of(found.content.read(2))
    return TextIOWrapper(content, encoding=encoding, newline="")


def undecodable(path: Path, error: UnicodeError, where: str = "") -> DataError:
    """What is to be said, and done, of a file that its encoding does not read."""
    encoding, found, reason = "UTF-8", "end", str(error)
    guess = "WINDOWS-1252"
    if isinstance(error, UnicodeDecodeError):
        reason = error.reason
        if error.start < len(error.object):
            found = f"byte 0x{error.object[error.start]:02x}"
        marked = encoding_of(error.object)
        if marked != "utf-8-sig":
            guess = marked.upper()
        if not error.encoding.startswith("utf-8"):
            encoding = error.encoding.upper()
    return DataError(
        f"{path}{where} is not {encoding} ({reason}: {found}); convert it, for example: "
        f"iconv -f {guess} -t UTF-8 {path.name}"
    )
