"""The stage sae: an autoencoder trained on one site's activations."""

from __future__ import annotations

from dataclasses import asdict

import pyarrow as pa
import pyarrow.parquet as pq

from deconstruct.artifact import Artifact, ArtifactStore, Draft, Recipe
from deconstruct.config import SaeConfig
from deconstruct.model import pick_device
from deconstruct.reader import ActivationReader
from deconstruct.sae import train as training
from deconstruct.sae.formats import CONFIG, WEIGHTS, config_of, save_weights

VERSION = 3

_OF_ONE_ARCHITECTURE = {"k": "topk", "l1_coefficient": "relu"}


def recipe(config: SaeConfig, activations: Artifact) -> Recipe:
    """All that decides the weights; settings of another architecture are none of it."""
    unused = {f for f, owner in _OF_ONE_ARCHITECTURE.items() if owner != config.architecture}
    settings = config.model_dump(mode="json", exclude=unused)
    return Recipe("sae", VERSION, settings, {"activations": activations.key})


def train(
    store: ArtifactStore, config: SaeConfig, activations: Artifact, *, device: str = "auto"
) -> Artifact:
    """Train on the train split; a killed training goes on from its last checkpoint.

    Raises ``DataError`` if the split has fewer rows than a batch, ``ConfigError`` for a device
    that is not there.
    """
    where = pick_device(device)

    def write(draft: Draft) -> None:
        reader = ActivationReader(activations, "train")
        batches = reader.batches(config.batch_size, config.seed)
        try:
            sae, rows = training.train(batches, reader.moments, config, draft.scratch, device=where)
        finally:
            batches.close()
        facts = activations.facts
        metadata = {
            "hook_name": tensor_lens_name(int(facts["layer"]), str(facts["hook"])),
            "model_name": facts["model"],
            "site": facts["site"],
            "training_tokens": rows[-1].tokens,
        }
        with draft.writing(WEIGHTS) as path:
            save_weights(sae, path)
        draft.write_json(CONFIG, config_of(sae, metadata))
        with draft.writing("training_log.parquet") as path:
            table = pa.Table.from_pylist([asdict(row) for row in rows])
            pq.write_table(table, path, compression="zstd", write_page_checksum=True)
        draft.rows["training_log.parquet"] = len(rows)
        draft.facts.update(
            architecture=config.architecture,
            d_in=sae.d_in,
            d_sae=sae.d_sae,
            k=sae.k,
            site=facts["site"],
            tokens=rows[-1].tokens,
            steps=rows[-1].step,
            train_fvu=rows[-1].fvu,
            train_l0=rows[-1].l0,
            train_dead_share=rows[-1].dead_share,
        )

    return store.make(recipe(config, activations), write)


def tensor_lens_name(layer: int, hook: str) -> str:
    """The site's name in TransformerLens, as other tools write it."""
    names = {"mlp_out": "hook_mlp_out", "attn_out": "hook_attn_out"}
    return f"blocks.{layer}.{names.get(hook, f'hook_{hook}')}"
