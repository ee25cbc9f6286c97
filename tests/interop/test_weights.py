"""Weights in the layouts of others: what their formulas make of them is what ours make of ours.

The formulas are those of the peers' own classes, said again; `test_peers` asks the classes.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from support.store_artifacts import D_IN, D_SAE
from support.taken_out import K, published, sae_of
from torch import Tensor
from torch.nn.functional import linear

from deconstruct.common.errors import ConfigError
from deconstruct.interop.export import export
from deconstruct.interop.formats.unfolding import subtracting
from deconstruct.sae import files
from deconstruct.sae.autoencoder import SparseAutoencoder

X = 5 + 3 * torch.randn(1000, D_IN, generator=torch.Generator().manual_seed(9))
KINDS = ("topk", "batchtopk", "matryoshka", "jumprelu", "gated", "relu")


def taken(
    tmp_path: Path, sae: SparseAutoencoder, format_: str, output_site: str | None = None
) -> Path:
    published(tmp_path / "home", sae, output_site)
    return export(tmp_path / "home", "demo", tmp_path / "out", format_).folder


def largest(pre: Tensor, k: int) -> Tensor:
    kept = pre.topk(k, dim=-1)
    return torch.zeros_like(pre).scatter(-1, kept.indices, kept.values)


def same(found: Tensor, wanted: Tensor) -> None:
    assert wanted.abs().sum() > 0
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5 * float(wanted.abs().max()))


@pytest.mark.parametrize("kind", KINDS)
def test_biases_of_those_that_centre_first_are_ours_to_the_last_bit(kind: str) -> None:
    for seed in range(20):
        sae = sae_of(kind, seed=seed)
        moved, own = subtracting(sae), sae.weights()
        product = own["b_dec"].double() @ own["W_enc"].double()
        for name in own:
            if name == "b_mag":
                back = (moved[name] - own["r_mag"].double().exp() * product).float()
            elif name in ("b_enc", "b_gate"):
                assert moved[name].dtype == torch.float64
                back = (moved[name] - product).float()
            else:
                back = moved[name]
            assert torch.equal(back, own[name]), name


@pytest.mark.parametrize("kind", KINDS)
def test_dictionary_learning(kind: str, tmp_path: Path) -> None:
    sae = sae_of(kind)
    folder = taken(tmp_path, sae, "dictionary-learning") / "trainer_0"
    trainer = json.loads((folder / "config.json").read_text())["trainer"]
    # Their modules are float32: load_state_dict rounds what it is given.
    loaded = torch.load(folder / "ae.pt", weights_only=True)
    w = {n: t if n == "k" else t.float() for n, t in loaded.items()}
    theirs = trainer["dict_class"]
    if theirs == "JumpReluAutoEncoder":
        assert kind in ("jumprelu", "matryoshka")
        pre = X @ w["W_enc"] + w["b_enc"]
        latents = torch.relu(pre * (pre > w["threshold"]))
        decoded = latents @ w["W_dec"] + w["b_dec"]
        assert all(torch.equal(w[name], own) for name, own in sae.weights().items())
    else:
        b_dec = w[{"gated": "decoder_bias", "relu": "bias"}.get(kind, "b_dec")]
        pre = linear(X - b_dec, w["encoder.weight"], w.get("encoder.bias"))
        if kind == "gated":
            assert theirs == "GatedAutoEncoder"
            gate = pre + w["gate_bias"] > 0
            latents = gate * torch.relu(w["r_mag"].exp() * pre + w["mag_bias"])
        elif kind == "relu":
            assert theirs == "AutoEncoder"
            latents = torch.relu(pre)
        elif kind == "topk":
            assert theirs == "AutoEncoderTopK"
            assert (trainer["k"], w["k"], w["threshold"]) == (K, K, -1)
            assert w["k"].dtype == torch.int32
            latents = largest(torch.relu(pre), K)
        else:
            assert theirs == "BatchTopKSAE"
            latents = torch.relu(pre) * (torch.relu(pre) > w["threshold"])
        decoded = linear(latents, w["decoder.weight"], b_dec)
        assert torch.equal(w["encoder.weight"].T, sae.W_enc)
        assert torch.equal(w["decoder.weight"].T, sae.W_dec)
    same(latents, sae.encode(X))
    same(decoded, sae(X))


def test_a_batchtopk_with_several_thresholds_is_what_it_computes(tmp_path: Path) -> None:
    own = sae_of("jumprelu").weights()
    folder = taken(tmp_path, SparseAutoencoder("batchtopk", own, K), "dictionary-learning")
    told = json.loads((folder / "trainer_0/config.json").read_text())["trainer"]
    assert told["dict_class"] == "JumpReluAutoEncoder"
    loaded = torch.load(folder / "trainer_0/ae.pt", weights_only=True)
    assert torch.equal(loaded["threshold"], own["threshold"])


def sparsify(folder: Path) -> tuple[Tensor, Tensor]:
    """Latents and reconstruction of X, as `SparseCoder` makes them."""
    config = json.loads((folder / "cfg.json").read_text())
    w = {name: tensor.float() for name, tensor in load_file(folder / "sae.safetensors").items()}
    assert sorted(load_file(folder / "sae.safetensors"))[0] == "W_dec"  # it takes its dtype
    assert (config["d_in"], config["num_latents"], config["k"]) == (D_IN, D_SAE, K)
    x = X if config["transcode"] else X - w["b_dec"]
    pre = torch.relu(linear(x, w["encoder.weight"], w["encoder.bias"]))
    latents = largest(pre, config["k"])
    decoded = latents @ w["W_dec"] + w["b_dec"]
    return latents, decoded + X @ w["W_skip"].T if config["skip_connection"] else decoded


def test_sparsify(tmp_path: Path) -> None:
    sae = sae_of("topk")
    latents, decoded = sparsify(taken(tmp_path, sae, "sparsify") / "layers.9")
    same(latents, sae.encode(X))
    same(decoded, sae(X))


@pytest.mark.parametrize("skip", [False, True])
def test_sparsify_transcoders_are_encoded_as_they_are(skip: bool, tmp_path: Path) -> None:
    sae = sae_of("topk", d_out=D_IN, skip=skip)
    folder = taken(tmp_path, sae, "sparsify", "9.mlp_out") / "layers.9.mlp"
    latents, decoded = sparsify(folder)
    same(latents, sae.encode(X))
    same(decoded, sae(X))
    assert torch.equal(
        load_file(folder / "sae.safetensors")["encoder.bias"], sae.weights()["b_enc"]
    )


@pytest.mark.parametrize("kind", KINDS)
def test_saelens_has_ours_as_they_are(kind: str, tmp_path: Path) -> None:
    sae = sae_of(kind)
    found = files.load(taken(tmp_path, sae, "saelens"))
    assert found.architecture == kind
    assert all(torch.equal(w, sae.weights()[name]) for name, w in found.weights().items())


@pytest.mark.parametrize("kind", ["relu", "jumprelu", "batchtopk"])
def test_circuit_tracer_transcoders(kind: str, tmp_path: Path) -> None:
    sae = sae_of(kind, d_out=D_IN, skip=kind == "relu")
    folder = taken(tmp_path, sae, "circuit-tracer", "9.mlp_out")
    told = yaml.safe_load((folder / "config.yaml").read_text())
    assert told["model_kind"] == "transcoder_set"
    hooks = [told["feature_input_hook"], told["feature_output_hook"]]
    assert hooks == ["hook_resid_post", "hook_mlp_out"]
    w = load_file(folder / "layer_9.safetensors")
    own = sae.weights()
    assert torch.equal(w.pop("W_enc").T, own.pop("W_enc"))
    if kind != "relu":
        own["activation_function.threshold"] = own.pop("threshold")
    assert set(w) == set(own)
    assert all(torch.equal(w[name], own[name]) for name in own)


@pytest.mark.parametrize(("kind", "output"), [("topk", "9.mlp_out"), ("relu", "10.mlp_out")])
def test_what_no_transcoder_set_holds_is_shown_without_weights(
    kind: str, output: str, tmp_path: Path
) -> None:
    folder = taken(tmp_path, sae_of(kind, d_out=D_IN), "circuit-tracer", output)
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "features"]
    assert "pages for the viewer of circuit-tracer alone" in (folder / "README.md").read_text()


@pytest.mark.parametrize(
    ("format_", "kind", "d_out", "words"),
    [
        ("sparsify", "relu", None, "holds TopK alone.* saelens and dictionary-learning can"),
        ("sparsify", "gated", D_IN, "holds TopK alone.* saelens can hold it"),
        ("sparsify", "topk", D_IN + 1, "of one width, and run .* goes from 16 to 17"),
        ("dictionary-learning", "topk", D_IN, "autoencoders alone.* saelens .* so can sparsify"),
        ("dictionary-learning", "relu", D_IN, "autoencoders alone.* saelens can hold it$"),
        ("npz", "relu", None, "format 'npz' is unknown; name one of saelens, "),
    ],
)
def test_what_a_format_cannot_hold_is_one_sentence(
    format_: str, kind: str, d_out: int | None, words: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=words):
        taken(tmp_path, sae_of(kind, d_out), format_, "9.mlp_out" if d_out else None)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["home"]
