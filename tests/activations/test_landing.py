"""Tensors that come from a GPU, two batches at a time; its streams and events played on a CPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

from deconstruct.activations.landing import IN_FLIGHT, Landing


def test_what_lands_is_what_was_sent_in_its_order() -> None:
    """Also where dtypes differ, and one begins where another may not."""
    landing = Landing[int]("cpu")
    sent = [
        [torch.full((n, 3), n, dtype=torch.bfloat16), torch.full((n, 5), -n).float(),
         torch.tensor([True, n > 1])]
        for n in (1, 2, 3)
    ]  # fmt: skip
    assert not landing
    for n, tensors in enumerate(sent[:IN_FLIGHT]):
        assert not landing.full
        landing.send(n, tensors)
    assert landing.full
    got = [landing.take()]
    landing.send(2, sent[2])
    got += [landing.take() for _ in range(len(landing))]
    assert [label for label, _ in got] == [0, 1, 2]
    for (_, found), expected in zip(got, sent, strict=True):
        for mine, other in zip(found, expected, strict=True):
            assert mine.dtype == other.dtype
            assert torch.equal(mine, other)


class _Played:
    """What a card's queue would have been asked for, in order."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.pinned = 0

    def install(self, patch: pytest.MonkeyPatch) -> None:
        played, empty = self.asked, torch.empty

        class Stream:
            def __init__(self, device: object) -> None:
                assert device == torch.device("cuda:0")

            def wait_stream(self, other: object) -> None:
                assert other == "computing"
                played.append("wait")

        class Event:
            def __init__(self, blocking: bool) -> None:
                assert blocking

            def record(self, stream: object) -> None:
                assert isinstance(stream, Stream)
                played.append("record")

            def synchronize(self) -> None:
                played.append("landed")

        @contextmanager
        def stream(one: object) -> Iterator[None]:
            played.append("copy")
            yield

        def allocate(*sizes: int, pin_memory: bool = False, **more: object) -> torch.Tensor:
            self.pinned += pin_memory
            return empty(*sizes, **more)  # type: ignore[call-overload, no-any-return]

        patch.setattr(torch.cuda, "Stream", Stream)
        patch.setattr(torch.cuda, "Event", Event)
        patch.setattr(torch.cuda, "stream", stream)
        patch.setattr(torch.cuda, "current_stream", lambda device: "computing")
        patch.setattr(torch, "empty", allocate)


def test_a_copy_follows_its_pass_and_is_waited_for_before_it_is_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each of both pinned slots is written again only when what was in it has been taken."""
    played = _Played()
    played.install(monkeypatch)
    landing = Landing[int]("cuda:0")
    got = []
    for n in range(5):
        if landing.full:
            label, (found,) = landing.take()
            got.append((label, found.tolist()))
        landing.send(n, [torch.full((3,), n)])
    while landing:
        label, (found,) = landing.take()
        got.append((label, found.tolist()))
    assert got == [(n, [n] * 3) for n in range(5)]
    assert played.pinned == IN_FLIGHT
    sent = ["wait", "copy", "record"]
    assert played.asked == sent * 2 + ["landed", *sent] * 3 + ["landed"] * 2
