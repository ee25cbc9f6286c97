"""Activations that are kept nowhere: computed as training asks for them, and let go once used.

With ``activations.keep = "window"`` an SAE is trained on a `Stream` in the place of an artifact of
recorded activations. Shards are those that `stage` would write (`layout`). In each pass over the
corpus they are put in an order drawn from the SAE's seed; ``window_shards`` of them at a time are
in memory, their rows permuted, and batches cut from that (`reader.BatchSource`, whose pools they
are). So a batch is a function of the recipe and of its step alone: however far extraction runs
ahead, and wherever a killed training begins again, it is the same.

Normalisation can't wait for the end of the corpus: it is that of the first shards as they are laid
out, which are a random sample of the train split.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Lock
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from torch import Tensor

from deconstruct.activations import layout, shards
from deconstruct.activations.forward import Forward, dtype_name
from deconstruct.activations.layout import Shard, Tokens
from deconstruct.activations.places import Place, place_on
from deconstruct.activations.reader import BatchSource, Pooled, check_batch_size
from deconstruct.activations.shards import Moments
from deconstruct.artifacts import Artifact, fsync
from deconstruct.artifacts.scratch import checksum
from deconstruct.common.cores import compute_on
from deconstruct.common.hardware import pick_device, pick_dtype
from deconstruct.common.progress import track
from deconstruct.common.site import Site
from deconstruct.config import ActivationsConfig
from deconstruct.model.resolve import ResolvedModel

log = logging.getLogger("deconstruct.stages")

SPLIT = layout.SPLITS[0]
AHEAD = 0
"""Windows that are computed before they are needed, while the one before is trained on. The same
cores (or the same GPU) do both: to run ahead saves no time, and costs a window's memory."""


class _Ended(Exception):
    """Training has ended; what is computed for it is needed no more."""


@dataclass(frozen=True)
class Stream:
    """One site's activations over the train split of ``corpus``, to be computed.

    device: where; it says in which precision the model computes, which is part of a key.
    """

    config: ActivationsConfig
    site: str
    model: ResolvedModel
    corpus: Artifact
    device: str = "auto"

    @property
    def facts(self) -> Mapping[str, Any]:
        """What an artifact of these activations would have as facts, as far as it is known."""
        site = Site.parse(self.site)
        return {
            "site": str(site),
            "layer": site.layer,
            "hook": site.hook,
            "d_in": self.model.d_model,
            "model": self.model.name,
        }

    @property
    def key_fields(self) -> dict[str, Any]:
        """What is part of the key of an SAE that is trained on them, as JSON types."""
        config = self.config
        dtype = dtype_name(pick_dtype(self.model.dtype, pick_device(self.device)))
        fields = {
            "site": self.site,
            "dtype": dtype,
            "window_shards": config.window_shards,
            "window_moment_tokens": config.window_moment_tokens,
            **config.key_fields(),
        }
        return {f"activations.{name}": value for name, value in fields.items()}

    @property
    def inputs(self) -> dict[str, str]:
        """Inputs of such an SAE's recipe."""
        return {"model": self.model.digest, "corpus": self.corpus.key}


class Window:
    """The train split of a corpus at the sites of ``streams``, which differ in nothing else.

    A pass of the model gives all sites. Memory: the model, 24 bytes per document, and per site
    ``window_shards`` shards of float32, ``1 + ahead`` times. Disk: 5 bytes per token of the corpus
    in ``folder``, where the moments are kept for a training that goes on.
    """

    def __init__(
        self, streams: Sequence[Stream], folder: Path, device: str, ahead: int | None = None
    ) -> None:
        """Loads the model and computes the moments. Raises as `deconstruct.activations.stage`."""
        first = streams[0]
        self.config, self.model = first.config, first.model
        self.ahead = AHEAD if ahead is None else ahead
        tokens = Tokens.read(first.corpus, self.config.skip_positions, folder)
        laid_out = layout.shards(first.corpus, tokens, self.config.shard_tokens, self.config.seed)
        self.shards = [shard for shard in laid_out if shard.name.startswith(SPLIT)]
        self._sites = [Site.parse(stream.site) for stream in streams]
        self._forward = Forward(self.model, tokens, self._sites, device)
        self._threads = torch.get_num_threads()  # those who ask may be threads with fewer
        self._computed: dict[tuple[Site, tuple[int, ...]], Tensor] = {}
        self._computing, self._ended = Lock(), Event()
        moments = _moments_in(folder, self._sites) or self._first_moments(folder)
        self.sites = [
            SiteWindow(self, site, stream.facts, moments[site])
            for site, stream in zip(self._sites, streams, strict=True)
        ]

    def take(self, site: Site, groups: NDArray[np.int64]) -> Tensor:
        """Rows of some shards at a site, one after another: float32 [rows, d_in].

        Those of the other sites are kept until they are taken too: each is asked for once.
        """
        places = tuple(groups.tolist())
        with self._computing:
            if (site, places) not in self._computed:
                self._computed |= {(s, places): rows for s, rows in self._compute(places).items()}
            return self._computed.pop((site, places))

    def end(self) -> None:
        """Let what is being computed end soon: by `_Ended`, which nobody waits for."""
        self._ended.set()

    def _compute(self, places: Sequence[int]) -> dict[Site, Tensor]:
        compute_on(self._threads)
        total, done = sum(self.shards[place].rows for place in places), 0
        whole: dict[Site, Tensor] = {}
        for place in places:
            shard = self.shards[place]
            for site, activation in self._of(shard, self._check_wanted).items():
                if site not in whole:
                    whole[site] = torch.empty(total, activation.shape[1])
                at = done
                for rows in shards.stored(activation, self.config.storage):
                    whole[site][at : at + len(rows)] = rows
                    at += len(rows)
            done += shard.rows
        return whole

    def _of(self, shard: Shard, advance: Callable[[int], None]) -> dict[Site, Tensor]:
        found = self._forward.compute(shard, advance)
        self.model.check_unchanged()  # its weights are mapped, and read as they are needed
        return found

    def _check_wanted(self, rows: int) -> None:
        if self._ended.is_set():
            raise _Ended

    def _first_moments(self, folder: Path) -> dict[Site, Moments]:
        """Of the first shards that have ``window_moment_tokens`` rows, or of all."""
        ends = np.cumsum([shard.rows for shard in self.shards])
        count = 1 + int(np.searchsorted(ends, min(self.config.window_moment_tokens, ends[-1])))
        parts: dict[Site, list[Moments]] = {site: [] for site in self._sites}
        with track("moments", int(ends[count - 1]), "tokens") as advance:
            for shard in self.shards[:count]:
                for site, activation in self._of(shard, advance).items():
                    stored = shards.stored(activation, self.config.storage)
                    parts[site].append(shards.moments(stored))
        moments = {site: Moments.merge(of_site) for site, of_site in parts.items()}
        _keep(folder, moments)
        return moments


