"""One latent's activation changed in the language model, all else left as it is.

Where a latent fires with a, the activation x at its site goes on as x + (a' - a) w, with w its
decoder row and a' = factor * a: 0 takes it out, 2 doubles it. What the SAE leaves of x unexplained
stays, so that what is seen is the latent's and not the reconstruction's.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from threading import Lock, local

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from deconstruct.common.cores import each_on_one_thread
from deconstruct.common.progress import Advance
from deconstruct.common.site import Site
from deconstruct.model.hooks import Prefix, Replace, repeating, replacing
from deconstruct.reference.texts import Text
from deconstruct.sae.autoencoder import SparseAutoencoder

ROWS = 16
"""Predictions whose logits are in memory as float32 at a time."""


@dataclass(frozen=True)
class Effect:
    """What changing a latent did, over some texts.

    texts: those in which it fires. firings: recorded tokens on which it fires and that are followed
    by another; of the predictions made there, in nats a prediction: ``kl``, KL(as it was ||
    changed), and ``loss``, what the next token's loss grew by. later: recorded tokens after the
    first firing of a text on which it is silent, ``kl_later`` the KL there. NaN where there is no
    such token. logits: float64 [vocabulary], mean change at its firings; None if not asked for.
    """

    latent: int
    texts: int
    firings: int
    kl: float
    loss: float
    later: int
    kl_later: float
    logits: NDArray[np.float64] | None


@dataclass(frozen=True)
class Trial:
    """A latent, the texts that it is changed in, and whether its logits are wanted."""

    latent: int
    texts: Sequence[Text]
    logits: bool = False


@dataclass(frozen=True)
class _Sums:
    """Of one text: sums over its firings and over the later tokens."""

    firings: int
    kl: float
    loss: float
    later: int
    kl_later: float
    logits: NDArray[np.float64] | None


class _Pass(local):
    """What one thread's pass puts at the site (None: nothing), and what it has read."""

    put: Replace | None = None
    read: Tensor


