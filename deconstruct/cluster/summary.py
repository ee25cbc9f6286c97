"""What marks each cluster: its latents, words, labels and nearest documents."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deconstruct.cluster.kmeans import Labels
from deconstruct.cluster.methods import Matrix, class_keywords
from deconstruct.cluster.sample import Sample
from deconstruct.latents.pooling import Ids


@dataclass(frozen=True)
class Placed:
    """Where each document that is in a cluster stands, ascending by doc_id.

    cluster, distance: [members]. support: [members], nan of those that were not fitted.
    """

    doc_id: Ids
    cluster: Labels
    distance: NDArray[np.float64]
    support: NDArray[np.float64]


def summary(
    sample: Sample, placed: Placed, rows: Matrix, labels: Labels, texts: list[str], top: int
) -> list[dict[str, Any]]:
    """Rows of ``cluster_summary``, but for ``jaccard``.

    rows, labels, texts: of the fitted documents, which latents and words are told from: a cluster's
    latents are those whose mean weight in it most exceeds all's. Size, labels and exemplars are of
    all documents.
    """
    k = int(labels.max()) + 1
    keywords = class_keywords(texts, labels, k, top)
    overall = np.asarray(rows.mean(0)).ravel()
    found = []
    for number in range(k):
        excess = np.asarray(rows[np.flatnonzero(labels == number)].mean(0)).ravel() - overall
        best = np.argsort(-excess, kind="stable")[:top]
        inside = np.flatnonzero(placed.cluster == number)
        named = [str(x) for x in sample.label[placed.doc_id[inside]] if x is not None]
        names, counts = np.unique(named, return_counts=True) if named else ([None], [0])
        most = int(np.argmax(counts))
        nearest = inside[np.argsort(placed.distance[inside], kind="stable")][:top]
        found.append(
            {
                "cluster": number,
                "size": len(inside),
                "top_label": None if names[most] is None else str(names[most]),
                "top_label_share": counts[most] / len(named) if named else None,
                "latents": [int(j) for j in best if excess[j] > 0],
                "keywords": keywords[number],
                "exemplars": placed.doc_id[nearest].tolist(),
            }
        )
    return found
