"""A run's model and dictionary, kept to read text after text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from threading import Lock
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from deconstruct.causes.subject import Subject, subject_of
from deconstruct.common.cores import each_on_one_thread
from deconstruct.common.errors import DataError
from deconstruct.common.hardware import pick_device
from deconstruct.firing.firings import Firings
from deconstruct.firing.known import Known, known_of
from deconstruct.firing.texts import Chat, Cutter, Read, checked
from deconstruct.model.hooks import reading
from deconstruct.model.loading import load
from deconstruct.sae import files
from deconstruct.sae.autoencoder import SparseAutoencoder


def fire(
    run: str,
    texts: str | Iterable[str | Chat],
    home: Path | str | None = None,
    *,
    device: str = "auto",
) -> Firings:
    """Which latents of a run fire on any text, where and how strongly.

    run: as commands take it: a run_id, a name, NAME@SITE, 'latest'. texts: one, or at most 256,
    200,000 characters together; to a run of chats also chats, as lists of messages. They are read
    as the run's corpus was: its tokenizer and BOS, ``corpus.max_tokens`` (`Read.left_out` says what
    came after), ``activations.skip_positions``, its storage and threshold. The model is loaded;
    `Firer` keeps it for more.

    A document of the corpus fires as the run's ``latents`` say, on the machine that made the run
    mostly to the last bit. It is read by itself here, and was read in a batch of documents there,
    so that sums may round otherwise: in float32 by 1e-4 of the document's strongest activation.

    Raises ``DataError`` for texts that can't be read, before the model is loaded; ``QueryError``
    for an unknown run, ``StorageError`` for one whose artifacts are gone, ``ConfigError`` or
    ``SourceUnreachable`` for one whose model is.
    """
    checked_texts = checked(texts)
    return Firer(run, home, device=device).fire(checked_texts)


class _Loaded(NamedTuple):
    model: nn.Module
    dictionary: SparseAutoencoder
    known: Known
    device: str


class _Window(NamedTuple):
    """What the model reads at once. places: of the recorded tokens in their text."""

    text: int
    ids: NDArray[np.int64]
    recorded: NDArray[np.bool_]
    places: NDArray[np.int64]


class Firer:
    """Model, tokenizer and dictionary of a run, loaded when the first text comes, and kept.

    Several threads may ask it; one text is read at a time.
    """

    def __init__(self, run: str, home: Path | str | None = None, *, device: str = "auto") -> None:
        """Raises ``QueryError`` or ``StorageError`` for a run that is not there; loads nothing."""
        self._home, self._device = home, device
        self._subject: Subject = subject_of(home, run)
        self._cutter: Cutter | None = None
        self._loaded: _Loaded | None = None
        self._lock = Lock()

    @property
    def run_id(self) -> str:
        return self._subject.run_id

    @property
    def loaded(self) -> bool:
        """Whether the model is in memory already."""
        return self._loaded is not None

    def fire(self, texts: str | Iterable[str | Chat]) -> Firings:
        """As `fire`, which says what is raised."""
        listed = checked(texts)
        with self._lock:
            read = self._read(listed)
            loaded = self._load()
            return self._fired(read, loaded)

    def _read(self, texts: Sequence[str | Chat]) -> list[Read]:
        if self._cutter is None:
            subject = self._subject
            skip = int(subject.activations.manifest.config["skip_positions"])
            self._cutter = Cutter(subject.resolved(), subject.corpus, skip)
        return self._cutter.read(texts)

    def _load(self) -> _Loaded:
        if self._loaded is None:
            device = pick_device(self._device)
            known = known_of(self._home, self.run_id)
            dictionary = files.load(self._subject.sae.path).to(device)
            model = load(self._subject.resolved(), device)
            self._loaded = _Loaded(model, dictionary, known, device)
        return self._loaded

    def _fired(self, read: list[Read], loaded: _Loaded) -> Firings:
        windows = [
            _Window(number, one.ids[part], one.recorded[part],
                    part.start + np.flatnonzero(one.recorded[part]))
            for number, one in enumerate(read)
            for part in one.windows() if one.recorded[part].any()
        ]  # fmt: skip
        threshold = float(self._subject.latents.manifest.config["threshold"])
        pairs: dict[int, list[NDArray[np.generic]]] = {}
        for number, x in self._activations(windows, loaded):
            pairs[number] = _pairs(windows[number], x, loaded.dictionary, threshold)
        columns = zip(*(pairs[number] for number in sorted(pairs)), strict=True)
        text, place, latent, activation = (np.concatenate(parts) for parts in columns)
        return Firings(
            self.run_id, tuple(read), text.astype(np.uint32), place.astype(np.uint32),
            latent.astype(np.uint32), activation.astype(np.float32), loaded.known,
        )  # fmt: skip

    def _activations(self, windows: list[_Window], loaded: _Loaded) -> Iterable[tuple[int, Tensor]]:
        """Of each window the rows that its run would have stored, [recorded, d_in], in no set
        order. On a CPU each window is one thread's: the number of cores changes no bit."""
        site = self._subject.source
        short = self._subject.activations.manifest.config.get("storage") == "bfloat16"

        with reading(loaded.model, [site]) as read_at:

            def compute(number: int) -> tuple[int, Tensor]:
                window = windows[number]
                ids = torch.from_numpy(window.ids)[None].to(loaded.device)
                kept = torch.from_numpy(window.recorded)
                x = read_at(ids)[site][0].cpu()[kept]
                if not torch.isfinite(x).all():
                    raise DataError(
                        f"texts[{window.text}]: activations at {site} are not finite; the model "
                        "can't read it in this precision"
                    )
                return number, (x.to(torch.bfloat16) if short else x).float()

            side_by_side = each_on_one_thread if loaded.device == "cpu" else map
            yield from side_by_side(compute, range(len(windows)))


def _pairs(
    window: _Window, x: Tensor, dictionary: SparseAutoencoder, threshold: float
) -> list[NDArray[np.generic]]:
    """Text, place, latent and activation of what fires on a window's rows."""
    with torch.no_grad():
        sparse = dictionary.encode_sparse(x.to(dictionary.W_dec.device))
    offsets = sparse.offsets.cpu().numpy()
    activation = sparse.activations.float().cpu().numpy()
    keep = activation > threshold
    row = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))[keep]
    latent = sparse.latents.cpu().numpy()[keep]
    order = np.lexsort((latent, row))
    return [
        np.full(len(row), window.text), window.places[row[order]], latent[order],
        activation[keep][order],
    ]  # fmt: skip
