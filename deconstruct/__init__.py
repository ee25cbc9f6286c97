"""Deconstruct takes a language model apart: activations, sparse autoencoders, what latents know.

import deconstruct

store = deconstruct.open_store()  # a DuckDB connection, read-only
store.sql("FROM runs").df()
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deconstruct.store import open_store

__all__ = ["open_store"]


def __getattr__(name: str) -> Any:
    """Imports the store when it is first asked for: ``import deconstruct`` alone loads nothing."""
    if name == "open_store":
        from deconstruct.store import open_store

        return open_store
    raise AttributeError(f"module 'deconstruct' has no attribute {name!r}")
