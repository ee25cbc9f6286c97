"""``deconstruct export --format``: a run as a folder of its own, whole or not at all."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.taken_out import published, sae_of
from typer.testing import CliRunner

from deconstruct.artifacts import Artifact
from deconstruct.cli import app
from deconstruct.common.errors import StorageError
from deconstruct.interop.export import FOLDERS, export
from deconstruct.sae import files


@pytest.fixture
def sae(tmp_path: Path) -> Artifact:
    """A real SAE, of the run ``demo`` in the data root ``home``."""
    return published(tmp_path / "home", sae_of("topk")).artifacts["sae"]


def exported(home: Path, *arguments: object) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["export", *map(str, arguments), "--home", str(home)])
    return done.exit_code, done.output


@pytest.mark.parametrize("format_", ["saelens", "sae_lens"])
def test_the_folder_is_what_saelens_takes(format_: str, tmp_path: Path, sae: Artifact) -> None:
    target = tmp_path / "for them"
    code, said = exported(tmp_path / "home", "demo", target, "--format", format_)
    assert code == 0, said
    assert f"is in {target}, in the layout of saelens" in said
    assert sorted(p.name for p in target.iterdir()) == ["README.md", files.CONFIG, files.WEIGHTS]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["for them", "home"]
    told = json.loads((target / files.CONFIG).read_text())
    assert told["metadata"] == {
        "hook_name": "blocks.9",
        "model_name": "google/gemma-3-270m",
        "sae_lens_version": files.SAE_LENS_VERSION,
        "training_architecture": "topk",
    }
    assert (target / files.WEIGHTS).read_bytes() == (sae.path / files.WEIGHTS).read_bytes()
    assert files.load(target).d_sae == files.load(sae.path).d_sae
    assert "SAE.load_from_disk(folder)" in (target / "README.md").read_text()


def test_without_a_target_it_is_named_after_the_run(
    tmp_path: Path, sae: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for format_ in ("saelens", "duckdb"):
        code, said = exported(tmp_path / "home", "demo", "--format", format_)
        assert code == 0, said
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "demo-9.resid_post-saelens", "demo-9.resid_post.duckdb", "home"
    ]  # fmt: skip


@pytest.mark.parametrize("format_", FOLDERS)
def test_what_is_there_stays(format_: str, tmp_path: Path, sae: Artifact) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis").write_text("years")
    code, said = exported(tmp_path / "home", "demo", tmp_path / "mine", "--format", format_)
    assert code == 1
    assert "exists already; remove it or name another folder" in said
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis"]


def test_an_empty_folder_is_filled(tmp_path: Path, sae: Artifact) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "link").symlink_to("mine")
    code, said = exported(tmp_path / "home", "demo", tmp_path / "link", "--format", "saelens")
    assert code == 1, said
    code, said = exported(tmp_path / "home", "demo", tmp_path / "mine", "--format", "saelens")
    assert code == 0, said
    assert (tmp_path / "mine" / "README.md").exists()


@pytest.mark.parametrize("format_", ["saelens", "sparsify", "dictionary-learning"])
def test_a_damaged_sae_is_not_handed_on(format_: str, tmp_path: Path, sae: Artifact) -> None:
    weights = sae.path / files.WEIGHTS
    raw = bytearray(weights.read_bytes())
    raw[-1] ^= 1
    weights.write_bytes(raw)
    with pytest.raises(StorageError, match=r"sae_weights\.safetensors is "):
        export(tmp_path / "home", "demo", tmp_path / "new", format_)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["home"]


@pytest.mark.parametrize("format_", ["neuronpedia", "circuit-tracer"])
def test_damaged_latents_are_not_handed_on(format_: str, tmp_path: Path, sae: Artifact) -> None:
    (file,) = (tmp_path / "home" / "latents").glob("*/latents.parquet")
    raw = bytearray(file.read_bytes())
    raw[len(raw) // 2] ^= 1
    file.write_bytes(raw)
    code, said = exported(tmp_path / "home", "demo", tmp_path / "new", "--format", format_)
    assert code == 1
    assert "latents.parquet is " in said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["home"]


@pytest.mark.parametrize(
    ("run", "target", "words"),
    [("nobody", "new", "no run is called"), ("demo", "none/new", "does not exist; make it")],
)
def test_what_cannot_be_done_is_one_sentence(
    run: str, target: str, words: str, tmp_path: Path, sae: Artifact
) -> None:
    code, said = exported(tmp_path / "home", run, tmp_path / target, "--format", "saelens")
    assert code == 1
    assert words in said
