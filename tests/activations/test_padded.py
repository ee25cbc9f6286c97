"""Documents padded on the right, as a GPU reads them, forced on a CPU: models of many kinds."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from support.tiny_models import save_tiny

from deconstruct.activations import forward, layout, paddable, stage
from deconstruct.activations.forward import Forward
from deconstruct.activations.landing import IN_FLIGHT
from deconstruct.activations.layout import Shard, Tokens
from deconstruct.activations.reader import ActivationReader
from deconstruct.activations.stage import compute_shards, extract, recipes
from deconstruct.artifacts import Artifact, DataRoot
from deconstruct.common.errors import DataError
from deconstruct.common.site import Site
from deconstruct.config import ActivationsConfig, ModelConfig
from deconstruct.model.resolve import ResolvedModel, resolve

SITES = [Site(0, "resid_post"), Site(1, "resid_post")]
DYNAMIC = {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 10_000.0}
RIGHT = {
    "gpt2": {},
    "llama": {},
    "gemma3_text": {"sliding_window": 8},
    "gpt_neox": {},
    "opt": {},
    "mixtral": {"num_local_experts": 4},
    "lfm2": {"layer_types": ["conv", "full_attention"]},
}
WRONG = {
    "both ways": ({"is_causal": False}, "what a document is padded with changes"),
    "dynamic": ({"rope_parameters": DYNAMIC}, "rotary positions follow the longest text"),
}


def drawn(lengths: NDArray[np.int64]) -> Tokens:
    """A corpus of random tokens, of each document's the first not recorded."""
    starts = np.concatenate([[0], np.cumsum(lengths)])
    ids = np.random.default_rng(0).integers(3, 250, starts[-1]).astype(np.int32)
    kept = np.ones(len(ids), bool)
    kept[starts[:-1]] = False
    return Tokens(ids, kept, lengths, lengths - 1, starts, np.arange(len(lengths)))


TOKENS = drawn(np.random.default_rng(1).integers(2, 49, 40))
SHARD = Shard(
    "train-00000.parquet", np.random.default_rng(2).permutation(40), int(TOKENS.rows.sum())
)


