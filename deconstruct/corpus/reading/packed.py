"""Text files as bytes, whether they are packed (``.gz``, ``.zst``) or not."""

from __future__ import annotations

import gzip
import io
import zlib
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import pyarrow as pa

from deconstruct.common.errors import DataError

PACKED = (".gz", ".zst")


class Opened(NamedTuple):
    """A file's content as bytes, and the file itself, whose place says how much of it was read."""

    content: BinaryIO
    file: BinaryIO

    def __enter__(self) -> Opened:
        return self

    def __exit__(self, *_: object) -> None:
        self.content.close()
        self.file.close()


class _Unpacked(io.RawIOBase):
    """What a packed file holds. Raises ``DataError`` where it does not unpack."""

    def __init__(self, path: Path, stream: Any) -> None:
        self._path, self._stream = path, stream

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            found: bytes = self._stream.read(len(buffer))
        except (OSError, EOFError, zlib.error, pa.ArrowException) as error:
            if getattr(error, "errno", None) is not None:
                raise
            raise DataError(
                f"{self._path} does not unpack as {self._path.suffix} ({error}); it is damaged or "
                "cut short: fetch or pack it anew"
            ) from error
        buffer[: len(found)] = found
        return len(found)


def opened(path: Path) -> Opened:
    """A file to be read from its beginning, unpacked on the way if its name says that it is packed;
    some hundred kilobytes of it are in memory."""
    file = path.open("rb")
    packed = path.suffix.lower()
    if packed not in PACKED:
        return Opened(file, file)
    stream = (
        gzip.GzipFile(fileobj=file) if packed == ".gz" else pa.CompressedInputStream(file, "zstd")
    )
    return Opened(io.BufferedReader(_Unpacked(path, stream), 1 << 17), file)


def form_of(path: Path) -> str:
    """The suffix that tells a file's form, in lower case: ``.csv`` of ``a.csv.gz``."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in PACKED:
        suffixes.pop()
    return suffixes[-1] if suffixes else ""
