"""What the tests of this folder judge."""

from __future__ import annotations

import pytest
from support.judged import Bench, rough

from deconstruct.activations.reader import ActivationReader
from deconstruct.artifacts import Artifact
from deconstruct.model.resolve import ResolvedModel


@pytest.fixture(scope="module")
def bench(
    tmp_path_factory: pytest.TempPathFactory,
    model: ResolvedModel,
    corpus_artifact: Artifact,
    activations_artifact: Artifact,
) -> Bench:
    return Bench(tmp_path_factory.mktemp("bench"), model, corpus_artifact, activations_artifact)


@pytest.fixture(scope="module")
def d_in(activations_artifact: Artifact) -> int:
    return ActivationReader(activations_artifact).d_in


@pytest.fixture(scope="module")
def judged(bench: Bench, d_in: int) -> Artifact:
    return bench(rough(d_in))
