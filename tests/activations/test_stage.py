"""The stage activations, on a small real model and real Parquet files."""

import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import duckdb
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from safetensors.torch import load_file as load_torch
from safetensors.torch import save_file as save_torch
from support.full_disk import full_for
from support.tiny_models import WIDTH, save_gpt2_small, save_tiny

from deconstruct.activations import stage
from deconstruct.activations.reader import ActivationReader
from deconstruct.activations.stage import extract, recipes
from deconstruct.artifacts import Artifact, DataRoot, Draft
from deconstruct.common.errors import ConfigError, DataError, StorageError
from deconstruct.common.hardware import pick_device, pick_dtype
from deconstruct.common.site import Site
from deconstruct.config import ActivationsConfig, CorpusConfig, ModelConfig
from deconstruct.corpus import sources
from deconstruct.corpus import stage as corpus
from deconstruct.model.loading import load
from deconstruct.model.resolve import ResolvedModel, resolve

SITE = Site(1, "resid_post")


def config(*sites: str, **changes: object) -> ActivationsConfig:
    settings = {"sites": sites or ("1.resid_post",), "shard_tokens": 512} | changes
    return ActivationsConfig.model_validate(settings)


def run(
    root: Path, corpus: Artifact, model: ResolvedModel, settings: ActivationsConfig
) -> dict[Site, Artifact]:
    return extract(DataRoot(root), settings, model=model, corpus=corpus, device="cpu")


def test_rows_are_the_hidden_states_of_each_document(
    activations_artifact: Artifact, corpus_artifact: Artifact, model: ResolvedModel
) -> None:
    loaded = load(model, "cpu")
    tokens = duckdb.execute(
        "SELECT doc_id, list(token_id ORDER BY position), list(special ORDER BY position) "
        "FROM read_parquet(?) GROUP BY doc_id",
        [str(corpus_artifact.file("tokens.parquet"))],
    ).fetchall()
    ids_of = {doc: (ids, special) for doc, ids, special in tokens}
    split_of = dict(
        duckdb.execute(
            "SELECT doc_id, split FROM read_parquet(?)",
            [str(corpus_artifact.file("documents.parquet"))],
        ).fetchall()
    )
    seen = []
    for split in ("train", "test"):
        for block in ActivationReader(activations_artifact, split).rows_in_order():
            for doc in np.unique(block.doc_id):
                assert split_of[doc] == split
                ids, special = ids_of[doc]
                states = loaded(torch.tensor([ids]), output_hidden_states=True).hidden_states[2][0]
                mine = block.doc_id == doc
                positions = block.position[mine]
                assert positions.min() >= 1
                assert not any(special[p] for p in positions)
                assert [ids[p] for p in positions] == block.token_id[mine].tolist()
                torch.testing.assert_close(
                    block.activation[torch.from_numpy(mine)],
                    states[torch.from_numpy(positions.astype(np.int64))],
                    rtol=1e-4,
                    atol=1e-5,
                )
                seen.extend(block.token_index[mine].tolist())
    expected = sum(sum(not s for s in special[1:]) for _, special in ids_of.values())
    assert len(seen) == len(set(seen)) == expected
    assert len(activations_artifact.files("train-*.parquet")) > 2


def test_moments_and_facts(activations_artifact: Artifact) -> None:
    blocks = ActivationReader(activations_artifact, "train").rows_in_order()
    whole = torch.cat([block.activation for block in blocks]).double().numpy()
    moments = load_file(activations_artifact.file("moments.safetensors"))
    np.testing.assert_allclose(moments["mean"], whole.mean(0), rtol=1e-9)
    np.testing.assert_allclose(moments["variance"], whole.var(0), rtol=1e-9)
    facts = activations_artifact.facts
    assert facts["train_rows"] == len(whole)
    assert facts["d_in"] == WIDTH
    assert facts["mean_squared_norm"] == pytest.approx(whole.var(0).sum())


def test_several_sites_in_one_pass_equal_one_at_a_time(
    tmp_path: Path, corpus_artifact: Artifact, model: ResolvedModel
) -> None:
    sites = ("0.resid_pre", "2.attn_out", "1.mlp_out")
    together = run(tmp_path / "a", corpus_artifact, model, config(*sites))
    assert [str(site) for site in together] == list(sites)
    for site in sites:
        alone = run(tmp_path / "b", corpus_artifact, model, config(site))
        assert alone[Site.parse(site)].digest() == together[Site.parse(site)].digest()


