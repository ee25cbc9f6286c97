"""Readers of CSV, JSON lines and folders of text files, one document at a time."""

from __future__ import annotations

import csv
import json
import math
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import pyarrow as pa

from deconstruct.common.errors import DataError

COLUMNS_FROM = 100
"""JSON lines whose keys count as the file's columns: rows may leave some out."""


class Row(NamedTuple):
    """One document as its source has it; None where the source has nothing."""

    text: str | None
    label: str | None


class Reader(Protocol):
    """A file or folder of documents. Every method raises ``DataError`` for what does not read."""

    def columns(self) -> list[str]: ...

    def count(self) -> int: ...

    def rows(self) -> Iterator[Row]: ...


class CsvReader:
    """A CSV file in UTF-8 with a header line; quoted fields may hold line breaks."""

    def __init__(self, path: Path, text: str, label: str | None) -> None:
        self.path, self.text, self.label = path, text, label

    def columns(self) -> list[str]:
        """The header's names."""
        return next(self._records(), [])

    def count(self) -> int:
        """Number of records below the header."""
        return sum(1 for _ in islice(self._records(), 1, None))

    def rows(self) -> Iterator[Row]:
        """Every record's text and label; an empty label counts as none."""
        records = self._records()
        header = next(records, [])
        text = header.index(self.text)
        label = None if self.label is None else header.index(self.label)
        for record in records:
            yield Row(record[text], None if label is None else label_name(record[label]))

    def _records(self) -> Iterator[list[str]]:
        csv.field_size_limit(sys.maxsize)  # the module's 128 KiB are less than many a text
        with self.path.open(encoding="utf-8-sig", newline="") as handle:
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
            except UnicodeDecodeError as error:
                raise _undecodable(self.path, error) from error


class JsonLinesReader:
    """A file in UTF-8 with one JSON object a line; blank lines are passed over."""

    def __init__(self, path: Path, text: str, label: str | None) -> None:
        self.path, self.text, self.label = path, text, label

    def columns(self) -> list[str]:
        """The keys of the first 100 objects, in order of appearance."""
        names: dict[str, None] = {}
        for _, record in islice(self._records(), COLUMNS_FROM):
            names.update(dict.fromkeys(record))
        return list(names)

    def count(self) -> int:
        """Number of lines that are not blank."""
        with self.path.open("rb") as handle:
            return sum(1 for line in handle if line.strip())

    def rows(self) -> Iterator[Row]:
        """Every object's text and label; a key that is left out counts as null."""
        for line, record in self._records():
            text = record.get(self.text)
            if text is not None and not isinstance(text, str):
                raise DataError(
                    f"{self.path}, line {line}: corpus.text_column {self.text!r} holds "
                    f"{json.dumps(text)[:80]}, not a string; name a column of texts "
                    f"(here: {', '.join(map(repr, record))})"
                )
            label = None if self.label is None else record.get(self.label)
            if isinstance(label, list | dict):
                raise DataError(
                    f"{self.path}, line {line}: corpus.label_column {self.label!r} holds "
                    f"{json.dumps(label)[:80]}, not one label a document; name another column, or "
                    "go without: corpus.label_column=none"
                )
            yield Row(text, label_name(label))

    def _records(self) -> Iterator[tuple[int, dict[str, Any]]]:
        with self.path.open("rb") as handle:
            for line, raw in enumerate(handle, 1):
                if not raw.strip():
                    continue
                try:
                    record = json.loads(raw.decode("utf-8-sig" if line == 1 else "utf-8"))
                except UnicodeDecodeError as error:
                    raise _undecodable(self.path, error, f", line {line}") from error
                except (ValueError, RecursionError) as error:
                    raise DataError(
                        f"{self.path}, line {line}: not JSON ({error}); expected one object a line"
                    ) from error
                if not isinstance(record, dict):
                    raise DataError(
                        f"{self.path}, line {line}: not a JSON object; expected one object a line, "
                        'such as {"text": "...", "label": "..."}'
                    )
                yield line, record


class FolderReader:
    """A folder with one folder of ``.txt`` files a class; columns ``text`` and ``label``.

    Files beside the class folders have no label. fallback: encoding of files that are not UTF-8
    (or UTF-16 with its mark); None: they raise ``DataError``.
    """

    def __init__(
        self, path: Path, text: str, label: str | None, fallback: str | None = None
    ) -> None:
        self.path, self.text, self.label, self.fallback = path, text, label, fallback
        self.files = text_files(path)

    def columns(self) -> list[str]:
        """Always ``text`` and ``label``."""
        return ["text", "label"]

    def count(self) -> int:
        """Number of ``.txt`` files."""
        return len(self.files)

    def rows(self) -> Iterator[Row]:
        """Every file, ordered by its path."""
        for file in self.files:
            folders = file.relative_to(self.path).parts[:-1]
            values = {"text": self._decoded(file), "label": folders[0] if folders else None}
            yield Row(values[self.text], None if self.label is None else values[self.label])

    def _decoded(self, file: Path) -> str:
        raw = file.read_bytes()
        try:
            if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
                return raw.decode("utf-16")
            return raw.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            if self.fallback is None:
                raise _undecodable(file, error) from error
            return raw.decode(self.fallback)


def text_files(folder: Path) -> list[Path]:
    """The ``.txt`` files under ``folder``, hidden ones left out, ordered by relative path."""
    found = {path.relative_to(folder).parts: path for path in folder.rglob("*.txt")}
    return [
        path
        for parts, path in sorted(found.items())
        if path.is_file() and not any(part.startswith(".") for part in parts)
    ]


def label_name(value: Any, names: list[str] | None = None) -> str | None:
    """A label as text; None where there is none (null, NaN, an empty string, class -1)."""
    if value is None or value == "" or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # integers with nulls among them come as floats from pandas
    if names is not None and isinstance(value, int):
        return names[value] if 0 <= value < len(names) else None
    return str(value)


def class_names(schema: pa.Schema, column: str | None) -> list[str] | None:
    """Names of an integer class column, where `datasets` left them in the file's metadata."""
    raw = (schema.metadata or {}).get(b"huggingface")
    if raw is None or column is None:
        return None
    try:
        names = json.loads(raw)["info"]["features"][column]["names"]
    except (ValueError, KeyError, TypeError):
        return None
    return [str(name) for name in names] if isinstance(names, list) else None


def _undecodable(path: Path, error: UnicodeDecodeError, where: str = "") -> DataError:
    found = f"byte 0x{error.object[error.start]:02x}" if error.start < len(error.object) else "end"
    return DataError(
        f"{path}{where} is not UTF-8 ({error.reason}: {found}); convert it, for example: "
        f"iconv -f WINDOWS-1252 -t UTF-8 {path.name}"
    )
