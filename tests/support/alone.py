"""What tests set in the environment, before any library reads it: import this first.

Tests never leave this machine, and nothing in them may try to. Without a CUDA device the GPU's
kernels run in Triton's interpreter, which is chosen when Triton is first imported, by whomever.

Runs write no page, but where that is what is tested: five seconds each.

Threads of OpenMP sleep while they wait: they would spin, on cores that other tests need.
"""

from __future__ import annotations

import os
from importlib.util import find_spec

os.environ.update(
    HF_HUB_OFFLINE="1",
    DO_NOT_TRACK="1",
    PREFECT_SERVER_ANALYTICS_ENABLED="false",
    TOKENIZERS_PARALLELISM="false",
    OMP_WAIT_POLICY="PASSIVE",
    DECONSTRUCT_REPORT="no",
)

import torch

ON_GPU = torch.cuda.is_available()
if not ON_GPU and find_spec("triton"):
    os.environ["TRITON_INTERPRET"] = "1"
