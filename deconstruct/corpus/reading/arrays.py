"""Reader of ``.json`` files: one array of objects, or one object per line."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from deconstruct.common.errors import DataError
from deconstruct.corpus.reading.packed import opened
from deconstruct.corpus.textfiles import JsonLinesReader, decoded, undecodable

CHUNK = 1 << 16
"""Characters that are read at a time."""
LARGEST = 1 << 28
"""Characters that no object has: what has not ended by then is no JSON."""
_SPACE = re.compile(r"[ \t\n\r]*")


class JsonReader(JsonLinesReader):
    """A file with one array of JSON objects, read an object at a time; or one object per line, as
    many a ``.json`` file is."""

    unit = "object"

    def count(self) -> int:
        """Number of objects."""
        return sum(1 for _ in self._records())

    def _records(self) -> Iterator[tuple[int, dict[str, Any]]]:
        if _begins_with(self.path) != "[":
            self.unit = "line"
            yield from super()._records()
            return
        with opened(self.path) as found:
            self._handle = found.file
            try:
                yield from self._objects(decoded(self.path, found.content))
            except UnicodeError as error:
                raise undecodable(self.path, error) from error

    def _objects(self, text: TextIO) -> Iterator[tuple[int, dict[str, Any]]]:
        """The objects of the array that a text is."""
        decode = json.JSONDecoder(object_pairs_hook=self._record).raw_decode
        window = _Window(text)
        window.expect("[")
        number = 0
        while not window.at("]"):
            number += 1
            if number > 1 and not window.take(","):
                raise self._not_json(number, "there is no comma before it")
            try:
                value = window.decode(decode)
            except (ValueError, RecursionError) as error:
                raise self._not_json(number, str(error)) from error
            if not isinstance(value, dict):
                raise self._not_json(number, f"it is {json.dumps(value)[:40]}, no object")
            yield number, value
        window.expect("]")
        if not window.at(""):
            raise self._not_json(number, "the array has ended, and more follows")

    def _not_json(self, number: int, why: str) -> DataError:
        return DataError(
            f"{self.path}, object {number}: not JSON ({why}); write one array of objects, such as "
            '[{"text": "...", "label": "..."}]'
        )


class _Window:
    """A part of a text that moves on over it: what is left of it, and more as it is needed."""

    def __init__(self, text: TextIO) -> None:
        self._text, self._held, self._place = text, "", 0

    def _more(self, characters: int) -> bool:
        found = self._text.read(characters)
        self._held, self._place = self._held[self._place :] + found, 0
        return bool(found)

    def _next(self) -> str:
        """The next character that is no space; empty at the end."""
        while True:
            space = _SPACE.match(self._held, self._place)
            self._place = space.end() if space else self._place
            if self._place < len(self._held):
                return self._held[self._place]
            if not self._more(CHUNK):
                return ""

    def at(self, sign: str) -> bool:
        return self._next() == sign

    def take(self, sign: str) -> bool:
        found = self.at(sign)
        self._place += found
        return found

    def expect(self, sign: str) -> None:
        """Go over a sign that is there."""
        self.take(sign)

    def decode(self, decode: Any) -> Any:
        """The JSON value that comes next. What is held is doubled until it is in it whole, so that
        time is linear in its length."""
        self._next()
        while True:
            try:
                value, end = decode(self._held, self._place)
            except ValueError:
                if len(self._held) > LARGEST or not self._more(max(CHUNK, len(self._held))):
                    raise
                continue
            self._place = end
            return value


def _begins_with(path: Path) -> str:
    with opened(path) as found:
        head = decoded(path, found.content)
        try:
            while character := head.read(1):
                if not character.isspace():
                    return character
        except UnicodeError:
            return ""  # who reads it says so
    return ""
