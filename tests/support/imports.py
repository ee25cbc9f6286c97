"""The imports of a tree of files, read from their text: which file needs which, on what line."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple


class Import(NamedTuple):
    """A file imports a module or a name of one. Both are dotted names of files of the tree."""

    importer: str
    imported: str
    path: Path
    line: int

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.importer} imports {self.imported}"


def modules(root: Path, *packages: str) -> dict[str, Path]:
    """Dotted name -> file, of every file below the packages; a package's is its ``__init__``."""
    files = (path for package in packages for path in sorted((root / package).rglob("*.py")))
    return {_name(path.relative_to(root)): path for path in files}


def imports(known: dict[str, Path]) -> list[Import]:
    """All imports of known files by known files, those inside functions too.

    Left out are those under ``if TYPE_CHECKING``, which no run meets. ``from a import b`` needs
    a.b where that is a file, else a.
    """
    found = []
    for importer, path in known.items():
        for node in _met(ast.parse(path.read_text())):
            for name in _named(node):
                imported = name if name in known else name.rpartition(".")[0]
                if imported in known and imported != importer:
                    found.append(Import(importer, imported, path, node.lineno))
    return found


def circles(found: list[Import]) -> list[list[str]]:
    """Groups of files that import each other, whichever way round: Tarjan 1972."""
    after: dict[str, set[str]] = {}
    for one in found:
        after.setdefault(one.importer, set()).add(one.imported)
        after.setdefault(one.imported, set())
    number: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    groups: list[list[str]] = []

    def visit(name: str) -> None:
        number[name] = low[name] = len(number)
        stack.append(name)
        for other in sorted(after[name]):
            if other not in number:
                visit(other)
                low[name] = min(low[name], low[other])
            elif other in stack:
                low[name] = min(low[name], number[other])
        if low[name] == number[name]:
            group = stack[stack.index(name) :]
            del stack[stack.index(name) :]
            if len(group) > 1:
                groups.append(sorted(group))

    for name in sorted(after):
        if name not in number:
            visit(name)
    return groups


def top_level(path: Path) -> set[str]:
    """Top-level packages that a file imports anywhere in it."""
    return {
        name.split(".")[0]
        for node in ast.walk(ast.parse(path.read_text()))
        for name in _named(node)
    }


def _name(path: Path) -> str:
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _met(tree: ast.AST) -> Iterator[ast.Import | ast.ImportFrom]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        elif not (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)):
            yield from _met(node)


def _named(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
        yield from (f"{node.module}.{alias.name}" for alias in node.names)
