"""``deconstruct init`` writes a configuration that ``deconstruct run`` takes to its end."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from support.running import COMMAND, artifacts, deconstruct, environment

from deconstruct.config import STAGES, load


def within(folder: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    """The command as a user gives it in a folder."""
    return subprocess.run(
        [sys.executable, "-c", COMMAND, *map(str, arguments)],
        env=environment(folder / "home"),
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=480,
        check=False,
    )


@pytest.fixture
def folder(tmp_path: Path, texts: Path, tiny_model: Path) -> Path:
    """A user's folder: texts and a model, by their names."""
    (tmp_path / "my texts.csv").write_bytes(texts.read_bytes())
    (tmp_path / "tiny").symlink_to(tiny_model)
    return tmp_path


def test_a_configuration_is_written_planned_and_run(folder: Path) -> None:
    written = within(folder, "init", "my texts.csv", "--model", "tiny")
    assert written.returncode == 0, written.stderr
    assert written.stdout.splitlines() == [
        "my texts.toml is written; look it over, then",
        "  deconstruct run 'my texts.toml'",
    ]
    assert sorted(os.listdir(folder)) == ["my texts.csv", "my texts.toml", "tiny"]
    planned = within(folder, "plan", "my texts.toml")
    assert planned.returncode == 0, planned.stderr
    done = within(folder, "run", "my texts.toml", "--set", "evaluation.bootstrap=50")
    assert done.returncode == 0, done.stderr
    made = artifacts(folder / "home")
    assert set(STAGES) <= set(made)
    config = load(folder / "my texts.toml")
    assert made["sae"].facts["d_sae"] == config.sae.d_sae
    assert made["corpus"].facts["labels"] == ["business", "film", "sport"]
    told = (folder / "my texts.toml").read_text().replace("\n# ", " ")
    assert (
        "Tokens kept of a text, by the model's tokenizer: no text is longer. The model has" in told
    )
    [estimate] = re.findall(r"about ([\d,]+) are not held out", told)
    train = made["activations"].facts["train_rows"]
    assert int(estimate.replace(",", "")) == pytest.approx(train, rel=0.15)


def test_a_file_that_is_there_stays(folder: Path) -> None:
    (folder / "my texts.toml").write_text("mine")
    done = within(folder, "init", "my texts.csv", "--model", "tiny")
    assert done.returncode == 1
    assert done.stderr == (
        "error: 'my texts.toml' is there already; name another file with --output\n"
    )
    assert (folder / "my texts.toml").read_text() == "mine"


def test_it_is_printed_where_output_is_a_dash(
    tmp_path: Path, texts: Path, tiny_model: Path
) -> None:
    done = deconstruct(tmp_path / "home", "init", texts, "--model", tiny_model, "--output", "-")
    assert done.returncode == 0, done.stderr
    (tmp_path / "a.toml").write_text(done.stdout)
    assert load(tmp_path / "a.toml").corpus.source == str(texts)
    assert not (tmp_path / "home").exists()


def test_neither_torch_nor_prefect_is_loaded_for_a_family_that_is_known(
    tmp_path: Path, texts: Path, tiny_model: Path
) -> None:
    code = (
        "import sys; from deconstruct.suggest import suggest; "
        f"suggest({str(texts)!r}, {str(tiny_model)!r}); "
        "print(*({'torch', 'transformers', 'prefect'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == ""
