"""The store: one DuckDB file that answers for all runs. (Figures follow.)"""

from deconstruct.store.export import export_run
from deconstruct.store.load import STAGES, RunRecord
from deconstruct.store.publish import publish, run_id_of
from deconstruct.store.query import QueryError, data_root, open_store, resolve_run
from deconstruct.store.remove import Garbage, collect, garbage, remove_runs

__all__ = [
    "STAGES",
    "Garbage",
    "QueryError",
    "RunRecord",
    "collect",
    "data_root",
    "export_run",
    "garbage",
    "open_store",
    "publish",
    "remove_runs",
    "resolve_run",
    "run_id_of",
]
