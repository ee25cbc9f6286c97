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


def test_each_column_of_classes_is_probed_as_if_it_were_alone(
    tmp_path: Path, model: ResolvedModel
) -> None:
    corpus, made = probed(tmp_path / "all", model, label_columns=("stars", "topic", "tags", "tone"))
    train = is_train(corpus)
    alone = {task: probed(tmp_path / task, model, label_column=task) for task in ("topic", "tone")}
    assert all((is_train(one) == train).all() for one, _ in alone.values())
    for table in TABLES:
        rows = made.table(table.file)
        assert rows.schema.equals(table.with_optional().arrow)
        assert rows["task"].unique().to_pylist() == ["topic", "tone"]
        for task, (_, single) in alone.items():
            mine = rows.filter(pa.compute.equal(rows["task"], task)).drop(["task"])
            assert mine.equals(single.table(table.file))
            assert single.table(table.file).schema.equals(table.arrow)
    assert made.facts["tasks"] == {task: single.facts for task, (_, single) in alone.items()}
    first = {name: fact for name, fact in made.facts.items() if name != "tasks"}
    assert first == alone["topic"][1].facts


def test_without_any_column_of_classes(
    tmp_path: Path, model: ResolvedModel, caplog: pytest.LogCaptureFixture
) -> None:
    _, made = probed(tmp_path / "none", model, label_columns=("stars", "tags"))
    assert made.facts["skipped"] == "no column of labels holds classes (corpus.label_columns)"
    for table in TABLES:
        assert made.table(table.file).equals(table.with_optional().empty())
    assert "no column of labels holds classes" in caplog.text


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
