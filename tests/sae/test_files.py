"""The saved autoencoder: exact folding, our files, and SAELens reading them."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from support.paths import ROOT

from deconstruct.common.errors import ConfigError, StorageError
from deconstruct.sae.autoencoder import SparseAutoencoder
from deconstruct.sae.files import config_of, load, save_weights
from deconstruct.sae.folding import Scaling, fold, unfold

SAE_LENS = ROOT / "benchmarks/.envs/sae-lens/bin/python"


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


ARCHITECTURES = ("topk", "relu", "jumprelu", "batchtopk", "matryoshka", "gated")
KINDS = [*ARCHITECTURES, *(f"{a} transcoder" for a in ARCHITECTURES), "topk skip", "relu skip"]
D_OUT = 9


def weights_of(kind: str, seed: int = 0) -> dict[str, torch.Tensor]:
    """Random weights of an architecture, or of a transcoder of it, as training leaves them."""
    weights = scaled_weights(seed=seed)
    generator = torch.Generator().manual_seed(seed + 1)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    architecture, _, form = kind.partition(" ")
    if architecture == "gated":
        del weights["b_enc"]
        weights |= {name: 0.3 * random(40) for name in ("b_gate", "b_mag", "r_mag")}
    if architecture in ("jumprelu", "batchtopk", "matryoshka"):
        threshold = 0.5 + random(40).abs() if architecture == "jumprelu" else torch.full((40,), 0.8)
        weights["threshold"] = threshold
    if architecture == "relu":
        weights["W_dec"] *= 0.5 + random(40).abs()[:, None]  # decoder rows are free
    if form:
        weights["W_dec"], weights["b_dec"] = random(40, D_OUT), random(D_OUT)
        weights["W_dec"] /= weights["W_dec"].norm(dim=1, keepdim=True)
    if form == "skip":
        weights["W_skip"] = random(D_OUT, 12)
    return weights


def make(kind: str) -> SparseAutoencoder:
    architecture, _, form = kind.partition(" ")
    return SparseAutoencoder(architecture, weights_of(kind), 5, transcoder=bool(form))


def activate(kind: str, product: torch.Tensor, w: dict[str, torch.Tensor]) -> torch.Tensor:
    """The formulas in float64, on product = x @ W_enc; a second writing of them."""
    architecture = kind.split(maxsplit=1)[0]
    w = {name: weight.double() for name, weight in w.items()}
    if architecture == "gated":
        magnitude = (w["r_mag"].exp() * product + w["b_mag"]).clamp(min=0)
        return torch.where(product + w["b_gate"] > 0, magnitude, 0.0)
    pre = product + w["b_enc"]
    if architecture == "topk":
        kept = pre.clamp(min=0).topk(5, dim=1)
        return torch.zeros_like(pre).scatter(1, kept.indices, kept.values)
    return torch.where(pre > w.get("threshold", torch.zeros(40)), pre, 0.0)


X = 3 * torch.randn(50, 12, generator=torch.Generator().manual_seed(9))


@pytest.mark.parametrize("kind", KINDS)
def test_encode_and_decode_are_the_formula(kind: str) -> None:
    sae = make(kind)
    w = sae.weights()
    expected = activate(kind, X.double() @ sae.W_enc.double(), w)
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
    if "W_skip" in w:
        again = again + X.double() @ w["W_skip"].double().T
        with pytest.raises(ValueError, match="needs x"):
            sae.decode(sparse)
    for reconstruction in (sae.decode(sparse, X), sae.decode(sae.encode(X), X), sae(X)):
        torch.testing.assert_close(reconstruction.double(), again, rtol=1e-4, atol=1e-4)


@settings(deadline=None, max_examples=15)
@given(
    seed=st.integers(0, 999),
    offset=st.sampled_from([0.0, 1.0, 5.0]),  # in scales: more, and float32 x itself is too coarse
    scale=st.sampled_from([0.03, 1.0, 17.0, 4000.0]),
)
@pytest.mark.parametrize("kind", KINDS)
def test_centre_and_scale_fold_exactly(kind: str, seed: int, offset: float, scale: float) -> None:
    """What was trained on z says the same of raw x, to 1e-5: reconstructions and activations."""
    generator = torch.Generator().manual_seed(seed)
    trained = weights_of(kind, seed)
    z = torch.randn(50, 12, generator=generator).double()
    inputs = Scaling(offset * scale * torch.randn(12, generator=generator).double(), scale)
    onto = inputs
    architecture, _, form = kind.partition(" ")
    if form:
        onto = Scaling(7 * torch.randn(D_OUT, generator=generator).double(), 2.5)
    centred = z if form else z - trained["b_dec"].double()
    product = centred @ trained["W_enc"].double()
    assume(decided(kind, product, trained, 1e-4 * (1 + offset)))
    active = activate(kind, product, trained)
    out = active @ trained["W_dec"].double() + trained["b_dec"].double()
    if form == "skip":
        out = out + z @ trained["W_skip"].double().T
    sae = fold(architecture, trained, 5, inputs, onto if form else None)
    x = z * inputs.scale + inputs.mean
    exact = SparseAutoencoder.__call__(sae, x.float()).double()
    expected = out * onto.scale + onto.mean
    assert float((exact - expected).norm() / expected.norm()) < 1e-5
    unit = active * trained["W_dec"].double().norm(dim=1)
    found = sae.encode(x.float()).double() / onto.scale
    slack = 2e-6 * (1 + offset) * float(trained["W_enc"].norm(dim=0).max()) * 12
    torch.testing.assert_close(found, unit, rtol=1e-4, atol=slack)
    torch.testing.assert_close(sae.W_dec.norm(dim=1), torch.ones(40))


@settings(deadline=None, max_examples=10)
@given(seed=st.integers(0, 999), scale=st.sampled_from([0.03, 1.0, 4000.0]))
@pytest.mark.parametrize("kind", KINDS)
def test_unfolding_keeps_the_function_and_undoes_folding(
    kind: str, seed: int, scale: float
) -> None:
    """Whatever the new moments; with those of the training itself, its weights come back."""
    generator = torch.Generator().manual_seed(seed)

    def scaling(width: int, size: float) -> Scaling:
        return Scaling(size * torch.randn(width, generator=generator).double(), size)

    architecture, _, form = kind.partition(" ")
    trained = weights_of(kind, seed)
    at, onto = scaling(12, 1.0), scaling(D_OUT, 1.0) if form else None
    sae = fold(architecture, trained, 5, at, onto)
    new, new_onto = scaling(12, scale), scaling(D_OUT, 2 * scale) if form else None
    again = fold(architecture, unfold(sae, new, new_onto), 5, new, new_onto)
    for name, weight in sae.weights().items():
        error = (again.weights()[name] - weight).norm() / weight.norm()
        # b_enc is what is left of a shift by the new mean: far from it, less of it is
        assert float(error) < 1e-5 * (1 + 10 * scale * (name.startswith("b_"))), name
    back = unfold(sae, at, onto)
    for name, weight in trained.items():
        if architecture == "relu" and name != "b_dec":  # norms of rows went into the encoder
            continue
        torch.testing.assert_close(back[name], weight, rtol=1e-5, atol=2e-5)


def decided(kind: str, product: torch.Tensor, w: dict[str, torch.Tensor], margin: float) -> bool:
    """Whether no latent is so near its edge that rounding x to float32 may decide it."""
    pre = product + w.get("b_enc", w.get("b_gate", torch.zeros(40))).double()
    edge = w.get("threshold", torch.zeros(40)).double().expand_as(pre)
    if kind.startswith("topk"):
        ranked = pre.sort(dim=1, descending=True).values
        return bool((ranked[:, 4] - ranked[:, 5] > margin * 10).all())
    return kind.startswith("relu") or bool(((pre - edge).abs() > margin).all())


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


@pytest.mark.parametrize("kind", KINDS)
def test_files_round_trip(kind: str, tmp_path: Path) -> None:
    sae = make(kind)
    again = load(write(sae, tmp_path))
    assert (again.architecture, again.k) == (sae.architecture, sae.k)
    assert (again.transcoder, again.d_out) == (sae.transcoder, sae.d_out)
    for name, weight in sae.weights().items():
        assert torch.equal(weight, again.weights()[name])


def test_an_autoencoder_that_subtracts_b_dec_is_read_right(tmp_path: Path) -> None:
    sae = make("relu")
    theirs = load(write(sae, tmp_path, apply_b_dec_to_input=True))
    product = (X - sae.b_dec).double() @ sae.W_enc.double()
    expected = activate("relu", product, sae.weights())
    torch.testing.assert_close(theirs.encode(X).double(), expected, rtol=1e-4, atol=1e-4)
    gated = load(write(make("gated"), tmp_path, apply_b_dec_to_input=True))
    expected = activate("gated", product, make("gated").weights())
    torch.testing.assert_close(gated.encode(X).double(), expected, rtol=1e-4, atol=1e-4)


def test_trained_as_batchtopk_saved_as_jumprelu(tmp_path: Path) -> None:
    config = json.loads((write(make("matryoshka"), tmp_path) / "cfg.json").read_text())
    assert config["architecture"] == "jumprelu"
    assert "k" not in config
    assert config["metadata"]["training_architecture"] == "matryoshka"
    assert config["metadata"]["k"] == 5


def test_what_can_not_be_read_is_said(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="holds no autoencoder that can be read"):
        load(tmp_path / "absent")
    with pytest.raises(StorageError, match="architecture 'gated-ish' is unknown"):
        load(write(make("topk"), tmp_path, architecture="gated-ish"))
    with pytest.raises(StorageError, match=r"weights \['threshold'\], which are not given"):
        load(write(make("relu"), tmp_path, architecture="jumprelu"))
    with pytest.raises(StorageError, match="by a norm of their own"):
        load(write(make("topk"), tmp_path, normalize_activations="layer_norm"))
    with pytest.raises(ConfigError, match=r"k = 0 must lie in 1\.\.d_sae = 40"):
        SparseAutoencoder("topk", scaled_weights(), 0)
    with pytest.raises(ConfigError, match="architecture 'x' is unknown"):
        SparseAutoencoder("x", scaled_weights(), 1)


@pytest.mark.skipif(
    not SAE_LENS.exists(),
    reason=f"no {SAE_LENS}: `make bench-train`, or `python -m benchmarks.variants`, makes it",
)
@pytest.mark.parametrize(
    "kind",
    [*ARCHITECTURES, "relu transcoder", "relu skip", "jumprelu transcoder", "batchtopk transcoder"],
)
def test_sae_lens_loads_it(kind: str, tmp_path: Path) -> None:
    sae = make(kind)
    folder = write(sae, tmp_path / "sae")
    save_file({"x": X}, tmp_path / "x.safetensors")
    code = f"""
