"""Training: it learns, it honours its seed, and it resumes to the same bytes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from support.planted_dictionary import OTHERS, Planted, settings

from deconstruct.activations.reader import ActivationReader
from deconstruct.activations.shards import Moments
from deconstruct.activations.stage import extract
from deconstruct.artifacts import Artifact, DataRoot
from deconstruct.common.errors import ConfigError, DataError
from deconstruct.config import ActivationsConfig, EvaluationConfig, LatentsConfig, SaeConfig
from deconstruct.evaluation.stage import evaluate
from deconstruct.latents.stage import encode
from deconstruct.model.resolve import ResolvedModel
from deconstruct.reference.stage import measure
from deconstruct.sae import stage
from deconstruct.sae.files import load
from deconstruct.sae.initial import initial_weights
from deconstruct.sae.rates import learning_rates
from deconstruct.sae.spec import StepSpec
from deconstruct.sae.training import checkpoint, trainer
from deconstruct.sae.training.loop import Output, train


def matched(sae_directions: torch.Tensor, planted: Planted) -> torch.Tensor:
    """For each planted direction, the cosine of its best match in the dictionary."""
    unit = sae_directions / sae_directions.norm(dim=1, keepdim=True)
    return (planted.directions @ unit.T).max(1).values


@pytest.mark.parametrize("device_engine", ["sparse", "dense"])
def test_topk_recovers_a_planted_dictionary(
    tmp_path: Path, device_engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = Planted(512)
    if device_engine == "dense":
        from deconstruct.sae.engines.dense import DenseEngine

        monkeypatch.setattr(
            trainer,
            "build_engine",
            lambda spec, w, r, device, dtype: DenseEngine(spec, w, r, "cpu", torch.float32),
        )
    sae, rows = train(data, data.moments, settings(), tmp_path)
    held_out = data.at(10_000)
    residual = (sae(held_out) - held_out).square().sum() / (
        (held_out - held_out.mean(0)).square().sum()
    )
    assert float(residual) < 0.05
    assert float((matched(sae.W_dec, data) > 0.95).float().mean()) > 0.9
    assert rows[-1].fvu == pytest.approx(float(residual), abs=0.02)
    assert rows[-1].l0 <= 3
    assert rows[-1].fvu < rows[0].fvu / 5


@pytest.mark.parametrize("architecture", ["batchtopk", "matryoshka", "jumprelu", "gated"])
def test_the_others_recover_a_planted_dictionary(tmp_path: Path, architecture: str) -> None:
    """The trained SAE, with the threshold that it has learned, on data it has not seen."""
    data = Planted(512)
    more = {"penalty": 0.004} if architecture == "jumprelu" else {}
    config = settings(architecture=architecture, **more)
    sae, rows = train(data, data.moments, config, tmp_path)
    held_out = data.at(10_000)
    residual = (sae(held_out) - held_out).square().sum() / (
        (held_out - held_out.mean(0)).square().sum()
    )
    l0 = float((sae.encode(held_out) > 0).float().sum(1).mean())
    assert float((matched(sae.W_dec, data) > 0.9).float().mean()) > 0.9
    assert float(residual) < 0.12
    assert rows[-1].fvu == pytest.approx(float(residual), abs=0.03)
    assert l0 == pytest.approx(rows[-1].l0, rel=0.1)
    if architecture in ("batchtopk", "matryoshka"):
        assert l0 == pytest.approx(3, rel=0.1)


@pytest.mark.parametrize(("architecture", "target"), [("relu", 4), ("gated", 4), ("jumprelu", 3)])
def test_the_penalty_is_steered_to_a_target(
    tmp_path: Path, architecture: str, target: float
) -> None:
    """From a default penalty that ends elsewhere; the planted L0 is 3."""
    data = Planted(512)
    config = settings(architecture=architecture, target_l0=target, tokens=512 * 250)
    _, rows = train(data, data.moments, config, tmp_path)
    assert rows[-1].l0 == pytest.approx(target, rel=0.15)
    assert rows[-1].fvu < 0.5


def test_a_transcoder_learns_the_map_between_two_sites(tmp_path: Path) -> None:
    """The output is a sparse function of the input, and a linear one besides."""

    class Onto(Planted):
        def at(self, step: int) -> torch.Tensor:
            x = super().at(step) - self.centre
            code = (x @ self.directions.T - 0.9).relu()
            return code @ self.directions.roll(7, 1) + x.roll(3, 1) * 0.5 - 3

    data, onto = Planted(512), Onto(512)
    rows = torch.cat([onto.at(-step) for step in range(1, 5)]).double().numpy()
    output = Output(onto, Moments(len(rows), rows.mean(0), rows.var(0)))
    ends = []
    for connected in (False, True):
        config = settings(k=6, output_site="2.mlp_out", skip_connection=connected, tokens=512 * 250)
        folder = _folder(tmp_path / str(connected))
        sae, log = train(data, data.moments, config, folder, output=output)
        x, y = data.at(9999), onto.at(9999)
        residual = (sae(x) - y).square().sum() / (y - y.mean(0)).square().sum()
        assert log[-1].fvu == pytest.approx(float(residual), abs=0.03)
        ends.append(float(residual))
    assert ends[1] < 0.25
    assert ends[1] < ends[0] - 0.02


def test_relu_recovers_a_planted_dictionary(tmp_path: Path) -> None:
    data = Planted(512)
    ends = []
    for coefficient in (0.1, 0.4):
        config = settings(architecture="relu", penalty=coefficient)
        sae, rows = train(data, data.moments, config, _folder(tmp_path / str(coefficient)))
        assert float((matched(sae.W_dec, data) > 0.9).float().mean()) > 0.9
        ends.append(rows[-1])
    assert ends[0].fvu < 0.1 < ends[1].fvu  # a stronger penalty buys sparsity with error
    assert ends[1].l0 < 6 < ends[0].l0 < 15


class _Killed(BaseException):
    pass


@pytest.mark.parametrize(
    ("architecture", "kill_at"),
    [
        *(("topk", step) for step in (1, 37, 79)),
        *((other, 37) for other in OTHERS),
        ("jumprelu", 79),
        ("topk adam", 37),
        ("gated adam", 37),
    ],
)
def test_a_resumed_training_ends_with_the_same_bytes(
    tmp_path: Path, architecture: str, kill_at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    architecture, _, optimizer = architecture.partition(" ")
    config = settings(
        tokens=512 * 80,
        architecture=architecture,
        optimizer=optimizer or "sparse_adam",
        dead_after_tokens=2048,
    )
    monkeypatch.setattr(checkpoint, "EVERY_SECONDS", -1.0)  # after every step
    straight, log = train(Planted(512), Planted(512).moments, config, _folder(tmp_path / "a"))

    class Killing(Planted):
        def at(self, step: int) -> torch.Tensor:
            if step == kill_at:
                raise _Killed
            return super().at(step)

    folder = _folder(tmp_path / "b")
    with pytest.raises(_Killed):
        train(Killing(512), Planted(512).moments, config, folder)
    torch.manual_seed(kill_at)  # the ambient seed is nothing to it
    data = Planted(512)
    resumed, again = train(data, data.moments, config, folder)
    assert min(data.calls) == kill_at
    for name, weight in straight.weights().items():
        assert torch.equal(weight, resumed.weights()[name]), name
    assert again == log


def test_the_seed_decides_and_the_ambient_seed_does_not(tmp_path: Path) -> None:
    found = []
    for number, (seed, ambient) in enumerate([(0, 1), (0, 2), (1, 1)]):
        torch.manual_seed(ambient)
        np.random.seed(ambient)
        data = Planted(512)
        config = settings(tokens=512 * 20, seed=seed)
        found.append(train(data, data.moments, config, _folder(tmp_path / str(number)))[0])
    assert torch.equal(found[0].W_dec, found[1].W_dec)
    assert not torch.equal(found[0].W_dec, found[2].W_dec)


def test_a_checkpoint_that_does_not_read_is_left_aside(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / checkpoint.CHECKPOINT).write_bytes(b"not safetensors")
    data = Planted(512)
    train(data, data.moments, settings(tokens=512 * 3), tmp_path)
    assert "does not load" in caplog.text


def test_dead_latents_that_the_data_need_are_revived(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Too few latents are alive for the data. The rest fire too weakly to be chosen: AuxK must
    bring them back, and the error down. (Latents beyond what the data hold may well stay dead.)
    """

    def mostly_dead(spec: StepSpec, seed: int) -> dict[str, torch.Tensor]:
        weights = initial_weights(spec, seed)
        weights["W_enc"][:, 24:] *= 0.01
        return weights

    monkeypatch.setattr(trainer, "initial_weights", mostly_dead)
    ends = {}
    for coefficient in (0.0, 1 / 32):
        data = Planted(512)
        config = settings(tokens=512 * 200, dead_after_tokens=512 * 10, aux_coefficient=coefficient)
        _, rows = train(data, data.moments, config, _folder(tmp_path / str(coefficient)))
        ends[coefficient] = rows[-1]
    assert ends[0.0].dead_share > 0.7
    # Half of the dictionary, as many latents as the data hold, is needed and comes back.
    assert ends[1 / 32].dead_share < 0.55
    assert ends[1 / 32].fvu < 0.5 * ends[0.0].fvu


