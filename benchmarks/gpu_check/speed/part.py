"""Speed: all contenders in turn at each size; where the time goes; what surrounds a step."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu.clock import fresh_memory
from benchmarks.gpu.sizes import Sizes, floor_ms
from benchmarks.gpu_check.engine import unavailable
from benchmarks.gpu_check.inputs import device_of, timed_sizes, tokens
from benchmarks.gpu_check.machine.versions import roof
from benchmarks.gpu_check.running.job import Job, Record, attempt, say, skipped
from benchmarks.gpu_check.speed.contenders import FUSED, contenders
from benchmarks.gpu_check.speed.feed import feed
from benchmarks.gpu_check.speed.kernel_times import kernel_times, told
from benchmarks.gpu_check.speed.timing import timed
from benchmarks.gpu_check.speed.trainings import clipping, losses

_AROUND = "a"
"""The size at which the feed, losses and clipping are looked at."""


def measure(job: Job, record: Record) -> None:
    """Leaves ``profile.txt`` beside the results."""
    device = device_of(job)
    record["ceilings"] = ceilings = roof(device)
    for name, sizes in timed_sizes(job.smoke).items():
        rows = tokens(8 * sizes.batch, sizes.d_in, 7, device).bfloat16()
        data = list(torch.split(rows, sizes.batch))
        del rows
        row = record[name] = {"shape": tuple(sizes), "floor": floor_ms(sizes, ceilings), "rows": {}}
        found = attempt(job, partial(kernel_times, sizes, data, ceilings, device))
        row["kernels"] = found
        if "touched" in found:  # a latent that did not fire is left alone
            touched = found["touched"]
            row["floor"] = floor_ms(sizes, ceilings, touched) | {"touched": touched}
        _note_kernels(job, record)
        _race(job, record, name, sizes, data)
        if name == _AROUND:
            _around(job, record, sizes)
        del data
        fresh_memory(device)


def _note_kernels(job: Job, record: Record) -> None:
    """``profile.txt``, of all sizes so far."""
    texts = []
    for name, row in record.items():
        if isinstance(row, dict) and "kernels" in row:
            batch, d_in, d_sae, k = row["shape"]
            found = row["kernels"]
            text = told(found) if "rows" in found else f"{found['state']}: {found['reason']}"
            texts.append(f"== {name}: B {batch}, d_in {d_in}, d_sae {d_sae}, k {k}\n{text}")
    (job.out / "profile.txt").write_text("\n\n".join(texts) + "\n")
    record.keep()


def _race(job: Job, record: Record, name: str, sizes: Sizes, data: list[Tensor]) -> None:
    """Time all contenders of a size, and the fused step once more: how far the clock drifts."""
    device, rows = device_of(job), record[name]["rows"]
    floor = record[name]["floor"]
    floor = floor["product_ms"] + floor["optimiser_ms"]
    found = contenders(sizes, device, whole=name == _AROUND)
    order = [*found.items(), (f"{FUSED}, once more", found[FUSED])]
    for label, contender in order:
        say("speed", name, label)
        rows[label] = attempt(job, partial(timed, contender, data, floor, device))
        record.keep()


def _around(job: Job, record: Record, sizes: Sizes) -> None:
    """What surrounds a step. Each is left out where the fused step can't run."""
    device = device_of(job)
    works: dict[str, Callable[[], dict[str, Any]]] = {
        "feed": lambda: feed(sizes, device),
        "after_steps": lambda: losses(device),
        "clipping": lambda: clipping(sizes, device),
    }
    for name, work in works.items():
        say("speed", name)
        reason = unavailable(device)
        record.note(name, skipped(reason) if reason else attempt(job, work))
