"""Folders of SAELens, as it wrote them before 6.0 and as it reads ours."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.paths import ROOT

from deconstruct.common.errors import ConfigError, StorageError
from deconstruct.sae.autoencoder import SparseAutoencoder
from deconstruct.sae.files import config_of, copy_for_sae_lens, load, save_weights

SAE_LENS = ROOT / "benchmarks/.envs/sae-lens/bin/python"
with_sae_lens = pytest.mark.skipif(
    not SAE_LENS.exists(), reason=f"no {SAE_LENS}: `make bench-train` makes it"
)
X = 3 * torch.randn(50, 12, generator=torch.Generator().manual_seed(9))
OLD = {
    "d_in": 12, "d_sae": 40, "dtype": "float32", "device": "cpu", "model_name": "gpt2-small",
    "hook_name": "blocks.5.hook_resid_pre", "hook_layer": 5, "activation_fn_str": "relu",
    "finetuning_scaling_factor": False, "apply_b_dec_to_input": True, "context_size": 128,
    "normalize_activations": "none", "sae_lens_training_version": None,
}  # fmt: skip


def weights(**more: torch.Tensor) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    W_dec = torch.randn(40, 12, generator=generator)
    return {
        "W_enc": torch.randn(12, 40, generator=generator),
        "b_enc": torch.randn(40, generator=generator),
        "W_dec": W_dec / W_dec.norm(dim=1, keepdim=True),
        "b_dec": torch.randn(12, generator=generator),
        **more,
    }


def written(
    folder: Path, config: dict[str, object], tensors: dict[str, torch.Tensor] | None = None
) -> Path:
    folder.mkdir(exist_ok=True)
    save_file(tensors or weights(), folder / "sae_weights.safetensors")
    (folder / "cfg.json").write_text(json.dumps(config))
    return folder


def without(*names: str, **changes: object) -> dict[str, object]:
    return {k: v for k, v in (OLD | changes).items() if k not in names}


TOPK = {"activation_fn_str": "topk", "activation_fn_kwargs": {"k": 4}}
OLD_KINDS = {
    "relu": OLD,
    "no architecture, nothing said": without("apply_b_dec_to_input", "normalize_activations"),
    "named as a function": without("activation_fn_str", activation_fn="relu"),
    "normalise: false": OLD | {"normalize_activations": False},
    "topk": OLD | TOPK,
    "topk, named standard": OLD | TOPK | {"architecture": "standard"},
    "jumprelu": OLD | {"architecture": "jumprelu"},
}


def tensors_of(kind: str) -> dict[str, torch.Tensor]:
    return weights(threshold=torch.full((40,), 0.7)) if kind == "jumprelu" else weights()


@pytest.mark.parametrize("kind", OLD_KINDS)
def test_old_folders_are_read_as_what_they_are(kind: str, tmp_path: Path) -> None:
    w = tensors_of(kind)
    sae = load(written(tmp_path, OLD_KINDS[kind], w))
    pre = (X - w["b_dec"]).double() @ w["W_enc"].double() + w["b_enc"].double()
    expected = pre.clamp(min=0)
    if kind.startswith("topk"):
        kept = expected.topk(4, dim=1)
        expected = torch.zeros_like(pre).scatter(1, kept.indices, kept.values)
    elif kind == "jumprelu":
        expected = torch.where(pre > 0.7, pre, 0.0)
    torch.testing.assert_close(sae.encode(X).double(), expected, rtol=1e-4, atol=1e-4)


@with_sae_lens
@pytest.mark.parametrize("kind", OLD_KINDS)
def test_old_folders_are_read_as_sae_lens_reads_them(kind: str, tmp_path: Path) -> None:
    folder = written(tmp_path / "old", OLD_KINDS[kind], tensors_of(kind))
    theirs = through_sae_lens(folder, tmp_path)
    sae = load(folder)
    torch.testing.assert_close(theirs["acts"], sae.encode(X), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(theirs["out"], sae(X), rtol=1e-4, atol=1e-4)


def through_sae_lens(folder: Path, scratch: Path) -> dict[str, torch.Tensor]:
    save_file({"x": X}, scratch / "x.safetensors")
    code = f"""
