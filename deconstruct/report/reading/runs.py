"""Which runs there are, and how each is called."""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple

import duckdb

from deconstruct.store.query import CALLED

_RUNS = f"""
SELECT run_id,
    coalesce((
        SELECT arg_max({CALLED}, n.last_execution) FROM names AS n WHERE n.run_id = runs.run_id
    ), name),
    site, architecture, d_sae, documents, fvu_typical, delta_loss, dead_share, probe_accuracy,
    published
FROM runs
ORDER BY (SELECT max(n.last_execution) FROM names AS n WHERE n.run_id = runs.run_id) DESC
"""


class RunRow(NamedTuple):
    """A run at a glance, with headline figures as ``runs`` has them."""

    run_id: str
    name: str
    site: str
    architecture: str
    d_sae: int
    documents: int
    fvu_typical: float | None
    delta_loss: float | None
    dead_share: float | None
    probe_accuracy: float | None
    published: datetime


def newest(store: duckdb.DuckDBPyConnection) -> list[RunRow]:
    """All runs, the newest first."""
    return [RunRow(*row) for row in store.execute(_RUNS).fetchall()]
