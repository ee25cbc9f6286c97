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
from torch import Tensor

from deconstruct.activations import stage as activations
from deconstruct.activations.reader import ActivationReader
from deconstruct.activations.shards import Rows
from deconstruct.artifacts import Artifact, DataRoot, Draft, Recipe
from deconstruct.common.errors import ConfigError
from deconstruct.common.site import Site
from deconstruct.config import ActivationsConfig, EvaluationConfig, LatentsConfig
from deconstruct.evaluation import splice, tables
from deconstruct.evaluation import stage as evaluate
from deconstruct.evaluation.reconstruction import fidelity
from deconstruct.latents import stage as latents
from deconstruct.model.hooks import replacing
from deconstruct.model.loading import load
from deconstruct.model.resolve import ResolvedModel
from deconstruct.sae import files
from deconstruct.sae.autoencoder import SparseAutoencoder

SITE = Site(1, "resid_post")


def identity(d_in: int) -> SparseAutoencoder:
    """x = relu(x) - relu(-x)."""
    eye = torch.eye(d_in)
    weights = {
        "W_enc": torch.cat([eye, -eye], 1),
        "b_enc": torch.zeros(2 * d_in),
        "W_dec": torch.cat([eye, -eye]),
        "b_dec": torch.zeros(d_in),
    }
    return SparseAutoencoder("relu", weights, None)


def constant(value: Tensor) -> SparseAutoencoder:
    """Gives ``value`` whatever it is given; one latent out of three ever fires."""
    weights = {
        "W_enc": torch.zeros(len(value), 3),
        "b_enc": torch.tensor([1.0, -1.0, -1.0]),
        "W_dec": torch.zeros(3, len(value)),
        "b_dec": value,
    }
    return SparseAutoencoder("relu", weights, None)


def rough(d_in: int, seed: int = 0) -> SparseAutoencoder:
    """TopK with random weights, tied."""
    W_dec = torch.randn(4 * d_in, d_in, generator=torch.Generator().manual_seed(seed))
    W_dec /= W_dec.norm(dim=1, keepdim=True)
    weights = {
        "W_enc": W_dec.T.contiguous(),
        "b_enc": torch.zeros(4 * d_in),
        "W_dec": W_dec * 0.5,
        "b_dec": torch.zeros(d_in),
    }
    return SparseAutoencoder("topk", weights, 8)


class Bench:
    """Evaluates SAEs on the small model's activations."""

    def __init__(
        self, home: Path, model: ResolvedModel, corpus: Artifact, recorded: Artifact
    ) -> None:
        self.root = DataRoot(home)
        self.model, self.corpus, self.recorded = model, corpus, recorded

    def __call__(self, sae: SparseAutoencoder, **fields: Any) -> Artifact:
        def write(draft: Draft) -> None:
            with draft.writing(files.WEIGHTS) as path:
                files.save_weights(sae, path)
            draft.write_json(files.CONFIG, files.config_of(sae, {}))

        weights = {n: str(w.double().norm().item()) for n, w in sae.weights().items()}
        made = self.root.make(Recipe("sae", 1, {"k": sae.k}, weights), write)
        firings = latents.encode(
            self.root,
            LatentsConfig(),
            sae=made,
            activations=self.recorded,
            corpus=self.corpus,
            device="cpu",
        )
        config = EvaluationConfig.model_validate({"max_documents": 12, **fields})
        return evaluate.evaluate(
            self.root, config, model=self.model, corpus=self.corpus, activations=self.recorded,
            sae=made, latents=firings, device="cpu",
        )  # fmt: skip


@pytest.fixture(scope="module")
def bench(
    tmp_path_factory: pytest.TempPathFactory,
    model: ResolvedModel,
    corpus_artifact: Artifact,
    activations_artifact: Artifact,
) -> Bench:
    return Bench(tmp_path_factory.mktemp("bench"), model, corpus_artifact, activations_artifact)


@pytest.fixture(scope="module")
def d_in(activations_artifact: Artifact) -> int:
    return ActivationReader(activations_artifact).d_in


@pytest.fixture(scope="module")
def judged(bench: Bench, d_in: int) -> Artifact:
    return bench(rough(d_in))


def metrics(evaluation: Artifact) -> dict[str, dict[str, Any]]:
    table = pq.read_table(evaluation.file("metrics.parquet"), page_checksum_verification=True)
    assert table.schema.equals(tables.SAE_METRICS.arrow)
    return {row["metric"]: row for row in table.to_pylist()}


def values(evaluation: Artifact) -> dict[str, float]:
    return {name: row["value"] for name, row in metrics(evaluation).items()}