from safetensors.torch import load_file, save_file
from sae_lens import SAE
sae = SAE.load_from_disk({str(folder)!r}, device="cpu")
x = load_file({str(tmp_path / "x.safetensors")!r})["x"]
acts = sae.encode(x)
save_file({{"acts": acts.detach().contiguous(), "out": sae(x).detach().contiguous()}},
          {str(tmp_path / "y.safetensors")!r})
"""
    done = subprocess.run([SAE_LENS, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    from safetensors.torch import load_file

    theirs = load_file(tmp_path / "y.safetensors")
    torch.testing.assert_close(theirs["acts"], sae.encode(X), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(theirs["out"], sae(X), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_reach_the_input(kind: str) -> None:
    """As for a splice into a model that is differentiated; beside differences in float32."""
    sae = make(kind)
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(6, 12, generator=generator).requires_grad_()
    along = torch.randn(6, 12, generator=generator)
    out = sae(x)
    torch.testing.assert_close(out, sae(x.detach()), rtol=1e-4, atol=1e-4)
    weight = torch.randn(out.shape, generator=generator)
    (gradient,) = torch.autograd.grad((out * weight).sum(), x)
    step = 1e-3
    ends = [((sae(x.detach() + sign * step * along) * weight).sum(1)) for sign in (1, -1)]
    difference = (ends[0] - ends[1]) / (2 * step)
    found = (gradient * along).sum(1)
    # A token whose active latents change between the two ends has no slope to compare.
    close = (found - difference).abs() < 0.02 * difference.abs() + 0.02
    assert int(close.sum()) >= 4
