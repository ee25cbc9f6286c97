"""Spherical k-means from cosines alone, against what the rows themselves say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy import sparse
from sklearn.metrics import adjusted_rand_score, silhouette_score
from support.planted import artifact_of, filled
from support.planted_groups import QUICK, group, metric, planted_corpus, rows

from deconstruct.artifacts import Artifact, DataRoot, Recipe
from deconstruct.cluster.kernels.lloyd import seed, settle
from deconstruct.cluster.kmeans import centres_of, cosines, largest_first, spherical_kmeans
from deconstruct.common.errors import ConfigError
from deconstruct.features.tables import DIRECTIONS, FEATURES
from deconstruct.latents.pooling import activations_of, latents_of, texts_of
from deconstruct.latents.tables import DOCUMENT_LATENTS


def unit_rows(n: int = 300, features: int = 40) -> np.ndarray:
    draw = np.random.default_rng(0)
    made = draw.gamma(1, 1, (n, features)) * (draw.random((n, features)) < 0.3)
    made[:, 0] += 0.1
    return made / np.linalg.norm(made, axis=1, keepdims=True)


def test_every_row_is_in_the_cluster_of_the_nearest_centre() -> None:
    unit = unit_rows()
    for k in (2, 5, 17):
        found = spherical_kmeans(cosines(unit), k, np.random.default_rng(0))
        assert found.k == k
        cosine = unit @ centres_of(unit, found.labels).T
        assert (cosine.max(1) - cosine[np.arange(len(unit)), found.labels]).max() < 1e-5
        sizes = np.bincount(found.labels)
        assert (np.diff(sizes) <= 0).all()
        expected = silhouette_score(unit, found.labels, metric="cosine")
        assert found.silhouette == pytest.approx(expected, abs=1e-5)


def test_what_is_maximised_is_the_cosine_with_the_centres() -> None:
    unit = unit_rows()
    gram = cosines(unit)
    labels, sums = np.empty((2, len(unit)), np.int32), np.empty((2, 6, len(unit)), np.float32)
    values = []
    for limit in (0, 1, 2, 100):
        for start in (0, 1):
            seed(gram, np.random.default_rng(start).random((6, 3)), labels[start])
        values.append(settle(gram, labels, sums, limit).tolist())
        for start in (0, 1):
            own = centres_of(unit, largest_first(labels[start]))[largest_first(labels[start])]
            assert values[-1][start] == pytest.approx((unit * own).sum(), rel=1e-5)
            for c in range(6):
                within = gram[labels[start] == c].sum(0)
                np.testing.assert_allclose(sums[start, c], within, atol=1e-3)
    for of_start in zip(*values, strict=True):
        assert list(of_start) == sorted(of_start)
        assert of_start[-1] > of_start[0]


def test_dense_and_sparse_rows_have_the_same_cosines() -> None:
    unit = unit_rows(700, 2100)
    unit[:, 50:2000] *= np.random.default_rng(2).random((700, 1950)) < 0.02
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    np.testing.assert_allclose(cosines(unit), unit @ unit.T, atol=1e-5)
    np.testing.assert_allclose(cosines(sparse.csr_matrix(unit)), unit @ unit.T, atol=1e-5)


def test_equal_rows_are_one_cluster() -> None:
    gram = cosines(np.repeat(np.eye(3), 5, 0))
    assert spherical_kmeans(gram, 6, np.random.default_rng(0)).k == 3
    assert np.isnan(
        spherical_kmeans(np.ones((4, 4), np.float32), 2, np.random.default_rng(0)).silhouette
    )


def test_part_of_the_documents_is_as_the_whole(
    corpus_artifact: Artifact, activations_artifact: Artifact, tmp_path: Path
) -> None:
    """Texts, latents and activations in the order that is asked for."""
    count = int(corpus_artifact.facts["documents"])
    every, wanted = np.arange(count), np.random.default_rng(0).permutation(count)[:37]
    whole = texts_of(corpus_artifact, count, every)
    assert texts_of(corpus_artifact, count, wanted) == [whole[d] for d in wanted]
    np.testing.assert_allclose(
        activations_of(activations_artifact, count, wanted),
        activations_of(activations_artifact, count, every)[wanted],
        rtol=1e-6,
    )
    from support.planted_latents import plant

    mean = np.random.default_rng(1).random((count, 20)) * (np.arange(count) % 9 > 0)[:, None]
    firings = plant(DataRoot(tmp_path), mean)
    np.testing.assert_array_equal(
        latents_of(firings, count, wanted).toarray(),
        latents_of(firings, count, every)[wanted].toarray(),
    )


def latents_that_point(root: DataRoot, decoder: np.ndarray, fires: np.ndarray) -> Artifact:
    """A dictionary with these decoder rows [d_sae, d_in]; fires: [d_sae]."""
    draw = np.random.default_rng(0)
    doc, latent = np.nonzero(draw.random((30, len(decoder))) < 0.4 * fires)
    values = {"doc_id": doc, "latent": latent, "n_fires": 1, "mean": 1.0, "max": 1.0}
    return artifact_of(
        root,
        Recipe("latents", 0, {"planted": "directions"}, {}),
        {
            DOCUMENT_LATENTS: filled(DOCUMENT_LATENTS, **values),
            FEATURES: filled(FEATURES, density=0.01 * fires, n_fires=9 * fires.astype(int)),
            DIRECTIONS: filled(DIRECTIONS, decoder=[row.tolist() for row in decoder]),
        },
    )


def test_latents_are_grouped_by_decoder_direction(tmp_path: Path) -> None:
    """Those that fire, by direction and not by length; all of them, also beyond those fitted."""
    root, draw = DataRoot(tmp_path), np.random.default_rng(0)
    kinds = np.arange(120) % 4
    decoder = draw.normal(0, 1, (4, 64))[kinds] + draw.normal(0, 0.3, (120, 64))
    decoder *= draw.gamma(1, 3, (120, 1)) + 0.1
    fires = np.arange(120) % 11 > 0
    corpus = planted_corpus(root, [f"text number {i}" for i in range(30)], [None] * 30)
    latents = latents_that_point(root, decoder, fires)
    for most in (4000, 60):
        config = QUICK.model_copy(update={"latents": 4, "max_documents": most})
        made = group(root, corpus, latents, config)
        found = rows(made, "latent_clusters")
        assert [row["latent"] for row in found] == np.flatnonzero(fires).tolist()
        assert adjusted_rand_score(kinds[fires], [row["latent_cluster"] for row in found]) == 1
        assert max(row["distance"] for row in found) < 0.2
        supported = [row["support"] for row in found if row["support"] is not None]
        assert supported == [1.0] * min(most, len(found))
        stable = metric(made, "decoder", "stability")
        assert stable["ari"] == 1
        assert stable["null_ari"] < 0.5
        assert set(metric(made, "decoder", "value")) == {"k", "documents", "silhouette"}
    assert "latent_clusters.parquet" not in group(root, corpus, latents).manifest.files
    with pytest.raises(ConfigError, match=r"cluster\.latents = 110 is more than the 109 latents"):
        group(root, corpus, latents, QUICK.model_copy(update={"latents": 110}))
