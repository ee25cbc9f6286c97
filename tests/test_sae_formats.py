"""The saved autoencoder: exact folding, our files, and SAELens reading them."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from deconstruct.errors import ConfigError, StorageError
from deconstruct.sae.formats import config_of, load, save_weights
from deconstruct.sae.model import SparseAutoencoder

SAE_LENS = Path(__file__).parent.parent / "benchmarks/.envs/sae-lens/bin/python"


def scaled_weights(d_in: int = 12, d_sae: int = 40, seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    W_dec = random(d_sae, d_in)
    return {
        "W_enc": random(d_in, d_sae),
        "b_enc": random(d_sae),
        "W_dec": W_dec / W_dec.norm(dim=1, keepdim=True),
        "b_dec": random(d_in),
    }


def make(architecture: str) -> SparseAutoencoder:
    k = 5 if architecture == "topk" else None
    return SparseAutoencoder(architecture, scaled_weights(), k)


def dense_encode(w: dict[str, torch.Tensor], x: torch.Tensor, k: int | None) -> torch.Tensor:
    pre = (x.double() @ w["W_enc"].double() + w["b_enc"].double()).relu()
    if k is None:
        return pre
    kept = pre.topk(k, dim=1)
    return torch.zeros_like(pre).scatter(1, kept.indices, kept.values)


X = 3 * torch.randn(50, 12, generator=torch.Generator().manual_seed(9))


@pytest.mark.parametrize("architecture", ["topk", "relu"])
def test_encode_and_decode_are_the_formula(architecture: str) -> None:
    sae = make(architecture)
    expected = dense_encode(sae.weights(), X, sae.k)
    torch.testing.assert_close(sae.encode(X).double(), expected, rtol=1e-4, atol=1e-5)
    sparse = sae.encode_sparse(X)
    dense = torch.zeros(50, sae.d_sae)
    for token in range(50):
        mine = slice(int(sparse.offsets[token]), int(sparse.offsets[token + 1]))
        latents = sparse.latents[mine].long()
        assert torch.equal(latents, latents.sort().values)
        dense[token, latents] = sparse.activations[mine]
    torch.testing.assert_close(dense.double(), expected, rtol=1e-4, atol=1e-5)
    assert (sparse.activations > 0).all()
    again = expected @ sae.W_dec.double() + sae.b_dec.double()
    for reconstruction in (sae.decode(sparse), sae.decode(sae.encode(X)), sae(X)):
        torch.testing.assert_close(reconstruction.double(), again, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("architecture", ["topk", "relu"])
def test_centre_and_scale_fold_exactly(architecture: str) -> None:
    weights, mean, scale = scaled_weights(), 50 * torch.randn(12), 17.0
    k = 5 if architecture == "topk" else None
    sae = SparseAutoencoder.from_scaled(architecture, weights, k, mean, scale)
    z = (X.double() - mean.double()) / scale
    shifted = weights | {"b_enc": weights["b_enc"] - weights["b_dec"] @ weights["W_enc"]}
    acts = dense_encode(shifted, z, k)
    expected = (
        acts @ weights["W_dec"].double() + weights["b_dec"].double()
    ) * scale + mean.double()
    found = sae(X).double()
    assert float((found - expected).norm() / expected.norm()) < 1e-5
    torch.testing.assert_close(sae.encode(X).double() / scale, acts, rtol=1e-3, atol=1e-4)


def test_no_tokens_and_no_firing() -> None:
    sae = make("topk")
    assert len(sae.encode_sparse(X[:0])) == 0
    silent = SparseAutoencoder("relu", scaled_weights() | {"b_enc": torch.full((40,), -1e9)}, None)
    sparse = silent.encode_sparse(X)
    assert sparse.offsets.tolist() == [0] * 51
    torch.testing.assert_close(silent.decode(sparse), silent.b_dec.repeat(50, 1))


def write(sae: SparseAutoencoder, folder: Path, **changes: object) -> Path:
    folder.mkdir(exist_ok=True)
    save_weights(sae, folder / "sae_weights.safetensors")
    config = config_of(sae, {"hook_name": "blocks.1.hook_resid_post", "model_name": "m"})
    (folder / "cfg.json").write_text(json.dumps(config | changes))
    return folder


@pytest.mark.parametrize("architecture", ["topk", "relu"])
def test_files_round_trip(architecture: str, tmp_path: Path) -> None:
    sae = make(architecture)
    again = load(write(sae, tmp_path))
    assert (again.architecture, again.k) == (sae.architecture, sae.k)
    for name, weight in sae.weights().items():
        assert torch.equal(weight, again.weights()[name])


def test_an_autoencoder_that_subtracts_b_dec_is_read_right(tmp_path: Path) -> None:
    sae = make("relu")
    theirs = load(write(sae, tmp_path, apply_b_dec_to_input=True))
    expected = dense_encode(sae.weights(), X - sae.b_dec, None)
    torch.testing.assert_close(theirs.encode(X).double(), expected, rtol=1e-4, atol=1e-4)


def test_what_can_not_be_read_is_said(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="holds no autoencoder that can be read"):
        load(tmp_path / "absent")
    with pytest.raises(StorageError, match="architecture 'gated-ish' is unknown"):
        load(write(make("topk"), tmp_path, architecture="gated-ish"))
    with pytest.raises(StorageError, match="normalised at run time"):
        load(write(make("topk"), tmp_path, normalize_activations="layer_norm"))
    with pytest.raises(ConfigError, match=r"k = 0 must lie in 1\.\.d_sae = 40"):
        SparseAutoencoder("topk", scaled_weights(), 0)
    with pytest.raises(ConfigError, match="architecture 'x' is unknown"):
        SparseAutoencoder("x", scaled_weights(), 1)


@pytest.mark.skipif(
    not SAE_LENS.exists(), reason="SAELens is not installed: `make bench-envs` installs it"
)
@pytest.mark.parametrize("architecture", ["topk", "relu"])
def test_sae_lens_loads_it(architecture: str, tmp_path: Path) -> None:
    sae = make(architecture)
    folder = write(sae, tmp_path / "sae")
    save_file({"x": X}, tmp_path / "x.safetensors")
    code = f"""
from safetensors.torch import load_file, save_file
from sae_lens import SAE
sae = SAE.load_from_disk({str(folder)!r}, device="cpu")
x = load_file({str(tmp_path / "x.safetensors")!r})["x"]
acts = sae.encode(x)
save_file({{"acts": acts.detach().contiguous(), "out": sae.decode(acts).detach().contiguous()}},
          {str(tmp_path / "y.safetensors")!r})
"""
    done = subprocess.run([SAE_LENS, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    from safetensors.torch import load_file

    theirs = load_file(tmp_path / "y.safetensors")
    torch.testing.assert_close(theirs["acts"], sae.encode(X), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(theirs["out"], sae(X), rtol=1e-5, atol=1e-5)
