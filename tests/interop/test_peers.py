"""Folders that are taken out, read by the peers' own packages.

They need an environment of their own, ``benchmarks/.envs/peers``, with eai-sparsify,
dictionary-learning, sae-lens and circuit-tracer; without it these tests are skipped, and
`test_weights` has the formulas of their classes.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.paths import ROOT
from support.store_artifacts import D_IN
from support.taken_out import published, sae_of

from deconstruct.interop.export import export

PEERS = ROOT / "benchmarks/.envs/peers/bin/python"
X = 5 + 3 * torch.randn(1000, D_IN, generator=torch.Generator().manual_seed(9))
AUTOENCODERS = ("topk", "batchtopk", "matryoshka", "jumprelu", "gated", "relu")


@pytest.mark.skipif(not PEERS.exists(), reason=f"no {PEERS}")
@pytest.mark.parametrize(
    ("format_", "kind", "transcoder"),
    [
        *(("saelens", kind, False) for kind in AUTOENCODERS),
        *(("saelens", kind, True) for kind in ("relu", "jumprelu")),
        *(("dictionary-learning", kind, False) for kind in AUTOENCODERS),
        ("sparsify", "topk", False),
        ("sparsify", "topk", True),
        *(("circuit-tracer", kind, True) for kind in ("relu", "jumprelu", "batchtopk")),
    ],
)
def test_they_compute_what_ours_does(
    format_: str, kind: str, transcoder: bool, tmp_path: Path
) -> None:
    sae = sae_of(kind, D_IN if transcoder else None, skip=format_ in ("sparsify", "circuit-tracer")
                 and transcoder)  # fmt: skip
    published(tmp_path / "home", sae, "9.mlp_out" if transcoder else None)
    folder = export(tmp_path / "home", "demo", tmp_path / "out", format_).folder
    save_file({"x": X}, tmp_path / "x")
    script = ROOT / "tests/support/peers_read.py"
    done = subprocess.run(
        [PEERS, script, format_, folder, tmp_path / "x", tmp_path / "found"],
        check=False, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    found = load_file(tmp_path / "found")
    for name, wanted in {"latents": sae.encode(X), "decoded": sae(X)}.items():
        atol = 1e-5 * float(wanted.abs().max())
        torch.testing.assert_close(found[name], wanted, rtol=1e-5, atol=atol)
