"""Training on a stream: the weights of recorded activations, whatever runs ahead or is killed."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from support.running import environment

from deconstruct.activations import window
from deconstruct.activations.stage import extract
from deconstruct.activations.window import Stream
from deconstruct.artifacts import Artifact, DataRoot
from deconstruct.common.errors import ConfigError, DataError
from deconstruct.config import ActivationsConfig, SaeConfig
from deconstruct.model.resolve import ResolvedModel
from deconstruct.sae import stage
from deconstruct.sae.files import load
from deconstruct.sae.training import checkpoint

SITE = "1.resid_post"


def sae_of(**changes: object) -> SaeConfig:
    settings = {"d_sae": 64, "k": 4, "batch_size": 128, "tokens": 128 * 60}
    return SaeConfig.model_validate(settings | changes)


@pytest.fixture
def stream_of(model: ResolvedModel, corpus_artifact: Artifact) -> Callable[..., Stream]:
    def make(site: str = SITE, **changes: object) -> Stream:
        settings = {"shard_tokens": 256, "window_shards": 2, "window_moment_tokens": 300}
        config = ActivationsConfig.model_validate(settings | changes)
        return Stream(config, site, model, corpus_artifact, "cpu")

    return make


def weights(artifact: Artifact) -> dict[str, torch.Tensor]:
    return dict(load(artifact.path).weights())


@pytest.mark.parametrize("storage", ["float32", "bfloat16"])
def test_a_window_of_all_shards_trains_the_sae_of_recorded_activations(
    tmp_path: Path, stream_of: Callable[..., Stream], storage: str
) -> None:
    """Rows, moments and batches are those that extraction would have written."""
    root = DataRoot(tmp_path)
    stream = stream_of(window_shards=1000, window_moment_tokens=10**9, storage=storage)
    recorded = extract(
        root, stream.config.model_copy(update={"sites": (SITE,)}), model=stream.model,
        corpus=stream.corpus, device="cpu",
    )  # fmt: skip
    of_disk = stage.train(root, sae_of(), activations=next(iter(recorded.values())), device="cpu")
    of_stream = stage.train(root, sae_of(), activations=stream, device="cpu")
    assert of_stream.key != of_disk.key
    assert of_stream.digest() == of_disk.digest()
    assert of_stream.facts == of_disk.facts


def test_weights_do_not_depend_on_how_far_ahead_extraction_runs(
    tmp_path: Path, stream_of: Callable[..., Stream], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over two passes of the corpus, whose shards are in another order each time."""
    digests = []
    for ahead in (0, 1, 3):
        monkeypatch.setattr(window, "AHEAD", ahead)
        made = stage.train(
            DataRoot(tmp_path / str(ahead)), sae_of(), activations=stream_of(), device="cpu"
        )
        digests.append(made.digest())
    assert len(set(digests)) == 1


class _Stop(BaseException):
    pass


