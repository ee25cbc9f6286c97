"""The losses without an SAE, against a writing of their own; made once for all SAEs of a site."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pytest
import torch
from support.judged import SITE, Bench, identity, rough, values
from torch import Tensor, nn

from deconstruct.activations.reader import ActivationReader
from deconstruct.artifacts import Artifact
from deconstruct.common.errors import ConfigError
from deconstruct.config import EvaluationConfig
from deconstruct.model.hooks import replacing
from deconstruct.model.loading import load
from deconstruct.model.resolve import ResolvedModel
from deconstruct.reference import floors, stage
from deconstruct.reference.passes import Passes
from deconstruct.reference.texts import held_out_texts

CONFIG = EvaluationConfig(max_documents=12)


@pytest.fixture(scope="module", autouse=True)
def _fewer_components_than_the_model_is_wide() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(floors, "COMPONENTS", 5)
        yield


@pytest.fixture(scope="module")
def bench(
    tmp_path_factory: pytest.TempPathFactory,
    model: ResolvedModel,
    corpus_artifact: Artifact,
    activations_artifact: Artifact,
) -> Bench:
    home = tmp_path_factory.mktemp("reference")
    return Bench(home, model, corpus_artifact, activations_artifact)


@pytest.fixture(scope="module")
def made(bench: Bench) -> Artifact:
    return bench.alone(CONFIG)


def train_rows(activations: Artifact) -> tuple[Tensor, np.ndarray]:
    blocks = list(ActivationReader(activations).rows_in_order())
    token_id = np.concatenate([block.token_id for block in blocks])
    return torch.cat([block.activation for block in blocks]), token_id


def test_each_loss_equals_one_document_at_a_time(bench: Bench, made: Artifact) -> None:
    x, token_id = train_rows(bench.recorded)
    mean = x.double().mean(0).float()
    _, _, axes = torch.linalg.svd(x.double() - x.double().mean(0), full_matrices=False)
    axes = axes[: floors.COMPONENTS].float()

    def lookup(ids: Tensor) -> Tensor:
        own = [x[torch.from_numpy(token_id == int(one))] for one in ids]
        return torch.stack([rows.mean(0) if len(rows) else mean for rows in own])

    floor: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
        "zero_bos_kept": lambda rows, ids: torch.zeros_like(rows),
        "mean": lambda rows, ids: mean.expand_as(rows),
        "token_lookup": lambda rows, ids: lookup(ids),
        "pca": lambda rows, ids: mean + (rows - mean) @ axes.T @ axes,
    }
    lm = load(bench.model, "cpu")
    rows = {row["doc_id"]: row for row in made.table("document_losses.parquet").to_pylist()}
    texts = held_out_texts(bench.corpus, 12, 1)
    assert list(rows) == sorted(text.doc_id for text in texts)
    vocabulary = len(lm.get_input_embeddings().weight)  # type: ignore[operator]
    counts = np.bincount(token_id, minlength=vocabulary).astype(float)
    kinds = (counts > 0).sum()
    share = np.where(counts > 0, counts, kinds / (vocabulary - kinds)) / (counts.sum() + kinds)
    assert share.sum() == pytest.approx(1)
    for text in texts:
        ids, at = torch.from_numpy(text.ids), torch.from_numpy(text.recorded)
        targets, chosen = ids[1:], at[:-1]
        expected = {"unigram": -np.log(share[targets[chosen].numpy()]).sum()}

        def run(put: Callable[[Tensor], Tensor], ids: Tensor = ids) -> Tensor:
            with torch.inference_mode(), replacing(lm, SITE, put):
                return lm(input_ids=ids[None]).logits[0, :-1].double()

        def replaced(of: Callable[[Tensor, Tensor], Tensor], at=at, ids=ids):  # type: ignore[no-untyped-def]
            def put(stream: Tensor) -> Tensor:
                changed = stream.clone()
                changed[0, at] = of(stream[0, at], ids[at])
                return changed

            return put

        logits = {"clean": run(lambda stream: stream), "zero": run(torch.zeros_like)}
        logits |= {name: run(replaced(of)) for name, of in floor.items()}
        for name, own in logits.items():
            loss = nn.functional.cross_entropy(own[chosen], targets[chosen], reduction="sum")
            expected[name] = loss.item()
        clean, zero = (logits[name][chosen].log_softmax(-1) for name in ("clean", "zero"))
        expected["kl_zero"] = (clean.exp() * (clean - zero)).sum().item()
        expected["predictions"] = int(chosen.sum())
        for name, value in expected.items():
            assert rows[text.doc_id][name] == pytest.approx(value, rel=2e-4), name


def test_facts_are_of_the_train_rows(bench: Bench, made: Artifact) -> None:
    x, _ = train_rows(bench.recorded)
    distance = (x.double() - x.double().mean(0)).square().sum(1)
    assert made.facts["fit_rows"] == len(x)
    assert made.facts["median_distance"] == pytest.approx(np.median(distance), rel=1e-6)
    table = made.table("document_losses.parquet")
    predictions = pc.sum(table["predictions"]).as_py()
    assert made.facts["pca"] == pytest.approx(pc.sum(table["pca"]).as_py() / predictions)
    # A token known alone tells more than none, and guessing by frequency more than evenly.
    assert made.facts["unigram"] < np.log(len(set(held_out_ids(bench)))) + 3


def held_out_ids(bench: Bench) -> list[int]:
    return [int(one) for text in held_out_texts(bench.corpus, 12, 1) for one in text.ids]


def test_another_sae_of_the_site_runs_no_pass_without_one(
    tmp_path: Path, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clean pass that the divergence needs, and the spliced one: two a batch, and no more."""
    own = Bench(tmp_path, bench.model, bench.corpus, bench.recorded)
    d_in = ActivationReader(bench.recorded).d_in
    first = own(rough(d_in))
    alone = own.alone(CONFIG)
    assert first.manifest.inputs["reference"] == alone.key

    def not_again(*_: object) -> nn.Module:
        pytest.fail("the losses without an SAE are measured again")

    passes: list[bool] = []
    logits = Passes._logits

    def counted(self: Passes, ids: Tensor, put: Callable[[Tensor], Tensor] | None) -> Tensor:
        passes.append(put is None)
        return logits(self, ids, put)

    monkeypatch.setattr(stage, "load", not_again)
    monkeypatch.setattr(Passes, "_logits", counted)
    second = own(identity(d_in), bootstrap=20, outlier_multiple=5, seed=3)
    assert second.manifest.inputs["reference"] == alone.key
    assert passes.count(True) == passes.count(False) == len(passes) / 2
    assert values(second)["loss_zero"] == values(first)["loss_zero"]
    assert own.alone(CONFIG.model_copy(update={"bootstrap": 77})).key == alone.key
    with pytest.raises(BaseException, match="measured again"):  # other documents are others
        own.alone(EvaluationConfig(max_documents=5))


