"""Tasks of the stage sae: one SAE, or many together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from deconstruct.artifacts import DataRoot, Recipe
from deconstruct.common.errors import files_said
from deconstruct.config import SaeConfig
from deconstruct.sae.stage import STAGE, train_all
from tasks.pool import pool_task
from tasks.spread import Spread, on_engine
from tasks.stage import Inputs, Ref, opened, part_task


def train_members(
    recipes: Sequence[Recipe], home: str, configs: Sequence[SaeConfig], inputs: Inputs
) -> list[Ref]:
    """Train SAEs together, in this process; or in groups, side by side, as the input ``engine``
    says.

    Each group makes one pass over the activations. An engine of threads makes one group of all:
    they share this machine's cores in one pass.
    """
    given = dict(inputs)
    engine: Spread = given.pop("engine")
    groups = 1 if engine.kind == "threads" else min(engine.workers, len(configs))
    if groups == 1 and engine.address is None:
        return train_group(home, configs, given)
    dealt = [list(configs[first::groups]) for first in range(groups)]
    calls = [
        {"home": home, "configs": some, "inputs": given, "threads": engine.threads()}
        for some in dealt
    ]
    found = {ref.key: ref for refs in on_engine(engine, members, calls) for ref in refs}
    return [found[recipe.key] for recipe in recipes]


sae = pool_task(STAGE, tags=["training"])
sae_members = pool_task(STAGE, train_members, ["training"])


@part_task("members", "training")
def members(
    home: str, configs: list[SaeConfig], inputs: dict[str, Any], threads: int | None
) -> list[Ref]:
    """Train one group of a sweep's members, in a process of an engine.

    threads: of the CPU; their number changes no byte. None: all of this process'.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    with files_said():
        return train_group(home, configs, inputs)


def train_group(home: str, configs: Sequence[SaeConfig], inputs: Inputs) -> list[Ref]:
    """Train some SAEs in this process, in passes that those share which can."""
    root = DataRoot(home)
    return [Ref.of(artifact) for artifact in train_all(root, configs, **opened(root, inputs))]
