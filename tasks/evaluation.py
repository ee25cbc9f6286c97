"""Task of the stage evaluation: how faithful the SAE is, on held-out documents."""

from __future__ import annotations

from deconstruct.artifacts import DataRoot, Recipe
from deconstruct.config import EvaluationConfig
from deconstruct.evaluation import stage as library
from deconstruct.model.resolve import ResolvedModel
from tasks.stage import Ref, stage_task


@stage_task("evaluation")
def evaluation(
    recipes: list[Recipe],
    home: str,
    config: EvaluationConfig,
    model: ResolvedModel,
    corpus: Ref,
    activations: Ref,
    sae: Ref,
    latents: Ref,
    dtype: str,
    device: str,
) -> list[Ref]:
    """Evaluate the SAE of ``recipes[0]``."""
    store = DataRoot(home)
    upstream = (ref.open(store) for ref in (corpus, activations, sae, latents))
    made = library.evaluate(store, config, model, *upstream, dtype=dtype, device=device)
    return [Ref.of(made)]
