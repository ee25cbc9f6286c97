"""The figures, each a function of an open store and a run; `ALL`: those that need no more."""

from __future__ import annotations

from collections.abc import Callable

import duckdb

from deconstruct.report.chart import Chart
from deconstruct.report.drawing import careful
from deconstruct.report.figures.clusters import label_mix, stability, support
from deconstruct.report.figures.compare import comparison, controls, matches
from deconstruct.report.figures.dictionary import (
    density,
    massive_latents,
    massive_tokens,
    nearest,
    strength,
)
from deconstruct.report.figures.drift import drift, drifted_latents
from deconstruct.report.figures.fidelity import fidelity, losses, positions
from deconstruct.report.figures.interpretation import intruders
from deconstruct.report.figures.labels import (
    confusion,
    learning_curve,
    probe_curve,
    representations,
)
from deconstruct.report.figures.latent import activations, latent_positions, lift
from deconstruct.report.figures.maps import document_map, latent_map, pooled_map
from deconstruct.report.figures.runs import sweep, trend
from deconstruct.report.figures.training import training

Figure = Callable[[duckdb.DuckDBPyConnection, str], Chart]

ALL: tuple[Figure, ...] = (
    fidelity, losses, controls, trend,
    document_map, pooled_map, label_mix, stability, support,
    probe_curve, representations, learning_curve, confusion,
    density, strength, nearest, massive_tokens, massive_latents, latent_map, intruders, matches,
    training, drift, drifted_latents, sweep, positions,
)  # fmt: skip
"""In the order of the report. Each raises ``Missing`` where a run has nothing of it."""
BY_NAME: dict[str, Figure] = {figure.__name__: careful(figure) for figure in ALL}
"""As pages draw them."""

__all__ = [
    "ALL", "Figure", "activations", "comparison", "confusion", "controls", "density",
    "document_map", "drift", "drifted_latents", "fidelity", "intruders", "label_mix", "latent_map",
    "latent_positions", "learning_curve", "lift", "losses", "massive_latents", "massive_tokens",
    "matches", "nearest", "pooled_map", "positions", "probe_curve", "representations", "stability",
    "strength", "support", "sweep", "training", "trend",
]  # fmt: skip
