"""Training logs to TensorBoard and Weights & Biases: their own readers find what was logged."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from deconstruct.artifacts import Artifact, DataRoot
from deconstruct.common.errors import ConfigError
from deconstruct.config import SaeConfig
from deconstruct.sae import stage
from deconstruct.sae.training import trackers

CONFIG = SaeConfig(d_sae=64, k=4, tokens=256 * 12, batch_size=256)


def tensorboard_log(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Figures by name, as (step, value), from the one log under ``folder``."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    (log,) = folder.iterdir()
    events = accumulator.EventAccumulator(str(log)).Reload()
    return {
        name: [(event.step, event.value) for event in events.Scalars(name)]
        for name in events.Tags()["scalars"]
    }


def leveldb_records(data: bytes) -> Iterator[bytes]:
    """Records of a LevelDB log after a header of 7 bytes, which is what a .wandb file is: blocks of
    32 kB of chunks, each with checksum, length, and whether it begins or ends a record."""
    at, record = 7, b""
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
            continue
        length, kind = struct.unpack_from("<HB", data, at + 4)
        record += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last of its chunks
            yield record
            record = b""


def wandb_log(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """The same from the one offline run of Weights & Biases."""
    pytest.importorskip("wandb")
    from wandb.proto import wandb_internal_pb2

    (path,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    found: dict[str, list[tuple[int, float]]] = {}
    for data in leveldb_records(path.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        for item in record.history.item:
            name = item.key or "/".join(item.nested_key)
            if name.startswith("sae/"):
                value = float(json.loads(item.value_json))
                found.setdefault(name, []).append((record.history.step.num, value))
    return found


def trained(home: Path, activations: Artifact) -> list[dict[str, float]]:
    made = stage.train(DataRoot(home), CONFIG, activations=activations, device="cpu")
    return pq.read_table(made.path / "training_log.parquet").to_pylist()


def test_both_hold_the_training_log(
    tmp_path: Path, activations_artifact: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tensorboard")
    pytest.importorskip("wandb")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv(trackers.VARIABLE, "tensorboard, wandb")
    rows = trained(tmp_path, activations_artifact)
    assert len(rows) == 12
    logs = tensorboard_log(tmp_path / "logs/tensorboard"), wandb_log(tmp_path / "logs/wandb")
    for log in logs:
        assert set(log) == {
            f"sae/{name}" for name in ("tokens", "learning_rate", "fvu", "l0", "dead_share")
        }
        for name, seen in log.items():
            expected = [(row["step"], row[name.removeprefix("sae/")]) for row in rows]
            assert [step for step, _ in seen] == [step for step, _ in expected]
            assert [v for _, v in seen] == pytest.approx([v for _, v in expected], rel=1e-6)


def test_a_log_takes_the_place_of_that_of_a_killed_training(tmp_path: Path) -> None:
    """The later one begins from the first step again."""
    pytest.importorskip("tensorboard")
    for end, value in ((5, 1.0), (3, 2.0)):
        with trackers.opened(("tensorboard",), tmp_path, "one", {}) as write:
            for step in range(1, end + 1):
                write(step, {"fvu": value})
    assert tensorboard_log(tmp_path / "tensorboard") == {"sae/fvu": [(s, 2.0) for s in (1, 2, 3)]}


def test_nothing_is_written_that_is_not_asked_for(
    tmp_path: Path, activations_artifact: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(trackers.VARIABLE, raising=False)
    trained(tmp_path, activations_artifact)
    assert not (tmp_path / "logs").exists()


def test_what_can_not_be_logged_to_is_said_before_the_work(
    root: DataRoot, activations_artifact: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(trackers.VARIABLE, "tensorbored")
    with pytest.raises(ConfigError, match="names 'tensorbored'; it may name tensorboard, wandb"):
        stage.train(root, CONFIG, activations=activations_artifact, device="cpu")
    monkeypatch.setenv(trackers.VARIABLE, "wandb")
    monkeypatch.setattr(trackers, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"'wandb', which is not installed; pip install 'decon"):
        trackers.wanted()
