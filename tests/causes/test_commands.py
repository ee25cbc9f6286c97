"""The commands on a small run: what they print, and what they say where they can't."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from support.growing import TRAINED, Home
from support.store_artifacts import plant
from typer.testing import CliRunner

from deconstruct.activations.shards import ShardFile
from deconstruct.artifacts import DataRoot
from deconstruct.causes.subject import subject_of
from deconstruct.causes.words import words_of
from deconstruct.cli import app
from deconstruct.config import ModelConfig, RunConfig
from deconstruct.model.resolve import resolve
from deconstruct.sae import stage as sae
from deconstruct.store import publish


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, texts: Path, tiny_model: Path) -> Path:
    """A published run of a small model, whose folder is the home's own."""
    folder = tmp_path_factory.mktemp("steered")
    shutil.copytree(tiny_model, folder / "model")
    root = DataRoot(folder / "home")
    config = ModelConfig(name=str(folder / "model"), dtype="float32")
    of = Home(root, resolve(root, config))
    read = of.read(texts)
    recorded = of.record(read)
    trained = sae.train(root, TRAINED, activations=recorded, device="cpu")
    own = {
        "corpus": read, "activations": recorded, "sae": trained,
        "latents": of.encode(trained, recorded, read),
    }  # fmt: skip
    planted = plant(root.path)
    record = planted.record.model_copy(update={"config": RunConfig(name="demo", model=config)})
    publish(root.path, record, planted.artifacts | own)
    return folder / "home"


def called(home: Path, *words: str, code: int = 0) -> str:
    done = CliRunner().invoke(
        app, [*words, "--home", str(home)], env={"COLUMNS": "80", "HF_HUB_OFFLINE": "1"}
    )
    assert done.exit_code == code, done.output
    return done.stdout if code == 0 else " ".join(done.output.split())


def firing(home: Path) -> int:
    """The latent that fires most."""
    said = called(home, "sql", "SELECT latent FROM features ORDER BY n_fires DESC LIMIT 1",
                  "--format", "json")  # fmt: skip
    return int(json.loads(said)[0]["latent"])


def test_steer(home: Path) -> None:
    latent = firing(home)
    words = ("steer", "demo", str(latent), "--texts", "2", "--controls", "3")
    page = called(home, *words, "--ablate")
    assert f"Latent {latent} of run" in page
    assert "KL where it fires" in page
    assert "of 4" in page
    found = json.loads(called(home, *words, "--scale", "0", "--format", "json"))
    assert (found["latent"], found["factor"], found["texts"]) == (latent, 0, 2)
    assert found["firings"] > 0
    assert found["kl"] > 0
    assert len({one["latent"] for one in found["controls"]} - {latent}) == 3
    changes = [one["change"] for one in (*found["rising"], *found["falling"][::-1])]
    assert changes == sorted(changes, reverse=True)
    again = json.loads(called(home, *words, "--ablate", "--format", "json"))
    assert again == found
    same = json.loads(called(home, *words, "--scale", "1", "--format", "json"))
    assert same["kl"] == same["loss"] == 0
    assert np.allclose([one["change"] for one in same["rising"]], 0)


def test_what_can_not_be_steered_is_said_in_a_sentence(home: Path) -> None:
    assert "either --scale S or --ablate" in called(home, "steer", "demo", "1", code=1)
    both = called(home, "steer", "demo", "1", "--ablate", "--scale", "2", code=1)
    assert "either --scale S or --ablate" in both
    endless = called(home, "steer", "demo", "1", "--scale", "inf", code=1)
    assert "--scale inf is no finite number" in endless
    far = called(home, "steer", "demo", "64", "--ablate", code=1)
    assert "has no latent 64; its latents are 0 to 63" in far
    assert "no run is called" in called(home, "steer", "nobody", "1", "--ablate", code=1)
    moved = home.parent / "model"
    moved.rename(home.parent / "elsewhere")
    try:
        gone = called(home, "steer", "demo", str(firing(home)), "--ablate", code=1)
    finally:
        (home.parent / "elsewhere").rename(moved)
    assert gone.startswith("error: ")
    assert "Traceback" not in gone
    assert "model" in gone


def test_words_are_whole_and_each_is_of_one_part(home: Path) -> None:
    subject = subject_of(home, "demo")
    parts = words_of(subject)
    words = [word for of in parts.values() for word in of.words]
    assert len(words) == len(set(words)) >= 5
    assert all(of.letters.tolist() == [word[0] for word in of.words] for of in parts.values())
    tokens = subject.corpus.table("tokens.parquet").to_pydict()
    spelled, position = tokens["token"], tokens["position"]
    for part, of in parts.items():
        split = "test" if part == "test" else "train"
        places: dict[str, list[np.ndarray]] = {word: [] for word in of.words}
        for path in subject.activations.files(f"{split}-*.parquet"):
            shard = ShardFile(path)
            index, x = shard.column(0, "token_index"), shard.activation(0).float().numpy()
            for place, token in enumerate(index.tolist()):
                last = token + 1 == len(spelled) or position[token + 1] == 0
                ends = not last and not spelled[token + 1][:1].isalpha()
                if spelled[token][1:].lower() in places and spelled[token][:1] == " " and ends:
                    places[spelled[token][1:].lower()].append(x[place])
        for word, x in zip(of.words, of.x, strict=True):
            assert (x == places[word][0]).all(), word


def test_absorption_of_a_run_without_letters_is_said(home: Path) -> None:
    said = called(home, "absorption", "demo", code=1)
    assert "no letter of run" in said
    assert "with an F1 of 0.6 or more" in said
