"""A stage: what it is called, what decides its result, and what makes that."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Stage:
    """What whoever runs a stage needs to know of it; each stage's module ends with its own.

    recipe: ``recipe(config, **inputs)``, cheap. make: ``make(root, config, **inputs)`` and, as
    keywords that can't change the result, ``device`` and the like: finds the artifact of the
    recipe in a `DataRoot`, or makes it. The inputs are artifacts, or what else carries a digest;
    both take them by the same names. Each gives one; of activations, one a hook site.
    """

    name: str
    recipe: Callable[..., Any]
    make: Callable[..., Any]
