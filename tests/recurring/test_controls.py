"""Which runs are the controls of a run, and of what there are none."""

from __future__ import annotations

import pytest

from deconstruct.common.errors import ConfigError
from deconstruct.config import RunConfig
from deconstruct.config import load as load_config
from deconstruct.recurring.controls import controls_of


def settled(config: RunConfig) -> dict[str, object]:
    """All but its name and gates."""
    return config.model_dump(exclude={"name", "gates"})


def test_each_differs_from_the_run_in_one_thing() -> None:
    run = load_config(None, ["name=mine", "sae.seed=4", "gates.max_fvu=0.5"])
    found = {control.name: control.config for control in controls_of(run, 3)}
    assert list(found) == [
        "seed-5", "seed-6", "frozen-decoder", "random-sae", "shuffled", "random-model"
    ]  # fmt: skip
    assert [config.control for config in found.values()] == [
        "seed", "seed", "frozen-decoder", "random-sae", "shuffled", "random-model"
    ]  # fmt: skip
    changed = {
        "seed-5": ["sae.seed=5"],
        "seed-6": ["sae.seed=6"],
        "frozen-decoder": ["sae.seed=4", "sae.frozen=decoder"],
        "random-sae": ["sae.seed=4", "sae.frozen=all"],
        "shuffled": ["sae.seed=4", "probe.shuffle_labels=true"],
        "random-model": ["sae.seed=4", "model.name=random:0:embedded:gemma-3-270m"],
    }
    for name, config in found.items():
        assert config.name == f"mine/controls/{name}"
        assert config.gates.max_fvu is None  # a control is not to be good
        assert settled(config) == settled(load_config(None, changed[name]))


def test_one_seed_is_the_runs_own() -> None:
    assert "seed" not in {control.config.control for control in controls_of(RunConfig(), 1)}


@pytest.mark.parametrize(
    ("fields", "seeds", "told"),
    [
        ([], 0, "--seeds 0 is out of range"),
        (["sae.pretrained=some/folder"], 3, "sae.pretrained = 'some/folder' is not trained"),
        (["sae.frozen=decoder"], 3, "is a control itself (frozen-decoder)"),
        (["model.name=random:1:gpt2"], 3, "is a control itself (random-model)"),
        (["probe.shuffle_labels=true"], 3, "is a control itself (shuffled)"),
        (["name=mine/controls/seed-1"], 3, "is a control itself (seed)"),
        ([f"name={'x' * 80}"], 3, "leaves no room for those of its controls"),
        (["sae.architecture=relu", "sae.penalty=0.1"], 3, "set sae.target_l0 in its place"),
    ],
)
def test_what_has_no_controls_is_told_in_a_sentence(
    fields: list[str], seeds: int, told: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        controls_of(load_config(None, fields), seeds)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)
