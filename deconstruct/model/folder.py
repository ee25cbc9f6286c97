"""What a folder must hold to be a language model, and digests of what it holds."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import struct
from collections.abc import Iterable, Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from deconstruct.artifacts import sha256_of
from deconstruct.common.errors import ConfigError

_WHOLE_TOKENIZER = "tokenizer.json"
"""Where it is there, `transformers` builds the tokenizer of it, and reads no other vocabulary."""
_ALWAYS = (
    _WHOLE_TOKENIZER,
    "tokenizer_config.json",
    "special_tokens_map.json",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
    "added_tokens.json",
)
_PIECES = ("*.model", "*.spm", "*.tiktoken")
"""Vocabularies that take a package more to be read: sentencepiece, tiktoken."""
_VOCABULARIES = ("vocab*", "*.vocab", "bpe.codes", "dict.txt", "tekken.json", *_PIECES)
_POINTER = b"version https://git-lfs"
_OTHER_WEIGHTS = ("*.gguf", "*.bin", "*.pt", "*.pth", "*.ckpt", "*.h5", "*.msgpack", "*.onnx")
EMBEDDINGS = ("embed_tokens.weight", "wte.weight", "embed_in.weight")
_MAX_HEADER = 100_000_000
"""Bytes; the limit of the safetensors format."""


def tokenizer_files(folder: Path) -> list[str]:
    """The files that decide what a folder's tokenizer makes of a text, sorted.

    Chat templates are none of them: texts are tokenised as they are.
    """
    names = [name for name in _ALWAYS if (folder / name).is_file()]
    others = ["tokenizer.*.json"]  # of some version of `transformers`, listed in tokenizer_config
    if _WHOLE_TOKENIZER not in names:
        others += _VOCABULARIES
    return sorted({*names, *_matching(folder, others)})


def check_folder(folder: Path, name: str) -> None:
    """Raise ``ConfigError`` unless a folder holds all of a model, whole, unquantised and in
    safetensors; name: as the user wrote it. Of weights only the headers are read."""
    fault = _not_there(folder) or _not_a_model(folder) or _lacks(folder) or _not_whole(folder)
    if fault is not None:
        raise ConfigError(f"model.name = {name!r}: {fault}")


def lacking(folder: Path) -> str | None:
    """What a folder lacks of a model, if anything."""
    if not (folder / "config.json").is_file():
        return "config.json"
    if not weights_of(folder):
        return "safetensors weights"
    index = folder / "model.safetensors.index.json"
    listed = _json(index).get("weight_map") if index.is_file() else {}
    shards = set(listed.values()) if isinstance(listed, dict) else set()
    if absent := sorted(shards - set(weights_of(folder))):
        return f"{absent[0]}, which {index.name} lists"
    if not _matching(folder, (_WHOLE_TOKENIZER, "tokenizer.*.json", *_VOCABULARIES)):
        return "tokenizer"
    return None


def weights_of(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*.safetensors"))


def embedding_of(folder: Path) -> list[int] | None:
    """Rows and width of the embedding in a folder's weights; None where it is not one tensor under
    a usual name. Of weights only the headers are read."""
    headers = [_header(folder / name) for name in weights_of(folder)]
    shapes = [
        shape
        for header in headers
        for name, shape in (header[0] if header else {}).items()
        if name.endswith(EMBEDDINGS) and len(shape) == 2
    ]
    return shapes[0] if len(shapes) == 1 else None


def digest_of(folder: Path, names: Iterable[str]) -> str:
    """SHA-256 over names and contents of those of the files that are there."""
    listing = {name: sha256_of(folder / name) for name in names if (folder / name).is_file()}
    return hashlib.sha256(json.dumps(listing, sort_keys=True).encode()).hexdigest()


def _matching(folder: Path, patterns: Iterable[str]) -> list[str]:
    """Names of the files that are none of weights and match one of the patterns."""
    names = [path.name for path in folder.iterdir() if path.is_file()]
    return sorted(name for name in names if any(fnmatch(name, pattern) for pattern in patterns))


def _not_there(folder: Path) -> str | None:
    """Files of Git LFS that were not fetched: a pointer of three lines stands for each."""
    for name in ["config.json", *tokenizer_files(folder), *_matching(folder, ["*.safetensors*"])]:
        path = folder / name
        if not path.is_file():
            continue
        with path.open("rb") as handle:
            if handle.read(len(_POINTER)) == _POINTER:
                return f"{name} is a pointer of Git LFS, not the file; run `git lfs pull` there"
    return None


def _not_a_model(folder: Path) -> str | None:
    """What a folder is that has a model's files, or some of them, and is another thing."""
    if (folder / "adapter_config.json").is_file():
        return (
            "the folder holds an adapter (adapter_config.json), not a whole model; merge it into "
            "its model (peft: merge_and_unload), save that, and name the folder that it is in"
        )
    if not (folder / "config.json").is_file():
        return None
    config = _json(folder / "config.json")
    if not config:
        return "config.json is no JSON object; copy or download the folder again"
    text = config.get("text_config")
    method = config.get("quantization_config") or (
        text.get("quantization_config") if isinstance(text, dict) else None
    )
    if method or (folder / "quantize_config.json").is_file():
        how = method.get("quant_method") if isinstance(method, dict) else None
        return (
            f"its weights are quantised{f' ({how})' if how else ''}, which is not supported; name "
            "the folder of the same model in bfloat16, float16 or float32"
        )
    if (kernel := _foreign_kernel(config)) is not None:
        return (
            f"its config.json asks for {kernel[:80]!r}, code of the hub, as its kernel; take that "
            "line out"
        )
    return None


