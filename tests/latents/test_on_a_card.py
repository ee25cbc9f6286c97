"""The stages' way on a card, forced on whatever is here, against their way on a CPU."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from support.cuda import DEVICE, REASON
from support.dense_latents import K, sae_of

from deconstruct.activations.reader import ActivationReader, Block
from deconstruct.artifacts import Artifact, DataRoot
from deconstruct.config import LatentsConfig
from deconstruct.latents import ahead
from deconstruct.latents import stage as latents
from deconstruct.sae import files
from deconstruct.sae.architectures.registry import ARCHITECTURES
from deconstruct.sae.autoencoder import SparseAutoencoder
from deconstruct.sae.engines.encoding.banded import Banded
