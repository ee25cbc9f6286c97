"""A sweep's configuration: which members it has, and each as a run of its own."""

from __future__ import annotations

import pytest
from support.paths import ROOT

from deconstruct.common.errors import ConfigError
from deconstruct.config import RunConfig
from deconstruct.config.sweep import load_sweep

CONFIGS = ROOT / "configs"


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


def test_a_file_without_the_table_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"gpt2\.toml' has no table \[sweep\]; write there what"):
        load_sweep(CONFIGS / "gpt2.toml")
    assert load_sweep(CONFIGS / "gpt2.toml", ["sweep.k=[4, 8]"]).sweep.k == (4, 8)
