"""The model over the documents of a shard: what `stage` records, and `window` hands on at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deconstruct.activations import layout
from deconstruct.activations.layout import Shard, Tokens
from deconstruct.common.cores import each_on_one_thread
from deconstruct.common.errors import ConfigError, DataError
from deconstruct.common.hardware import pick_dtype
from deconstruct.common.site import Site
from deconstruct.model.hooks import check_parts, reading
from deconstruct.model.loading import load
from deconstruct.model.resolve import ResolvedModel


def dtype_name(dtype: torch.dtype) -> str:
    """As configurations write it: ``bfloat16``."""
    return str(dtype).removeprefix("torch.")


class Forward:
    """A loaded model that gives its activations at ``sites``, a shard at a time."""

    def __init__(
        self, model: ResolvedModel, tokens: Tokens, sites: Sequence[Site], device: str
    ) -> None:
        """Raises ``ConfigError`` for a token, a position or a part of a block that the model has
        not."""
        self.sites, self.device = list(sites), device
        self.dtype = pick_dtype(model.dtype, device)
        self._tokens = tokens
        _check_tokens(model, tokens)
        self._model = load(model, device)
        check_parts(self._model, self.sites)

    def compute(self, shard: Shard, advance: Callable[[int], None]) -> dict[Site, Tensor]:
        """Activations of a shard's rows, site -> [rows, d_in] on the CPU, in document order.

        advance: called with the rows of each batch that is done. Raises ``DataError`` where the
        model gives NaN or infinity.
        """
        tokens = self._tokens
        ends = np.cumsum(tokens.rows[shard.documents])
        starts = np.concatenate([[0], ends])
        result: dict[Site, Tensor] = {}
        with reading(self._model, self.sites) as read:

            def compute(places: NDArray[np.int64]) -> tuple[Tensor, dict[Site, Tensor]]:
                documents = shard.documents[places]
                ids = torch.from_numpy(tokens.of(documents)).to(self.device)
                kept = torch.from_numpy(tokens.kept_of(documents))
                found = {site: activation.cpu()[kept] for site, activation in read(ids).items()}
                for site, chosen in found.items():
                    if not torch.isfinite(chosen).all():
                        raise self._not_finite(site, documents, kept, chosen)
                rows = np.concatenate([np.arange(starts[i], ends[i]) for i in places])
                return torch.from_numpy(rows), found

            on_cpu = self.device == "cpu"
            most = layout.CPU_BATCH_TOKENS if on_cpu else layout.GPU_BATCH_TOKENS
            batches = layout.batches(shard.documents, tokens.lengths, most)
            side_by_side = each_on_one_thread if on_cpu else map
            for rows, found in side_by_side(compute, batches):
                for site, chosen in found.items():
                    if site not in result:
                        result[site] = chosen.new_empty(shard.rows, chosen.shape[1])
                    result[site][rows] = chosen
                advance(len(rows))
        return result

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
