"""The store: one DuckDB file that answers for all runs. (Figures follow.)"""

from deconstruct.store.export import export_run
from deconstruct.store.load import STAGES, RunRecord
from deconstruct.store.publish import publish, run_id_of
from deconstruct.store.query import QueryError, data_root, open_store, resolve_run

__all__ = [
    "STAGES",
    "QueryError",
    "RunRecord",
    "data_root",
    "export_run",
    "open_store",
    "publish",
    "resolve_run",
    "run_id_of",
]
