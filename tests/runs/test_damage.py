"""Damage is repaired to equal bytes, or found by whoever reads it: never silent, no traceback.

``make damage`` tries every file of a run in every way; the ordinary tests try a sample.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import duckdb
import pytest
from support.damage import (
    DAMAGES,
    IN_PLACE,
    Case,
    Said,
    again,
    ask,
    cases,
    contents,
    exported,
    flipped,
    readers,
    run,
)
from support.running import deconstruct, digests

from deconstruct.artifacts import Artifact
from deconstruct.artifacts.looks import RECORD
from deconstruct.config import RunConfig
from deconstruct.store import run_id_of
from deconstruct.store.rewrite import FILE

EVERY = int(os.environ.get("DECONSTRUCT_DAMAGE", "29"))
"""One in so many is tried."""
FLIPS = 160 // EVERY
"""Bits flipped in the store's file."""


@dataclass
class Sound:
    """A data root with two runs, and what everyone answers of it."""

    home: Path
    config: RunConfig
    config_of_other: RunConfig
    one: dict[str, Artifact]
    other: dict[str, Artifact]
    answers: dict[str, Said]
    contents: dict[str, bytes]

    @property
    def run_id(self) -> str:
        return run_id_of(self.one)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, texts: Path) -> Sound:
    home = tmp_path_factory.mktemp("damage") / "home"

    def config(name: str, **changed: object) -> RunConfig:
        fields = {
            "name": name,
            "model": {"name": str(tiny_model), "dtype": "float32"},
            "corpus": {"source": str(texts), "max_tokens": 24, **changed},
            "activations": {"sites": ["1.resid_post"], "shard_tokens": 2048},
            "sae": {"d_sae": 32, "k": 4, "tokens": 2048, "batch_size": 256},
            "evaluation": {"max_documents": 4, "bootstrap": 20},
            "probe": {"ks": [1], "bootstrap": 20},
        }
        return RunConfig.model_validate(fields)

    one, other = config("one"), config("other", limit=90)
    made = run(home, one), run(home, other)
    run_id = run_id_of(made[0])
    answers = {"export": exported(home, run_id, home.parent / "sound.duckdb")}
    for view in IN_PLACE:
        for name, command in readers(view, run_id).items():
            answers[name] = ask(home, *command)
    assert {said.code for said in answers.values()} == {0}, answers
    return Sound(home, one, other, *made, answers, contents(home))


def wrong(
    sound: Sound, home: Path, case: Case | None, *, spare: bool = False, both: bool = False
) -> list[str]:
    """What is silent, or a traceback, of how everyone reads a damaged data root.

    spare: the damage may be where nobody reads. both: the other run is damaged too.
    """
    faults = []
    asked = readers(case.view if case else "latents", sound.run_id)
    said = {name: ask(home, *command) for name, command in asked.items()}
    said["export"] = exported(home, sound.run_id, home.parent / "export.duckdb")
    for name, one in said.items():
        if one.out != sound.answers[name].out and not one.found:
            faults.append(f"{name} is silent: {one}")
        if one.found and case and case.file.rpartition("/")[2] not in one.err + MANIFESTS:
            faults.append(f"{name} names another file: {one.err}")
    verified = ask(home, "verify")
    if not verified.found and not spare:
        faults.append(f"verify is silent: {verified}")
    repaired = again(home, sound.config)
    if repaired.code == 0 and both:
        repaired = again(home, sound.config_of_other)
    if repaired.code == 0:
        if (now := contents(home)) != sound.contents:
            changed = [name for name in now if now[name] != sound.contents.get(name)]
            faults.append(f"run again made other bytes: {changed}")
        if (verified := ask(home, "verify")).code:
            faults.append(f"run again left damage: {verified}")
    elif case:
        faults.append(f"run again repaired nothing: {repaired}")
    ended = [*said.values(), verified, repaired]
    return faults + [f"a traceback: {one}" for one in ended if "Traceback" in one.err + one.out]


MANIFESTS = "manifest.json"
"""Of a damaged manifest, files that it lists are named, or it is."""


