"""Reading recorded activations back: in shuffled batches for training, or in order.

The shuffled order is a pure function of (seed, epoch, step). In each epoch the row groups are
permuted, dealt into pools of about `POOL_ROWS` rows (all of the split, where that fits
`POOL_BYTES`), and the rows of each pool are permuted; batches are cut from that sequence, and an
epoch's last one goes on into the next. Every row is used once an epoch. Documents were laid out
at random when the shards were written, so even a single pool is a random sample of the split.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from copy import copy
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import accumulate
from threading import Lock
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deconstruct.activations.places import InMemory, Parts, Place, Pool, place_on
from deconstruct.activations.shards import SOURCE_COLUMNS, Moments, Rows, ShardFile
from deconstruct.artifacts import Artifact
from deconstruct.common.errors import DataError

_Key = tuple[int, int]  # an epoch, and a pool of it
_Made = TypeVar("_Made")
POOL_BYTES = 1 << 30
"""A pool takes at most this much memory as float32; two pools are held at a time."""


class Pooled(Protocol):
    """Rows in groups, of which a `BatchSource` has some at a time in memory.

    rows: of all groups. dtype: what holds them exactly. group_rows: int64 [groups].
    """

    rows: int
    d_in: int
    dtype: torch.dtype
    group_rows: NDArray[np.int64]

    def decode(self, groups: NDArray[np.int64], dtype: torch.dtype) -> Tensor:
        """Rows of some groups, one after another: [rows, d_in], float32 or `dtype`."""

    def whole(self, dtype: torch.dtype) -> Tensor:
        """Every row in memory, [rows, d_in]."""


class Block(Rows):
    """Some rows and their activations, float32 [rows, d_in]."""

    activation: Tensor

    def __init__(self, rows: Rows, activation: Tensor) -> None:
        super().__init__(rows.token_index, rows.doc_id, rows.position, rows.token_id)
        object.__setattr__(self, "activation", activation)


@dataclass(frozen=True)
class GroupRows:
    """Some rows of one row group of a shard, in order. chosen: all from one to another, or which,
    int64 [n]. rows: n."""

    shard: ShardFile
    group: int
    chosen: slice | NDArray[np.int64]
    rows: int

    def activation(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """Activations: [n, d_in]."""
        return self.shard.activation(self.group, dtype)[self.chosen]

    def token_index(self) -> NDArray[np.uint64]:
        """Which tokens they are of."""
        return self.shard.column(self.group, "token_index")[self.chosen]

    def doc_id(self) -> NDArray[np.uint32]:
        """Which documents they are of."""
        return self.shard.column(self.group, "doc_id")[self.chosen]

    def block(self) -> Block:
        """The rows whole."""
        rows, activation = self.shard.block(self.group)
        columns = (getattr(rows, name)[self.chosen] for name in SOURCE_COLUMNS)
        return Block(Rows(*columns), activation[self.chosen])

    def where(self, chosen: NDArray[np.bool_]) -> GroupRows:
        """Those of its rows that are chosen; chosen: [n]."""
        places = np.arange(self.shard.group_rows[self.group])[self.chosen][chosen]
        if len(places) and places[-1] - places[0] + 1 == len(places):
            return GroupRows(
                self.shard, self.group, slice(int(places[0]), int(places[-1]) + 1), len(places)
            )
        return GroupRows(self.shard, self.group, places, len(places))


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
        self.dtype = torch.bfloat16 if all(one.raw for one in self.shards) else torch.float32
        self._threads = torch.get_num_threads()  # the reader's may be another thread with fewer
        parts = ((s, g, n) for s in self.shards for g, n in enumerate(s.group_rows))
        self._take([GroupRows(s, g, slice(0, n), n) for s, g, n in parts])

    def _take(self, groups: list[GroupRows]) -> None:
        self._whole: dict[torch.dtype, Tensor] = {}
        self._decoding = Lock()
        self.groups = groups
        self.group_rows = np.array([part.rows for part in groups])
        self.rows = int(self.group_rows.sum())

    def hold_out(self, share: float) -> tuple[ActivationReader, ActivationReader]:
        """The rows but for about ``share`` of them, and those: the last documents as they lie.

        Documents were laid out at random, and none is on both sides; of one whose windows lie
        apart, the first says where it lies. Raises ``DataError`` if a side is left empty.
        """
        doc_id = np.concatenate([part.doc_id() for part in self.groups])
        runs = doc_id[np.concatenate([[0], np.flatnonzero(np.diff(doc_id)) + 1])]
        found, first = np.unique(runs, return_index=True)
        in_order = found[np.argsort(first)]
        ends = np.cumsum(np.bincount(doc_id)[in_order])
        cut = 1 + int(np.searchsorted(ends[:-1], (1 - share) * self.rows))
        if cut == len(in_order):
            raise DataError(
                f"sae.held_out_share = {share} of split {self.split!r} is less than its last "
                "document; raise it, or record more text"
            )
        held_out = np.zeros(int(doc_id.max()) + 1, np.bool_)
        held_out[in_order[cut:]] = True
        sides: tuple[list[GroupRows], list[GroupRows]] = ([], [])
        for part in self.groups:
            apart = held_out[part.doc_id()]
            for side, chosen in zip(sides, (~apart, apart), strict=True):
                if chosen.any():
                    side.append(part.where(chosen))
        views = (copy(self), copy(self))
        for view, parts in zip(views, sides, strict=True):
            view._take(parts)
        return views

    def whole(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """Every row in memory, [rows, d_in]: decoded once, whoever asks."""
        with self._decoding:
            if dtype not in self._whole:
                self._whole[dtype] = self.decode(np.arange(len(self.groups)), dtype)
            return self._whole[dtype]

    def decode(self, groups: NDArray[np.int64], dtype: torch.dtype = torch.float32) -> Tensor:
        """Rows of some groups, one after another: [rows, d_in]."""
        ends = [0, *accumulate(int(self.group_rows[g]) for g in groups)]
        rows = torch.empty(ends[-1], self.d_in, dtype=dtype)
        into = _plain(rows)

        def fill(place: int) -> None:
            activation = self.groups[groups[place]].activation(dtype)
            into[ends[place] : ends[place + 1]] = _plain(activation)

        with ThreadPoolExecutor(self._threads, "row-group") as pool:
            for _ in pool.map(fill, range(len(groups))):
                pass
        return rows

    @property
    def facts(self) -> Mapping[str, Any]:
        """Those of the artifact: site, model, sizes."""
        return self.artifact.facts

    @cached_property
    def moments(self) -> Moments:
        """Mean and variance of the train rows, float64 [d_in]."""
        rows = int(self.artifact.facts["train_rows"])
        return Moments.load(self.artifact.file("moments.safetensors"), rows)

    def batches(
        self,
        batch_size: int,
        seed: int,
        pool_bytes: int = POOL_BYTES,
        beside: Pooled | None = None,
        steps: int | None = None,
        device: str = "cpu",
    ) -> BatchSource:
        """Shuffled batches of ``batch_size`` rows, without end. Raises ``DataError``.

        beside: a reader of the same rows at another site (`check_rows`), whose batches, given
        this one in turn, hold the same rows in the same order. steps: how many are asked for;
        nothing is read ahead of the last. device: where batches are wanted; no row depends on it.
        """
        check_batch_size(batch_size, self.rows, self.split)
        width = max(self.d_in, beside.d_in) if beside else self.d_in
        place = place_on(device, self.d_in, self.dtype, batch_size)
        rows = max(1, pool_bytes // (4 * width))
        return BatchSource(self, batch_size, seed, rows, steps, place=place)

    def check_rows(self, other: ActivationReader) -> None:
        """Raise ``DataError`` unless the other holds the same tokens, row for row."""
        pairs = zip(self.groups, other.groups, strict=False)
        if not np.array_equal(self.group_rows, other.group_rows) or any(
            not np.array_equal(ours.token_index(), theirs.token_index()) for ours, theirs in pairs
        ):
            raise DataError(
                f"{self.artifact.path} and {other.artifact.path} do not hold the same tokens in "
                "the same order; extract both sites in one run, from one corpus"
            )

    def rows_in_order(self) -> Iterator[Block]:
        """Every row, a row group at a time, shard after shard."""
        for part in self.groups:
            yield part.block()


def check_batch_size(batch_size: int, rows: int, split: str) -> None:
    """Raise ``DataError`` for a batch that a split can't fill."""
    if batch_size > rows:
        raise DataError(
            f"sae.batch_size = {batch_size} is more than the {rows} recorded tokens of "
            f"split {split!r}; lower it, or record more text"
        )


