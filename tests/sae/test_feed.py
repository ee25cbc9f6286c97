"""What is trained does not depend on where its batches are made: on the CPU, or on a device that
works late, from pools that lie there or on the host."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support.late import Late

from deconstruct.activations import places, reader, window
from deconstruct.activations.places import OnDevice, Place
from deconstruct.activations.reader import ActivationReader, BatchSource
from deconstruct.activations.shards import Moments
from deconstruct.activations.stage import extract
from deconstruct.activations.window import Stream
from deconstruct.artifacts import Artifact, DataRoot
from deconstruct.config import ActivationsConfig, SaeConfig
from deconstruct.model.resolve import ResolvedModel
from deconstruct.sae import stage
from deconstruct.sae.autoencoder import SparseAutoencoder
from deconstruct.sae.engines.ranks import own_rows
from deconstruct.sae.files import load
from deconstruct.sae.folding import Scaling
from deconstruct.sae.training import checkpoint
from deconstruct.sae.training.held_out import HeldOut, Judge

SITES = ("1.resid_post", "2.mlp_out")
ROOM = {"on the device": 1 << 40, "on the host": 0}


def sae_of(**changes: object) -> SaeConfig:
    settings = {"d_sae": 48, "k": 4, "batch_size": 128, "tokens": 128 * 30}
    return SaeConfig.model_validate(settings | changes)


def on_a_late_device(patch: pytest.MonkeyPatch, room: int) -> list[Late]:
    """Where batches are made from now on, and from small pools; the lanes that will be used."""
    lanes: list[Late] = []

    def place_on(device: str, d_in: int, dtype: torch.dtype, batch_size: int) -> Place:
        lanes.append(Late())
        return OnDevice(lanes[-1], d_in, dtype, batch_size, room)

    patch.setattr(reader, "place_on", place_on)
    patch.setattr(window, "place_on", place_on)
    return lanes


def with_small_pools(patch: pytest.MonkeyPatch) -> None:
    init = BatchSource.__init__

    def small(
        self: BatchSource, of: reader.Pooled, size: int, seed: int, *rest: object, **more: object
    ) -> None:
        init(self, of, size, seed, 400, *rest[1:], **more)  # type: ignore[arg-type]

    patch.setattr(BatchSource, "__init__", small)


@pytest.fixture(scope="module")
def recorded(
    root: DataRoot, model: ResolvedModel, corpus_artifact: Artifact
) -> dict[str, dict[str, Artifact]]:
    """Two sites in both storages."""
    found = {}
    for storage in ("float32", "bfloat16"):
        config = ActivationsConfig.model_validate(
            {"sites": SITES, "shard_tokens": 256, "storage": storage}
        )
        made = extract(root, config, model=model, corpus=corpus_artifact, device="cpu")
        found[storage] = {str(site): artifact for site, artifact in made.items()}
    return found


@pytest.mark.parametrize("room", ROOM)
@pytest.mark.parametrize(
    ("storage", "changes"),
    [
        ("float32", {}),
        ("bfloat16", {"architecture": "batchtopk"}),
        ("bfloat16", {"output_site": SITES[1], "skip_connection": True}),
    ],
)
def test_the_place_of_batches_changes_no_byte(
    tmp_path: Path,
    recorded: dict[str, dict[str, Artifact]],
    monkeypatch: pytest.MonkeyPatch,
    storage: str,
    changes: dict[str, object],
    room: str,
) -> None:
    config = sae_of(**changes)
    activations, beside = recorded[storage].values()
    output = beside if config.output_site else None

    def trained(home: str) -> str:
        of = DataRoot(tmp_path / home)
        made = stage.train(of, config, activations=activations, output=output, device="cpu")
        return made.digest()

    with_small_pools(monkeypatch)
    plain = trained("plain")
    lanes = on_a_late_device(monkeypatch, ROOM[room])
    assert trained("late") == plain
    assert len(lanes) == (2 if output else 1)
    assert all(len(lane.given) == 30 for lane in lanes)


@pytest.mark.parametrize("room", ROOM)
def test_a_window_too(
    tmp_path: Path,
    model: ResolvedModel,
    corpus_artifact: Artifact,
    monkeypatch: pytest.MonkeyPatch,
    room: str,
) -> None:
    settings = {"shard_tokens": 256, "window_shards": 2, "window_moment_tokens": 300}
    config = ActivationsConfig.model_validate(settings | {"storage": "bfloat16"})
    stream = Stream(config, SITES[0], model, corpus_artifact, "cpu")

    def trained(home: str) -> str:
        return stage.train(
            DataRoot(tmp_path / home), sae_of(), activations=stream, device="cpu"
        ).digest()

    plain = trained("plain")
    lanes = on_a_late_device(monkeypatch, ROOM[room])
    assert trained("late") == plain
    assert len(lanes[0].given) == 30


class _Stop(BaseException):
    pass


def test_a_training_goes_on_to_the_same_bytes(
    tmp_path: Path,
    recorded: dict[str, dict[str, Artifact]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Stopped within a pool and resumed; with an early stop's held-out rows apart."""
    activations = recorded["bfloat16"][SITES[0]]
    config = sae_of(patience=100, held_out_share=0.2)
    monkeypatch.setattr(checkpoint, "EVERY_SECONDS", -1.0)
    with_small_pools(monkeypatch)
    plain = stage.train(DataRoot(tmp_path / "a"), config, activations=activations, device="cpu")
    on_a_late_device(monkeypatch, 1 << 40)
    at = BatchSource.at

    def stopping(self: BatchSource, step: int) -> torch.Tensor:
        if step == 17:
            raise _Stop
        return at(self, step)

    late = DataRoot(tmp_path / "b")
    with monkeypatch.context() as patch:
        patch.setattr(BatchSource, "at", stopping)
        with pytest.raises(_Stop):
            stage.train(late, config, activations=activations, device="cpu")
    resumed = stage.train(late, config, activations=activations, device="cpu")
    assert resumed.digest() == plain.digest()