import json
from safetensors.torch import load_file, save_file
from sae_lens import SAE
sae = SAE.load_from_disk({str(folder)!r}, device="cpu")
x = load_file({str(scratch / "x.safetensors")!r})["x"]
save_file({{"acts": sae.encode(x).detach().contiguous(), "out": sae(x).detach().contiguous()}},
          {str(scratch / "y.safetensors")!r})
open({str(scratch / "metadata.json")!r}, "w").write(json.dumps(sae.cfg.metadata.to_dict()))
"""
    done = subprocess.run([SAE_LENS, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return dict(load_file(scratch / "y.safetensors"))


@pytest.mark.parametrize(
    ("config", "more", "message"),
    [
        (OLD | {"activation_fn_str": "tanh-relu"}, {}, "activation function 'tanh-relu' of a stan"),
        (OLD | TOPK | {"architecture": "gated"}, {}, "activation function 'topk' of a gated SAE"),
        (OLD | {"activation_fn_str": "topk"}, {}, r"k = None must lie in 1\.\.d_sae = 40"),
        (OLD, {"W_dec": weights()["W_dec"].T.contiguous()}, r"W_dec is \[12, 40\], .* transposed"),
        (OLD, {"b_enc": torch.zeros(12)}, r"b_enc is \[12\], where .* asks for \[40\]"),
        (OLD | {"normalize_activations": True}, {}, "factor at run time .* no activation_scaler"),
    ],
)
def test_what_would_be_another_function_is_refused(
    tmp_path: Path, config: dict[str, object], more: dict[str, torch.Tensor], message: str
) -> None:
    with pytest.raises(StorageError, match=message):
        load(written(tmp_path, config, weights(**more)))


def test_factors_on_latents_go_into_the_decoder(tmp_path: Path) -> None:
    plain = load(written(tmp_path / "plain", OLD, weights()))
    load(written(tmp_path / "one", OLD, weights(scaling_factor=torch.ones(40))))
    factor = 1 + torch.rand(40, generator=torch.Generator().manual_seed(2))
    found = load(written(tmp_path / "scaled", OLD, weights(finetuning_scaling_factor=factor)))
    assert torch.equal(found.encode(X), plain.encode(X))
    acts = plain.encode(X)
    torch.testing.assert_close(found.decode(acts), plain.decode(acts * factor))


def test_a_transposed_decoder_is_refused_when_made() -> None:
    turned = weights() | {"W_dec": weights()["W_dec"].T.contiguous()}
    with pytest.raises(ConfigError, match=r"W_dec is \[12, 40\]"):
        SparseAutoencoder("relu", turned, None)


def ours(folder: Path, architecture: str = "batchtopk") -> Path:
    sae = SparseAutoencoder(architecture, weights(threshold=torch.full((40,), 0.8)), 5)
    folder.mkdir()
    save_weights(sae, folder / "sae_weights.safetensors")
    about = {"hook_name": "blocks.1.hook_resid_post", "model_name": "tiny", "site": "1.resid_post"}
    (folder / "cfg.json").write_text(json.dumps(config_of(sae, about)))
    return folder


def test_a_copy_for_sae_lens_is_the_same_autoencoder(tmp_path: Path) -> None:
    copy = copy_for_sae_lens(ours(tmp_path / "ours"), tmp_path / "new" / "theirs")
    config = json.loads((copy / "cfg.json").read_text())
    assert config["metadata"]["sae_lens_version"] == "6.0.0"
    assert config["metadata"]["hook_name"] == "blocks.1.hook_resid_post"
    assert load(copy).architecture == "batchtopk"
    with pytest.raises(StorageError, match="holds no autoencoder"):
        copy_for_sae_lens(tmp_path / "nothing", tmp_path / "x")


@with_sae_lens
@pytest.mark.parametrize("architecture", ["topk", "relu", "jumprelu", "batchtopk"])
def test_sae_lens_keeps_the_metadata_of_a_copy(architecture: str, tmp_path: Path) -> None:
    folder = ours(tmp_path / "ours", architecture)
    theirs = through_sae_lens(copy_for_sae_lens(folder, tmp_path / "copy"), tmp_path)
    torch.testing.assert_close(theirs["out"], load(folder)(X), rtol=1e-4, atol=1e-4)
    metadata = json.loads((tmp_path / "metadata.json").read_text())
    assert metadata["hook_name"] == "blocks.1.hook_resid_post"
    assert metadata["model_name"] == "tiny"
    assert metadata["training_architecture"] == architecture
