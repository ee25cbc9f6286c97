"""The questions of docs/sql.md, for any run: `questions.md` here is that page."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import NamedTuple

PAGE = Path(__file__).parent / "questions.md"
RUN = "layer-9"
OTHERS = ("layer-9-seed-1", "layer-5")
LABELS = ("sports", "tech")
"""What the page calls the run that it asks about, runs beside it, and two of its labels."""

_ASKED = re.compile(
    r"^(?:## (?P<part>[^\n]+)|### (?P<number>\d+)\. (?P<title>[^\n]+)\n(?:(?!###).)*?"
    r"```sql\n(?P<query>.*?)\n```)$",
    re.DOTALL | re.MULTILINE,
)
_VARIABLE = re.compile(r"getvariable\('(\w+)'\)")
_NAME = re.compile(r"'([^'\n]+)'")


class Question(NamedTuple):
    """One of them. part: the heading that it stands under."""

    number: int
    title: str
    part: str
    query: str


@cache
def questions() -> tuple[Question, ...]:
    """All of them, in order."""
    found, part = [], ""
    for one in _ASKED.finditer(PAGE.read_text(encoding="utf-8")):
        if one["part"]:
            part = one["part"]
        else:
            found.append(Question(int(one["number"]), one["title"], part, one["query"]))
    return tuple(found)


def asked_of(query: str, names: Mapping[str, str], latents: Mapping[str, int]) -> str:
    """A question put to another run. names: what is said for a name of the page's; latents: the
    number for a variable of it."""

    def named(found: re.Match[str]) -> str:
        name = names.get(found[1], found[1])
        return "'" + (name.replace("'", "''") if found[1] in names else name) + "'"

    with_numbers = _VARIABLE.sub(lambda one: str(latents.get(one[1], 0)), query)
    return _NAME.sub(named, with_numbers)
