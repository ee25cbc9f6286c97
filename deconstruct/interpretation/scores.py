"""From items to scores: shares and balanced accuracy, with Wilson's interval."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Z = 1.959964
"""Of a 95% interval."""


class Score(NamedTuple):
    """value: None where nothing was answered. n: answered. failed: could not be read."""

    value: float | None
    n: int
    failed: int
    low: float | None
    high: float | None


def wilson(hits: int, n: int) -> tuple[float, float]:
    """Ends of the 95% interval of a share, ``hits`` of ``n`` > 0 (Wilson 1927)."""
    share, z2 = hits / n, Z * Z
    middle = share + z2 / (2 * n)
    half = Z * np.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    whole = 1 + z2 / n
    return max(0.0, float((middle - half) / whole)), min(1.0, float((middle + half) / whole))


def share_found(found: NDArray[np.bool_], failed: int = 0) -> Score:
    """The share of trials in which the intruder was found. found: [trials answered]."""
    n, hits = len(found), int(found.sum())
    if n == 0:
        return Score(None, 0, failed, None, None)
    return Score(hits / n, n, failed, *wilson(hits, n))


def balanced_accuracy(truth: NDArray[np.bool_], answer: NDArray[np.bool_], failed: int) -> Score:
    """Mean of the shares of true and of false items that are answered rightly; [items] each.

    Whoever always says the same has 0.5. The interval joins those of the two shares by their
    squared distances (Newcombe 1998). No value where one kind has no answer.
    """
    n, shares, below, above = len(truth), [], [], []
    for kind in (True, False):
        own = answer[truth == kind] == kind
        if len(own) == 0:
            return Score(None, n, failed, None, None)
        share = float(own.mean())
        low, high = wilson(int(own.sum()), len(own))
        shares.append(share)
        below.append(share - low)
        above.append(high - share)
    value = float(np.mean(shares))
    low, high = (0.5 * float(np.hypot(ends[0], ends[1])) for ends in (below, above))
    return Score(value, n, failed, value - low, value + high)