def test_learning_rates_warm_up_and_decay() -> None:
    rates = learning_rates(settings(warmup_share=0.1, decay_share=0.5), 100)
    assert rates[0] == pytest.approx(3e-4)
    assert rates[9:50].min() == rates[9:50].max() == pytest.approx(3e-3)
    assert rates[-1] == pytest.approx(3e-3 / 50)
    assert (rates.diff()[50:] < 0).all()


def test_the_stage_writes_its_artifact(root: DataRoot, activations_artifact: Artifact) -> None:
    config = SaeConfig(d_sae=64, k=4, tokens=40_000, batch_size=256)
    made = stage.train(root, config, activations=activations_artifact, device="cpu")
    assert set(made.manifest.files) == {
        "sae_weights.safetensors",
        "cfg.json",
        "training_log.parquet",
    }
    sae = load(made.path)
    x = torch.cat(
        [b.activation for b in ActivationReader(activations_artifact, "test").rows_in_order()]
    )
    fvu = (sae(x) - x).square().sum() / (x - x.mean(0)).square().sum()
    assert 0 < float(fvu) < 0.6
    assert made.facts["train_fvu"] == pytest.approx(float(fvu), abs=0.15)
    assert made.facts["d_sae"] == 64
    other = SaeConfig(d_sae=64, k=4, tokens=40_000, batch_size=256, penalty=0.5)
    assert (
        stage.recipe(other, activations=activations_artifact).key == made.key
    )  # topk has no penalty


