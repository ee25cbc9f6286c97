"""The stage map: what is looked at rather than read, made ready once.

Places in the plane for documents and latents, how strongly latents fire, which of them tell labels
apart, and which are of massive activations. Nothing here is a score: a map shows what is near what,
and neither its axes, nor the sizes of its groups, nor what lies between them mean anything.
"""

from __future__ import annotations

import logging

import numpy as np

from deconstruct.artifacts import Artifact, DataRoot, Draft, Recipe, Stage, keys_of
from deconstruct.common.progress import track
from deconstruct.common.threads import one_quiet_thread
from deconstruct.config import MapConfig
from deconstruct.corpus.vocabulary import token_strings
from deconstruct.map.contexts import Chosen
from deconstruct.map.documents import MAPS, document_map
from deconstruct.map.labels import label_latents
from deconstruct.map.latents import Histogram, latent_map
from deconstruct.map.layout import iterations
from deconstruct.map.massive import Massive, OnMassive
from deconstruct.map.tables import (
    DOCUMENT_MAP,
    LABEL_LATENTS,
    LATENT_CONTEXTS,
    LATENT_HISTOGRAM,
    LATENT_MAP,
    MASSIVE_LATENTS,
    MASSIVE_TOKENS,
)

log = logging.getLogger(__name__)

VERSION = 1


def recipe(
    config: MapConfig,
    *,
    corpus: Artifact,
    latents: Artifact,
    activations: Artifact,
    reference: Artifact,
) -> Recipe:
    """All that decides the maps."""
    inputs = keys_of(corpus=corpus, latents=latents, activations=activations, reference=reference)
    return Recipe("map", VERSION, config.key_fields(), inputs)


def lay_out(
    root: DataRoot,
    config: MapConfig,
    *,
    corpus: Artifact,
    latents: Artifact,
    activations: Artifact,
    reference: Artifact,
) -> Artifact:
    """Make the maps: ``document_map``, ``latent_map``, ``latent_histogram``, ``latent_contexts``,
    ``label_latents``, ``massive_tokens``, ``massive_latents``.

    activations: those that ``reference`` is of; of a transcoder, of the site that it writes. With
    fewer than five documents or latents to lay out a map is empty, and the fact ``skipped`` (of
    documents) or ``latents_skipped`` gives the reason. Facts: which share of each point's ten
    nearest each map keeps (``documents_kept``, ``pooled_kept``, ``latents_kept``), and of massive
    activations ``massive_tokens``, ``massive_documents``, ``massive_share``,
    ``massive_variance_share``, ``massive_latents`` and ``massive_pooled_share``.
    """

    @one_quiet_thread()
    def write(draft: Draft) -> None:
        multiple = config.massive_multiple
        massive = Massive.of(activations, float(reference.facts["median_distance"]), multiple)
        _of_firings(draft, corpus, latents, massive)
        draft.write_table(LABEL_LATENTS.file, label_latents(corpus, latents))
        in_documents = massive.in_documents(int(corpus.facts["documents"]))
        with track("map", (MAPS + 1) * iterations(config), "iterations") as advance:
            documents, facts = document_map(corpus, latents, config, in_documents, advance)
            points, of_latents = latent_map(latents, config, advance)
        draft.write_table(DOCUMENT_MAP.file, documents)
        draft.write_table(LATENT_MAP.file, points)
        draft.facts |= facts | of_latents
        for name in ("skipped", "latents_skipped"):
            if name in draft.facts:
                log.warning("no map: %s", draft.facts[name])

    upstream = {"corpus": corpus, "latents": latents}
    upstream |= {"activations": activations, "reference": reference}
    return root.make(recipe(config, **upstream), write)


STAGE = Stage("map", recipe, lay_out)


def _of_firings(draft: Draft, corpus: Artifact, latents: Artifact, massive: Massive) -> None:
    """What one pass over all firings gives: histograms, contexts, and massive latents."""
    features = latents.table("features.parquet", ["max_activation", "n_fires"])
    largest = features["max_activation"].to_numpy()
    histogram, chosen = Histogram(largest), Chosen(corpus, features["n_fires"].to_numpy())
    on_massive = OnMassive(massive, int(corpus.facts["tokens"]), len(largest))
    for rows in latents.rows("latents.parquet"):
        latent, token_index = (
            rows[name].to_numpy().astype(np.int64) for name in ("latent", "token_index")
        )
        activation = rows["activation"].to_numpy()
        histogram.add(latent, activation)
        chosen.add(latent, token_index, activation)
        on_massive.add(latent, token_index, activation)
    draft.write_table(LATENT_HISTOGRAM.file, histogram.table())
    draft.write_table(LATENT_CONTEXTS.file, chosen.table())
    strings = token_strings(corpus) if len(massive.token_index) else {}
    listed, share = on_massive.table(latents, strings)
    draft.write_table(MASSIVE_TOKENS.file, massive.table(strings))
    draft.write_table(MASSIVE_LATENTS.file, listed)
    draft.facts |= massive.facts()
    draft.facts |= {"massive_latents": len(on_massive.found()), "massive_pooled_share": share}
