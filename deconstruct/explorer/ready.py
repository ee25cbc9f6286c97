"""What the runs' documents hold (`corpus.holdings`), kept for those that were asked about last.

A selection is counted in a moment once that is there, and to read it takes a moment to seconds: so
pages from which people come to a selection have it read meanwhile.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from contextlib import suppress

import duckdb

from deconstruct.common.errors import DeconstructError
from deconstruct.explorer.stores import Stores
from deconstruct.report.reading.corpus.holdings import MOST_BYTES, Holdings, holdings


class Ready:
    """Hands out what is held by the documents of a run of one data root.

    A run's id is a digest of what it is made of, so that no publish changes what is kept.
    """

    def __init__(self, stores: Stores, most_bytes: int = MOST_BYTES) -> None:
        self._stores, self._most = stores, most_bytes
        self._lock, self._reading = threading.Lock(), threading.Lock()
        self._kept: OrderedDict[str, Holdings] = OrderedDict()

    def of(self, store: duckdb.DuckDBPyConnection, run_id: str) -> Holdings:
        """Of a run; read, or once whoever reads it now has done so. Raises ``Missing`` if its
        documents hold no latents."""
        if (found := self.there(run_id)) is None:
            with self._reading:  # one at a time: each is large
                found = self.there(run_id)
                if found is None:
                    found = holdings(store, run_id, self._most)
                    self._keep(found)
        return found

    def there(self, run_id: str) -> Holdings | None:
        """Of a run, if it is kept."""
        with self._lock:
            if run_id in self._kept:
                self._kept.move_to_end(run_id)
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

    def _keep(self, found: Holdings) -> None:
        with self._lock:
            self._kept[found.run_id] = found
            while sum(one.size for one in self._kept.values()) > self._most:
                self._kept.popitem(last=False)
