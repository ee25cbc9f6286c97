"""Dictionaries of the hub, on a stand-in: what is fetched, and what is said without it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import torch
from support.paths import ROOT, TESTS
from support.tiny_models import WIDTH, save_tiny


def test_a_dictionary_of_the_hub(tmp_path: Path) -> None:
    model = save_tiny("llama", tmp_path / "tiny-llama")
    own = tmp_path / "own"
    own.mkdir()
    w = {
        "bias": torch.zeros(WIDTH), "encoder.bias": torch.zeros(48),
        "encoder.weight": torch.randn(48, WIDTH), "decoder.weight": torch.randn(WIDTH, 48),
    }  # fmt: skip
    torch.save(w, own / "ae.pt")
    (own / "config.json").write_text(json.dumps({"trainer": {"dict_class": "AutoEncoder"}}))
    listing = tmp_path / "listing"
    listing.mkdir()
    uri = "hf://someone/dictionaries/layers/1.safetensors?revision=v1"
    (listing / "config.yaml").write_text(
        f"model_kind: transcoder_set\nfeature_input_hook: mlp.hook_in\ntranscoders: [a, '{uri}']\n"
    )
    transcoder = TESTS / "fixtures/dictionaries/circuit-tracer-jumprelu/layer_1.safetensors"
    done = subprocess.run(
        [sys.executable, str(TESTS / "support/fake_dictionary_hub.py"),
         str(tmp_path / "cache"), str(model), str(own), str(transcoder), str(listing)],
        capture_output=True, text=True, check=False, timeout=300,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["local"][1:] == ["dictionary-learning", 48]
    for way in ("online", "tag", "file", "offline"):
        assert found[way] == found["local"], way  # by content: wherever the files were
    assert sorted(found["asked"]) == ["sets/one/ae.pt", "sets/one/config.json"]
    for way, message in {
        "uri": "it reads activations of width 8, and tiny-llama has width 32",
        "no folder": "there is no 'sets/three' in revision 0123456789ab",
        "no format": "are in no format that we read",
        "unknown": "the hub does not serve it",
        "offline, another": "is out of reach and its local cache does not hold it",
        "link": "is a link that leads out of the hub's cache",
    }.items():
        assert message in found[way], (way, found[way])
        assert "\n" not in found[way]
