"""What is kept from one request to the next; above all what the runs' documents hold
(`corpus.holdings`).

A selection is counted in a moment once that is there, and to read it takes a moment to seconds: so
pages from which people come to a selection have it read meanwhile.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from contextlib import suppress
from typing import Generic, TypeVar

import duckdb

from deconstruct.common.errors import DeconstructError
from deconstruct.explorer.stores import Stores
from deconstruct.report.reading.corpus.holdings import MOST_BYTES, Holdings, holdings

V = TypeVar("V")


class Kept(Generic[V]):
    """What was asked for last, by a key; any thread may ask.

    most: of the sum of what ``size`` says of each; unless it is named, how many there are.
    """

    def __init__(self, most: int, size: Callable[[V], int] = lambda _: 1) -> None:
        self._most, self._size = most, size
        self._lock = threading.Lock()
        self._there: OrderedDict[Hashable, V] = OrderedDict()

    def get(self, key: Hashable) -> V | None:
        """What is kept under a key, if anything is."""
        with self._lock:
            if key in self._there:
                self._there.move_to_end(key)
            return self._there.get(key)

    def put(self, key: Hashable, value: V) -> None:
        """Keep it; what was asked for the longest ago makes room."""
        with self._lock:
            self._there[key] = value
            self._there.move_to_end(key)
            while sum(map(self._size, self._there.values())) > self._most:
                self._there.popitem(last=False)


class Ready:
    """Hands out what is held by the documents of a run of one data root.

    A run's id is a digest of what it is made of, so that no publish changes what is kept.
    """

    def __init__(self, stores: Stores, most_bytes: int = MOST_BYTES) -> None:
        self._stores, self._most = stores, most_bytes
        self._reading = threading.Lock()
        self._kept = Kept[Holdings](most_bytes, lambda one: one.size)

    def of(self, store: duckdb.DuckDBPyConnection, run_id: str) -> Holdings:
        """Of a run; read, or once whoever reads it now has done so. Raises ``Missing`` if its
        documents hold no latents."""
        if (found := self.there(run_id)) is None:
            with self._reading:  # one at a time: each is large
                found = self.there(run_id)
                if found is None:
                    found = holdings(store, run_id, self._most)
                    self._kept.put(run_id, found)
        return found

    def there(self, run_id: str) -> Holdings | None:
        """Of a run, if it is kept."""
        return self._kept.get(run_id)

    def begin(self, run_id: str) -> None:
        """Have it read, unless it is there or something else is being read; nobody waits for it."""
        if self.there(run_id) is None and not self._reading.locked():
            name = f"ready {run_id}"
            threading.Thread(target=self._read, args=(run_id,), name=name, daemon=True).start()

    def _read(self, run_id: str) -> None:
        # Who asks for it next is told what is wrong.
        with suppress(DeconstructError, duckdb.Error), self._stores.cursor() as (store, _):
            self.of(store, run_id)