@pytest.mark.parametrize("step", [1, 17, 58])
def test_a_training_that_was_stopped_goes_on_to_the_same_bytes(
    tmp_path: Path, stream_of: Callable[..., Stream], monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    whole = stage.train(
        DataRoot(tmp_path / "whole"), sae_of(), activations=stream_of(), device="cpu"
    )
    monkeypatch.setattr(checkpoint, "EVERY_SECONDS", -1.0)  # after every step
    at = window.BatchSource.at
    computed: list[str] = []
    compute = window.Forward.compute

    def stopping(self: window.BatchSource, asked: int) -> torch.Tensor:
        if asked == step:
            raise _Stop
        return at(self, asked)

    def noting(self: window.Forward, shard: window.Shard, advance: object) -> object:
        computed.append(shard.name)
        return compute(self, shard, advance)  # type: ignore[arg-type]

    monkeypatch.setattr(window.BatchSource, "at", stopping)
    root = DataRoot(tmp_path / "stopped")
    with pytest.raises(_Stop):
        stage.train(root, sae_of(), activations=stream_of(), device="cpu")
    monkeypatch.setattr(window.BatchSource, "at", at)
    monkeypatch.setattr(window.Forward, "compute", noting)
    again = stage.train(root, sae_of(), activations=stream_of(), device="cpu")
    assert again.digest() == whole.digest()
    # From the checkpoint's shards on: neither the moments nor what was trained on comes again.
    rows = {shard.name: shard.rows for shard in shards_of(stream_of(), tmp_path)}
    left = 128 * (60 - step)
    assert left <= sum(rows[name] for name in computed) <= left + 2 * (2 + 1) * 256 + 128


def shards_of(stream: Stream, folder: Path) -> list[window.Shard]:
    return window.Window([stream], folder, "cpu").shards


def test_damaged_moments_are_computed_anew(
    tmp_path: Path, stream_of: Callable[..., Stream], caplog: pytest.LogCaptureFixture
) -> None:
    first = window.Window([stream_of()], tmp_path, "cpu").sites[0].moments
    file = tmp_path / f"moments-{SITE}.safetensors"
    content = bytearray(file.read_bytes())
    content[-9] ^= 1
    file.write_bytes(content)
    again = window.Window([stream_of()], tmp_path, "cpu").sites[0].moments
    assert "computed anew" in caplog.text
    assert (again.rows, again.mean.tolist()) == (first.rows, first.mean.tolist())
    assert 300 <= first.rows < 300 + 2 * 256


def test_members_of_a_sweep_share_a_pass_and_are_each_as_alone(
    tmp_path: Path, stream_of: Callable[..., Stream]
) -> None:
    members = [sae_of(), sae_of(k=8), sae_of(architecture="relu", tokens=128 * 20)]
    together = stage.train_all(
        DataRoot(tmp_path / "all"), members, activations=stream_of(), device="cpu"
    )
    for member, made in zip(members, together, strict=True):
        root = DataRoot(tmp_path / member.label())
        alone = stage.train(root, member, activations=stream_of(), device="cpu")
        assert (alone.key, alone.digest()) == (made.key, made.digest())


def test_a_transcoder_reads_both_sites_of_one_pass(
    tmp_path: Path, stream_of: Callable[..., Stream]
) -> None:
    root = DataRoot(tmp_path)
    both = {"window_shards": 1000, "window_moment_tokens": 10**9}
    sites = ("1.resid_pre", "1.mlp_out")
    source, onto = (stream_of(site, **both) for site in sites)
    recorded = extract(
        root, source.config.model_copy(update={"sites": sites}), model=source.model,
        corpus=source.corpus, device="cpu",
    )  # fmt: skip
    config = sae_of(output_site="1.mlp_out")
    of_disk, of_stream = (
        stage.train(root, config, activations=read, output=written, device="cpu")
        for read, written in (tuple(recorded.values()), (source, onto))
    )
    assert of_stream.digest() == of_disk.digest()
    narrow = [stream_of(site) for site in sites]
    made = stage.train(root, config, activations=narrow[0], output=narrow[1], device="cpu")
    assert made.facts["output_site"] == "1.mlp_out"
    # What it writes on an analysis' activations is found by the same site.
    beside = stage.output_of(root, made, next(iter(recorded.values())))
    assert beside is not None
    assert beside.facts["site"] == "1.mlp_out"


def test_the_key_names_what_decides_the_weights(stream_of: Callable[..., Stream]) -> None:
    key = stage.recipe(sae_of(), activations=stream_of()).key
    assert key == stage.recipe(sae_of(), activations=stream_of()).key
    for changed in (
        stream_of("2.resid_post"),
        stream_of(window_shards=3),
        stream_of(window_moment_tokens=301),
        stream_of(seed=1),
        stream_of(storage="bfloat16"),
    ):
        assert stage.recipe(sae_of(), activations=changed).key != key
    # Of an analysis' recorded activations, a window changes nothing.
    plain, kept = ActivationsConfig(), ActivationsConfig(keep="window", window_shards=9)
    assert plain.key_fields() == kept.key_fields()


def test_what_a_window_can_not_do_is_a_sentence(
    tmp_path: Path, stream_of: Callable[..., Stream]
) -> None:
    root = DataRoot(tmp_path)
    with pytest.raises(ConfigError, match=r"sae\.patience = 2 needs rows that are kept"):
        stage.train(root, sae_of(patience=2), activations=stream_of(), device="cpu")
    with pytest.raises(DataError, match=r"sae\.batch_size = 99999 is more than the \d+ recorded"):
        stage.train(root, sae_of(batch_size=99_999), activations=stream_of(), device="cpu")


KILLED = """
import sys
from deconstruct.activations.window import Stream
from deconstruct.artifacts import DataRoot
from deconstruct.config import ActivationsConfig, ModelConfig, SaeConfig
from deconstruct.model.resolve import resolve
from deconstruct.sae import stage
from deconstruct.sae.training import checkpoint
checkpoint.EVERY_SECONDS = 0.05
home, shared, model, key = sys.argv[1:]
settings = ActivationsConfig(shard_tokens=256, window_shards=2, window_moment_tokens=300)
resolved = resolve(DataRoot(shared), ModelConfig(name=model, dtype="float32"))
stream = Stream(settings, "1.resid_post", resolved, DataRoot(shared).open("corpus", key), "cpu")
config = SaeConfig(d_sae=64, k=4, batch_size=128, tokens=128 * 1000)
stage.train(DataRoot(home), config, activations=stream, device="cpu")
"""


def test_killed_after_a_checkpoint_it_ends_with_the_same_bytes(
    tmp_path: Path, root: DataRoot, stream_of: Callable[..., Stream], tiny_model: Path
) -> None:
    config, home = sae_of(tokens=128 * 1000), tmp_path / "killed"
    given = [str(home), str(root.path), str(tiny_model), stream_of().corpus.key]
    with subprocess.Popen([sys.executable, "-c", KILLED, *given], env=environment(home)) as child:
        while child.poll() is None:
            if any(home.glob(f"sae/.*/.scratch/{checkpoint.CHECKPOINT}")):
                break
            time.sleep(0.005)
        child.kill()
    assert child.returncode == -signal.SIGKILL
    made = [
        stage.train(DataRoot(folder), config, activations=stream_of(), device="cpu")
        for folder in (home, tmp_path / "whole")
    ]
    assert made[0].digest() == made[1].digest()
    assert not (home / "activations").exists()
