"""Task of the stage cluster: documents grouped by their latents."""

from __future__ import annotations

from deconstruct.artifacts import DataRoot, Recipe
from deconstruct.cluster import stage as library
from deconstruct.config import ClusterConfig
from tasks.stage import Ref, stage_task


@stage_task("cluster")
def cluster(
    recipes: list[Recipe], home: str, config: ClusterConfig, corpus: Ref, latents: Ref
) -> list[Ref]:
    """Cluster the documents of ``recipes[0]``."""
    store = DataRoot(home)
    upstream = (ref.open(store) for ref in (corpus, latents))
    return [Ref.of(library.cluster(store, config, *upstream))]
