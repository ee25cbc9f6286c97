"""The stages as Prefect tasks, a line each; of the SAE: `tasks.training`."""

from __future__ import annotations

from collections.abc import Sequence

from deconstruct.activations import stage as activations_stage
from deconstruct.artifacts import DataRoot, Recipe
from deconstruct.cluster import stage as cluster_stage
from deconstruct.config import ActivationsConfig
from deconstruct.corpus import stage as corpus_stage
from deconstruct.drift import stage as drift_stage
from deconstruct.evaluation import stage as evaluation_stage
from deconstruct.interpretation import stage as interpretation_stage
from deconstruct.latents import stage as latents_stage
from deconstruct.map import stage as map_stage
from deconstruct.probe import stage as probe_stage
from deconstruct.reference import stage as reference_stage
from tasks.spread import extraction_over
from tasks.stage import Inputs, Ref, opened, stage_task


def record(
    recipes: Sequence[Recipe], home: str, config: ActivationsConfig, inputs: Inputs
) -> list[Ref]:
    """One forward pass for every site that is missing, spread over the input ``engine``."""
    root = DataRoot(home)
    given = opened(root, inputs)
    spread = extraction_over(given.pop("engine"), home, config, given["model"], given["device"])
    made = activations_stage.extract(root, config, **given, spread=spread)
    return [Ref.of(artifact) for artifact in made.values()]


corpus = stage_task(corpus_stage.STAGE)
activations = stage_task(activations_stage.STAGE, record)
reference = stage_task(reference_stage.STAGE)
latents = stage_task(latents_stage.STAGE)
evaluation = stage_task(evaluation_stage.STAGE)
probe = stage_task(probe_stage.STAGE)
cluster = stage_task(cluster_stage.STAGE)
drift = stage_task(drift_stage.STAGE)
interpretation = stage_task(interpretation_stage.STAGE)
maps = stage_task(map_stage.STAGE)
