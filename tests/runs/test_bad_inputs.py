"""Bad inputs end in a sentence, soon, with nothing half made.

``make campaign`` tries every one of them, each in 3 seconds; the ordinary tests try a sample.
"""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support.bad_inputs import Case, cases
from support.running import deconstruct

EVERY = int(os.environ.get("DECONSTRUCT_BAD_INPUTS", "12"))
"""One in so many is tried."""
SECONDS = 3.0 if EVERY == 1 else 30.0
"""In which each must end; the ordinary tests run beside others."""
LEFT = {".prefect", ".locks"}
"""What a command may leave in a new home: Prefect's own, and locks that nobody holds."""


def faults(case: Case, home: Path) -> list[str]:
    """What is wrong with how the command ended; none if it was as it should be."""
    began = time.monotonic()
    arguments = case.arguments
    if "--home" not in arguments:
        arguments = (*arguments, "--home", home)
    done = deconstruct(home, *arguments, env=case.env, timeout=120)
    seconds = time.monotonic() - began
    said = (done.stderr + done.stdout).strip()
    found = []
    if done.returncode not in (1, 2):
        found.append(f"exit code {done.returncode}")
    if "Traceback" in said:
        found.append("a traceback")
    if not any(sign in said for sign in ("error: ", "Usage: ")):
        found.append("no sentence")
    if seconds > SECONDS:
        found.append(f"{seconds:.1f} s")
    if home.is_dir() and (made := {path.name for path in home.iterdir()} - LEFT):
        found.append(f"left {', '.join(sorted(made))}")
    if found:
        found.append(said[-400:])
    return found


def test_bad_inputs(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder, homes = tmp_path_factory.mktemp("inputs"), tmp_path_factory.mktemp("homes")
    every = list(cases(folder))
    assert len(every) >= 200
    assert len({case.name for case in every}) == len(every)
    chosen = every[::EVERY]
    with ThreadPoolExecutor(2) as pool:
        ended = pool.map(faults, chosen, [homes / str(n) for n in range(len(chosen))])
        wrong = {case.name: found for case, found in zip(chosen, ended, strict=True) if found}
    told = "\n".join(f"{name}: {'; '.join(found)}" for name, found in wrong.items())
    assert not wrong, f"{len(wrong)} of {len(chosen)}\n{told}"
