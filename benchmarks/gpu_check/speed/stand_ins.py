"""Modules that peers import and a TopK step has no use for: empty ones in their place.

A card's machine need not have an experiment tracker or a language model's hooks installed for
sparsify and SAELens to make a step there.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import cache
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType

from torch import Tensor, nn

_UNUSED = (
    "wandb transformer_lens nltk plotly babe mamba_lens datasets natsort dotenv tenacity"
).split()
_HOOKED = ("transformer_lens.hook_points", "transformer_lens.HookedTransformer")


@cache
def stand_in() -> tuple[str, ...]:
    """Have imports of those that are missing give stand-ins; which those are."""
    missing = tuple(name for name in _UNUSED if find_spec(name) is None)
    if missing:
        sys.meta_path.append(_Finder(missing))
    return missing


class _Empty(ModuleType):
    """Any name of it is a class that takes anything and does nothing."""

    __path__: list[str] = []  # noqa: RUF012 - a package, as imports look for it

    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)
        made = type(name, (), {"__init__": lambda *_, **__: None})
        setattr(self, name, made)
        return made


class _Finder(MetaPathFinder, Loader):
    def __init__(self, missing: Sequence[str]) -> None:
        self._missing = missing

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname.split(".", maxsplit=1)[0] not in self._missing:
            return None
        return ModuleSpec(fullname, self, is_package=True)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _Empty(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        if module.__name__ in _HOOKED:  # what SAELens' own modules are made of
            setattr(module, "HookPoint", _HookPoint)  # noqa: B010 - mypy knows no such name
            setattr(module, "HookedRootModule", _HookedRootModule)  # noqa: B010


class _HookPoint(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x


class _HookedRootModule(nn.Module):
    def __init__(self, *_: object) -> None:
        super().__init__()

    def setup(self) -> None:
        self.mod_dict = dict(self.named_modules())
        self.hook_dict = {n: m for n, m in self.mod_dict.items() if isinstance(m, _HookPoint)}
