"""Our metrics are those of SAELens' own evaluation, of one SAE on the same tokens.

``fixtures/against_saelens`` is what `benchmarks.against_saelens` leaves: model, SAE, tokens, and
what SAELens 6.54 said of them. Where SAELens is there, it says so again.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from support.paths import ROOT

from benchmarks.against_saelens.ours import BOUNDS, ours
from deconstruct.sae.files import config_of, copy_for_sae_lens, load, save_weights

FIXTURE = ROOT / "tests/fixtures/against_saelens"
SAE_LENS = ROOT / "benchmarks/.envs/sae-lens/bin/python"
KEPT = {
    "hook_name": "blocks.0.hook_resid_post",
    "model_name": "tiny-gpt2",
    "training_architecture": "topk",
    "sae_lens_version": "6.0.0",
}


def agree(found: dict[str, float], folder: Path) -> None:
    said = json.loads((folder / "saelens.json").read_text())
    assert said["metadata"] == KEPT
    for name, bound in BOUNDS.items():
        assert found[name] == pytest.approx(said["metrics"][name], rel=0, abs=bound), name


def test_we_say_what_sae_lens_said() -> None:
    found = ours(FIXTURE)
    agree(found, FIXTURE)
    assert found["ce_loss_without_sae"] + 0.01 < found["ce_loss_with_sae"]
    assert found["ce_loss_with_sae"] + 0.01 < found["ce_loss_with_ablation"]
    assert 0.1 < found["explained_variance"] < 0.95


def test_it_was_said_of_what_we_write(tmp_path: Path) -> None:
    """SAELens kept the metadata of the very ``cfg.json`` that is written today."""
    sae = load(FIXTURE / "sae")
    about = {name: KEPT[name] for name in ("hook_name", "model_name")}
    save_weights(sae, tmp_path / "sae_weights.safetensors")
    (tmp_path / "cfg.json").write_text(json.dumps(config_of(sae, about)))
    copy = copy_for_sae_lens(tmp_path, tmp_path / "copy")
    for name in ("cfg.json", "sae_weights.safetensors"):
        assert (copy / name).read_bytes() == (FIXTURE / "sae" / name).read_bytes()


@pytest.mark.skipif(not SAE_LENS.exists(), reason=f"no {SAE_LENS}: `make bench-train` makes it")
def test_sae_lens_says_so_still(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    shutil.copytree(FIXTURE, folder)
    (folder / "saelens.json").unlink()
    script = ROOT / "benchmarks/against_saelens/peer.py"
    subprocess.run([SAE_LENS, script, folder], check=True, capture_output=True)
    agree(ours(folder), folder)
