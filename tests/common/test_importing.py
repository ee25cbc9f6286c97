"""Imports without the garbage collector, which is back afterwards."""

from __future__ import annotations

import gc

import pytest

from deconstruct.common.importing import importing


def test_what_is_imported_is_left_alone_for_good_and_the_rest_is_collected_again() -> None:
    frozen = gc.get_freeze_count()
    with importing():
        assert not gc.isenabled()
        made: list[list[int]] = [[] for _ in range(1000)]
    assert gc.isenabled()
    assert gc.get_freeze_count() >= frozen + len(made)


def test_an_import_that_fails_leaves_the_collector_on() -> None:
    with pytest.raises(ModuleNotFoundError), importing():
        import no_such_library  # noqa: F401
    assert gc.isenabled()
