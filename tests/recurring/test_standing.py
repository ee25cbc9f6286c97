"""Which run a growing one goes on from."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import pytest
from support.store_artifacts import Planted, plant

from deconstruct.artifacts import DataRoot
from deconstruct.common.errors import ConfigError
from deconstruct.config import ActivationsConfig, AnalysisConfig, Growth, ProbeConfig, RunConfig
from deconstruct.model.resolve import ResolvedModel
from deconstruct.recurring import standing
from deconstruct.store import publish

MODEL = ResolvedModel("tiny", Path("tiny"), "ab" * 16, "70" * 16)


def config(name: str = "nightly", **changes: object) -> RunConfig:
    own = RunConfig(name=name, activations=ActivationsConfig(sites=("9.resid_post",)))
    return own.model_copy(update=changes)


def execute(home: Path, planted: Planted, settings: RunConfig, growth: Growth = "anew") -> str:
    record = planted.record.model_copy(update={"config": settings, "growth": growth})
    return publish(home, record, planted.artifacts)


def found(home: Path, settings: RunConfig, model: ResolvedModel = MODEL) -> str | None:
    runs = standing.find(DataRoot(home), settings, model)
    return runs["9.resid_post"].run_id if runs else None


def test_it_is_the_newest_of_its_name_and_settings(tmp_path: Path) -> None:
    first, second = plant(tmp_path), plant(tmp_path, seed=1)
    assert found(tmp_path, config()) is None
    one = execute(tmp_path, first, config())
    assert found(tmp_path, config()) == one
    two = execute(tmp_path, second, config())
    assert found(tmp_path, config()) == two
    assert found(tmp_path, config("weekly")) is None
    assert found(tmp_path, config(probe=ProbeConfig(ks=(2,)))) == two
    other = config().sae.model_copy(update={"seed": 7})
    assert found(tmp_path, config(sae=other)) is None


def test_equal_work_under_another_name_leaves_it_standing(tmp_path: Path) -> None:
    planted = plant(tmp_path)
    run = execute(tmp_path, planted, config(), "encode")
    execute(tmp_path, planted, config("trial"))
    assert found(tmp_path, config()) == run
    assert found(tmp_path, config("trial")) == run


def test_a_run_anew_takes_no_place_from_one_that_grows(tmp_path: Path) -> None:
    growing, anew, later = (plant(tmp_path, seed=seed) for seed in range(3))
    run = execute(tmp_path, growing, config(), "encode")
    execute(tmp_path, anew, config(), "anew")
    assert found(tmp_path, config()) == run
    newer = execute(tmp_path, later, config(), "retrain")
    assert found(tmp_path, config()) == newer
    execute(tmp_path, growing, config(), "anew")  # the same work again, by hand
    assert found(tmp_path, config()) == newer


@pytest.mark.parametrize("changed", ["digest", "tokenizer_digest"])
def test_what_changed_in_place_is_another_model(
    tmp_path: Path, changed: str, caplog: pytest.LogCaptureFixture
) -> None:
    run = execute(tmp_path, plant(tmp_path), config(), "encode")
    other = replace(MODEL, **{changed: "cd" * 16})
    with caplog.at_level(logging.WARNING, "deconstruct.stages"):
        assert found(tmp_path, config(), other) is None
    assert f"have changed since run {run} was made" in caplog.text
    assert found(tmp_path, config()) == run  # and when it is as it was


def judged_on(home: Path, planted: Planted, settings: RunConfig, **changes: object) -> str:
    update = {"config": settings, "analysis": "reviews", "growth": "encode", **changes}
    return publish(home, planted.record.model_copy(update=update), planted.artifacts)


def test_the_corpora_of_analyses_stand_beside_what_the_sae_is_trained_on(tmp_path: Path) -> None:
    own, other = plant(tmp_path), plant(tmp_path, seed=1, corpus_seed=1)
    reviews = AnalysisConfig(name="reviews", source="reviews.csv")
    settings = config(analysis=(reviews,))
    trained = own.artifacts["corpus"]
    run = judged_on(tmp_path, other, settings, training_corpus=trained.key)
    root = DataRoot(tmp_path)
    standing_run = standing.find(root, settings, MODEL)["9.resid_post"]
    assert standing_run.run_id == run
    assert standing_run.corpus is not None
    assert standing_run.corpus.key == trained.key
    assert found(tmp_path, config()) == run  # analyses are not among what must be the same
    corpora = standing.analysed(root, settings, MODEL)
    assert {name: corpus.key for name, corpus in corpora.items()} == {
        "reviews": other.artifacts["corpus"].key
    }
    later = judged_on(tmp_path, plant(tmp_path, seed=2, corpus_seed=2), settings)
    newest = standing.find(root, settings, MODEL)["9.resid_post"]
    assert (newest.run_id, newest.corpus) == (later, None)  # [corpus] was not read
    for changes in ({"max_tokens": 9}, {"limit": 9}, {"name": "others"}):
        changed = config(analysis=(reviews.model_copy(update=changes),))
        assert standing.analysed(root, changed, MODEL) == {}


def test_one_more_analysis_of_an_sae_takes_no_place(tmp_path: Path) -> None:
    first, second = plant(tmp_path), plant(tmp_path, seed=1)
    settings = config(analysis=(AnalysisConfig(name="reviews", source="reviews.csv"),))
    run = execute(tmp_path, second, config(), "encode")
    judged_on(tmp_path, first, settings, stands=False)
    assert found(tmp_path, config()) == run
    given = standing.named(DataRoot(tmp_path), "nightly/reviews", MODEL)["9.resid_post"]
    assert given.sae.key == first.artifacts["sae"].key
    assert given.role("retrain", None) == (given.sae, None)
    with pytest.raises(ConfigError, match="so its SAE is of another model"):
        standing.named(DataRoot(tmp_path), "latest", replace(MODEL, digest="cd" * 16))