@dataclass
class Steering:
    """A model and a dictionary at one of its sites.

    source: the site that a transcoder reads; None: ``site`` itself, whose activations are changed.
    """

    model: nn.Module
    site: Site
    dictionary: SparseAutoencoder
    source: Site | None = None
    passing: _Pass = field(default_factory=_Pass)
    turn: AbstractContextManager[bool] = field(default_factory=Lock)
    prefix: Prefix = field(init=False)

    def effects(self, trials: Sequence[Trial], factor: float, advance: Advance) -> list[Effect]:
        """What becomes of each trial, with activations times ``factor``; two passes a text.

        The sums do not depend on the number of cores.
        """
        jobs = [
            (place, trial, text)
            for place, trial in enumerate(trials)
            for text in sorted(trial.texts, key=lambda text: len(text.ids))
        ]
        found: dict[int, _Sums] = {}

        def work(number: int) -> tuple[int, _Sums]:
            _, trial, text = jobs[number]
            return number, self._changed(trial, text, factor)

        on_cpu = next(self.model.parameters()).device.type == "cpu"
        with self._hooked():
            side_by_side = each_on_one_thread if on_cpu else map
            for number, sums in side_by_side(work, range(len(jobs))):
                found[number] = sums
                advance()
        of: list[list[_Sums]] = [[] for _ in trials]
        for number, (place, _, _) in enumerate(jobs):
            of[place].append(found[number])
        return [_effect(trial.latent, sums) for trial, sums in zip(trials, of, strict=True)]

    @contextmanager
    def _hooked(self) -> Iterator[None]:
        with (
            replacing(self.model, self.source or self.site, self._note),
            replacing(self.model, self.site, self._put),
            repeating(self.model, self.site) as self.prefix,
        ):
            yield

    @torch.inference_mode()
    def _changed(self, trial: Trial, text: Text, factor: float) -> _Sums:
        w = self.dictionary.W_dec[trial.latent]
        ids = torch.from_numpy(text.ids).to(w.device)[None]
        recorded = torch.from_numpy(text.recorded).to(w.device)
        clean = self._logits(ids, None)
        a = torch.zeros(len(recorded), device=w.device)
        a[recorded] = self._activations(self.passing.read[0, recorded], trial.latent)
        fires = a > 0
        shift = (factor - 1) * a[fires, None] * w

        def put(activation: Tensor) -> Tensor:
            replaced = activation.clone()
            replaced[0, fires] = (activation[0, fires].float() + shift).to(activation.dtype)
            return replaced

        changed = self._logits(ids, put)
        here, after = fires[:-1], recorded[:-1] & ~fires[:-1] & (fires[:-1].cumsum(0) > 0)
        kl, loss = _figures(clean[here], changed[here], ids[0, 1:][here])
        kl_later, _ = _figures(clean[after], changed[after], ids[0, 1:][after])
        apart = None
        if trial.logits:
            apart = np.zeros(clean.shape[1])
            pieces = torch.split(clean[here], ROWS), torch.split(changed[here], ROWS)
            for ours, theirs in zip(*pieces, strict=True):
                apart += (theirs.double() - ours.double()).sum(0).cpu().numpy()
        return _Sums(int(here.sum()), kl, loss, int(after.sum()), kl_later, apart)

    def _activations(self, x: Tensor, latent: int) -> Tensor:
        """A latent's activations on rows of the source, [n, d_in] -> [n]."""
        with self.turn:  # an autoencoder works in buffers of its own
            sparse = self.dictionary.encode_sparse(x.float())
        found = torch.zeros(len(x), device=x.device)
        hit = sparse.latents == latent
        row = torch.repeat_interleave(
            torch.arange(len(x), device=x.device), sparse.offsets[1:] - sparse.offsets[:-1]
        )
        found[row[hit]] = sparse.activations[hit]
        return found

    def _logits(self, ids: Tensor, put: Replace | None) -> Tensor:
        """Of each prediction, [length - 1, vocabulary]; a pass that puts something begins there."""
        self.passing.put, self.prefix.again = put, put is not None
        logits: Tensor = self.model(input_ids=ids, use_cache=False).logits
        return logits[0, :-1]

    def _note(self, activation: Tensor) -> Tensor:
        if self.passing.put is None:
            self.passing.read = activation
        return activation

    def _put(self, activation: Tensor) -> Tensor:
        return activation if self.passing.put is None else self.passing.put(activation)


def _figures(clean: Tensor, changed: Tensor, targets: Tensor) -> tuple[float, float]:
    """Sums of KL and of the loss' growth over predictions: logits [n, vocabulary], ids [n]."""
    kl, loss = 0.0, 0.0
    parts = [torch.split(rows, ROWS) for rows in (clean, changed, targets)]
    for ours, theirs, target in zip(*parts, strict=True):
        log_p, log_q = ours.float().log_softmax(-1), theirs.float().log_softmax(-1)
        each = (log_p.exp() * (log_p - log_q)).sum(-1).clamp(min=0)
        kl += float(each.double().sum())
        grown = (log_p - log_q).gather(-1, target[:, None])
        loss += float(grown.double().sum())
    return kl, loss


def _effect(latent: int, sums: Sequence[_Sums]) -> Effect:
    firings, later = sum(one.firings for one in sums), sum(one.later for one in sums)
    of_logits = [one.logits for one in sums if one.logits is not None]

    def mean(total: float, n: int) -> float:
        return total / n if n else float("nan")

    return Effect(
        latent=latent,
        texts=sum(one.firings > 0 for one in sums),
        firings=firings,
        kl=mean(sum(one.kl for one in sums), firings),
        loss=mean(sum(one.loss for one in sums), firings),
        later=later,
        kl_later=mean(sum(one.kl_later for one in sums), later),
        logits=np.sum(of_logits, axis=0) / max(firings, 1) if of_logits else None,
    )
