"""Shuffled batches: a pure function of (seed, epoch, step) over the whole split."""

import itertools
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from deconstruct.activations.reader import ActivationReader
from deconstruct.activations.shards import Rows, write
from deconstruct.artifacts import Artifact, DataRoot, Draft, Recipe
from deconstruct.common.errors import DataError, StorageError

D_IN = 3
SIZES = (40_000, 17_000, 9_001)


def make_artifact(root: Path, storage: str = "float32") -> Artifact:
    """Rows whose first value is their number: 0 .. 66000, in three shards and six row groups."""

    def fill(draft: Draft) -> None:
        first = 0
        for shard, size in enumerate(SIZES):
            index = np.arange(first, first + size)
            rows = Rows(
                index.astype(np.uint64),
                (index // 7).astype(np.uint32),
                (index % 7).astype(np.uint32),
                (index % 11).astype(np.uint32),
            )
            values = torch.from_numpy(index).float()[:, None].repeat(1, D_IN)
            with draft.writing(f"train-{shard:05d}.parquet") as path:
                write(path, rows, values, storage)
            first += size

    return DataRoot(root).make(Recipe("activations", 1, {"storage": storage}, {}), fill)


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return make_artifact(tmp_path_factory.mktemp("reader"))


SMALL_POOL = 4 * D_IN * 20_000
WHOLE = 1 << 30


@pytest.mark.parametrize("pool_bytes", [SMALL_POOL, WHOLE])
def test_an_epoch_uses_every_row_once_and_epochs_differ(
    artifact: Artifact, pool_bytes: int
) -> None:
    source = ActivationReader(artifact).batches(1000, seed=3, pool_bytes=pool_bytes)
    rows = sum(SIZES)
    drawn = torch.cat([source.at(step)[:, 0] for step in range(2 * rows // 1000 + 1)])
    epochs = [drawn[:rows].int(), drawn[rows : 2 * rows].int()]
    for epoch in epochs:
        assert torch.equal(epoch.sort().values, torch.arange(rows, dtype=torch.int32))
    assert (epochs[0] == epochs[1]).float().mean() < 0.01
    # The first batch reaches over shards: it is no run of neighbours.
    assert (epochs[0][:1000].diff().abs() == 1).float().mean() < 0.05
    source.close()


@pytest.mark.parametrize("pool_bytes", [SMALL_POOL, WHOLE])
def test_a_step_does_not_depend_on_the_steps_before_it(artifact: Artifact, pool_bytes: int) -> None:
    reader = ActivationReader(artifact)
    straight = reader.batches(777, seed=1, pool_bytes=pool_bytes)
    batches = {step: straight.at(step) for step in range(180)}
    jumping = reader.batches(777, seed=1, pool_bytes=pool_bytes)
    for step in (170, 3, 4, 90, 84, 85, 179, 0):
        assert torch.equal(jumping.at(step), batches[step])
    other = reader.batches(777, seed=2, pool_bytes=pool_bytes)
    assert not torch.equal(other.at(0), batches[0])


def test_pools_hold_no_more_than_they_may(artifact: Artifact) -> None:
    source = ActivationReader(artifact).batches(1000, seed=0, pool_bytes=SMALL_POOL)
    for step in range(70):
        source.at(step)
        assert source._next is not None
        source._next[1].result()  # the thread that gathers the next batch is at rest
        assert len(source._pools) <= 2
        held = [pool.result().rows for pool in source._pools.values()]
        assert max(len(pool) for pool in held) <= 20_000 + 16_384


def test_rows_in_order_and_both_storages(artifact: Artifact, tmp_path: Path) -> None:
    for reader in (
        ActivationReader(artifact),
        ActivationReader(make_artifact(tmp_path, "bfloat16")),
    ):
        blocks = list(reader.rows_in_order())
        index = np.concatenate([block.token_index for block in blocks])
        assert np.array_equal(index, np.arange(sum(SIZES)))
        values = torch.cat([block.activation for block in blocks])
        expected = torch.arange(sum(SIZES)).float()
        if reader.shards[0].raw:
            expected = expected.bfloat16().float()
        assert torch.equal(values[:, 2], expected)
        assert all(len(block) == len(block.activation) for block in blocks)


def test_a_flipped_byte_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    artifact = make_artifact(tmp_path)
    path = artifact.file("train-00001.parquet")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x40
    path.write_bytes(data)
    with pytest.raises(StorageError, match=r"train-00001\.parquet can't be read .*delete it"):
        list(ActivationReader(artifact).rows_in_order())


def test_shards_are_open_only_while_they_are_read(artifact: Artifact) -> None:
    """A store of a hundred million tokens has three thousand of them."""
    shard_files = {str(path) for path in artifact.files("*.parquet")}
    reader = ActivationReader(artifact)
    source = reader.batches(1000, seed=0)
    source.at(0)
    rows = reader.rows_in_order()
    next(rows)
    held = {os.path.realpath(path) for path in Path("/proc/self/fd").iterdir()}
    assert len(shard_files) == len(SIZES)
    assert not shard_files & held
    source.close()


def test_a_batch_larger_than_the_split_is_refused(artifact: Artifact) -> None:
    with pytest.raises(DataError, match=r"sae\.batch_size = 70000 is more than the 66001 recorded"):
        ActivationReader(artifact).batches(70_000, seed=0)
    with pytest.raises(DataError, match="no shards of split 'test'"):
        ActivationReader(artifact, "test")


def test_batches_mix_documents_as_chance_would(artifact: Artifact) -> None:
    """Seven rows per document: pairs of one document in a batch are as rare as in a fair draw."""
    source = ActivationReader(artifact).batches(1000, seed=5)
    pairs = 0
    for step in range(60):
        documents = (source.at(step)[:, 0].int() // 7).tolist()
        counts = [len(list(group)) for _, group in itertools.groupby(sorted(documents))]
        pairs += sum(n * (n - 1) // 2 for n in counts)
    expected = 60 * (1000 * 999 / 2) * (6 / (sum(SIZES) - 1))
    assert pairs == pytest.approx(expected, rel=0.1)


def test_held_out_documents_are_whole_and_apart(activations_artifact: Artifact) -> None:
    reader = ActivationReader(activations_artifact)
    trained, kept = reader.hold_out(0.2)
    sides = [np.concatenate([part.doc_id() for part in side.groups]) for side in (trained, kept)]
    assert not set(sides[0].tolist()) & set(sides[1].tolist())
    assert len(sides[0]) + len(sides[1]) == reader.rows == trained.rows + kept.rows
    assert kept.rows == pytest.approx(0.2 * reader.rows, rel=0.2)
    whole = torch.cat([trained.whole(), kept.whole()])
    assert torch.equal(whole, reader.whole())
    blocks = torch.cat([block.activation for block in kept.rows_in_order()])
    assert torch.equal(blocks, kept.whole())
    with pytest.raises(DataError, match="held_out_share = 1e-06"):
        reader.hold_out(1e-6)
