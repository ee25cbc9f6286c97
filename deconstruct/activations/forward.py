"""The model over the documents of a shard: what `stage` records, and `window` hands on at once.

On a CPU a pass has documents of one length. On a GPU it has more of them, padded on the right
(`layout.padded_batches`), if the model can be padded (`paddable`): what is recorded is chosen
there, looked at there, and comes to the host as one copy while the next pass is computed
(`landing`).

Which documents a pass has, in which order and padded how far, is a function of the recipe alone, on
either kind of device. Where activations were computed is not part of a key, and what differs by it
is rounding, as between two kinds of GPU.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deconstruct.activations import layout, paddable
from deconstruct.activations.landing import Landing
from deconstruct.activations.layout import Shard, Tokens
from deconstruct.common.cores import each_on_one_thread
from deconstruct.common.errors import ConfigError, DataError
from deconstruct.common.hardware import pick_dtype
from deconstruct.common.site import Site
from deconstruct.model.hooks import Read, check_parts, reading
from deconstruct.model.loading import load
from deconstruct.model.resolve import ResolvedModel

PADS = ("cuda",)
"""Kinds of device on which documents are padded."""

log = logging.getLogger("deconstruct.stages")

Found = tuple[NDArray[np.int64], dict[Site, Tensor]]
"""Of a pass: places among the shard's documents, and what is recorded of them, one after another:
[rows, d_in] on the CPU."""
Advance = Callable[[int], None]


def dtype_name(dtype: torch.dtype) -> str:
    """As configurations write it: ``bfloat16``."""
    return str(dtype).removeprefix("torch.")


class Forward:
    """A loaded model that gives its activations at ``sites``, a shard at a time."""

    def __init__(
        self, model: ResolvedModel, tokens: Tokens, sites: Sequence[Site], device: str
    ) -> None:
        """Raises ``ConfigError`` for a token, a position or a part of a block that the model has
        not. Memory of a GPU beside the model: what a pass of the model takes, and three times its
        activations at the sites; of the host, two pinned copies of those."""
        self.sites, self.device = list(sites), device
        self.dtype = pick_dtype(model.dtype, device)
        self._tokens = tokens
        _check_tokens(model, tokens)
        self._model = load(model, device)
        check_parts(self._model, self.sites)
        self.padded = torch.device(device).type in PADS and self._may_pad()

    def compute(self, shard: Shard, advance: Advance) -> dict[Site, Tensor]:
        """Activations of a shard's rows, site -> [rows, d_in] on the CPU, in document order.

        advance: called with the rows of each batch that is done; with fewer than none where these
        are computed anew, as padded passes found too little memory. Raises ``DataError`` where the
        model gives NaN or infinity.
        """
        if not self.padded:
            return self._computed(shard, self._of_one_length, advance)
        told = 0

        def tell(rows: int) -> None:
            nonlocal told
            told += rows
            advance(rows)

        try:
            return self._computed(shard, self._padded, tell)
        except torch.OutOfMemoryError:  # the check had room: others hold the device's memory now
            self.padded = False
            log.warning(
                "%-12s reads documents of one length at a time from here on: %s has too little "
                "memory left for padded passes", "activations", self.device,
            )  # fmt: skip
        advance(-told)
        return self._computed(shard, self._of_one_length, advance)

    def _computed(
        self, shard: Shard, passes: Callable[[Read, Shard], Iterator[Found]], advance: Advance
    ) -> dict[Site, Tensor]:
        ends = np.cumsum(self._tokens.rows[shard.documents])
        starts = np.concatenate([[0], ends])
        result: dict[Site, Tensor] = {}
        with reading(self._model, self.sites) as read:
            for places, found in passes(read, shard):
                rows = torch.from_numpy(
                    np.concatenate([np.arange(starts[i], ends[i]) for i in places])
                )
                for site, chosen in found.items():
                    if site not in result:
                        result[site] = chosen.new_empty(shard.rows, chosen.shape[1])
                    result[site][rows] = chosen
                advance(len(rows))
        return result

    def _of_one_length(self, read: Read, shard: Shard) -> Iterator[Found]:
        tokens = self._tokens

        def compute(places: NDArray[np.int64]) -> Found:
            documents = shard.documents[places]
            ids = torch.from_numpy(tokens.of(documents)).to(self.device)
            kept = torch.from_numpy(tokens.kept_of(documents))
            found = {site: activation.cpu()[kept] for site, activation in read(ids).items()}
            for site, chosen in found.items():
                if not torch.isfinite(chosen).all():
                    raise self._not_finite(site, documents, kept, chosen)
            return places, found

        on_cpu = self.device == "cpu"
        most = layout.CPU_BATCH_TOKENS if on_cpu else layout.GPU_BATCH_TOKENS
        batches = layout.batches(shard.documents, tokens.lengths, most)
        side_by_side = each_on_one_thread if on_cpu else map
        return side_by_side(compute, batches)

    def _padded(self, read: Read, shard: Shard) -> Iterator[Found]:
        landing = Landing[NDArray[np.int64]](self.device)
        for places in layout.padded_batches(
            shard.documents, self._tokens.lengths, layout.PADDED_TOKENS
        ):
            ids, kept = self._tokens.padded(shard.documents[places])
            chosen = self._sent(np.flatnonzero(kept))
            recorded = [
                activation.flatten(0, 1).index_select(0, chosen)
                for activation in read(self._sent(ids)).values()
            ]
            finite = torch.stack([torch.isfinite(rows).all() for rows in recorded])
            if landing.full:
                yield self._landed(landing, shard)
            landing.send(places, [*recorded, finite])
        while landing:
            yield self._landed(landing, shard)

    def _sent(self, values: NDArray[np.int64]) -> Tensor:
        """On the device, without waiting for what it computes."""
        tensor = torch.from_numpy(values)
        on_gpu = torch.device(self.device).type == "cuda"
        return tensor.pin_memory().to(self.device, non_blocking=True) if on_gpu else tensor

    def _landed(self, landing: Landing[NDArray[np.int64]], shard: Shard) -> Found:
        places, (*recorded, finite) = landing.take()
        for site, rows, whole in zip(self.sites, recorded, finite.tolist(), strict=True):
            if not whole:
                documents = shard.documents[places]
                kept = torch.from_numpy(self._tokens.padded(documents)[1])
                raise self._not_finite(site, documents, kept, rows)
        return places, dict(zip(self.sites, recorded, strict=True))

    def _may_pad(self) -> bool:
        """Whether this model's documents may be padded; why not, is said in the log."""
        with reading(self._model, self.sites) as read:
            fault = paddable.fault(
                self._model, read, self._tokens, layout.PADDED_TOKENS, self.device
            )
        if fault:
            log.warning("%-12s reads documents of one length at a time: %s", "activations", fault)
        return not fault

    def _not_finite(
        self, site: Site, documents: NDArray[np.int64], kept: Tensor, chosen: Tensor
    ) -> DataError:
        first = int((~torch.isfinite(chosen).all(-1)).nonzero()[0])
        place, position = kept.nonzero()[first].tolist()
        return DataError(
            f"activations at site {str(site)!r} are not finite in document "
            f"{self._tokens.document[documents[place]]}, "
            f"position {position} ({dtype_name(self.dtype)}); set model.dtype = 'float32', or "
            "check the model's weights"
        )


def _check_tokens(model: ResolvedModel, tokens: Tokens) -> None:
    largest, rows = int(tokens.ids.max()), model.vocabulary
    if rows is not None and largest >= rows:
        raise ConfigError(
            f"model.name = {model.name!r}: its tokenizer gives texts the token {largest}, "
            f"but its embedding has {rows} rows; take the tokenizer that belongs to the model"
        )
    model.check_length(int(tokens.lengths.max()))
