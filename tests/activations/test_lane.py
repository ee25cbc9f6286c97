"""What a lane asks of CUDA, by stand-ins that have torch's own signatures: no card is here."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any
from unittest.mock import create_autospec

import pytest
import torch
from support.alone import ON_GPU

from deconstruct.activations import places
from deconstruct.activations.lane import CudaLane, CudaMark, Lane, Mark, Sender

DEVICE = torch.device("cuda", 1)
EVENT = torch.cuda.Event


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """asked: what was done on which stream, in order."""
    asked: list[tuple[Any, ...]] = []
    streams = {name: create_autospec(torch.cuda.Stream, instance=True) for name in ("own", "their")}
    names = {id(stream): name for name, stream in streams.items()}

    def new_stream(device: torch.device, priority: int) -> Any:
        assert (device, priority < 0) == (DEVICE, True)
        return streams["own"]

    def new_event(blocking: bool) -> Any:
        event = create_autospec(EVENT, instance=True)
        event.record.side_effect = lambda stream: asked.append(("record", names[id(stream)]))
        return event

    @contextmanager
    def on(stream: Any) -> Iterator[None]:
        asked.append(("enter", names[id(stream)]))
        yield
        asked.append(("leave", names[id(stream)]))

    monkeypatch.setattr(torch.cuda, "Stream", new_stream)
    monkeypatch.setattr(torch.cuda, "Event", new_event)
    monkeypatch.setattr(torch.cuda, "stream", on)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: streams["their"])
    return SimpleNamespace(asked=asked, **streams)


def test_work_and_marks_are_on_the_lanes_own_stream(cuda: SimpleNamespace) -> None:
    lane = CudaLane(DEVICE)
    lane.do(lambda: cuda.asked.append(("work",)))
    mark = lane.mark()
    assert cuda.asked == [("enter", "own"), ("work",), ("leave", "own"), ("record", "own")]
    mark.wait()
    assert isinstance(mark, CudaMark)
    mark.event.synchronize.assert_called_once_with()
    lane.reached()
    assert cuda.asked[-1] == ("record", "their")


def test_who_computes_waits_for_what_is_given_and_the_allocator_for_them(
    cuda: SimpleNamespace,
) -> None:
    lane, tensor = CudaLane(DEVICE), create_autospec(torch.Tensor, instance=True)
    written = lane.mark()
    lane.give(tensor, written)
    assert isinstance(written, CudaMark)
    cuda.their.wait_event.assert_called_once_with(written.event)
    tensor.record_stream.assert_called_once_with(cuda.their)


@pytest.mark.skipif(ON_GPU, reason="here memory is pinned")
@pytest.mark.usefixtures("cuda")
def test_without_pinned_memory_it_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    assert CudaLane(DEVICE).pinned(16).nbytes == 16
    assert "no pinned memory" in caplog.text


def test_a_sender_waits_before_it_fills_and_marks_after_it_copies() -> None:
    """Each buffer's order is: wait for its mark, fill, copy, mark."""
    asked: list[str] = []

    class Noted(Mark):
        def wait(self) -> None:
            asked.append("wait")

    class Noting(Lane):
        def mark(self) -> Mark:
            asked.append("mark")
            return Noted()

    sender = Sender(Noting(), 4)
    for _ in range(3):
        sender.send(lambda host: asked.append("fill"), torch.zeros(1))
    assert asked == ["fill", "mark", "fill", "mark", "wait", "fill", "mark"]


def test_room_counts_what_torch_keeps_for_later(monkeypatch: pytest.MonkeyPatch) -> None:
    figures = {"mem_get_info": (4000, 9999), "memory_reserved": 3000, "memory_allocated": 1400}
    for name, value in figures.items():
        monkeypatch.setattr(torch.cuda, name, lambda device, value=value: value)
    assert places._room(DEVICE) == (4000 + 1600) // 8