@pytest.fixture
def padding(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU is a device on which documents are padded; several passes a shard."""
    monkeypatch.setattr(forward, "PADS", ("cpu",))
    monkeypatch.setattr(layout, "PADDED_TOKENS", 400)


def unheard(rows: int) -> None:
    """Of progress."""


def saved(family: str, folder: Path, changes: dict[str, object], dtype: str) -> ResolvedModel:
    save_tiny(family, folder, layers=2, changes=changes)
    return ResolvedModel(family, folder, "", "", dtype)


def both(model: ResolvedModel, monkeypatch: pytest.MonkeyPatch) -> tuple[Forward, Forward]:
    """The model that pads, if it may, and the one that does not."""
    padded = Forward(model, TOKENS, SITES, "cpu")
    with monkeypatch.context() as patched:
        patched.setattr(forward, "PADS", ())
        return padded, Forward(model, TOKENS, SITES, "cpu")


@pytest.mark.usefixtures("padding")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", RIGHT)
def test_padded_documents_come_out_as_unpadded_ones(
    family: str,
    dtype: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    model = saved(family, tmp_path, RIGHT[family], dtype)
    padded, plain = both(model, monkeypatch)
    assert padded.padded, caplog.text
    assert not plain.padded
    advanced: list[int] = []
    found, expected = padded.compute(SHARD, advanced.append), plain.compute(SHARD, unheard)
    assert sum(advanced) == SHARD.rows
    assert len(advanced) > IN_FLIGHT
    assert list(found) == list(expected) == SITES
    eps = torch.finfo(found[SITES[0]].dtype).eps
    for site in SITES:
        assert found[site].dtype == expected[site].dtype
        apart = (found[site].float() - expected[site].float()).norm(dim=1)
        assert (apart / expected[site].float().norm(dim=1)).median() < 4 * eps


@pytest.mark.usefixtures("padding")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", WRONG)
def test_what_padding_would_change_is_read_by_length(
    kind: str,
    dtype: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    changes, said = WRONG[kind]
    with caplog.at_level(logging.WARNING, "deconstruct.stages"):
        model = saved("llama", tmp_path, changes, dtype)
        padded, plain = both(model, monkeypatch)
    assert not padded.padded
    assert "reads documents of one length at a time: " in caplog.text
    assert said in caplog.text
    found, expected = padded.compute(SHARD, unheard), plain.compute(SHARD, unheard)
    assert all(torch.equal(found[site], expected[site]) for site in SITES)


@pytest.mark.parametrize(
    ("spoilt", "said"),
    [
        (lambda ids, at: at + at[-1:, :1], "comes out otherwise padded than alone"),
        (lambda ids, at: at + ids.shape[1], "comes out otherwise padded than alone"),
        (lambda ids, at: at + ids[:, -1:, None], "what a document is padded with changes"),
    ],
    ids=["other documents", "positions from the right", "padding that leaks"],
)
def test_the_check_finds_what_is_wrong(spoilt: object, said: str) -> None:
    """A model that is right alone, and wrong among others."""
    table = torch.randn(300, 16, generator=torch.Generator().manual_seed(0))

    def read(ids: torch.Tensor) -> dict[Site, torch.Tensor]:
        at = table[ids]
        return {SITES[1]: at if len(ids) == 1 else spoilt(ids, at)}  # type: ignore[operator]

    assert said in paddable.fault(torch.nn.Identity(), read, TOKENS, 400, "cpu")
    right = paddable.fault(
        torch.nn.Identity(), lambda ids: {SITES[1]: table[ids]}, TOKENS, 400, "cpu"
    )
    assert right == ""


def test_a_pass_that_does_not_fit_is_no_fault_of_the_run() -> None:
    def read(ids: torch.Tensor) -> dict[Site, torch.Tensor]:
        raise torch.OutOfMemoryError("out of memory: tried to allocate 9 GiB\nand more")

    said = paddable.fault(torch.nn.Identity(), read, TOKENS, 400, "cpu")
    assert said == "a pass of 400 tokens does not run (out of memory: tried to allocate 9 GiB)"


def config(**changes: object) -> ActivationsConfig:
    settings = {"sites": ("1.resid_post", "2.mlp_out"), "shard_tokens": 512} | changes
    return ActivationsConfig.model_validate(settings)


@pytest.mark.usefixtures("padding")
def test_bytes_are_a_function_of_the_recipe(
    tmp_path: Path,
    corpus_artifact: Artifact,
    model: ResolvedModel,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Whether it was killed, dealt out, or asked for one site at a time; and rows are those of an
    extraction without padding, under the same key."""

    def made(name: str, sites: tuple[str, ...], **more: object) -> dict[Site, Artifact]:
        return extract(
            DataRoot(tmp_path / name), config(sites=sites), model=model, corpus=corpus_artifact,
            device="cpu", **more,  # type: ignore[arg-type]
        )  # fmt: skip

    sites = config().sites
    with caplog.at_level(logging.INFO, "deconstruct.stages"):
        whole = made("whole", sites)
    assert "computes up to 400 tokens a pass, " in caplog.text

    def deal(shares: stage.Deal) -> None:
        root = DataRoot(tmp_path / "dealt")
        (root.path / "corpus").mkdir()
        (root.path / "corpus" / corpus_artifact.key).symlink_to(corpus_artifact.path)
        for share in reversed(shares(3)):
            compute_shards(root, config(), model, share, device="cpu")

    dealt = made("dealt", sites, spread=deal)
    alone = {Site.parse(one): made("alone", (one,))[Site.parse(one)] for one in sites}
    for site, artifact in whole.items():
        assert artifact.digest() == dealt[site].digest() == alone[site].digest()


@pytest.mark.usefixtures("padding")
def test_rows_and_keys_are_those_without_padding(
    tmp_path: Path, corpus_artifact: Artifact, model: ResolvedModel, activations_artifact: Artifact
) -> None:
    settings = config(sites=("1.resid_post",))
    (made,) = extract(
        DataRoot(tmp_path), settings, model=model, corpus=corpus_artifact, device="cpu"
    ).values()
    assert made.key == activations_artifact.key
    assert made.facts.keys() == activations_artifact.facts.keys()
    for split in ("train", "test"):
        pairs = zip(
            ActivationReader(made, split).rows_in_order(),
            ActivationReader(activations_artifact, split).rows_in_order(),
            strict=True,
        )
        for mine, other in pairs:
            for name in ("token_index", "doc_id", "position", "token_id"):
                np.testing.assert_array_equal(getattr(mine, name), getattr(other, name))
            torch.testing.assert_close(mine.activation, other.activation, rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("padding")
def test_where_padded_activations_are_not_finite_is_said(
    tmp_path: Path, corpus_artifact: Artifact
) -> None:
    folder = save_tiny("llama", tmp_path / "broken")
    weights = load_file(folder / "model.safetensors")
    tokens = corpus_artifact.table("tokens.parquet").to_pandas()
    usual = tokens[~tokens.special & (tokens.position >= 1)]
    rare = int(usual.token_id.value_counts().idxmin())
    weights["model.embed_tokens.weight"][rare] = float("nan")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    broken = resolve(DataRoot(tmp_path / "home"), ModelConfig(name=str(folder), dtype="float32"))
    with pytest.raises(DataError, match=r"site '0.resid_pre' are not finite in doc") as caught:
        extract(
            DataRoot(tmp_path / "home"), config(sites=("0.resid_pre",)), model=broken,
            corpus=corpus_artifact, device="cpu",
        )  # fmt: skip
    at = tokens[tokens.token_id == rare].iloc[0]
    assert f"document {at.doc_id}, position {at.position} (float32)" in str(caught.value)


def test_keys_are_those_of_any_device(
    corpus_artifact: Artifact, model: ResolvedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def keys(device: str) -> list[str]:
        found = recipes(config(), model=model, corpus=corpus_artifact, device=device)
        return [recipe.key for recipe in found]

    on_cpu = keys("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert keys("cuda:0") == on_cpu


@pytest.mark.parametrize("most", [48, 500, 100_000])
@pytest.mark.parametrize("a_pass", [0, 64, 4096])
def test_batches_hold_every_document_once_and_cost_least(most: int, a_pass: int) -> None:
    documents = np.random.default_rng(3).permutation(40)[:30]
    sizes = TOKENS.lengths[documents]
    found = layout.padded_batches(documents, TOKENS.lengths, most, a_pass)
    assert sorted(np.concatenate(found).tolist()) == list(range(30))
    costs = [len(one) * int(sizes[one].max()) for one in found]
    assert max(costs) <= max(most, sizes.max())
    assert sizes[found[0]].max() == sizes.max()
    by_length = list(layout.batches(documents, TOKENS.lengths, most))
    assert sum(costs) + a_pass * len(found) <= int(sizes.sum()) + a_pass * len(by_length)
    if a_pass == 0:
        assert sum(costs) == sizes.sum()  # nothing is padded where a pass costs nothing
    if a_pass == 4096 and most == 100_000:
        assert len(found) == 1


def test_padded_ids_and_what_is_recorded() -> None:
    documents = np.array([3, 0, 7])
    ids, kept = TOKENS.padded(documents, fill=9)
    longest = TOKENS.lengths[documents].max()
    assert ids.shape == kept.shape == (3, longest)
    for row, document in enumerate(documents):
        size = TOKENS.lengths[document]
        np.testing.assert_array_equal(ids[row, :size], TOKENS.of(documents[[row]])[0])
        np.testing.assert_array_equal(kept[row, :size], TOKENS.kept_of(documents[[row]])[0])
        assert (ids[row, size:] == 9).all()
        assert not kept[row, size:].any()
