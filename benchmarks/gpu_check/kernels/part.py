"""A process for each shape, some at a time: compiling is what takes long."""

from __future__ import annotations

import time

from benchmarks.gpu_check.engine import unavailable
from benchmarks.gpu_check.inputs import device_of, shapes
from benchmarks.gpu_check.running.job import SPARE_S, Job, Missing, Record, skipped
from benchmarks.gpu_check.running.processes import Running


def measure(job: Job, record: Record) -> None:
    """Check all shapes: `benchmarks.gpu_check.kernels.shape`."""
    if reason := unavailable(device_of(job)):
        raise Missing(reason)
    together = 2 if job.smoke else 4
    waiting, running = list(shapes(job.smoke)), dict[str, Running]()
    while waiting or running:
        while waiting and len(running) < together and job.left() > SPARE_S:
            name = waiting.pop(0)
            running[name] = Running(_shape(job, name))
        for name in [n for n, one in running.items() if one.ended() or one.late()]:
            record.note(name, running.pop(name).outcome())
        if not running and job.left() < SPARE_S:
            record |= dict.fromkeys(waiting, skipped("no time left"))
            return
        time.sleep(0.1)


def _shape(job: Job, name: str) -> Job:
    """The job of one shape."""
    results = job.results.with_name(f"shape-{name.replace(' ', '-')}.json")
    module = "benchmarks.gpu_check.kernels.shape"
    return Job(module, results, job.out, job.deadline - SPARE_S, job.smoke, name)
