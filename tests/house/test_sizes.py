"""Files, folders and functions stay small enough to be read at once."""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path

from support.paths import ROOT

FILES_IN_FOLDER = 12
ROOMY = {"deconstruct/store": 17, "flows": 17}
LINES_OF_FILE = 400
LINES_OF_FUNCTION = 60
PARAMETERS = 8

FILES = [
    path
    for top in ("deconstruct", "tasks", "flows", "benchmarks")
    for path in sorted((ROOT / top).rglob("*.py"))
]


def is_kernel(path: Path) -> bool:
    """Kernels are as long as their maths."""
    return "kernels" in path.relative_to(ROOT).parts


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def test_folders_hold_a_dozen_files() -> None:
    counts = Counter(name(path.parent) for path in FILES if path.name != "__init__.py")
    assert len(counts) > 15
    full = {at: n for at, n in counts.items() if n > ROOMY.get(at, FILES_IN_FOLDER)}
    assert not full, f"too many files; make a folder of a subject: {full}"


def test_files_have_one_subject() -> None:
    tests = sorted((ROOT / "tests").rglob("*.py"))
    lines = {name(path): len(path.read_text().splitlines()) for path in [*FILES, *tests]}
    long = {at: n for at, n in lines.items() if n > LINES_OF_FILE}
    assert not long, f"more than {LINES_OF_FILE} lines; split by subject: {long}"


def test_functions_do_one_thing() -> None:
    faults = []
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or is_kernel(path):
                continue
            at = f"{name(path)}:{node.lineno} {node.name}"
            if (lines := (node.end_lineno or 0) - node.lineno + 1) > LINES_OF_FUNCTION:
                faults.append(f"{at} has {lines} lines")
            named = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            given = [one for one in named if one.arg not in ("self", "cls")]
            if len(given) > PARAMETERS:
                faults.append(f"{at} has {len(given)} parameters")
    assert not faults, "\n".join(faults)
