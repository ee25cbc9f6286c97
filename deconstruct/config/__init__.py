"""What a run is: one small frozen model per stage, read from TOML, checked before any work.

The configuration *is* the cache key: every field here can change a result, and what cannot
(device, number of workers, where the data root is) is not here but in the call.
"""

from deconstruct.config.analysis import TRAINING, AnalysisConfig
from deconstruct.config.base import Settings
from deconstruct.config.corpus import CorpusConfig, LabelColumn, LabelKind, ModelConfig
from deconstruct.config.run import (
    EVERY_STAGE,
    OPTIONAL_STAGES,
    STAGES,
    GatesConfig,
    Growth,
    RunConfig,
)
from deconstruct.config.sae import (
    BY_NUMBER,
    SPARSITY_PENALTIES,
    Architecture,
    SaeConfig,
    unused_by,
)
from deconstruct.config.stages import (
    ActivationsConfig,
    ClusterConfig,
    EvaluationConfig,
    ExplanationConfig,
    InterpretationConfig,
    LatentsConfig,
    MapConfig,
    ProbeConfig,
)
from deconstruct.config.toml import load, load_as

__all__ = [
    "BY_NUMBER",
    "EVERY_STAGE",
    "OPTIONAL_STAGES",
    "SPARSITY_PENALTIES",
    "STAGES",
    "TRAINING",
    "ActivationsConfig",
    "AnalysisConfig",
    "Architecture",
    "ClusterConfig",
    "CorpusConfig",
    "EvaluationConfig",
    "ExplanationConfig",
    "GatesConfig",
    "Growth",
    "InterpretationConfig",
    "LabelColumn",
    "LabelKind",
    "LatentsConfig",
    "MapConfig",
    "ModelConfig",
    "ProbeConfig",
    "RunConfig",
    "SaeConfig",
    "Settings",
    "load",
    "load_as",
    "unused_by",
]
