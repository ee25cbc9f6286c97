"""The cluster stage on planted groups: they are found, described and scored."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from scipy import sparse
from sklearn.metrics import adjusted_rand_score, silhouette_score
from support.planted_groups import (
    D_SAE,
    LOUD,
    OWN,
    group,
    metric,
    planted,
    planted_activations,
    rows,
)
from support.planted_latents import labels_of, plant
from support.texts import SUBJECTS

from deconstruct.artifacts import Artifact, DataRoot
from deconstruct.cluster import stage as cluster
from deconstruct.cluster.kmeans import cosines, spherical_kmeans
from deconstruct.cluster.methods import Weighing, class_keywords
from deconstruct.common.errors import ConfigError
from deconstruct.config import ClusterConfig, CorpusConfig
from deconstruct.corpus import sources
from deconstruct.corpus import stage as corpus
from deconstruct.latents.pooling import latents_of
from deconstruct.model.resolve import ResolvedModel


@pytest.fixture(scope="module")
def grouped(
    tmp_path_factory: pytest.TempPathFactory, corpus_artifact: Artifact
) -> tuple[Artifact, Artifact]:
    root = DataRoot(tmp_path_factory.mktemp("grouped"))
    firings = plant(root, *planted(labels_of(corpus_artifact)))
    return group(root, corpus_artifact, firings, ClusterConfig(fits=4, top=4)), firings


def test_planted_groups_are_found(
    grouped: tuple[Artifact, Artifact], corpus_artifact: Artifact
) -> None:
    made, _ = grouped
    labels = labels_of(corpus_artifact)
    found = rows(made, "clusters")
    assert [row["doc_id"] for row in found] == list(range(len(labels)))
    assert adjusted_rand_score(labels.astype(str), [row["cluster"] for row in found]) > 0.95
    metrics = metric(made, "latents", "value")
    assert set(metrics) == {"k", "documents", "silhouette", "nmi", "ami", "ari", "purity"}
    assert (metrics["k"], metrics["documents"]) == (3, len(labels))
    assert min(metrics[name] for name in ("nmi", "ami", "ari", "purity")) > 0.9
    stable = metric(made, "latents", "stability")
    assert made.facts == metrics | {
        "stability": stable["ari"],
        "null_stability": stable["null_ari"],
    }


def test_metrics_are_those_of_the_assignment(
    grouped: tuple[Artifact, Artifact], corpus_artifact: Artifact
) -> None:
    made, firings = grouped
    labels = labels_of(corpus_artifact).astype(str)
    assigned = np.array([row["cluster"] for row in rows(made, "clusters")])
    majority = sum(max(Counter(labels[assigned == c]).values()) for c in set(assigned))
    assert made.facts["purity"] == pytest.approx(majority / len(labels))
    assert made.facts["ari"] == pytest.approx(adjusted_rand_score(labels, assigned))
    density = pq.read_table(firings.file("features.parquet"))["density"].to_numpy()
    pooled = latents_of(firings, len(labels), np.arange(len(labels)))
    weighted = Weighing.of(pooled, density <= 0.1).rows(pooled).toarray()
    assert made.facts["silhouette"] == pytest.approx(
        silhouette_score(weighted, assigned, metric="cosine"), abs=1e-6
    )
    for row in rows(made, "cluster_summary"):
        own = weighted[assigned == row["cluster"]]
        centre = own.mean(0) / np.linalg.norm(own.mean(0))
        distance = {r["doc_id"]: r["distance"] for r in rows(made, "clusters")}
        ids = np.flatnonzero(assigned == row["cluster"])
        np.testing.assert_allclose([distance[i] for i in ids], 1 - own @ centre, atol=1e-9)
        assert row["exemplars"] == sorted(ids.tolist(), key=lambda i: distance[i])[:4]


def test_summaries_tell_what_the_groups_are(
    grouped: tuple[Artifact, Artifact], corpus_artifact: Artifact
) -> None:
    made, _ = grouped
    labels = labels_of(corpus_artifact)
    assigned = np.array([row["cluster"] for row in rows(made, "clusters")])
    summary = rows(made, "cluster_summary")
    assert [row["cluster"] for row in summary] == [0, 1, 2]
    sizes = [row["size"] for row in summary]
    assert sizes == np.bincount(assigned).tolist() == sorted(sizes, reverse=True)
    assert {row["top_label"] for row in summary} == set(OWN)
    for row in summary:
        label = row["top_label"]
        share = (labels[assigned == row["cluster"]] == label).mean()
        assert row["top_label_share"] == pytest.approx(share)
        planted_here = set(OWN[label])
        assert set(row["latents"][: len(planted_here)]) == planted_here
        assert len(row["latents"]) == len(row["keywords"]) == len(row["exemplars"]) == 4
        assert set(row["keywords"]) <= set(SUBJECTS[label])


def test_dense_latents_would_rule(corpus_artifact: Artifact, tmp_path: Path) -> None:
    """Why they are left out: the same latents with the loud one let in do not show the labels."""
    root = DataRoot(tmp_path)
    labels = labels_of(corpus_artifact)
    mean, density = planted(labels)
    mean[:, LOUD + 1 : LOUD + 3] = mean[:, [LOUD]] * [1.0, 2.0]
    density[LOUD : LOUD + 3] = 0.9
    without = group(root, corpus_artifact, plant(root, mean, density))
    assert without.facts["ari"] > 0.95
    gram = cosines(mean / np.linalg.norm(mean, axis=1)[:, None])
    plain = spherical_kmeans(gram, 3, np.random.default_rng(0)).labels
    assert adjusted_rand_score(labels.astype(str), plain) < 0.3


def test_noise_agrees_with_no_label(corpus_artifact: Artifact, tmp_path: Path) -> None:
    root = DataRoot(tmp_path)
    draw = np.random.default_rng(0)
    shape = (len(labels_of(corpus_artifact)), D_SAE)
    noise = draw.gamma(1, 1, shape) * (draw.random(shape) < 0.2)
    made = group(root, corpus_artifact, plant(root, noise))
    assert abs(made.facts["ami"]) < 0.08
    assert abs(made.facts["ari"]) < 0.08


def test_bytes_are_the_same_again(
    grouped: tuple[Artifact, Artifact], corpus_artifact: Artifact, tmp_path: Path
) -> None:
    root = DataRoot(tmp_path)
    firings = plant(root, *planted(labels_of(corpus_artifact)))
    again = group(root, corpus_artifact, firings, ClusterConfig(fits=4, top=4))
    assert (again.key, again.digest()) == (grouped[0].key, grouped[0].digest())
    other = cluster.recipe(
        ClusterConfig(fits=4, top=4, seed=1),
        corpus=corpus_artifact,
        latents=firings,
        activations=planted_activations(root, np.ones((3, 1))),
    )
    assert other.key != again.key


def test_documents_in_which_nothing_fires_are_in_no_cluster(
    corpus_artifact: Artifact, tmp_path: Path
) -> None:
    root = DataRoot(tmp_path)
    mean, density = planted(labels_of(corpus_artifact))
    silent = [0, 7, 50]
    mean[silent] = 0
    mean[silent, LOUD] = 9
    made = group(root, corpus_artifact, plant(root, mean, density), ClusterConfig(fits=4, k=4))
    ids = [row["doc_id"] for row in rows(made, "clusters")]
    assert ids == sorted(set(range(len(mean))) - set(silent))
    assert len(rows(made, "cluster_summary")) == made.facts["k"] == 4
    only = np.zeros_like(mean)
    only[:, LOUD] = 1
    only[4, 9] = 1
    none = group(root, corpus_artifact, plant(root, only, density))
    assert none.facts == {
        "skipped": "in 1 of 120 documents fires a latent that is not on more than 10% of all "
        "tokens; clusters need two"
    }
    for name in ("clusters", "cluster_summary", "cluster_metrics"):
        assert rows(none, name) == []
    with pytest.raises(ConfigError, match=r"cluster\.k = 118 is more than the 117 documents"):
        group(root, corpus_artifact, plant(root, mean, density), ClusterConfig(fits=4, k=118))


def test_without_labels_and_with_equal_documents(tmp_path: Path, model: ResolvedModel) -> None:
    path = tmp_path / "texts.jsonl"
    path.write_text("\n".join(json.dumps({"text": f"text {i} ."}) for i in range(10)))
    config = CorpusConfig(source=str(path), label_column=None)
    root = DataRoot(tmp_path)
    texts = corpus.tokenise(root, config, source=sources.resolve(config), model=model)
    mean = np.zeros((10, 4))
    mean[:6, 1] = mean[6:, 2] = 1
    made = group(root, texts, plant(root, mean))
    # Half as many as documents were asked for; there are but two kinds.
    assert (made.facts["k"], made.facts["documents"]) == (2, 10)
    assert made.facts["silhouette"] == pytest.approx(1)
    assert not {"nmi", "ami", "ari", "purity"} & set(made.facts)
    assigned = [row["cluster"] for row in rows(made, "clusters")]
    assert assigned == [0] * 6 + [1] * 4
    for row in rows(made, "cluster_summary"):
        assert row["top_label"] is row["top_label_share"] is None
        assert row["latents"] == [1 + row["cluster"]]
    one = group(root, texts, plant(root, np.ones((10, 1))))
    assert one.facts["k"] == 1
    assert "silhouette" not in one.facts


def test_weights_by_hand() -> None:
    pooled = sparse.csr_matrix(np.array([[2.0, 0, 9], [4, 1, 9], [0, 3, 9]]))
    damped = np.log1p(np.array([[2 / 3, 0], [4 / 3, 1 / 2], [0, 3 / 2]])) * (np.log(4 / 3) + 1)
    expected = damped / np.linalg.norm(damped, axis=1, keepdims=True)
    found = Weighing.of(pooled, np.array([True, True, False])).rows(pooled).toarray()
    np.testing.assert_allclose(found[:, :2], expected)
    assert (found[:, 2] == 0).all()


def test_keywords_by_hand() -> None:
    """W(t, c) = tf / words of the class * log(1 + A / f), on words that are no stop words."""
    texts = ["goal goal match", "the match and a bank", "bank bank rates"]
    found = class_keywords(texts, np.array([0, 0, 1]), 2, 5)
    a = (5 + 3) / 2  # goal 2, match 2, bank 1 in the first; bank 2, rates 1 in the second
    first = {
        "goal": 2 / 5 * np.log1p(a / 2),
        "match": 2 / 5 * np.log1p(a / 2),
        "bank": 1 / 5 * np.log1p(a / 3),
    }
    second = {"bank": 2 / 3 * np.log1p(a / 3), "rates": 1 / 3 * np.log1p(a / 1)}
    assert found == [
        sorted(first, key=lambda word: (-first[word], word)),
        sorted(second, key=lambda word: -second[word]),
    ]
    assert class_keywords(["the and", "of 12 3"], np.array([0, 1]), 2, 5) == [[], []]
