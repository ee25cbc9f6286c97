"""Answers that people save: written to the disk first, up to a bound, and gone once they are sent.

So memory stays small however large they are, and what is too large is said in a sentence before
anything of it is sent.
"""

from __future__ import annotations

import io
import tempfile
from collections.abc import Callable, Iterator
from typing import IO

from starlette.responses import Response, StreamingResponse

from deconstruct.store import QueryError

LARGEST = 200_000_000
"""Bytes of a file: what is larger is for the command, which writes it as it goes."""
PIECE = 256 * 1024


class Draft(io.BufferedIOBase):
    """A file without a name that takes ``largest`` bytes."""

    name = ""

    def __init__(self, largest: int, too_large: str) -> None:
        self.largest, self.too_large = largest, too_large
        self.file: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115, its reader closes it
        self.size = 0

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.size

    def write(self, part: bytes) -> int:  # type: ignore[override]
        """Raises ``QueryError`` where the file would be too large."""
        self.size += len(part)
        if self.size > self.largest:
            raise QueryError(self.too_large)
        return self.file.write(part)


def saved(name: str, kind: str, write: Callable[[Draft], None], command: str) -> Response:
    """What ``write`` writes, as a file called ``name`` of the media type ``kind``.

    command: what writes it without a bound. Raises ``QueryError`` if it is too large, and whatever
    ``write`` does.
    """
    draft = Draft(LARGEST, f"this file has more than {LARGEST / 1e6:g} MB; {command!r} writes it")
    try:
        write(draft)
    except BaseException:
        draft.file.close()
        raise
    headers = {
        "Content-Disposition": f'attachment; filename="{name}"',
        "X-Content-Type-Options": "nosniff",
    }
    return StreamingResponse(_pieces(draft.file), media_type=kind, headers=headers)


def text(draft: Draft) -> io.TextIOWrapper:
    """The draft as one of UTF-8 text; to be flushed at the end, and not closed."""
    return io.TextIOWrapper(draft, encoding="utf-8", newline="")


def _pieces(file: IO[bytes]) -> Iterator[bytes]:
    with file:
        file.seek(0)
        while piece := file.read(PIECE):
            yield piece
