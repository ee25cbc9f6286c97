"""Names of models whose weights are drawn anew: ``random:<seed>:<name>``."""

from __future__ import annotations

from typing import NamedTuple

from deconstruct.config.base import LARGEST_SEED

RANDOM = "random:"


class Named(NamedTuple):
    """What a model's name says. seed: of weights that are drawn anew; None: they stay as they are.
    itself: the name of the model that they are those of."""

    seed: int | None
    itself: str


def named(name: str) -> Named:
    """``"random:0:gpt2"`` is seed 0 and ``"gpt2"``; any other name stays as it is.

    Raises ``ValueError`` for a name that begins so and goes on otherwise.
    """
    if not name.startswith(RANDOM):
        return Named(None, name)
    seed, colon, itself = name.removeprefix(RANDOM).partition(":")
    drawn = seed.isascii() and seed.isdigit() and int(seed) <= LARGEST_SEED
    if not (colon and drawn and itself.strip()) or itself.startswith(RANDOM):
        raise ValueError(
            f"{name!r} is no model with weights drawn anew; write random:<seed>:<name>, as in "
            f"random:0:openai-community/gpt2, with a seed from 0 to {LARGEST_SEED}"
        )
    return Named(int(seed), itself)


def digest_of_redrawn(digest: str, seed: int | None) -> str:
    """Of a model of ``digest`` whose weights are drawn anew by ``seed``; None: they are not."""
    return digest if seed is None else f"{RANDOM}{seed}:{digest}"