def _plain(rows: Tensor) -> NDArray[Any]:
    """The same memory; of bfloat16, which numpy has not, as bits."""
    bits: NDArray[Any] = (rows.view(torch.int16) if rows.dtype == torch.bfloat16 else rows).numpy()
    return bits


class BatchSource:
    """Batches by step number, so that resuming is a seek. Not thread-safe.

    steps: see `ActivationReader.batches`. ahead: how many pools are loaded before they are needed;
    with none, nothing happens between two calls of `at`. place: where batches are made; None: in
    memory, for a CPU.
    """

    def __init__(
        self,
        reader: Pooled,
        batch_size: int,
        seed: int,
        pool_rows: int,
        steps: int | None = None,
        ahead: int = 1,
        place: Place | None = None,
    ) -> None:
        self.reader = reader
        self.batch_size = batch_size
        self.seed = seed
        self.pool_rows = pool_rows
        self.steps, self.ahead = steps, ahead
        self._place = InMemory(reader.d_in) if place is None else place
        self._plans: OrderedDict[int, _Epoch] = OrderedDict()
        self._pools: dict[_Key, Future[Pool]] = {}
        self._orders: dict[_Key, Future[NDArray[np.int64]]] = {}
        self._loader = ThreadPoolExecutor(1, "pool-loader")
        self._gatherer = ThreadPoolExecutor(1, "batch-gatherer")
        self._next: tuple[int, Future[Callable[[], Tensor]]] | None = None

    def at(self, step: int) -> Tensor:
        """The batch of ``step`` (0, 1, ...): [batch_size, d_in], float32 on the CPU, and on another
        device in the precision that the rows are stored in.

        The next step's batch is gathered on another thread meanwhile.
        """
        if self._next is not None and self._next[0] == step:
            batch = self._next[1].result()
        else:
            if self._next is not None:
                self._next[1].result()
            batch = self._gather(step)
        self._next = None
        if self.ahead and self._within(step + 1):
            self._next = (step + 1, self._gatherer.submit(self._gather, step + 1))
        return batch()

    def close(self) -> None:
        """End the threads; pools are freed."""
        self._gatherer.shutdown(wait=True, cancel_futures=True)
        self._loader.shutdown(wait=True, cancel_futures=True)
        self._pools.clear()
        self._orders.clear()

    def _gather(self, step: int) -> Callable[[], Tensor]:
        return self._place.batch(self.batch_size, self._parts(step))

    def _parts(self, step: int) -> Parts:
        filled = 0
        while filled < self.batch_size:
            epoch, place = divmod(step * self.batch_size + filled, self.reader.rows)
            plan = self._plan(epoch)
            pool = int(np.searchsorted(plan.starts, place, side="right")) - 1
            offset = place - plan.starts[pool]
            count = min(self.batch_size - filled, plan.starts[pool + 1] - place)
            order = self._order(epoch, pool)
            yield self._pool(epoch, pool), order[offset : offset + count]
            filled += count

    def _plan(self, epoch: int) -> _Epoch:
        if epoch not in self._plans:
            self._plans[epoch] = _Epoch(self.reader.group_rows, self.seed, epoch, self.pool_rows)
            while len(self._plans) > 2:
                self._plans.popitem(last=False)
        return self._plans[epoch]

    def _within(self, step: int) -> bool:
        return self.steps is None or step < self.steps

    def _order(self, epoch: int, pool: int) -> NDArray[np.int64]:
        """Permutation of a pool's rows; those of the pools after it are drawn meanwhile."""

        def draw(epoch: int, pool: int) -> Callable[[], NDArray[np.int64]]:
            return partial(self._plan(epoch).order, pool)

        return self._begun(self._orders, self._wanted(epoch, pool), draw)

    def _pool(self, epoch: int, pool: int) -> Pool:
        """Rows of a pool, in the order of its row groups; those after it are loaded meanwhile."""
        whole = self._plan(epoch).whole
        # The same rows in every epoch are decoded once.
        wanted = [(0, 0)] if whole else self._wanted(epoch, pool)

        def load(epoch: int, pool: int) -> Callable[[], Pool]:
            groups, place = self._plan(epoch).pools[pool], self._place
            decode = self.reader.whole if whole else partial(self.reader.decode, groups)
            return lambda: place.pool(decode(place.dtype))

        return self._begun(self._pools, wanted, load)

    def _wanted(self, epoch: int, pool: int) -> list[_Key]:
        """A pool and those after it that are needed ahead."""
        wanted = [(epoch, pool)]
        while len(wanted) <= self.ahead and (after := self._after(*wanted[-1])) is not None:
            wanted.append(after)
        return wanted

    def _begun(
        self,
        held: dict[_Key, Future[_Made]],
        wanted: list[_Key],
        begin: Callable[[int, int], Callable[[], _Made]],
    ) -> _Made:
        """The first of what is wanted; all of that is begun, and nothing else is held."""
        for passed in [key for key in held if key not in wanted]:
            del held[passed]  # first, so that it makes room
        for key in wanted:
            if key not in held:
                held[key] = self._loader.submit(begin(*key))
        return held[wanted[0]].result()

    def _after(self, epoch: int, pool: int) -> tuple[int, int] | None:
        """The pool after this one; None: no step takes a row of it."""
        last = pool + 1 == len(self._plan(epoch).pools)
        after = (epoch + 1, 0) if last else (epoch, pool + 1)
        first = after[0] * self.reader.rows + int(self._plan(after[0]).starts[after[1]])
        return after if self._within(first // self.batch_size) else None


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

    def order(self, pool: int) -> NDArray[np.int64]:
        """Permutation of the rows of a pool."""
        rows = int(self.starts[pool + 1] - self.starts[pool])
        return np.random.default_rng([*self.key, 1 + pool]).permutation(rows)
