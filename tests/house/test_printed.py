"""Nothing is printed but through `deconstruct.common.showing`, which obeys nothing of it."""

from __future__ import annotations

import ast

from support.paths import ROOT

SHOWING = "deconstruct/common/showing.py"
FILES = [
    path
    for top in ("deconstruct", "tasks", "flows")
    for path in sorted((ROOT / top).rglob("*.py"))
    if path.relative_to(ROOT).as_posix() != SHOWING
]
PRINTING = {"print", "echo", "secho", "pprint", "inspect", "Console", "from_markup"}
"""Names of what prints as it is, or reads markup: rich's, click's and Python's own."""


def test_whatever_prints_shows() -> None:
    faults = []
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            called = node.func
            if isinstance(called, ast.Name) and called.id in PRINTING:
                faults.append(f"{path.relative_to(ROOT)}:{node.lineno} {called.id}")
            if isinstance(called, ast.Attribute) and called.attr in PRINTING - {"print"}:
                faults.append(f"{path.relative_to(ROOT)}:{node.lineno} {called.attr}")
    assert not faults, f"print through {SHOWING}: {faults}"
