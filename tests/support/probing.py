"""Tasks of probes and rows of documents that are planted, without any artifact."""

from __future__ import annotations

import numpy as np

from deconstruct.probe.task import Sample, Task


def task_of(
    labels: list[list[str]],
    train: np.ndarray,
    kind: str = "class",
    groups: np.ndarray | None = None,
) -> Task:
    """labels: of each document, numbered as they come. train: [documents] of bool."""
    count = len(labels)
    groups = np.arange(count) if groups is None else groups
    sample = Sample(count, np.flatnonzero(train), np.flatnonzero(~train), groups)
    return Task.of(kind, dict(enumerate(labels)), sample)
