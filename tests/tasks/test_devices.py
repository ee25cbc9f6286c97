"""A worker per device: each is given the device by the name that whoever started us knows it by."""

from __future__ import annotations

import pytest

from flows.serve import VISIBLE, visible


@pytest.mark.parametrize(
    ("named", "gpus", "devices"),
    [
        (None, 2, ["0", "1"]),
        ("", 2, ["0", "1"]),
        ("3,5", 2, ["3", "5"]),
        ("5, 3", 2, ["5", "3"]),
        ("GPU-8932f937-d72c,GPU-1a2b", 2, ["GPU-8932f937-d72c", "GPU-1a2b"]),
        ("MIG-41b7c2,MIG-55,MIG-77", 3, ["MIG-41b7c2", "MIG-55", "MIG-77"]),
        ("1", 2, ["0", "1"]),  # more workers were asked for than there are devices
    ],
)
def test_a_device_keeps_its_name(
    named: str | None, gpus: int, devices: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(VISIBLE, raising=False)
    if named is not None:
        monkeypatch.setenv(VISIBLE, named)
    assert visible(gpus) == devices
