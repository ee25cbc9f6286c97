"""The evaluation stage against brute force, on a real small model and SAEs of known worth."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from support.judged import SITE, Bench, constant, identity, metrics, rough, values
from torch import Tensor

from deconstruct.activations import stage as activations
from deconstruct.activations.reader import ActivationReader
from deconstruct.activations.shards import Rows
from deconstruct.artifacts import Artifact
from deconstruct.common.errors import ConfigError
from deconstruct.config import ActivationsConfig, EvaluationConfig
from deconstruct.evaluation import stage as evaluate
from deconstruct.evaluation.reconstruction import fidelity
from deconstruct.model.loading import load
from deconstruct.model.resolve import ResolvedModel
from deconstruct.reference import passes, texts
from deconstruct.reference.texts import held_out_texts
from deconstruct.sae.autoencoder import SparseAutoencoder


def test_identity_is_perfect(bench: Bench, d_in: int) -> None:
    found = values(bench(identity(d_in)))
    assert found["fvu"] == pytest.approx(0, abs=1e-12)
    assert found["fvu_with_first"] == pytest.approx(0, abs=1e-12)
    assert found["explained_variance"] == pytest.approx(1)
    assert found["cosine"] == pytest.approx(1)
    assert found["relative_reconstruction_bias"] == pytest.approx(1)
    assert found["loss_recovered_bos_kept"] == pytest.approx(1, abs=1e-6)
    assert found["loss_recovered_mean"] == pytest.approx(1, abs=1e-6)
    assert found["kl"] == pytest.approx(0, abs=1e-6)
    assert found["loss_spliced"] == pytest.approx(found["loss_clean"], abs=1e-6)
    for ablated in ("loss_zero", "loss_mean"):  # else there is nothing to recover
        assert abs(found[ablated] - found["loss_clean"]) > 1e-3


def test_zeros_and_the_mean_recover_nothing(
    bench: Bench, d_in: int, activations_artifact: Artifact
) -> None:
    nothing = values(bench(constant(torch.zeros(d_in))))
    assert nothing["loss_recovered_bos_kept"] == pytest.approx(0, abs=1e-6)
    assert nothing["loss_spliced"] == pytest.approx(nothing["loss_zero_bos_kept"], abs=1e-6)
    assert abs(nothing["loss_zero_bos_kept"] - nothing["loss_zero"]) > 1e-3  # zeros at BOS too
    assert nothing["fvu"] > 1
    assert (nothing["dead_latents"], nothing["dead_share"]) == (2, pytest.approx(2 / 3))
    assert nothing["l0"] == 1
    mean = ActivationReader(activations_artifact).moments.mean
    average = values(bench(constant(torch.from_numpy(mean).float())))
    assert average["loss_recovered_mean"] == pytest.approx(0, abs=1e-6)
    assert average["fvu"] == pytest.approx(1, abs=0.05)  # not 1: the mean is the train rows'
    assert average["fvu"] > 1
    assert average["delta_loss"] == pytest.approx(average["loss_mean"] - average["loss_clean"])


def test_reconstruction_equals_brute_force(
    judged: Artifact, d_in: int, activations_artifact: Artifact
) -> None:
    blocks = list(ActivationReader(activations_artifact, "test").rows_in_order())
    x = torch.cat([block.activation for block in blocks]).double()
    sae = rough(d_in)
    dense = sae.encode(x.float())
    out = (dense @ sae.W_dec + sae.b_dec).double()
    error, squares = (x - out).square().sum(1), (x - x.mean(0)).square().sum(1)
    found = metrics(judged)
    expected = {
        "fvu": error.sum() / squares.sum(),
        "explained_variance": 1 - (x - out).square().sum() / (len(x) * x.var(0, False).sum()),
        "mse": (x - out).square().mean(),
        "cosine": torch.cosine_similarity(x, out).mean(),
        "relative_reconstruction_bias": out.square().sum() / (x * out).sum(),
        "l0": (dense > 0).double().sum(1).mean(),
    }
    for name, value in expected.items():
        assert found[name]["value"] == pytest.approx(value.item(), rel=1e-5), name
        assert found[name]["ci_low"] <= found[name]["value"] <= found[name]["ci_high"], name
        assert found[name]["n"] == len(x)
    table = pq.read_table(judged.file("token_errors.parquet"), page_checksum_verification=True)
    token = np.concatenate([block.token_index for block in blocks])
    order = np.argsort(token)
    np.testing.assert_array_equal(table["token_index"], token[order])
    np.testing.assert_allclose(table["squared_error"], error.numpy()[order], rtol=1e-4)
    np.testing.assert_allclose(table["squared_norm"], x.square().sum(1).numpy()[order], rtol=1e-5)
    assert judged.manifest.files["token_errors.parquet"].rows == len(x)


def test_the_model_runs_as_it_was_recorded(
    bench: Bench, judged: Artifact, activations_artifact: Artifact
) -> None:
    whole = {name: artifact_of(bench, judged, name) for name in ("reference", "sae", "latents")}
    coarse, free = (replace(bench.model, dtype=dtype) for dtype in ("bfloat16", "auto"))
    fresh = EvaluationConfig(max_documents=12, seed=7)
    with pytest.raises(ConfigError, match=r"dtype = .bfloat16. is not what .* in \(float32\)"):
        evaluate.evaluate(bench.root, fresh, model=coarse, **whole, device="cpu")
    made = evaluate.evaluate(bench.root, fresh, model=free, **whole, device="cpu")
    assert values(made)["loss_clean"] == values(judged)["loss_clean"]


def artifact_of(bench: Bench, judged: Artifact, stage: str) -> Artifact:
    key = judged.manifest.inputs[stage]
    return next(artifact for artifact in bench.root.artifacts() if artifact.key == key)


def test_only_held_out_documents(
    corpus_artifact: Artifact, judged: Artifact, activations_artifact: Artifact
) -> None:
    documents = pq.read_table(corpus_artifact.file("documents.parquet")).to_pylist()
    test = [d["doc_id"] for d in documents if d["split"] == "test"]
    whole = held_out_texts(corpus_artifact, None, 1)
    assert [text.doc_id for text in whole] == test
    tokens = pq.read_table(corpus_artifact.file("tokens.parquet"))
    for text in whole:
        own = tokens.filter(np.asarray(tokens["doc_id"]) == text.doc_id)
        np.testing.assert_array_equal(text.ids, own["token_id"])
        special = np.asarray(own["special"])
        np.testing.assert_array_equal(text.recorded, ~special & (np.asarray(own["position"]) >= 1))
    recorded = sum(text.recorded.sum() for text in whole)
    assert recorded == activations_artifact.facts["test_rows"]
    some = [text.doc_id for text in held_out_texts(corpus_artifact, 5, 1)]
    assert len(some) == 5
    assert set(some) <= set(test)
    assert (some[0], some[-1]) == (test[0], test[-1])
    errors, of_tokens = judged.file("token_errors.parquet"), corpus_artifact.file("tokens.parquet")
    foreign = duckdb.execute(
        f"SELECT count(*) FROM '{errors}' JOIN '{of_tokens}' USING (token_index)"
        f" JOIN '{corpus_artifact.file('documents.parquet')}' USING (doc_id) WHERE split = 'train'"
    ).fetchall()
    assert foreign == [(0,)]


def test_batches_do_not_matter(
    bench: Bench, judged: Artifact, d_in: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(texts, "BATCH_TOKENS", 1)
    monkeypatch.setattr(passes, "CPU_BYTES", 1)
    other = Bench(tmp_path, bench.model, bench.corpus, bench.recorded)
    config = ActivationsConfig(sites=(str(SITE),), shard_tokens=256, skip_positions=1)
    other.recorded = activations.extract(
        other.root, config, model=bench.model, corpus=bench.corpus, device="cpu"
    )[SITE]
    assert len(other.recorded.files("test-*.parquet")) > len(bench.recorded.files("test-*.parquet"))
    found = values(other(rough(d_in)))
    for name, value in values(judged).items():
        assert found[name] == pytest.approx(value, rel=1e-4), name


class Shifted(ActivationReader):
    """The same activations with a constant added."""

    def __init__(self, artifact: Artifact, by: Tensor) -> None:
        super().__init__(artifact, "test")
        self.by = by

    def rows_in_order(self) -> Any:
        for block in super().rows_in_order():
            rows = Rows(block.token_index, block.doc_id, block.position, block.token_id)
            yield type(block)(rows, block.activation + self.by)


def test_a_constant_shift_changes_no_error(
    activations_artifact: Artifact, corpus_artifact: Artifact, d_in: int
) -> None:
    by = torch.linspace(-30, 50, d_in)
    sae = rough(d_in)
    moved = SparseAutoencoder(
        "topk",
        {**sae.weights(), "b_enc": -by @ sae.W_enc, "b_dec": sae.b_dec + by},
        sae.k,
    )
    count = corpus_artifact.facts["documents"]
    before = fidelity(ActivationReader(activations_artifact, "test"), sae, count, "cpu").documents
    after = fidelity(Shifted(activations_artifact, by), moved, count, "cpu").documents
    for name in ("error", "variance"):
        assert after[name].sum() == pytest.approx(before[name].sum(), rel=1e-3)
    ratio = [found["error"].sum() / found["variance"].sum() for found in (before, after)]
    assert ratio[0] == pytest.approx(ratio[1], rel=1e-3)
    assert after["squares_in"].sum() > 3 * before["squares_in"].sum()  # it was a real shift


def test_density_histogram_holds_every_latent_that_fires(judged: Artifact, bench: Bench) -> None:
    table = pq.read_table(judged.file("density_histogram.parquet")).to_pydict()
    found = values(judged)
    features = artifact_of(bench, judged, "latents").file("features.parquet")
    density = pq.read_table(features)["density"].to_numpy()
    assert sum(table["latents"]) + found["dead_latents"] == len(density)
    assert found["dead_share"] == pytest.approx((density == 0).mean())
    log = np.log10(density[density > 0])
    assert log.min() > -7
    for low, high, count in zip(*table.values(), strict=True):
        assert count == ((log >= low) & ((log < high) | (high == 0))).sum()
    assert metrics(judged)["dead_share"]["ci_low"] is None


def test_facts_and_bytes(bench: Bench, judged: Artifact, d_in: int, tmp_path: Path) -> None:
    assert {"fvu", "l0", "dead_share", "loss_recovered_bos_kept", "kl"} <= set(judged.facts)
    assert set(judged.facts) - set(values(judged)) == {"outlier_bound"}
    assert {n: judged.facts[n] for n in values(judged)} == pytest.approx(values(judged))
    again = Bench(tmp_path, bench.model, bench.corpus, bench.recorded)(rough(d_in))
    assert again.key == judged.key
    assert again.digest() == judged.digest()
    assert bench(rough(d_in), seed=1).key != judged.key
    assert bench(rough(d_in), max_documents=None).facts["loss_clean"] != judged.facts["loss_clean"]


def test_a_metric_that_is_no_number_is_named(
    bench: Bench, d_in: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Of a reconstruction that is zero everywhere, the bias is 0 / 0."""
    anew = Bench(tmp_path, bench.model, bench.corpus, bench.recorded)
    made = anew(constant(torch.zeros(d_in)))
    assert np.isnan(values(made)["relative_reconstruction_bias"])
    assert "relative_reconstruction_bias is undefined, as what" in caplog.text


def test_a_model_whose_end_can_not_be_told_has_no_logits(
    bench: Bench,
    d_in: int,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def load_odd(model: ResolvedModel, device: str) -> torch.nn.Module:
        loaded = load(model, device)
        loaded.lm_head.register_forward_hook(lambda module, args, output: output.square())
        return loaded

    monkeypatch.setattr("deconstruct.evaluation.stage.load", load_odd)
    made = Bench(tmp_path, bench.model, bench.corpus, bench.recorded)(rough(d_in))
    assert made.manifest.files["feature_logits.parquet"].rows == 0
    assert "no logit lens for a LlamaForCausalLM: its unembedding is no linear map" in caplog.text
