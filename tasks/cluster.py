"""Task of the stage cluster: documents grouped by their latents."""

from __future__ import annotations

from deconstruct import cluster as library
from deconstruct.artifact import ArtifactStore, Recipe
from deconstruct.config import ClusterConfig
from tasks.stage import Ref, stage_task


@stage_task("cluster")
def cluster(
    recipes: list[Recipe], home: str, config: ClusterConfig, corpus: Ref, latents: Ref
) -> list[Ref]:
    """Cluster the documents of ``recipes[0]``."""
    store = ArtifactStore(home)
    upstream = (ref.open(store) for ref in (corpus, latents))
    return [Ref.of(library.cluster(store, config, *upstream))]
