"""The ``deconstruct`` command as a user starts it: a process of its own, with a real Prefect."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from support.paths import ROOT
from support.prefect_api import SECRET

from deconstruct.artifacts import Artifact, DataRoot
from deconstruct.config import STAGES as ALWAYS

STAGES = (*ALWAYS, "map")
"""Of a run as it is by default."""
COMMAND = "from flows.cli import app; app()"
STALLED = """
import importlib, signal, sys
name, function, calls = sys.argv.pop(1).split(":")
module = importlib.import_module(name)
real, count = getattr(module, function), []

def stalling(*args, **kwargs):
    count.append(None)
    if len(count) == int(calls):
        print("stalled", flush=True)
        signal.pause()
    return real(*args, **kwargs)

setattr(module, function, stalling)
from deconstruct.sae.training import checkpoint
checkpoint.EVERY_SECONDS = 0.0
from flows.cli import app
app()
"""
"""The command, but at the n-th call of ``module:function:n`` it waits to be killed.

The module may not import Prefect, which reads its settings as it is imported: the command makes
them.
"""

CONFIG = """
name = "small"
[model]
name = "{model}"
dtype = "float32"
[corpus]
source = "{texts}"
max_tokens = 24
[activations]
sites = ["1.resid_post"]
shard_tokens = 512
[sae]
d_sae = 64
k = 4
tokens = 20_000
batch_size = 256
[evaluation]
max_documents = 8
bootstrap = 50
[probe]
ks = [1, 4]
bootstrap = 50
"""


def patience(seconds: float) -> float:
    """Seconds of a machine that does nothing else, in those of this one, whose cores are shared."""
    return seconds * max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))


def write_config(path: Path, model: Path, texts: Path) -> Path:
    """A configuration over the small model that takes a few seconds."""
    path.write_text(CONFIG.format(model=model, texts=texts))
    return path


def environment(home: Path, **changes: str) -> dict[str, str]:
    """This process' environment for a command on ``home``, without a Prefect of this process.

    Who is to use a server of the tests has its secret too.
    """
    own = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    own |= {"DECONSTRUCT_HOME": str(home), "PYTHONPATH": str(ROOT), "COLUMNS": "200"}
    own["PREFECT_HOME"] = str(home / ".prefect")  # else servers of tests share the user's database
    if "PREFECT_API_URL" in changes:
        own["PREFECT_API_AUTH_STRING"] = SECRET
    return own | changes


def deconstruct(
    home: Path, *arguments: object, env: Mapping[str, str] | None = None, timeout: float = 480
) -> subprocess.CompletedProcess[str]:
    """Run the command to its end."""
    return subprocess.run(
        [sys.executable, "-c", COMMAND, *map(str, arguments)],
        env=environment(home, **(env or {})),
        cwd=tempfile.gettempdir(),
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


@contextmanager
def stalled(
    where: str, home: Path, *arguments: object, env: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[str]]:
    """The command, standing still at ``where`` (``module:function:call``); killed at the end."""
    with (
        tempfile.TemporaryFile("w+") as said,
        subprocess.Popen(
            [sys.executable, "-c", STALLED, where, *map(str, arguments)],
            env=environment(home, **(env or {})),
            cwd=tempfile.gettempdir(),
            stdout=subprocess.PIPE,
            stderr=said,
            text=True,
        ) as process,
    ):
        assert process.stdout is not None
        try:
            if process.stdout.readline() != "stalled\n":
                said.seek(0)
                raise AssertionError(f"it ended by {process.wait()}: {said.read()[-5000:]}")
            yield process
            assert process.poll() is None, "it ended by itself"
        finally:
            process.kill()


def artifacts(home: Path) -> dict[str, Artifact]:
    """The published artifacts of a home by stage; a home of one run has one of each."""
    found = list(DataRoot(home).artifacts())
    by_stage = {artifact.stage: artifact for artifact in found}
    assert len(found) == len(by_stage)
    return by_stage


def digests(home: Path) -> dict[str, tuple[str, str]]:
    """Stage -> key and digest of contents."""
    return {stage: (a.key, a.digest()) for stage, a in artifacts(home).items()}


def cached_stages(output: str) -> dict[str, bool]:
    """Stage -> whether it was answered from cache, as the command said."""
    said = re.findall(rf"({'|'.join(STAGES)}) +(from cache|done in)", output)
    return {stage: how == "from cache" for stage, how in said}
