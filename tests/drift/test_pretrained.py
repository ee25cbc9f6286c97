"""Drift with a dictionary that others trained: against the first documents of the series."""

from __future__ import annotations

import shutil
from pathlib import Path

from support.growing import TRAINED, Home

from deconstruct.config import EvaluationConfig, RunConfig
from deconstruct.drift import stage as drift
from deconstruct.sae import pretrained
from deconstruct.sae import stage as sae


def test_it_is_that_of_the_same_weights_trained_on_those(
    growing: Home, texts: Path, grown: Path, tmp_path: Path
) -> None:
    base = growing.read(texts)
    trained = sae.train(growing.root, TRAINED, activations=growing.record(base), device="cpu")
    shutil.copytree(trained.path, tmp_path / "own")
    (tmp_path / "own" / "manifest.json").unlink()
    values = {
        "activations": {"sites": ["1.resid_post"]},
        "sae": {"pretrained": str(tmp_path / "own")},
    }
    config = RunConfig.model_validate(values)
    dictionary = pretrained.find(config, growing.model)
    more = growing.read(grown, base)
    read = growing.record(more)
    taken = sae.train(growing.root, config.sae, activations=read, dictionary=dictionary)
    assert taken.manifest.inputs.keys() == {"dictionary"}
    assert sae.train(
        growing.root, config.sae, activations=growing.record(base), dictionary=dictionary
    ).key == taken.key  # fmt: skip
    assert drift.reference_of(growing.root, base, taken) is None
    found = []
    for one in (trained, taken):
        reference = drift.reference_of(growing.root, more, one)
        assert reference is not None
        assert reference.key == base.key
        made = drift.compare(
            growing.root, EvaluationConfig(bootstrap=20), reference=reference, activations=read,
            sae=one, latents=growing.encode(one, read, more), device="cpu",
        )  # fmt: skip
        found.append(made.facts)
    assert found[0] == found[1]
