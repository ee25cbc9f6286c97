"""A site whose activations are one and the same."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from deconstruct.activations import stage as activations
from deconstruct.artifacts import Artifact, DataRoot
from deconstruct.common.errors import DataError
from deconstruct.config import ActivationsConfig, ModelConfig, SaeConfig
from deconstruct.model.resolve import resolve
from deconstruct.sae.stage import train


@pytest.mark.parametrize("value", [0.0, 1 / 3])
def test_a_site_that_does_not_vary_is_refused_before_training(
    tmp_path: Path, tiny_model: Path, corpus_artifact: Artifact, value: float
) -> None:
    folder = Path(shutil.copytree(tiny_model, tmp_path / "flat"))
    weights = load_file(folder / "model.safetensors")
    weights["model.embed_tokens.weight"].fill_(value)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    root = DataRoot(tmp_path / "home")
    flat = resolve(root, ModelConfig(name=str(folder), dtype="float32"))
    config = ActivationsConfig(sites=("0.resid_pre",))
    made = activations.extract(root, config, model=flat, corpus=corpus_artifact, device="cpu")
    [recorded] = made.values()
    small = SaeConfig(d_sae=64, k=4, tokens=512, batch_size=64)
    with pytest.raises(DataError, match=r"site '0\.resid_pre' do not vary: .* another site"):
        train(root, small, activations=recorded, device="cpu")
