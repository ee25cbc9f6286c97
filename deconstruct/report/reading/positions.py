"""Where in texts a latent fires: on how many of the tokens at each position.

Documents lie one after another in the order of tokens, so that where each begins tells the position
of every token, and no table of them need be read.
"""

from __future__ import annotations

import duckdb
import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]

_SPLIT = """
SELECT count(*) FROM stages
WHERE run_id = ? AND stage = 'corpus' AND (facts -> '$.windows') IS NOT NULL
"""
_SKIPPED = """
SELECT coalesce((config ->> '$.activations.skip_positions')::INTEGER, 0) FROM runs WHERE run_id = ?
"""
_LENGTHS = "SELECT doc_id, n_tokens FROM documents WHERE run_id = ?"
_BEGINNINGS = """
SELECT token_index FROM tokens WHERE run_id = $run AND position = 0
UNION ALL SELECT max(token_index) + 1 FROM tokens WHERE run_id = $run
"""
_SPECIAL = """
SELECT position, count(*) AS n FROM tokens WHERE run_id = ? AND special GROUP BY position
"""
_FIRED = "SELECT token_index FROM latents WHERE run_id = ? AND latent = ?"


def positions(store: duckdb.DuckDBPyConnection, run_id: str, latent: int) -> tuple[int, Ints, Ints]:
    """The first position that is recorded, and for each from 0 on: how often the latent fires
    there, and how many tokens that are read stand there."""
    bounds = _bounds(store, run_id)
    lengths = np.diff(bounds)
    # As many tokens stand at a position as there are texts that are longer.
    tokens = len(lengths) - np.cumsum(np.bincount(lengths))
    special = store.execute(_SPECIAL, [run_id]).fetchnumpy()
    np.subtract.at(tokens, np.asarray(special["position"]), np.asarray(special["n"]))
    found = store.execute(_FIRED, [run_id, latent]).fetchnumpy()["token_index"]
    fired = np.sort(np.asarray(found)).astype(np.int64)  # a million are found faster in order
    place = fired - bounds[np.searchsorted(bounds, fired, "right") - 1]
    [(skipped,)] = store.execute(_SKIPPED, [run_id]).fetchall()
    return skipped, np.bincount(place, minlength=len(tokens)), tokens


def _bounds(store: duckdb.DuckDBPyConnection, run_id: str) -> Ints:
    """Where each text begins, or each window of one that was split, and where the last ends."""
    [(split,)] = store.execute(_SPLIT, [run_id]).fetchall()
    if split:
        found = store.execute(_BEGINNINGS, {"run": run_id}).fetchnumpy()["token_index"]
        return np.sort(np.asarray(found, np.int64))
    found = store.execute(_LENGTHS, [run_id]).fetchnumpy()
    lengths = np.asarray(found["n_tokens"])[np.argsort(found["doc_id"])]
    return np.append(0, np.cumsum(lengths, dtype=np.int64))
