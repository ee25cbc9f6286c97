"""The figures, each a function of an open store and a run; `ALL`: those that need no more."""

from __future__ import annotations

from collections.abc import Callable

import duckdb

from deconstruct.report.chart import Chart
from deconstruct.report.figures.dictionary import density

Figure = Callable[[duckdb.DuckDBPyConnection, str], Chart]

ALL: tuple[Figure, ...] = (density,)
"""In the order of the report. Each raises ``Missing`` where a run has nothing of it."""

__all__ = ["ALL", "Figure", "density"]
