"""What is said before any work: what a person got wrong, in an order that costs no waiting."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from support.running import environment

from deconstruct.artifacts import Artifact
from deconstruct.common.errors import ConfigError
from deconstruct.config import RunConfig, load
from deconstruct.corpus import sources
from flows import preflight

SAID = """
import json, sys
from flows.cli import app
try:
    app(sys.argv[1:])
except SystemExit as error:
    loaded = [name for name in ("torch", "prefect", "transformers") if name in sys.modules]
    print(json.dumps([error.code, loaded]))
"""


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--set", "corpus.source=/no/such.csv"], "there is no '/no/such.csv'"),
        (["--set", "sae.batch_size=100_000"], "sae.batch_size = 100000 is more than the"),
        (["--device", "gpu"], "there is no device 'gpu' here"),
        (["--set", "corpus.label_column=none", "--set", "sae.batch_size=5000"], "batch_size"),
    ],
)
def test_it_is_said_before_torch_loads_and_a_server_starts(
    arguments: list[str], said: str, config: Path, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    done = subprocess.run(
        [sys.executable, "-c", SAID, "run", str(config), *arguments],
        env=environment(home),
        capture_output=True,
        text=True,
        check=True,
    )
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
    assert json.loads(done.stdout) == [1, []]
    assert not (home / ".prefect").exists()


def settings(config: Path, size: int) -> RunConfig:
    return load(config, [f"sae.batch_size={size}"])


def test_a_batch_is_held_against_what_the_documents_can_give(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """120 documents of at most 24 tokens, of which the first is left out."""
    most = 120 * 23
    source = sources.resolve(load(config).corpus)
    preflight.check_batch(settings(config, most), source)
    with pytest.raises(ConfigError, match=f"the {most} tokens that 120 documents can give"):
        preflight.check_batch(settings(config, most + 1), source)
    monkeypatch.setattr(sources, "read", lambda *_: pytest.fail("it is read for nothing"))
    preflight.check_batch(settings(config, 16), source)


def test_it_is_held_against_the_tokens_that_train_before_they_are_extracted(
    config: Path, corpus_artifact: Artifact, activations_artifact: Artifact
) -> None:
    rows = int(activations_artifact.facts["train_rows"])
    preflight.check_recorded(settings(config, rows), corpus_artifact)
    with pytest.raises(ConfigError, match=rf"the {rows} recorded tokens of split 'train'"):
        preflight.check_recorded(settings(config, rows + 1), corpus_artifact)
