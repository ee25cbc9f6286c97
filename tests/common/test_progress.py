"""What is told of long work while it goes on."""

from __future__ import annotations

import pytest

from deconstruct.common.progress import listening, track


def test_progress_ends_at_100_where_work_stops_early_and_not_where_it_fails() -> None:
    told: list[tuple[str, int, int]] = []

    def listen(description: str, done: int, total: int) -> None:
        told.append((description, done, total))

    with listening(listen), track("sae", 10) as advance:
        advance(4)
    assert told[-1] == ("sae", 10, 10)
    told.clear()

    def break_off() -> None:
        with listening(listen), track("sae", 10) as advance:
            advance(4)
            raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        break_off()
    assert ("sae", 10, 10) not in told