def test_bytes_do_not_depend_on_the_threads_of_torch(
    tmp_path: Path, corpus_artifact: Artifact, model: ResolvedModel
) -> None:
    digests = []
    threads = torch.get_num_threads()
    for number in (1, 2, 5):
        torch.set_num_threads(number)
        made = run(
            tmp_path / str(number), corpus_artifact, model, config("1.mlp_out", "2.resid_post")
        )
        digests.append([artifact.digest() for artifact in made.values()])
    torch.set_num_threads(threads)
    assert digests[0] == digests[1] == digests[2]


def test_stored_as_bfloat16_they_read_back_the_same(
    tmp_path: Path, corpus_artifact: Artifact, model: ResolvedModel
) -> None:
    read = []
    for storage in ("float32", "bfloat16"):
        settings = config(storage=storage)
        made = extract(
            DataRoot(tmp_path),
            settings,
            model=replace(model, dtype="bfloat16"),
            corpus=corpus_artifact,
            device="cpu",
        )
        blocks = ActivationReader(made[SITE]).rows_in_order()
        read.append(torch.cat([block.activation for block in blocks]))
    assert torch.equal(read[0], read[1])
    assert read[0].abs().max() > 0


def test_duckdb_reads_the_activations(activations_artifact: Artifact) -> None:
    rows, width = duckdb.execute(
        "SELECT count(*), max(len(activation)) FROM read_parquet(?)",
        [str(activations_artifact.path / "train-*.parquet")],
    ).fetchone() or (0, 0)
    assert rows == activations_artifact.facts["train_rows"]
    assert width == WIDTH


class _Stop(Exception):
    pass


@pytest.mark.parametrize("written", [0, 1, 3])
def test_a_stopped_extraction_goes_on_and_ends_with_the_same_bytes(
    tmp_path: Path,
    corpus_artifact: Artifact,
    activations_artifact: Artifact,
    model: ResolvedModel,
    monkeypatch: pytest.MonkeyPatch,
    written: int,
) -> None:
    write = stage.shards.write
    calls: list[str] = []

    def stopping(path: Path, *rest: object) -> None:
        if len(calls) == written:
            raise _Stop
        calls.append(path.name)
        write(path, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(stage.shards, "write", stopping)
    with pytest.raises(_Stop):
        run(tmp_path, corpus_artifact, model, config())
    monkeypatch.setattr(stage.shards, "write", lambda *a: (calls.append(a[0].name), write(*a)))
    made = run(tmp_path, corpus_artifact, model, config())[SITE]
    assert made.digest() == activations_artifact.digest()
    shards = [*made.files("train-*.parquet"), *made.files("test-*.parquet")]
    assert len(calls) == len(set(calls)) == len(shards)  # none was computed twice


KILLED = """
import signal, sys, os
from deconstruct.activations import shards
from deconstruct.activations import stage as activations
from deconstruct.artifacts import DataRoot
from deconstruct.config import ActivationsConfig, CorpusConfig, ModelConfig
from deconstruct.model.resolve import resolve

home, model, corpus, unfinished = sys.argv[1:]
root = DataRoot(home)
config = ActivationsConfig(sites=("1.resid_post", "2.mlp_out"), shard_tokens=512)
write, written = shards.write, []

def write_then_wait(path, *rest):
    write(path, *rest)
    written.append(path)
    if len(written) == int(unfinished):
        print("written", flush=True)
        signal.pause()

shards.write = write_then_wait
activations.extract(
    root, config, model=resolve(root, ModelConfig(name=model, dtype="float32")),
    corpus=root.open("corpus", corpus), device="cpu",
)
"""


@pytest.mark.parametrize("unfinished", [1, 4])
def test_killed_in_the_middle_it_goes_on_and_ends_with_the_same_bytes(
    tmp_path: Path, corpus_artifact: Artifact, model: ResolvedModel, unfinished: int
) -> None:
    """A process is killed that holds a written but unnamed shard of one of two sites."""
    home = tmp_path / "home"
    (home / "corpus").mkdir(parents=True)
    os.symlink(corpus_artifact.path, home / "corpus" / corpus_artifact.key)
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, home, model.folder, corpus_artifact.key, str(unfinished)],
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "written\n"
        process.kill()
        assert process.wait() == -signal.SIGKILL
    complete = {path: path.stat().st_mtime_ns for path in home.glob("activations/.*/*.parquet")}
    assert len(complete) == unfinished - 1
    assert len(list(home.glob("activations/.*/.scratch/*.parquet.unfinished"))) == 1

    settings = config("1.resid_post", "2.mlp_out")
    made = run(home, corpus_artifact, model, settings)
    straight = run(tmp_path / "straight", corpus_artifact, model, settings)
    for site, artifact in made.items():
        assert artifact.digest() == straight[site].digest()
        assert artifact.facts == straight[site].facts
    kept = [path.stat().st_mtime_ns for artifact in made.values() for path in artifact.files("*")]
    assert set(complete.values()) <= set(kept)


