"""Reading recorded activations back: in shuffled batches for training, or in order.

The shuffled order is a pure function of (seed, epoch, step). In each epoch the row groups are
permuted, dealt into pools of about `POOL_ROWS` rows (all of the split, where that fits
`POOL_BYTES`), and the rows of each pool are permuted; batches are cut from that sequence, and an
epoch's last one goes on into the next. Every row is used once an epoch. Documents were laid out
at random when the shards were written, so even a single pool is a random sample of the split.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property
from itertools import accumulate

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deconstruct.artifact import Artifact
from deconstruct.errors import DataError
from deconstruct.shards import Moments, Rows, ShardFile

POOL_BYTES = 1 << 30
"""A pool takes at most this much memory as float32; two pools are held at a time."""


class Block(Rows):
    """Some rows and their activations, float32 [rows, d_in]."""

    activation: Tensor

    def __init__(self, rows: Rows, activation: Tensor) -> None:
        super().__init__(rows.token_index, rows.doc_id, rows.position, rows.token_id)
        object.__setattr__(self, "activation", activation)


class ActivationReader:
    """One split (``train`` or ``test``) of an activations artifact."""

    def __init__(self, artifact: Artifact, split: str = "train") -> None:
        """Read the shards' footers. Raises ``StorageError`` if one can't be read, ``DataError``
        if the split has none."""
        self.artifact = artifact
        self.split = split
        self.shards = [ShardFile(path) for path in artifact.files(f"{split}-*.parquet")]
        if not self.shards:
            raise DataError(f"{artifact.path} has no shards of split {split!r}")
        self.d_in = self.shards[0].d_in
        self.groups = [(s, g) for s in self.shards for g in range(len(s.group_rows))]
        self.group_rows = np.array([n for s in self.shards for n in s.group_rows])
        self.rows = int(self.group_rows.sum())

    @cached_property
    def moments(self) -> Moments:
        """Mean and variance of the train rows, float64 [d_in]."""
        rows = int(self.artifact.facts["train_rows"])
        return Moments.load(self.artifact.file("moments.safetensors"), rows)

    def batches(self, batch_size: int, seed: int, pool_bytes: int = POOL_BYTES) -> BatchSource:
        """Shuffled batches of ``batch_size`` rows, without end. Raises ``DataError``."""
        if batch_size > self.rows:
            raise DataError(
                f"sae.batch_size = {batch_size} is more than the {self.rows} recorded tokens of "
                f"split {self.split!r}; lower it, or record more text"
            )
        return BatchSource(self, batch_size, seed, max(1, pool_bytes // (4 * self.d_in)))

    def rows_in_order(self) -> Iterator[Block]:
        """Every row, a row group at a time, shard after shard."""
        for shard, group in self.groups:
            yield Block(*shard.block(group))


class BatchSource:
    """Batches by step number, so that resuming is a seek. Not thread-safe."""

    def __init__(self, reader: ActivationReader, batch_size: int, seed: int, pool_rows: int):
        self.reader = reader
        self.batch_size = batch_size
        self.seed = seed
        self.pool_rows = pool_rows
        self._plans: OrderedDict[int, _Epoch] = OrderedDict()
        self._pools: OrderedDict[tuple[int, int], Future[Tensor]] = OrderedDict()
        self._loader = ThreadPoolExecutor(1, "pool-loader")
        self._gatherer = ThreadPoolExecutor(1, "batch-gatherer")
        self._next: tuple[int, Future[Tensor]] | None = None

    def at(self, step: int) -> Tensor:
        """The batch of ``step`` (0, 1, ...): float32 [batch_size, d_in].

        The next step's batch is gathered on another thread meanwhile.
        """
        if self._next is not None and self._next[0] == step:
            batch = self._next[1].result()
        else:
            if self._next is not None:
                self._next[1].result()
            batch = self._gather(step)
        self._next = (step + 1, self._gatherer.submit(self._gather, step + 1))
        return batch

    def close(self) -> None:
        """End the threads; pools are freed."""
        self._gatherer.shutdown(wait=True, cancel_futures=True)
        self._loader.shutdown(wait=True, cancel_futures=True)
        self._pools.clear()

    def _gather(self, step: int) -> Tensor:
        batch = torch.empty(self.batch_size, self.reader.d_in)
        filled = 0
        while filled < self.batch_size:
            epoch, place = divmod(step * self.batch_size + filled, self.reader.rows)
            plan = self._plan(epoch)
            pool = int(np.searchsorted(plan.starts, place, side="right")) - 1
            offset = place - plan.starts[pool]
            count = min(self.batch_size - filled, plan.starts[pool + 1] - place)
            rows = plan.order(pool)[offset : offset + count]
            out = batch[filled : filled + count]
            torch.index_select(self._pool(epoch, pool), 0, torch.from_numpy(rows), out=out)
            filled += count
        return batch

    def _plan(self, epoch: int) -> _Epoch:
        if epoch not in self._plans:
            self._plans[epoch] = _Epoch(self.reader.group_rows, self.seed, epoch, self.pool_rows)
            while len(self._plans) > 2:
                self._plans.popitem(last=False)
        return self._plans[epoch]

    def _pool(self, epoch: int, pool: int) -> Tensor:
        """Rows of a pool, in the order of its row groups; the pool after it is loaded meanwhile."""
        if self._plan(epoch).whole:
            epoch = pool = 0  # the same rows in every epoch, decoded once
        elif pool + 1 < len(self._plan(epoch).pools):
            self._load(epoch, pool + 1)
        else:
            self._load(epoch + 1, 0)
        rows = self._load(epoch, pool).result()
        while len(self._pools) > 2:
            self._pools.popitem(last=False)
        return rows

    def _load(self, epoch: int, pool: int) -> Future[Tensor]:
        key = (epoch, pool)
        if key not in self._pools:
            groups = self._plan(epoch).pools[pool]
            self._pools[key] = self._loader.submit(self._decode, groups)
        self._pools.move_to_end(key)
        return self._pools[key]

    def _decode(self, groups: NDArray[np.int64]) -> Tensor:
        ends = [0, *accumulate(int(self.reader.group_rows[g]) for g in groups)]
        rows = torch.empty(ends[-1], self.reader.d_in)
        for place, group in enumerate(groups):
            shard, own = self.reader.groups[group]
            rows[ends[place] : ends[place + 1]] = shard.activation(own)
        return rows


class _Epoch:
    """The order of one epoch: pools of row groups, and the permutation of each pool's rows."""

    def __init__(self, group_rows: NDArray[np.int64], seed: int, epoch: int, pool_rows: int):
        self.key = (seed, epoch)
        self.whole = int(group_rows.sum()) <= pool_rows
        order = np.arange(len(group_rows))
        if not self.whole:
            np.random.default_rng([seed, epoch, 0]).shuffle(order)
        filled = np.cumsum(group_rows[order])
        pool_of = (filled - 1) // pool_rows if not self.whole else np.zeros_like(filled)
        cuts = np.flatnonzero(np.diff(pool_of)) + 1
        self.pools = np.split(order, cuts)
        sizes = [int(group_rows[pool].sum()) for pool in self.pools]
        self.starts = np.array([0, *accumulate(sizes)])
        self._order: tuple[int, NDArray[np.int64]] | None = None

    def order(self, pool: int) -> NDArray[np.int64]:
        """Permutation of the rows of a pool."""
        if self._order is None or self._order[0] != pool:
            rows = int(self.starts[pool + 1] - self.starts[pool])
            shuffled = np.random.default_rng([*self.key, 1 + pool]).permutation(rows)
            self._order = (pool, shuffled)
        return self._order[1]
