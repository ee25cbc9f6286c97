"""Where documents and latents stand on a run's map, and what points can be told apart by."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import duckdb
import numpy as np
import pyarrow as pa

from deconstruct.report.chart import Missing
from deconstruct.store import QueryError

MOST_GROUPS = 24
"""Groups that are told apart; the rest of them are one."""
NONE = "none"
REST = "others"
"""What is in no group, and in none of those; a label of such a name stands in quotes."""

_DOCUMENTS = """
SELECT m.doc_id, m.{x} AS x, m.{y} AS y,
    CASE WHEN d.label IS NULL THEN $none
        WHEN regexp_full_match(d.label, '“*(none|others)”*') THEN '“' || d.label || '”'
        ELSE d.label END AS label,
    coalesce(d.split, $none) AS split,
    CASE WHEN c.cluster IS NULL THEN $none ELSE 'cluster ' || c.cluster END AS cluster,
    CASE WHEN p.doc_id IS NULL THEN 'not judged'
        WHEN p.predicted = p.label THEN 'right' ELSE 'wrong' END AS probe,
    CASE WHEN coalesce(m.massive, 0) = 0 THEN 'none' ELSE 'one or more' END AS massive
FROM document_map AS m
JOIN documents AS d ON d.run_id = $run AND d.doc_id = m.doc_id
LEFT JOIN clusters AS c ON c.run_id = $run AND c.doc_id = m.doc_id
LEFT JOIN probe_predictions AS p
    ON p.run_id = $run AND p.doc_id = m.doc_id AND p.representation = 'latents' AND p.k IS NULL
    AND p.task = first_task($run)
WHERE m.run_id = $run AND isfinite(m.{x}) AND isfinite(m.{y}) ORDER BY m.doc_id
"""
_LATENTS = """
SELECT m.latent AS id, m.x, m.y,
    CASE WHEN c.latent_cluster IS NULL THEN $none
        ELSE 'cluster ' || c.latent_cluster END AS cluster,
    CASE WHEN f.density > 0.1 THEN 'more than 1 in 10' WHEN f.density > 0.01 THEN '1 in 10 to 100'
        WHEN f.density > 0.001 THEN '1 in 100 to 1,000' ELSE 'fewer' END AS density
FROM latent_map AS m
JOIN features AS f ON f.run_id = $run AND f.latent = m.latent
LEFT JOIN latent_clusters AS c ON c.run_id = $run AND c.latent = m.latent
WHERE m.run_id = $run AND isfinite(m.x) AND isfinite(m.y) ORDER BY m.latent
"""
_STRENGTHS = """
SELECT x.doc_id, x.mean, x.max FROM document_latents AS x WHERE x.run_id = ? AND x.latent = ?
"""
_DOCUMENT = """
SELECT d.doc_id, left(d.text, 300), d.label, d.split, c.cluster, p.predicted
FROM documents AS d
LEFT JOIN clusters AS c ON c.run_id = $run AND c.doc_id = d.doc_id
LEFT JOIN probe_predictions AS p
    ON p.run_id = $run AND p.doc_id = d.doc_id AND p.representation = 'latents' AND p.k IS NULL
    AND p.task = first_task($run)
WHERE d.run_id = $run AND d.doc_id IN (SELECT unnest($documents)) ORDER BY d.doc_id
"""
_LATENT = """
SELECT f.latent, f.top_token, f.top_token_share, f.density, f.n_documents, f.max_activation
FROM features AS f
WHERE f.run_id = $run AND f.latent IN (SELECT unnest($latents)) ORDER BY f.n_fires DESC, f.latent
LIMIT $most
"""


class Groups(NamedTuple):
    """One way to tell points apart. names: of the groups; of: each point's group."""

    names: list[str]
    of: np.ndarray


@dataclass(frozen=True)
class Places:
    """Points of a map. ids: of documents or latents, ascending; x, y: float32."""

    ids: np.ndarray
    x: np.ndarray
    y: np.ndarray
    groups: dict[str, Groups]


class Glance(NamedTuple):
    """A document in a line. text: its beginning. predicted: by the probe, of a held-out one."""

    doc_id: int
    text: str
    label: str | None
    split: str
    cluster: int | None
    predicted: str | None

    @property
    def title(self) -> str:
        """Its first line, or the beginning of that."""
        return self.text.strip().partition("\n")[0].strip() or f"document {self.doc_id}"

    @property
    def rest(self) -> str:
        """What follows the first line, on one line."""
        return " ".join(self.text.strip().partition("\n")[2].split())


