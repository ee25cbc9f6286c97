"""Points laid out in the plane so that near ones stay near: t-SNE, on one thread.

t-SNE (van der Maaten and Hinton 2008) by openTSNE (Policar et al. 2024), begun from the first two
principal components, which keeps something of the whole's shape (Kobak and Berens 2019). What is
computed on several threads would depend on their number: it is all on one.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from deconstruct.config import MapConfig

Floats = NDArray[np.float64]
LEAST = 5
"""Points that a map needs: fewer have no neighbours to be near."""
BY_GRID = 4000
"""From so many points on, forces are interpolated on a grid (Linderman et al. 2019); of fewer,
summed over a tree, which is faster then."""
EXAGGERATED = 250
"""Iterations at the beginning, in which neighbours attract each other twelve times as much."""
EVERY = 25
"""Iterations between two reports."""
NEARBY, NEIGHBOURS = 10, 5
"""Neighbours by which a map is judged, and among which a point comes to stand that came later."""
BLOCK = 1024


def iterations(config: MapConfig) -> int:
    """How many a layout takes."""
    return EXAGGERATED + config.iterations


def laid_out(points: Floats, config: MapConfig, advance: Callable[[int], None]) -> Floats:
    """[n, 2], centred, of points [n, d], n at least `LEAST`.

    Neighbourhoods are of ``config.perplexity`` points, or a third of all where there are few. The
    caller holds `one_quiet_thread`.
    """
    from openTSNE import TSNE, affinity, initialization

    n, seed = len(points), config.seed
    near = affinity.PerplexityBasedNN(
        points, min(config.perplexity, (n - 1) / 3), method="exact", n_jobs=1, random_state=seed
    )

    def report(iteration: int, error: float, embedding: Floats) -> None:
        advance(EVERY)

    embedding = TSNE(
        n_iter=config.iterations,
        early_exaggeration_iter=EXAGGERATED,
        negative_gradient_method="fft" if n >= BY_GRID else "bh",
        callbacks=report,
        callbacks_every_iters=EVERY,
        n_jobs=1,
        random_state=seed,
    ).fit(affinities=near, initialization=_begun(points, initialization.rescale))
    found: Floats = np.array(embedding, np.float64)
    found -= found.mean(0)
    return found


def _begun(points: Floats, rescale: Callable[[Floats], Floats]) -> Floats:
    """The first two principal components, small; of points on a line the second is nothing."""
    centred = points - points.mean(0)
    _, _, axes = np.linalg.svd(centred, full_matrices=False)
    axes = axes[:2] * np.where(axes[:2].sum(1, keepdims=True) < 0, -1, 1)
    plane = centred @ axes.T
    plane = np.pad(plane, ((0, 0), (0, 2 - plane.shape[1])))
    # Equal points would stay on one spot for ever: all forces between them are nothing.
    plane += np.random.default_rng(0).normal(0, 1e-6 * max(plane.std(), 1e-12), plane.shape)
    return np.asarray(rescale(plane), np.float64)


def kept(points: Floats, places: Floats) -> float:
    """Of each point's ten nearest, the share that are among its ten nearest in the plane, on
    average: 1 of a map that shows all that is near, 10 / n of one that shows nothing."""
    from sklearn.neighbors import NearestNeighbors

    count = min(NEARBY, len(points) - 1)
    before, after = (
        NearestNeighbors(n_neighbors=count, n_jobs=1).fit(one).kneighbors(return_distance=False)
        for one in (points, places)
    )
    both = [len(np.intersect1d(*pair)) for pair in zip(before, after, strict=True)]
    return float(np.mean(both)) / count


def placed_among(points: Floats, fitted: Floats, places: Floats) -> Floats:
    """Where points [n, d] belong that were not laid out: [n, 2], the median of the places [m, 2] of
    their five nearest by cosine of the fitted ones [m, d]."""
    unit, count = _of_unit_length(fitted), min(NEIGHBOURS, len(fitted))
    found = np.empty((len(points), 2))
    for first in range(0, len(points), BLOCK):
        some = slice(first, first + BLOCK)
        cosine = _of_unit_length(points[some]) @ unit.T
        nearest = np.argpartition(-cosine, count - 1, axis=1)[:, :count]
        found[some] = np.median(places[nearest], axis=1)
    return found


def _of_unit_length(points: Floats) -> Floats:
    length = np.linalg.norm(points, axis=1, keepdims=True)
    return np.asarray(points / np.where(length > 0, length, 1))