def test_identity_is_perfect(bench: Bench, d_in: int) -> None:
    found = values(bench(identity(d_in)))
    assert found["fvu"] == pytest.approx(0, abs=1e-12)
    assert found["fvu_with_first"] == pytest.approx(0, abs=1e-12)
    assert found["explained_variance"] == pytest.approx(1)
    assert found["cosine"] == pytest.approx(1)
    assert found["relative_reconstruction_bias"] == pytest.approx(1)
    assert found["loss_recovered"] == pytest.approx(1, abs=1e-6)
    assert found["loss_recovered_mean"] == pytest.approx(1, abs=1e-6)
    assert found["kl"] == pytest.approx(0, abs=1e-6)
    assert found["loss_spliced"] == pytest.approx(found["loss_clean"], abs=1e-6)
    for ablated in ("loss_zero", "loss_mean"):  # else there is nothing to recover
        assert abs(found[ablated] - found["loss_clean"]) > 1e-3


def test_zeros_and_the_mean_recover_nothing(
    bench: Bench, d_in: int, activations_artifact: Artifact
) -> None:
    nothing = values(bench(constant(torch.zeros(d_in))))
    assert nothing["loss_recovered"] == pytest.approx(0, abs=1e-6)
    assert nothing["loss_spliced"] == pytest.approx(nothing["loss_zero"], abs=1e-6)
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


def test_losses_equal_one_document_at_a_time(
    judged: Artifact,
    d_in: int,
    model: ResolvedModel,
    corpus_artifact: Artifact,
    activations_artifact: Artifact,
) -> None:
    texts = evaluate.held_out_texts(corpus_artifact, 12, 1)
    lm = load(model, "cpu")
    mean = torch.from_numpy(ActivationReader(activations_artifact).moments.mean).float()
    sae = rough(d_in)
    logits: dict[str, list[Tensor]] = {"clean": [], "spliced": [], "zero": [], "mean": []}
    targets, streams = [], []
    for text in texts:
        ids = torch.from_numpy(text.ids)
        first = int(np.flatnonzero(text.recorded)[0])
        assert text.recorded[first:].all()
        targets.append(ids[first + 1 :])
        for variant, own in logits.items():

            def replace(x: Tensor, variant: str = variant, first: int = first) -> Tensor:
                if variant == "clean":
                    streams.append(x[0])
                    return x
                tail = x[:, first:]
                put = {
                    "spliced": lambda: sae(tail[0])[None],
                    "zero": lambda: torch.zeros_like(tail),
                    "mean": lambda: mean.expand_as(tail),
                }[variant]()
                return torch.cat([x[:, :first], put], 1)

            with torch.inference_mode(), replacing(lm, SITE, replace):
                own.append(lm(input_ids=ids[None]).logits[0, first:-1].double())
    together = {variant: torch.cat(own) for variant, own in logits.items()}
    expected = {
        f"loss_{variant}": torch.nn.functional.cross_entropy(own, torch.cat(targets)).item()
        for variant, own in together.items()
    }
    loss = {name.removeprefix("loss_"): value for name, value in expected.items()}
    clean, spliced = (together[v].log_softmax(-1) for v in ("clean", "spliced"))
    x, whole = torch.cat(streams), rough(d_in)
    expected |= {
        "kl": (clean.exp() * (clean - spliced)).sum(1).mean().item(),
        "delta_loss": loss["spliced"] - loss["clean"],
        "loss_recovered": (loss["zero"] - loss["spliced"]) / (loss["zero"] - loss["clean"]),
        "loss_recovered_mean": (loss["mean"] - loss["spliced"]) / (loss["mean"] - loss["clean"]),
        "fvu_with_first": (
            (x - whole(x)).double().square().sum() / (x - x.mean(0)).double().square().sum()
        ).item(),
    }
    found = metrics(judged)
    for name, value in expected.items():
        assert found[name]["value"] == pytest.approx(value, rel=1e-4), name
    assert found["loss_clean"]["n"] == sum(map(len, targets))
    assert found["fvu_with_first"]["n"] == len(x) == sum(len(text.ids) for text in texts)
    assert found["kl"]["value"] > 0.001


def test_the_model_runs_as_it_was_recorded(
    bench: Bench, judged: Artifact, activations_artifact: Artifact
) -> None:
    whole = {name: artifact_of(bench, judged, name) for name in ("sae", "latents")}
    whole |= {"corpus": bench.corpus, "activations": bench.recorded}
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
    texts = evaluate.held_out_texts(corpus_artifact, None, 1)
    assert [text.doc_id for text in texts] == test
    tokens = pq.read_table(corpus_artifact.file("tokens.parquet"))
    for text in texts:
        own = tokens.filter(np.asarray(tokens["doc_id"]) == text.doc_id)
        np.testing.assert_array_equal(text.ids, own["token_id"])
        special = np.asarray(own["special"])
        np.testing.assert_array_equal(text.recorded, ~special & (np.asarray(own["position"]) >= 1))
    recorded = sum(text.recorded.sum() for text in texts)
    assert recorded == activations_artifact.facts["test_rows"]
    some = [text.doc_id for text in evaluate.held_out_texts(corpus_artifact, 5, 1)]
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
    monkeypatch.setattr(splice, "BATCH_TOKENS", 1)
    monkeypatch.setattr(splice, "CPU_BYTES", 1)
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
    assert {"fvu", "l0", "dead_share", "loss_recovered", "kl"} <= set(judged.facts)
    assert judged.facts == pytest.approx(values(judged))
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
