"""Losses with and without an SAE, against one document at a time and peers' definitions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from support.judged import SITE, Bench, constant, identity, metrics, rough, values
from torch import Tensor

from deconstruct.activations.reader import ActivationReader
from deconstruct.activations.stage import extract
from deconstruct.artifacts import Artifact, DataRoot
from deconstruct.config import ActivationsConfig, CorpusConfig
from deconstruct.corpus.sources import resolve
from deconstruct.corpus.stage import tokenise
from deconstruct.model.hooks import replacing
from deconstruct.model.loading import load
from deconstruct.model.resolve import ResolvedModel
from deconstruct.reference.texts import held_out_texts


def test_losses_equal_one_document_at_a_time(
    judged: Artifact,
    d_in: int,
    model: ResolvedModel,
    corpus_artifact: Artifact,
    activations_artifact: Artifact,
) -> None:
    judged_texts = held_out_texts(corpus_artifact, 12, 1)
    lm = load(model, "cpu")
    mean = torch.from_numpy(ActivationReader(activations_artifact).moments.mean).float()
    sae = rough(d_in)
    variants = ("clean", "spliced", "zero", "zero_bos_kept", "mean")
    logits: dict[str, list[Tensor]] = {variant: [] for variant in variants}
    targets, streams = [], []
    for text in judged_texts:
        ids = torch.from_numpy(text.ids)
        first = int(np.flatnonzero(text.recorded)[0])
        assert text.recorded[first:].all()
        targets.append(ids[first + 1 :])
        for variant, own in logits.items():

            def replace(x: Tensor, variant: str = variant, first: int = first) -> Tensor:
                if variant == "clean":
                    streams.append(x[0])
                    return x
                if variant == "zero":  # at every position, as SAELens ablates
                    return torch.zeros_like(x)
                tail = x[:, first:]
                put = {
                    "spliced": lambda: sae(tail[0])[None],
                    "zero_bos_kept": lambda: torch.zeros_like(tail),
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

    def recovered(ablated: str) -> float:
        return (loss[ablated] - loss["spliced"]) / (loss[ablated] - loss["clean"])

    def divergence(other: str) -> float:
        clean, theirs = (together[v].log_softmax(-1) for v in ("clean", other))
        return (clean.exp() * (clean - theirs)).sum(1).mean().item()

    same = together["clean"].argmax(1) == together["spliced"].argmax(1)
    x, whole = torch.cat(streams), rough(d_in)
    expected |= {
        "kl": divergence("spliced"),
        "delta_loss": loss["spliced"] - loss["clean"],
        "loss_recovered_bos_kept": recovered("zero_bos_kept"),
        "loss_recovered_mean": recovered("mean"),
        "ce_loss_score": recovered("zero"),
        "kl_score": 1 - divergence("spliced") / divergence("zero"),
        "top1_agreement": same.double().mean().item(),
        "fvu_with_first": (
            (x - whole(x)).double().square().sum() / (x - x.mean(0)).double().square().sum()
        ).item(),
    }
    found = metrics(judged)
    for name, value in expected.items():
        assert found[name]["value"] == pytest.approx(value, rel=1e-4), name
    assert found["loss_clean"]["n"] == sum(map(len, targets))
    assert found["fvu_with_first"]["n"] == len(x) == sum(len(text.ids) for text in judged_texts)
    assert found["kl"]["value"] > 0.001


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, texts: Path, model: ResolvedModel) -> Bench:
    """All positions are recorded: no BOS, none skipped, as where peers judge."""
    root = DataRoot(tmp_path_factory.mktemp("whole"))
    config = CorpusConfig(source=str(texts), max_tokens=24, prepend_bos="never")
    corpus = tokenise(root, config, source=resolve(config), model=model)
    sites = ActivationsConfig(sites=(str(SITE),), skip_positions=0)
    [recorded] = extract(root, sites, model=model, corpus=corpus, device="cpu").values()
    return Bench(root.path, model, corpus, recorded)


def test_scores_are_1_of_the_identity_and_0_of_zeros(whole: Bench, d_in: int) -> None:
    perfect, nothing = (values(whole(sae)) for sae in (identity(d_in), constant(torch.zeros(d_in))))
    for score in ("ce_loss_score", "kl_score", "loss_recovered_bos_kept"):
        assert perfect[score] == pytest.approx(1, abs=1e-5), score
        assert nothing[score] == pytest.approx(0, abs=1e-6), score
    assert perfect["top1_agreement"] == 1
    assert nothing["top1_agreement"] < 1
    assert perfect["loss_recovered_token_lookup"] == pytest.approx(1, abs=1e-5)


def test_scores_are_those_of_saelens(whole: Bench, d_in: int) -> None:
    """Its `get_recons_loss` written anew: hooks at all positions, softmax and logarithm apart."""
    sae, lm = rough(d_in), load(whole.model, "cpu")
    hooks = {
        "clean": lambda x: x,
        "recons": lambda x: sae(x[0])[None],
        "zero": torch.zeros_like,
    }
    sums = dict.fromkeys(("clean", "recons", "zero", "kl_recons", "kl_zero", "n"), 0.0)
    for text in held_out_texts(whole.corpus, 12, 0):
        ids = torch.from_numpy(text.ids)[None]
        logits = {}
        for name, hook in hooks.items():
            with torch.inference_mode(), replacing(lm, SITE, hook):
                logits[name] = lm(input_ids=ids).logits
            log = torch.nn.functional.log_softmax(logits[name][:, :-1], dim=-1)
            sums[name] -= log.gather(-1, ids[:, 1:, None]).sum().item()
        clean = torch.nn.functional.softmax(logits["clean"], dim=-1)
        for name in ("recons", "zero"):
            other = torch.nn.functional.softmax(logits[name], dim=-1)
            each = (clean * (torch.log(clean) - torch.log(other))).sum(-1)
            sums[f"kl_{name}"] += each[:, :-1].sum().item()
        sums["n"] += ids.shape[1] - 1
    found = values(whole(sae))
    expected = {
        "loss_clean": sums["clean"] / sums["n"],
        "loss_spliced": sums["recons"] / sums["n"],
        "loss_zero": sums["zero"] / sums["n"],
        "ce_loss_score": (sums["zero"] - sums["recons"]) / (sums["zero"] - sums["clean"]),
        "kl": sums["kl_recons"] / sums["n"],
        "kl_score": (sums["kl_zero"] - sums["kl_recons"]) / sums["kl_zero"],
    }
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=1e-3, abs=1e-5), name
    assert found["ce_loss_score"] == found["loss_recovered_bos_kept"]  # nothing is kept
