"""What a run knows of its latents, for firings on other texts to be held against."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import duckdb
import numpy as np
from numpy.typing import NDArray

from deconstruct.store import open_store
from deconstruct.store.query import check_query

Pooling = Literal["mean", "max"]
ALIKE = 1e-6
"""By how much intercepts that held-out documents give may differ, against the largest score."""

_FEATURES = """
SELECT latent, density, mean_activation, top_token FROM features
WHERE run_id = $run ORDER BY latent
"""

_TASK = """
SELECT r.label_column, r.config ->> '$.probe.pooling' FROM runs AS r
WHERE r.run_id = $run AND coalesce(r.config ->> '$.probe.shuffle_labels', 'false') <> 'true'
"""

_WEIGHTS = """
SELECT label, latent, weight FROM probe_weights
WHERE run_id = $run AND task = $task ORDER BY label, latent
"""

_SCORES = """
WITH judged AS (
    SELECT target, doc_id, score FROM probe_scores
    WHERE run_id = $run AND task = $task AND representation = 'latents' AND k IS NULL
        AND target IS NOT NULL AND score IS NOT NULL
), few AS (
    SELECT DISTINCT doc_id FROM judged ORDER BY doc_id LIMIT 8
)
SELECT j.target, j.doc_id, j.score, list(x.latent), list(x.mean), list(x.max)
FROM judged AS j LEFT JOIN document_latents AS x ON x.run_id = $run AND x.doc_id = j.doc_id
WHERE j.doc_id IN (FROM few)
GROUP BY ALL ORDER BY j.target, j.doc_id
"""


@dataclass(frozen=True)
class Probe:
    """A run's probes on all latents, each of which tells one label from all others.

    labels [l]; weights: float64 [l, d_sae], per unit of pooled activation; intercepts: float64 [l],
    or None where they can't be had. pooling: of a document's tokens, those without a firing
    counted as zeros.
    """

    task: str
    labels: tuple[str, ...]
    weights: NDArray[np.float64]
    intercepts: NDArray[np.float64] | None
    pooling: Pooling


@dataclass(frozen=True)
class Known:
    """Of each latent of a run, [d_sae] each. density: on which share of the corpus' recorded tokens
    it fires; usual: its mean activation where it fires there, NaN where it never does; top_token:
    on which it fires most often. probe: None without labels."""

    density: NDArray[np.float64]
    usual: NDArray[np.float64]
    top_token: tuple[str | None, ...]
    probe: Probe | None


def known_of(home: Path | str | None, run_id: str) -> Known:
    """What the store has of a run. Raises ``StorageError`` for a file that is damaged."""
    with open_store(home, files=False, verify=False) as store:
        check_query(store, home, _SCORES, run_id=run_id)
        rows = store.execute(_FEATURES, {"run": run_id}).fetchall()
        _, density, mean, token = zip(*rows, strict=True)
        usual = np.array([np.nan if one is None else one for one in mean], np.float64)
        usual[~(usual > 0)] = np.nan
        return Known(
            np.array([one or 0.0 for one in density], np.float64),
            usual,
            tuple(token),
            _probe(store, run_id, len(rows)),
        )


def _probe(store: duckdb.DuckDBPyConnection, run_id: str, d_sae: int) -> Probe | None:
    found = store.execute(_TASK, {"run": run_id}).fetchone()
    if found is None or found[0] is None:
        return None
    task = str(found[0])
    pooling: Pooling = "max" if found[1] == "max" else "mean"
    rows = store.execute(_WEIGHTS, {"run": run_id, "task": task}).fetchall()
    labels = tuple(dict.fromkeys(label for label, _, _ in rows))
    if len(labels) < 2:  # none, or a column of numbers
        return None
    place = {label: number for number, label in enumerate(labels)}
    weights = np.zeros((len(labels), d_sae))
    for label, latent, weight in rows:
        weights[place[label], latent] = weight
    scores = store.execute(_SCORES, {"run": run_id, "task": task}).fetchall()
    return Probe(task, labels, weights, _intercepts(labels, weights, pooling, scores), pooling)


def _intercepts(
    labels: tuple[str, ...],
    weights: NDArray[np.float64],
    pooling: Pooling,
    scores: list[tuple[Any, ...]],
) -> NDArray[np.float64] | None:
    """What a probe's log odds of held-out documents have beside weights times activations.

    The store keeps scores and weights, and so no intercept is needed in it: of each document it is
    the score less the product. None unless several documents agree on it, for every label.
    """
    found: dict[str, list[float]] = {label: [] for label in labels}
    largest = 0.0
    for label, _, score, latents, mean, strongest in scores:
        if label not in found:
            return None
        pooled = np.zeros(weights.shape[1])
        if latents and latents[0] is not None:
            pooled[latents] = strongest if pooling == "max" else mean
        found[label].append(float(score - weights[labels.index(label)] @ pooled))
        largest = max(largest, abs(score))
    for each in found.values():
        if len(each) < 2 or max(each) - min(each) > ALIKE * max(1.0, largest):
            return None
    return np.array([np.median(found[label]) for label in labels])
