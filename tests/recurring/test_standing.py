"""Which run a growing one goes on from."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import pytest
from support.store_artifacts import Planted, plant

from deconstruct.artifacts import DataRoot
from deconstruct.config import ActivationsConfig, Growth, ProbeConfig, RunConfig
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
