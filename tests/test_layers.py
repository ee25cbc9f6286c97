"""The rules of the house: imports run flows -> tasks -> deconstruct, never back."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FORBIDDEN = {
    "deconstruct": {"prefect", "tasks", "flows"},
    "tasks": {"flows"},
}


def imported(path: Path) -> set[str]:
    """Top-level packages that a file imports anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("package", sorted(FORBIDDEN))
def test_imports_never_run_back(package: str) -> None:
    files = sorted((ROOT / package).rglob("*.py"))
    assert len(files) > 5
    back = {f.name: imported(f) & FORBIDDEN[package] for f in files}
    assert {name: names for name, names in back.items() if names} == {}


def test_reading_commands_start_without_torch() -> None:
    code = "import sys, deconstruct.cli; print('torch' in sys.modules, 'prefect' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


def test_nothing_is_pickled() -> None:
    for path in [*ROOT.glob("deconstruct/**/*.py"), *ROOT.glob("tasks/*.py")]:
        text = path.read_text()
        assert "pickle" not in imported(path)
        assert "torch.save(" not in text, path
        assert "torch.load(" not in text, path
        assert "trust_remote_code=True" not in text, path
