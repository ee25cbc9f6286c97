"""Labels that belong to other documents: the control of a probe.

A probe that finds something in shuffled labels finds a fault of its own: a leak, or a choice that
was made on what it is judged by. Documents are dealt the labels of others of their split, so that
the classes keep their sizes in both.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def shuffled(
    labels: NDArray[np.generic], split: NDArray[np.generic], seed: int
) -> NDArray[np.generic]:
    """The labels permuted over the documents that have one, within each split apart.

    labels: [documents, ...], of any type; an object None, or a NaN, is none, and stays where it is.
    split: [documents], as `Documents.split` has it. The same seed gives the same permutation
    whatever the labels are.
    """
    found = labels.copy()
    labelled = np.array([_is_one(label) for label in labels], bool)
    for place, name in enumerate(sorted({str(one) for one in split})):
        rows = np.flatnonzero(labelled & (split == name))
        order = np.random.default_rng([seed, place]).permutation(len(rows))
        found[rows] = labels[rows[order]]
    return found


def _is_one(label: object) -> bool:
    return label is not None and not (isinstance(label, float) and np.isnan(label))