class LatentGlance(NamedTuple):
    """A latent in a line, as ``features`` has it."""

    latent: int
    top_token: str | None
    top_token_share: float | None
    density: float
    n_documents: int
    max_activation: float | None


def documents(store: duckdb.DuckDBPyConnection, run_id: str, pooled: bool = False) -> Places:
    """Documents by their latents, weighed as for clusters; pooled: by their mean activations as
    they are, which is what probes read. Raises ``Missing`` if the run has no map."""
    x, y = ("pooled_x", "pooled_y") if pooled else ("x", "y")
    found = _found(store, run_id, _DOCUMENTS.format(x=x, y=y))
    ways = {name: _groups(found[name]) for name in ("label", "cluster", "split", "probe")}
    massive = _groups(found["massive"])
    if len(massive.names) > 1:
        ways["massive tokens"] = massive
    return _places(found, "doc_id", ways)


def latents(store: duckdb.DuckDBPyConnection, run_id: str) -> Places:
    """Latents by their decoder rows. Raises ``Missing`` if the run has no map."""
    found = _found(store, run_id, _LATENTS)
    return _places(found, "id", {n: _groups(found[n]) for n in ("cluster", "density")})


def strengths(
    store: duckdb.DuckDBPyConnection, run_id: str, latent: int
) -> tuple[np.ndarray, np.ndarray]:
    """Documents in which a latent fires, and its mean activation in each."""
    found = store.execute(_STRENGTHS, [run_id, latent]).fetchnumpy()
    return found["doc_id"], found["mean"]


def glances(store: duckdb.DuckDBPyConnection, run_id: str, chosen: list[int]) -> list[Glance]:
    """Documents in a line each, by number."""
    given = {"run": run_id, "documents": chosen}
    return [Glance(*row) for row in store.execute(_DOCUMENT, given).fetchall()]


def latent_glances(
    store: duckdb.DuckDBPyConnection, run_id: str, chosen: list[int], most: int = 200
) -> list[LatentGlance]:
    """Latents in a line each, those first that fire most often."""
    given = {"run": run_id, "latents": chosen, "most": most}
    return [LatentGlance(*row) for row in store.execute(_LATENT, given).fetchall()]


def members(
    store: duckdb.DuckDBPyConnection,
    run_id: str,
    cluster: int | None = None,
    label: str | None = None,
) -> list[int]:
    """Documents of a cluster or of a label; of neither: those that hold a massive token. Raises
    ``QueryError`` if there is none."""
    if cluster is None and label is None:
        query = "SELECT doc_id FROM document_map WHERE run_id = ? AND massive > ?"
        value = 0
    elif cluster is not None:
        query, value = "SELECT doc_id FROM clusters WHERE run_id = ? AND cluster = ?", cluster
    else:
        query = "SELECT DISTINCT y.doc_id FROM labels_of(?) AS y WHERE y.value = ?"
        value = label  # type: ignore[assignment]
    found = sorted(doc_id for (doc_id,) in store.execute(query, [run_id, value]).fetchall())
    if not found:
        what = "a massive token" if label is None else f"label {label!r}"
        what = what if cluster is None else f"cluster {cluster}"
        raise QueryError(f"run {run_id} has no documents of {what}")
    return found


def _found(store: duckdb.DuckDBPyConnection, run_id: str, query: str) -> pa.Table:
    found = store.sql(query, params={"run": run_id, "none": NONE}).to_arrow_table()
    if not len(found):
        raise Missing(
            f"run {run_id} has no map: runs of older releases and those with map.enabled = false "
            "have none; run it again with the map"
        )
    return found


def _places(found: pa.Table, ids: str, ways: dict[str, Groups]) -> Places:
    told = {name: way for name, way in ways.items() if len(way.names) > 1}
    numbers, x, y = (found[name].to_numpy() for name in (ids, "x", "y"))
    return Places(numbers, x, y, told or {"all": _groups(pa.array(["all"] * len(found)))})


def _groups(values: pa.Array | pa.ChunkedArray) -> Groups:
    """The largest groups first, and what is none of them last."""
    whole = values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
    coded = whole.dictionary_encode()
    names, of = coded.dictionary.to_pylist(), coded.indices.to_numpy()
    counts = np.bincount(of, minlength=len(names))
    order = sorted(range(len(names)), key=lambda at: (names[at] == NONE, -counts[at], names[at]))
    place = np.empty(len(names), np.int64)
    place[order] = np.arange(len(names))
    listed = [str(names[at]) for at in order]
    if len(listed) > MOST_GROUPS:
        listed = [*listed[: MOST_GROUPS - 1], REST]
        place = np.minimum(place, MOST_GROUPS - 1)
    return Groups(listed, place[of])
