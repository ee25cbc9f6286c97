"""A folder of texts: one folder per class, one ``.txt`` file per document."""

from __future__ import annotations

import errno
import io
import logging
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from deconstruct.common.errors import DataError
from deconstruct.corpus.textfiles import Row, Wanted, encoding_of, undecodable
from deconstruct.corpus.values import label_name

log = logging.getLogger(__name__)

SUFFIX = ".txt"
NAMED = 3
"""Of what is left out, so many are named."""


class Listing(NamedTuple):
    """What a folder holds, ordered by relative path.

    files: those that are read. left_out: all else; a folder that is not entered counts once.
    """

    files: list[Path]
    left_out: list[Path]


class FolderReader:
    """A folder with one folder of ``.txt`` files per class; columns ``text`` and ``label``.

    Files beside the class folders have no label. fallback: encoding of files that are not UTF-8
    (or UTF-16 with its mark); None: they raise ``DataError``. by_line: whether each line of a file
    is a document, but for blank ones.
    """

    def __init__(
        self, path: Path, wanted: Wanted, fallback: str | None = None, by_line: bool = False
    ) -> None:
        self.path, self.wanted, self.fallback, self.by_line = path, wanted, fallback, by_line
        self.found = listing(path)

    def columns(self) -> list[str]:
        """Always ``text`` and ``label``."""
        return ["text", "label"]

    def count(self) -> int:
        """Number of documents."""
        if self.by_line:
            return sum(1 for file in self.found.files for _ in self._texts(file))
        return len(self.found.files)

    def rows(self) -> Iterator[Row]:
        """Every file, ordered by its path; what is not read is counted and named in a warning."""
        left_out = self.found.left_out
        if left_out:
            log.warning(
                "%s: left out as hidden or no .txt file: %d files or folders (%s)",
                self.path.name, len(left_out), _named(left_out, self.path),
            )  # fmt: skip
        yield from self.rows_of(self.found.files)

    def rows_of(self, files: Iterable[Path]) -> Iterator[Row]:
        """Some of the files."""
        text, label_column, more, _ = self.wanted
        for file in files:
            folders = file.relative_to(self.path).parts[:-1]
            label = label_name(folders[0]) if folders else None
            for found in self._texts(file):
                values = {"text": found, "label": label}
                yield Row(
                    values[text],
                    None if label_column is None else values[label_column],
                    tuple(values[name] for name in more),
                )

    def _texts(self, file: Path) -> Iterator[str]:
        text = self._decoded(file)
        if not self.by_line:
            yield text
            return
        lines = io.StringIO(text, newline="")
        yield from (line.rstrip("\r\n") for line in lines if line.strip())

    def _decoded(self, file: Path) -> str:
        raw = file.read_bytes()
        try:
            return raw.decode(encoding_of(raw))
        except UnicodeDecodeError as error:
            if self.fallback is None:
                raise undecodable(file, error) from error
            return raw.decode(self.fallback)


def listing(folder: Path) -> Listing:
    """All that lies under ``folder``, through links to folders too.

    Hidden files and folders, and links that lead nowhere or to a folder above them, are left out.
    Raises ``OSError`` for a folder that can't be read.
    """
    files: list[Path] = []
    left_out: list[Path] = []

    def enter(inside: Path, above: frozenset[tuple[int, int]]) -> None:
        with os.scandir(inside) as entries:
            for entry in entries:
                path = inside / entry.name
                if entry.name.startswith("."):
                    left_out.append(path)
                elif _is_folder(entry):
                    state = path.stat()
                    place = (state.st_dev, state.st_ino)
                    if place in above:
                        left_out.append(path)
                    else:
                        enter(path, above | {place})
                elif path.suffix.lower() == SUFFIX and path.is_file():
                    files.append(path)
                else:
                    left_out.append(path)

    state = folder.stat()
    enter(folder, frozenset({(state.st_dev, state.st_ino)}))
    return Listing(*(sorted(found, key=lambda path: path.parts) for found in (files, left_out)))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        return False  # a link to itself


def refuse(folder: Path, source: str, found: Listing) -> DataError:
    """The error of a folder that holds no document; it says what there is."""
    there = ""
    if found.left_out:
        there = f" (of {len(found.left_out)} others: {_named(found.left_out, folder)})"
    return DataError(
        f"corpus.source {source!r} holds no .txt file{there}; expected one folder per class with "
        "one .txt file per document, or Parquet, CSV or JSON files"
    )


def _named(paths: list[Path], folder: Path) -> str:
    names = [ascii(str(path.relative_to(folder)))[1:-1] for path in paths[:NAMED]]
    return ", ".join(names) + (" ..." if len(paths) > NAMED else "")
