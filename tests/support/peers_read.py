"""Run by an interpreter that has the peers' own packages: what their classes make of a folder.

    python tests/support/peers_read.py FORMAT FOLDER X.safetensors OUT.safetensors

X: ``x`` [n, d]. Out: ``latents`` [n, F] and ``decoded`` [n, d].
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

Both = tuple[torch.Tensor, torch.Tensor]


def sparsify(folder: Path, x: torch.Tensor) -> Both:
    from sparsify import SparseCoder

    (place,) = (path.parent for path in folder.glob("*/cfg.json"))
    sae = SparseCoder.load_from_disk(place)
    values, latents, _ = sae.encode(x)
    dense = torch.zeros(len(x), sae.num_latents).scatter(1, latents, values)
    return dense, sae(x).sae_out


def dictionary_learning(folder: Path, x: torch.Tensor) -> Both:
    import json

    from dictionary_learning import dictionary
    from dictionary_learning.trainers import batch_top_k, top_k

    kind = json.loads((folder / "trainer_0/config.json").read_text())["trainer"]["dict_class"]
    module: Any = {"AutoEncoderTopK": top_k, "BatchTopKSAE": batch_top_k}.get(kind, dictionary)
    sae = getattr(module, kind).from_pretrained(str(folder / "trainer_0/ae.pt"))
    latents = sae.encode(x)
    return latents, sae.decode(latents)


def saelens(folder: Path, x: torch.Tensor) -> Both:
    from sae_lens import SAE

    sae = SAE.load_from_disk(folder)
    latents = sae.encode(x)
    return latents, sae.decode(latents)


def circuit_tracer(folder: Path, x: torch.Tensor) -> Both:
    import gzip
    import json
    import struct

    from circuit_tracer.frontend.feature_models import Model
    from circuit_tracer.transcoder.single_layer_transcoder import load_relu_transcoder

    index = json.loads(gzip.decompress((folder / "features/index.json.gz").read_bytes()))
    for told in index.values():
        raw = (folder / "features" / told["filename"]).read_bytes()
        for start in told["offsets"][:-1]:
            (length,) = struct.unpack("<I", raw[start : start + 4])
            Model.model_validate_json(gzip.decompress(raw[start + 4 : start + 4 + length]))
    (file,) = folder.glob("layer_*.safetensors")
    sae = load_relu_transcoder(str(file), 9, lazy_encoder=False, lazy_decoder=False)
    latents = sae.encode(x)
    return latents, sae.decode(latents, x)


READERS = {
    "saelens": saelens,
    "sparsify": sparsify,
    "dictionary-learning": dictionary_learning,
    "circuit-tracer": circuit_tracer,
}

if __name__ == "__main__":
    name, folder, given, out = sys.argv[1:]
    with torch.no_grad():
        latents, decoded = READERS[name](Path(folder), load_file(given)["x"])
    save_file({"latents": latents.contiguous(), "decoded": decoded.contiguous()}, out)
