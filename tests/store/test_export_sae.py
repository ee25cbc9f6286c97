"""``deconstruct export --format sae_lens``: a run's SAE as a folder of its own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.dense_latents import sae_of
from support.planted import fill, filled
from support.store_artifacts import D_IN, plant
from typer.testing import CliRunner

from deconstruct.artifacts import Artifact, DataRoot, Draft, Recipe
from deconstruct.cli import app
from deconstruct.common.errors import StorageError
from deconstruct.sae import files
from deconstruct.sae.tables import TRAINING_LOG
from deconstruct.store import export_sae, publish


@pytest.fixture
def sae(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """A real SAE, of the run ``demo`` in the data root ``home``."""
    home = tmp_path_factory.mktemp("elsewhere")
    trained, planted = files.load(sae_of(home, D_IN).path), plant(tmp_path / "home")
    log = filled(TRAINING_LOG, step=[10], fvu=[0.5], loss=[2.0])

    def write(draft: Draft) -> None:
        fill(draft, {TRAINING_LOG: log}, **planted.artifacts["sae"].facts)
        with draft.writing(files.WEIGHTS) as path:
            files.save_weights(trained, path)
        draft.write_json(files.CONFIG, files.config_of(trained, {"hook_name": "blocks.9"}))

    made = DataRoot(tmp_path / "home").make(Recipe("sae", 1, {"real": True}, {}), write)
    publish(tmp_path / "home", planted.record, planted.artifacts | {"sae": made})
    return made


def exported(home: Path, *arguments: object) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["export", *map(str, arguments), "--home", str(home)])
    return done.exit_code, done.output


def test_the_folder_is_what_sae_lens_takes(tmp_path: Path, sae: Artifact) -> None:
    target = tmp_path / "for them"
    code, said = exported(tmp_path / "home", "demo", target, "--format", "sae_lens")
    assert code == 0, said
    assert f"is in {target}; SAE.load_from_disk opens it" in said
    assert sorted(path.name for path in target.iterdir()) == [files.CONFIG, files.WEIGHTS]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["for them", "home"]
    told = json.loads((target / files.CONFIG).read_text())
    assert told["metadata"] == {
        "hook_name": "blocks.9",
        "sae_lens_version": files.SAE_LENS_VERSION,
        "training_architecture": "topk",
    }
    assert (target / files.WEIGHTS).read_bytes() == (sae.path / files.WEIGHTS).read_bytes()
    assert files.load(target).d_sae == files.load(sae.path).d_sae


def test_what_is_there_stays(tmp_path: Path, sae: Artifact) -> None:
    (tmp_path / "mine").mkdir()
    code, said = exported(tmp_path / "home", "demo", tmp_path / "mine", "--format", "sae_lens")
    assert code == 1
    assert "exists already; remove it or name another folder" in said
    assert list((tmp_path / "mine").iterdir()) == []


def test_a_damaged_sae_is_not_handed_on(tmp_path: Path, sae: Artifact) -> None:
    weights = sae.path / files.WEIGHTS
    raw = bytearray(weights.read_bytes())
    raw[-1] ^= 1
    weights.write_bytes(raw)
    with pytest.raises(StorageError, match=r"sae_weights\.safetensors is "):
        export_sae(tmp_path / "home", "demo", tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("run", "target", "words"),
    [("nobody", "new", "no run is called"), ("demo", "none/new", "does not exist; make it")],
)
def test_what_cannot_be_done_is_one_sentence(
    run: str, target: str, words: str, tmp_path: Path, sae: Artifact
) -> None:
    code, said = exported(tmp_path / "home", run, tmp_path / target, "--format", "sae_lens")
    assert code == 1
    assert words in said
