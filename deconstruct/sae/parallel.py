"""Data-parallel training: the same step on several processes, each with its share of the batch.

    torchrun --nproc-per-node 2 -m deconstruct.sae.parallel HOME KEY [sae.k=64 ...]

trains an SAE on the activations artifact KEY of the data root HOME. Every process holds all
parameters and takes every n-th row of a batch; gradients are averaged before they are projected,
clipped and used, so that all make the same update and stay equal to the last bit. Gloo on CPUs,
NCCL on GPUs. BatchTopK chooses its pairs within each process' rows: n shares of k latents a token.
"""

from __future__ import annotations

import hashlib
import os
import sys
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from deconstruct.errors import ConfigError, DeconstructError
from deconstruct.sae.engine import Engine


def ranks() -> int:
    """How many processes train together; 1 outside of a process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def own_rows(batch: Tensor) -> Tensor:
    """This process' share of a batch [n, d]. Raises ValueError where n does not divide evenly."""
    if ranks() == 1:
        return batch
    if len(batch) % ranks():
        raise ValueError(
            f"sae.batch_size = {len(batch)} can't be shared evenly by {ranks()} processes; "
            "choose a multiple"
        )
    return batch[dist.get_rank() :: ranks()]


def average(tensors: Iterable[Tensor]) -> None:
    """Replace each tensor by its mean over the processes, in place."""
    if ranks() > 1:
        for tensor in tensors:
            dist.all_reduce(tensor)
            tensor.div_(ranks())


def anywhere(fired: Tensor) -> Tensor:
    """Whether a latent fired in any process: bool [d_sae]."""
    if ranks() == 1:
        return fired
    counts = fired.int()
    dist.all_reduce(counts, dist.ReduceOp.MAX)
    return counts.bool()


def take_first(engine: Engine) -> None:
    """Give every process the state of the first one, which alone has checkpoints to go on from."""
    if ranks() > 1:
        state = {name: tensor.clone() for name, tensor in engine.state_dict().items()}
        for tensor in state.values():
            dist.broadcast(tensor, 0)
        engine.load_state_dict(state)


def is_first() -> bool:
    """Whether this process is the one that writes files."""
    return ranks() == 1 or dist.get_rank() == 0


def digest(weights: Mapping[str, Tensor]) -> str:
    """Of names and bytes, so that processes can be seen to agree."""
    whole = hashlib.sha256()
    for name, weight in sorted(weights.items()):
        whole.update(name.encode() + weight.contiguous().numpy().tobytes())
    return whole.hexdigest()


def main(home: str, key: str, overrides: list[str]) -> None:
    """Train as the stage does, in this process of a group that torchrun has started.

    Raises ``ConfigError`` for settings that several processes can't be trained with, before they
    meet.
    """
    from deconstruct.artifact import ArtifactStore
    from deconstruct.config import load as load_config
    from deconstruct.reader import ActivationReader
    from deconstruct.sae import stage
    from deconstruct.sae.formats import load
    from deconstruct.sae.train import train

    config = load_config(None, overrides).sae
    for field in ("output_site", "patience"):
        value = getattr(config, field)
        if value is not None:
            raise ConfigError(
                f"sae.{field} = {value!r} can't be trained by several processes: leave it out, or "
                "train in one process with `deconstruct run`"
            )
    on_gpu = torch.cuda.is_available()
    dist.init_process_group("nccl" if on_gpu else "gloo")
    device = f"cuda:{os.environ['LOCAL_RANK']}" if on_gpu else "cpu"
    try:
        store = ArtifactStore(home)
        activations = store.open("activations", key)
        there = [store.find(stage.recipe(config, activations)) is not None]
        dist.broadcast_object_list(there)
        if there[0]:
            return
        if is_first():
            made = stage.train(store, config, activations, device=device)
            print(made.path, digest(load(made.path).weights()), flush=True)
        else:
            reader = ActivationReader(activations, "train")
            batches = reader.batches(config.batch_size, config.seed)
            with tempfile.TemporaryDirectory() as scratch:
                sae, _ = train(batches, reader.moments, config, Path(scratch), device=device)
            print(digest(sae.weights()), flush=True)
            batches.close()
    finally:
        dist.destroy_process_group()


if __name__ == "__main__":
    try:
        main(sys.argv[1], sys.argv[2], sys.argv[3:])
    except DeconstructError as error:
        if os.environ.get("RANK", "0") == "0":  # said once
            print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
