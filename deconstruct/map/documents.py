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
from deconstruct.map.layout import LEAST, Floats, laid_out, placed_among
from deconstruct.map.tables import DOCUMENT_MAP

MAPS = 2
"""How many layouts there are of documents."""


def document_map(
    corpus: Artifact,
    latents: Artifact,
    config: MapConfig,
    massive: NDArray[np.int64],
    advance: Callable[[int], None],
) -> tuple[pa.Table, str | None]:
    """Rows of `DOCUMENT_MAP`, and why there are none where there are none.

    massive: [documents], how many massive tokens each has. Of more documents than
    ``config.max_documents`` those of the smallest digests are laid out, in the order of those, so
    that no place depends on where documents stand in the corpus; the others come to their nearest.
    """
    keep = latents.table("features.parquet", ["density"])["density"].to_numpy() <= DENSE
    sample = Sample.of(corpus, latents, keep, config.max_documents)
    if len(sample.fitted) < LEAST:
        return DOCUMENT_MAP.empty(), (
            f"in {len(sample.fitted)} of {sample.documents} documents fires a latent that is not "
            f"on more than {DENSE:.0%} of all tokens; a map of documents needs {LEAST}"
        )
    weighing = Weighing.of(latents_of(latents, sample.documents, sample.fitted), keep)
    members = sample.members
    planes = [
        _plane(sample, latents, rows, config, advance)[members].astype(np.float32)
        for rows in (weighing.rows, _of_unit_length)
    ]
    return DOCUMENT_MAP.of(
        members.astype(np.uint32),
        *(plane[:, axis] for plane in planes for axis in (0, 1)),
        massive[members].astype(np.uint32),
    ), None


def _of_unit_length(pooled: Matrix) -> Matrix:
    from sklearn.preprocessing import normalize

    return normalize(pooled)


def _plane(
    sample: Sample,
    latents: Artifact,
    rows_of: Callable[[Matrix], Matrix],
    config: MapConfig,
    advance: Callable[[int], None],
) -> Floats:
    """Places of the sample's members, [documents, 2]. rows_of: what of pooled latents, [n, d_sae],
    tells which documents are near each other."""
    from sklearn.decomposition import TruncatedSVD

    rows = rows_of(latents_of(latents, sample.documents, sample.fitted)).astype(np.float64)
    width = max(1, min(config.components, *(size - 1 for size in rows.shape)))
    reduction = TruncatedSVD(width, random_state=config.seed).fit(rows)
    fitted: Floats = reduction.transform(rows)
    del rows
    places = np.full((sample.documents, 2), np.nan)
    own = laid_out(fitted, config, advance)
    places[sample.fitted] = own
    if len(sample.members) == len(sample.fitted):
        return places
    left = np.zeros(sample.documents, np.bool_)
    left[sample.members] = True
    left[sample.fitted] = False
    for doc_id, pooled in latents_in_blocks(latents):
        if (mine := left[doc_id]).any():
            points = reduction.transform(rows_of(pooled[mine]).astype(np.float64))
            places[doc_id[mine]] = placed_among(points, fitted, own)
    return places
