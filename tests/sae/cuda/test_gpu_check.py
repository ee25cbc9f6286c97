"""The check of the GPU path (benchmarks/gpu_check): on a CPU it runs whole, without Prefect,
DuckDB and network; it keeps what it found, whatever its parts do; and it finds what is wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.alone import ON_GPU
from support.cuda import REASON
from support.paths import ROOT

from benchmarks.gpu_check.kernels import shape
from benchmarks.gpu_check.plan import NAMES
from benchmarks.gpu_check.running import driver
from benchmarks.gpu_check.running.driver import Budget, Part, drive
from benchmarks.gpu_check.running.job import Job, Record
from benchmarks.gpu_check.summary import faults

ABSENT = """
import socket, sys
for name in ('prefect', 'duckdb'):
    sys.modules[name] = None
def refuse(self, address):
    raise OSError(f'the network is asked for: {address}')
socket.socket.connect = socket.socket.connect_ex = refuse
"""
LACKS = ("not installed", "No module named", "needs a CUDA device")
"""What a reason says of what is not here."""

MODULES = {
    "finishes": "def measure(job, record):\n    record['answer'] = 42\n",
    "raises": "def measure(job, record):\n    record['half'] = 1\n    raise ValueError('torn')\n",
    "dies": "import os\ndef measure(job, record):\n    record.note('half', 1)\n    os._exit(3)\n",
    "hangs": "import time\ndef measure(job, record):\n    record.note('half', 1)\n"
    "    time.sleep(60)\n",
    "lacks": "from benchmarks.gpu_check.running.job import Missing\n"
    "def measure(job, record):\n    raise Missing('no such card')\n",
    "looks": "import json\ndef measure(job, record):\n"
    "    record['seen'] = json.loads((job.out / 'report.json').read_text())\n",
}


def told(found: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """All results that have a state, however deep."""
    if "state" in found:
        yield found
    for inner in found.values():
        if isinstance(inner, dict):
            yield from told(inner)


def test_all_of_it_runs_on_a_cpu_without_prefect_duckdb_and_network(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(ABSENT)
    paths = os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")]))
    env, out = {**os.environ, "PYTHONPATH": paths}, tmp_path / "out"
    asks = (
        "import prefect",
        "import duckdb",
        "import socket; socket.create_connection(('::1', 9))",
    )
    for code in asks:
        done = subprocess.run([sys.executable, "-c", code], env=env, check=False,
                              stderr=subprocess.PIPE, text=True)  # fmt: skip
        assert done.returncode, code
    assert "the network is asked for" in done.stderr
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu_check", "--smoke", "--out", str(out)],
        cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-6000:] + (out / "logs.txt").read_text()[-6000:]
    report = json.loads((out / "report.json").read_text())
    assert list(report) == list(NAMES)
    for found in told(report):
        assert found["state"] in ("done", "skipped"), found
        if found["state"] == "skipped":
            assert any(words in found["reason"] for words in LACKS), found
    assert report["pipeline"]["state"] == "done"
    assert 0 < report["pipeline"]["metrics"]["fvu"] < 1
    assert report["speed"]["a"]["rows"]["DenseEngine, bf16"]["ms"] > 0
    if REASON is None or ON_GPU:
        assert [report[n]["state"] for n in ("tests", "kernels", "speed")] == ["done"] * 3
        assert " passed" in report["tests"]["tail"][-1]
        checks = [report["kernels"][name]["checks"] for name in "ab"]
        assert min(checks) > 100
        assert report["speed"]["a"]["rows"]["fused"]["ms"] > 0
        assert report["speed"]["a"]["kernels"]["rows"]
        assert len(report["sanitize"]["loss"]) == 2
    assert "nothing is wrong" in done.stdout
    assert "the network is asked for" not in (out / "logs.txt").read_text()
    assert (out / "report.txt").read_text() in done.stdout
    names = {"report.json", "report.txt", "logs.txt", "profile.txt", "tests.txt"}
    assert {path.name for path in out.iterdir()} == names


@pytest.fixture
def parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Part]:
    """Parts that end in every way, a module each."""
    for name, code in MODULES.items():
        (tmp_path / f"{name}.py").write_text(code)
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(driver, "LEAST_S", 0.5)
    return {name: Part(name, name, 60) for name in MODULES}


def test_a_part_that_fails_takes_no_other_with_it(parts: dict[str, Part], tmp_path: Path) -> None:
    rounds = [
        [parts["raises"], parts["dies"], parts["lacks"], parts["finishes"]],
        [parts["looks"]],
    ]
    report = drive(rounds, tmp_path / "out", Budget(60), smoke=True)
    seen = report["looks"].pop("seen")  # on disk, before the next round began
    assert json.loads((tmp_path / "out" / "report.json").read_text()).keys() == report.keys()
    assert seen == {name: found for name, found in report.items() if name != "looks"}
    assert {name: found["state"] for name, found in report.items()} == {
        "raises": "failed", "dies": "failed", "lacks": "skipped", "finishes": "done",
        "looks": "done",
    }  # fmt: skip
    assert report["raises"]["reason"] == "ValueError: torn"
    assert "Traceback" in report["raises"]["log"]
    assert report["dies"]["reason"] == "exit 3"
    assert report["raises"]["half"] == report["dies"]["half"] == 1
    assert report["lacks"]["reason"] == "no such card"
    assert report["finishes"]["answer"] == 42
    assert len(faults(report)) == 2


def test_the_budget_ends_the_check(parts: dict[str, Part], tmp_path: Path) -> None:
    began = time.monotonic()
    rounds = [[parts["finishes"], parts["hangs"]], [parts["looks"]], [parts["finishes"]]]
    report = drive(rounds, tmp_path / "out", Budget(4), smoke=True)
    assert time.monotonic() - began < 8
    assert report["finishes"]["state"] == "skipped"  # the last round's, which took its place
    assert report["hangs"]["state"] == "out of time"
    assert report["hangs"]["half"] == 1
    assert report["looks"] == {"state": "skipped", "reason": "no time left of 4 s"}
    assert faults(report) == [f"hangs: out of time: {report['hangs']['reason']}"]


def test_a_part_ends_at_its_own_limit(parts: dict[str, Part], tmp_path: Path) -> None:
    rounds = [[Part("hangs", "hangs", 2)], [parts["finishes"]]]
    report = drive(rounds, tmp_path / "out", Budget(60), smoke=True)
    assert [found["state"] for found in report.values()] == ["out of time", "done"]


@pytest.mark.skipif(REASON is not None, reason=REASON or "")
def test_a_kernel_that_does_nothing_is_found_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from deconstruct.sae.engines.cuda import backward

    monkeypatch.setattr(backward, "update_biases", lambda buffers: None)
    job = Job("", tmp_path / "b.json", tmp_path, time.monotonic() + 600, smoke=not ON_GPU,
              subject="ragged" if ON_GPU else "b")  # fmt: skip
    record = Record(job.results)
    shape.measure(job, record)
    bad = {row["check"] for row in record["bad"]}
    assert {f"step {n}: {b}: what Adam moved" for n in (1, 2) for b in ("b_enc", "b_dec")} <= bad
    assert not any("W_dec" in name for name in bad)
    wrong = faults({"kernels": {"state": "done", "b": dict(record)}})
    assert len(wrong) == len(record["bad"])


def test_hypothesis_is_capped(tmp_path: Path) -> None:
    (tmp_path / "test_many.py").write_text(
        "from hypothesis import given, settings, strategies as st\n"
        "seen = []\n"
        "@settings(max_examples=50, database=None)\n"
        "@given(st.integers())\n"
        "def test_many(n):\n    seen.append(n)\n"
        "def test_few():\n    assert 1 <= len(seen) <= 3\n"
    )
    options = ["-p", "benchmarks.gpu_check.own_tests.capped", "--most-examples", "3"]
    options += ["-p", "no:cacheprovider", "-c", os.devnull, "--rootdir", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, str(tmp_path)],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
