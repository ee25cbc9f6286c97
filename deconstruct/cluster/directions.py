"""Latents grouped by decoder direction: which of them go together."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from deconstruct.artifacts import Artifact
from deconstruct.cluster.groupings import grouped
from deconstruct.cluster.kmeans import centres_of
from deconstruct.cluster.tables import LATENT_CLUSTERS
from deconstruct.common.errors import ConfigError
from deconstruct.config import ClusterConfig

DECODER = "decoder"
"""What the representation is called."""


def group_latents(
    latents: Artifact, config: ClusterConfig, clusters: int, advance: Callable[[int], None]
) -> tuple[pa.Table, list[tuple[str, str, float]]]:
    """Rows of ``latent_clusters``, and (kind, metric, value) of ``cluster_metrics``.

    Spherical k-means on the decoder rows of the latents that fire. Of more than
    ``config.max_documents`` of them so many are fitted, drawn by the seed, and the others assigned
    to the nearest centre. Raises ``ConfigError`` if ``clusters`` is more than there are to fit.
    """
    living, rows = _directions(latents)
    draw = np.random.default_rng([config.seed, len(living)])
    fitted = np.sort(draw.permutation(len(living))[: config.max_documents])
    if clusters > len(fitted):
        raise ConfigError(
            f"cluster.latents = {clusters} is more than the {len(fitted)} latents that are "
            f"grouped; take {len(fitted)} or fewer"
        )
    alone = np.arange(len(fitted))
    found = grouped(rows[fitted], alone, (clusters,), config.fits, config.seed, advance)
    cosine = rows @ centres_of(rows[fitted], found.labels).T
    assigned = cosine.argmax(1)
    assigned[fitted] = found.labels
    support = np.full(len(living), np.nan)
    support[fitted] = found.real.found_again(0)[1]
    distance = 1 - cosine[np.arange(len(living)), assigned]
    table = LATENT_CLUSTERS.of(living, assigned, distance, pa.array(support, from_pandas=True))
    return table, found.metrics(np.full(len(fitted), None, object))


def _directions(latents: Artifact) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The latents that fire, and their decoder rows at unit length."""
    fires = latents.table("features.parquet", ["n_fires"])["n_fires"].to_numpy() > 0
    living, parts = [], []
    for block in latents.rows("directions.parquet", ["latent", "decoder"]):
        latent = block["latent"].to_numpy()
        mine = fires[latent]
        decoder = block["decoder"].combine_chunks().flatten().to_numpy().reshape(len(latent), -1)
        living.append(latent[mine].astype(np.int64))
        parts.append(decoder[mine].astype(np.float64))
    rows = np.concatenate(parts)
    return np.concatenate(living), rows / np.maximum(
        np.linalg.norm(rows, axis=1, keepdims=True), 1e-12
    )
