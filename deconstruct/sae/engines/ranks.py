"""Several processes that make the same step: each with its rows, gradients averaged."""

from __future__ import annotations

from collections.abc import Iterable

import torch.distributed as dist
from torch import Tensor

from deconstruct.sae.engines.engine import Engine


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
