"""Passes that are made once for all texts give what whole passes give."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.judged import SITE, Bench

from deconstruct.artifacts import Artifact
from deconstruct.common.site import Site
from deconstruct.config import EvaluationConfig
from deconstruct.model.loading import load
from deconstruct.model.resolve import ResolvedModel
from deconstruct.reference import stage
from deconstruct.reference.passes import Passes, putting
from deconstruct.reference.positions import alike, by_position
from deconstruct.reference.texts import Text, held_out_texts

CONFIG = EvaluationConfig(max_documents=12)


def test_the_figures_are_those_of_whole_passes(
    tmp_path: Path,
    model: ResolvedModel,
    corpus_artifact: Artifact,
    activations_artifact: Artifact,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole: list[str] = []
    ablations = stage._Measuring._ablations

    def noted(self: stage._Measuring, *given: object) -> object:
        whole[:] = sorted({"zero", "zero_bos_kept", "mean"} - set(self.shared))
        return ablations(self, *given)  # type: ignore[arg-type]

    monkeypatch.setattr(stage._Measuring, "_ablations", noted)
    given = (model, corpus_artifact, activations_artifact)
    once = Bench(tmp_path / "once", *given).alone(CONFIG)
    assert whole == []
    monkeypatch.setattr(stage, "by_position", lambda *_: None)
    each = Bench(tmp_path / "each", *given).alone(CONFIG)
    assert whole == ["mean", "zero", "zero_bos_kept"]
    for name in ("clean", "zero", "kl_zero", "zero_bos_kept", "mean", "pca"):
        assert once.facts[name] == pytest.approx(each.facts[name], rel=1e-5), name


def test_texts_that_keep_other_tokens_share_nothing(corpus_artifact: Artifact) -> None:
    texts = held_out_texts(corpus_artifact, 5, 1)
    assert alike(texts)
    first, *rest = texts
    other = replace(first, ids=np.concatenate([[7], first.ids[1:]]))
    assert not alike([other, *rest])
    holes = first.recorded.copy()
    holes[4] = False
    assert not alike([replace(first, recorded=holes), *rest])


def test_only_what_is_the_same_in_two_texts_is_taken_for_the_same(
    model: ResolvedModel, corpus_artifact: Artifact
) -> None:
    lm, texts = load(model, "cpu"), held_out_texts(corpus_artifact, 5, 1)

    def found(site: Site, some: list[Text], factor: float) -> bool:
        passes = Passes(lm, site)
        with passes.hooked():
            made = by_position(passes, some, lambda stream: stream * factor, "cpu")
        return made is not None

    assert found(SITE, texts, 0.0)
    assert not found(SITE, texts, 0.5)  # what is put there is the text's
    assert not found(Site(1, "mlp_out"), texts, 0.0)  # the stream passes it by
    assert not found(SITE, texts[:1], 0.0)


def test_putting_leaves_what_is_not_recorded() -> None:
    import torch

    stream = torch.ones(1, 3, 2)
    out = putting(torch.tensor([[False, True, True]]), torch.zeros_like)(stream)
    assert out.sum() == 2
    assert stream.sum() == 6