def test_each_of_several_processes_takes_the_rows_it_would_take(
    recorded: dict[str, dict[str, Artifact]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each gathers the whole batch, on its own device, and trains on every n-th row."""
    from deconstruct.sae.engines import ranks

    monkeypatch.setattr(ranks, "ranks", lambda: 2)
    monkeypatch.setattr(ranks.dist, "get_rank", lambda: 1)
    of = ActivationReader(recorded["bfloat16"][SITES[0]])
    scaling = Scaling.of(of.moments)
    plain = scaling.apply(of.batches(128, 0).at(3))
    on_a_late_device(monkeypatch, 1 << 40)
    late = scaling.apply(of.batches(128, 0, device="cuda:1").at(3))
    assert torch.equal(own_rows(late), own_rows(plain))
    assert torch.equal(own_rows(late), plain[1::2])


def test_rows_in_bfloat16_are_scaled_as_in_float32() -> None:
    draw = torch.Generator().manual_seed(0)
    rows = (50 * torch.randn(300, 17, generator=draw) + 7).bfloat16()
    of = rows.double()
    scaling = Scaling.of(Moments(300, of.mean(0).numpy(), of.var(0).numpy()))
    z = scaling.apply(rows)
    assert z.dtype == torch.float32
    assert torch.equal(z, scaling.apply(rows.float()))
    assert torch.equal(scaling.to("cpu").apply(rows), z)


def test_held_out_rows_are_judged_in_parts_and_on_the_cpu_where_a_device_has_no_room(
    recorded: dict[str, dict[str, Artifact]], root: DataRoot, caplog: pytest.LogCaptureFixture
) -> None:
    activations = recorded["bfloat16"][SITES[0]]
    sae = load(stage.train(root, sae_of(), activations=activations, device="cpu").path)
    rows = ActivationReader(activations).whole()
    whole, half = HeldOut(rows, rows), HeldOut(rows.bfloat16(), rows.bfloat16())
    assert 0 < whole.fvu(sae) < 1
    assert half.fvu(sae) == whole.fvu(sae)  # bfloat16 holds these rows exactly
    assert half.in_parts(sae, 100) == pytest.approx(whole.fvu(sae), rel=1e-6)
    asked: list[str] = []

    def trained(device: str) -> SparseAutoencoder:
        asked.append(device)
        if device != "cpu":
            raise torch.OutOfMemoryError("CUDA out of memory")
        return sae

    judge = Judge(half, trained, "cuda:0")
    assert [judge.fvu(), judge.fvu()] == 2 * [whole.fvu(sae)]
    assert asked == ["cuda:0", "cpu", "cpu"]
    assert "judged on the CPU: cuda:0 has too little memory" in caplog.text


def test_rows_lie_near_where_they_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = torch.randn(100, 8)
    half = torch.bfloat16
    monkeypatch.setattr(places, "_room", lambda device: 1600)
    found = [
        places.near(rows.to, dtype, device)
        for dtype, device in ((half, "cpu"), (half, "meta:0"), (torch.float32, "meta:0"))
    ]
    assert [(one.dtype, one.device.type) for one in found] == [
        (torch.float32, "cpu"), (half, "meta"), (torch.float32, "cpu"),
    ]  # fmt: skip
