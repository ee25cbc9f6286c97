"""The stage reference: what the model loses where no SAE stands, once for all SAEs of a site.

Clean, with zeros in place (at every position, as SAELens, SAEBench and dictionary_learning have it;
and with the leading positions kept), with the train mean, and with floors that know little: a
token lookup has no context, 128 principal components no dictionary, unigram frequencies no model.
All of it is of the held-out documents whose losses are judged, and all that is fitted is fitted on
train rows. Losses are those of predicting the next token from recorded positions, in nats.
"""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from deconstruct.activations.reader import ActivationReader
from deconstruct.artifacts import Artifact, DataRoot, Draft, Recipe, Stage, keys_of
from deconstruct.common.cores import each_on_one_thread, on_one_thread
from deconstruct.common.errors import ConfigError
from deconstruct.common.hardware import pick_device
from deconstruct.common.progress import track
from deconstruct.common.site import Site
from deconstruct.common.threads import one_blas_thread
from deconstruct.config import EvaluationConfig
from deconstruct.model.hooks import Replace
from deconstruct.model.loading import load
from deconstruct.model.resolve import ResolvedModel
from deconstruct.reference.floors import Floors, fit
from deconstruct.reference.passes import Passes, divergence, loss, normaliser, putting
from deconstruct.reference.positions import ByPosition, alike, by_position
from deconstruct.reference.tables import DOCUMENT_LOSSES
from deconstruct.reference.texts import Text, equal_lengths, held_out_texts

log = logging.getLogger(__name__)

VERSION = 1
COLUMNS = [column.name for column in DOCUMENT_LOSSES.columns if column.name != "doc_id"]


def recipe(
    config: EvaluationConfig, *, model: ResolvedModel, corpus: Artifact, activations: Artifact
) -> Recipe:
    """All that decides the losses: of the settings, which documents are judged alone."""
    inputs = {"model": model.digest, **keys_of(corpus=corpus, activations=activations)}
    return Recipe("reference", VERSION, {"max_documents": config.max_documents}, inputs)


def measure(
    root: DataRoot,
    config: EvaluationConfig,
    *,
    model: ResolvedModel,
    corpus: Artifact,
    activations: Artifact,
    device: str = "auto",
) -> Artifact:
    """Measure the losses without an SAE: ``document_losses``.

    activations: of the site that SAEs replace; of a transcoder, of the one it writes. Facts:
    ``median_distance`` of |x - m|^2 over train rows, m their mean, ``fit_rows``, and of each column
    of losses its mean over all predictions. Raises ``ConfigError`` if the model names another dtype
    than the activations were recorded in.
    """

    @one_blas_thread()
    def write(draft: Draft) -> None:
        recorded_with = as_recorded(model, activations)
        where = pick_device(device)
        texts = judged_texts(corpus, activations, config)
        lm = load(recorded_with, where)
        vocabulary = _vocabulary(lm)
        ids = np.unique(np.concatenate([np.zeros(0, np.int64), *(text.ids for text in texts)]))
        floors = fit(ActivationReader(activations), ids, vocabulary, where)
        site = Site.parse(str(activations.facts["site"]))
        found = _Measuring(lm, site, floors, where).all(texts)
        recorded_with.check_unchanged()
        order = sorted(found)
        columns = np.array([found[doc] for doc in order]).reshape(len(order), len(COLUMNS)).T
        draft.write_table(DOCUMENT_LOSSES.file, DOCUMENT_LOSSES.of(order, *columns))
        draft.facts |= {"fit_rows": floors.rows, "median_distance": floors.median_distance}
        if order:
            totals = dict(zip(COLUMNS, columns.sum(1), strict=True))
            predictions = totals.pop("predictions")
            draft.facts |= {name: float(total / predictions) for name, total in totals.items()}

    upstream = {"corpus": corpus, "activations": activations}
    return root.make(recipe(config, model=model, **upstream), write)


STAGE = Stage("reference", recipe, measure)


def judged_texts(corpus: Artifact, activations: Artifact, config: EvaluationConfig) -> list[Text]:
    """The held-out texts whose losses are judged, with and without an SAE."""
    skip = int(activations.manifest.config["skip_positions"])
    return held_out_texts(corpus, config.max_documents, skip)


def as_recorded(model: ResolvedModel, activations: Artifact) -> ResolvedModel:
    """In what the activations were recorded in, so that equal keys stand for equal results."""
    recorded = str(activations.facts["dtype"])
    dtype = model.dtype
    if dtype not in ("auto", recorded):
        raise ConfigError(
            f"dtype = {dtype!r} is not what the activations were recorded in ({recorded}); leave "
            f"it at 'auto', or extract them with model.dtype = {dtype!r}"
        )
    return replace(model, dtype=recorded)


