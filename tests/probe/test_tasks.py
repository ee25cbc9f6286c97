"""Probes of several columns of labels: each class column is a task, the first the headline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from support.columns import texts, tokenised, write
from support.planted_latents import is_train, plant

from deconstruct.activations import stage as activations
from deconstruct.artifacts import Artifact, DataRoot
from deconstruct.config import ActivationsConfig, ProbeConfig
from deconstruct.model.resolve import ResolvedModel
from deconstruct.probe import stage as probe
from deconstruct.probe.tables import TABLES

COUNT = 80
TOPIC = ["a", "b"] * (COUNT // 2)
TONE = ["x", "x", "y", "y"] * (COUNT // 4)
STARS = [i / 4 for i in range(COUNT)]
TAGS = [["p", "q"][: i % 3] for i in range(COUNT)]
LATENTS = np.random.default_rng(0).gamma(1, 0.1, (COUNT, 6))
LATENTS[np.array(TOPIC) == "a", 2] += 2
LATENTS[np.array(TONE) == "y", 4] += 2


def probed(folder: Path, model: ResolvedModel, **fields: Any) -> tuple[Artifact, Artifact]:
    folder.mkdir()
    columns = {"text": texts(COUNT), "topic": TOPIC, "tone": TONE, "stars": STARS, "tags": TAGS}
    corpus = tokenised(write(folder / "a.jsonl", columns), model, **fields)
    root = DataRoot(folder / "data")
    wanted = ActivationsConfig(sites=("0.resid_post",))
    recorded = activations.extract(root, wanted, model=model, corpus=corpus, device="cpu")
    made = probe.fit_probes(
        root,
        ProbeConfig(ks=(1,), bootstrap=50),
        corpus=corpus,
        latents=plant(root, LATENTS),
        activations=next(iter(recorded.values())),
    )
    return corpus, made


def test_each_column_is_probed_as_if_it_were_alone(tmp_path: Path, model: ResolvedModel) -> None:
    """Those of classes first."""
    corpus, made = probed(tmp_path / "all", model, label_columns=("stars", "topic", "tags", "tone"))
    train = is_train(corpus)
    alone = {task: probed(tmp_path / task, model, label_column=task) for task in ("topic", "tone")}
    assert all((is_train(one) == train).all() for one, _ in alone.values())
    for table in TABLES:
        rows = made.table(table.file)
        assert rows.schema.equals(table.with_optional().arrow)
        assert rows["task"].unique().to_pylist()[:2] == ["topic", "tone"]
        for task, (_, single) in alone.items():
            mine = rows.filter(pa.compute.equal(rows["task"], task)).drop(["task"])
            assert mine.equals(single.table(table.file))
            assert single.table(table.file).schema.equals(table.arrow)
    assert list(made.facts["tasks"]) == ["topic", "tone", "stars", "tags"]
    for task, (_, single) in alone.items():
        assert made.facts["tasks"][task] == single.facts
    first = {name: fact for name, fact in made.facts.items() if name != "tasks"}
    assert first == alone["topic"][1].facts


def test_numbers_and_lists_of_labels_are_tasks_too(tmp_path: Path, model: ResolvedModel) -> None:
    corpus, made = probed(tmp_path / "none", model, label_columns=("stars", "tags"))
    rows = made.table("probes.parquet").to_pylist()
    held_out = np.flatnonzero(~is_train(corpus))
    on_stars = ("stars", "latents", None)
    stars = {
        row["metric"]: row
        for row in rows
        if (row["task"], row["representation"], row["k"]) == on_stars
    }
    assert set(stars) == {"r2", "spearman"}
    assert stars["r2"]["n_test"] == len(held_out)
    tags = {(row["metric"], row["label"]) for row in rows if row["task"] == "tags"}
    means = {"auroc", "balanced_accuracy", "average_precision"}
    assert tags == {
        *((metric, label) for metric in means for label in (None, "p", "q")),
        ("micro_auroc", None),
        ("micro_average_precision", None),
    }
    scores = made.table("probe_scores.parquet").to_pandas()
    own = scores[(scores.task == "stars") & (scores.representation == "majority")]
    assert own.truth.tolist() == [STARS[doc] for doc in held_out]
    assert own.score.nunique() == 1
    own = scores[(scores.task == "tags") & (scores.representation == "majority")]
    assert {(r.doc_id, r.target) for r in own.itertuples() if r.truth} == {
        (doc, tag) for doc in held_out for tag in TAGS[doc]
    }


def test_a_column_that_can_t_be_probed_leaves_the_others(
    tmp_path: Path, model: ResolvedModel, caplog: pytest.LogCaptureFixture
) -> None:
    columns = ("stars:class", "topic")
    _, made = probed(tmp_path / "some", model, label_columns=columns)
    assert "0 classes to learn" in made.facts["skipped"]
    assert "skipped" not in made.facts["tasks"]["topic"]
    rows = made.table("probes.parquet")
    assert rows["task"].unique().to_pylist() == ["topic"]
    assert "no probes of column 'stars'" in caplog.text
