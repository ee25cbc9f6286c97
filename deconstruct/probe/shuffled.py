"""Labels that belong to other documents: the control of a probe.

A probe that finds something in shuffled labels finds a fault of its own: a leak, or a choice that
was made on what it is judged by. Documents are dealt the labels of others of their split, so that
the classes keep their sizes in both.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Labels = NDArray[Any]


def shuffled(labels: Labels, seed: int, split: Labels | None = None) -> Labels:
    """The labels permuted over the documents that have one, within each split apart.

    labels: [documents, ...], of any type; an object None, or a NaN, is none, and stays where it is.
    split: [documents], as `Documents.split` has it; None: all are of one. The same seed gives the
    same permutation whatever the labels are.
    """
    found = labels.copy()
    labelled = np.array([_is_one(label) for label in labels], bool)
    names = np.zeros(len(labels)) if split is None else split
    for place, name in enumerate(np.unique(names)):
        rows = np.flatnonzero(labelled & (names == name))
        order = np.random.default_rng([seed, place]).permutation(len(rows))
        found[rows] = labels[rows[order]]
    return found


def _is_one(label: object) -> bool:
    return label is not None and not (isinstance(label, float) and np.isnan(label))
