"""The rules of the house: data flows one way, and so do imports. A failure names file and line."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module

import pytest
from support.imports import Import, circles, imports, modules, top_level
from support.paths import ROOT

from deconstruct.config import OPTIONAL_STAGES, STAGES
from deconstruct.store.schema import RELATIONS

ORDER = (
    ("common",),
    ("config",),
    ("artifacts",),
    ("model",),
    ("corpus",),
    ("activations",),
    ("sae",),
    ("features", "reference"),
    ("latents", "evaluation"),
    ("probe", "cluster", "drift", "matching", "interpretation"),
    ("explanation", "map"),
    ("store",),
    ("recurring", "interop", "report", "suggest", "causes"),
    ("firing",),
    ("explorer",),
    ("commands", "doctor"),
    ("sharing", "examining", "asking", "reporting", "looking", "trying"),
    ("cli",),
)
"""Packages of ``deconstruct/``, from the ground up: each imports from rows above its own alone."""

INSIDE_SAE = (
    ("schedule", "spec"),
    ("architectures",),
    ("initial", "rates"),
    ("engines",),
    ("autoencoder", "folding", "files"),
    ("formats",),
    ("pretrained",),
    ("training",),
    ("stage", "tables"),
    ("parallel",),
)
"""The same for ``deconstruct/sae``; files of one row may import each other."""

PICKLED = (ROOT / "deconstruct/interop/formats/dictionary_learning.py",)
"""What others can read as a pickle alone, of plain tensors."""

FILES = modules(ROOT, "deconstruct", "tasks", "flows")
FOUND = imports(FILES)
GATHERED = {relation.stage for relation in RELATIONS}


def rows(order: tuple[tuple[str, ...], ...]) -> dict[str, int]:
    return {name: number for number, row in enumerate(order) for name in row}


def part(module: str, level: int) -> str:
    """The name at a level of a dotted one: ``part("deconstruct.sae.spec", 2)`` is spec."""
    return (module.split(".") + [""] * 3)[level]


def told(faults: list[Import], rule: str) -> str:
    return "\n".join([rule, *map(str, faults)])


def test_the_trees_are_read() -> None:
    assert len(FILES) > 100
    assert len(FOUND) > 300
    assert set(rows(ORDER)) >= {part(m, 1) for m in FILES if m.startswith("deconstruct.")}


def test_packages_import_only_what_comes_before_them() -> None:
    place = rows(ORDER)
    faults = []
    for one in FOUND:
        own, other = part(one.importer, 1), part(one.imported, 1)
        inside = one.importer.startswith("deconstruct.") and one.imported.startswith("deconstruct")
        if inside and own != other and place.get(other, len(ORDER)) >= place[own]:
            faults.append(one)
    assert not faults, told(faults, "a package imports only from rows above it in ORDER")


def test_inside_sae_the_method_knows_nothing_of_who_computes_it() -> None:
    place = rows(INSIDE_SAE)
    faults = []
    for one in FOUND:
        if not all(m.startswith("deconstruct.sae.") for m in (one.importer, one.imported)):
            continue
        if place[part(one.imported, 2)] > place[part(one.importer, 2)]:
            faults.append(one)
    assert not faults, told(faults, "in sae, imports follow INSIDE_SAE")


def test_the_engines_of_cpu_and_gpu_are_strangers_and_kernels_know_only_themselves() -> None:
    faults = []
    for one in FOUND:
        between = {"cpu", "cuda"} & {part(m, 3) for m in (one.importer, one.imported)} == {
            "cpu",
            "cuda",
        }
        folder, kernels, _ = one.importer.rpartition(".kernels.")
        leaves = bool(kernels) and not one.imported.startswith(f"{folder}.kernels.")
        if between or leaves:
            faults.append(one)
    assert not faults, told(faults, "cpu and cuda don't meet; kernels/ imports itself alone")


def test_no_files_import_each_other_in_a_circle() -> None:
    found = circles(FOUND)
    assert not found, "\n".join("circle: " + ", ".join(files) for files in found)


def test_flows_import_tasks_import_deconstruct() -> None:
    forbidden = {"deconstruct": {"prefect", "tasks", "flows"}, "tasks": {"flows"}}
    faults = [
        f"{path} imports {sorted(back)}"
        for package, names in forbidden.items()
        for path in sorted((ROOT / package).rglob("*.py"))
        if (back := top_level(path) & names)
    ]
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize("module", ["store", "config", "artifacts", "cli"])
def test_reading_needs_neither_torch_nor_prefect(module: str) -> None:
    code = f"import sys, deconstruct.{module}; print(*({{'torch', 'prefect'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_nothing_is_pickled() -> None:
    for path in [*ROOT.glob("deconstruct/**/*.py"), *ROOT.glob("tasks/*.py")]:
        text = path.read_text()
        assert "pickle" not in top_level(path)
        assert "torch.save(" not in text or path in PICKLED, path
        loads = [line for line in text.splitlines() if "torch.load(" in line]
        assert all("weights_only=True" in line for line in loads), path
        assert not loads or path.name == "base.py", path  # dictionaries that others saved so
        assert "trust_remote_code=True" not in text, path


def test_each_stage_has_its_package_with_its_recipe_its_verb_and_its_tables() -> None:
    for name in (*STAGES, *OPTIONAL_STAGES):
        module = import_module(f"deconstruct.{name}.stage")
        assert isinstance(module.VERSION, int), name
        assert module.STAGE.name == name
        for part in (module.STAGE.recipe, module.STAGE.make):
            assert part.__module__ == module.__name__, f"{name}: recipe and verb are in stage.py"


def test_the_store_gathers_the_tables_of_every_stage_that_has_any() -> None:
    for path in sorted((ROOT / "deconstruct").glob("*/stage.py")):
        name = path.parent.name
        if name == "artifacts":  # which says what a stage is
            continue
        assert name in (*STAGES, *OPTIONAL_STAGES), f"{name}: config/run.py names the stages"
        declared = {file.parent.name for file in path.parent.glob("tables.py")}
        assert declared <= GATHERED, f"{name}: store/schema.py gathers its tables"
        assert name in GATHERED or name == "activations", f"{name} has no tables.py"
