"""docs/architecture.md is the map of the house; what names a file names one that is there."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections import Counter
from pathlib import Path

import pytest
from house.test_order import ORDER
from support.paths import ROOT

MAP = (ROOT / "docs" / "architecture.md").read_text()
TREES = ("deconstruct", "tasks", "flows")
SOURCES = [path for top in TREES for path in sorted((ROOT / top).rglob("*.py"))]
CODE = [
    *SOURCES,
    *(p for top in ("benchmarks", "tests") for p in sorted((ROOT / top).rglob("*.py"))),
]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "benchmarks/README.md")),
    *sorted((ROOT / "docs").glob("*.md")),
]
PLACES = "deconstruct|tasks|flows|tests|benchmarks|docs|configs|deploy"
PATH = re.compile(rf"(?<![\w./-])(?:{PLACES})/[\w./-]*\.(?:py|md|toml|sh|json|sql|yaml)\b")
FILE = re.compile(r"`(\w+\.py)`")
DOTTED = re.compile(r"(?<![\w./@-])(?:deconstruct|tasks|flows|benchmarks)(?:\.[A-Za-z_]\w*)+")
NOT_OURS = {"deconstruct.duckdb", "docs/gguf.md", "benchmarks/results/train_gpu.json"}
"""The store; the file of another project; what a benchmark leaves on a card."""


def mapped(page: str) -> Counter[str]:
    """Paths with a line of their own: a section names a folder, a line under it a file."""
    found: Counter[str] = Counter()
    for section in re.split(r"^#+ ", page, flags=re.MULTILINE):
        folder = re.match(r"`([\w/]+/)`: ", section)
        if folder:
            lines = re.findall(r"^- `(\w+\.py)`: .+$", section, re.MULTILINE)
            found.update(folder[1] + file for file in lines)
    return found


def test_each_file_has_one_line() -> None:
    files = {path.relative_to(ROOT).as_posix() for path in SOURCES if path.name != "__init__.py"}
    lines = mapped(MAP)
    assert not sorted(files - set(lines)), "these have no line in docs/architecture.md"
    assert not sorted(set(lines) - files), "docs/architecture.md names files that are not there"
    assert not [name for name, count in lines.items() if count > 1], "these have more than one"


def test_a_line_taken_out_or_put_in_is_noticed() -> None:
    [line] = re.findall(r"^- `splice.py`: .*\n", MAP, re.MULTILINE)
    gone = mapped(MAP) - mapped(MAP.replace(line, ""))
    assert dict(gone) == {"deconstruct/evaluation/splice.py": 1}
    more = mapped(MAP.replace(line, line + line.replace("splice", "slice"))) - mapped(MAP)
    assert dict(more) == {"deconstruct/evaluation/slice.py": 1}


def test_the_page_has_the_order_that_is_held() -> None:
    block = MAP[MAP.index("    common ") : MAP.index("To read the method")]
    told = [re.split(r" {2,}", line.strip())[0] for line in block.strip().splitlines()]
    there = {path.stem for path in (ROOT / "deconstruct").iterdir()}
    held = [", ".join(row) for row in ([n for n in row if n in there] for row in ORDER) if row]
    assert told == held


def prose(path: Path) -> str:
    """A page without its diffs; of code the docstrings and comments."""
    text = path.read_text()
    if path.suffix == ".md":
        return re.sub(r"^```diff\n.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)
    said = [
        node.value.value
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    ]
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    said += [token.string for token in tokens if token.type == tokenize.COMMENT]
    return "\n".join(str(part) for part in said)


def strangers(text: str) -> list[str]:
    """Paths, files and dotted names in ``text`` that stand for nothing."""
    known = {path.name for path in CODE} | {path.name for path in (ROOT / "docs").glob("*.py")}
    found = [name for name in PATH.findall(text) if not (ROOT / name).exists()]
    found += [name for name in FILE.findall(text) if name not in known]
    found += [name for name in DOTTED.findall(text) if not stands(name)]
    return [name for name in found if name not in NOT_OURS]


def stands(dotted: str) -> bool:
    """Whether a dotted name is a module's, or that of something which the module names."""
    place = ROOT
    parts = dotted.split(".")
    while parts and (place / parts[0]).is_dir():
        place /= parts.pop(0)
    if parts and (place / f"{parts[0]}.py").exists():
        file = place / f"{parts.pop(0)}.py"
    else:
        file = place / "__init__.py"
    return not parts or bool(re.search(rf"\b{parts[0]}\b", file.read_text()))


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_pages_name_what_is_there(path: Path) -> None:
    assert not strangers(prose(path))


def test_docstrings_and_comments_name_what_is_there() -> None:
    found = {path: strangers(prose(path)) for path in CODE}
    faults = [f"{path.relative_to(ROOT)}: {', '.join(n)}" for path, n in found.items() if n]
    assert not faults, "\n".join(faults)


def test_what_is_not_there_is_noticed() -> None:
    text = (
        "see deconstruct/sae/train.py, `cpu_varying.py`, `deconstruct.fidelity` and benchmarks.nil"
    )
    assert len(strangers(text)) == 4
    text = "see docs/sql.md, `stage.py`, deconstruct.open_store, `deconstruct.sae.stage.train`"
    assert not strangers(text)
