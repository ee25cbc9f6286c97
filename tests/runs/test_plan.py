"""``deconstruct plan`` says what a run would do, and does nothing."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from support.running import STAGES, artifacts, deconstruct

from deconstruct.artifacts import DataRoot, Recipe
from tasks.planning import differences, nearest

FIRST = ("corpus", "activations")


def planned(home: Path, *arguments: object) -> dict[str, str]:
    """Stage -> what the command says of it."""
    before = sorted(home.rglob("*"))
    done = deconstruct(home, "plan", *arguments)
    assert done.returncode == 0, done.stderr
    assert [path for path in sorted(home.rglob("*")) if path not in before] == []
    lines = [line.split(maxsplit=1) for line in done.stdout.splitlines()]
    said = {line[0]: line[1].replace("1.resid_post ", "") for line in lines if len(line) == 2}
    return {stage: text.strip() for stage, text in said.items() if stage in (*STAGES, "about")}


def test_what_is_there_comes_from_cache(finished: Path, config: Path) -> None:
    assert planned(finished, config) == dict.fromkeys(STAGES, "from cache")


def test_a_field_that_makes_the_difference_is_named(finished: Path, config: Path) -> None:
    said = planned(finished, config, "--set", "sae.k=3")
    assert {stage: said[stage] for stage in FIRST} == dict.fromkeys(FIRST, "from cache")
    assert said["sae"] == "made: sae.k is 3 (the nearest artifact has 4)"
    assert said["latents"] == "made: input sae is made anew"
    assert said["probe"] == "made: input latents is made anew"
    assert "going by the nearest artifacts" in said["about"]


def test_a_changed_source_is_named(
    tmp_path: Path, finished: Path, config: Path, texts: Path
) -> None:
    other = tmp_path / "news.csv"
    shutil.copy(texts, other)
    with other.open("a") as file:
        file.write("one more text of the film and the actor,film\n")
    said = planned(finished, config, "--set", f"corpus.source={other}")
    assert said["corpus"] == "made: input source is another"
    assert said["activations"] == "made: input corpus is made anew"


def test_a_first_run_promises_no_time(tmp_path: Path, config: Path) -> None:
    done = deconstruct(tmp_path / "new", "plan", config)
    assert done.returncode == 0, done.stderr
    assert re.search("^corpus +made: there is none yet$", done.stdout, re.MULTILINE)
    assert "about 0 s" not in done.stdout
    assert "the run gives an estimate once its corpus is made" in " ".join(done.stdout.split())


def test_the_nearest_differs_least(finished: Path) -> None:
    root = DataRoot(finished)
    sae = artifacts(finished)["sae"].manifest.recipe
    found, ways = nearest(root, Recipe("sae", sae.version + 1, sae.config, {"activations": "0"}))
    assert found is not None
    assert ways == (
        f"the stage has version {sae.version + 1} (the nearest artifact has {sae.version})",
        "input activations is another",
    )
    assert nearest(root, Recipe("drift", 1, {}, {})) == (None, ("there is none yet",))
    assert differences(sae, sae, set()) == ()


@pytest.mark.parametrize("field", ["sae.k=many", "activations.sites=9.mlp_out"])
def test_what_can_not_be_run_is_said(finished: Path, config: Path, field: str) -> None:
    done = deconstruct(finished, "plan", config, "--set", field)
    assert done.returncode == 1
    assert "error: " in done.stderr
    assert "Traceback" not in done.stderr
