"""Task of the stage probe: what the latents know of the labels, beside baselines."""

from __future__ import annotations

from deconstruct.artifacts import DataRoot, Recipe
from deconstruct.config import ProbeConfig
from deconstruct.probe import stage as library
from tasks.stage import Ref, stage_task


@stage_task("probe")
def probe(
    recipes: list[Recipe],
    home: str,
    config: ProbeConfig,
    corpus: Ref,
    latents: Ref,
    activations: Ref,
) -> list[Ref]:
    """Fit and score the probes of ``recipes[0]``."""
    store = DataRoot(home)
    upstream = (ref.open(store) for ref in (corpus, latents, activations))
    return [Ref.of(library.probe(store, config, *upstream))]
