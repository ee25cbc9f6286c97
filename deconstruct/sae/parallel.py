"""Data-parallel training: the same step on several processes, each with its share of the batch.

    torchrun --nproc-per-node 2 -m deconstruct.sae.parallel HOME KEY [sae.k=64 ...]

trains an SAE on the activations artifact KEY of the data root HOME. Every process holds all
parameters and takes every n-th row of a batch; gradients are averaged before they are projected,
clipped and used, so that all make the same update and stay equal to the last bit. Gloo carries
what lies on CPUs (also the counts of a training on GPUs), NCCL what lies on GPUs. BatchTopK chooses
its pairs within each process' rows: n shares of k latents per token.
"""

from __future__ import annotations

import hashlib
import os
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from deconstruct.common.errors import ConfigError, DeconstructError
from deconstruct.common.showing import say
from deconstruct.common.temporary import own_folder
from deconstruct.sae.engines.ranks import is_first

WAIT_SECONDS = 30
"""For the first process, which may take so much longer to start, to say what is wrong."""


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
    from deconstruct.activations.reader import ActivationReader
    from deconstruct.artifacts import DataRoot
    from deconstruct.config import load as load_config
    from deconstruct.sae import stage
    from deconstruct.sae.files import load
    from deconstruct.sae.training.loop import train

    config = load_config(None, overrides).sae
    for field in ("output_site", "patience"):
        value = getattr(config, field)
        if value is not None:
            raise ConfigError(
                f"sae.{field} = {value!r} can't be trained by several processes: leave it out, or "
                "train in one process with `deconstruct run`"
            )
    device = "cpu"
    if torch.cuda.is_available():
        device = f"cuda:{os.environ['LOCAL_RANK']}"
        torch.cuda.set_device(device)  # where NCCL keeps what a process sends
    dist.init_process_group("cpu:gloo,cuda:nccl" if device != "cpu" else "gloo")
    try:
        root = DataRoot(home)
        activations = root.open("activations", key)
        there = [root.find(stage.recipe(config, activations=activations)) is not None]
        dist.broadcast_object_list(there)
        if there[0]:
            return
        if is_first():
            made = stage.train(root, config, activations=activations, device=device)
            say(f"{made.path} {digest(load(made.path).weights())}")
        else:
            reader = ActivationReader(activations, "train")
            batches = reader.batches(config.batch_size, config.seed, device=device)
            with tempfile.TemporaryDirectory(dir=own_folder()) as scratch:
                sae, _ = train(batches, reader.moments, config, Path(scratch), device=device)
            say(digest(sae.weights()))
            batches.close()
    finally:
        dist.destroy_process_group()


if __name__ == "__main__":
    try:
        main(sys.argv[1], sys.argv[2], sys.argv[3:])
    except DeconstructError as error:
        # Said once, by the first: torchrun ends all as soon as one has ended, so the others wait.
        if os.environ.get("RANK", "0") == "0":
            say(f"error: {error}", error=True)
        else:
            time.sleep(WAIT_SECONDS)
        sys.exit(1)
