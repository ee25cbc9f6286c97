"""``docs/refresh.py`` as a module: what makes the pages that are made."""

from __future__ import annotations

import importlib.util
from types import ModuleType

from support.paths import ROOT


def refresh() -> ModuleType:
    spec = importlib.util.spec_from_file_location("refresh", ROOT / "docs" / "refresh.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