def _vocabulary(lm: nn.Module) -> int:
    """How many tokens it has a logit for, or an embedding, if those are more."""
    sizes = [len(lm.get_input_embeddings().weight)]  # type: ignore[operator]
    head = lm.get_output_embeddings()  # type: ignore[operator]
    return max([*sizes, *([] if head is None else [len(head.weight)])])


class _Measuring:
    """The passes over all texts."""

    def __init__(self, lm: nn.Module, site: Site, floors: Floors, device: str) -> None:
        self.passes, self.device = Passes(lm, site), device
        self.floors = floors.to(device)
        self.unigram = torch.from_numpy(floors.unigram).to(device)
        self.shared: dict[str, ByPosition] = {}

    def all(self, texts: list[Text]) -> dict[int, NDArray[np.float64]]:
        """The sums of each document, as in `COLUMNS`; those of windows of one are added up."""
        side_by_side = each_on_one_thread if self.passes.on_cpu else map
        total = sum(len(text.ids) for text in texts)
        batches = {}
        with track("reference", total, "tokens") as advance, self.passes.hooked():
            if self.passes.on_cpu:  # as the passes of a batch, on one thread
                on_one_thread(lambda: self._share(texts))
            else:
                self._share(texts)
            for number, batch, figures in side_by_side(
                self._judge, enumerate(equal_lengths(texts, self.passes.tokens))
            ):
                batches[number] = zip(batch, figures, strict=True)
                advance(sum(len(text.ids) for text in batch))
        found: dict[int, NDArray[np.float64]] = {}
        for number in sorted(batches):  # in one order, whichever was done first
            for text, sums in batches[number]:
                found[text.doc_id] = found.get(text.doc_id, np.zeros(len(COLUMNS))) + sums
        return found

    def _share(self, texts: list[Text]) -> None:
        """Make the passes that are the same for all texts."""
        self.shared = {}
        constants = ["zero", *(["zero_bos_kept", "mean"] if alike(texts) else [])]
        kept = 0 if len(texts) == 0 else int(np.argmax(texts[0].recorded))
        for name in constants:

            def put(stream: Tensor, name: str = name) -> Tensor:
                recorded = torch.arange(stream.shape[1], device=stream.device)[None] >= kept
                return self._constants(recorded)[name](stream)

            found = by_position(self.passes, texts, put, self.device)
            if found is not None:
                self.shared[name] = found

    @torch.inference_mode()
    def _judge(
        self, numbered: tuple[int, list[Text]]
    ) -> tuple[int, list[Text], list[NDArray[np.float64]]]:
        """The figures of texts of one length."""
        number, batch = numbered
        ids = torch.from_numpy(np.stack([text.ids for text in batch])).to(self.device)
        recorded = torch.from_numpy(np.stack([text.recorded for text in batch])).to(self.device)
        targets = ids[:, 1:]
        clean, _, _ = self.passes.clean(ids)
        log_z = normaliser(clean)
        losses = {"clean": loss(clean, log_z, targets), "unigram": -self.unigram[targets]}
        for name, put in self._ablations(ids, recorded).items():
            if name in self.shared:
                logits, its_log_z = self.shared[name].of(*targets.shape)
            else:
                logits = self.passes.replaced(ids, put)
                its_log_z = normaliser(logits)
            losses[name] = loss(logits, its_log_z, targets)
            if name == "zero":
                losses["kl_zero"] = divergence(clean, log_z, logits, its_log_z)
                del clean
            del logits
        found = []
        for row in range(len(batch)):
            chosen = recorded[row, :-1]
            sums = {name: float(of[row][chosen].double().sum()) for name, of in losses.items()}
            sums["predictions"] = float(chosen.sum())
            found.append(np.array([sums[name] for name in COLUMNS]))
        return number, batch, found

    def _ablations(self, ids: Tensor, recorded: Tensor) -> dict[str, Replace]:
        """What is put in the place of the activations, [batch, length, d], by column."""
        floors = self.floors
        return self._constants(recorded) | {
            "token_lookup": putting(recorded, lambda _: floors.by_token(ids[recorded])),
            "pca": putting(recorded, floors.projected),
        }

    def _constants(self, recorded: Tensor) -> dict[str, Replace]:
        """Those of them that look at no token."""
        return {
            "zero": torch.zeros_like,
            "zero_bos_kept": putting(recorded, torch.zeros_like),
            "mean": putting(recorded, self.floors.constant),
        }
