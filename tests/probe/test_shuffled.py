"""Shuffled labels: classes keep their sizes in both splits, and probes find chance."""

from __future__ import annotations

import numpy as np
import pyarrow.parquet as pq
import pytest
from support.planted_latents import labels_of, plant

from deconstruct.artifacts import Artifact, DataRoot
from deconstruct.config import ProbeConfig
from deconstruct.probe import stage as probe
from deconstruct.probe.shuffled import shuffled


def documents(n: int = 300) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    labels = random.choice(["a", "b", "c", None], n, p=[0.5, 0.3, 0.1, 0.1])
    return labels, random.choice(["train", "test"], n, p=[0.8, 0.2])


def test_each_split_keeps_its_labels_and_who_has_none_has_none() -> None:
    labels, split = documents()
    found = shuffled(labels, 0, split)
    assert (found != labels).mean() > 0.3
    for name in ("train", "test"):
        assert sorted(map(str, found[split == name])) == sorted(map(str, labels[split == name]))
    np.testing.assert_array_equal(np.equal(found, None), np.equal(labels, None))
    np.testing.assert_array_equal(found, shuffled(labels, 0, split))
    assert (found != shuffled(labels, 1, split)).any()
    assert (labels == documents()[0]).all()  # what is given stays as it is


def test_numbers_and_rows_of_numbers_are_shuffled_too() -> None:
    _, split = documents(6)
    values = np.array([1.0, np.nan, 3.0, 4.0, 5.0, 6.0])
    found = shuffled(values, 3, split)
    assert np.isnan(found[1])
    assert sorted(found[[0, 2, 3, 4, 5]]) == [1, 3, 4, 5, 6]
    assert sorted(shuffled(split, 3)) == sorted(split)  # all of one split
    rows = np.arange(12).reshape(6, 2)
    assert sorted(map(tuple, shuffled(rows, 3, split))) == sorted(map(tuple, rows))


def test_intervals_of_shuffled_labels_cover_chance() -> None:
    """95% of them, within what 200 draws can tell: features that know the labels by heart."""
    random = np.random.default_rng(1)
    truth = np.repeat([0, 1], 150)
    split = np.tile(["train", "train", "test"], 100)
    features = np.eye(2)[truth] + 0.3 * random.standard_normal((300, 2))
    covered = 0
    for seed in range(200):
        labels = shuffled(truth, seed, split)
        train, test = split == "train", split == "test"
        means = [features[train & (labels == own)].mean(0) for own in (0, 1)]
        far = [np.square(features[test] - mean).sum(1) for mean in means]
        right = (np.argmin(far, axis=0) == labels[test]).astype(float)
        resampled = right[random.integers(0, len(right), (300, len(right)))].mean(1)
        low, high = np.quantile(resampled, [0.025, 0.975])
        covered += low <= 0.5 <= high
    assert 0.90 <= covered / 200 <= 0.99


@pytest.mark.parametrize("shuffle", [False, True])
def test_a_planted_latent_is_found_in_true_labels_alone(
    root: DataRoot, corpus_artifact: Artifact, activations_artifact: Artifact, shuffle: bool
) -> None:
    labels = labels_of(corpus_artifact)
    mean = np.random.default_rng(0).gamma(1, 0.3, (len(labels), 12))
    for latent, label in enumerate(sorted(set(labels))):
        mean[labels == label, latent] += 3
    config = ProbeConfig(ks=(1,), shuffle_labels=shuffle)
    found = probe.fit_probes(
        root, config, corpus=corpus_artifact, latents=plant(root, mean),
        activations=activations_artifact,
    )  # fmt: skip
    accuracy = {
        row["representation"]: row["value"]
        for row in pq.read_table(found.file("probes.parquet")).to_pylist()
        if row["metric"] == "accuracy" and row["k"] is None and row["label"] is None
    }
    assert (accuracy["latents"] > 0.9) == (not shuffle)
    if shuffle:
        assert accuracy["latents"] < 0.7


def test_the_key_is_another_where_labels_are_shuffled_alone() -> None:
    assert "shuffle_labels" not in ProbeConfig().key_fields()
    assert ProbeConfig(shuffle_labels=True).key_fields()["shuffle_labels"] is True
