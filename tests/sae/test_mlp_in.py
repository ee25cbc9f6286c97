"""Dictionaries that read the MLP's normalised input, as transcoders do."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from support.tiny_models import WIDTH, save_tiny

from deconstruct.artifacts import DataRoot
from deconstruct.common.errors import ConfigError
from deconstruct.common.site import Site
from deconstruct.config import ModelConfig, RunConfig
from deconstruct.model.hooks import blocks, capture
from deconstruct.model.loading import load
from deconstruct.model.resolve import ResolvedModel, resolve
from deconstruct.sae import pretrained

IDS = torch.randint(5, 250, (2, 17), generator=torch.Generator().manual_seed(1))
SITES = ("1.mlp_in", "1.mlp_out")


def tiny(family: str, folder: Path) -> ResolvedModel:
    save_tiny(family, folder)
    model = load(ResolvedModel(family, folder, "", "", "float32"), "cpu")
    with torch.no_grad():  # norms as after training, not all ones
        for name, weight in model.named_parameters():
            if "norm" in name or "ln_" in name:
                weight.add_(0.3 * torch.randn_like(weight))
    model.save_pretrained(folder)
    home = DataRoot(folder.parent / "home")
    return resolve(home, ModelConfig(name=str(folder), dtype="float32"))


def find(model: ResolvedModel, place: Path) -> pretrained.Pretrained:
    values = {
        "activations": {"sites": SITES},
        "sae": {"pretrained": str(place), "output_site": SITES[1]},
    }
    found = pretrained.find(RunConfig.model_validate(values), model)
    assert found is not None
    return found


def random(*shape: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def gemma_scope(folder: Path) -> Path:
    """A transcoder of Gemma Scope 1, which reads the norm's output before its weight."""
    place = folder / "gemma-scope-2b-pt-transcoders" / "layer_1" / "width_16k"
    place.mkdir(parents=True)
    np.savez(
        place / "params.npz", W_enc=random(WIDTH, 48, seed=1), W_dec=random(48, WIDTH, seed=2),
        b_enc=random(48, seed=3), b_dec=random(WIDTH, seed=4), threshold=np.full(48, 0.5, "f4"),
    )  # fmt: skip
    return place


@pytest.mark.parametrize(
    ("family", "norm"),
    [("gemma2", "pre_feedforward_layernorm"), ("gemma3_text", "pre_feedforward_layernorm")],
)
def test_an_encoder_made_for_the_norm_without_its_weight(
    tmp_path: Path, family: str, norm: str
) -> None:
    model = tiny(family, tmp_path / "model")
    loaded = load(model, "cpu")
    read = capture(loaded, IDS, [Site.parse(SITES[0])])[Site.parse(SITES[0])]
    bare: list[torch.Tensor] = []
    module = getattr(blocks(loaded)[1], norm)
    module.register_forward_pre_hook(lambda _, args: bare.append(args[0]))
    with torch.no_grad():
        loaded(IDS)
    x = bare[0].double()
    normed = x / (x.square().mean(-1, keepdim=True) + module.eps).sqrt()
    place = gemma_scope(tmp_path)
    if family != "gemma2":
        with pytest.raises(ConfigError, match="was made for 'google/gemma-2-2b'"):
            find(model, place)
        place = place.rename(tmp_path / "unnamed")
        sae = find(model, place).autoencoder()  # nothing says before the weight
        torch.testing.assert_close(sae.W_enc, torch.from_numpy(random(WIDTH, 48, seed=1)))
        return
    sae = find(model, place).autoencoder()
    with np.load(place / "params.npz") as w:
        pre = normed @ torch.from_numpy(w["W_enc"]).double() + torch.from_numpy(w["b_enc"])
    expected = torch.where(pre > 0.5, pre, 0.0).flatten(0, 1)
    found = sae.encode(read.flatten(0, 1)).double()
    assert (found - expected).norm() <= 1e-5 * expected.norm()


def circuit_tracer(folder: Path, hook: str, model: str) -> Path:
    from safetensors.torch import save_file

    folder.mkdir()
    w = {
        "W_enc": random(48, WIDTH, seed=1), "W_dec": random(48, WIDTH, seed=2),
        "b_enc": random(48, seed=3), "b_dec": random(WIDTH, seed=4),
        "W_skip": random(WIDTH, WIDTH, seed=5),
    }  # fmt: skip
    for layer in range(2):
        path = folder / f"layer_{layer}.safetensors"
        save_file({name: torch.from_numpy(t) for name, t in w.items()}, path)
    about = {"model_kind": "transcoder_set", "model_name": model, "feature_input_hook": hook}
    about["feature_output_hook"] = "hook_mlp_out"
    (folder / "config.yaml").write_text(json.dumps(about))
    return folder


@pytest.mark.parametrize("family", ["llama", "qwen3", "gpt2", "olmo2"])
def test_gains_of_other_families(tmp_path: Path, family: str) -> None:
    """A LayerNorm's hook has its weight; of an RMSNorm the encoder and the skip are divided."""
    model = tiny(family, tmp_path / "model")
    plain = find(model, circuit_tracer(tmp_path / "in", "mlp.hook_in", family)).autoencoder()
    place = circuit_tracer(tmp_path / "normed", "ln2.hook_normalized", family)
    if family == "olmo2":
        with pytest.raises(ConfigError, match="how that is to be folded is known for"):
            find(model, place)
        return
    found = find(model, place).autoencoder()
    gain = torch.ones(WIDTH)
    if family != "gpt2":
        gain = blocks(load(model, "cpu"))[1].post_attention_layernorm.weight.detach()
    x = torch.randn(20, WIDTH)
    torch.testing.assert_close(found(x * gain), plain(x), rtol=1e-4, atol=1e-4)
    assert (find(model, place).settings().get("gain") is None) == (family == "gpt2")
