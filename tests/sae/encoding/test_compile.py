"""The kernels of the fused selection compile, as encoding launches them, for cards that are not
here: at sizes that people train, without spills.

In processes of their own: this one may have put Triton in its interpreter.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from support.paths import ROOT

pytestmark = pytest.mark.skipif(
    find_spec("triton") is None, reason="Triton, which compiles the kernels, is not installed"
)
CODE = """
import json, sys, torch
from dataclasses import asdict
from triton.runtime import driver
from benchmarks.compile_gpu import PaperCard
from deconstruct.sae.engines.encoding.selected import SelectedTopK

name, d_in, d_sae, k = sys.argv[1], *map(int, sys.argv[2:])
paper = PaperCard(name)
driver.set_active(paper)
sizes = {"W_enc": (d_in, d_sae), "b_enc": (d_sae,), "b_dec": (d_in,)}
encoder = SelectedTopK({n: torch.empty(s, device="meta") for n, s in sizes.items()}, k)
encoder._card = paper.card
encoder._candidates(torch.empty(encoder.rows - 5, d_in, device="meta"))
print(json.dumps([asdict(launch) for launch in paper.launches]))
"""


@pytest.mark.parametrize(
    ("card", "sizes"), [("h100", (768, 24_576, 32)), ("l4", (768, 131_072, 32))]
)
def test_the_selection_compiles_and_fits(
    card: str, sizes: tuple[int, int, int], tmp_path: Path
) -> None:
    env = {n: v for n, v in os.environ.items() if n != "TRITON_INTERPRET"}
    env["TRITON_CACHE_DIR"] = str(tmp_path)
    command = [sys.executable, "-c", CODE, card, *map(str, sizes)]
    done = subprocess.run(
        command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    launches = json.loads(done.stdout)
    product = "encode_kernel" if card == "h100" else "group_max_kernel"
    assert [one["kernel"] for one in launches] == [product, "choose_groups_kernel", "select_kernel"]
    for launch in launches:
        assert launch["registers"] * 32 * launch["warps"] <= 65536, launch
        assert launch["spilled"] == 0, launch
