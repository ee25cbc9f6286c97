"""``deconstruct push``, against a hub of this machine."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from support.paths import ROOT
from support.taken_out import published, sae_of

from deconstruct.common.errors import ConfigError
from deconstruct.interop.hub import repository_of
from deconstruct.sae import files


@pytest.fixture(scope="module")
def pushed(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    """What came of each push, and the weights of the run."""
    folder = tmp_path_factory.mktemp("push")
    home = folder / "home"
    sae = published(home, sae_of("relu")).artifacts["sae"]
    done = subprocess.run(
        [sys.executable, ROOT / "tests/support/upload_hub.py", home, folder / "cache"],
        check=False, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), sae.path / files.WEIGHTS


def test_a_run_is_uploaded_and_said_to_be(pushed: tuple[dict[str, Any], Path]) -> None:
    report, weights = pushed
    said, repo = report["good"]["said"], report["repos"]["me/new"]
    assert report["good"]["code"] == 0, said
    assert (repo["private"], repo["commits"]) == (True, 1)
    assert sorted(repo["files"]) == ["README.md", files.CONFIG, files.WEIGHTS]
    assert repo["files"][files.WEIGHTS] == hashlib.sha256(weights.read_bytes()).hexdigest()
    assert "/me/new (private, commit " in said
    assert f": README.md, {files.CONFIG}, {files.WEIGHTS}, " in said
    assert "waits for a licence" in said
    assert 'folder = snapshot_download("me/new")' in report["card"]


def test_what_a_repository_has_stays(pushed: tuple[dict[str, Any], Path]) -> None:
    repo = pushed[0]["repos"]["me/open"]
    assert pushed[0]["beside"]["code"] == 0
    assert "(public, commit " in pushed[0]["beside"]["said"]
    assert repo["files"]["thesis.txt"] == hashlib.sha256(b"years").hexdigest()
    assert "trainer_0/ae.pt" in repo["files"]
    assert repo["commits"] == 1


@pytest.mark.parametrize(
    ("case", "words", "asked"),
    [
        ("nobody", "there is no token of yours for hub:me/new; ", []),
        ("malformed", "'me/new' is no place on the hub; write 'hub:<owner>/<name>'", []),
        ("stranger", "the hub refused (", ["GET /api/whoami-v2"]),
        ("reader", "use a token with the right to write there", None),
        ("seen", "others can see it, so nothing was uploaded", None),
        ("refused", "--format sparsify holds TopK alone", ["GET /api/whoami-v2"]),
        ("offline", "the Hugging Face hub is out of reach, so nothing was uploaded", []),
    ],
)
def test_what_cannot_be_uploaded_is_one_sentence_and_nothing_is_sent(
    case: str, words: str, asked: list[str] | None, pushed: tuple[dict[str, Any], Path]
) -> None:
    found = pushed[0][case]
    assert found["code"] == 1
    assert words in found["said"]
    assert found["said"].count("\n") == 1
    assert asked is None or found["asked"] == asked
    assert not any("preupload" in line or "commit" in line for line in found["asked"])
    assert pushed[0]["before"] == {"me/open": ["thesis.txt"]}


def test_offline_is_said_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from deconstruct.common.errors import SourceUnreachable
    from deconstruct.interop.hub import push

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_TOKEN", "hf_mine")
    began = time.monotonic()
    with pytest.raises(SourceUnreachable, match="out of reach, so nothing was uploaded"):
        push(tmp_path / "no home", "demo", "hub:me/new", "saelens")
    assert time.monotonic() - began < 2


@pytest.mark.parametrize(
    "place", ["", "hub:", "hub:me", "hub:me/a/b", "me/a", "hub:../x", "hub:a/ b"]
)
def test_places_on_the_hub(place: str) -> None:
    assert repository_of("hub:me/my-sae_1.0") == "me/my-sae_1.0"
    with pytest.raises(ConfigError, match="is no place on the hub"):
        repository_of(place)
