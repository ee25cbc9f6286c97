"""SAELens 6: ``cfg.json`` and ``sae_weights.safetensors``, which is how we keep SAEs ourselves."""

from __future__ import annotations

import json
from pathlib import Path

from deconstruct.interop.subject import Subject
from deconstruct.interop.work import Made, Work, python, write_json
from deconstruct.sae.files import CONFIG, WEIGHTS, copy_for_sae_lens

UNKNOWN = ("topk", "gated")
"""Transcoders of these kinds SAELens has not: their name follows its pattern."""


def check(subject: Subject) -> None:
    """It holds every kind."""


def write(work: Work, folder: Path) -> Made:
    """The SAE's own files, with all that SAELens asks of their metadata."""
    subject = work.subject
    copy_for_sae_lens(work.folder, folder)
    config = json.loads((folder / CONFIG).read_text())
    if "model_name" in config["metadata"]:  # as it was configured: maybe a folder of this machine
        config["metadata"]["model_name"] = subject.base_model or subject.model
        write_json(folder / CONFIG, config)
    encoded = (
        f"latents = sae.encode(activations)  "
        f"# as the model gives them: [n, {subject.d_in}] -> [n, {subject.d_sae}]"
    )
    if subject.transcoder and subject.architecture in UNKNOWN:
        loading = f"SAELens has no {subject.architecture} transcoders; Deconstruct reads them:\n\n"
        loading += python(work, "import deconstruct", "sae = deconstruct.load_sae(folder)", encoded)
    else:
        load = "sae = SAE.load_from_disk(folder)"
        loading = python(work, "from sae_lens import SAE", load, encoded)
    contents = (
        f"`{WEIGHTS}`: the weights, float32",
        f"`{CONFIG}`: what they are, and of which site",
    )
    return Made(loading, contents)
