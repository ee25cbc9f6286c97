"""Firings put on disk in buckets, so that more of them can be ordered than memory holds."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

FIRING = np.dtype(
    [
        ("token_index", "<u8"),
        ("doc_id", "<u4"),
        ("token_id", "<u4"),
        ("latent", "<u4"),
        ("activation", "<f4"),
    ]
)
"""A latent that fires on a token: 24 bytes."""

MAX_BUCKETS = 512
"""So many files are open at a time; half of what an ordinary limit of 1024 allows."""
PART = 1 << 19
"""Firings that are ordered at once: a bucket of more comes in parts of half as many. A bucket has
more where tokens are too many for `MAX_BUCKETS`, or where a single latent fires on so many."""
BLOCK = 1 << 18
"""Firings that are read at a time."""
MAX_PARTS = 256
SAMPLED = 1 << 14
"""Firings by which a bucket is cut into parts."""

Key = Callable[[NDArray[np.void]], NDArray[np.unsignedinteger]]
"""By what firings are ordered: `FIRING` [n] -> [n]."""


class Buckets:
    """Firings dealt into files by a key; a bucket holds whole ranges of it.

    Equal splits of the key's range: key ``k`` of ``keys`` goes into bucket ``k * count // keys``,
    so reading bucket after bucket, each sorted, is reading all of it sorted. Within a bucket
    firings keep the order in which they were added.
    """

    def __init__(self, folder: Path, keys: int, count: int) -> None:
        """folder: is emptied first. keys: the key's range. count: number of buckets."""
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        self.folder = folder
        self.keys = keys
        self.count = max(1, min(count, keys, MAX_BUCKETS))
        self._files: dict[int, BinaryIO] = {}

    def add(self, key: NDArray[np.unsignedinteger], firings: NDArray[np.void]) -> None:
        """key: [n], values below ``keys``. firings: `FIRING` [n]."""
        bucket = (key.astype(np.uint64) * self.count // self.keys).astype(np.uint16)
        order = np.argsort(bucket, kind="stable")
        firings = firings[order]
        ends = np.searchsorted(bucket[order], np.arange(self.count), side="right")
        start = 0
        for number, end in enumerate(ends):
            if end > start:
                self._file(number).write(firings[start:end].data)
            start = end

    def blocks(self, number: int) -> Iterator[NDArray[np.void]]:
        """The firings of one bucket, `FIRING` [n] at a time, in the order in which they came."""
        path = self._written(number)
        if not path.exists():
            return
        with path.open("rb") as file:
            while len(firings := np.fromfile(file, FIRING, BLOCK)):
                yield firings

    def parts(self, number: int, key: Key) -> Iterator[NDArray[np.void]]:
        """The firings of one bucket, `FIRING` [n]; its file is deleted.

        All at once or, of more than `PART`, in parts: what is in one has smaller keys than what is
        in the next, equal ones are in one, and they keep the order in which they came.
        """
        path = self._written(number)
        size = path.stat().st_size // FIRING.itemsize if path.exists() else 0
        if size <= PART:
            if size:
                yield self._take(path)
            return
        cuts = self._cuts(number, size, key)
        with Buckets(self.folder / "parts", len(cuts) + 1, len(cuts) + 1) as finer:
            for firings in self.blocks(number):
                place = np.searchsorted(cuts, key(firings), side="right")
                finer.add(place.astype(np.uint64), firings)
            path.unlink()
            for part in range(finer.count):
                if (path := finer._written(part)).exists():
                    yield self._take(path)

    def close(self) -> None:
        """Close all files; what is added from now on opens its own anew."""
        for file in self._files.values():
            file.close()
        self._files.clear()

    def _cuts(self, number: int, size: int, key: Key) -> NDArray[np.unsignedinteger]:
        """Where a bucket is cut, ascending: keys of firings at equal distances among some of it."""
        step = max(1, size // SAMPLED)
        found = np.sort(np.concatenate([key(block[::step]) for block in self.blocks(number)]))
        parts = min(MAX_PARTS, -(-size // (PART // 2)))
        return np.unique(found[len(found) * np.arange(1, parts) // parts])

    def _take(self, path: Path) -> NDArray[np.void]:
        firings = np.fromfile(path, FIRING)
        path.unlink()
        return firings

    def _written(self, number: int) -> Path:
        """The file of a bucket, with all that was added."""
        if (file := self._files.pop(number, None)) is not None:
            file.close()
        return self._path(number)

    def __enter__(self) -> Buckets:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _file(self, number: int) -> BinaryIO:
        if number not in self._files:
            self._files[number] = self._path(number).open("ab")
        return self._files[number]

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:03d}"
