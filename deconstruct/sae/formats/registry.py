"""The formats by name, and which of them a folder is in."""

from __future__ import annotations

from collections.abc import Mapping

from deconstruct.sae.formats.base import Asked, Format, Source
from deconstruct.sae.formats.circuit_tracer import CircuitTracer
from deconstruct.sae.formats.dictionary_learning import DictionaryLearning
from deconstruct.sae.formats.gemma_scope import GemmaScope1, GemmaScope2
from deconstruct.sae.formats.llama_scope import LlamaScope
from deconstruct.sae.formats.qwen_scope import QwenScope
from deconstruct.sae.formats.saelens import SAELens
from deconstruct.sae.formats.sparsify import Sparsify

FORMATS: Mapping[str, Format] = {
    one.name: one
    for one in (
        LlamaScope(),  # before SAELens, whose weights' name some of its checkpoints have
        SAELens(),
        Sparsify(),
        DictionaryLearning(),
        GemmaScope2(),
        GemmaScope1(),
        QwenScope(),
        CircuitTracer(),
    )
}


def format_of(source: Source, asked: Asked, named: str) -> tuple[Format, tuple[str, ...]]:
    """The format that is named, or the first that the files look like, and the files it takes.

    Raises ``ConfigError`` if they are none of it.
    """
    chosen = FORMATS.values() if named == "auto" else [FORMATS[named]]
    for one in chosen:
        wanted = one.wanted(source, asked)
        if wanted is not None:
            return one, wanted
    holds = ", ".join(sorted(source.names)[:6]) or "nothing"
    looked = "; ".join(f"{one.name}: {one.files}" for one in chosen)
    raise source.fault(
        f"its files ({holds}) are in no format that we read ({looked}); name the folder that holds "
        "them"
    )
