"""Runs with a dictionary that others trained, from end to end."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from support.running import artifacts, cached_stages, deconstruct
from support.tiny_models import WIDTH

from deconstruct.store import open_store


@pytest.fixture
def home(finished: Path, tmp_path: Path) -> Path:
    """A copy of a home in which a run has finished."""
    shutil.copytree(finished, tmp_path / "home")
    return tmp_path / "home"


def test_our_own_sae_from_a_folder_is_what_it_was_when_trained(
    home: Path, config: Path, tmp_path: Path
) -> None:
    own = tmp_path / "sae-of-mine"
    shutil.copytree(artifacts(home)["sae"].path, own)
    (own / "manifest.json").unlink()
    taken = ("--set", f"sae.pretrained={own}", "--set", "name=taken")
    planned = deconstruct(home, "plan", config, *taken)
    assert planned.returncode == 0, planned.stderr
    done = deconstruct(home, "run", config, *taken)
    assert done.returncode == 0, done.stderr
    cached = cached_stages(done.stderr)
    assert (cached["corpus"], cached["activations"], cached["sae"]) == (True, True, False)
    assert "64 latents, pretrained" in done.stdout
    with open_store(home) as store:
        rows = store.execute(
            "SELECT name, architecture, k, d_sae, training_tokens, fvu, dead_share "
            "FROM runs ORDER BY name"
        ).fetchall()
        (trained, pretrained) = rows
        logged = store.execute(
            "SELECT count(*) FILTER (WHERE r.name = 'taken'), count(*) "
            "FROM training_log AS t JOIN runs AS r USING (run_id)"
        ).fetchone()
        facts = json.loads(
            store.execute(
                "SELECT facts FROM stages JOIN runs USING (run_id) "
                "WHERE name = 'taken' AND stage = 'sae'"
            ).fetchall()[0][0]
        )
    assert (trained[0], pretrained[0]) == ("small", "taken")
    assert trained[1:4] == pretrained[1:4]
    assert trained[5:] == pretrained[5:]  # to the last digit: the same weights
    assert trained[4] > 0
    assert pretrained[4] is None
    assert logged is not None
    assert logged[0] == 0 < logged[1]
    assert (facts["source"], facts["format"]) == (str(own), "saelens")
    again = deconstruct(home, "run", config, *taken, "--set", "sae.tokens=99_999")
    assert again.returncode == 0, again.stderr
    assert all(cached_stages(again.stderr).values())  # settings of a training are none of it
    for command in (
        ("show", "taken"), ("latent", "taken", "3"), ("runs",),
        ("export", "taken", tmp_path / "copy", "--format", "sae_lens"),
    ):  # fmt: skip
        said = deconstruct(home, *command)
        assert said.returncode == 0, said.stderr


def test_it_is_judged_on_other_corpora_and_needs_none_that_it_was_trained_on(
    home: Path, config: Path, tmp_path: Path, texts: Path
) -> None:
    own = tmp_path / "sae-of-mine"
    shutil.copytree(artifacts(home)["sae"].path, own)
    (own / "manifest.json").unlink()
    taken = tmp_path / "taken.toml"
    reviews = f'[[analysis]]\nname = "reviews"\nsource = "{texts}"\nmax_tokens = 20\n'
    taken.write_text(config.read_text().replace(f'"{texts}"', '"/nowhere.csv"') + reviews)
    run = deconstruct(home, "run", taken, "--set", f"sae.pretrained={own}", "--set", "name=taken")
    assert run.returncode == 0, run.stderr
    shutil.rmtree(own)
    more = ("--source", texts, "--name", "more", "--set", "max_tokens=16")
    done = deconstruct(home, "analyse", "taken", *more)
    assert done.returncode == 0, done.stderr
    with open_store(home) as store:
        rows = store.execute(
            "SELECT analysis, trained_on, seen_documents FROM runs WHERE name = 'taken' ORDER BY 1"
        ).fetchall()
        saes = store.execute(
            "SELECT count(DISTINCT key) FROM stages JOIN runs USING (run_id) "
            "WHERE stage = 'sae' AND name = 'taken'"
        ).fetchall()
    assert rows == [("more", str(own), None), ("reviews", str(own), None)]
    assert saes == [(1,)]
    unknown = deconstruct(home, "analyse", "taken/reviews")
    assert unknown.returncode == 1
    assert "is not there any more, or never was" in unknown.stderr


def test_a_transcoder_of_the_normalised_mlp_input(
    tmp_path: Path, tiny_model: Path, config: Path
) -> None:
    draw = np.random.default_rng(0)

    def random(*shape: int) -> torch.Tensor:
        return torch.from_numpy(draw.standard_normal(shape).astype(np.float32))

    place = tmp_path / "set"
    place.mkdir()
    for layer in range(4):
        w = {
            "W_enc": random(64, WIDTH), "W_dec": 0.05 * random(64, WIDTH),
            "b_enc": random(64) - 6, "b_dec": random(WIDTH), "W_skip": 0.1 * random(WIDTH, WIDTH),
        }  # fmt: skip
        save_file(w, place / f"layer_{layer}.safetensors")
    (place / "config.yaml").write_text(
        "model_kind: transcoder_set\nfeature_input_hook: mlp.hook_in\n"
        "feature_output_hook: hook_mlp_out\n"
    )
    sites = ("--set", "activations.sites=2.mlp_in,2.mlp_out")
    taken = ("--set", f"sae.pretrained={place}", *sites, "--set", "sae.output_site=2.mlp_out")
    done = deconstruct(tmp_path / "home", "run", config, *taken)
    assert done.returncode == 0, done.stderr
    with open_store(tmp_path / "home") as store:
        [row] = store.execute("SELECT site, hook, architecture, k, fvu > 0 FROM runs").fetchall()
    assert row == ("2.mlp_in", "mlp_in", "relu", None, True)


def test_one_that_does_not_fit_is_refused_before_a_server_starts(
    tmp_path: Path, config: Path
) -> None:
    place = tmp_path / "dictionary"
    place.mkdir()
    w = {
        "bias": torch.zeros(8), "encoder.bias": torch.zeros(16),
        "encoder.weight": torch.randn(16, 8), "decoder.weight": torch.randn(8, 16),
    }  # fmt: skip
    torch.save(w, place / "ae.pt")
    done = deconstruct(tmp_path / "home", "run", config, "--set", f"sae.pretrained={place}")
    assert done.returncode == 1
    assert "reads activations of width 8, and tiny-llama has width 32" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list((tmp_path / "home").glob("corpus/*"))
