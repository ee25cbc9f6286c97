"""What a stage leaves, and how it is found again: content-addressed folders under a data root."""

from deconstruct.artifacts.manifest import (
    MANIFEST,
    RECIPE,
    SCRATCH,
    Artifact,
    Draft,
    FileEntry,
    Manifest,
    Recipe,
    fsync,
    keys_of,
    sha256_of,
    software,
)
from deconstruct.artifacts.root import DataRoot
from deconstruct.artifacts.stage import Stage

__all__ = [
    "MANIFEST",
    "RECIPE",
    "SCRATCH",
    "Artifact",
    "DataRoot",
    "Draft",
    "FileEntry",
    "Manifest",
    "Recipe",
    "Stage",
    "fsync",
    "keys_of",
    "sha256_of",
    "software",
]