def test_a_full_disk_is_said_and_nothing_is_published(
    tmp_path: Path,
    corpus_artifact: Artifact,
    model: ResolvedModel,
    activations_artifact: Artifact,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (recipe,) = recipes(config(), model=model, corpus=corpus_artifact, device="cpu")
    draft = Draft(tmp_path / "activations" / f".{recipe.key}.partial")
    monkeypatch.setattr(Draft, "writing", Draft.writing)  # to be put back
    full_for("train-00002.parquet")
    with pytest.raises(StorageError, match=r"is full while stage activations writes"):
        run(tmp_path, corpus_artifact, model, config())
    assert DataRoot(tmp_path).find(recipe) is None
    assert draft.has("train-00001.parquet")
    assert not draft.has("train-00002.parquet")
    monkeypatch.undo()
    again = run(tmp_path, corpus_artifact, model, config())[SITE]
    assert again.digest() == activations_artifact.digest()


def test_a_damaged_shard_alone_is_computed_again(
    tmp_path: Path,
    corpus_artifact: Artifact,
    model: ResolvedModel,
    caplog: pytest.LogCaptureFixture,
) -> None:
    before = run(tmp_path, corpus_artifact, model, config())[SITE]
    broken = before.file("train-00001.parquet")
    times = {path: path.stat().st_mtime_ns for path in before.files("*.parquet")}
    broken.write_bytes(b"PAR1")
    after = run(tmp_path, corpus_artifact, model, config())[SITE]
    assert "train-00001.parquet is damaged; stage activations runs again" in caplog.text
    assert after.digest() == before.digest()
    assert {path for path, time in times.items() if path.stat().st_mtime_ns != time} == {broken}


def test_a_layer_out_of_range_is_said_before_anything_is_loaded(
    tmp_path: Path, corpus_artifact: Artifact, model: ResolvedModel
) -> None:
    with pytest.raises(ConfigError, match=r"'4\.mlp_out' is out of range, tiny-llama has 4 layers"):
        run(tmp_path, corpus_artifact, model, config("4.mlp_out"))


def test_activations_that_are_not_finite_stop_the_stage(
    tmp_path: Path, corpus_artifact: Artifact
) -> None:
    folder = save_tiny("llama", tmp_path / "broken")
    weights = load_torch(folder / "model.safetensors")
    weights["model.layers.1.mlp.down_proj.weight"].fill_(float("inf"))
    save_torch(weights, folder / "model.safetensors", metadata={"format": "pt"})
    root = DataRoot(tmp_path / "home")
    broken = resolve(root, ModelConfig(name=str(folder)))
    with pytest.raises(
        DataError, match=r"site '1\.resid_post' are not finite in document \d+, pos"
    ):
        run(tmp_path / "home", corpus_artifact, broken, config())
    assert root.find(recipes(config(), model=broken, corpus=corpus_artifact)[0]) is None


def test_where_they_are_not_finite_is_said(tmp_path: Path, corpus_artifact: Artifact) -> None:
    """One token's embedding is broken: the first place with it, but not one that is skipped."""
    folder = save_tiny("llama", tmp_path / "broken")
    tokens = duckdb.execute(
        "SELECT token_id FROM read_parquet(?) GROUP BY token_id "
        "HAVING min(position) >= 2 AND NOT bool_or(special) ORDER BY count(*)",
        [str(corpus_artifact.file("tokens.parquet"))],
    ).fetchall()
    rare = tokens[0][0]
    weights = load_torch(folder / "model.safetensors")
    weights["model.embed_tokens.weight"][rare] = float("nan")
    save_torch(weights, folder / "model.safetensors", metadata={"format": "pt"})
    broken = resolve(DataRoot(tmp_path / "home"), ModelConfig(name=str(folder), dtype="float32"))
    for site in ("0.resid_pre", "1.mlp_out"):
        with pytest.raises(DataError) as caught:
            run(tmp_path / "home", corpus_artifact, broken, config(site, skip_positions=2))
        said = re.search(
            rf"site '{site}' .* document (\d+), position (\d+) \(float32\)", str(caught.value)
        )
        assert said is not None
        (found,) = duckdb.execute(
            "SELECT token_id FROM read_parquet(?) WHERE doc_id = ? AND position = ?",
            [str(corpus_artifact.file("tokens.parquet")), int(said[1]), int(said[2])],
        ).fetchall()
        assert found[0] == rare


def test_what_a_block_does_not_add_is_refused(tmp_path: Path, corpus_artifact: Artifact) -> None:
    folder = save_tiny("granite", tmp_path / "granite", changes={"residual_multiplier": 0.5})
    granite = resolve(DataRoot(tmp_path / "home"), ModelConfig(name=str(folder)))
    with pytest.raises(ConfigError, match=r"'1\.mlp_out' can't be read in a GraniteDecoderLayer"):
        run(tmp_path / "home", corpus_artifact, granite, config("1.mlp_out"))


def test_a_split_without_rows_is_said(
    tmp_path: Path, corpus_artifact: Artifact, model: ResolvedModel
) -> None:
    with pytest.raises(DataError, match="split 'train' has no document longer than"):
        run(tmp_path, corpus_artifact, model, config(skip_positions=24))


def test_gpt2_at_its_full_size(tmp_path: Path, root: DataRoot, texts: Path) -> None:
    """124 million parameters, random, in a local folder: every site of one layer, bfloat16."""
    started = time.perf_counter()
    gpt2 = resolve(
        root, ModelConfig(name=str(save_gpt2_small(tmp_path / "gpt2")), dtype="bfloat16")
    )
    assert (gpt2.layers, gpt2.d_model) == (12, 768)
    source = CorpusConfig(source=str(texts), max_tokens=16, limit=40)
    read = corpus.tokenise(root, source, source=sources.resolve(source), model=gpt2)
    sites = ("5.resid_pre", "5.attn_out", "5.mlp_out", "5.resid_post")
    made = extract(DataRoot(tmp_path), config(*sites), model=gpt2, corpus=read, device="cpu")
    blocks = [list(ActivationReader(a, "train").rows_in_order()) for a in made.values()]
    pre, attention, mlp, post = (torch.cat([b.activation for b in of]) for of in blocks)
    assert post.shape == (made[Site(5, "resid_post")].facts["train_rows"], 768)
    assert attention.std() > 1e-3
    torch.testing.assert_close(pre + attention + mlp, post, rtol=0.02, atol=0.02)
    document = int(blocks[0][0].doc_id[0])
    ids = duckdb.execute(
        "SELECT token_id FROM read_parquet(?) WHERE doc_id = ? ORDER BY position",
        [str(read.file("tokens.parquet")), document],
    ).fetchnumpy()["token_id"]
    whole = load(gpt2, "cpu")
    ids = torch.from_numpy(ids.astype(np.int64))[None]
    states = whole(ids, output_hidden_states=True).hidden_states[6][0]
    mine = torch.from_numpy(blocks[3][0].doc_id == document)
    torch.testing.assert_close(post[: len(mine)][mine], states[1:].float(), rtol=0.02, atol=0.02)
    assert time.perf_counter() - started < 60


def test_keys_follow_what_changes_the_result(
    corpus_artifact: Artifact, model: ResolvedModel, tmp_path: Path
) -> None:
    def key(settings: ActivationsConfig, dtype: str = "auto", of: ResolvedModel = model) -> str:
        own = replace(of, dtype=dtype)
        return recipes(settings, model=own, corpus=corpus_artifact)[0].key

    other = resolve(
        DataRoot(tmp_path), ModelConfig(name=str(save_tiny("llama", tmp_path / "m", seed=1)))
    )
    keys = [
        key(config()),
        key(config("2.resid_post")),
        key(config(seed=1)),
        key(config(skip_positions=2)),
        key(config(), "float32" if pick_dtype() == torch.bfloat16 else "bfloat16"),
        key(config(), of=other),
    ]
    assert len(set(keys)) == len(keys)
    # What "auto" comes to here is in the key, and not the word.
    meant = str(pick_dtype("auto", pick_device("auto"))).removeprefix("torch.")
    assert key(config(), meant) == key(config(), "auto")
    # Which other sites are asked for does not matter to a site.
    both, free = config("2.mlp_out", "1.resid_post"), replace(model, dtype="auto")
    assert recipes(both, model=free, corpus=corpus_artifact)[1].key == keys[0]
