"""A run whose training corpus is never recorded: through the command, and what it refuses."""

from __future__ import annotations

import csv
import json
from collections import Counter
from pathlib import Path

import pytest
from support.running import deconstruct, write_config
from support.texts import write_texts

from deconstruct.artifacts import DataRoot
from deconstruct.common.errors import ConfigError
from deconstruct.config import load

ANALYSIS = """
[[analysis]]
name = "reviews"
source = "{}"
max_tokens = 20
"""
WINDOW = """keep = "window"
window_shards = 2
window_moment_tokens = 600
"""


@pytest.fixture
def written(tmp_path: Path, tiny_model: Path) -> Path:
    """A configuration: unlabelled texts to train on, through a window, and labelled ones."""
    general = [text for text, _ in csv.reader(write_texts(tmp_path / "all.csv", seed=5).open())]
    (tmp_path / "general.jsonl").write_text(
        "".join(json.dumps({"text": text}) + "\n" for text in general[1:])
    )
    reviews = write_texts(tmp_path / "reviews.csv", 60, seed=6)
    path = write_config(tmp_path / "window.toml", tiny_model, tmp_path / "general.jsonl")
    text = path.read_text().replace("[activations]\n", 'label_column = "none"\n[activations]\n')
    text = text.replace("shard_tokens = 512\n", f"shard_tokens = 512\n{WINDOW}")
    path.write_text(text + ANALYSIS.format(reviews))
    return path


def test_it_is_planned_trained_judged_and_found_again(
    tmp_path: Path, written: Path, server: str
) -> None:
    home, env = tmp_path / "home", {"PREFECT_API_URL": server}
    planned = deconstruct(home, "plan", written, env=env)
    assert planned.returncode == 0, planned.stderr
    first = deconstruct(home, "run", written, env=env)
    assert first.returncode == 0, first.stderr
    made = list(DataRoot(home).artifacts())
    assert Counter(one.stage for one in made) == {
        "corpus": 2, "activations": 1, "reference": 1, "sae": 1, "latents": 1, "evaluation": 1,
        "probe": 1, "cluster": 1, "interpretation": 1, "map": 1,
    }  # fmt: skip
    by_key = {one.key: one for one in made}
    [sae] = [one for one in made if one.stage == "sae"]
    [recorded] = [one for one in made if one.stage == "activations"]
    assert by_key[sae.manifest.inputs["corpus"]].facts["documents"] == 120
    assert by_key[recorded.manifest.inputs["corpus"]].facts["documents"] == 60
    again = deconstruct(home, "run", written, env=env)
    assert again.returncode == 0, again.stderr
    assert "sae          from cache" in again.stderr
    assert {(one.key, one.manifest.finished) for one in DataRoot(home).artifacts()} == {
        (one.key, one.manifest.finished) for one in made
    }
    grown = deconstruct(home, "run", written, "--growth", "retrain", env=env)
    assert grown.returncode != 0
    assert "--growth retrain goes on from recorded activations" in grown.stderr


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("analysis=[]", "name other corpora in [[analysis]], or set keep = 'all'"),
        ("analysis.corpus.max_tokens=128", "name other corpora in [[analysis]]"),
        ("sae.patience=2", "leave patience out, or set keep = 'all'"),
        ("activations.window_shards=0", "activations.window_shards"),
        ("activations.keep=some", "activations.keep"),
    ],
)
def test_what_it_can_not_do_is_a_sentence(written: Path, override: str, said: str) -> None:
    with pytest.raises(ConfigError) as raised:
        load(written, [override])
    assert said in str(raised.value)
