"""What is done on a card, forced on whatever is here, measures what is measured on a CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from support.judged import Bench, metrics, rough

from deconstruct.artifacts import Artifact
from deconstruct.common.errors import ConfigError
from deconstruct.evaluation import stage as evaluation
from deconstruct.model.resolve import ResolvedModel
from deconstruct.reference.passes import Passes
from deconstruct.sae.autoencoder import SparseAutoencoder
from deconstruct.sae.engines.encoding.banded import Banded


class OnCard(Passes):
    """Passes that believe to be on a card."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.on_cpu = False


def banded(sae: SparseAutoencoder) -> SparseAutoencoder:
    sae._for_many = Banded(sae._method, sae.weights(), sae.k)
    return sae


def test_metrics_are_those_of_a_cpu(
    tmp_path: Path,
    judged: Artifact,
    d_in: int,
    model: ResolvedModel,
    corpus_artifact: Artifact,
    activations_artifact: Artifact,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(SparseAutoencoder, "for_many_tokens", banded)
    monkeypatch.setattr(evaluation, "Passes", OnCard)
    bench = Bench(tmp_path, model, corpus_artifact, activations_artifact)
    there = metrics(bench(rough(d_in)))
    here = metrics(judged)
    assert there.keys() == here.keys()
    for name, row in here.items():
        assert there[name]["value"] == pytest.approx(row["value"], rel=1e-4, abs=1e-6), name
        assert there[name]["n"] == row["n"], name


def test_too_little_memory_is_a_sentence(d_in: int) -> None:
    class Greedy:
        title, rows = "greedy", 100

        def __call__(self, x: torch.Tensor) -> Any:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 3.00 GiB")

    sae = rough(d_in)
    sae._for_many = Greedy()
    with pytest.raises(ConfigError, match=rf"d_sae = {sae.d_sae} latents .* free the device"):
        sae(torch.zeros(3, d_in))


def test_on_a_cpu_nothing_changes(d_in: int) -> None:
    sae = rough(d_in)
    assert sae.for_many_tokens() is sae
    assert sae._for_many is None
