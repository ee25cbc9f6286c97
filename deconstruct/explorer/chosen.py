"""Sets of documents in an address: a bit for each number, so that a selection is a link."""

from __future__ import annotations

import base64
import binascii

import numpy as np

from deconstruct.store import QueryError

LONGEST = 60_000
"""Characters of an address that servers take: a set of numbers below 360,000."""


def packed(chosen: np.ndarray) -> str:
    """The set of numbers ``chosen`` as base64 without padding: bit ``n % 8`` of byte ``n // 8``."""
    bits = np.zeros(int(chosen.max()) + 1 if len(chosen) else 0, bool)
    bits[chosen] = True
    sent = base64.urlsafe_b64encode(np.packbits(bits, bitorder="little").tobytes())
    return sent.decode("ascii").rstrip("=")


def unpacked(text: str) -> np.ndarray:
    """The numbers of a set, ascending. Raises ``QueryError`` for what `packed` never gave."""
    try:
        if len(text) > LONGEST:
            raise ValueError
        held = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError) as error:
        raise QueryError(
            f"selected = {text[:20]!r}: a set of documents as the map writes it"
        ) from error
    return np.flatnonzero(np.unpackbits(np.frombuffer(held, np.uint8), bitorder="little"))
