"""A checkpoint that is not as it was written is not gone on from."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from threading import Event
from typing import Any

import pytest
import torch
from support.damage import DAMAGES

from deconstruct.artifacts import RECIPE
from deconstruct.sae.training import checkpoint
from deconstruct.sae.training.checkpoint import CHECKPOINT, LogRow, resume, save

ROWS = [LogRow(10, 2560, 1e-3, 0.5, 4.0, 0.1), LogRow(20, 5120, 1e-3, 0.4, 4.0, 0.1, 0.45)]


class Kept:
    """What has an engine's state."""

    def __init__(self, seed: int) -> None:
        draw = torch.Generator().manual_seed(seed)
        self.state: dict[str, torch.Tensor] = {
            "weights": torch.randn(8, 16, generator=draw),
            "moments": torch.randn(8, 16, generator=draw).to(torch.bfloat16),
            "step": torch.tensor(20 + seed),
        }

    def state_dict(self) -> dict[str, torch.Tensor]:
        return self.state

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        assert state.keys() == self.state.keys()
        self.state = state


@pytest.mark.parametrize("damage", [None, *DAMAGES, *(f"bit {n}" for n in range(40))])
def test_a_checkpoint(tmp_path: Path, damage: str | None) -> None:
    kept, fresh, other = Kept(0), Kept(1), Kept(2)
    like = tmp_path / "like"
    like.mkdir()
    for folder in (like, tmp_path):
        (folder / RECIPE).write_text(f'{{"stage": "sae", "config": "{folder.name}"}}')
    engine: Any = other
    save(engine, ROWS, like)
    engine = kept
    save(engine, ROWS, tmp_path)
    file = tmp_path / CHECKPOINT
    if damage is not None and damage.startswith("bit"):
        content = bytearray(file.read_bytes())
        content[len(content) * int(damage[4:]) // 40] ^= 1
        file.write_bytes(content)
    elif damage is not None:
        DAMAGES[damage](file, like / CHECKPOINT)
    before = fresh.state
    engine = fresh
    found = resume(engine, tmp_path)
    if damage is None:
        assert found == ROWS
    assert found in ([], ROWS)
    expected = kept.state if found else before
    for name, tensor in fresh.state.items():
        assert torch.equal(tensor, expected[name]), name


class Clock:
    """Seconds that pass when a test says so; writing a checkpoint takes ``cost``."""

    def __init__(self, cost: float) -> None:
        self.now, self.cost = 0.0, cost

    def monotonic(self) -> float:
        return self.now

    def save(self, *_: object) -> None:
        self.now += self.cost


@pytest.mark.parametrize(
    ("cost", "least", "most"), [(0.1, 30, 31), (0.6, 30, 32), (20, 1000, 1021)]
)
def test_checkpoints_are_spaced_by_their_own_cost(
    cost: float, least: float, most: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(cost)
    monkeypatch.setattr(checkpoint, "time", clock)
    monkeypatch.setattr(checkpoint, "save", clock.save)
    spacing = checkpoint.Spacing()
    ends = []
    engine: Any = Kept(0)
    while clock.now < 10_000:
        clock.now += 0.5
        if spacing.due():
            spacing.save(engine, ROWS, tmp_path)
            ends.append(clock.now)
    assert 30 < ends[0] < 31 + cost  # what one takes is not known before
    apart = [later - earlier for earlier, later in pairwise(ends)]
    assert all(least < one < most for one in apart)
    assert cost * len(ends) <= 0.021 * clock.now


def _same(found: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor]) -> None:
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name


def test_a_thread_writes_the_state_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Training goes on meanwhile: it changes the state, and adds to the log. Nothing is due before
    that is written, and the next one is written after it."""
    (tmp_path / RECIPE).write_text("{}")
    monkeypatch.setattr(checkpoint, "EVERY_SECONDS", -1.0)
    may_write, write = Event(), checkpoint._write

    def waiting(*arguments: Any) -> None:
        may_write.wait()
        write(*arguments)

    monkeypatch.setattr(checkpoint, "_write", waiting)
    engine: Any = Kept(0)
    spacing, rows = checkpoint.Spacing(aside=True), ROWS[:1]
    assert spacing.due()
    spacing.save(engine, rows, tmp_path)
    assert not spacing.due()
    for tensor in engine.state.values():
        tensor.zero_()
    rows.append(ROWS[1])
    may_write.set()
    spacing.settle()
    found: Any = Kept(1)
    assert resume(found, tmp_path) == ROWS[:1]
    _same(found.state, Kept(0).state)
    assert spacing.due()
    spacing.save(engine, rows, tmp_path)
    spacing.settle()
    assert resume(found, tmp_path) == ROWS
    _same(found.state, engine.state)


def test_what_the_thread_raises_is_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full)
    monkeypatch.setattr(checkpoint, "EVERY_SECONDS", -1.0)
    (tmp_path / RECIPE).write_text("{}")
    engine: Any = Kept(0)
    spacing = checkpoint.Spacing(aside=True)
    spacing.save(engine, ROWS, tmp_path)
    with pytest.raises(OSError, match="No space left"):
        spacing.settle()
    spacing.settle()  # once


def test_what_a_thread_writes_is_spaced_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may write a fifth of the time, however short training is held up for it."""
    clock, goes_on = Clock(20), Event()
    monkeypatch.setattr(checkpoint, "time", clock)
    monkeypatch.setattr(checkpoint, "_write", lambda *_: (goes_on.wait(), clock.save()))
    spacing = checkpoint.Spacing(aside=True)
    engine: Any = Kept(0)
    spacing.save(engine, ROWS, tmp_path)
    goes_on.set()
    spacing.settle()
    assert clock.now == 20
    while not spacing.due():
        clock.now += 0.5
    assert clock.now == pytest.approx(100, abs=0.5)
