"""Folders as people have them: what is no whole model is said in a sentence, before any work."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file
from support.tiny_models import save_tiny

from deconstruct.activations import forward
from deconstruct.activations import stage as activations
from deconstruct.artifacts import Artifact, DataRoot
from deconstruct.common.errors import ConfigError
from deconstruct.config import ActivationsConfig, ModelConfig
from deconstruct.model.folder import digest_of
from deconstruct.model.loading import load, load_tokenizer
from deconstruct.model.resolve import ResolvedModel, resolve

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:1234\nsize 5678\n"


def resolved(root: DataRoot, folder: Path) -> ResolvedModel:
    return resolve(root, ModelConfig(name=str(folder), dtype="float32"))


@pytest.fixture
def folder(tiny_model: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_model, tmp_path / "copy"))


def settings(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def quantised(folder: Path) -> None:
    settings(folder, quantization_config={"quant_method": "gptq", "bits": 4})


def quantised_inside(folder: Path) -> None:
    settings(folder, text_config={"quantization_config": {"quant_method": "awq"}})


def quantised_of_old(folder: Path) -> None:
    (folder / "quantize_config.json").write_text('{"bits": 4}')


def quantised_by_its_tensors(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["model.layers.0.mlp.up_proj.qweight"] = weights.pop("model.layers.0.mlp.up_proj.weight")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def adapter(folder: Path) -> None:
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    (folder / "model.safetensors").rename(folder / "adapter_model.safetensors")


def gguf_alone(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "model-q4.gguf")


def cut(name: str) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        whole = (folder / name).read_bytes()
        (folder / name).write_bytes(whole[: len(whole) // 2])

    return spoil


def cut_in_the_header(folder: Path) -> None:
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[:100])


def text(name: str, content: bytes) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes(content)  # type: ignore[return-value]


def lone_sentencepiece(folder: Path) -> None:
    for path in folder.glob("tokenizer*"):
        path.unlink()
    (folder / "tokenizer.model").write_bytes(b"\n\x0e\n\x05<unk>\x15\0\0\0\0\x18\x02")


def of_other_width(folder: Path) -> None:
    settings(folder, hidden_size=48)


def of_fewer_tokens(folder: Path) -> None:
    settings(folder, vocab_size=10)


def of_no_width(folder: Path) -> None:
    settings(folder, hidden_size=-1)


def no_vocabulary(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()  # tokenizer_config.json is left


BAD = {
    quantised: r"quantised \(gptq\), which is not supported; name the folder of the same model in",
    quantised_inside: r"quantised \(awq\)",
    quantised_of_old: "its weights are quantised, which",
    quantised_by_its_tensors: r"quantised \(model.safetensors has .*up_proj\.qweight\)",
    adapter: r"holds an adapter .* merge it into its model",
    gguf_alone: r"no safetensors weights, only model-q4\.gguf; name a folder that",
    cut("model.safetensors"): r"model\.safetensors is cut off: it has [\d,]+ of its [\d,]+ bytes",
    cut_in_the_header: r"model\.safetensors is no safetensors file, or cut off within its header",
    text("model.safetensors", b"nonsense that no header fits"): "is no safetensors file",
    text("model.safetensors", b""): "is no safetensors file",
    cut("tokenizer.json"): "tokenizer.json is no JSON, or cut off; copy or download it again",
    cut("config.json"): "config.json is no JSON object",
    text("config.json", b"[]"): "config.json is no JSON object",
    text("model.safetensors", POINTER): "model.safetensors is a pointer of Git LFS",
    text("tokenizer.json", POINTER): "tokenizer.json is a pointer of Git LFS",
    text("model.safetensors.index.json", b'{"weight_map": {'): "index.json is no JSON, or cut off",
    lone_sentencepiece: r"tokenizer is tokenizer\.model alone, which takes the package sentence",
    of_other_width: r"embed \d+ tokens in 32 dimensions, but its config.json says \d+ in 48",
    of_fewer_tokens: r"embed \d+ tokens in 32 dimensions, but its config.json says 10 in 32",
    of_no_width: "its config.json gives no width",
    no_vocabulary: "the folder holds no tokenizer; name",
}


@pytest.mark.parametrize("spoil", BAD, ids=lambda spoil: getattr(spoil, "__name__", ""))
def test_a_folder_that_is_no_whole_model(
    root: DataRoot, folder: Path, spoil: Callable[[Path], None]
) -> None:
    spoil(folder)
    started = time.perf_counter()
    with pytest.raises(ConfigError, match=rf"model\.name = '.*copy': .*{BAD[spoil]}"):
        resolved(root, folder)
    assert time.perf_counter() - started < 3


@pytest.mark.parametrize(
    "asking",
    [
        {"attn_implementation": "someone/kernel"},
        {"_attn_implementation": "someone/kernel@main:f"},
        {"attn_implementation": {"": "someone/kernel"}},
        {"text_config": {"attn_implementation": "someone/kernel"}},
        {"experts_implementation": "someone/kernel"},
    ],
    ids=str,
)
def test_a_folder_names_no_kernel_of_the_hub(
    root: DataRoot, folder: Path, asking: dict[str, Any]
) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | asking))
    with pytest.raises(ConfigError, match=r"asks for 'someone/kernel.*code of the hub"):
        resolved(root, folder)


def test_a_tokenizer_that_does_not_load_without_its_own_code(root: DataRoot, folder: Path) -> None:
    path = folder / "tokenizer_config.json"
    theirs = {"tokenizer_class": "Theirs", "auto_map": {"AutoTokenizer": ["theirs.Theirs", None]}}
    path.write_text(json.dumps(json.loads(path.read_text()) | theirs))
    with pytest.raises(ConfigError, match=r"its tokenizer does not load \(.*custom code"):
        load_tokenizer(resolved(root, folder))


def word_pieces(folder: Path, words: str) -> Path:
    """A folder whose tokenizer is vocab.txt, as BERT's was kept."""
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}')
    (folder / "vocab.txt").write_text("\n".join(f"[PAD] [UNK] [CLS] [SEP] [MASK] {words}".split()))
    return folder


