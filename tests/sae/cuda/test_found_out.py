"""Where a run's first fused step is off, the dense step makes it anew, from where it began: at the
start, and after a resume; and each goes on from the other's checkpoint."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from support.cuda import DEVICE, REASON
from torch import Tensor

from deconstruct.config import SaeConfig
from deconstruct.sae.engines import choice
from deconstruct.sae.engines.choice import on_gpu
from deconstruct.sae.engines.cuda.topk import FusedTopK
from deconstruct.sae.engines.dense import DenseEngine
from deconstruct.sae.folding import Scaling
from deconstruct.sae.training import checkpoint
from deconstruct.sae.training.trainer import Trainer

pytestmark = pytest.mark.skipif(REASON is not None, reason=REASON or "")
WIDTH = 8
TINY = {"d_sae": WIDTH, "k": 2, "batch_size": 4, "tokens": 16, "dead_after_tokens": 8, "aux_k": 3}
"""As many latents as d_in: shapes do not tell which way W_enc lies."""


@pytest.fixture(autouse=True)
def as_on_a_card(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "on_cpu", on_gpu)
    monkeypatch.setattr(checkpoint, "EVERY_SECONDS", -1.0)  # after every step


def member(folder: Path) -> Trainer:
    folder.mkdir(exist_ok=True)
    scaling = Scaling(torch.linspace(-1, 1, WIDTH, dtype=torch.float64), 2.0)
    return Trainer(SaeConfig.model_validate(TINY), scaling, None, folder, DEVICE)


def tokens(step: int) -> Tensor:
    return torch.randn(4, WIDTH, generator=torch.Generator().manual_seed(step)) / WIDTH**0.5


def go_on(one: Trainer, until: int = 4) -> None:
    while one.step < until:
        one.train(tokens(one.step), None)
        one.settle()  # on a card a thread writes the checkpoint


def goes_wrong(one: Trainer, monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on; the check of a small SAE has been made before."""
    assert isinstance(one.engine, FusedTopK)
    one.engine._graphs.clear()  # of a card: they hold sound launches
    from deconstruct.sae.engines.cuda.kernels import latents

    kernel = latents.pace_kernel

    class Hasty:
        def __getitem__(self, grid: object) -> Callable[..., None]:
            def launch(*given: Any, **more: Any) -> None:
                kernel[grid](*given, **more)
                given[8][:, 0] *= 3

            return launch

    monkeypatch.setattr(latents, "pace_kernel", Hasty())


def same(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert torch.equal(found[name], tensor), name


def test_at_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    one = member(tmp_path / "a")
    with monkeypatch.context() as patch:
        goes_wrong(one, patch)
        go_on(one)
    assert isinstance(one.engine, DenseEngine)
    [warning] = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert "moves otherwise than by Adam; this step is made anew by another engine" in warning
    monkeypatch.setattr(choice, "on_cpu", lambda: (DenseEngine,))
    straight = member(tmp_path / "b")
    go_on(straight)
    same(one.engine.state_dict(), straight.engine.state_dict())
    assert one.rows == straight.rows


def test_after_a_resume_and_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    go_on(member(tmp_path), 2)
    resumed, beside = member(tmp_path), member(tmp_path)
    assert resumed.step == 2
    state = {name: tensor.clone() for name, tensor in beside.engine.state_dict().items()}
    with monkeypatch.context() as patch:
        goes_wrong(resumed, patch)
        go_on(resumed, 3)
    assert isinstance(resumed.engine, DenseEngine)
    assert [row.step for row in resumed.rows] == [1, 2, 3]
    dense = DenseEngine.begin(
        resumed.engine.spec, beside.engine.weights(), beside.rates, DEVICE, "auto"
    )
    dense.load_state_dict(state)
    dense.step(tokens(2))
    same(resumed.engine.state_dict(), dense.state_dict())
    assert float(dense.losses[0]) == float(state["losses"][0]) > 0

    back = member(tmp_path)  # by the fused step, from the dense one's checkpoint
    assert isinstance(back.engine, FusedTopK)
    assert back.step == 3
    for name, tensor in resumed.engine.weights().items():
        assert torch.equal(back.engine.weights()[name], tensor), name
    go_on(back)
    assert isinstance(back.engine, FusedTopK)
    assert float(back.engine.losses[3]) > 0
