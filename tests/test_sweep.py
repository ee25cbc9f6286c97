"""A sweep's configuration, and the command that runs one: members, runs, Pareto front."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from running import artifacts, deconstruct

from deconstruct.artifact import ArtifactStore
from deconstruct.config import RunConfig
from deconstruct.errors import ConfigError
from deconstruct.sweep import load_sweep

CONFIGS = Path(__file__).parent.parent / "configs"


def labels(*overrides: str) -> list[str]:
    return [m.label() for m in load_sweep(CONFIGS / "sweep.toml", overrides).members()]


def test_members_are_all_combinations_and_none_twice() -> None:
    assert labels() == [f"{a}-{k}" for a in ("topk", "batchtopk") for k in (16, 32, 64)]
    mixed = ["sweep.architecture=['relu', 'topk']", "sweep.penalty=[0.1, 0.2]", "sweep.k=[8, 4]"]
    assert labels(*mixed) == ["relu-0.1", "relu-0.2", "topk-8", "topk-4"]
    assert labels("sweep={}") == ["topk-32"]
    assert len(labels("sweep.seed=[0, 1, 2]", "sweep.d_sae=[512, 1024]")) == 36
    assert labels("sweep.architecture=['gated']", "sae.k=77", "sweep.target_l0=[20]") == [
        "gated-l0-20"
    ]


def test_a_member_as_a_run_of_its_own() -> None:
    sweep = load_sweep(CONFIGS / "sweep.toml", ["name=nightly"])
    run = sweep.run_of(sweep.members()[1])
    assert type(run) is RunConfig
    assert (run.name, run.sae.k, run.activations) == ("nightly", 32, sweep.activations)


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("sweep.kk=[1]", r"sweep\.kk: no such field; did you mean 'k'\?"),
        ("sweep.k=[9000]", r"a member \{'k': 9000\} of architecture topk: k = 9000 is more than"),
        ("sweep.architecture=['topkk']", r"sweep\.architecture\.0: .*found 'topkk'"),
        ("sae.kk=1", r"sae\.kk: no such field; did you mean 'k'\?"),
    ],
)
def test_faults_are_sentences(override: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence) as caught:
        load_sweep(CONFIGS / "sweep.toml", [override])
    assert "\n" not in str(caught.value)


def test_the_command_leaves_a_run_a_member_and_a_front(
    finished: Path, config: Path, tmp_path: Path
) -> None:
    """Over a home in which a single run has finished, whose SAE is one of the members."""
    home = tmp_path / "home"
    shutil.copytree(finished, home)
    single = artifacts(home)["sae"]
    file = tmp_path / "sweep.toml"
    file.write_text(config.read_text() + "\n[sweep]\narchitecture = ['topk', 'relu']\nk = [4, 8]\n")
    done = deconstruct(home, "sweep", file, "--set", "name=front")
    assert done.returncode == 0, done.stderr
    saes = {a.key: a for a in ArtifactStore(home).artifacts() if a.stage == "sae"}
    assert len(saes) == 3
    assert saes[single.key].manifest == single.manifest  # found, not made again
    asked = deconstruct(home, "sql", "--format", "json", "FROM pareto('front')")
    rows = json.loads(asked.stdout)
    assert {(row["architecture"], row["k"]) for row in rows} == {
        ("topk", 4), ("topk", 8), ("relu", None),
    }  # fmt: skip
    for row in rows:
        beaten = [
            o for o in rows
            if o["l0"] <= row["l0"] and o["fvu"] <= row["fvu"] and o["run_id"] != row["run_id"]
        ]  # fmt: skip
        assert row["on_front"] == (not beaten)
        assert row["fvu_low"] <= row["fvu"] <= row["fvu_high"]
        assert row["run_id"] in done.stdout
    assert any(row["on_front"] for row in rows)
    assert any(row["on_loss_front"] for row in rows)
    assert len(json.loads(deconstruct(home, "sql", "--format", "json", "FROM runs").stdout)) >= 3
