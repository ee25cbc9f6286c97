"""What was found, in lines for people; and what of it is wrong."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from benchmarks.gpu_check.machine import SANITIZER_FOUND
from benchmarks.gpu_check.running.job import FAILED, OUT_OF_TIME, SKIPPED

Found = dict[str, Any]

_SHOWN_VERSIONS = ("card", "python", "torch", "triton", "cuda", "numpy", "numba", "transformers")
_TIMED = ("a", "b", "c")
_AROUND = ("feed", "after_steps", "clipping")
_COMPARED = ("fvu_typical", "fvu", "l0", "delta_loss", "kl", "loss_recovered_bos_kept")


def summary(report: dict[str, Found]) -> str:
    """Lines on every part that ran, and last what is wrong."""
    lines = ["", "=== VERDICT"]
    told = {
        "versions": _versions, "tests": _tests, "kernels": _kernels, "speed": _speed,
        "pipeline": _pipeline, "sanitize": _sanitize,
    }  # fmt: skip
    for part, found in report.items():
        took = f" in {found['seconds']} s" if "seconds" in found else ""
        reason = f": {found['reason']}" if "reason" in found else ""
        lines.append(f"{part}: {found['state']}{took}{reason}")
        lines += [f"   {line}" for line in told[part](found)]
        lines += [f"   | {line}" for line in str(found.get("log", "")).splitlines()[-8:]]
    wrong = faults(report)
    left_out = ", ".join(name for name, found in report.items() if found["state"] == SKIPPED)
    lines += ["", f"{len(wrong)} wrong" if wrong else "nothing is wrong", *wrong]
    lines += [f"left out: {left_out}"] if left_out else []
    return "\n".join(lines)


def faults(report: dict[str, Found]) -> list[str]:
    """A line for each thing that failed or is off; what is skipped is neither."""
    wrong = list(_ended_badly(report, ""))
    if all(found["state"] == SKIPPED for found in report.values()):
        wrong.append("nothing was checked")
    if code := report.get("tests", {}).get("exit"):
        wrong.append(f"tests: exit {code}")
    for name, shape in _dicts(report.get("kernels", {})):
        wrong += [f"kernels, {name}: {_bad(row)}" for row in shape.get("bad", [])]
    for tool, said in _dicts(report.get("sanitize", {})):
        if said.get("exit") == SANITIZER_FOUND:
            wrong.append(f"sanitize: {tool} has found something")
    return wrong


def _ended_badly(found: Found, at: str) -> Iterator[str]:
    """Whatever has failed or was stopped, however deep."""
    if found.get("state") in (FAILED, OUT_OF_TIME):
        yield f"{at}: {found['state']}: {found.get('reason')}"
    for name, inner in _dicts(found):
        yield from _ended_badly(inner, f"{at}, {name}" if at else name)


def _dicts(found: Found) -> list[tuple[str, Found]]:
    return [(name, inner) for name, inner in found.items() if isinstance(inner, dict)]


def _bad(row: Found) -> str:
    return f"{row['check']}: {row['value']} (limit {row['limit']})"


def _plain(value: object, most: int = 200) -> str:
    return json.dumps(value, default=str)[:most]


def _versions(found: Found) -> Iterator[str]:
    if "python" in found:
        yield " ".join(f"{name}={found.get(name)}" for name in _SHOWN_VERSIONS)
    if "ceilings" in found:
        yield " ".join(f"{name}={value:.4g}" for name, value in found["ceilings"].items())


def _tests(found: Found) -> Iterator[str]:
    for name, inner in _dicts(found):
        yield f"{name}: {inner['state']}: {inner['reason']}"
    for line in found.get("tail", [])[:14]:
        yield line[:180]


def _kernels(found: Found) -> Iterator[str]:
    for name, shape in _dicts(found):
        if "checks" not in shape:
            yield f"{name}: {shape['state']}: {shape['reason']}"
            yield from (f"   | {line}" for line in str(shape.get("log", "")).splitlines()[-3:])
            continue
        bad = shape["bad"]
        yield (
            f"{name}: {shape['checks']} checks, {len(bad)} bad; compiled in "
            f"{shape['compile_s']} s, TMA product {shape['fused_product']}, "
            f"peak {shape.get('peak_gb', 0):.1f} GB"
        )
        yield from (f"   BAD {_bad(row)}" for row in bad[:8])


def _speed(found: Found) -> Iterator[str]:
    for name in _TIMED:
        if name in found:
            yield from _size(name, found[name])
    for name in _AROUND:
        around = found.get(name, {})
        if "state" in around:
            yield f"{name}: {around['state']}: {around['reason']}"
            continue
        yield from (f"{name}: {label}: {_plain(row)}" for label, row in around.items())


def _size(name: str, found: Found) -> Iterator[str]:
    """One size: a line per contender, and the kernels that take longest."""
    floor = " ".join(f"{what} {value:.3f}" for what, value in found["floor"].items())
    yield f"{name} {tuple(found['shape'])}: floor {floor}"
    ours = found["rows"].get("fused", {}).get("ms")
    for contender, row in found["rows"].items():
        if "ms" not in row:
            yield f"   {contender:26s} {row['state']}: {row['reason'][:150]}"
            continue
        times = f"{row['ms'] / ours:6.2f}x" if ours else ""
        yield (
            f"   {contender:26s} {row['ms']:9.3f} ms {row['tokens_s'] / 1e6:7.3f} Mtok/s {times} "
            f"roof {row['share_of_roofline']:.2f} peak {row['peak_gb'] or 0:6.2f} GB"
        )
    kernels = found.get("kernels", {})
    for row in kernels.get("rows", [])[:9]:
        rates = " ".join(f"{n}={row[n]:.3g}" for n in ("gb_s", "tflop_s") if n in row)
        yield f"      {row['us_a_step']:8.1f} us {row['kernel'][:44]:44s} {rates}"


def _pipeline(found: Found) -> Iterator[str]:
    aside = {"metrics", "metrics, CPU", "log", "state", "reason", "seconds"}
    for name, value in found.items():
        if name not in aside:
            yield f"{name}: {_plain(value)}"
    if device := found.get("metrics"):
        cpu = found.get("metrics, CPU", {})
        for name in _COMPARED:
            yield f"{name}: device {device.get(name)} CPU {cpu.get(name)}"


def _sanitize(found: Found) -> Iterator[str]:
    for tool, said in _dicts(found):
        yield f"{tool}: {_plain(said, 400)}"
