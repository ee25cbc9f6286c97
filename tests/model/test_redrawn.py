"""Models with their weights drawn anew: what stays, what goes; a seed decides all of it."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from support.tiny_models import save_tiny

from deconstruct.artifacts import DataRoot
from deconstruct.common.errors import ConfigError
from deconstruct.config import ModelConfig
from deconstruct.config import load as load_config
from deconstruct.interop.subject import _told
from deconstruct.model import redrawn
from deconstruct.model.embedded import PREFIX
from deconstruct.model.loading import load
from deconstruct.model.redrawn import redraw
from deconstruct.model.resolve import ResolvedModel, glimpse, resolve


def drawn(root: DataRoot, folder: Path, seed: int) -> ResolvedModel:
    return resolve(root, ModelConfig(name=f"random:{seed}:{folder}", dtype="float32"))


@pytest.fixture(params=["gpt2", "gemma3_text"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return Path(save_tiny(request.param, tmp_path / request.param))


def test_a_seed_decides_digest_and_weights(root: DataRoot, folder: Path) -> None:
    own = resolve(root, ModelConfig(name=str(folder), dtype="float32"))
    first, again, other = (drawn(root, folder, seed) for seed in (0, 0, 1))
    assert first.digest == again.digest == f"random:0:{own.digest}"
    assert other.digest == f"random:1:{own.digest}"
    assert first.tokenizer_digest == own.tokenizer_digest  # so that the corpus is shared
    weights, same, others, before = (
        load(model, "cpu").state_dict() for model in (first, again, other, own)
    )
    for name, weight in weights.items():
        assert torch.equal(weight, same[name]), name
        norm = "norm" in name or ".ln_" in name
        assert torch.equal(weight, before[name]) == (norm or bool((before[name] == 0).all())), name
        if not norm and weight.std() > 0:
            assert not torch.equal(weight, others[name])


def test_scale_is_kept_and_structure_is_not() -> None:
    layer = torch.nn.Linear(512, 512)
    with torch.no_grad():
        layer.weight.copy_(torch.eye(512) + 0.5)
    redraw(layer, 0)
    values = layer.weight.detach().double()
    assert abs(float(values.mean()) - (0.5 + 1 / 512)) < 1e-3
    assert abs(float(values.std()) / math.sqrt(1 / 512 - 1 / 512**2) - 1) < 0.01
    assert (
        abs(float(torch.corrcoef(torch.stack([values.ravel(), torch.eye(512).ravel()]))[0, 1]))
        < 0.01
    )


def test_tied_weights_stay_tied_and_order_does_not_matter(
    root: DataRoot, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load(drawn(root, folder, 3), "cpu")
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight
    monkeypatch.setattr(redrawn, "ELEMENTS", 64)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        by_rows = load(drawn(root, folder, 3), "cpu").state_dict()
    finally:
        torch.set_num_threads(threads)
    for name, weight in model.state_dict().items():
        assert torch.allclose(weight, by_rows[name], atol=1e-7), name
    backwards = torch.nn.ModuleDict({"b": torch.nn.Linear(3, 4), "a": torch.nn.Linear(4, 5)})
    forwards = torch.nn.ModuleDict({"a": torch.nn.Linear(4, 5), "b": torch.nn.Linear(3, 4)})
    forwards.load_state_dict(backwards.state_dict())
    redraw(backwards, 7)
    redraw(forwards, 7)
    for name, weight in forwards.state_dict().items():
        assert torch.equal(weight, backwards.state_dict()[name])


@torch.no_grad()
def test_the_loss_is_that_of_guessing_or_worse(root: DataRoot, folder: Path) -> None:
    model = load(drawn(root, folder, 0), "cpu")
    vocabulary = model.get_input_embeddings().weight.shape[0]
    ids = torch.from_numpy(np.random.default_rng(0).integers(0, vocabulary, (8, 64)))
    loss = float(model(input_ids=ids, labels=ids).loss)
    assert loss > 0.95 * math.log(vocabulary)


def test_a_folder_that_changes_under_a_redrawn_model_is_noticed(
    root: DataRoot, tiny_model: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(tiny_model, tmp_path / "copy"))
    model = drawn(root, copy, 0)
    model.check_unchanged()
    (copy / "config.json").write_text((copy / "config.json").read_text() + " ")
    with pytest.raises(ConfigError, match="have changed since"):
        model.check_unchanged()


def test_an_embedded_one_is_known_before_it_is_unpacked(root: DataRoot) -> None:
    found = glimpse(root, ModelConfig(name=f"random:0:{PREFIX}gemma-3-270m"))
    assert (found.layers, found.short_name, found.redrawn) == (18, "gemma-3-270m", 0)


@pytest.mark.parametrize(
    "name", ["random:", "random:0", "random:0:", "random:x:gpt2", "random:-1:gpt2",
             "random:4294967296:gpt2", "random:0:random:1:gpt2"],
)  # fmt: skip
def test_bad_forms_are_one_sentence(name: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(None, [f"model.name={name}"])
    said = str(caught.value)
    assert said.startswith(f"model.name: {name!r} is no model with weights drawn anew; write ")
    assert "\n" not in said


def test_what_is_published_says_that_weights_are_drawn_anew() -> None:
    assert _told("random:0:/home/me/models/mine") == "random:0:mine"
    assert _told("random:3:embedded:gemma-3-270m") == "random:3:embedded:gemma-3-270m"
