"""Errors of the fused selection that a CUDA context does not survive happen in another process."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.cuda import DEVICE, REASON
from support.other_python import stand_in

from deconstruct.sae.engines import apart
from deconstruct.sae.engines.encoding.check import wrong_elsewhere


@pytest.fixture(autouse=True)
def _forgetful() -> Iterator[None]:
    wrong_elsewhere.cache_clear()
    yield
    wrong_elsewhere.cache_clear()


@pytest.mark.skipif(REASON is not None, reason=REASON or "")
def test_a_sound_selection_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
    assert wrong_elsewhere(DEVICE, 8, 40, 4) is None


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("echo 'CUDA error: an illegal memory access' >&2; exit 1", "(CUDA error: an illegal"),
        ("kill -ABRT $$", "does not run here (it ended with -6)"),
        ("exec sleep 9", "did not end its check within 1 seconds"),
        ("echo '\"it misses a latent\"'", "it misses a latent"),
    ],
    ids=["sticky", "aborted", "hangs", "wrong"],
)
def test_how_it_ends_there_is_said_here(
    line: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", stand_in(tmp_path, line))
    monkeypatch.setattr(apart, "SECONDS", 1)
    assert told in (wrong_elsewhere("cuda:0", 8, 40, 4) or "")
