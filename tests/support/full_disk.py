"""A disk that is full for one file: the kernel's own ``/dev/full``, on which every write fails."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from deconstruct.artifacts import Draft

WRITING = Draft.writing


def full_for(name: str) -> None:
    """From now on, in this process; undone by setting ``Draft.writing`` to `WRITING`."""

    @contextmanager
    def writing(draft: Draft, wanted: str) -> Iterator[Path]:
        with WRITING(draft, wanted) as path:
            if wanted == name:
                path.symlink_to("/dev/full")
            yield path

    Draft.writing = writing  # type: ignore[method-assign]
