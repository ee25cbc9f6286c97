"""Losses with and without an SAE, against one document at a time and peers' definitions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support.judged import SITE, metrics, rough
from torch import Tensor

from deconstruct.activations.reader import ActivationReader
from deconstruct.artifacts import Artifact
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
