"""What this machine can do: versions, device, hub, disk, and what the data root holds."""

from __future__ import annotations

import os
import shutil
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from deconstruct.artifacts import DataRoot, software
from deconstruct.artifacts.remote import Mirror
from deconstruct.common.errors import StorageError


@dataclass(frozen=True)
class Finding:
    """One line of the examination; ``sound`` is False where a run would fail or suffer."""

    subject: str
    found: str
    sound: bool = True


def examine(home: Path) -> Iterator[Finding]:
    """Look at one thing after another.

    Changes nothing but making ``home`` if it is not there, and a note in the remote.
    """
    yield Finding("versions", ", ".join(f"{name} {v}" for name, v in software().items()))
    yield _device()
    yield _hub()
    try:
        root = DataRoot(home)
    except StorageError as error:
        yield Finding("home", str(error), sound=False)
        return
    free = shutil.disk_usage(home).free
    yield Finding("home", f"{home}, {_size(free)} free", sound=free > 5e9)
    yield from _cache(root)
    if root.mirror is not None:
        yield _remote(root.mirror)


def _device() -> Finding:
    import torch

    if torch.cuda.is_available():
        from deconstruct.sae.engines.cuda.options import unavailable

        card = torch.cuda.get_device_properties(0)
        lacks = unavailable("cuda:0")
        told = f"cuda: {card.name}, {_size(card.total_memory)}"
        return Finding("device", f"{told}; {lacks}" if lacks else told, sound=lacks is None)
    from deconstruct.common.hardware import pick_dtype

    dtype = str(pick_dtype("auto", "cpu")).removeprefix("torch.")
    return Finding("device", f"cpu, {os.cpu_count()} cores, forward passes in {dtype}; no GPU")


def _hub() -> Finding:
    from deconstruct.model.hub import reachable

    if reachable():
        return Finding("hub", "within reach")
    return Finding(
        "hub", "out of reach; local folders, its local cache and configs/embedded.toml work"
    )


def _cache(root: DataRoot) -> Iterator[Finding]:
    held: dict[str, list[int]] = defaultdict(list)
    for artifact in root.artifacts():
        held[artifact.stage].append(sum(f.bytes for f in artifact.manifest.files.values()))
    for stage, sizes in sorted(held.items()):
        yield Finding(f"cache {stage}", f"{_counted(len(sizes), 'artifact')}, {_size(sum(sizes))}")
    partial = list(root.path.glob("*/.*.partial"))
    if partial:
        yield Finding("unfinished", f"{_counted(len(partial), 'stage')}; to go on, repeat the run")
    if not held:
        yield Finding("cache", "empty")


def _remote(mirror: Mirror) -> Finding:
    try:
        mirror.check()
        sizes = [held.bytes for held in mirror.held()]
    except StorageError as error:
        return Finding("remote", str(error), sound=False)
    return Finding("remote", f"{mirror}, {_counted(len(sizes), 'artifact')}, {_size(sum(sizes))}")


def _counted(count: int, thing: str) -> str:
    return f"{count:,} {thing}{'s' * (count != 1)}"


def _size(number: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:.3g} TB"
