"""Task of the stage corpus: texts read, split and tokenised once."""

from __future__ import annotations

from deconstruct.artifacts import DataRoot, Recipe
from deconstruct.config import CorpusConfig
from deconstruct.corpus import stage as library
from deconstruct.corpus.sources import ResolvedSource
from deconstruct.model.resolve import ResolvedModel
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
    store = DataRoot(home)
    grown_from = base.open(store) if base is not None else None
    return [Ref.of(library.tokenise(store, config, source, model, base=grown_from))]
