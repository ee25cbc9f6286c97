"""The vectors that a model's tokens have before its first layer."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open

from deconstruct.model.folder import EMBEDDINGS, weights_of
from deconstruct.model.loading import load
from deconstruct.model.resolve import ResolvedModel


def input_embeddings(model: ResolvedModel, token_ids: NDArray[np.int64]) -> NDArray[np.float32]:
    """Rows of the model's input embedding: float32 [n, width], without what a family scales it by.

    Where its weights have one tensor of a usual name, those rows alone are read; otherwise the
    model is loaded. Raises what `load` raises.
    """
    names = []
    for file in weights_of(model.folder):
        with safe_open(model.folder / file, framework="pt") as weights:
            names += [(file, name) for name in weights.keys() if name.endswith(EMBEDDINGS)]  # noqa: SIM118
    if len(names) != 1 or getattr(model, "redrawn", None) is not None:
        table = load(model, "cpu").get_input_embeddings().weight  # type: ignore[operator]
        return np.asarray(table[token_ids].float().numpy())
    file, name = names[0]
    with safe_open(model.folder / file, framework="pt") as weights:
        found = weights.get_tensor(name)[token_ids].float().numpy()
    model.check_unchanged()
    return np.asarray(found)
