"""The training of one SAE as a flow of its own, for workers of the GPU pool."""

from __future__ import annotations

from prefect import flow

from deconstruct.artifacts import DataRoot
from deconstruct.config import SaeConfig
from deconstruct.store.query import data_root
from flows.environment import give_caches_a_place
from flows.liveness import hold_lock
from flows.ui import speak
from tasks.stage import Ref
from tasks.training import train_here


@flow(name="train", persist_result=True, result_serializer="json")
def train(
    home: str | None,
    config: SaeConfig,
    activations: Ref,
    output: Ref | None = None,
    start: Ref | None = None,
    device: str = "auto",
) -> Ref:
    """Train an SAE on activations in the data root ``home``; returns its artifact's name.

    home: shared with the pipeline's worker; none: this worker's own, which shares its remote.
    output: activations of another site, for a transcoder. start: the SAE to start from; none: the
    seed.
    """
    speak()
    root = DataRoot(data_root(home))
    hold_lock(root.path)
    give_caches_a_place(root.path)
    inputs = {"activations": activations, "output": output, "start": start, "device": device}
    return train_here([], str(root.path), config, inputs)[0]
