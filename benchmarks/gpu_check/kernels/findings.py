"""Checks by name, each with the number that it is decided by."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class Findings:
    """Rows of checks. at: what stands before each name, such as the step."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self.at = ""

    def at_most(self, name: str, value: Tensor | float, limit: float) -> None:
        """The value, which is bad above the limit, and where it is not a number."""
        self._add(name, float(value), limit, bool(value <= limit))

    def true(self, name: str, ok: object) -> None:
        """What is right or wrong."""
        self._add(name, None, None, bool(ok))

    def equal(self, name: str, found: Tensor, wanted: Tensor) -> None:
        """Tensors that are to agree bit by bit."""
        self._add(name, None, None, torch.equal(found, wanted))

    def note(self, name: str, value: float, limit: float | None = None) -> None:
        """A number that nothing is decided by."""
        self._add(name, value, limit, True)

    @property
    def bad(self) -> list[dict[str, Any]]:
        """The rows that are not right."""
        return [row for row in self.rows if not row["ok"]]

    def _add(self, name: str, value: float | None, limit: float | None, ok: bool) -> None:
        self.rows.append({"check": self.at + name, "value": value, "limit": limit, "ok": ok})


def relative(found: Tensor, wanted: Tensor) -> float:
    """|found - wanted| over |wanted|, in float64."""
    gap = (found.double() - wanted.double()).norm() / wanted.double().norm().clamp(min=1e-30)
    return float(gap)
