"""Latents in the plane, by their decoder rows; and how strongly each fires."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from deconstruct.artifacts import Artifact
from deconstruct.config import MapConfig
from deconstruct.interpretation.stage import sampled
from deconstruct.map.layout import LEAST, Floats, kept, laid_out
from deconstruct.map.tables import LATENT_HISTOGRAM, LATENT_MAP

BINS = 20


def latent_map(
    latents: Artifact, config: MapConfig, advance: Callable[[int], None]
) -> tuple[pa.Table, dict[str, float | str]]:
    """Rows of `LATENT_MAP`, and facts: ``latents_kept``, the share of neighbours that it keeps
    (`layout.kept`); or, ``latents_skipped``, why there are none.

    Of more living latents than ``config.max_latents`` so many are drawn, by ``config.seed``.
    """
    from sklearn.decomposition import PCA

    chosen = sampled(latents, config.max_latents, config.seed)
    if len(chosen) < LEAST:
        reason = f"{len(chosen)} latents fire in the corpus; a map of latents needs {LEAST}"
        return LATENT_MAP.empty(), {"latents_skipped": reason}
    directions = _directions(latents, chosen)
    width = min(config.components, *(size - 1 for size in directions.shape))
    if width >= 1:
        reduction = PCA(width, svd_solver="randomized", random_state=config.seed)
        directions = reduction.fit_transform(directions)
    places = laid_out(directions, config, advance)
    x, y = places.astype(np.float32).T
    facts = {"latents_kept": kept(directions, places)}
    return LATENT_MAP.of(chosen.astype(np.uint32), x, y), {**facts}


def _directions(latents: Artifact, chosen: NDArray[np.int64]) -> Floats:
    """Decoder rows of unit length: [len(chosen), d_in]."""
    parts = []
    for rows in latents.rows("directions.parquet", ["latent", "decoder"]):
        mine = np.isin(rows["latent"].to_numpy(), chosen)
        own = rows["decoder"].combine_chunks().flatten().to_numpy().reshape(len(mine), -1)[mine]
        parts.append(own.astype(np.float64))
    found = np.concatenate(parts)
    length = np.linalg.norm(found, axis=1, keepdims=True)
    return np.asarray(found / np.where(length > 0, length, 1))


class Histogram:
    """Firings of each latent by strength, counted as they are read.

    largest: [d_sae] float32, the strongest activation of each; bins are of equal width up to it.
    """

    def __init__(self, largest: NDArray[np.float32]) -> None:
        self._largest = largest
        self._counts = np.zeros((len(largest), BINS), np.int64)

    def add(self, latent: NDArray[np.int64], activation: NDArray[np.float32]) -> None:
        """Some firings: [n] each."""
        share = activation.astype(np.float64) / self._largest[latent]
        which = np.minimum((share * BINS).astype(np.int64), BINS - 1)
        first = int(latent.min()) if len(latent) else 0  # they come by latent: few at a time
        places = (latent - first) * BINS + which
        counts = np.bincount(places, minlength=0)
        self._counts.reshape(-1)[first * BINS : first * BINS + len(counts)] += counts

    def table(self) -> pa.Table:
        """Rows of `LATENT_HISTOGRAM`."""
        latent, which = np.nonzero(self._counts)
        width = self._largest[latent].astype(np.float64) / BINS
        return LATENT_HISTOGRAM.of(
            latent.astype(np.uint32),
            which.astype(np.uint8),
            (which * width).astype(np.float32),
            ((which + 1) * width).astype(np.float32),
            self._counts[latent, which].astype(np.uint64),
        )
