"""Two processes train together, started by torchrun, over gloo."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest
import torch
from support.paths import ROOT

from deconstruct.artifacts import Artifact, DataRoot
from deconstruct.config import SaeConfig
from deconstruct.sae import stage
from deconstruct.sae.files import load

SETTINGS = {"d_sae": 64, "k": 4, "tokens": 12_000, "batch_size": 256}


def torchrun(
    root: DataRoot, activations: Artifact, *more: str, **settings: object
) -> subprocess.CompletedProcess[str]:
    overrides = [f"sae.{name}={value}" for name, value in (SETTINGS | settings).items()]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command += ["-m", "deconstruct.sae.parallel", str(root.path), activations.key]
    command += [*overrides, *more]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )


def digests_of(done: subprocess.CompletedProcess[str]) -> list[str]:
    assert done.returncode == 0, done.stderr
    return re.findall(r"\b[0-9a-f]{64}\b", done.stdout)


@pytest.mark.parametrize("architecture", ["topk", "jumprelu"])
def test_two_processes_train_as_one_does(
    root: DataRoot, activations_artifact: Artifact, architecture: str
) -> None:
    digests = digests_of(torchrun(root, activations_artifact, architecture=architecture))
    assert len(digests) == 2
    assert digests[0] == digests[1]  # both processes hold the same weights, to the last bit
    config = SaeConfig.model_validate(SETTINGS | {"architecture": architecture})
    alone = stage.train(root, config, activations=activations_artifact, device="cpu")
    (together,) = [
        a
        for a in root.artifacts()
        if a.stage == "sae" and a.manifest.config == alone.manifest.config | {"ranks": 2}
    ]
    assert together.key != alone.key
    assert together.facts["train_fvu"] == pytest.approx(alone.facts["train_fvu"], rel=0.12)
    assert together.facts["train_l0"] == pytest.approx(alone.facts["train_l0"], rel=0.1)
    rows = [load(a.path).W_dec for a in (together, alone)]
    agree = torch.nn.functional.cosine_similarity(*rows, dim=1)
    assert float(agree.median()) > 0.9  # 46 steps let roundings grow
    again = torchrun(root, activations_artifact, architecture=architecture)
    assert digests_of(again) == []  # it is there


def test_what_several_processes_can_not_train_is_refused(
    root: DataRoot, activations_artifact: Artifact
) -> None:
    """Once, in one sentence, and no traceback of ours."""
    sites = "activations.sites=['1.resid_pre','2.mlp_out']"
    for field, value in (("output_site", "2.mlp_out"), ("patience", 3)):
        done = torchrun(root, activations_artifact, sites, **{field: value})
        assert done.returncode != 0
        said = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
        assert len(said) == 1
        assert f"sae.{field} = " in said[0]
        assert "can't be trained by several processes: leave it out" in said[0]
        assert "parallel.py" not in done.stderr
