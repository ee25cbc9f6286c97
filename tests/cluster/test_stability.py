"""Planted clusters are found again in part of the documents; noise is not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import sparse
from sklearn.metrics import adjusted_rand_score
from support.planted_groups import group, metric, planted, planted_corpus, rows
from support.planted_latents import plant
from support.texts import SUBJECTS

from deconstruct.artifacts import Artifact, DataRoot
from deconstruct.cluster.stability import ABSENT, Fits, adjusted_rand, choose, part_of
from deconstruct.common.cores import compute_on
from deconstruct.config import ClusterConfig

NAMES = list(SUBJECTS)
KINDS = np.array([NAMES[i % 3] for i in range(240)])
TEXTS = [
    f"{' '.join(np.random.default_rng(i).choice(SUBJECTS[kind], 6))} {i}"
    for i, kind in enumerate(KINDS)
]
MANY = {name: tuple(range(10 + 20 * i, 30 + 20 * i)) for i, name in enumerate(NAMES)}
"""Latents of each group: with few, one alone makes a cluster, also where columns are shuffled."""
MEAN, DENSITY = planted(KINDS, own=MANY, d_sae=200)
LABELLED = ("nmi", "ami", "ari", "purity")


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """Three planted groups under labels that have nothing to do with them; activations of two."""
    root = DataRoot(tmp_path_factory.mktemp("planted"))
    halves = np.arange(len(KINDS)) % 2
    values = np.random.default_rng(1).standard_normal((len(KINDS), 6)) / 4 + halves[:, None]
    corpus = planted_corpus(root, TEXTS, [f"label {i % 7}" for i in range(len(KINDS))])
    return group(root, corpus, plant(root, MEAN, DENSITY), ClusterConfig(), values)


def partition(artifact: Artifact) -> np.ndarray:
    return np.array([row["cluster"] for row in rows(artifact, "clusters")])


def test_planted_clusters_are_found_again(found: Artifact) -> None:
    """Also how many there are: labels, of which there are seven, do not decide it."""
    assert adjusted_rand_score(KINDS, partition(found)) > 0.95
    assert min(row["jaccard"] for row in rows(found, "cluster_summary")) > 0.9
    support = np.array([row["support"] for row in rows(found, "clusters")])
    assert support.mean() > 0.95
    assert ((support >= 0) & (support <= 1)).all()
    stable = metric(found, "latents", "stability")
    assert stable["ari"] > 0.95
    assert abs(stable["null_ari"]) < 0.1
    assert found.facts["stability"] == stable["ari"]
    curve = rows(found, "cluster_curve")
    assert [row["k"] for row in curve] == [*range(2, 13), 14, 16, 20, 24]
    assert [row["k"] for row in curve if row["chosen"]] == [3] == [found.facts["k"]]
    assert np.mean([abs(row["null_stability"]) for row in curve]) < 0.1


def test_the_null_has_no_clusters(found: Artifact) -> None:
    for representation in ("latents", "activations", "tfidf"):
        value = metric(found, representation, "value")
        null = metric(found, representation, "null")
        assert set(value) == set(null) == {"k", "documents", "silhouette", *LABELLED}
        assert null["silhouette"] < value["silhouette"]
        stable = metric(found, representation, "stability")
        assert stable["null_ari"] < stable["ari"]
        assert value["k"] == 3  # as many as of latents


def test_baselines_are_of_what_they_say(found: Artifact, tmp_path: Path) -> None:
    """The same labels, once those of the words and latents and once those of the activations."""
    root = DataRoot(tmp_path)
    values = np.random.default_rng(1).standard_normal((len(KINDS), 6)) / 4
    values += np.arange(len(KINDS))[:, None] % 2
    told = {}
    for name, labels in {"words": KINDS, "halves": np.arange(len(KINDS)) % 2}.items():
        corpus = planted_corpus(root, TEXTS, [str(label) for label in labels])
        config = ClusterConfig(k=len(set(labels)), fits=3)
        made = group(root, corpus, plant(root, MEAN, DENSITY), config, values)
        told[name] = {
            r: metric(made, r, "value")["ari"] for r in ("latents", "activations", "tfidf")
        }
    assert min(told["words"]["latents"], told["words"]["tfidf"]) > 0.9
    assert told["words"]["activations"] < 0.2
    assert told["halves"]["activations"] > 0.9
    assert max(told["halves"]["latents"], told["halves"]["tfidf"]) < 0.2


def test_documents_in_any_order_give_the_same_clusters(found: Artifact, tmp_path: Path) -> None:
    root = DataRoot(tmp_path)
    order = np.random.default_rng(5).permutation(len(KINDS))
    corpus = planted_corpus(root, [TEXTS[i] for i in order], [f"label {i % 7}" for i in order])
    moved = group(root, corpus, plant(root, MEAN[order], DENSITY), ClusterConfig())
    np.testing.assert_array_equal(partition(moved), partition(found)[order])
    support = [row["support"] for row in rows(found, "clusters")]
    assert [row["support"] for row in rows(moved, "clusters")] == [support[i] for i in order]
    assert rows(moved, "cluster_curve") == rows(found, "cluster_curve")


def test_labels_change_nothing_but_what_is_told_of_them(found: Artifact, tmp_path: Path) -> None:
    root = DataRoot(tmp_path)
    corpus = planted_corpus(root, TEXTS, [str(kind) for kind in KINDS])
    other = group(root, corpus, plant(root, MEAN, DENSITY), ClusterConfig())
    for table in ("clusters", "cluster_curve"):
        assert rows(other, table) == rows(found, table)
    for here, there in zip(
        rows(other, "cluster_summary"), rows(found, "cluster_summary"), strict=True
    ):
        differing = {name for name in here if here[name] != there[name]}
        assert differing == {"top_label", "top_label_share"}
    for kind in ("value", "stability"):
        one, two = metric(other, "latents", kind), metric(found, "latents", kind)
        assert {name for name in one if one[name] != two[name]} <= set(LABELLED)
    assert metric(other, "latents", "value")["nmi"] > 0.9 > metric(found, "latents", "value")["nmi"]


def test_bytes_do_not_depend_on_cores(tmp_path: Path) -> None:
    digests = set()
    for cores in (1, 3):
        compute_on(cores)
        root = DataRoot(tmp_path / str(cores))
        corpus = planted_corpus(root, TEXTS, list(KINDS))
        made = group(root, corpus, plant(root, MEAN, DENSITY), ClusterConfig(fits=4, latents=None))
        digests.add(made.digest())
    compute_on(2)
    assert len(digests) == 1


def test_of_many_documents_some_are_fitted(tmp_path: Path) -> None:
    """The others fall into the nearest cluster; scores are of those that were fitted."""
    root = DataRoot(tmp_path)
    corpus = planted_corpus(root, TEXTS, list(KINDS))
    config = ClusterConfig(fits=4, max_documents=90, k=3)
    made = group(root, corpus, plant(root, MEAN, DENSITY), config)
    assert made.facts["documents"] == 90
    found = rows(made, "clusters")
    assert adjusted_rand_score(KINDS, [row["cluster"] for row in found]) > 0.9
    assert sum(row["support"] is None for row in found) == len(KINDS) - 90
    summary = rows(made, "cluster_summary")
    assert sum(row["size"] for row in summary) == len(KINDS)
    for representation in ("activations", "tfidf"):
        assert metric(made, representation, "value")["documents"] == 90
    again = group(root, corpus, plant(root, MEAN, DENSITY), config.model_copy(update={"top": 3}))
    assert partition(again).tolist() == partition(made).tolist()


def test_groups_are_left_out_whole(tmp_path: Path) -> None:
    groups = np.repeat(np.arange(20), 3)
    kept = part_of(groups, np.random.default_rng(0))
    np.testing.assert_array_equal(np.bincount(groups[kept], minlength=20) % 3, 0)
    assert len(kept) == 48
    root = DataRoot(tmp_path)
    latents = plant(root, MEAN, DENSITY)
    config = ClusterConfig(fits=5, k=3)
    alone = group(root, planted_corpus(root, TEXTS, list(KINDS)), latents, config)
    one_each = planted_corpus(root, TEXTS, list(KINDS), group_id=range(len(TEXTS)))
    assert group(root, one_each, latents, config).digest() == alone.digest()
    pairs = planted_corpus(root, TEXTS, list(KINDS), group_id=np.arange(len(TEXTS)) // 5 * 5)
    other = group(root, pairs, latents, config)
    assert partition(other).tolist() == partition(alone).tolist()
    assert metric(other, "latents", "stability") != metric(alone, "latents", "stability")


def test_jaccard_and_support_by_hand() -> None:
    labels = np.array([[0, 0, 0, 1, 1, 1]])
    parts = np.array([[[0, 0, 1, 1, 1, ABSENT], [1, 1, 1, 0, 0, 0], [ABSENT, 0, 0, 1, 1, 1]]])
    fits = Fits((2,), labels, np.zeros(1), parts.astype(np.int16))
    jaccard, support = fits.found_again(0)
    assert jaccard.tolist() == pytest.approx([(2 / 3 + 1 + 1) / 3, (2 / 3 + 1 + 1) / 3])
    assert support.tolist() == pytest.approx([1, 1, 2 / 3, 1, 1, 1])
    pair = [
        adjusted_rand_score([0, 0, 1, 1, 1], [1, 1, 1, 0, 0]),
        adjusted_rand_score([0, 1, 1, 1], [0, 0, 1, 1]),
        1.0,
    ]
    value, error = fits.stability(0)
    assert value == pytest.approx(np.mean(pair))
    without = np.array([pair[2], pair[1], pair[0]])
    assert error == pytest.approx(np.sqrt(2 / 3 * np.sum((without - without.mean()) ** 2)))


def test_adjusted_rand_index_is_sklearns() -> None:
    draw = np.random.default_rng(0)
    for _ in range(20):
        a, b = draw.integers(0, 5, 40), draw.integers(0, 3, 40)
        assert adjusted_rand(a, b) == pytest.approx(adjusted_rand_score(a, b))
    assert adjusted_rand(np.zeros(4, int), np.zeros(4, int)) == 1


@pytest.mark.parametrize(
    ("stability", "error", "null", "able", "chosen"),
    [
        ([0.9, 0.5, 0.3], 0.01, [0, 0, 0], [1, 1, 1], 0),
        ([0.9, 0.89, 0.3], 0.02, [0, 0, 0], [1, 1, 1], 1),  # within one standard error
        ([0.9, 0.8, 0.3], 0.02, [0.4, 0.1, 0], [1, 1, 1], 1),  # stable without structure
        ([0.9, 0.89, 0.9], 0.02, [0, 0, 0], [1, 1, 0], 1),  # so many do not come out
        ([1, 1, 1], 0.0, [0, 0, 0], [0, 0, 0], 0),
    ],
)
def test_how_many(
    stability: list[float], error: float, null: list[float], able: list[int], chosen: int
) -> None:
    class Measured:
        ks = (2, 3, 4)

        def __init__(self, values: list[float]) -> None:
            self.values = values

        def stability(self, at: int) -> tuple[float, float]:
            return self.values[at], error

        def possible(self, at: int) -> bool:
            return bool(able[at])

    real: Any = Measured(stability)
    shuffled: Any = Measured(null)
    assert choose(real, shuffled) == chosen


def test_shuffled_columns_keep_their_zeros() -> None:
    from deconstruct.cluster.kmeans import shuffled

    draw = np.random.default_rng(0)
    dense = draw.gamma(1, 1, (50, 9)) * (draw.random((50, 9)) < np.linspace(0.1, 0.9, 9))
    mixed = shuffled(sparse.csr_matrix(dense), np.random.default_rng(1)).toarray()
    assert ((mixed > 0).sum(0) == (dense > 0).sum(0)).all()
    assert (mixed > 0).tolist() != (dense > 0).tolist()
    length = np.linalg.norm(mixed, axis=1)
    np.testing.assert_allclose(length[length > 0], 1)
