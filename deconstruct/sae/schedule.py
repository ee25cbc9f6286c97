"""What of a training depends on its length alone: its steps, and when a latent counts as dead."""

from __future__ import annotations

from deconstruct.config import SaeConfig

DEAD_SHARE_OF_RUN = 0.1
DEAD_TOKENS_AT_MOST = 10_000_000
FROZEN_STEPS = 4
"""Batches that the scale of an SAE is fitted on of which nothing is trained: one number."""


def step_count(config: SaeConfig) -> int:
    """How many steps ``config.tokens`` come to; of an SAE that is not trained, `FROZEN_STEPS`."""
    steps = max(1, round(config.tokens / config.batch_size))
    return min(steps, FROZEN_STEPS) if config.frozen == "all" else steps


def dead_after(config: SaeConfig) -> int:
    """Tokens without firing after which a latent counts as dead."""
    share = min(DEAD_TOKENS_AT_MOST, int(DEAD_SHARE_OF_RUN * config.tokens))
    return config.dead_after_tokens or max(config.batch_size, share)
