"""The training of one SAE as a flow of its own, for workers of the GPU pool."""

from __future__ import annotations

from pathlib import Path

from prefect import flow

from deconstruct.config import SaeConfig
from flows.liveness import hold_lock
from tasks.sae import train_here
from tasks.stage import Ref


@flow(name="train", persist_result=True, result_serializer="json")
def train(
    home: str,
    config: SaeConfig,
    activations: Ref,
    output: Ref | None = None,
    device: str = "auto",
) -> Ref:
    """Train an SAE on activations in the shared data root ``home``; returns its artifact's name.

    output: activations of another site, for a transcoder.
    """
    hold_lock(Path(home))
    return train_here(home, config, activations, output, device)
