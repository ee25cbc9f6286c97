"""Documents pooled: activations, latents, and the text that the model saw of each."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from support.planted_latents import plant

from deconstruct.activations.reader import ActivationReader
from deconstruct.artifacts import Artifact, DataRoot
from deconstruct.config import CorpusConfig
from deconstruct.corpus import sources
from deconstruct.corpus import stage as corpus
from deconstruct.latents.pooling import activations_of, latents_of, texts_of
from deconstruct.model.resolve import ResolvedModel


@pytest.mark.parametrize("pooling", ["mean", "max"])
def test_pooling(
    pooling: str, corpus_artifact: Artifact, activations_artifact: Artifact, tmp_path: Path
) -> None:
    documents = corpus_artifact.facts["documents"]
    every = np.arange(documents)
    found = activations_of(activations_artifact, documents, every, pooling)
    blocks = [
        block
        for split in ("train", "test")
        for block in ActivationReader(activations_artifact, split).rows_in_order()
    ]
    x = np.concatenate([block.activation.numpy() for block in blocks])
    doc_id = np.concatenate([block.doc_id for block in blocks])
    assert len(blocks) > 3
    for document in range(documents):
        own = x[doc_id == document]
        expected = own.mean(0) if pooling == "mean" else own.max(0)
        np.testing.assert_allclose(found[document], expected, rtol=1e-4, atol=1e-5)
    mean = np.random.default_rng(0).gamma(1, 0.3, (documents, 40)).astype(np.float32)
    mean[3] = 0
    pooled = latents_of(plant(DataRoot(tmp_path), mean), documents, every, pooling)
    np.testing.assert_array_equal(pooled.toarray(), mean * (1 if pooling == "mean" else 2))


def test_texts_are_what_the_model_saw(tmp_path: Path, model: ResolvedModel) -> None:
    texts = ["naïve café: €5 for 😀 and 日本語", "short", "日本語" * 30]
    path = tmp_path / "texts.jsonl"
    path.write_text("\n".join(json.dumps({"text": text, "label": "x"}) for text in texts))
    config = CorpusConfig(source=str(path), max_tokens=64)
    made = corpus.tokenise(DataRoot(tmp_path), config, source=sources.resolve(config), model=model)
    seen = texts_of(made, 3, np.arange(3))
    assert seen[:2] == texts[:2]
    assert texts[2].startswith(seen[2])
    assert 10 < len(seen[2]) < len(texts[2])
