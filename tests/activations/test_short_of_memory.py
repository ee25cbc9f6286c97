"""Padded passes that find too little memory amid the work, after the check had enough."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from activations.test_padded import RIGHT, SHARD, SITES, TOKENS, saved

from deconstruct.activations import forward, layout
from deconstruct.activations.forward import Forward
from deconstruct.activations.landing import Landing


def test_a_shard_is_computed_anew_by_length(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    family = next(iter(RIGHT))
    model = saved(family, tmp_path, RIGHT[family], "float32")
    plain = Forward(model, TOKENS, SITES, "cpu")
    monkeypatch.setattr(forward, "PADS", ("cpu",))
    monkeypatch.setattr(layout, "PADDED_TOKENS", 400)
    padded = Forward(model, TOKENS, SITES, "cpu")
    assert padded.padded
    send, sent = Landing.send, []

    def until_it_is_full(self: Landing[object], label: object, tensors: list[torch.Tensor]) -> None:
        sent.append(label)
        if len(sent) == 4:
            raise torch.OutOfMemoryError("out of memory: tried to allocate 9 GiB")
        send(self, label, tensors)

    monkeypatch.setattr(Landing, "send", until_it_is_full)
    advanced: list[int] = []
    with caplog.at_level(logging.WARNING, "deconstruct.stages"):
        found = padded.compute(SHARD, advanced.append)
    assert "too little memory left for padded passes" in caplog.text
    assert not padded.padded
    assert min(advanced) < 0
    assert sum(advanced) == SHARD.rows
    expected = plain.compute(SHARD, advanced.append)
    assert all(torch.equal(found[site], expected[site]) for site in SITES)
