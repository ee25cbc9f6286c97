"""Dictionaries that others trained: each format computes what the peer's own package does.

Those below tests/fixtures/dictionaries were made by the peers (`make.py` there); Llama Scope and
Qwen-Scope, which no package writes any more, are written here by their description, and their
formulas a second time in float64.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from support.paths import ROOT

from deconstruct.common.site import Site
from deconstruct.sae import files
from deconstruct.sae.autoencoder import SparseAutoencoder
from deconstruct.sae.formats.base import Asked, Dictionary, Source
from deconstruct.sae.formats.registry import format_of

FIXTURES = ROOT / "tests" / "fixtures" / "dictionaries"
FOLDERS = sorted(path.parent.name for path in FIXTURES.glob("*/expected.npz"))
X = torch.from_numpy(np.load(FIXTURES / "x.npy"))


def source_of(folder: Path, said: str | None = None) -> Source:
    names = (p for pattern in ("*", "*/*") for p in folder.glob(pattern) if p.is_file())
    listed = frozenset(path.relative_to(folder).as_posix() for path in names)
    return Source(said or str(folder), folder, listed)


def read(folder: Path, site: str = "1.resid_post", output: str | None = None) -> Dictionary:
    asked = Asked(Site.parse(site), Site.parse(output) if output else None)
    source = source_of(folder)
    one, _ = format_of(source, asked, "auto")
    return one.read(source, asked)


def asked_of(name: str) -> tuple[str, str | None]:
    transcodes = "transcoder" in name or name.startswith(("circuit-tracer", "gemma-scope"))
    return ("1.mlp_in", "1.mlp_out") if transcodes else ("1.resid_post", None)


def check(sae: SparseAutoencoder, x: torch.Tensor, acts: torch.Tensor, out: torch.Tensor) -> None:
    """Within 1e-5 of each row's length. By the way that encodes sparsely too; of top-k, that one
    looks for the k in bfloat16 first, and may miss one that hardly fires."""
    sparse = sae.encode_sparse(x)
    dense = torch.zeros_like(acts)
    rows = torch.repeat_interleave(torch.arange(len(x)), sparse.offsets.diff())
    dense[rows, sparse.latents.long()] = sparse.activations
    quick = 1e-2 if sae.architecture == "topk" else 1e-5
    for found, expected, within in (
        (sae.encode(x), acts, 1e-5),
        (sae.decode(acts.float(), x), out, 1e-5),
        (dense, acts, quick),
        (sae(x), out, quick),
    ):
        off = (found.double() - expected.double()).norm(dim=1)
        assert (off <= within * expected.double().norm(dim=1)).all(), off.max()


def test_every_format_has_a_fixture_of_its_peer() -> None:
    assert len(X) == 1000
    for start, count in (("saelens", 8), ("sparsify", 2), ("dictionary-learning", 7)):
        assert sum(name.startswith(start) for name in FOLDERS) >= count, start
    for start in ("circuit-tracer", "gemma-scope-1", "gemma-scope-2"):
        assert any(name.startswith(start) for name in FOLDERS), start


@pytest.mark.parametrize("name", FOLDERS)
def test_encode_and_decode_are_the_peers(name: str, tmp_path: Path) -> None:
    found = np.load(FIXTURES / name / "expected.npz")
    acts, out = (torch.from_numpy(found[key]) for key in ("acts", "out"))
    assert 0.01 < (acts > 0).double().mean() < 0.9  # neither silent nor dense
    sae = read(FIXTURES / name, *asked_of(name)).sae
    check(sae, X, acts, out)
    files.save_weights(sae, tmp_path / files.WEIGHTS)
    (tmp_path / files.CONFIG).write_text(json.dumps(files.config_of(sae, {})))
    kept = files.load(tmp_path)
    assert (kept.architecture, kept.k, kept.transcoder) == (sae.architecture, sae.k, sae.transcoder)
    for key, weight in sae.weights().items():
        assert torch.equal(kept.weights()[key], weight), key


@pytest.mark.parametrize(
    ("name", "reads", "writes"),
    [
        ("saelens-jumprelu", "blocks.1.hook_resid_post", None),
        ("saelens-transcoder", "blocks.1.mlp.hook_in", "blocks.1.hook_mlp_out"),
        ("sparsify-autoencoder", "layers.1", None),
        ("sparsify-skip-transcoder", "layers.1.mlp.input", "layers.1.mlp"),
        ("dictionary-learning-BatchTopKSAE", "blocks.1.hook_resid_post", None),
        ("circuit-tracer-relu-skip", "blocks.1.mlp.hook_in", "blocks.1.hook_mlp_out"),
    ],
)
def test_what_the_files_tell_of_hooks(name: str, reads: str, writes: str | None) -> None:
    told = read(FIXTURES / name, *asked_of(name)).told
    assert (told.reads, told.writes) == (reads, writes)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return 0.5 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


LLAMA = {
    "d_model": 8, "d_sae": 16, "norm_activation": "dataset-wise", "use_glu_encoder": False,
    "dataset_average_activation_norm": {"in": 11.5, "out": 11.5}, "top_k": 4,
    "hook_point_in": "blocks.1.hook_resid_post", "hook_point_out": "blocks.1.hook_resid_post",
    "jump_relu_threshold": 0.6, "sparsity_include_decoder_norm": False,
}  # fmt: skip


def llama_scope(folder: Path, config: dict[str, object]) -> dict[str, torch.Tensor]:
    from safetensors.torch import save_file

    w = {
        "encoder.weight": random(16, 8, seed=1), "encoder.bias": random(16, seed=2),
        "decoder.weight": random(8, 16, seed=3), "decoder.bias": random(8, seed=4),
    }  # fmt: skip
    (folder / "checkpoints").mkdir(parents=True)
    save_file(w, folder / "checkpoints" / "final.safetensors")
    (folder / "hyperparams.json").write_text(json.dumps(config))
    return w


@pytest.mark.parametrize("by_norm", [False, True])
@pytest.mark.parametrize("function", ["jumprelu", "relu", "topk"])
def test_llama_scope_is_its_formula(tmp_path: Path, function: str, by_norm: bool) -> None:
    """On x scaled to a norm of sqrt(d) on average; activations are told in units of the site."""
    config = LLAMA | {"act_fn": function, "sparsity_include_decoder_norm": by_norm}
    w = {name: t.double() for name, t in llama_scope(tmp_path / "L1", config).items()}
    sae = read(tmp_path / "L1").sae
    factor = math.sqrt(8) / 11.5
    pre = ((X.double() * factor) @ w["encoder.weight"].T + w["encoder.bias"]) / factor
    norm = w["decoder.weight"].norm(dim=0)
    score = pre * norm if by_norm else pre
    if function == "topk":
        kept = score.clamp(min=0).topk(4, dim=1).indices
        acts = torch.zeros_like(pre).scatter(1, kept, pre.clamp(min=0).gather(1, kept))
    else:
        acts = torch.where(score > (0.6 if function == "jumprelu" else 0.0), pre, 0.0)
    out = ((acts * factor) @ w["decoder.weight"].T + w["decoder.bias"]) / factor
    if by_norm and function == "topk":
        acts = acts * norm  # in units of unit rows, as docs/dictionaries.md says
    check(sae, X, acts.float(), out.float())


def test_qwen_scope_is_its_formula(tmp_path: Path) -> None:
    folder = tmp_path / "SAE-Res-Qwen3-1.7B-Base-W32K-L0_4"
    folder.mkdir()
    w = {
        "W_enc": random(16, 8, seed=1), "W_dec": random(8, 16, seed=2),
        "b_enc": random(16, seed=3), "b_dec": random(8, seed=4),
    }  # fmt: skip
    for layer in (0, 1):
        torch.save({n: t * (layer + 1) for n, t in w.items()}, folder / f"layer{layer}.sae.pt")
    found = read(folder)
    assert (found.sae.k, found.told.model) == (4, "Qwen/Qwen3-1.7B-Base")
    assert found.told.reads == "blocks.1.hook_resid_post"
    pre = X.double() @ (2 * w["W_enc"].double()).T + 2 * w["b_enc"].double()
    kept = pre.clamp(min=0).topk(4, dim=1)
    acts = torch.zeros_like(pre).scatter(1, kept.indices, kept.values)
    out = acts @ (2 * w["W_dec"].double()).T + 2 * w["b_dec"].double()
    check(found.sae, X, acts.float(), out.float())
