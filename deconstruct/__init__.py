"""Deconstruct takes a language model apart: activations, sparse autoencoders, what latents know.

    import deconstruct

    store = deconstruct.open_store()  # a DuckDB connection, read-only
    store.sql("FROM runs").df()

The verbs of the pipeline are here too, in the order of the data; README has an example. Each takes
a `DataRoot`, its stage's settings and, by name, what it is made from, and finds its artifact or
makes it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deconstruct.activations.stage import extract
    from deconstruct.artifacts import DataRoot
    from deconstruct.cluster.stage import group_documents
    from deconstruct.config import load as load_config
    from deconstruct.corpus.sources import resolve as resolve_source
    from deconstruct.corpus.stage import tokenise
    from deconstruct.evaluation.stage import evaluate
    from deconstruct.interpretation.stage import interpret
    from deconstruct.latents.stage import encode
    from deconstruct.map.stage import lay_out
    from deconstruct.model.resolve import resolve as resolve_model
    from deconstruct.probe.stage import fit_probes
    from deconstruct.reference.stage import measure
    from deconstruct.sae.files import load as load_sae
    from deconstruct.sae.stage import train
    from deconstruct.store import open_store

_PLACES = {
    "DataRoot": "artifacts:DataRoot",
    "load_config": "config:load",
    "resolve_model": "model.resolve:resolve",
    "resolve_source": "corpus.sources:resolve",
    "tokenise": "corpus.stage:tokenise",
    "extract": "activations.stage:extract",
    "measure": "reference.stage:measure",
    "train": "sae.stage:train",
    "load_sae": "sae.files:load",
    "encode": "latents.stage:encode",
    "evaluate": "evaluation.stage:evaluate",
    "fit_probes": "probe.stage:fit_probes",
    "group_documents": "cluster.stage:group_documents",
    "interpret": "interpretation.stage:interpret",
    "lay_out": "map.stage:lay_out",
    "open_store": "store:open_store",
}

__all__ = [
    "DataRoot",
    "encode",
    "evaluate",
    "extract",
    "fit_probes",
    "group_documents",
    "interpret",
    "lay_out",
    "load_config",
    "load_sae",
    "measure",
    "open_store",
    "resolve_model",
    "resolve_source",
    "tokenise",
    "train",
]


def __getattr__(name: str) -> Any:
    """Imports what is asked for when it first is: ``import deconstruct`` alone loads nothing."""
    if name not in _PLACES:
        raise AttributeError(f"module 'deconstruct' has no attribute {name!r}")
    module, _, attribute = _PLACES[name].partition(":")
    return getattr(import_module(f"deconstruct.{module}"), attribute)
