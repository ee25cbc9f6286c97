"""Several SAEs in one pass: each is, byte for byte, what it is alone; and early stops."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from deconstruct.activations.reader import ActivationReader, BatchSource
from deconstruct.artifacts import Artifact, DataRoot
from deconstruct.config import SaeConfig
from deconstruct.sae import stage
from deconstruct.sae.training import checkpoint

BASE = {"d_sae": 64, "k": 4, "tokens": 6_000, "batch_size": 256}


def config(**changes: object) -> SaeConfig:
    return SaeConfig.model_validate(BASE | changes)


MEMBERS = [
    config(),
    config(k=8),
    config(architecture="batchtopk"),
    config(architecture="jumprelu", target_l0=6.0),
    config(d_sae=96, architecture="matryoshka"),
    config(architecture="gated", penalty=0.05, learning_rate=1e-3),
    config(architecture="relu", tokens=4_000),
    config(seed=1),
]


def test_each_member_is_what_it_is_alone(
    root: DataRoot,
    activations_artifact: Artifact,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Equal keys stand for equal bytes: a sweep and single runs share one cache."""
    asked: list[tuple[int, int]] = []
    at = BatchSource.at

    def counting(self: BatchSource, step: int) -> torch.Tensor:
        asked.append((self.seed, step))
        return at(self, step)

    monkeypatch.setattr(BatchSource, "at", counting)
    decoded: list[int] = []
    decode = ActivationReader.decode
    monkeypatch.setattr(
        ActivationReader, "decode", lambda self, *g: (decoded.append(1), decode(self, *g))[1]
    )
    together = DataRoot(tmp_path / "together")
    made = stage.train_all(together, MEMBERS, activations=activations_artifact, device="cpu")
    assert len(asked) == len(set(asked))  # each batch is read once, whoever is trained on it
    assert len(decoded) == 1
    for member, artifact in zip(MEMBERS, made, strict=True):
        alone = DataRoot(tmp_path / "alone")
        single = stage.train(alone, member, activations=activations_artifact, device="cpu")
        assert single.key == artifact.key
        assert single.digest() == artifact.digest(), member.label()
    again = stage.train_all(together, MEMBERS[::-1], activations=activations_artifact, device="cpu")
    assert [a.key for a in again] == [a.key for a in made[::-1]]
    assert len(decoded) == 1 + len(MEMBERS)


def test_a_killed_sweep_goes_on(
    activations_artifact: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:

    members = MEMBERS[:4]
    monkeypatch.setattr(checkpoint, "EVERY_SECONDS", -1.0)
    straight = stage.train_all(
        DataRoot(tmp_path / "a"), members, activations=activations_artifact, device="cpu"
    )
    killed = DataRoot(tmp_path / "b")
    at = BatchSource.at

    def killing(self: BatchSource, step: int) -> torch.Tensor:
        if step == 11:
            raise KeyboardInterrupt
        return at(self, step)

    with monkeypatch.context() as patch:
        patch.setattr(BatchSource, "at", killing)
        with pytest.raises(KeyboardInterrupt):
            stage.train_all(killed, members, activations=activations_artifact, device="cpu")
    resumed = stage.train_all(killed, members, activations=activations_artifact, device="cpu")
    assert [a.digest() for a in resumed] == [a.digest() for a in straight]


def test_training_stops_when_held_out_documents_gain_no_more(
    root: DataRoot, activations_artifact: Artifact
) -> None:
    """Many epochs over few documents: the held-out error turns, training ends there."""
    long = config(d_sae=256, k=16, tokens=200_000, patience=2, held_out_share=0.25)
    made = stage.train(root, long, activations=activations_artifact, device="cpu")
    assert made.facts["tokens"] < 200_000
    rows = pq.read_table(made.file("training_log.parquet")).to_pylist()
    seen = [row["held_out_fvu"] for row in rows if row["held_out_fvu"] is not None]
    assert len(seen) >= 3
    assert min(seen[-2:]) > min(seen[:-2]) * (1 - 0.002)
    assert (
        made.key != stage.recipe(long.model_copy(update={"patience": None}), activations=made).key
    )
    free = config(held_out_share=0.3)
    assert (
        stage.recipe(free, activations=made).key == stage.recipe(config(), activations=made).key
    )  # not looked at