def test_files_of_artifacts(sound: Sound, tmp_path: Path) -> None:
    every = list(cases(sound.home, sound.one, sound.other))
    assert len(every) > 150
    told = {}
    for case in every[::EVERY]:
        home = tmp_path / "home"
        shutil.copytree(sound.home, home)
        case.act(home)
        if faults := wrong(sound, home, case):
            told[str(case)] = faults
        shutil.rmtree(home)
    assert not told, "\n".join(f"{name}: {'; '.join(faults)}" for name, faults in told.items())


def test_folders_swapped(sound: Sound, tmp_path: Path) -> None:
    stages = list(sound.one) if EVERY == 1 else ["latents"]
    for stage in stages:
        home = tmp_path / stage
        shutil.copytree(sound.home, home)
        one, other = (home / stage / made[stage].key for made in (sound.one, sound.other))
        one.rename(home / "aside")
        other.rename(one)
        (home / "aside").rename(other)
        assert not wrong(sound, home, None, both=True), stage


def test_the_store(sound: Sound, tmp_path: Path) -> None:
    home = tmp_path / "home"
    shutil.copytree(sound.home, home)
    whole = (home / FILE).read_bytes()
    for number in range(FLIPS):
        (home / FILE).write_bytes(whole)
        flipped(number / FLIPS)(home / FILE, home)
        assert not wrong(sound, home, None, spare=True), number
    for content in (b"", whole[:-4096], whole[: len(whole) // 2], b"no store" * 1000):
        (home / FILE).write_bytes(content)
        assert not wrong(sound, home, None)
    (home / FILE).unlink()
    assert ask(home, "runs").found
    assert again(home, sound.config).code == 0
    assert ask(home, "verify").code == 0


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'{"a": 1}', b'{"a": [1, 2, 3, 4]}', b"\xff" * 99, b"[" * 10_000]
)
def test_the_record_of_looks(sound: Sound, tmp_path: Path, content: bytes) -> None:
    home = tmp_path / "home"
    shutil.copytree(sound.home, home)
    (home / RECORD).write_bytes(content)
    asked = readers("latents", sound.run_id)
    said = {name: ask(home, *asked[name]) for name in ("sql on latents", "latent")}
    assert {name: one.out for name, one in said.items()} == {
        name: sound.answers[name].out for name in said
    }
    (home / RECORD).unlink()
    assert ask(home, "show", sound.run_id).code == 0


def prefect_cases(home: Path) -> list[tuple[str, str]]:
    """Files of Prefect's in a data root, of each kind one, and what is done to them."""
    prefect = home / ".prefect"
    records = sorted(path for path in (prefect / "storage").rglob("*") if path.is_file())
    files = [str(path.relative_to(home)) for path in (prefect / "prefect.db", *records[:2])]
    return [(file, damage) for damage in DAMAGES for file in files]


def test_what_prefect_keeps(finished: Path, config: Path, tmp_path: Path) -> None:
    every = prefect_cases(finished)
    assert len(every) == 3 * len(DAMAGES)
    wanted = digests(finished)
    for file, damage in every[:: EVERY // 2 + 1]:
        home = tmp_path / "home"
        shutil.copytree(finished, home)
        DAMAGES[damage](home / file, home / FILE)  # its like: a database of another program
        for command in ("plan", "run"):
            done = deconstruct(home, command, config)
            said = done.stdout + done.stderr
            assert "Traceback" not in said, (file, damage, command, said[-2000:])
            if done.returncode:
                assert "error: " in said, (file, damage, command, said)
                assert Path(file).name in said, (file, damage, command, said)
        assert digests(home) == wanted
        shutil.rmtree(home)


def test_a_run_again_by_its_name(finished: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    shutil.copytree(finished, home)
    wanted = digests(home)
    with duckdb.connect(home / FILE, read_only=True) as store:
        ((run_id, path),) = store.execute(
            "SELECT run_id, path FROM stages WHERE stage = 'latents'"
        ).fetchall()
    flipped(0.5)(home / path / "latents.parquet", home)
    assert f"run --again {run_id}" in ask(home, "latent", run_id, "1").err
    done = deconstruct(home, "run", "--again", run_id)
    assert done.returncode == 0, done.stderr
    assert digests(home) == wanted
    assert ask(home, "verify").code == 0
    done = deconstruct(home, "run", "--again", run_id, "--set", "sae.k=3")
    assert done.returncode == 1
    assert "leave CONFIG and --set out" in done.stderr
