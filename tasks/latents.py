"""Task of the stage latents: every recorded token through the SAE."""

from __future__ import annotations

from deconstruct.artifacts import DataRoot, Recipe
from deconstruct.config import LatentsConfig
from deconstruct.latents import stage as library
from tasks.stage import Ref, stage_task


@stage_task("latents")
def latents(
    recipes: list[Recipe],
    home: str,
    config: LatentsConfig,
    sae: Ref,
    activations: Ref,
    corpus: Ref,
    device: str,
) -> list[Ref]:
    """Encode the corpus with the SAE of ``recipes[0]``."""
    store = DataRoot(home)
    upstream = (ref.open(store) for ref in (sae, activations, corpus))
    return [Ref.of(library.encode(store, config, *upstream, device=device))]