def test_a_batch_larger_than_the_data_is_refused(
    root: DataRoot, activations_artifact: Artifact
) -> None:
    with pytest.raises(DataError, match=r"sae\.batch_size = 4096 is more than the \d+ recorded"):
        stage.train(root, SaeConfig(), activations=activations_artifact, device="cpu")


def test_a_transcoder_through_the_stages(
    root: DataRoot, corpus_artifact: Artifact, model: ResolvedModel
) -> None:
    """Trained on two recorded sites, encoded, judged by what it puts in the output site's place."""
    sites = ActivationsConfig(sites=("1.resid_pre", "2.mlp_out"), shard_tokens=512)
    made = extract(root, sites, model=model, corpus=corpus_artifact, device="cpu")
    source, onto = made.values()
    config = SaeConfig(
        architecture="batchtopk", d_sae=64, k=4, tokens=40_000, batch_size=256,
        output_site="2.mlp_out", skip_connection=True,
    )  # fmt: skip
    trained = stage.train(root, config, activations=source, output=onto, device="cpu")
    assert trained.facts["output_site"] == "2.mlp_out"
    assert (
        trained.key != stage.train(root, config, activations=onto, output=source, device="cpu").key
    )
    sae = load(trained.path)
    x, y = (
        torch.cat([b.activation for b in ActivationReader(a, "test").rows_in_order()])
        for a in (source, onto)
    )
    fvu = float((sae(x) - y).square().sum() / (y - y.mean(0)).square().sum())
    encoded = encode(
        root, LatentsConfig(), sae=trained, activations=source, corpus=corpus_artifact, device="cpu"
    )
    assert encoded.facts["l0"] == pytest.approx(4, rel=0.3)
    settings_ = EvaluationConfig(max_documents=4, bootstrap=20)
    judged = evaluate(
        root,
        settings_,
        model=model,
        reference=measure(
            root, settings_, model=model, corpus=corpus_artifact, activations=onto, device="cpu"
        ),
        sae=trained,
        latents=encoded,
        device="cpu",
    ).facts
    assert judged["fvu"] == pytest.approx(fvu, rel=1e-4)
    assert fvu < 0.9
    assert judged["loss_clean"] != judged["loss_spliced"]

    with pytest.raises(
        ConfigError, match=r"output_site = '2\.mlp_out', but its activations are not"
    ):
        stage.train(root, config, activations=source, device="cpu")
    other = ActivationsConfig(sites=("2.mlp_out",), shard_tokens=512, seed=1)
    shuffled = extract(root, other, model=model, corpus=corpus_artifact, device="cpu")
    [elsewhere] = shuffled.values()
    with pytest.raises(DataError, match="do not hold the same tokens in the same order"):
        stage.train(root, config, activations=source, output=elsewhere, device="cpu")


def _folder(path: Path) -> Path:
    path.mkdir()
    return path
