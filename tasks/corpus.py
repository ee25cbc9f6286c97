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
) -> list[Ref]:
    """Tokenise the corpus of ``recipes[0]``."""
    return [Ref.of(library.tokenise(ArtifactStore(home), config, source, model))]
