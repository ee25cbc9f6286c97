"""Batches are the same wherever pools lie, on a device that works as late as it may."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from support.late import Late
from torch import Tensor

from deconstruct.activations import places
from deconstruct.activations.lane import Lane, Sender
from deconstruct.activations.places import OnDevice
from deconstruct.activations.reader import ActivationReader, BatchSource
from deconstruct.activations.shards import Rows, write
from deconstruct.artifacts import Artifact, DataRoot, Draft, Recipe

BATCH = 450  # of three or four small pools
STEPS = [*range(11), 3, 4, 19, 0, 1]  # an epoch is five steps; then back and forth
SMALL, WHOLE = 200, 10_000  # rows of a pool
ROOM = {"on the device": 1 << 40, "on the host": 0}


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> dict[torch.dtype, Artifact]:
    """One artifact for each storage: 2,200 rows in eleven groups."""
    folder = tmp_path_factory.mktemp("places")
    return {
        torch.float32: written(folder / "float32", "float32"),
        torch.bfloat16: written(folder / "bfloat16", "bfloat16"),
    }


def written(folder: Path, storage: str) -> Artifact:
    def fill(draft: Draft) -> None:
        draw = torch.Generator().manual_seed(0)
        for shard in range(11):
            index = np.arange(200 * shard, 200 * (shard + 1), dtype=np.uint64)
            columns = Rows(index, *[(index // 7).astype(np.uint32)] * 3)
            with draft.writing(f"train-{shard:05d}.parquet") as path:
                write(path, columns, 3 * torch.randn(200, 5, generator=draw) + 1, storage)

    return DataRoot(folder).make(Recipe("activations", 1, {"storage": storage}, {}), fill)


def sources(
    reader: ActivationReader, pool_rows: int, room: int, lane: Lane, ahead: int = 1
) -> tuple[BatchSource, BatchSource]:
    """Batches made in memory, and those of a device."""
    place = OnDevice(lane, reader.d_in, reader.dtype, BATCH, room)
    return (
        BatchSource(reader, BATCH, 3, pool_rows, None, ahead),
        BatchSource(reader, BATCH, 3, pool_rows, None, ahead, place),
    )


@pytest.mark.parametrize("room", ROOM)
@pytest.mark.parametrize("pool_rows", [SMALL, WHOLE])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_batches_do_not_depend_on_where_pools_lie(
    rows: dict[torch.dtype, Artifact],
    monkeypatch: pytest.MonkeyPatch,
    dtype: torch.dtype,
    pool_rows: int,
    room: str,
) -> None:
    """Over several epochs and back; with a thread that reads ahead, and without; pools sent in many
    parts."""
    monkeypatch.setattr(places, "PART_BYTES", 400)
    reader = ActivationReader(rows[dtype])
    assert reader.dtype == dtype
    for lane, ahead in ((Lane(), 1), (Late(), 1), (Late(), 0)):
        here, there = sources(reader, pool_rows, ROOM[room], lane, ahead)
        for step in STEPS:
            expected, batch = here.at(step), there.at(step)
            assert batch.dtype == dtype
            assert torch.equal(batch.float(), expected), step
        here.close()
        there.close()


@pytest.mark.parametrize("room", ROOM)
def test_a_buffer_that_is_filled_too_early_would_be_seen(
    rows: dict[torch.dtype, Artifact], room: str
) -> None:
    """The test above can fail: here the host fills buffers before copies out of them have ended."""
    reader = ActivationReader(rows[torch.float32])
    here, there = sources(reader, SMALL, ROOM[room], Late(careless=True))
    wrong = [step for step in range(11) if not torch.equal(there.at(step), here.at(step))]
    assert len(wrong) > 3


def test_each_batch_is_given_once_and_few_are_given_ahead(
    rows: dict[torch.dtype, Artifact],
) -> None:
    """So the allocator knows who reads it, and the host does not run away from the device."""
    lane = Late()
    _, there = sources(ActivationReader(rows[torch.bfloat16]), SMALL, 1 << 40, lane)
    batches = [there.at(step) for step in range(30)]
    assert [id(batch) for batch in batches] == [id(batch) for batch in lane.given]
    assert lane.waited == 30 - places.MOST_GIVEN


def test_two_buffers_take_turns() -> None:
    """While one is copied the other is filled; who fills a third time waits for the first alone."""
    lane = Late()
    sender = Sender(lane, 8)
    into = torch.zeros(4, 2)
    for turn in range(4):
        sender.send(lambda host, turn=turn: host.fill_(turn), into[turn])
        assert into[:, 0].tolist() == [0, 0, 0, 0] if turn < 3 else [0, 1, 0, 0]
    lane.run(4)
    assert into[:, 1].tolist() == [0, 1, 2, 3]


def test_a_pool_that_does_not_fit_stays_on_the_host_and_that_is_said(
    rows: dict[torch.dtype, Artifact],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """By its size, or where the device has less left than it said."""

    class Full(Lane):
        def empty(self, *shape: int, dtype: torch.dtype) -> Tensor:
            if shape[0] == 600:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return super().empty(*shape, dtype=dtype)

    reader = ActivationReader(rows[torch.bfloat16])
    cases: list[tuple[Lane, int, str]] = [(Lane(), 5999, "that it may"), (Full(), 1 << 40, "left")]
    for lane, room, said in cases:
        caplog.clear()
        here, there = sources(reader, 500, room, lane)  # pools of up to 600 rows
        there.steps = 9  # its threads are at rest after them
        assert all(torch.equal(there.at(step).float(), here.at(step)) for step in range(9))
        assert not any(pool.result().there for pool in there._pools.values())
        (message,) = [r.getMessage() for r in caplog.records if "batches come from" in r.msg]
        assert said in message
    _, fits = sources(reader, 500, 6000, Lane())
    fits.at(0)
    assert all(pool.result().there for pool in fits._pools.values())


def test_a_device_that_gives_no_lane_gets_batches_of_the_cpu(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(device: torch.device) -> int:
        raise RuntimeError("operation not supported")

    monkeypatch.setattr(places, "_room", refuse)
    monkeypatch.setattr(places, "_lane", lambda device: Lane())
    assert isinstance(places.place_on("cuda:0", 4, torch.bfloat16, 8), places.InMemory)
    assert "batches are made on the CPU: operation not supported" in caplog.text
    monkeypatch.setattr(places, "_room", lambda device: 100)
    place = places.place_on("cuda:0", 4, torch.bfloat16, 8)
    assert isinstance(place, OnDevice)
    assert place.dtype == torch.bfloat16
    assert isinstance(places.place_on("cpu", 4, torch.bfloat16, 8), places.InMemory)
