"""Numbers have bounds everywhere: in files, overrides, sweeps, parameters and options."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from typer.testing import CliRunner

from deconstruct.common.errors import ConfigError
from deconstruct.config import RunConfig, load
from deconstruct.config.sweep import SweepRun, load_sweep
from flows.cli import app

FAR = ("inf", "-inf", "nan", "1e20", "-1e20", "1e300", "100000000000000000000",
       "-9223372036854775809", "18446744073709551616", "[]", "[[]]", "[inf]",
       "1979-05-27", "{}")  # fmt: skip
"""What no number may be, as TOML writes it."""
FAR_FLOATS = ("inf", "-inf", "nan", "1e20", "-1e20", "1e300")


def numbers(model: Any) -> Iterator[tuple[str, str]]:
    """Every field of a configuration that holds a number or several, and its annotation."""
    for stage, section in model.model_fields.items():
        for name, field in getattr(section.annotation, "model_fields", {}).items():
            kind = str(field.annotation)
            if "int" in kind.replace("hint", "") or "float" in kind.replace("'float32'", ""):
                yield f"{stage}.{name}", kind


FIELDS = [*numbers(RunConfig)]


def test_the_fields_are_found() -> None:
    names = {name for name, _ in FIELDS}
    assert {"sae.seed", "sae.penalty", "probe.ks", "gates.max_fvu", "corpus.limit"} <= names
    assert len(names) > 35


@pytest.mark.parametrize("value", FAR)
@pytest.mark.parametrize(("field", "kind"), FIELDS, ids=[name for name, _ in FIELDS])
def test_a_field_refuses(field: str, kind: str, value: str) -> None:
    if "tuple" in kind and value == "[]":  # none: a list may be empty
        load(None, [f"{field}=[]"])
        return
    if "tuple" in kind and not value.startswith("["):
        value = f"[{value}]"
    with pytest.raises(ConfigError, match=rf"{field}") as caught:
        load(None, [f"{field}={value}"])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("field", "kind"), FIELDS, ids=[name for name, _ in FIELDS])
def test_a_count_is_bounded_below_what_64_bits_hold(field: str, kind: str) -> None:
    """But for seeds, which may be any number that scikit-learn, NumPy and torch take."""
    largest = 2**63 - 1
    if "float" in kind or (field.endswith("seed") and field[:5] not in ("probe", "clust")):
        return
    value = f"[{largest}]" if "tuple" in kind else str(largest)
    with pytest.raises(ConfigError, match=rf"{field}|prefixes|k = "):
        load(None, [f"{field}={value}"])


def test_seeds_of_64_bits_are_taken_and_no_longer() -> None:
    assert load(None, [f"sae.seed={2**63 - 1}"]).sae.seed == 2**63 - 1
    with pytest.raises(ConfigError, match=r"sae\.seed: it does not fit into 64 bits"):
        load(None, [f"sae.seed={2**63}"])
    with pytest.raises(ConfigError, match=r"cluster\.seed: .*4294967295"):
        load(None, [f"cluster.seed={2**32}"])


@pytest.mark.parametrize("value", FAR_FLOATS)
@pytest.mark.parametrize("field", [name for name, _ in numbers(SweepRun) if "sweep" in name])
def test_a_sweep_refuses(field: str, value: str, tmp_path: Path) -> None:
    file = tmp_path / "sweep.toml"
    file.write_text(f'[sae]\narchitecture = "relu"\n[sweep]\n{field.split(".")[1]} = [{value}]\n')
    with pytest.raises(ConfigError):
        load_sweep(file)


def test_a_sweep_of_too_many_is_said_at_once(tmp_path: Path) -> None:
    file = tmp_path / "sweep.toml"
    many = list(range(1, 1001))
    file.write_text(f"[sweep]\nseed = {many}\nk = {many}\nd_sae = {[1000 + n for n in many]}\n")
    with pytest.raises(ConfigError, match="1000000000 members are more than 10000"):
        load_sweep(file)


@pytest.mark.parametrize("field", ["corpus.source", "model.name", "name", "corpus.text_column"])
@pytest.mark.parametrize("value", ['"a\\u0000b"', "caf\udce9"])
def test_what_is_no_text_is_refused(field: str, value: str) -> None:
    with pytest.raises(ConfigError, match=field) as caught:
        load(None, [f"{field}={value}"])
    str(caught.value).encode()


@pytest.mark.parametrize("workers", [0, -1, 1025, 10**6, 10**20, math.inf, "many"])
def test_workers_are_bounded(workers: Any) -> None:
    from tasks.spread import Spread

    with pytest.raises(ValidationError):
        Spread(workers=workers)


@pytest.mark.parametrize(
    "arguments",
    [
        ("run", "--workers", "1000000"), ("run", "--workers", "-1"), ("run", "--workers", "inf"),
        ("sweep", "x.toml", "--workers", "1e3"), ("serve", "--port", "65536"),
        ("runs", "--rows", str(10**20)), ("runs", "--rows", "0"),
        ("latent", "latest", str(10**20)), ("latent", "latest", "--", "-1"),
        ("latent", "latest", "1", "--contexts", str(10**20)),
        ("latent", "latest", "1", "--width", str(10**20)),
        ("sql", "SELECT 1", "--rows", str(10**20)),
        ("gc", "--unused-hours", "inf"), ("gc", "--unused-hours", "nan"),
        ("gc", "--unused-hours", "1e20"), ("gc", "--unused-hours", "-1"),
    ],
    ids=" ".join,
)  # fmt: skip
def test_options_are_bounded(arguments: tuple[str, ...], tmp_path: Path) -> None:
    done = CliRunner().invoke(app, [*arguments, "--home", str(tmp_path)][:None])
    assert done.exit_code == 2, done.output


@pytest.mark.parametrize(
    "device",
    ["mars", "", "CPU", "cuda:", "cuda:-1", "cuda:99", "cuda:99999999999999999999", "cuda:٣", "mps",
     "meta", "cpu:0", " cpu", "cuda:0\n"],
)  # fmt: skip
def test_a_device_that_is_not_here_is_refused_before_anything(device: str) -> None:
    from flows.preflight import check_device

    with pytest.raises(ConfigError, match=r"there is no device .* here; choose auto, cpu or cuda"):
        check_device(device)
