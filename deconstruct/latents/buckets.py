"""Firings put on disk in buckets, so that more of them can be ordered than memory holds."""

from __future__ import annotations

import shutil
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

    def take(self, number: int) -> NDArray[np.void]:
        """The firings of one bucket, `FIRING` [n]; its file is deleted."""
        file = self._files.pop(number, None)
        if file is None:
            return np.empty(0, FIRING)
        file.close()
        path = Path(file.name)
        firings = np.fromfile(path, FIRING)
        path.unlink()
        return firings

    def __enter__(self) -> Buckets:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for file in self._files.values():
            file.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _file(self, number: int) -> BinaryIO:
        if number not in self._files:
            self._files[number] = (self.folder / f"{number:03d}").open("wb")
        return self._files[number]
