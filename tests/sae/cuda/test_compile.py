"""The fused GPU step's kernels compile and fit on cards that are not here (benchmarks/compile_gpu).

In processes of their own: this one may have put Triton in its interpreter.
"""

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
EVERYTHING = {
    "center_kernel", "choose_groups_kernel", "select_kernel", "decode_kernel", "keep_top_kernel",
    "pace_kernel", "chunk_kernel", "run_sums_kernel", "decoder_bias_partial_kernel",
    "decoder_bias_gradient_kernel", "row_squares_kernel", "update_bias_kernel",
    "update_rows_kernel",
}  # fmt: skip
OPTIONAL = {"keep_top_kernel", "row_squares_kernel"}  # AuxK's and clipping's
OF_A_TOKEN = {"choose_groups_kernel", "select_kernel"}
OF_A_BATCH = {"count_kernel", "list_kernel"}
PLAIN = "--dead 0 --clip-norm inf --optimizer adam --moments bfloat16"
SHAPES = {
    "a100 at 2304": "--d-in 2304 --d-sae 65536 --k 64",
    "l4 at 131072": "--d-in 768 --d-sae 131072 --k 32",
    "h100 at 24576": "--d-in 768 --d-sae 24576 --k 32",
    "rtx5090 at 24576": "--d-in 768 --d-sae 24576 --k 32",
}
"""What people train, where no register spills."""
CASES = SHAPES | {
    # A batch of more tokens than a grid has rows.
    "a100": "--batch 100000 --d-in 100 --d-sae 40000 --k 64",
    "l4": "--d-sae 131072 --k 512",
    "h100 plain": f"--d-in 8192 --d-sae 65536 --k 64 {PLAIN} --architecture batchtopk",
    "rtx5090 plain": f"--d-in 640 --d-sae 8192 --k 32 {PLAIN} --architecture matryoshka",
}


def start(cache: Path, *command: str) -> subprocess.Popen[str]:
    env = {n: v for n, v in os.environ.items() if n != "TRITON_INTERPRET"}
    env["TRITON_CACHE_DIR"] = str(cache)
    return subprocess.Popen(
        [sys.executable, *command], cwd=ROOT, env=env, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_all_kernels_compile_and_fit(case: str, tmp_path: Path) -> None:
    card = case.split(maxsplit=1)[0]
    process = start(
        tmp_path, "-m", "benchmarks.compile_gpu", "--json", "--card", card, *CASES[case].split()
    )
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err[-3000:]
    launches = json.loads(out)
    product = "encode_kernel" if card == "h100" else "group_max_kernel"
    wanted = EVERYTHING - (OPTIONAL if PLAIN in CASES[case] else set()) | {product}
    if "--architecture" in CASES[case]:
        wanted = wanted - OF_A_TOKEN | OF_A_BATCH
    assert {launch["kernel"] for launch in launches} == wanted
    for launch in launches:
        assert launch["registers"] * 32 * launch["warps"] <= 65536, launch
        # what does not fit into registers, bytes per thread
        assert launch["spilled"] <= (0 if case in SHAPES else 64), launch


def test_a_kernel_that_does_not_fit_is_found_out(tmp_path: Path) -> None:
    """The fused product of a card with TMA, where shared memory is a consumer card's."""
    code = (
        "from benchmarks import compile_gpu as c; "
        "from deconstruct.sae.engines.cuda.options import GpuOptions; "
        "c.CARDS['h100'] = (c.CARDS['h100'][0], 99); "
        "spec = c.StepSpec('topk', 64, 64, 512, 8, 0.0, 1.0, 8, 0.03, 1000); "
        "c.compile_step('h100', spec, GpuOptions(), 0)"
    )
    process = start(tmp_path, "-c", code)
    _, err = process.communicate(timeout=300)
    assert process.returncode != 0
    assert "OutOfResources" in err
    assert "shared memory" in err
