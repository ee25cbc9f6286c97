"""Rows in clusters, beside the same rows without structure: what every representation gets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deconstruct.cluster.kmeans import Labels, Rows, cosines, shuffled
from deconstruct.cluster.stability import FEWEST_FITS, Fits, choose, fit_parts

NULL_SHARE = 4
"""The null has a quarter of the fits: its stability is near 0, and hardly varies."""
NULL_SEED = 1 << 40


@dataclass(frozen=True)
class Grouping:
    """Rows in clusters, with what the same method makes of their shuffled columns.

    real, null: fits for each number of clusters that was tried. at: which of the numbers it is.
    """

    real: Fits
    null: Fits
    at: int

    @property
    def labels(self) -> Labels:
        """[n]: the cluster of each row."""
        labels: Labels = self.real.labels[self.at]
        return labels

    def metrics(self, label: NDArray[Any]) -> list[tuple[str, str, float]]:
        """Rows (kind, metric, value) of ``cluster_metrics``. label: [n], None where unknown."""
        found = [
            (kind, metric, value)
            for kind, fits in (("value", self.real), ("null", self.null))
            for metric, value in scores(fits.labels[self.at], label).items()
        ]
        for kind, fits in (("value", self.real), ("null", self.null)):
            if np.isfinite(fits.silhouette[self.at]):
                found.append((kind, "silhouette", float(fits.silhouette[self.at])))
        value, error = self.real.stability(self.at)
        jaccard, support = self.real.found_again(self.at)
        stable = {
            "ari": value,
            "standard_error": error,
            "null_ari": self.null.stability(self.at)[0],
            "jaccard": float(np.nanmean(jaccard)),
            "support": float(np.nanmean(support)),
        }
        return found + [("stability", metric, value) for metric, value in stable.items()]

    def curve(self) -> list[dict[str, Any]]:
        """Rows of ``cluster_curve``."""
        rows = []
        for at, k in enumerate(self.real.ks):
            value, error = self.real.stability(at)
            silhouette = float(self.real.silhouette[at])
            rows.append(
                {
                    "k": k,
                    "stability": value,
                    "standard_error": error,
                    "null_stability": self.null.stability(at)[0],
                    "silhouette": silhouette if np.isfinite(silhouette) else None,
                    "chosen": at == self.at,
                }
            )
        return rows


def grouped(
    rows: Rows,
    groups: NDArray[np.int64],
    ks: Sequence[int],
    fits: int,
    seed: int,
    advance: Callable[[int], None],
) -> Grouping:
    """Group rows [n, features] of unit length. groups: [n], of what is left out together.

    One matrix of cosines is held at a time. Called within `one_blas_thread`.
    """
    real = fit_parts(cosines(rows), groups, ks, fits, seed, advance)
    columns = shuffled(rows, np.random.default_rng([seed, NULL_SEED]))
    null = fit_parts(cosines(columns), groups, ks, null_fits(fits), seed, advance)
    return Grouping(real, null, choose(real, null))


def null_fits(fits: int) -> int:
    """How many fits the null has."""
    return max(FEWEST_FITS, fits // NULL_SHARE)


def work(fits: int) -> int:
    """How often `grouped` advances."""
    return fits + null_fits(fits) + 2


def scores(assigned: Labels, label: NDArray[Any]) -> dict[str, float]:
    """How many clusters and rows there are, and, where labels are known, agreement with them."""
    from sklearn import metrics as agreement

    metrics = {"k": float(assigned.max() + 1), "documents": float(len(assigned))}
    known = np.array([one is not None for one in label], dtype=bool)
    if known.any():
        truth, found = label[known].astype(str), assigned[known]
        metrics["nmi"] = float(agreement.normalized_mutual_info_score(truth, found))
        metrics["ami"] = float(agreement.adjusted_mutual_info_score(truth, found))
        metrics["ari"] = float(agreement.adjusted_rand_score(truth, found))
        majority = sum(
            np.unique(truth[found == c], return_counts=True)[1].max() for c in np.unique(found)
        )
        metrics["purity"] = float(majority / len(truth))
    return metrics
