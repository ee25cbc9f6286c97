"""What stands in for a reconstruction that knows little, fitted on train rows alone.

One pass over the train rows gives the median distance from their mean, the mean of each token's
rows, the principal components, and how often each token is there.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deconstruct.activations.reader import ActivationReader
from deconstruct.common.cores import each_on_one_thread
from deconstruct.common.progress import track

COMPONENTS = 128
FIT_ROWS = 1 << 19
"""Train rows that are fitted on, at most: row groups drawn evenly over all of them. Documents are
laid out at random, so that each group is a sample of the split; memory and time have a bound."""


@dataclass(frozen=True)
class Floors:
    """What was fitted.

    rows: how many it was fitted on. median_distance: of |x - mean|^2, mean [d] float64 that of all
    train rows. ids: int64 [n], ascending, the tokens that were asked for, and ``lookup``, float32
    [n, d], the mean of each one's rows. components: float32 [k, d], orthonormal. unigram: float64
    [vocabulary], log probabilities.
    """

    rows: int
    mean: NDArray[np.float64]
    median_distance: float
    ids: NDArray[np.int64]
    lookup: Tensor
    components: Tensor
    unigram: NDArray[np.float64]

    def to(self, device: str) -> _OnDevice:
        """The reconstructions, on a device."""
        mean = torch.from_numpy(self.mean).float().to(device)
        components = self.components.to(device)
        ids = torch.from_numpy(self.ids).to(device)
        return _OnDevice(mean, ids, self.lookup.to(device), components)


@dataclass(frozen=True)
class _OnDevice:
    mean: Tensor
    ids: Tensor
    lookup: Tensor
    components: Tensor

    def constant(self, x: Tensor) -> Tensor:
        """The train mean for each of x: [n, d]."""
        return self.mean.expand(len(x), -1)

    def by_token(self, ids: Tensor) -> Tensor:
        """The mean of each token's train rows: ids int64 [n] of those asked for -> [n, d]."""
        return self.lookup[torch.searchsorted(self.ids, ids)]

    def projected(self, x: Tensor) -> Tensor:
        """x [n, d] on the principal components about the mean."""
        centred = x.float() - self.mean
        return centred @ self.components.T @ self.components + self.mean


@dataclass(frozen=True)
class _Part:
    """What one row group adds. gram: float64 [d, d], of rows about the mean. own: which of the
    wanted ids it has, [n]; seen, sums: how many rows of each, [n], and their sums, [n, d]."""

    distances: NDArray[np.float64]
    gram: NDArray[np.float64]
    own: NDArray[np.int64]
    seen: NDArray[np.int64]
    sums: NDArray[np.float64]
    token_ids: NDArray[np.int64]


def fit(reader: ActivationReader, ids: NDArray[np.int64], vocabulary: int, device: str) -> Floors:
    """Fit on the rows of ``reader``, of the train split. ids: ascending, the tokens whose means are
    wanted. vocabulary: how many tokens the model gives a logit.

    Memory: two [d, d] a core in float64, and [len(ids), d]. Sums are taken in the order of the
    rows, whatever the number of cores.
    """
    mean, groups = reader.moments.mean, _drawn(len(reader.groups), reader.rows)
    total = sum(int(reader.group_rows[group]) for group in groups)
    gram = np.zeros((reader.d_in, reader.d_in))
    sums, seen = np.zeros((len(ids), reader.d_in)), np.zeros(len(ids), np.int64)
    counts = np.zeros(vocabulary, np.int64)
    distances = []
    with track("fitting", total, "tokens") as advance:
        for part in _parts(reader, groups, ids, device):
            distances.append(part.distances)
            gram += part.gram
            sums[part.own] += part.sums
            seen[part.own] += part.seen
            counts += np.bincount(part.token_ids, minlength=vocabulary)
            advance(len(part.token_ids))
    known = seen > 0
    lookup = np.where(known[:, None], sums / np.maximum(seen, 1)[:, None], 0) + mean
    largest = np.linalg.eigh(gram)[1][:, ::-1][:, :COMPONENTS]
    return Floors(
        rows=total,
        mean=mean,
        median_distance=float(np.median(np.concatenate(distances))),
        ids=ids,
        lookup=torch.from_numpy(lookup).float(),
        components=torch.from_numpy(np.ascontiguousarray(largest.T)).float(),
        unigram=witten_bell(counts),
    )


def witten_bell(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Log probabilities of tokens that were counted: [vocabulary] both.

    Of T different tokens among N, those never seen share T / (N + T) evenly (Witten and Bell 1991,
    their method C), so that no loss is infinite.
    """
    there = counts > 0
    kinds, unseen = int(there.sum()), int((~there).sum())
    weight = counts.astype(np.float64)
    if unseen:
        weight[~there] = kinds / unseen
    return np.asarray(np.log(weight / weight.sum()))


def _drawn(groups: int, rows: int) -> list[int]:
    """Row groups that are fitted on: all, or as many as `FIT_ROWS` lets in, evenly over them."""
    if rows <= FIT_ROWS:
        return list(range(groups))
    some = max(1, groups * FIT_ROWS // rows)
    return sorted({int(place) for place in np.linspace(0, groups - 1, some).round()})


def _parts(
    reader: ActivationReader, groups: list[int], ids: NDArray[np.int64], device: str
) -> Iterator[_Part]:
    """What each group adds, in their order; several are worked on at once on a CPU."""
    centre = torch.from_numpy(reader.moments.mean).to(device)

    @torch.inference_mode()
    def part(numbered: tuple[int, int]) -> tuple[int, _Part]:
        number, group = numbered
        block = reader.groups[group].block()
        centred = block.activation.to(device).double() - centre
        narrow = centred.float()
        token_ids = block.token_id.astype(np.int64)
        wanted = np.isin(token_ids, ids)
        own, place = np.unique(np.searchsorted(ids, token_ids[wanted]), return_inverse=True)
        sums = np.zeros((len(own), reader.d_in))
        added = centred.cpu()[torch.from_numpy(wanted)]
        # On a CPU in the order of the rows.
        torch.from_numpy(sums).index_add_(0, torch.from_numpy(place), added)
        return number, _Part(
            distances=centred.square().sum(1).cpu().numpy(),
            gram=(narrow.T @ narrow).double().cpu().numpy(),
            own=own,
            seen=np.bincount(place, minlength=len(own)),
            sums=sums,
            token_ids=token_ids,
        )

    work = each_on_one_thread if device == "cpu" else map
    yield from _in_order(work(part, enumerate(groups)))


def _in_order(numbered: Iterable[tuple[int, _Part]]) -> Iterator[_Part]:
    waiting: dict[int, _Part] = {}
    following = 0
    for number, part in numbered:
        waiting[number] = part
        while following in waiting:
            yield waiting.pop(following)
            following += 1
