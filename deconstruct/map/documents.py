"""Documents in the plane, by the latents that fire in them: weighed as the stage cluster weighs
them, and as they are, which is what a probe reads."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from deconstruct.artifacts import Artifact
from deconstruct.cluster.methods import Matrix, Weighing
from deconstruct.cluster.sample import Sample
from deconstruct.cluster.stage import DENSE
from deconstruct.config import MapConfig
from deconstruct.latents.pooling import latents_in_blocks, latents_of
from deconstruct.map.layout import LEAST, Floats, kept, laid_out, placed_among
from deconstruct.map.tables import DOCUMENT_MAP

MAPS = 2
"""How many layouts there are of documents."""


def document_map(
    corpus: Artifact,
    latents: Artifact,
    config: MapConfig,
    massive: NDArray[np.int64],
    advance: Callable[[int], None],
) -> tuple[pa.Table, dict[str, float | str]]:
    """Rows of `DOCUMENT_MAP`, and facts: of either map which share of neighbours it keeps
    (`layout.kept`), ``documents_kept`` and ``pooled_kept``; or, ``skipped``, why there is none.

    massive: [documents], how many massive tokens each has. Of more documents than
    ``config.max_documents`` those of the smallest digests are laid out, in the order of those, so
    that no place depends on where documents stand in the corpus; the others come to their nearest.
    """
    keep = latents.table("features.parquet", ["density"])["density"].to_numpy() <= DENSE
    sample = Sample.of(corpus, latents, keep, config.max_documents)
    if len(sample.fitted) < LEAST:
        reason = (
            f"in {len(sample.fitted)} of {sample.documents} documents fires a latent that is not "
            f"on more than {DENSE:.0%} of all tokens; a map of documents needs {LEAST}"
        )
        return DOCUMENT_MAP.empty(), {"skipped": reason}
    weighing = Weighing.of(latents_of(latents, sample.documents, sample.fitted), keep)
    members = sample.members
    columns: list[NDArray[np.float32]] = []
    facts: dict[str, float | str] = {}
    for name, rows in (("documents_kept", weighing.rows), ("pooled_kept", _of_unit_length)):
        places, facts[name] = _plane(sample, latents, rows, config, advance)
        columns += [places[members, axis].astype(np.float32) for axis in (0, 1)]
    own = massive[members].astype(np.uint32)
    return DOCUMENT_MAP.of(members.astype(np.uint32), *columns, own), facts


def _of_unit_length(pooled: Matrix) -> Matrix:
    from sklearn.preprocessing import normalize

    return normalize(pooled)


def _plane(
    sample: Sample,
    latents: Artifact,
    rows_of: Callable[[Matrix], Matrix],
    config: MapConfig,
    advance: Callable[[int], None],
) -> tuple[Floats, float]:
    """Places of the sample's members, [documents, 2], and which share of neighbours is kept.

    rows_of: what of pooled latents, [n, d_sae], tells which documents are near each other.
    """
    from sklearn.decomposition import TruncatedSVD

    rows = rows_of(latents_of(latents, sample.documents, sample.fitted)).astype(np.float64)
    width = max(1, min(config.components, *(size - 1 for size in rows.shape)))
    reduction = TruncatedSVD(width, random_state=config.seed).fit(rows)
    fitted: Floats = reduction.transform(rows)
    del rows
    places = np.full((sample.documents, 2), np.nan)
    own = laid_out(fitted, config, advance)
    places[sample.fitted] = own
    share = kept(fitted, own)
    if len(sample.members) == len(sample.fitted):
        return places, share
    left = np.zeros(sample.documents, np.bool_)
    left[sample.members] = True
    left[sample.fitted] = False
    for doc_id, pooled in latents_in_blocks(latents):
        if (mine := left[doc_id]).any():
            points = reduction.transform(rows_of(pooled[mine]).astype(np.float64))
            places[doc_id[mine]] = placed_among(points, fitted, own)
    return places, share
