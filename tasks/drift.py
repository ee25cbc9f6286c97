"""Task of the stage drift: new documents beside those that the SAE was trained on."""

from __future__ import annotations

from deconstruct import drift as library
from deconstruct.artifact import ArtifactStore, Recipe
from deconstruct.config import EvaluationConfig
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
    store = ArtifactStore(home)
    old, texts, activity, dictionary, firings = (
        ref.open(store) for ref in (reference, corpus, activations, sae, latents)
    )
    onto = output.open(store) if output else None
    made = library.compare(
        store, config, old, texts, activity, dictionary, firings, onto, device=device
    )
    return [Ref.of(made)]
