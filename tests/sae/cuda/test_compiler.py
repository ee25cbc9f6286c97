"""Without a C compiler Triton can't start: the engine says so, and so does doctor."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from deconstruct import doctor
from deconstruct.sae.engines.cuda.options import NO_COMPILER, unavailable


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A card on which the fused step would run, and no program on the path."""
    found = SimpleNamespace(name="A card", total_memory=80_000_000_000)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: found)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)


def test_without_one_the_fused_step_is_refused_in_a_sentence(
    card: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("triton")
    assert unavailable("cuda") == NO_COMPILER
    monkeypatch.setenv("CC", "/opt/cc")
    assert unavailable("cuda") is None


def test_doctor_says_so(card: None, tmp_path: Path) -> None:
    pytest.importorskip("triton")
    [device] = [found for found in doctor.examine(tmp_path) if found.subject == "device"]
    assert not device.sound
    assert "A card" in device.found
    assert NO_COMPILER in device.found


def test_the_image_has_one() -> None:
    image = Path(__file__).parents[3] / "deploy/Dockerfile"
    assert " gcc " in image.read_text()
