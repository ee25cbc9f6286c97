"""The probe stage on planted latents: what is found, what is not, and that nothing leaks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import balanced_accuracy_score, f1_score, roc_auc_score
from support.planted_latents import is_train, labels_of, plant
from support.probing import task_of
from threadpoolctl import threadpool_limits

from deconstruct.activations import stage as activations
from deconstruct.artifacts import Artifact, DataRoot
from deconstruct.common.threads import one_quiet_thread
from deconstruct.config import ActivationsConfig, CorpusConfig, ProbeConfig
from deconstruct.corpus import sources
from deconstruct.corpus import stage as corpus
from deconstruct.model.resolve import ResolvedModel
from deconstruct.probe import stage as probe
from deconstruct.probe.scores import Probe, prior
from deconstruct.probe.stage import Probing
from deconstruct.probe.tables import PROBE_SCORES, PROBES, TABLES
from deconstruct.probe.vectors import Vectors

D_SAE = 40
OWN = {"business": 5, "film": 17, "sport": 31}
"""The latent that is planted for each label."""


def planted(corpus_artifact: Artifact, seed: int = 0) -> np.ndarray:
    """Noise, and for each label a latent that is stronger in its documents."""
    labels = labels_of(corpus_artifact)
    mean = np.random.default_rng(seed).gamma(1, 0.3, (len(labels), D_SAE))
    for label, latent in OWN.items():
        mean[labels == label, latent] += 3
    mean[:, 2] *= 1000  # a loud latent that tells nothing
    return mean


@pytest.fixture(scope="module")
def probed(
    tmp_path_factory: pytest.TempPathFactory,
    corpus_artifact: Artifact,
    activations_artifact: Artifact,
) -> Artifact:
    root = DataRoot(tmp_path_factory.mktemp("probed"))
    return probe.fit_probes(
        root,
        ProbeConfig(ks=(1, 3, 100)),
        corpus=corpus_artifact,
        latents=plant(root, planted(corpus_artifact)),
        activations=activations_artifact,
    )


def rows(artifact: Artifact, name: str) -> list[dict[str, Any]]:
    table = pq.read_table(artifact.file(f"{name}.parquet"), page_checksum_verification=True)
    assert artifact.manifest.files[f"{name}.parquet"].rows == len(table)
    found: list[dict[str, Any]] = table.to_pylist()
    return found


def value(
    artifact: Artifact, representation: str, metric: str = "accuracy", **where: Any
) -> dict[str, Any]:
    where = {"k": None, "label": None, **where}
    (row,) = (
        row
        for row in rows(artifact, "probes")
        if (row["representation"], row["metric"]) == (representation, metric)
        and all(row[name] == own for name, own in where.items())
    )
    return row


def test_what_is_planted_is_found(probed: Artifact, corpus_artifact: Artifact) -> None:
    labels, train = labels_of(corpus_artifact), is_train(corpus_artifact)
    found = value(probed, "latents")
    assert found["value"] == probed.facts["accuracy"] >= 0.95
    assert (found["n_train"], found["n_test"]) == (train.sum(), (~train).sum())
    assert value(probed, "latents", k=3)["value"] >= 0.95
    assert value(probed, "latents", "auroc", k=1)["value"] > 0.98  # each label has one of its own
    names, counts = np.unique(labels[train].astype(str), return_counts=True)
    prior = (labels[~train] == names[counts.argmax()]).mean()
    assert value(probed, "majority")["value"] == pytest.approx(prior)
    assert value(probed, "tfidf")["value"] >= 0.9
    assert value(probed, "activations")["value"] > prior
    for label in OWN:
        assert value(probed, "latents", "auroc", label=label)["value"] > 0.98
        assert value(probed, "majority", "auroc", label=label)["value"] == 0.5
    weights = {(row["label"], row["rank"]): row for row in rows(probed, "probe_weights")}
    for label, latent in OWN.items():
        assert weights[label, 1]["latent"] == latent
        assert weights[label, 1]["weight"] > 0
        ranked = [abs(weights[label, rank]["effect"]) for rank in range(1, D_SAE)]
        assert ranked[:1] == sorted(ranked[:1])
        assert ranked == sorted(ranked, reverse=True)


def test_each_representation_is_read_whole_and_in_parts(probed: Artifact) -> None:
    """More dimensions than there are give no sparse probe; without a model, no embeddings."""
    ks: dict[str, set[int | None]] = {}
    for row in rows(probed, "probes"):
        ks.setdefault(row["representation"], set()).add(row["k"])
    assert ks["majority"] == {None}
    assert ks["latents"] == ks["length"] == {None, 1, 3}
    assert all({None, 1, 3} <= ks[name] for name in ks if name != "majority")
    assert set(ks) == {
        "majority", "length", "tfidf", "activations", "pca", "random_projection", "latents"
    }  # fmt: skip


def test_scores_give_the_measures(probed: Artifact, corpus_artifact: Artifact) -> None:
    labels, train = labels_of(corpus_artifact), is_train(corpus_artifact)
    assert pq.read_schema(probed.file("probe_scores.parquet")).equals(PROBE_SCORES.arrow)
    assert pq.read_schema(probed.file("probes.parquet")).equals(PROBES.arrow)
    table = probed.table("probe_scores.parquet").to_pandas()
    held_out, names = np.flatnonzero(~train), sorted(OWN)
    said = {}
    for (representation, size), own in table.groupby(["representation", "k"], dropna=False):
        k = None if np.isnan(size) else int(size)
        score = own.pivot(index="doc_id", columns="target", values="score")
        assert score.index.tolist() == held_out.tolist()
        assert score.columns.tolist() == names
        truth = own.pivot(index="doc_id", columns="target", values="truth").to_numpy()
        assert (truth == (labels[held_out][:, None] == names)).all()
        said[representation, k] = score.to_numpy()
    for (representation, k), score in said.items():
        best = score.argmax(1)
        right = truth.argmax(1)
        found = {
            "accuracy": (best == right).mean(),
            "macro_f1": f1_score(right, best, average="macro", zero_division=0),
            "auroc": roc_auc_score(truth, score, average="macro"),
            "balanced_accuracy": np.mean([
                balanced_accuracy_score(t, s > prior)
                for t, s, prior in zip(truth.T, score.T, said["majority", None][0], strict=True)
            ]),
        }  # fmt: skip
        for metric, expected in found.items():
            row = value(probed, representation, metric, k=k)
            assert row["value"] == pytest.approx(expected), (representation, k, metric)
            assert row["ci_low"] is None or row["ci_low"] <= row["value"] <= row["ci_high"]
            assert (row["target"], row["seed"]) == (None, 0)
        for number, label in enumerate(names):
            row = value(probed, representation, "auroc", k=k, label=label)
            assert row["value"] == pytest.approx(roc_auc_score(truth[:, number], score[:, number]))
            assert row["target"] == label
            recall = value(probed, representation, "recall", k=k, label=label)
            assert recall["value"] == pytest.approx((best == number)[right == number].mean())
            assert recall["target"] is None
    for other, k in (("activations", None), ("activations", 3), ("majority", None)):
        gap = value(probed, "latents", f"accuracy_minus_{other}", k=k)
        ours, theirs = ((said[name, k].argmax(1) == right) for name in ("latents", other))
        own = ours.astype(float) - theirs
        assert gap["value"] == pytest.approx(own.mean())
        half = 1.96 * own.std() / len(own) ** 0.5
        assert gap["ci_low"] == pytest.approx(own.mean() - half, abs=0.05)
        assert gap["ci_high"] == pytest.approx(own.mean() + half, abs=0.05)


def test_held_out_documents_teach_nothing(
    tmp_path: Path, corpus_artifact: Artifact, activations_artifact: Artifact, probed: Artifact
) -> None:
    """With other latents in the held-out documents, the same is learned from the train ones."""
    root = DataRoot(tmp_path)
    train = is_train(corpus_artifact)
    mean = planted(corpus_artifact)
    mean[~train] = planted(corpus_artifact, seed=1)[~train][::-1] * 7
    other = probe.fit_probes(
        root,
        ProbeConfig(ks=(1, 3, 100)),
        corpus=corpus_artifact,
        latents=plant(root, mean),
        activations=activations_artifact,
    )
    assert rows(other, "probe_weights") == rows(probed, "probe_weights")
    assert value(other, "latents")["value"] < 0.8  # it did look at them, to score
    # What only held-out documents show is not found: their labels are written into latent 0.
    mean = np.random.default_rng(2).gamma(1, 1, mean.shape)
    mean[~train, 0] = (
        10 * np.unique(labels_of(corpus_artifact).astype(str), return_inverse=True)[1][~train]
    )
    blind = probe.fit_probes(
        root,
        ProbeConfig(ks=(1,)),
        corpus=corpus_artifact,
        latents=plant(root, mean),
        activations=activations_artifact,
    )
    for k in (1, None):
        assert value(blind, "latents", k=k)["ci_low"] < 0.5


def test_latents_of_a_sparse_probe_are_chosen_on_train_documents(
    tmp_path: Path, corpus_artifact: Artifact, activations_artifact: Artifact
) -> None:
    """A latent that tells much, but in held-out documents only, is not chosen."""
    root = DataRoot(tmp_path)
    labels, train = labels_of(corpus_artifact), is_train(corpus_artifact)
    mean = np.zeros((len(labels), D_SAE))
    mean[:, 9] = np.random.default_rng(0).gamma(1, 1, len(labels)) + 0.5 * (labels == "business")
    alone = mean.copy()
    mean[:, 0] = np.where(train, 0.01, 10 * (labels != "business"))
    mean[0, 0] = 0.02
    every = np.arange(len(labels))
    [best] = Vectors(mean, mean).strongest((labels == "business")[:, None], [every], 1)
    assert best == [[0]]  # so would it be, if it were looked at
    made = [
        probe.fit_probes(
            root,
            ProbeConfig(ks=(1,)),
            corpus=corpus_artifact,
            latents=plant(root, planted_mean),
            activations=activations_artifact,
        )
        for planted_mean in (mean, alone)
    ]
    told = [
        [r for r in rows(m, "probe_scores") if r["k"] == 1 and r["target"] == "business"]
        for m in made
    ]
    assert told[0] == told[1]


def test_noise_scores_as_chance_does(
    tmp_path: Path, corpus_artifact: Artifact, activations_artifact: Artifact
) -> None:
    root = DataRoot(tmp_path)
    shape = (len(labels_of(corpus_artifact)), D_SAE)
    accuracy, areas = [], []
    for seed in range(8):
        noise = np.random.default_rng(seed).gamma(1, 1, shape)
        config = ProbeConfig(ks=(), pooling="max")
        made = probe.fit_probes(
            root,
            config,
            corpus=corpus_artifact,
            latents=plant(root, noise),
            activations=activations_artifact,
        )
        accuracy.append(value(made, "latents")["value"])
        areas += [value(made, "latents", "auroc", label=label)["value"] for label in OWN]
    # 8 times 20-odd held-out documents: standard errors are 0.035 and 0.02.
    assert np.mean(accuracy) == pytest.approx(1 / 3, abs=0.12)
    assert np.mean(areas) == pytest.approx(1 / 2, abs=0.08)


def made_of(
    home: Path, model: ResolvedModel, labels: list[str | None], **fields: Any
) -> tuple[DataRoot, Artifact, Artifact]:
    """A store, a corpus of one text for each label, and its activations."""
    root = DataRoot(home / "data")
    path = home / "texts.jsonl"
    texts = [
        {"text": f"{label} and {i} more of it", "label": label} for i, label in enumerate(labels)
    ]
    path.write_text("\n".join(map(json.dumps, texts)))
    config = CorpusConfig.model_validate({"source": str(path), **fields})
    made = corpus.tokenise(root, config, source=sources.resolve(config), model=model)
    wanted = ActivationsConfig(sites=("0.resid_post",))
    recorded = activations.extract(root, wanted, model=model, corpus=made, device="cpu")
    return root, made, next(iter(recorded.values()))


@pytest.mark.parametrize(
    ("labels", "fields", "reason"),
    [
        (["a"] * 12, {}, "the train documents have 1 class to learn, a probe needs two"),
        ([None] * 12, {}, "the corpus has no labels (corpus.label_column)"),
        (["a", "b"] * 6, {"label_column": None}, "the corpus has no labels (corpus.label_column)"),
        (list("abcdefghijkl"), {}, "the train documents have 0 classes to learn"),
    ],
)
def test_nothing_to_probe(
    tmp_path: Path,
    model: ResolvedModel,
    labels: list[str | None],
    fields: dict[str, Any],
    reason: str,
) -> None:
    root, texts, recorded = made_of(tmp_path, model, labels, **fields)
    firings = plant(root, np.ones((len(labels), 4)))
    made = probe.fit_probes(
        root, ProbeConfig(), corpus=texts, latents=firings, activations=recorded
    )
    assert made.facts["skipped"].startswith(reason)
    for table in TABLES:
        assert rows(made, table.name) == []
        assert pq.read_schema(made.file(table.file)).equals(table.arrow)


def test_two_classes_and_some_documents_that_do_not_count(
    tmp_path: Path, model: ResolvedModel
) -> None:
    labels: list[str | None] = ["yes", "no", "no"] * 20 + ["rare"] + [None] * 5
    root, texts, recorded = made_of(tmp_path, model, labels, test_share=0.3)
    known = np.array([label in ("yes", "no") for label in labels])
    mean = np.random.default_rng(0).gamma(1, 0.1, (len(labels), 6))
    mean[np.array(labels) == "yes", 4] += 2
    made = probe.fit_probes(
        root, ProbeConfig(ks=(1,)), corpus=texts, latents=plant(root, mean), activations=recorded
    )
    assert made.facts["left_out"] == ["rare"]
    assert "skipped" not in made.facts
    train = is_train(texts)
    found = value(made, "latents")
    assert (found["n_train"], found["n_test"]) == ((train & known).sum(), (~train & known).sum())
    assert found["value"] == value(made, "latents", k=1)["value"] == 1
    assert {row["target"] for row in rows(made, "probe_scores")} == {"yes", "no"}
    weights = {(row["label"], row["latent"]): row["weight"] for row in rows(made, "probe_weights")}
    assert weights["yes", 4] > 0
    for latent in range(6):
        assert weights["yes", latent] == -weights["no", latent]
    area = value(made, "latents", "auroc", label="yes")
    assert (area["value"], area["ci_low"]) == (1, None)


def test_bytes_are_the_same_again(
    tmp_path: Path, corpus_artifact: Artifact, activations_artifact: Artifact, probed: Artifact
) -> None:
    root = DataRoot(tmp_path)
    firings = plant(root, planted(corpus_artifact))
    again = probe.fit_probes(
        root,
        ProbeConfig(ks=(1, 3, 100)),
        corpus=corpus_artifact,
        latents=firings,
        activations=activations_artifact,
    )
    assert (again.key, again.digest()) == (probed.key, probed.digest())


def test_bytes_do_not_depend_on_the_number_of_threads() -> None:
    """At this size two threads sum in another order than one."""
    labels = [["abc"[i % 3]] for i in range(450)]
    task = task_of(labels, np.arange(450) < 400)
    matrix = np.random.default_rng(0).gamma(1, 1, (450, 2000)).astype(np.float32)
    told = []
    for threads in (1, 2):
        probing = Probing(ProbeConfig(ks=(2,)), task)
        with threadpool_limits(threads), one_quiet_thread():
            probing.scores.add(Probe("majority", None), prior(task))
            probing.fit("latents", Vectors(matrix[task.train], matrix[task.test]))
        told.append(probing.tables()[PROBE_SCORES])
    assert told[0].equals(told[1])
