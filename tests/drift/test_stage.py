"""How far the documents since are from those that the SAE was trained among."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import entropy
from support.growing import TRAINED, Home

from deconstruct.activations import stage as activations
from deconstruct.activations.reader import ActivationReader
from deconstruct.artifacts import Artifact
from deconstruct.config import ActivationsConfig, EvaluationConfig
from deconstruct.drift import stage as drift
from deconstruct.drift.stage import jensen_shannon
from deconstruct.evaluation.stage import evaluate
from deconstruct.reference.stage import measure
from deconstruct.sae import files
from deconstruct.sae import stage as sae


def test_drift_of_a_transcoder(growing: Home, texts: Path, grown: Path) -> None:
    """FVU of what it writes, on either side, against sums over its activations taken at once."""
    sites = ActivationsConfig(sites=("1.resid_pre", "2.mlp_out"), shard_tokens=512)

    def record(of: Artifact) -> list[Artifact]:
        made = activations.extract(
            growing.root, sites, model=growing.model, corpus=of, device="cpu"
        )
        return list(made.values())

    base = growing.read(texts)
    config = TRAINED.model_copy(update={"output_site": "2.mlp_out", "skip_connection": True})
    onto = record(base)[1]
    coder = sae.train(growing.root, config, activations=record(base)[0], output=onto, device="cpu")
    more = growing.read(grown, base)
    read, wanted = record(more)
    firings = growing.encode(coder, read, more)
    reference = drift.reference_of(growing.root, more, coder)
    assert reference is not None
    assert reference.key == base.key
    compared = {"reference": reference, "activations": read, "sae": coder, "latents": firings}
    made = drift.compare(growing.root, EvaluationConfig(), **compared, output=wanted, device="cpu")
    own = drift.recipe(EvaluationConfig(), **compared, output=wanted)
    assert own.key != drift.recipe(EvaluationConfig(), **compared).key

    settings = EvaluationConfig(max_documents=4, bootstrap=20)
    alone = measure(
        growing.root, settings, model=growing.model, corpus=more, activations=wanted, device="cpu"
    )
    judged = evaluate(
        growing.root, settings, model=growing.model, reference=alone, sae=coder, latents=firings,
        device="cpu",
    )  # fmt: skip
    assert judged.manifest.inputs["activations"] == read.key  # not those it was trained on
    beside = sae.output_of(growing.root, coder, read)
    assert beside is not None
    assert beside.key == wanted.key

    dictionary = files.load(coder.path)
    mean = torch.from_numpy(ActivationReader(onto).moments.mean)
    sums = {True: np.zeros(2), False: np.zeros(2)}
    for split in ("train", "test"):
        pairs = zip(
            *(ActivationReader(a, split).rows_in_order() for a in (read, wanted)), strict=True
        )
        for source, target in pairs:
            y = target.activation.double()
            error = (dictionary(source.activation).double() - y).square().sum(1).numpy()
            squares = (y - mean).square().sum(1).numpy()
            for new in (True, False):
                rows = (source.doc_id >= 120) == new
                if new or split == "test":
                    sums[new] += error[rows].sum(), squares[rows].sum()
    assert made.facts["fvu_train_mean"] == pytest.approx(sums[True][0] / sums[True][1], rel=1e-5)
    assert made.facts["reference_fvu_train_mean"] == pytest.approx(
        sums[False][0] / sums[False][1], rel=1e-5
    )


def test_the_divergence_of_two_distributions() -> None:
    """Against its definition: the entropy of the mean less the mean of the entropies, in bits."""
    draw = np.random.default_rng(0)
    for _ in range(20):
        a, b = draw.poisson(2.0, (2, 50)).astype(np.float64)
        p, q = a / a.sum(), b / b.sum()
        want = entropy((p + q) / 2, base=2) - (entropy(p, base=2) + entropy(q, base=2)) / 2
        assert jensen_shannon(a, b) == pytest.approx(want, abs=1e-12)
    assert jensen_shannon(np.array([3.0, 0.0]), np.array([0.0, 1.0])) == 1.0
    assert jensen_shannon(np.array([3.0, 1.0]), np.array([6.0, 2.0])) == pytest.approx(0, abs=1e-15)


def test_a_latent_that_is_silent_before_and_since_has_not_drifted(
    growing: Home, texts: Path, grown: Path
) -> None:
    """A tenth of new documents beside all others: what the sides differ in, their size, is none."""
    base = growing.read(texts)
    wide = TRAINED.model_copy(update={"d_sae": 512, "tokens": 512})  # many latents never fire
    coder = sae.train(growing.root, wide, activations=growing.record(base), device="cpu")
    more = growing.read(grown, base)
    recorded = growing.record(more)
    firings = growing.encode(coder, recorded, more)
    made = drift.compare(
        growing.root, EvaluationConfig(), reference=base, activations=recorded, sae=coder,
        latents=firings, device="cpu",
    )  # fmt: skip
    moved = made.table("latent_drift.parquet").to_pandas()
    silent = (moved["reference_density"] == 0) & (moved["current_density"] == 0)
    assert silent.sum() > 20
    assert (moved["log2_ratio"][silent] == 0).all()
    grew = moved["current_density"] > moved["reference_density"]
    assert (moved["log2_ratio"][grew] > 0).all()
    fell = moved["current_density"] < moved["reference_density"]
    assert fell.any()
    assert (moved["log2_ratio"][fell] < 0).all()
