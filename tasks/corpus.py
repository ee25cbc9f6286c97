"""Task of the stage corpus: texts read, split and tokenised once."""

from __future__ import annotations

from deconstruct import corpus as library
from deconstruct.artifact import ArtifactStore, Recipe
from deconstruct.config import CorpusConfig
from deconstruct.model import ResolvedModel
from deconstruct.sources import ResolvedSource
from tasks.stage import Ref, stage_task


@stage_task("corpus")
def corpus(
    recipes: list[Recipe],
    home: str,
    config: CorpusConfig,
    source: ResolvedSource,
    model: ResolvedModel,
    base: Ref | None,
) -> list[Ref]:
    """Tokenise the corpus of ``recipes[0]``, which grows from ``base`` if there is one."""
    store = ArtifactStore(home)
    grown_from = base.open(store) if base is not None else None
    return [Ref.of(library.tokenise(store, config, source, model, base=grown_from))]
