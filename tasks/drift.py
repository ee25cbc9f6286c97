"""Task of the stage drift: new documents beside those that the SAE was trained on."""

from __future__ import annotations

from deconstruct.artifacts import DataRoot, Recipe
from deconstruct.config import EvaluationConfig
from deconstruct.drift import stage as library
from tasks.stage import Ref, stage_task


@stage_task("drift")
def drift(
    recipes: list[Recipe],
    home: str,
    config: EvaluationConfig,
    reference: Ref,
    corpus: Ref,
    activations: Ref,
    sae: Ref,
    latents: Ref,
    output: Ref | None,
    device: str,
) -> list[Ref]:
    """Compare the two sides of ``recipes[0]``."""
    store = DataRoot(home)
    old, texts, activity, dictionary, firings = (
        ref.open(store) for ref in (reference, corpus, activations, sae, latents)
    )
    onto = output.open(store) if output else None
    made = library.compare(
        store, config, old, texts, activity, dictionary, firings, onto, device=device
    )
    return [Ref.of(made)]