def test_a_tokenizer_kept_as_a_list_of_words_is_known_by_it(
    root: DataRoot, folder: Path, tmp_path: Path
) -> None:
    one = resolved(root, word_pieces(folder, "the market rose"))
    other = Path(shutil.copytree(folder, tmp_path / "other"))
    assert resolved(root, other).tokenizer_digest == one.tokenizer_digest
    (other / "vocab.txt").write_text((folder / "vocab.txt").read_text().replace("rose", "fell"))
    assert resolved(root, other).tokenizer_digest != one.tokenizer_digest
    assert load_tokenizer(one).tokenize("market rose") == ["market", "rose"]
    for name in ("spiece.model", "sentencepiece.bpe.model", "vocab.bpe", "tekken.json"):
        before = resolved(root, folder).tokenizer_digest
        (folder / name).write_text("{}")
        assert resolved(root, folder).tokenizer_digest != before, name


def test_where_tokenizer_json_is_the_tokenizer_keys_stay(root: DataRoot, folder: Path) -> None:
    """`transformers` reads no other vocabulary then; digests are those that data roots have."""
    known = digest_of(folder, ("tokenizer.json", "tokenizer_config.json"))
    (folder / "vocab.txt").write_text("never read")
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    assert resolved(root, folder).tokenizer_digest == known


def shift(folder: Path) -> None:
    """Other weights, in place."""
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"] = weights["model.norm.weight"] + 1
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def test_a_folder_that_changes_after_its_digest_is_not_used(root: DataRoot, folder: Path) -> None:
    found = resolved(root, folder)
    shift(folder)
    with pytest.raises(ConfigError, match="files have changed since the run began; run it again"):
        load(found, "cpu")
    again = resolved(root, folder)
    (folder / "model.safetensors").touch()  # another time, the same bytes
    load(again, "cpu")
    tokenizer = folder / "tokenizer.json"
    tokenizer.write_text(tokenizer.read_text() + " ")
    with pytest.raises(ConfigError, match="files have changed"):
        load_tokenizer(again)


def test_nothing_is_recorded_of_a_folder_that_changes_meanwhile(
    tmp_path: Path, folder: Path, corpus_artifact: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = DataRoot(tmp_path / "home")
    found, config = resolved(root, folder), ActivationsConfig(sites=("1.resid_post",))

    def load_then_change(model: ResolvedModel, device: str) -> object:
        loaded = load(model, device)
        shift(folder)
        return loaded

    monkeypatch.setattr(forward, "load", load_then_change)
    with pytest.raises(ConfigError, match="files have changed"):
        activations.extract(root, config, model=found, corpus=corpus_artifact, device="cpu")
    assert not list((tmp_path / "home").rglob("train-*.parquet"))


def test_documents_longer_than_the_model_has_positions(
    tmp_path: Path, corpus_artifact: Artifact
) -> None:
    root = DataRoot(tmp_path / "home")
    short = save_tiny("gpt2", tmp_path / "gpt2", changes={"n_positions": 16})
    with pytest.raises(ConfigError, match=r"max_tokens = 24 is more than the 16 positions of gpt2"):
        resolved(root, short).check_length(24)
    resolved(root, short).check_length(16)
    config = ActivationsConfig(sites=("1.resid_post",))
    with pytest.raises(ConfigError, match="is more than the 16 positions of gpt2"):
        activations.extract(
            root, config, model=resolved(root, short), corpus=corpus_artifact, device="cpu"
        )


def test_a_token_beyond_the_embedding(tmp_path: Path, corpus_artifact: Artifact) -> None:
    root = DataRoot(tmp_path / "home")
    small = save_tiny("gpt2", tmp_path / "gpt2", changes={"vocab_size": 200})
    config = ActivationsConfig(sites=("1.resid_post",))
    with pytest.raises(ConfigError, match=r"the token \d+, but its embedding has 200 rows"):
        activations.extract(
            root, config, model=resolved(root, small), corpus=corpus_artifact, device="cpu"
        )