def _foreign_kernel(config: Mapping[str, Any]) -> str | None:
    """The repository that a configuration, or a part of it, names for attention or experts.

    `transformers` would load it, and run it, without being asked for ``trust_remote_code``.
    """
    for name, value in config.items():
        if isinstance(value, dict) and (found := _foreign_kernel(value)) is not None:
            return found
        asks = "_implementation" in name or name == ""  # "": of all parts
        if asks and isinstance(value, str) and "/" in value:
            return value
    return None


def _lacks(folder: Path) -> str | None:
    absent = lacking(folder)
    if absent is None:
        pieces = _matching(folder, _PIECES)
        readable = _matching(folder, (_WHOLE_TOKENIZER, "tokenizer.*.json", "vocab*", "tekken*"))
        needs = "tiktoken" if any(name.endswith("tiktoken") for name in pieces) else "sentencepiece"
        if readable or not pieces or importlib.util.find_spec(needs) is not None:
            return None
        return (
            f"its tokenizer is {pieces[0]} alone, which takes the package {needs} to be read; "
            "where that is installed, AutoTokenizer.from_pretrained(folder).save_pretrained(folder)"
            " writes the tokenizer.json that is needed"
        )
    others = _matching(folder, _OTHER_WEIGHTS) if absent == "safetensors weights" else []
    beside = ""
    if any(name.endswith((".bin", ".pt", ".pth", ".ckpt")) for name in others):
        beside = ", only pickled ones, which can run code when loaded"
    elif others:
        beside = f", only {others[0]}"
    return (
        f"the folder holds no {absent}{beside}; name a folder that save_pretrained of model and "
        "tokenizer wrote"
    )


def _not_whole(folder: Path) -> str | None:
    """Files that end before their end, as an interrupted copy leaves them."""
    again = "copy or download it again"
    for name in [*tokenizer_files(folder), *_matching(folder, ["*.index.json"])]:
        if name.endswith(".json") and not _ends_as_json(folder / name):
            return f"{name} is no JSON, or cut off; {again}"
    for name in weights_of(folder):
        header = _header(folder / name)
        if header is None:
            return f"{name} is no safetensors file, or cut off within its header; {again}"
        tensors, whole = header
        size = (folder / name).stat().st_size
        if size < whole:
            return f"{name} is cut off: it has {size:,} of its {whole:,} bytes; {again}"
        if quantised := [tensor for tensor in tensors if tensor.endswith((".qweight", ".SCB"))]:
            return (
                f"its weights are quantised ({name} has {quantised[0]}), which is not supported; "
                "name the folder of the same model in bfloat16, float16 or float32"
            )
    return None


def _header(path: Path) -> tuple[dict[str, list[int]], int] | None:
    """Names and shapes of a safetensors file's tensors, and how many bytes it must have.

    As the documentation of safetensors has it: the header's length in 8 bytes, the header as JSON,
    then the tensors at ``data_offsets`` from its end.
    """
    with path.open("rb") as handle:
        begin = handle.read(8)
        length = struct.unpack("<Q", begin)[0] if len(begin) == 8 else 0
        if not 2 <= length <= _MAX_HEADER:
            return None
        try:
            header = json.loads(handle.read(length))
            header.pop("__metadata__", None)
            end = max((int(tensor["data_offsets"][1]) for tensor in header.values()), default=0)
            shapes = {name: list(tensor["shape"]) for name, tensor in header.items()}
        except (ValueError, TypeError, KeyError, IndexError, AttributeError):
            return None
    return shapes, 8 + length + end


def _ends_as_json(path: Path) -> bool:
    """Whether a file ends as an object or a list does; a vocabulary is too long to parse twice."""
    with path.open("rb") as handle:
        handle.seek(max(0, path.stat().st_size - 256))
        return handle.read().rstrip().endswith((b"}", b"]"))


def _json(path: Path) -> dict[str, Any]:
    """A JSON object; an empty one if the file holds none."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
