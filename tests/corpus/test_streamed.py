"""The beginning of a hub data set costs the files that it lies in, each fetched once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest
from support.paths import ROOT

TRAIN = [f"data/train-0000{n}-of-00003.parquet" for n in range(3)]
ROWS = [
    ["a", "Sports", []],
    ["b", "World", []],
    ["c", "Sports", []],
    ["d", "World", []],
    ["e", "World", []],
    ["f", "Sports", []],
]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    cache = tmp_path_factory.mktemp("hub")
    program = ROOT / "tests/support/hub_of_shards.py"
    paths = os.pathsep.join([str(ROOT / "tests"), str(ROOT)])
    done = subprocess.run(
        [sys.executable, str(program), str(cache)],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": paths},
    )
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def test_a_slice_costs_the_files_that_it_lies_in(found: dict[str, Any]) -> None:
    assert found["two"] == {"rows": ROWS[:2], "asked": TRAIN[:1]}


def test_what_is_here_is_not_fetched_again(found: dict[str, Any]) -> None:
    assert (
        "the hub does not hand out 'data/train-00001-of-00003.parquet'" in found["broken"]["rows"]
    )
    assert found["broken"]["rows"].startswith("SourceUnreachable")
    assert found["five"] == {"rows": ROWS[:5], "asked": TRAIN[1:2]}
    assert found["again"] == {"rows": ROWS[:5], "asked": []}
    assert found["all"] == {"rows": ROWS, "asked": TRAIN[2:]}


def test_rows_are_those_of_the_whole_set_in_order(found: dict[str, Any]) -> None:
    assert found["whole"]["rows"] == ROWS


def test_splits_follow_one_another(found: dict[str, Any]) -> None:
    odd = [["x", "Sports", []], ["y", "Sports", []]]
    assert found["splits"]["rows"] == odd + ROWS[:5]
    assert "has no split 'valid'; it has train, odd" in found["no split"]["rows"]
