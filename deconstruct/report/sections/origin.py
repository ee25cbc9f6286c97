"""The worst of it in context, and where all of it comes from."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from deconstruct.common.showing import quoted
from deconstruct.report.chart import Missing
from deconstruct.report.sections.look import Found, Look

WORST = 20

_WORST = "FROM worst_tokens($run_id, n := $n)"
_TOKENS = """
SELECT token, n, relative_error, share_of_error FROM error_by_token($run_id)
ORDER BY share_of_error DESC, token LIMIT $n
"""
_STAGES = """
SELECT stage, version, cached, seconds, "rows" AS n, bytes / 1e6 AS mb, key FROM stages
WHERE run_id = $run_id ORDER BY ordinal
"""


def worst(look: Look) -> Found:
    """Tokens whose activations come back worst."""
    rows = look.records(_WORST, n=WORST)
    if not rows:
        raise Missing("This run has no errors of single tokens.")
    return {
        "rows": rows,
        "tokens": look.records(_TOKENS, n=WORST),
        "figures": look.figures("positions"),
    }


def provenance(look: Look) -> Found:
    """What made what, in how long, of which settings, and how to do it again."""
    run = look.run
    told = json.loads(run["software"] or "{}")
    software = told if isinstance(told, dict) else {}
    return {
        "stages": look.records(_STAGES),
        "software": software,
        "config": "\n".join(toml(json.loads(run["last_config"]))),
        "commands": [
            f"deconstruct run --again {quoted(look.run_id)}",
            f"deconstruct show {quoted(look.run_id)}",
            "deconstruct explore",
            f"deconstruct report {quoted(look.run_id)} --figures figures",
        ],
    }


def toml(table: Mapping[str, Any], name: str = "", head: str = "[{}]") -> Iterator[str]:
    """Lines of TOML of a configuration as JSON has it: nulls, which TOML lacks, are left out.

    name: of the table; empty for the outermost. head: how its name is written.
    """
    plain = {key: value for key, value in table.items() if _plain(value)}
    if name and (plain or head != "[{}]"):
        yield from ("", head.format(name))
    for key, value in plain.items():
        yield f"{key} = {_value(value)}"
    for key, value in table.items():
        below = f"{name}.{key}" if name else key
        if _nested(value):
            yield from toml(value, below)
        elif isinstance(value, list) and not _plain(value):
            for one in value:
                yield from toml(one, below, "[[{}]]")


def _nested(value: Any) -> bool:
    return isinstance(value, Mapping)


def _plain(value: Any) -> bool:
    if isinstance(value, list):
        return not any(map(_nested, value))
    return value is not None and not _nested(value)


def _value(value: Any) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(map(_value, value)) + "]"
    if isinstance(value, float):
        return repr(value)
    # JSON's text is a basic string of TOML, but for a character that TOML wants spelled out.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