def test_the_same_bytes_on_any_number_of_cores(
    tmp_path: Path, bench: Bench, made: Artifact
) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1 if threads > 1 else 2)
    try:
        again = Bench(tmp_path, bench.model, bench.corpus, bench.recorded).alone(CONFIG)
    finally:
        torch.set_num_threads(threads)
    assert again.digest() == made.digest()
    assert again.facts == made.facts


def test_a_bounded_number_of_rows_is_fitted_on(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = ActivationReader(bench.recorded)
    assert len(reader.groups) > 3
    monkeypatch.setattr(floors, "FIT_ROWS", reader.rows // 2)
    found = floors.fit(reader, np.arange(400), 400, "cpu")
    assert 0 < found.rows <= reader.rows // 2 + max(reader.group_rows)
    np.testing.assert_array_equal(found.mean, reader.moments.mean)  # that is of all of them


def test_unseen_tokens_share_what_witten_and_bell_leave_them() -> None:
    share = np.exp(floors.witten_bell(np.array([6, 0, 2, 0])))
    np.testing.assert_allclose(share, [0.6, 0.1, 0.2, 0.1])
    np.testing.assert_allclose(np.exp(floors.witten_bell(np.array([3, 1]))), [0.75, 0.25])


def test_another_dtype_than_was_recorded_is_refused(bench: Bench) -> None:
    with pytest.raises(ConfigError, match=r"dtype = .bfloat16. is not what .* in \(float32\)"):
        stage.measure(
            bench.root, EvaluationConfig(max_documents=3),
            model=replace(bench.model, dtype="bfloat16"), corpus=bench.corpus,
            activations=bench.recorded, device="cpu",
        )  # fmt: skip
