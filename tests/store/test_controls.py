"""Controls in the store: which runs are one, what they are called, and what is told of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import duckdb
import pytest
from support.old_stores import TO_VERSION_5
from support.store_artifacts import plant

from deconstruct.config import RunConfig
from deconstruct.recurring.controls import controls_of
from deconstruct.store import open_store, publish, resolve_run
from deconstruct.store.rewrite import FILE


def put(home: Path, config: RunConfig, seed: int) -> str:
    """A run of ``config``, with figures that a seed of their own decides."""
    planted = plant(home, seed=seed)
    record = planted.record.model_copy(update={"config": config})
    return publish(home, record, planted.artifacts)


def base(home: Path) -> RunConfig:
    config: RunConfig = plant(home).record.config
    return config


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def published(home: Path) -> dict[str, str]:
    """Name -> run_id: a run, its controls, and runs that are none."""
    own = base(home)
    found = {"demo": put(home, own, 0)}
    for seed, control in enumerate(controls_of(own, 3), 1):
        found[control.name] = put(home, control.config, seed)
    encoder = own.sae.model_copy(update={"frozen": "encoder"})
    called = {"name": "demo/controls/frozen-encoder", "sae": encoder}
    found["frozen-encoder"] = put(home, own.model_copy(update=called), 10)
    other = own.sae.model_copy(update={"k": 3, "seed": 1})
    found["other k"] = put(home, own.model_copy(update={"name": "other", "sae": other}), 11)
    both = own.sae.model_copy(update={"frozen": "all", "seed": 1})
    found["two at once"] = put(home, own.model_copy(update={"name": "two", "sae": both}), 12)
    return found


def rows(home: Path, query: str) -> list[dict[str, Any]]:
    with open_store(home) as store:
        result = store.execute(query)
        names = [column[0] for column in result.description]
        return [dict(zip(names, row, strict=True)) for row in result.fetchall()]


def test_each_kind_is_known_by_its_settings(published: dict[str, str], home: Path) -> None:
    found = rows(home, "FROM control_runs('demo')")
    assert [(row["control"], row["seed"]) for row in found] == [
        ("seed", 1), ("seed", 2), ("frozen-decoder", 0), ("frozen-encoder", 0), ("random-sae", 0),
        ("random-model", 0), ("shuffled", 0),
    ]  # fmt: skip
    assert {row["run_id"] for row in found} == {
        run for name, run in published.items() if name not in ("demo", "other k", "two at once")
    }
    kinds = {row["name"]: row["control"] for row in rows(home, "FROM runs")}
    assert kinds == {
        "demo": None, "other": None, "two": "random-sae", "demo/controls/seed-1": "seed",
        "demo/controls/seed-2": "seed", "demo/controls/frozen-decoder": "frozen-decoder",
        "demo/controls/frozen-encoder": "frozen-encoder", "demo/controls/random-sae": "random-sae",
        "demo/controls/random-model": "random-model", "demo/controls/shuffled": "shuffled",
    }  # fmt: skip
    assert rows(home, "FROM control_runs('other')") == []
    # A control of a control: the run differs from it by one thing, but has nothing taken away.
    of_random = rows(home, "FROM control_runs('demo/controls/random-sae')")
    assert [row["control"] for row in of_random] == ["seed"]


def test_a_run_stands_beside_its_controls(published: dict[str, str], home: Path) -> None:
    found = rows(home, "FROM controls('demo', metrics := ['fvu', 'kl'])")
    measured = {
        (row["run_id"], row["metric"]): row["value"]
        for row in rows(home, "FROM sae_metrics") if row["metric"] in ("fvu", "kl")
    }  # fmt: skip
    for row in found:
        assert row["value"] == measured[published["demo"], row["metric"]]
        assert row["value_control"] == measured[row["run_id"], row["metric"]]
        assert row["paired"]
        assert row["ci_low"] <= row["difference"] <= row["ci_high"]
        assert 0 <= row["p_corrected"] <= 1
    assert {row["control"] for row in found} == {
        "seed", "frozen-decoder", "frozen-encoder", "random-sae", "random-model", "shuffled"
    }  # fmt: skip
    assert len(found) == 2 * 7
    metrics = {row["metric"] for row in rows(home, "FROM controls('demo')")}
    assert {"delta_loss", "kl", "accuracy of latents", "nmi"} <= metrics
    assert "fvu" not in metrics


def test_a_control_is_never_the_latest_run(published: dict[str, str], home: Path) -> None:
    with open_store(home) as store:
        assert resolve_run(store, "latest") == published["two at once"]
    own = base(home)
    put(home, own, 0)
    put(home, controls_of(own, 2)[0].config, 1)  # executed last
    with open_store(home) as store:
        assert resolve_run(store, "latest") == published["demo"]
        assert resolve_run(store, "demo") == published["demo"]
        assert resolve_run(store, "demo/controls/seed-1") == published["seed-1"]


def test_a_store_of_the_release_before_gets_the_column(tmp_path: Path) -> None:
    own = base(tmp_path)
    put(tmp_path, own, 0)
    with duckdb.connect(tmp_path / FILE) as store:
        store.execute(TO_VERSION_5)
    assert rows(tmp_path, "SELECT name, control FROM runs") == [{"name": "demo", "control": None}]
    put(tmp_path, controls_of(own, 1)[0].config, 1)
    assert [row["control"] for row in rows(tmp_path, "FROM runs ORDER BY name")] == [
        None, "frozen-decoder"
    ]  # fmt: skip
    assert len(rows(tmp_path, "FROM control_runs('demo')")) == 1
