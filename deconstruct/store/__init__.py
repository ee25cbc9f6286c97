"""The store: one DuckDB file that answers for all runs, and Parquet that it reads in place.

Small tables of all runs lie in one file, of which publishing changes a copy that then takes its
name: readers keep the file they opened, and nobody waits. What grows with the tokens stays in the
artifacts and is seen through views. Measured (``benchmarks/store.py``; runs of 8192 latents, two
cores) when one more run is published into 1, 10 and 100, and when all are opened and listed:

    a copy, renamed    235, 250, 437 ms; opened in  15, 16,  18 ms   what we do
    in place           246, 244, 249 ms; opened in  15, 16,  16 ms   shuts readers out meanwhile
    one file per run   212, 206, 207 ms; opened in  20, 43, 336 ms   each reader pays for all runs

The copy costs 2 ms for each run that is there. In a trial of writing in place, 94 of 671 opens by
readers failed.
"""

from deconstruct.store.export import export_run
from deconstruct.store.load import RunRecord
from deconstruct.store.publish import publish, publish_beside, publish_matchings, run_id_of
from deconstruct.store.query import QueryError, data_root, open_store, resolve_run
from deconstruct.store.remove import Garbage, collect, garbage, remote_garbage, remove_runs

__all__ = [
    "Garbage",
    "QueryError",
    "RunRecord",
    "collect",
    "data_root",
    "export_run",
    "garbage",
    "open_store",
    "publish",
    "publish_beside",
    "publish_matchings",
    "remote_garbage",
    "remove_runs",
    "resolve_run",
    "run_id_of",
]
