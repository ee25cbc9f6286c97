"""What a draft keeps for a stage that goes on after a kill: its own, and as it was written."""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from pathlib import Path

from deconstruct.artifacts.manifest import RECIPE


def checksum(parts: Iterable[tuple[str, bytes | memoryview]], folder: Path) -> int:
    """A checksum over names, bytes, and what ``folder`` is the beginning of.

    parts: ordered by name, taken one by one. Work that goes on from a flipped bit, or from
    another's state, ends well, and elsewhere.
    """
    recipe = folder / RECIPE
    total = zlib.crc32(recipe.read_bytes()) if recipe.exists() else 0
    for name, content in parts:
        total = zlib.crc32(content, zlib.crc32(name.encode(), total))
    return total