class SiteWindow:
    """One site of a `Window`: to training what an `ActivationReader` of recorded rows is."""

    def __init__(
        self, window: Window, site: Site, facts: Mapping[str, Any], moments: Moments
    ) -> None:
        self.facts, self.moments = facts, moments
        self.d_in = len(moments.mean)
        self.group_rows = np.array([shard.rows for shard in window.shards])
        self.rows = int(self.group_rows.sum())
        half = window.config.storage == "bfloat16"
        self.dtype = torch.bfloat16 if half else torch.float32
        self._window, self._site = window, site

    def decode(self, groups: NDArray[np.int64], dtype: torch.dtype = torch.float32) -> Tensor:
        """Rows of some shards, one after another: [rows, d_in]."""
        return self._window.take(self._site, groups).to(dtype)

    def whole(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """Every row, where a window holds them all."""
        return self.decode(np.arange(len(self.group_rows)), dtype)

    def batches(
        self,
        batch_size: int,
        seed: int,
        beside: Pooled | None = None,
        steps: int | None = None,
        device: str = "cpu",
    ) -> BatchSource:
        """As `ActivationReader.batches`; nothing is computed ahead of the last step."""
        check_batch_size(batch_size, self.rows, SPLIT)
        config = self._window.config
        room = config.window_shards * config.shard_tokens
        passes = (steps or 0) * batch_size / self.rows
        if passes > 1 and self.rows > room:
            log.info(
                "%-12s goes %.1f times over %d tokens, and computes their activations anew each "
                "time", "sae", passes, self.rows,
            )  # fmt: skip
        place = place_on(device, self.d_in, self.dtype, batch_size)
        return _Batches(self._window, self, batch_size, seed, room, steps, place)


class _Batches(BatchSource):
    """Whose closing ends the window's work."""

    def __init__(
        self,
        window: Window,
        reader: SiteWindow,
        batch_size: int,
        seed: int,
        pool_rows: int,
        steps: int | None,
        place: Place,
    ) -> None:
        super().__init__(reader, batch_size, seed, pool_rows, steps, window.ahead, place)
        self._window = window

    def close(self) -> None:
        self._window.end()
        super().close()


def _keep(folder: Path, moments: Mapping[Site, Moments]) -> None:
    """Write moments, whole or not at all, with a checksum as checkpoints have one."""
    for site, of_site in moments.items():
        values = {"mean": of_site.mean, "variance": of_site.variance}
        values["rows"] = np.array(of_site.rows)
        path = _place(folder, site)
        unfinished = path.with_name(f"{path.name}.unfinished")
        save_file(values | {"sum": _sum(values, folder)}, unfinished)
        fsync(unfinished)
        os.replace(unfinished, path)


def _moments_in(folder: Path, sites: Sequence[Site]) -> dict[Site, Moments] | None:
    """What `_keep` left there; None unless it is there for all sites, as it was written."""
    found: dict[Site, Moments] = {}
    for site, path in ((site, _place(folder, site)) for site in sites):
        try:
            values = load_file(path)
            if int(values.pop("sum")) != int(_sum(values, folder)):
                raise ValueError("it is not as it was written")
            found[site] = Moments(int(values["rows"]), values["mean"], values["variance"])
        except FileNotFoundError:
            return None
        except (SafetensorError, KeyError, ValueError) as error:
            log.warning("%s does not load (%s); it is computed anew", path, error)
            return None
    return found


def _place(folder: Path, site: Site) -> Path:
    return folder / f"moments-{site}.safetensors"


def _sum(values: Mapping[str, NDArray[Any]], folder: Path) -> NDArray[np.int64]:
    return np.array(checksum(((name, values[name].tobytes()) for name in sorted(values)), folder))
