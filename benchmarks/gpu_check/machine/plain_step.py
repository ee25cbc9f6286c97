"""A small step without graphs, which compute-sanitizer looks at."""

from __future__ import annotations

import torch

from benchmarks.gpu.clock import wait
from benchmarks.gpu.sizes import Sizes, topk_spec
from benchmarks.gpu_check.engine import FusedTopK, buffers_of, launch_plainly
from benchmarks.gpu_check.inputs import device_of, start_weights, tokens
from benchmarks.gpu_check.running.job import Job, Record


def measure(job: Job, record: Record) -> None:
    """Two steps with clipping, and with AuxK over the third of the latents that is dead."""
    device = device_of(job)
    sizes = Sizes(5, 16, 40, 3) if job.smoke else Sizes(257, 104, 1000, 7)
    spec = topk_spec(sizes, 0.05, 5, dead_after=1000)
    engine = FusedTopK(spec, start_weights(spec, device), torch.full((8,), 1e-3), device)
    dead = torch.arange(spec.d_sae, device=device) % 3 == 0
    engine.load_state_dict({**engine.state_dict(), "since_fired": 1000 * dead.long()})
    x = tokens(sizes.batch, sizes.d_in, 3, device)
    for _ in range(2):
        launch_plainly(engine, x)
    wait(device)
    record |= {"loss": engine.losses[:2].tolist(), "fused_product": buffers_of(engine).fused}
