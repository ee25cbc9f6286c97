"""What ``sae.frozen`` leaves at its random start stays there to the last bit, whoever trains."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support.planted_dictionary import D_IN, OTHERS, Planted, settings

from deconstruct.common.errors import ConfigError
from deconstruct.config import SaeConfig
from deconstruct.config import load as load_config
from deconstruct.sae.autoencoder import SparseAutoencoder
from deconstruct.sae.engines.cuda.options import unsuited
from deconstruct.sae.engines.dense import DenseEngine
from deconstruct.sae.engines.engine import Engine
from deconstruct.sae.folding import Scaling, fold
from deconstruct.sae.initial import initial_weights
from deconstruct.sae.spec import step_spec
from deconstruct.sae.training import checkpoint, trainer
from deconstruct.sae.training.loop import Output, train
from deconstruct.sae.training.trainer import Trainer
from deconstruct.sae.training.warm import Start, warmed

KINDS = ("topk", *OTHERS)
PARTS = {"decoder": "W_dec", "encoder": "W_enc"}


def small(**changes: object) -> SaeConfig:
    """A short training that has dead latents to pull at."""
    return settings(tokens=512 * 40, dead_after_tokens=1024, **changes)


def start_of(config: SaeConfig) -> dict[str, torch.Tensor]:
    return initial_weights(step_spec(config, D_IN), config.seed)


def trainer_of(config: SaeConfig, folder: Path, start: Start | None = None) -> Trainer:
    folder.mkdir(exist_ok=True)
    return Trainer(config, Scaling.of(Planted(512).moments), None, folder, start=start)


def trained(config: SaeConfig, folder: Path, start: Start | None = None) -> Engine:
    member, data = trainer_of(config, folder, start), Planted(512)
    scaling = Scaling.of(data.moments)
    while not member.finished:
        member.train(scaling.apply(data.at(member.step)), None)
    return member.engine


def dense(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        trainer,
        "build_engine",
        lambda spec, w, r, device, dtype: DenseEngine(spec, w, r, "cpu", torch.float32),
    )


@pytest.mark.parametrize("engine", ["sparse", "dense"])
@pytest.mark.parametrize("frozen", ["decoder", "encoder"])
@pytest.mark.parametrize("architecture", KINDS)
def test_a_frozen_part_stays_and_the_rest_is_trained(
    tmp_path: Path, architecture: str, frozen: str, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = small(architecture=architecture, frozen=frozen)
    if engine == "dense":
        dense(monkeypatch)
    made = trained(config, tmp_path)
    weights, before = made.weights(), start_of(config)
    still = PARTS[frozen]
    assert torch.equal(weights[still], before[still])
    assert not {f"{still}.m", f"{still}.v"} & made.state_dict().keys()
    for name in before.keys() - {still}:
        assert not torch.equal(weights[name], before[name]), name
    losses = made.losses
    assert losses[-5:].mean() < 0.97 * losses[:5].mean()


@pytest.mark.parametrize("frozen", ["decoder", "all"])
@pytest.mark.parametrize("architecture", [kind for kind in KINDS if kind != "relu"])
def test_frozen_decoder_rows_have_the_bits_of_the_start_after_folding(
    tmp_path: Path, architecture: str, frozen: str
) -> None:
    config, data = small(architecture=architecture, frozen=frozen), Planted(512)
    sae, _ = train(data, data.moments, config, tmp_path)
    weights = start_of(config)
    if sae.architecture in ("batchtopk", "matryoshka"):
        weights["threshold"] = torch.zeros(config.d_sae)
    untouched = fold(architecture, weights, config.k, Scaling.of(data.moments))
    assert torch.equal(sae.W_dec, untouched.W_dec)
    assert torch.allclose(sae.W_dec.norm(dim=1), torch.ones(config.d_sae))


@pytest.mark.parametrize("architecture", KINDS)
def test_the_random_sae_fires_as_many_at_its_best_scale(tmp_path: Path, architecture: str) -> None:
    config, data = small(architecture=architecture, frozen="all"), Planted(512)
    sae, rows = train(data, data.moments, config, tmp_path)
    assert len(rows) == 4  # steps, whatever sae.tokens
    x = data.at(10_000)
    active = sae.encode(x)
    assert float((active > 0).sum(1).float().mean()) == pytest.approx(config.k, rel=0.1)
    variance = (x - x.mean(0)).square().sum()
    fvu = float((sae(x) - x).square().sum() / variance)
    assert fvu < 0.95
    for factor in (0.9, 1.1):  # the scale that was fitted is the best one
        y = factor * active @ sae.W_dec + sae.b_dec
        assert float((y - x).square().sum() / variance) > fvu
    assert rows[-1].fvu == pytest.approx(fvu, abs=0.02)
    directions = torch.nn.functional.cosine_similarity(sae.W_enc.T, start_of(config)["W_enc"].T)
    assert directions.min() > 1 - 1e-6


def test_a_training_without_frozen_parts_has_the_key_that_it_had() -> None:
    assert "frozen" not in SaeConfig().key_fields()
    assert SaeConfig(frozen="decoder").key_fields()["frozen"] == "decoder"


@pytest.mark.parametrize("frozen", ["decoder", "encoder", "all"])
def test_a_resumed_training_ends_with_the_same_bytes(
    tmp_path: Path, frozen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = small(architecture="batchtopk", frozen=frozen)
    straight = trained(config, tmp_path / "a").weights()
    monkeypatch.setattr(checkpoint, "EVERY_SECONDS", -1.0)  # after every step
    begun, data = trainer_of(config, tmp_path / "b"), Planted(512)
    for step in range(2):
        begun.train(begun.inputs.apply(data.at(step)), None)
    assert trainer_of(config, tmp_path / "b").step == 2
    for name, weight in trained(config, tmp_path / "b").weights().items():
        assert torch.equal(weight, straight[name]), name


@pytest.mark.parametrize("frozen", ["decoder", "encoder", "all"])
def test_a_warm_start_keeps_what_is_frozen_at_its_random_start(tmp_path: Path, frozen: str) -> None:
    config, data = small(frozen=frozen), Planted(512)
    sae, _ = train(data, data.moments, config, _made(tmp_path / "cold"))
    again = trained(warmed(config), tmp_path / "warm", Start(sae)).weights()
    for name in ("W_dec",) if frozen != "encoder" else ("W_enc",):
        assert torch.equal(again[name], start_of(config)[name])


def test_a_transcoder_may_be_random_too(tmp_path: Path) -> None:
    data = Planted(512)
    config = small(frozen="all", output_site="2.mlp_out")
    sae, rows = train(data, data.moments, config, tmp_path, output=Output(data, data.moments))
    assert isinstance(sae, SparseAutoencoder)
    assert rows[-1].fvu == pytest.approx(
        1, abs=0.02
    )  # encoder and decoder know nothing of each other


def test_the_fused_gpu_step_leaves_it_to_the_dense_one() -> None:
    assert unsuited(step_spec(settings(), D_IN)) is None
    told = unsuited(step_spec(settings(frozen="decoder"), D_IN))
    assert told == "the fused GPU step trains all weights, and sae.frozen is 'decoder'"


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        (["pretrained=some/folder", "frozen=decoder"], "pretrained = 'some/folder' is taken over"),
        (["architecture=relu", "penalty=0.1", "frozen=all"], "set target_l0 in its place"),
        (["frozen=biases"], "Input should be 'none', 'decoder', 'encoder' or 'all'"),
    ],
)
def test_what_can_not_be_is_one_sentence(fields: list[str], told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(None, [f"sae.{field}" for field in fields])
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder
