"""Which faults are tried again, and what a person reads of those that are not."""

from __future__ import annotations

import errno
import os
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from deconstruct.common.errors import ConfigError, DataError, StorageError, files_said
from flows.troubles import of_server, server_faults_said
from tasks import spread, stages, training
from tasks.stage import worth_retrying


def system(number: int) -> OSError:
    return OSError(number, os.strerror(number), "/data/latents/x")


@pytest.mark.parametrize(
    ("error", "again"),
    [
        (ConfigError("sae.k is too much"), False),
        (DataError("no text"), False),
        (MemoryError(), False),
        (ModuleNotFoundError("No module named 'triton'"), False),
        *((system(number), False) for number in (errno.EACCES, errno.EROFS, errno.ENOSPC)),
        (system(errno.EIO), True),
        (ConnectionResetError(), True),
        (RuntimeError("CUDA error"), True),
    ],
    ids=str,
)
def test_what_a_person_must_mend_is_not_tried_again(error: Exception, again: bool) -> None:
    state: Any = SimpleNamespace(result=lambda raise_on_failure: error)
    unknown: Any = None
    assert worth_retrying(unknown, unknown, state) is again


def test_every_task_that_is_tried_again_asks_whether_that_is_worth_while() -> None:
    own = [stages.corpus, stages.activations, stages.latents, stages.evaluation, stages.probe]
    own.append(stages.maps)
    of_stages = [
        one.task
        for one in (*own, stages.cluster, stages.interpretation, stages.drift, training.sae)
    ]
    for task in [*of_stages, training.sae_members.task, training.members, spread.shards]:
        assert task.retries == 1
        assert task.retry_condition_fn is worth_retrying, task.name


def test_files_that_may_not_be_written_are_a_sentence_and_other_faults_are_left_alone() -> None:
    with pytest.raises(StorageError, match="'/data/latents/x' can't be read or written") as caught:  # noqa: SIM117
        with files_said():
            raise system(errno.EACCES)
    assert "(Permission denied); give this user the right to" in str(caught.value)
    with pytest.raises(OSError, match="Input/output error"), files_said():
        raise system(errno.EIO)


def test_of_a_lost_server_one_sentence_is_left_and_a_hub_is_no_server(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:4200/api")

    def lost(url: str) -> Exception:
        request = httpx.Request("POST", url)
        try:
            raise RuntimeError("Failed to reach API") from httpx.ConnectError("", request=request)
        except RuntimeError as error:
            return error

    said = of_server(lost("http://127.0.0.1:4200/api/flow_runs/filter"))
    assert said is not None
    assert said.startswith("the Prefect server at 'http://127.0.0.1:4200/api' can't be reached (Co")
    assert of_server(lost("https://hub.example/api/models")) is None
    with pytest.raises(ConfigError, match="as it is"), server_faults_said():
        raise ConfigError("as it is") from lost("http://127.0.0.1:4200/api")
