"""Task of the stage activations: one forward pass for every site that is missing."""

from __future__ import annotations

from deconstruct.activations import stage as library
from deconstruct.artifacts import DataRoot, Recipe
from deconstruct.common.site import Site
from deconstruct.config import ActivationsConfig
from deconstruct.model.resolve import ResolvedModel
from tasks.spread import Engine, spread_over
from tasks.stage import Ref, stage_task


@stage_task("activations")
def activations(
    recipes: list[Recipe],
    home: str,
    config: ActivationsConfig,
    model: ResolvedModel,
    corpus: Ref,
    dtype: str,
    device: str,
    engine: Engine,
) -> list[Ref]:
    """Extract the sites of ``config``, one artifact each, in their order."""
    store = DataRoot(home)
    made = library.extract(
        store,
        config,
        model,
        corpus.open(store),
        dtype=dtype,
        device=device,
        spread=spread_over(engine, home, config, model, dtype, device),
    )
    return [Ref.of(made[Site.parse(site)]) for site in config.sites]
